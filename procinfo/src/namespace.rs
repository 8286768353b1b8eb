use std::fmt;
use std::str::FromStr;

use crate::{Error, ErrorKind};

/// The kinds of namespace, named as the links in `/proc/PID/ns`, see
/// [namespaces(7)](https://man7.org/linux/man-pages/man7/namespaces.7.html).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum NamespaceKind {
    /// `cgroup` (Linux 4.6).
    Cgroup,
    /// `ipc`.
    Ipc,
    /// `mnt`.
    Mnt,
    /// `net`.
    Net,
    /// `pid`.
    Pid,
    /// `pid_for_children`: where the next child goes (Linux 4.12).
    PidForChildren,
    /// `time` (Linux 5.6).
    Time,
    /// `time_for_children`: where the next child goes.
    TimeForChildren,
    /// `user`.
    User,
    /// `uts`.
    Uts,
}

impl NamespaceKind {
    /// All ten links, in the order in which `ls` shows them.
    pub const ALL: [Self; 10] = [
        Self::Cgroup,
        Self::Ipc,
        Self::Mnt,
        Self::Net,
        Self::Pid,
        Self::PidForChildren,
        Self::Time,
        Self::TimeForChildren,
        Self::User,
        Self::Uts,
    ];

    /// The kernel's name of the link.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cgroup => "cgroup",
            Self::Ipc => "ipc",
            Self::Mnt => "mnt",
            Self::Net => "net",
            Self::Pid => "pid",
            Self::PidForChildren => "pid_for_children",
            Self::Time => "time",
            Self::TimeForChildren => "time_for_children",
            Self::User => "user",
            Self::Uts => "uts",
        }
    }

    /// The kind of namespace that the link leads to: itself, but for the two `…_for_children`.
    pub fn target(self) -> Self {
        match self {
            Self::PidForChildren => Self::Pid,
            Self::TimeForChildren => Self::Time,
            kind => kind,
        }
    }
}

impl fmt::Display for NamespaceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for NamespaceKind {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self, Error> {
        let unknown = || Error::malformed("namespace", 1, "kind", s.as_bytes());
        Self::ALL.into_iter().find(|k| k.name() == s).ok_or_else(unknown)
    }
}

/// What makes a namespace the same as another: device and inode of its file. Inodes are given to later namespaces
/// again, so an id says something only while the namespace lives (a member, an open file or a mount holds it).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamespaceId {
    /// `st_dev`, as `std::os::unix::fs::MetadataExt::dev` has it.
    pub device: u64,
    /// `st_ino`: the number in `net:[4026531840]`.
    pub inode: u64,
}

/// The namespaces of a process. Each kind is asked for by itself, so each can be refused or missing by itself.
#[derive(Clone, Debug)]
pub struct Namespaces {
    pub(crate) ids: [Result<NamespaceId, Error>; NamespaceKind::ALL.len()],
}

impl Namespaces {
    /// The namespace of one kind.
    ///
    /// # Errors
    /// [`Denied`](ErrorKind::Denied) without ptrace read access to the process; [`Absent`](ErrorKind::Absent) for a
    /// zombie, or on a kernel without this kind; [`Gone`](ErrorKind::Gone).
    pub fn get(&self, kind: NamespaceKind) -> Result<NamespaceId, &Error> {
        let found = NamespaceKind::ALL.iter().zip(&self.ids).find(|(k, _)| **k == kind);
        // `ALL` holds every kind and is as long as `ids`.
        found.map_or_else(|| unreachable!("{kind} is not among all kinds"), |(_, id)| id.as_ref().copied())
    }

    /// Every kind with its namespace, in the order of [`NamespaceKind::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (NamespaceKind, Result<NamespaceId, &Error>)> + '_ {
        NamespaceKind::ALL.into_iter().zip(self.ids.iter().map(|id| id.as_ref().copied()))
    }

    /// The kinds in which the two processes are in different namespaces. A kind that either could not be asked for is
    /// in the second list instead: not known to be the same.
    pub fn differing(&self, other: &Self) -> (Vec<NamespaceKind>, Vec<NamespaceKind>) {
        let (mut differing, mut unknown) = (Vec::new(), Vec::new());
        for ((kind, a), (_, b)) in self.iter().zip(other.iter()) {
            match (a, b) {
                (Ok(a), Ok(b)) if a == b => {}
                (Ok(_), Ok(_)) => differing.push(kind),
                (Err(a), Err(b)) if a.kind() == ErrorKind::Absent && b.kind() == ErrorKind::Absent => {}
                _ => unknown.push(kind),
            }
        }
        (differing, unknown)
    }
}
