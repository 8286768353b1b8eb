//! Running prepared programs in the calling process, thread, or a child of `std::process::Command`.

use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::Arc;

use palisade_sys::{Explained, Program, Step};

use crate::error::{Error, ErrorKind, Result};
use crate::sys;

/// A program of this crate with the descriptors that it names, ready to run any number of times.
#[derive(Clone, Debug)]
pub struct Prepared {
    program: Program,
    /// What the numbers in the program mean.
    descriptors: Vec<Arc<OwnedFd>>,
}

impl Prepared {
    pub(crate) fn new(program: Program, descriptors: Vec<Arc<OwnedFd>>) -> Self {
        Self { program, descriptors }
    }

    /// Another program with the same descriptors.
    pub(crate) fn with_program(self, program: Program) -> Self {
        Self { program, ..self }
    }

    /// The system calls.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Runs it in the calling process, which must have one thread.
    ///
    /// What came before a failure has happened and stays: run it in a child where that matters.
    ///
    /// # Errors
    /// [`ErrorKind::MultiThreaded`] if the process has other threads: they would stay where they are. Otherwise the
    /// system call that failed.
    pub fn run(&self) -> Result<()> {
        if sys::is_single_threaded().map_err(|e| Error::io(&e, "unshare(CLONE_THREAD)"))? {
            return self.run_in_thread();
        }
        let hint = "do it before threads are started, in a child (pre_exec), or only for this thread (run_in_thread)";
        let what = "the process has several threads, of which only the calling one would be changed";
        Err(Error::new(ErrorKind::MultiThreaded, what).hint_is(hint))
    }

    /// Runs it in the calling thread and leaves other threads where they are. A thread that did this should do
    /// nothing else later: thread pools would hand it to others.
    ///
    /// What came before a failure has happened and stays.
    ///
    /// # Errors
    /// [`ErrorKind::MultiThreaded`] where the kernel does not do it for one thread of several: user and time
    /// namespaces, and joining a mount namespace while the current directory is shared. Otherwise the call that failed.
    pub fn run_in_thread(&self) -> Result<()> {
        let mut image = self.program.image();
        let outcome = sys::run(&mut image);
        sys::close_all(self.program.open_descriptors(&image));
        outcome.map_err(|fault| explain(&self.program.explain(fault)))
    }

    /// Has the children of `command` run it between fork and exec. `spawn` returns the errno of a call that failed.
    ///
    /// A new or joined pid namespace is entered by the children of the spawned program only, not by itself; id
    /// ranges of a new user namespace would have to be written by another process meanwhile, which std does not
    /// offer: the program runs with unmapped ids. `Command` has changed ids and directory before this.
    pub fn pre_exec<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        sys::pre_exec(command, self.program.image(), self.descriptors.clone());
        command
    }
}

/// An error with the reasons that the errno has for that call.
pub(crate) fn explain(fault: &Explained) -> Error {
    let error = Error::fault(fault);
    let user = fault.call.contains("CLONE_NEWUSER");
    match (fault.call.split('(').next().unwrap_or_default(), fault.errno) {
        ("unshare", libc::EINVAL) if user && !sys::is_single_threaded().unwrap_or(true) => error
            .kind_is(ErrorKind::MultiThreaded)
            .hint_is("a user namespace can only be made by a process with one thread"),
        ("unshare", libc::EINVAL) => error
            .kind_is(ErrorKind::Unsupported)
            .hint_is("the kernel lacks one of these kinds: see Namespace::available"),
        ("unshare", libc::EPERM) if user => error.hint_is(
            "AppArmor (kernel.apparmor_restrict_unprivileged_userns), a seccomp filter, a chroot, or an unmapped uid \
             or gid forbids user namespaces",
        ),
        ("unshare", libc::EPERM) => {
            error.hint_is("CAP_SYS_ADMIN is needed: make a user namespace in the same call")
        }
        ("unshare", libc::ENOSPC | libc::EUSERS) => error.hint_is(
            "user or pid namespaces are nested 32 deep, or a user.max_*_namespaces sysctl of this or an outer user \
             namespace is reached",
        ),
        ("setns", libc::EINVAL) if !sys::is_single_threaded().unwrap_or(true) => error
            .kind_is(ErrorKind::MultiThreaded)
            .hint_is("user and mount namespaces can only be joined by a process with one thread"),
        ("setns", libc::EINVAL) => error.hint_is(
            "a pid namespace that is not the caller's or below it, or the caller's own user namespace, cannot be joined",
        ),
        ("setns", libc::EUSERS) => error
            .kind_is(ErrorKind::MultiThreaded)
            .hint_is("a time namespace can only be entered by a process with one thread"),
        ("setns", libc::EPERM) => error.hint_is(
            "joining needs CAP_SYS_ADMIN in the user namespace that owns the namespace and in the caller's own (for \
             mount namespaces CAP_SYS_CHROOT too)",
        ),
        ("openat2", libc::EACCES) if fault.step == Step::TimeNamespace => {
            error.hint_is("the process is not dumpable, so its own /proc/self is closed to it")
        }
        ("openat2", libc::ENOENT) => error.kind_is(ErrorKind::NoProc),
        ("write", libc::ERANGE) => error
            .kind_is(ErrorKind::InvalidValue)
            .hint_is("a clock with its offset would be below zero or beyond 146 years"),
        _ => error,
    }
}
