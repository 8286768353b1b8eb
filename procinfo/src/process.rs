use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::Mode;

use crate::bytes::{At, os, trim};
use crate::error::kind_of;
use crate::root::{list_numbers, open_own, read_all};
use crate::sys::{Meta, statx};
use crate::{
    Cgroups, Confinement, Descriptor, DescriptorKind, Device, Error, ErrorKind, FdInfo, FileIdentity, IdMap,
    Limits, Mounts, NamespaceId, NamespaceKind, Namespaces, ProcRoot, Setgroups, Status,
};

/// A process (or one of its threads), held by a descriptor of its `/proc` directory.
///
/// The kernel ties that directory to the process and not to its number: once the process is reaped every read is an
/// error of kind [`Gone`](ErrorKind::Gone), and a later process with the same number is never seen through it.
/// Several reads still happen one after the other, and a living process can change between them.
///
/// Each method reads one file once, at the time of the call.
#[derive(Debug)]
pub struct Process {
    dir: OwnedFd,
    pid: u32,
    /// Set for one thread of the process.
    tid: Option<u32>,
}

impl Process {
    pub(crate) fn open(root: &ProcRoot, pid: u32) -> Result<Self, Error> {
        let dir = open_dir(root.dir(), &pid.to_string());
        let dir = dir.map_err(|e| {
            let kind = if e == Errno::ENOENT { ErrorKind::Gone } else { kind_of(e) };
            Error::call(kind, "openat", root.object(&pid.to_string()), e)
        })?;
        Ok(Self { dir, pid, tid: None })
    }

    /// Its number in the pid namespace of the proc mount that it was found in. Of a thread, its process's.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it still exists, be it as a zombie.
    pub fn exists(&self) -> bool {
        statx(self.dir.as_fd(), c"stat", false).is_ok()
    }

