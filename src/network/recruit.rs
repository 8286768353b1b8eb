//! A process that is no child of ours, and known by its pidfd before it does anything.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use palisade_sys::{FD_CONTROL, Fd, Program, Step};

use crate::error::{Error, Result};
use crate::guard::post_one;
use crate::newborn::Helper;
use crate::spawner::Bench;
use crate::sys;

/// A process that is no child of ours and waits for its start; dropped before that, it ends.
#[derive(Debug)]
pub(super) struct Recruit {
    helper: Helper,
    pidfd: OwnedFd,
}

impl Recruit {
    /// Starts one that will do `duty`.
    pub(super) fn new(
        passed: &[OwnedFd],
        bench: &mut Bench,
        duty: impl FnOnce(&mut Program),
    ) -> Result<Self> {
        let failed = |call: &'static str| move |error: io::Error| Error::call(Step::Supervise, call, &error);
        let (helper, sender) = post_one(passed, bench, |p| {
            let byte = p.room(1);
            p.read_exact(Fd::number(FD_CONTROL), byte);
            duty(p);
        })?;
        let pid = sender.ok_or_else(|| failed("SO_PASSCRED")(io::ErrorKind::NotFound.into()))?;
        // It waits, so the number is its own.
        let pidfd = sys::pidfd_open(pid).map_err(failed("pidfd_open"))?;
        Ok(Self { helper, pidfd })
    }

    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Lets it go on; the pidfd is what stays of it here.
    pub(super) fn go(mut self) -> Result<OwnedFd> {
        let sent = self.helper.control.write_all(b"g");
        sent.map_err(|error| Error::call(Step::Supervise, "write to the helper", &error))?;
        self.helper.finish()?;
        Ok(self.pidfd)
    }
}
