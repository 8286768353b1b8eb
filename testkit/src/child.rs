//! Irreversible calls run in a child of the test.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitStatus;
use std::sync::Mutex;

use crate::sys;

/// How a child of [`try_in_child`] ended.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit status; 0 when the closure returned, 101 when it panicked.
    pub status: ExitStatus,
    /// Message and place of what panicked in it, if it failed.
    pub panic: Option<String>,
}

/// Runs `body` in a forked child, so that what it does to its process ends with it.
///
/// # Panics
///
/// If the closure panics (with its message), calls `exit` with another code than 0, or dies of a signal.
#[track_caller]
pub fn in_child(body: impl FnOnce()) {
    match try_in_child(body) {
        Outcome { panic: Some(message), .. } => panic!("in the child: {message}"),
        Outcome { status, .. } if !status.success() => panic!("the child ended with {status}"),
        Outcome { .. } => {}
    }
}

/// [`in_child`] for a child that is expected to fail: gives back how it ended.
///
/// # Panics
///
/// If the child cannot be made or waited for.
#[track_caller]
pub fn try_in_child(body: impl FnOnce()) -> Outcome {
    let forked = sys::fork_with_pipe(|report| {
        let report = Mutex::new(report);
        panic::set_hook(Box::new(move |info| {
            // The parent shows the exit status if this cannot be written.
            if let Ok(mut report) = report.lock() {
                drop(writeln!(report, "{info}"));
            }
        }));
        if panic::catch_unwind(AssertUnwindSafe(body)).is_ok() { 0 } else { 101 }
    });
    let (pid, mut report) = match forked {
        Ok(forked) => forked,
        Err(error) => panic!("fork: {error}"),
    };
    let mut message = Vec::new();
    if let Err(error) = report.read_to_end(&mut message) {
        panic!("reading the child's report: {error}");
    }
    let status = match sys::wait(pid) {
        Ok(Some(status)) => status,
        Ok(None) => panic!("the child's status is lost: is SIGCHLD ignored?"),
        Err(error) => panic!("waitpid: {error}"),
    };
    // A panic that the closure caught itself is no news.
    let panicked = !status.success() && !message.is_empty();
    let panic = panicked.then(|| String::from_utf8_lossy(&message).trim_end().to_owned());
    Outcome { status, panic }
}

/// A child of [`fork`]. Dropped, it is killed and waited for.
#[derive(Debug)]
pub struct Forked {
    pid: libc::pid_t,
    pipe: File,
    ended: bool,
}

/// Runs `body` in a forked child, which ends with the code that it returns. What it writes to its pipe is read from
/// [`Forked::pipe`].
///
/// # Errors
///
/// When the process cannot be made.
pub fn fork(body: impl FnOnce(File) -> i32) -> io::Result<Forked> {
    let (pid, pipe) = sys::fork_with_pipe(body)?;
    Ok(Forked { pid, pipe, ended: false })
}

impl Forked {
    /// Its pid, in the pid namespace of the caller.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.unsigned_abs()
    }

    /// What it tells.
    pub fn pipe(&mut self) -> &mut File {
        &mut self.pipe
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// When its status is lost, because SIGCHLD is ignored.
    pub fn wait(mut self) -> io::Result<ExitStatus> {
        self.ended = true;
        sys::wait(self.pid)?.ok_or_else(|| io::Error::other("the child's status is lost"))
    }
}

impl Drop for Forked {
    fn drop(&mut self) {
        if !self.ended {
            // It is still ours to wait for, so the number cannot belong to anybody else.
            sys::kill(self.pid);
            drop(sys::wait(self.pid));
        }
    }
}
