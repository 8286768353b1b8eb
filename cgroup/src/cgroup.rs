//! A handle to a group: opening, looking around, moving processes in.

use std::ffi::OsStr;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::controller::{Controllers, FileName};
use crate::dir::{Dir, check_name};
use crate::error::{Error, ErrorKind, Result};
use crate::hierarchy::{Mounts, locate, parse_membership, read_proc};
use crate::keyed::utf8;
use crate::value::number;

/// A group of the v2 hierarchy, held by an open directory: it stays the same group whatever happens to its path.
///
/// The handle owns nothing: dropping it leaves the group as it is. A group that this process makes is an
/// [`OwnedCgroup`](crate::OwnedCgroup), which dereferences to this type and is removed when dropped.
///
/// [`AsFd`] gives the directory, as `clone3(2)` wants it with `CLONE_INTO_CGROUP` (5.7): a process born that way never
/// runs outside of its limits.
///
/// Kernel documentation: <https://docs.kernel.org/admin-guide/cgroup-v2.html>
#[derive(Clone, Debug)]
pub struct Cgroup {
    pub(crate) dir: Dir,
}

/// What a group may hold: `cgroup.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The root of the hierarchy, which has no such file.
    Root,
    /// An ordinary group of processes.
    Domain,
    /// A domain whose groups below are threaded.
    DomainThreaded,
    /// Made below a threaded domain and not yet threaded: nothing can enter.
    DomainInvalid,
    /// A group of threads.
    Threaded,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Root => "root",
            Kind::Domain => "domain",
            Kind::DomainThreaded => "domain threaded",
            Kind::DomainInvalid => "domain invalid",
            Kind::Threaded => "threaded",
        })
    }
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(s: &str) -> Result<Kind> {
        match s {
            "domain" => Ok(Kind::Domain),
            "domain threaded" => Ok(Kind::DomainThreaded),
            "domain invalid" => Ok(Kind::DomainInvalid),
            "threaded" => Ok(Kind::Threaded),
            _ => Err(Error::parse("cgroup.type", s.as_bytes())),
        }
    }
}

impl Cgroup {
    /// Opens the directory of a group on a cgroup2 mount.
    ///
    /// # Errors
    /// [`Gone`](ErrorKind::Gone) if it does not exist, [`Absent`](ErrorKind::Absent) if it is no cgroup2 directory (a
    /// v1 directory is none).
    pub fn open(path: impl AsRef<Path>) -> Result<Cgroup> {
        Dir::open(path.as_ref()).map(|dir| Cgroup { dir })
    }

    /// Takes an open directory of a cgroup2 mount; `path` is used in messages only.
    ///
    /// # Errors
    /// [`Absent`](ErrorKind::Absent) if it is no cgroup2 directory.
    pub fn from_fd(fd: OwnedFd, path: impl AsRef<Path>) -> Result<Cgroup> {
        Dir::from_fd(fd, path.as_ref()).map(|dir| Cgroup { dir })
    }

    /// The group of the calling process.
    ///
    /// # Errors
    /// [`V1Only`](ErrorKind::V1Only) or [`Absent`](ErrorKind::Absent) where there is no v2 hierarchy;
    /// [`NotDelegated`](ErrorKind::NotDelegated) where the group cannot be seen from here.
    pub fn own() -> Result<Cgroup> {
        Cgroup::of("/proc/self/cgroup")
    }

    /// The group of a process, by its number in the caller's pid namespace.
    ///
    /// # Errors
    /// As [`Cgroup::own`]; [`System`](ErrorKind::System) if there is no such process.
    pub fn of_process(pid: u32) -> Result<Cgroup> {
        Cgroup::of(&format!("/proc/{pid}/cgroup"))
    }

    fn of(proc_file: &str) -> Result<Cgroup> {
        let (point, root) = Mounts::read()?.v2()?;
        let own = parse_membership(&read_proc(proc_file)?)?;
        Cgroup::open(locate(&point, &root, &own)?)
    }

    /// The root of the mounted hierarchy: as much of it as this process can see.
    ///
    /// # Errors
    /// As [`Cgroup::own`].
    pub fn root() -> Result<Cgroup> {
        Cgroup::open(Mounts::read()?.v2()?.0)
    }

    /// Where the group was found. The group may have been removed since.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The kernel's number of the group, which is also the inode number of its directory.
    ///
    /// # Errors
    /// A failed `fstat(2)`.
    pub fn id(&self) -> Result<u64> {
        self.dir.id()
    }

    /// The group above, or `None` at the root of the mount.
    ///
    /// # Errors
    /// [`Gone`](ErrorKind::Gone) if the group was removed.
    pub fn parent(&self) -> Result<Option<Cgroup>> {
        Ok(self.dir.parent()?.map(|dir| Cgroup { dir }))
    }

    /// Opens the group of this name right below.
    ///
    /// # Errors
    /// [`InvalidName`](ErrorKind::InvalidName), [`Gone`](ErrorKind::Gone) if there is none.
    pub fn child(&self, name: impl AsRef<OsStr>) -> Result<Cgroup> {
        check_name(name.as_ref())?;
        self.dir.child(name.as_ref()).map(|dir| Cgroup { dir })
    }

    /// The groups right below, without those that vanish meanwhile.
    ///
    /// # Errors
    /// A failed listing of the directory.
    pub fn children(&self) -> Result<Vec<Cgroup>> {
        let mut found = Vec::new();
        for name in self.dir.children()? {
            match self.dir.child(&name) {
                Ok(dir) => found.push(Cgroup { dir }),
                Err(e) if e.kind() == ErrorKind::Gone => {}
                Err(e) => return Err(e),
            }
        }
        Ok(found)
    }

