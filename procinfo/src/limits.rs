use std::fmt;

use crate::Error;
use crate::bytes::{lines, words};

/// `/proc/PID/limits`: the resource limits of a process, see
/// [getrlimit(2)](https://man7.org/linux/man-pages/man2/getrlimit.2.html).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    values: [Option<Limit>; Resource::ALL.len()],
}

/// A soft and a hard limit in the resource's unit. `None` is "unlimited".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limit {
    /// What the kernel enforces.
    pub soft: Option<u64>,
    /// How far the process may raise the soft limit by itself.
    pub hard: Option<u64>,
}

/// The sixteen resources, in the kernel's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Resource {
    /// `RLIMIT_CPU`, seconds.
    Cpu,
    /// `RLIMIT_FSIZE`, bytes.
    FileSize,
    /// `RLIMIT_DATA`, bytes.
    Data,
    /// `RLIMIT_STACK`, bytes.
    Stack,
    /// `RLIMIT_CORE`, bytes.
    Core,
    /// `RLIMIT_RSS`, bytes; not enforced since Linux 2.6.
    ResidentSet,
    /// `RLIMIT_NPROC`, threads of the real user id within the user namespace.
    Processes,
    /// `RLIMIT_NOFILE`: one more than the highest descriptor number.
    OpenFiles,
    /// `RLIMIT_MEMLOCK`, bytes.
    LockedMemory,
    /// `RLIMIT_AS`, bytes.
    AddressSpace,
    /// `RLIMIT_LOCKS`; not enforced since Linux 2.6.
    FileLocks,
    /// `RLIMIT_SIGPENDING`, signals.
    PendingSignals,
    /// `RLIMIT_MSGQUEUE`, bytes.
    MessageQueues,
    /// `RLIMIT_NICE`: 20 minus the lowest nice value.
    Nice,
    /// `RLIMIT_RTPRIO`.
    RealtimePriority,
    /// `RLIMIT_RTTIME`, microseconds.
    RealtimeTimeout,
}

impl Resource {
    /// All of them, in the kernel's order (its numbering differs, the file's order is this).
    pub const ALL: [Self; 16] = [
        Self::Cpu,
        Self::FileSize,
        Self::Data,
        Self::Stack,
        Self::Core,
        Self::ResidentSet,
        Self::Processes,
        Self::OpenFiles,
        Self::LockedMemory,
        Self::AddressSpace,
        Self::FileLocks,
        Self::PendingSignals,
        Self::MessageQueues,
        Self::Nice,
        Self::RealtimePriority,
        Self::RealtimeTimeout,
    ];

    /// The words that begin its line.
    pub fn label(self) -> &'static str {
        match self {
            Self::Cpu => "Max cpu time",
            Self::FileSize => "Max file size",
            Self::Data => "Max data size",
            Self::Stack => "Max stack size",
            Self::Core => "Max core file size",
            Self::ResidentSet => "Max resident set",
            Self::Processes => "Max processes",
            Self::OpenFiles => "Max open files",
            Self::LockedMemory => "Max locked memory",
            Self::AddressSpace => "Max address space",
            Self::FileLocks => "Max file locks",
            Self::PendingSignals => "Max pending signals",
            Self::MessageQueues => "Max msgqueue size",
            Self::Nice => "Max nice priority",
            Self::RealtimePriority => "Max realtime priority",
            Self::RealtimeTimeout => "Max realtime timeout",
        }
    }
}

impl Limits {
    /// Reads the text of a `limits` file. Lines of resources that this crate does not know are passed over.
    ///
    /// # Errors
    /// [`Malformed`](crate::ErrorKind::Malformed) for a line that it knows and cannot read.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let mut limits = Self::default();
        for (at, line) in lines("limits", text).skip(1) {
            let known = Resource::ALL.into_iter().zip(&mut limits.values).find_map(|(r, slot)| {
                // The label is followed by blanks, else "Max file" would begin "Max file size".
                let rest = line.strip_prefix(r.label().as_bytes())?;
                rest.starts_with(b" ").then_some((rest, slot))
            });
            if let Some((rest, slot)) = known {
                let mut w = words(rest);
                let mut value = |field| match at.next(field, &mut w)? {
                    b"unlimited" => Ok(None),
                    n => at.num(field, n).map(Some),
                };
                *slot = Some(Limit { soft: value("soft limit")?, hard: value("hard limit")? });
            }
        }
        Ok(limits)
    }

    /// The limit of one resource; `None` if the file had no such line.
    pub fn get(&self, resource: Resource) -> Option<Limit> {
        self.iter().find(|(r, _)| *r == resource).map(|(_, l)| l)
    }

    /// Every limit that the file had.
    pub fn iter(&self) -> impl Iterator<Item = (Resource, Limit)> + '_ {
        Resource::ALL.into_iter().zip(&self.values).filter_map(|(r, l)| l.map(|l| (r, l)))
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |f: &mut fmt::Formatter<'_>, v: Option<u64>| match v {
            Some(n) => write!(f, "{n}"),
            None => f.write_str("unlimited"),
        };
        show(f, self.soft)?;
        f.write_str(":")?;
        show(f, self.hard)
    }
}