    /// Another handle on the same process.
    ///
    /// # Errors
    /// The errno of fcntl(2) `F_DUPFD_CLOEXEC`: no descriptor left.
    pub fn try_clone(&self) -> Result<Self, Error> {
        let dir = self.dir.try_clone().map_err(|e| {
            let errno = Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO));
            Error::call(ErrorKind::System, "fcntl", self.object(""), errno)
        })?;
        Ok(Self { dir, ..*self })
    }

    /// `status`: ids, groups, capabilities, no_new_privs, seccomp, memory, pids in nested namespaces.
    ///
    /// # Errors
    /// [`Gone`](ErrorKind::Gone), or [`Malformed`](ErrorKind::Malformed). Every reader that sees the process may read
    /// it.
    pub fn status(&self) -> Result<Status, Error> {
        self.parse("status", Status::parse)
    }

    /// `mountinfo`: the mounts that the process sees.
    ///
    /// # Errors
    /// [`Absent`](ErrorKind::Absent) for a zombie, [`Gone`](ErrorKind::Gone), [`Malformed`](ErrorKind::Malformed).
    /// Every reader that sees the process may read it.
    pub fn mountinfo(&self) -> Result<Mounts, Error> {
        self.parse("mountinfo", Mounts::parse)
    }

    /// `limits`: the resource limits.
    ///
    /// # Errors
    /// [`Gone`](ErrorKind::Gone), [`Malformed`](ErrorKind::Malformed).
    pub fn limits(&self) -> Result<Limits, Error> {
        self.parse("limits", Limits::parse)
    }

    /// `cgroup`: its place in each cgroup hierarchy, as seen from the reader's cgroup namespace.
    ///
    /// # Errors
    /// [`Gone`](ErrorKind::Gone), [`Absent`](ErrorKind::Absent) on a kernel without cgroups.
    pub fn cgroup(&self) -> Result<Cgroups, Error> {
        self.parse("cgroup", Cgroups::parse)
    }

    /// `uid_map` of its user namespace.
    ///
    /// # Errors
    /// [`Gone`](ErrorKind::Gone), [`Absent`](ErrorKind::Absent) on a kernel without user namespaces.
    pub fn uid_map(&self) -> Result<IdMap, Error> {
        self.parse("uid_map", IdMap::parse)
    }

    /// `gid_map` of its user namespace.
    ///
    /// # Errors
    /// As [`uid_map`](Process::uid_map).
    pub fn gid_map(&self) -> Result<IdMap, Error> {
        self.parse("gid_map", IdMap::parse)
    }

    /// `setgroups` of its user namespace.
    ///
    /// # Errors
    /// As [`uid_map`](Process::uid_map).
    pub fn setgroups(&self) -> Result<Setgroups, Error> {
        self.parse("setgroups", Setgroups::parse)
    }

    /// `cwd`: the working directory, from the root of the process where it lies below that. The kernel appends
    /// ` (deleted)` if it was removed, and says nothing if the *name* ends so.
    ///
    /// # Errors
    /// [`Denied`](ErrorKind::Denied) without ptrace read access; [`Absent`](ErrorKind::Absent) for a zombie;
    /// [`Gone`](ErrorKind::Gone).
    pub fn cwd(&self) -> Result<PathBuf, Error> {
        self.link("cwd").map(PathBuf::from)
    }

    /// `root`: its root directory, as seen from the *reader's* root.
    ///
    /// # Errors
    /// As [`cwd`](Process::cwd).
    pub fn root(&self) -> Result<PathBuf, Error> {
        self.link("root").map(PathBuf::from)
    }

    /// `exe`: the program that it runs.
    ///
    /// # Errors
    /// As [`cwd`](Process::cwd); [`Absent`](ErrorKind::Absent) for kernel threads too.
    pub fn exe(&self) -> Result<PathBuf, Error> {
        self.link("exe").map(PathBuf::from)
    }

    /// Device and inode of its root directory: whether two processes have the same one.
    ///
    /// # Errors
    /// As [`cwd`](Process::cwd).
    pub fn root_identity(&self) -> Result<FileIdentity, Error> {
        self.behind("root").map(identity)
    }

    /// `ns/*`: its namespaces. Kinds are asked for one by one, and each has its own answer.
    pub fn namespaces(&self) -> Namespaces {
        Namespaces { ids: NamespaceKind::ALL.map(|kind| self.namespace(kind)) }
    }

    /// `ns/KIND`: one namespace.
    ///
    /// # Errors
    /// [`Denied`](ErrorKind::Denied) without ptrace read access, [`Absent`](ErrorKind::Absent) for a zombie or on a
    /// kernel without the kind, [`Gone`](ErrorKind::Gone).
    pub fn namespace(&self, kind: NamespaceKind) -> Result<NamespaceId, Error> {
        let meta = self.behind(&format!("ns/{kind}"))?;
        Ok(NamespaceId { device: meta.dev, inode: meta.inode })
    }

    /// Opens `ns/KIND`: a handle that setns(2) takes and that keeps the namespace alive.
    ///
    /// # Errors
    /// As [`namespace`](Process::namespace).
    pub fn open_namespace(&self, kind: NamespaceKind) -> Result<OwnedFd, Error> {
        let name = format!("ns/{kind}");
        openat(&self.dir, name.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(|e| self.failed("openat", &name, e))
    }

    /// `fd/*` and `fdinfo/*`: its open descriptors, in ascending order. One that is closed while the list is made is
    /// left out.
    ///
    /// Nothing is opened and no other process is asked: a descriptor on a FUSE file of a hostile server cannot hold up
    /// the reader.
    ///
    /// # Errors
    /// [`Denied`](ErrorKind::Denied) without ptrace read access, [`Gone`](ErrorKind::Gone).
    pub fn descriptors(&self) -> Result<Vec<Descriptor>, Error> {
        let numbers =
            list_numbers(self.dir.as_fd(), c"fd").map_err(|e| self.failed("getdents64", "fd", e))?;
        let mut buf = Vec::new();
        let mut all = Vec::with_capacity(numbers.len());
        for number in numbers {
            match self.descriptor(number, &mut buf) {
                Ok(descriptor) => all.push(descriptor),
                Err(e) if e.kind() == ErrorKind::Absent => {} // closed meanwhile
                Err(e) => return Err(e),
            }
        }
        Ok(all)
    }

    fn descriptor(&self, number: u32, buf: &mut Vec<u8>) -> Result<Descriptor, Error> {
        let name = format!("fd/{number}");
        let target = self.link(&name)?;
        let meta = self.behind(&name);
        let (mode, rdev) = match &meta {
            Ok(m) => (Some(m.mode), Device { major: m.rdev.0, minor: m.rdev.1 }),
            Err(_) => (None, Device { major: 0, minor: 0 }),
        };
        let kind = DescriptorKind::of(&target, mode, rdev);
        let info = self.fd_info(number, buf);
        Ok(Descriptor { number, kind, target, file: meta.map(identity), info })
    }

    fn fd_info(&self, number: u32, buf: &mut Vec<u8>) -> Result<FdInfo, Error> {
        let name = format!("fdinfo/{number}");
        FdInfo::parse(self.read(&name, buf)?).map_err(|e| e.of(|| self.object(&name)))
    }

    /// `attr/NAME`: a security attribute as its LSM prints it, without the end of line: `current`, `exec`, `prev`,
    /// or of one LSM `apparmor/current`.
    ///
    /// # Errors
    /// [`Absent`](ErrorKind::Absent) if no active LSM answers it; [`Gone`](ErrorKind::Gone).
    pub fn attr(&self, name: &str) -> Result<OsString, Error> {
        if !name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'/')) {
            return Err(Error::malformed("attr", 1, "name", name.as_bytes()));
        }
        self.parse(&format!("attr/{name}"), |text| {
            let end = text.iter().rposition(|c| !matches!(c, 0 | b'\n')).map_or(0, |i| i + 1);
            Ok(os(text.get(..end).unwrap_or_default()))
        })
    }

    /// `oom_score_adj`: -1000 (never killed for memory) to 1000 (first).
    ///
    /// # Errors
    /// [`Gone`](ErrorKind::Gone), [`Malformed`](ErrorKind::Malformed).
    pub fn oom_score_adj(&self) -> Result<i32, Error> {
        self.parse("oom_score_adj", |t| At { file: "oom_score_adj", line: 1 }.int("number", trim(t)))
    }

    /// What really confines it, all of it as one value.
    pub fn confinement(&self) -> Confinement {
        Confinement::of(self)
    }

    /// The `/proc/PID` directory itself, for files that this crate has no reader for.
    pub fn as_dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    pub(crate) fn object(&self, name: &str) -> String {
        match self.tid {
            None => format!("process {}: {name}", self.pid),
            Some(tid) => format!("process {}, thread {tid}: {name}", self.pid),
        }
    }

    /// The kernel says ENOENT or ESRCH both when the process is gone and when it merely lacks the object (ENOENT: no
    /// such file on this kernel, no exe of a kernel thread; ESRCH and EINVAL: a zombie without namespaces).
    pub(crate) fn failed(&self, call: &'static str, name: &str, errno: Errno) -> Error {
        let kind = match errno {
            Errno::ENOENT | Errno::ESRCH | Errno::EINVAL if !self.exists() => ErrorKind::Gone,
            Errno::ENOENT | Errno::ESRCH | Errno::EINVAL => ErrorKind::Absent,
            e => kind_of(e),
        };
        Error::call(kind, call, self.object(name), errno)
    }

    pub(crate) fn read<'b>(&self, name: &str, buf: &'b mut Vec<u8>) -> Result<&'b [u8], Error> {
        let fd = open_own(self.dir.as_fd(), name).map_err(|e| self.failed("openat2", name, e))?;
        match read_all(fd, buf) {
            Ok(Some(text)) => Ok(text),
            Ok(None) => Err(Error::too_large(self.object(name), crate::root::MAX_FILE)),
            Err(e) => Err(self.failed("read", name, e)),
        }
    }

    pub(crate) fn parse<T>(
        &self,
        name: &str,
        parser: impl FnOnce(&[u8]) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut buf = Vec::new();
        parser(self.read(name, &mut buf)?).map_err(|e| e.of(|| self.object(name)))
    }

    pub(crate) fn link(&self, name: &str) -> Result<OsString, Error> {
        readlinkat(&self.dir, name).map_err(|e| self.failed("readlinkat", name, e))
    }

    /// What a magic link leads to.
    fn behind(&self, name: &str) -> Result<Meta, Error> {
        let path = CString::new(name).map_err(|_| self.failed("statx", name, Errno::EINVAL))?;
        statx(self.dir.as_fd(), &path, true).map_err(|e| self.failed("statx", name, e))
    }
}

fn identity(meta: Meta) -> FileIdentity {
    FileIdentity { device: meta.dev, inode: meta.inode, links: meta.links }
}

fn open_dir(parent: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}