    /// The controllers that this group has: `cgroup.controllers`.
    ///
    /// # Errors
    /// [`Gone`](ErrorKind::Gone) if the group was removed.
    #[doc(alias = "cgroup.controllers")]
    pub fn controllers(&self) -> Result<Controllers> {
        Controllers::parse(&self.dir.read("cgroup.controllers")?)
    }

    /// The controllers that it hands on to the groups below: `cgroup.subtree_control`.
    ///
    /// # Errors
    /// [`Gone`](ErrorKind::Gone) if the group was removed.
    #[doc(alias = "cgroup.subtree_control")]
    pub fn subtree_control(&self) -> Result<Controllers> {
        Controllers::parse(&self.dir.read("cgroup.subtree_control")?)
    }

    /// What the group may hold: `cgroup.type`.
    ///
    /// # Errors
    /// [`Gone`](ErrorKind::Gone) if the group was removed.
    #[doc(alias = "cgroup.type")]
    pub fn kind(&self) -> Result<Kind> {
        match self.dir.read("cgroup.type") {
            Ok(text) => utf8("cgroup.type", &text)?.trim_end().parse(),
            Err(e) if e.kind() == ErrorKind::Unsupported => Ok(Kind::Root),
            Err(e) => Err(e),
        }
    }

    /// The processes right inside, by their numbers in the caller's pid namespace; 0 stands for one that has none
    /// there. A number may appear twice and may be reused as soon as it is read.
    ///
    /// # Errors
    /// [`System`](ErrorKind::System) (`EOPNOTSUPP`) in a threaded group.
    #[doc(alias = "cgroup.procs")]
    pub fn procs(&self) -> Result<Vec<u32>> {
        self.numbers("cgroup.procs")
    }

    /// The threads right inside.
    ///
    /// # Errors
    /// [`Gone`](ErrorKind::Gone) if the group was removed.
    #[doc(alias = "cgroup.threads")]
    pub fn threads(&self) -> Result<Vec<u32>> {
        self.numbers("cgroup.threads")
    }

    fn numbers(&self, file: &'static str) -> Result<Vec<u32>> {
        let text = self.dir.read(file)?;
        let one = |line: &[u8]| {
            number(line)
                .and_then(|n| u32::try_from(n).ok())
                .ok_or_else(|| Error::parse(file, line).at(&self.dir.at(file)))
        };
        text.split(|c| *c == b'\n').filter(|l| !l.is_empty()).map(one).collect()
    }

    /// Moves a process with all its threads into this group. Prefer a birth in it: a move takes a lock of the whole
    /// system, and what the process used before stays counted where it was.
    ///
    /// # Errors
    /// [`Busy`](ErrorKind::Busy) where this group hands controllers on to groups below (no process may sit in it then),
    /// [`NotDelegated`](ErrorKind::NotDelegated) where the caller may not write to `cgroup.procs` here or in the common
    /// ancestor of both groups.
    pub fn add_process(&self, pid: u32) -> Result<()> {
        self.enter_by("cgroup.procs", pid)
    }

    /// Moves a thread of a process that already sits in this threaded domain.
    ///
    /// # Errors
    /// As [`Cgroup::add_process`]; `EOPNOTSUPP` outside of the thread's domain.
    pub fn add_thread(&self, tid: u32) -> Result<()> {
        self.enter_by("cgroup.threads", tid)
    }

    /// Moves the calling process into this group, with all its threads.
    ///
    /// # Errors
    /// As [`Cgroup::add_process`].
    pub fn enter(&self) -> Result<()> {
        self.enter_by("cgroup.procs", 0)
    }

    /// Moves the calling thread into this threaded group.
    ///
    /// # Errors
    /// As [`Cgroup::add_thread`].
    pub fn enter_thread(&self) -> Result<()> {
        self.enter_by("cgroup.threads", 0)
    }

    fn enter_by(&self, file: &'static str, id: u32) -> Result<()> {
        self.dir.try_write(file, &id.to_string()).map_err(|errno| {
            let e = self.dir.explain("move into the group", file, errno).value(id.to_string());
            match errno {
                libc::EBUSY => {
                    e.hint("no process may sit in a group that enables controllers for groups below it")
                }
                libc::EOPNOTSUPP => e.hint("the group is threaded, or invalid until it is made threaded"),
                libc::ESRCH => e.hint("there is no such process"),
                _ => e,
            }
        })
    }

    /// Makes the group threaded, for good: its domain is then the next group above that is not.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where domain controllers such as `memory` are enabled in the group above.
    pub fn make_threaded(&self) -> Result<()> {
        self.dir.write("cgroup.type", "threaded")
    }

    /// Whether the calling process sits in this group or below it.
    ///
    /// # Errors
    /// As [`Cgroup::own`].
    pub fn contains_caller(&self) -> Result<bool> {
        let mine = self.dir.id()?;
        let mut at = match Cgroup::own() {
            Ok(own) => Some(own.dir),
            // Not to be seen from here, so not below a group that is.
            Err(e) if matches!(e.kind(), ErrorKind::NotDelegated | ErrorKind::Gone) => None,
            Err(e) => return Err(e),
        };
        while let Some(dir) = at {
            if dir.id()? == mine {
                return Ok(true);
            }
            at = dir.parent()?;
        }
        Ok(false)
    }

    /// The content of any control file.
    ///
    /// # Errors
    /// [`ControllerMissing`](ErrorKind::ControllerMissing), [`Unsupported`](ErrorKind::Unsupported),
    /// [`Gone`](ErrorKind::Gone), each with the file.
    pub fn read_file(&self, file: &FileName) -> Result<Vec<u8>> {
        self.dir.read(file.as_str())
    }

    pub(crate) fn file_path(&self, name: &str) -> PathBuf {
        self.dir.at(name)
    }
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}
