//! How a payload ended, and what it used.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

/// How a payload ended: its wait status, why, and what it used. It is never about set-up, whose failures are an
/// [`Error`](crate::Error) of `spawn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitStatus {
    pub(crate) raw: i32,
    pub(crate) cause: ExitCause,
    pub(crate) usage: Option<ResourceUsage>,
}

/// Why a payload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExitCause {
    /// It exited with this code.
    Exited(i32),
    /// A signal ended it.
    Signaled(i32),
    /// The kernel killed it, or a process of its cgroup, for want of memory. Known only with a cgroup of its own.
    OutOfMemory,
    /// It ran into [`Command::timeout`](crate::Command::timeout), and was killed.
    TimedOut,
    /// It wrote more than [`Command::output_limit`](crate::Command::output_limit), and was killed.
    OutputLimit,
}

/// What a payload and the descendants that it waited for used, as
/// [getrusage(2)](https://man7.org/linux/man-pages/man2/getrusage.2.html) has it. The stage's own set-up of some tens
/// of microseconds is part of it, since it is the same process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResourceUsage {
    /// CPU time in user mode.
    pub user: Duration,
    /// CPU time in the kernel.
    pub system: Duration,
    /// Largest resident set, in bytes.
    pub max_rss: u64,
    /// Page faults without I/O.
    pub minor_faults: u64,
    /// Page faults with I/O.
    pub major_faults: u64,
    /// Context switches because it waited.
    pub voluntary_switches: u64,
    /// Context switches because its time was over.
    pub involuntary_switches: u64,
}

impl ExitStatus {
    /// Whether it exited with code 0.
    pub fn success(&self) -> bool {
        self.cause == ExitCause::Exited(0)
    }

    /// The exit code, if it exited.
    pub fn code(&self) -> Option<i32> {
        self.std().code()
    }

    /// The signal that ended it, whoever sent that.
    pub fn signal(&self) -> Option<i32> {
        self.std().signal()
    }

    /// Why it ended.
    pub fn cause(&self) -> ExitCause {
        self.cause
    }

    /// What it used; `None` if somebody else's `wait` took the figures.
    pub fn usage(&self) -> Option<ResourceUsage> {
        self.usage
    }

    /// What the way it ended suggests, where it suggests something.
    pub fn hint(&self) -> Option<&'static str> {
        match self.cause {
            ExitCause::Signaled(libc::SIGSYS) => Some(
                "a system call was refused by killing the process: the seccomp filter does not allow it (the kernel \
                 log names it)",
            ),
            ExitCause::Signaled(libc::SIGXCPU) => Some("RLIMIT_CPU was reached"),
            ExitCause::Signaled(libc::SIGXFSZ) => Some("RLIMIT_FSIZE was reached"),
            ExitCause::OutOfMemory => Some("memory.max of its cgroup was reached"),
            _ => None,
        }
    }

    fn std(&self) -> std::process::ExitStatus {
        std::process::ExitStatus::from_raw(self.raw)
    }

    /// A status that is known without what it cost.
    pub(crate) fn from_wait(raw: i32) -> Self {
        Self { raw, cause: Self::cause_of(raw), usage: None }
    }

    pub(crate) fn cause_of(raw: i32) -> ExitCause {
        let status = std::process::ExitStatus::from_raw(raw);
        match status.signal() {
            Some(signal) => ExitCause::Signaled(signal),
            None => ExitCause::Exited(status.code().unwrap_or(-1)),
        }
    }
}

impl From<ExitStatus> for std::process::ExitStatus {
    fn from(status: ExitStatus) -> Self {
        status.std()
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cause {
            ExitCause::Exited(_) | ExitCause::Signaled(_) => write!(f, "{}", self.std())?,
            ExitCause::OutOfMemory => write!(f, "out of memory ({})", self.std())?,
            ExitCause::TimedOut => write!(f, "timed out ({})", self.std())?,
            ExitCause::OutputLimit => write!(f, "output limit ({})", self.std())?,
        }
        self.hint().map_or(Ok(()), |hint| write!(f, "; {hint}"))
    }
}

impl ResourceUsage {
    pub(crate) fn from_raw(raw: libc::rusage) -> Self {
        let time = |t: libc::timeval| Duration::new(t.tv_sec.max(0) as u64, t.tv_usec.max(0) as u32 * 1000);
        let count = |n: libc::c_long| u64::try_from(n).unwrap_or(0);
        Self {
            user: time(raw.ru_utime),
            system: time(raw.ru_stime),
            max_rss: count(raw.ru_maxrss) * 1024,
            minor_faults: count(raw.ru_minflt),
            major_faults: count(raw.ru_majflt),
            voluntary_switches: count(raw.ru_nvcsw),
            involuntary_switches: count(raw.ru_nivcsw),
        }
    }
}
