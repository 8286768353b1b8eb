//! Entering a group as a step of a prepared set-up.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;

use nix::fcntl::OFlag;
use palisade_sys::{Fd, Program, Step};

use crate::cgroup::Cgroup;
use crate::error::Result;
use crate::sys;

/// An open `cgroup.procs`, for a process that is to move itself into the group: where it cannot be born there, as in
/// `std::process::Command` or when joining a living sandbox. The right to write was checked when it was opened, by the
/// one who opened it, so the process may have given up its own by then.
#[derive(Debug)]
pub struct Entry {
    procs: OwnedFd,
    path: PathBuf,
}

impl Entry {
    /// Adds the move to a program: one `write(2)` of `0` to `procs`, which is this descriptor by whatever number it has
    /// when the program runs.
    pub fn emit(&self, program: &mut Program, procs: impl Into<Fd>) {
        program.at(Step::Cgroup, self.path.to_string_lossy());
        program.write_all(procs, b"0");
    }
}

impl AsFd for Entry {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.procs.as_fd()
    }
}

impl Cgroup {
    /// Opens the way into this group for a process that moves itself.
    ///
    /// # Errors
    /// Where `cgroup.procs` cannot be opened for writing.
    pub fn entry(&self) -> Result<Entry> {
        let file = self.dir.file("cgroup.procs", OFlag::O_WRONLY);
        let file = file.map_err(|e| self.dir.explain("open", "cgroup.procs", e as i32))?;
        Ok(Entry { procs: file.into(), path: self.file_path("cgroup.procs") })
    }

    /// Makes every child that `command` spawns enter this group before it executes. `0` is written to
    /// `cgroup.procs` by the child itself, so no moment of the program runs outside; a failure is the error of
    /// `spawn()`.
    ///
    /// # Errors
    /// Where `cgroup.procs` cannot be opened for writing.
    pub fn confine(&self, command: &mut Command) -> Result<()> {
        let entry = self.entry()?;
        let mut program = Program::new();
        entry.emit(&mut program, Fd::number(entry.procs.as_raw_fd()));
        sys::run_before_exec(command, program.image(), entry);
        Ok(())
    }
}
