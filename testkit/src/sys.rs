//! The raw calls of the test kit.
#![expect(unsafe_code, reason = "fork and its company have no safe form in std")]

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

pub(crate) fn geteuid() -> u32 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// Forks. The child runs `body` with the write end of the pipe and ends with the code that it returns; the
/// parent gets the child's pid and the read end.
///
/// The child is a copy of a process that may have other threads, so a lock that one of them held stays held.
/// libtest's other threads only wait, and glibc repairs its allocator after fork: good enough for tests.
pub(crate) fn fork_with_pipe(body: impl FnOnce(File) -> i32) -> io::Result<(libc::pid_t, File)> {
    let mut ends = [-1; 2];
    // SAFETY: `ends` is an array of two ints, as pipe2 writes.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: pipe2 succeeded, so both are open and owned by nobody else.
    let [read, write] = ends.map(|fd| File::from(unsafe { OwnedFd::from_raw_fd(fd) }));
    // SAFETY: the child runs only `body` and ends by _exit; see above for locks of other threads.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(read);
            // SAFETY: constant arguments; the child must not outlive a test that is killed.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            let code = body(write);
            // Only a flush that fails could be reported, and there is nowhere left to report it to.
            drop(io::stdout().flush());
            // SAFETY: ends the child without running the parent's exit handlers.
            unsafe { libc::_exit(code) }
        }
        pid => Ok((pid, read)),
    }
}

/// Waits for a child of this process. `None` when its status was lost to SIGCHLD being ignored.
pub(crate) fn wait(pid: libc::pid_t) -> io::Result<Option<ExitStatus>> {
    let mut status = 0;
    loop {
        // SAFETY: `status` outlives the call.
        if unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) } == pid {
            return Ok(Some(ExitStatus::from_raw(status)));
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::ECHILD) => return Ok(None),
            _ => return Err(error),
        }
    }
}

pub(crate) fn kill(pid: libc::pid_t) {
    // SAFETY: takes numbers only; the caller's own child, not yet waited for.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

pub(crate) fn unshare_user() -> io::Result<()> {
    // SAFETY: changes only the calling process, which is a child made for this.
    if unsafe { libc::unshare(libc::CLONE_NEWUSER) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// One system call: the kernel's result, a negative errno if it failed.
///
/// For probes of what a filter answers: the caller gives numbers, or addresses that are not mapped, never what the call
/// could read or write.
#[must_use]
pub fn raw_call(number: u32, arguments: [u64; 6]) -> i64 {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: as the documentation says; what a call does to its process is the caller's intent.
    let result = unsafe { libc::syscall(i64::from(number), a, b, c, d, e, f) };
    if result == -1 { -i64::from(io::Error::last_os_error().raw_os_error().unwrap_or(0)) } else { result }
}
