//! The eight kinds of namespaces, and sets of them.

use std::fmt;
use std::ops::{BitOr, BitOrAssign};
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};

/// One kind of namespace. `Display` and `FromStr` use its name below `/proc/PID/ns`: `mnt`, `uts`, `ipc`, `user`,
/// `pid`, `net`, `cgroup`, `time`; `FromStr` also takes the name of the flag, `CLONE_NEWNS`.
///
/// [namespaces(7)](https://man7.org/linux/man-pages/man7/namespaces.7.html)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Namespace {
    /// Mounts, and with them the view of files. Linux 2.4.19.
    #[doc(alias = "CLONE_NEWNS")]
    Mount,
    /// Host and domain name. Linux 2.6.19.
    #[doc(alias = "CLONE_NEWUTS")]
    Uts,
    /// System V IPC objects, and POSIX message queues. `/dev/mqueue` shows the queues of the namespace in which it
    /// was mounted; POSIX shared memory is files in `/dev/shm` and follows the mounts instead. Linux 2.6.19.
    #[doc(alias = "CLONE_NEWIPC")]
    Ipc,
    /// User and group ids, capabilities, keys; owner of namespaces of the other kinds. Linux 3.8.
    #[doc(alias = "CLONE_NEWUSER")]
    User,
    /// Process ids. Only children of who makes or joins one are in it. Linux 2.6.24.
    #[doc(alias = "CLONE_NEWPID")]
    Pid,
    /// Network devices, addresses, routes, ports, abstract unix sockets. Linux 2.6.29.
    #[doc(alias = "CLONE_NEWNET")]
    Net,
    /// The root of what `/proc/PID/cgroup` and a cgroup mount show: the maker's own cgroup. Linux 4.6.
    #[doc(alias = "CLONE_NEWCGROUP")]
    Cgroup,
    /// Offsets of the clocks since boot. Linux 5.6.
    #[doc(alias = "CLONE_NEWTIME")]
    Time,
}

impl Namespace {
    /// All kinds.
    pub const ALL: [Self; 8] =
        [Self::Mount, Self::Uts, Self::Ipc, Self::User, Self::Pid, Self::Net, Self::Cgroup, Self::Time];

    /// The kind's name and its file below `/proc/PID/ns`: `mnt` for mounts.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mount => "mnt",
            Self::Uts => "uts",
            Self::Ipc => "ipc",
            Self::User => "user",
            Self::Pid => "pid",
            Self::Net => "net",
            Self::Cgroup => "cgroup",
            Self::Time => "time",
        }
    }

    /// The file below `/proc/PID/ns` of the namespace that the process's next children will be in, for the two kinds
    /// that a process cannot always enter itself.
    pub const fn children_file(self) -> Option<&'static str> {
        match self {
            Self::Pid => Some("pid_for_children"),
            Self::Time => Some("time_for_children"),
            _ => None,
        }
    }

    /// The name of its flag: `CLONE_NEWNS` for mounts.
    pub const fn flag_name(self) -> &'static str {
        match self {
            Self::Mount => "CLONE_NEWNS",
            Self::Uts => "CLONE_NEWUTS",
            Self::Ipc => "CLONE_NEWIPC",
            Self::User => "CLONE_NEWUSER",
            Self::Pid => "CLONE_NEWPID",
            Self::Net => "CLONE_NEWNET",
            Self::Cgroup => "CLONE_NEWCGROUP",
            Self::Time => "CLONE_NEWTIME",
        }
    }

    /// Its `CLONE_NEW*` bit. The bit of [`Namespace::Time`] means something else to clone(2); clone3(2), unshare(2)
    /// and setns(2) know it.
    pub const fn bit(self) -> u64 {
        let flag = match self {
            Self::Mount => libc::CLONE_NEWNS,
            Self::Uts => libc::CLONE_NEWUTS,
            Self::Ipc => libc::CLONE_NEWIPC,
            Self::User => libc::CLONE_NEWUSER,
            Self::Pid => libc::CLONE_NEWPID,
            Self::Net => libc::CLONE_NEWNET,
            Self::Cgroup => libc::CLONE_NEWCGROUP,
            Self::Time => libc::CLONE_NEWTIME,
        };
        flag as u64
    }

    /// The first kernel that has it: major, minor and patch version.
    pub const fn since(self) -> (u8, u8, u8) {
        match self {
            Self::Mount => (2, 4, 19),
            Self::Uts | Self::Ipc => (2, 6, 19),
            Self::Pid => (2, 6, 24),
            Self::Net => (2, 6, 29),
            Self::User => (3, 8, 0),
            Self::Cgroup => (4, 6, 0),
            Self::Time => (5, 6, 0),
        }
    }

    /// Whether the running kernel has it, as `/proc/self/ns` tells. Whether the caller may make one is another
    /// question: see [`Namespace::limit`] and the error of making it.
    ///
    /// # Errors
    /// [`ErrorKind::NoProc`] where no proc file system is mounted on `/proc`.
    pub fn available(self) -> Result<bool> {
        let dir = std::path::Path::new("/proc/self/ns");
        match dir.join(self.name()).symlink_metadata() {
            Ok(_) => Ok(true),
            Err(_) if dir.is_dir() => Ok(false),
            Err(e) => Err(Error::io(&e, "looking for /proc/self/ns").kind_is(ErrorKind::NoProc)),
        }
    }

    fn of_bit(bit: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.bit() == bit)
    }

    pub(crate) fn of_flag(flag: i32) -> Option<Self> {
        u64::try_from(flag).ok().and_then(Self::of_bit)
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Namespace {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == text || kind.flag_name() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::new(
                ErrorKind::Syntax,
                format!("no kind of namespace is called {text:?}: there are {names}"),
            )
        })
    }
}

