//! Resource limits.

use std::fmt;
use std::io;

/// A resource that [setrlimit(2)](https://man7.org/linux/man-pages/man2/setrlimit.2.html) limits, and its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u32)]
pub enum Resource {
    /// CPU time, in seconds. At the soft limit comes SIGXCPU, at the hard one SIGKILL.
    Cpu = 0,
    /// Size of files that it writes, in bytes.
    FileSize = 1,
    /// Data segment, in bytes.
    Data = 2,
    /// Stack, in bytes.
    Stack = 3,
    /// Core files, in bytes.
    Core = 4,
    /// Processes and threads of the user (in its user namespace).
    Processes = 6,
    /// Descriptor numbers, one above the highest.
    OpenFiles = 7,
    /// Locked memory, in bytes.
    LockedMemory = 8,
    /// Address space, in bytes.
    AddressSpace = 9,
    /// Signals queued.
    PendingSignals = 11,
    /// POSIX message queues, in bytes.
    MessageQueues = 12,
    /// Ceiling of the nice value, as 20 - nice.
    Nice = 13,
    /// Ceiling of the real-time priority.
    RealtimePriority = 14,
    /// CPU time without a blocking call under real-time scheduling, in microseconds.
    RealtimeTime = 15,
}

impl Resource {
    /// No limit.
    pub const INFINITY: u64 = u64::MAX;

    pub(crate) fn raw(self) -> u32 {
        self as u32
    }

    /// The calling process's soft and hard limit.
    pub(crate) fn current(self) -> io::Result<(u64, u64)> {
        crate::sys::getrlimit(self.raw())
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "RLIMIT_CPU",
            Self::FileSize => "RLIMIT_FSIZE",
            Self::Data => "RLIMIT_DATA",
            Self::Stack => "RLIMIT_STACK",
            Self::Core => "RLIMIT_CORE",
            Self::Processes => "RLIMIT_NPROC",
            Self::OpenFiles => "RLIMIT_NOFILE",
            Self::LockedMemory => "RLIMIT_MEMLOCK",
            Self::AddressSpace => "RLIMIT_AS",
            Self::PendingSignals => "RLIMIT_SIGPENDING",
            Self::MessageQueues => "RLIMIT_MSGQUEUE",
            Self::Nice => "RLIMIT_NICE",
            Self::RealtimePriority => "RLIMIT_RTPRIO",
            Self::RealtimeTime => "RLIMIT_RTTIME",
        })
    }
}