/// A set of kinds of namespaces. It holds nothing but those, so it can be given to unshare(2) safely: flags like
/// `CLONE_FILES`, which would take descriptors away from under their owners, do not fit in.
///
/// ```
/// use palisade_ns::{Namespace, Namespaces};
///
/// const WANTED: Namespaces = Namespaces::EMPTY.with(Namespace::Pid).with(Namespace::Net);
/// assert_eq!(WANTED, Namespace::Pid | Namespace::Net);
/// assert_eq!(WANTED.to_string(), "pid,net");
/// assert_eq!("net|CLONE_NEWPID".parse::<Namespaces>()?, WANTED);
/// # Ok::<(), palisade_ns::Error>(())
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Namespaces(u8);

impl Namespaces {
    /// None of them.
    pub const EMPTY: Self = Self(0);
    /// All eight.
    pub const ALL: Self = Self(u8::MAX);

    /// This set and `kind`.
    #[must_use]
    pub const fn with(self, kind: Namespace) -> Self {
        Self(self.0 | 1 << kind as u8)
    }

    /// This set except `kind`.
    #[must_use]
    pub const fn without(self, kind: Namespace) -> Self {
        Self(self.0 & !(1 << kind as u8))
    }

    /// Kinds that are in either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Kinds that are in both sets.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Kinds of this set that are not in the other.
    #[must_use]
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether `kind` is in it.
    pub const fn contains(self, kind: Namespace) -> bool {
        self.0 & 1 << kind as u8 != 0
    }

    /// Whether it holds nothing.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many kinds it holds.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Its kinds, in the order of [`Namespace::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Namespace> {
        Namespace::ALL.into_iter().filter(move |&kind| self.contains(kind))
    }

    /// Its `CLONE_NEW*` bits, as clone3(2) takes them.
    pub const fn bits(self) -> u64 {
        let mut bits = 0;
        let mut n = 0;
        while n < Namespace::ALL.len() {
            if self.contains(Namespace::ALL[n]) {
                bits |= Namespace::ALL[n].bit();
            }
            n += 1;
        }
        bits
    }

    /// The bits as unshare(2) and setns(2) take them. All are below bit 31.
    pub(crate) const fn flags(self) -> i32 {
        self.bits() as i32
    }
}

impl TryFrom<u64> for Namespaces {
    type Error = Error;

    /// Reads `CLONE_NEW*` bits; any other bit is an error.
    fn try_from(bits: u64) -> Result<Self> {
        let set: Self = Namespace::ALL.into_iter().filter(|kind| bits & kind.bit() != 0).collect();
        match bits & !set.bits() {
            0 => Ok(set),
            rest => Err(Error::new(ErrorKind::Syntax, format!("{rest:#x} are not flags of namespaces"))),
        }
    }
}

impl From<Namespace> for Namespaces {
    fn from(kind: Namespace) -> Self {
        Self::EMPTY.with(kind)
    }
}

impl FromIterator<Namespace> for Namespaces {
    fn from_iter<I: IntoIterator<Item = Namespace>>(kinds: I) -> Self {
        kinds.into_iter().fold(Self::EMPTY, Self::with)
    }
}

impl Extend<Namespace> for Namespaces {
    fn extend<I: IntoIterator<Item = Namespace>>(&mut self, kinds: I) {
        *self |= kinds.into_iter().collect::<Self>();
    }
}

impl<T: Into<Self>> BitOr<T> for Namespaces {
    type Output = Self;

    fn bitor(self, other: T) -> Self {
        self.union(other.into())
    }
}

impl<T: Into<Self>> BitOrAssign<T> for Namespaces {
    fn bitor_assign(&mut self, other: T) {
        *self = *self | other;
    }
}

impl<T: Into<Namespaces>> BitOr<T> for Namespace {
    type Output = Namespaces;

    fn bitor(self, other: T) -> Namespaces {
        Namespaces::from(self).union(other.into())
    }
}

impl fmt::Display for Namespaces {
    /// Names with commas between: `mnt,pid`; `none` for the empty set.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.iter().map(Namespace::name).collect();
        f.pad(&if names.is_empty() { "none".to_owned() } else { names.join(",") })
    }
}

impl fmt::Debug for Namespaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Namespaces({self})")
    }
}

impl FromStr for Namespaces {
    type Err = Error;

    /// Names of kinds or flags with `,` or `|` between them, or `none`.
    fn from_str(text: &str) -> Result<Self> {
        if text == "none" {
            return Ok(Self::EMPTY);
        }
        text.split([',', '|']).map(str::parse).collect()
    }
}
