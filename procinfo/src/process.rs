use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::Mode;

use crate::bytes::{At, os, trim, words};
use crate::error::kind_of;
use crate::root::{list_numbers, open_own, read_all};
use crate::sys::{Meta, statx};
use crate::{
    Cgroups, CommandLine, Confinement, Descriptor, DescriptorKind, Device, Environment, Error, ErrorKind,
    FdInfo, FileIdentity, IdMap, Io, Limits, Maps, MountTable, Mounts, NamespaceId, NamespaceKind,
    Namespaces, ProcRoot, Setgroups, SmapsRollup, Stat, Statm, Status, TimeOffsets,
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

/// Room for the text of a file, kept from one to the next.
#[derive(Debug, Default)]
pub(crate) struct Buffer(Vec<u8>);

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

    /// `stat`: times, terminal, memory, scheduling.
    ///
    /// # Errors
    /// As [`status`](Process::status).
    pub fn stat(&self) -> Result<Stat, Error> {
        self.parse("stat", Stat::parse)
    }

    /// `comm`: the thread's name, any bytes, up to 15 of them (longer for kernel workers).
    ///
    /// # Errors
    /// [`Gone`](ErrorKind::Gone).
    pub fn comm(&self) -> Result<OsString, Error> {
        self.parse("comm", |t| Ok(os(t.strip_suffix(b"\n").unwrap_or(t))))
    }

    /// `cmdline`: the arguments, as the process has them now.
    ///
    /// # Errors
    /// [`Gone`](ErrorKind::Gone).
    pub fn cmdline(&self) -> Result<CommandLine, Error> {
        self.parse("cmdline", |t| Ok(CommandLine::parse(t)))
    }

    /// `environ`: the environment that its program was started with.
    ///
    /// # Errors
    /// [`Denied`](ErrorKind::Denied) without ptrace read access; [`Gone`](ErrorKind::Gone).
    pub fn environ(&self) -> Result<Environment, Error> {
        self.parse("environ", |t| Ok(Environment::parse(t)))
    }

    /// `statm`: memory in pages.
    ///
    /// # Errors
    /// As [`status`](Process::status).
    pub fn statm(&self) -> Result<Statm, Error> {
        self.parse("statm", Statm::parse)
    }

    /// `maps`: the mappings.
    ///
    /// # Errors
    /// [`Denied`](ErrorKind::Denied) without ptrace read access; [`Gone`](ErrorKind::Gone).
    pub fn maps(&self) -> Result<Maps, Error> {
        self.parse("maps", Maps::parse)
    }

    /// `smaps_rollup`: exact memory use. The kernel walks all page tables for it.
    ///
    /// # Errors
    /// [`Denied`](ErrorKind::Denied) without ptrace read access; [`Absent`](ErrorKind::Absent) for a process without
    /// memory; [`Gone`](ErrorKind::Gone).
    pub fn smaps_rollup(&self) -> Result<SmapsRollup, Error> {
        self.parse("smaps_rollup", SmapsRollup::parse)
    }

    /// `io`: bytes read and written.
    ///
    /// # Errors
    /// [`Denied`](ErrorKind::Denied) without ptrace read access; [`Gone`](ErrorKind::Gone).
    pub fn io(&self) -> Result<Io, Error> {
        self.parse("io", Io::parse)
    }

    /// `timens_offsets`: what the time namespace for its children adds to the clocks.
    ///
    /// # Errors
    /// [`Absent`](ErrorKind::Absent) for a zombie or without time namespaces; [`Gone`](ErrorKind::Gone).
    pub fn timens_offsets(&self) -> Result<TimeOffsets, Error> {
        self.parse("timens_offsets", TimeOffsets::parse)
    }

    /// `mounts`: the mounts in the format of fstab(5). [`mountinfo`](Process::mountinfo) says more.
    ///
    /// # Errors
    /// As [`mountinfo`](Process::mountinfo).
    pub fn mounts(&self) -> Result<MountTable, Error> {
        self.parse("mounts", MountTable::parse)
    }

    /// `wchan`: the kernel function that it sleeps in, `None` if it runs or the kernel does not say (it says nothing
    /// without ptrace read access).
    ///
    /// # Errors
    /// [`Gone`](ErrorKind::Gone), [`Absent`](ErrorKind::Absent) on a kernel without symbols.
    pub fn wchan(&self) -> Result<Option<OsString>, Error> {
        self.parse("wchan", |t| Ok(Some(trim(t)).filter(|t| !t.is_empty() && *t != b"0").map(os)))
    }

    /// `oom_score`: how likely it is to be killed for memory, 0 to about 2000.
    ///
    /// # Errors
    /// [`Gone`](ErrorKind::Gone), [`Malformed`](ErrorKind::Malformed).
    pub fn oom_score(&self) -> Result<u32, Error> {
        self.parse("oom_score", |t| At { file: "oom_score", line: 1 }.num("number", trim(t)))
    }

    /// `task`: the ids of its threads, in ascending order.
    ///
    /// # Errors
    /// [`Gone`](ErrorKind::Gone).
    pub fn threads(&self) -> Result<Vec<u32>, Error> {
        list_numbers(self.dir.as_fd(), c"task").map_err(|e| self.failed("getdents64", "task", e))
    }

    /// `task/TID`: one of its threads, with the same readers.
    ///
    /// # Errors
    /// [`Absent`](ErrorKind::Absent) if it has no such thread, [`Gone`](ErrorKind::Gone).
    pub fn thread(&self, tid: u32) -> Result<Self, Error> {
        let name = format!("task/{tid}");
        let dir = open_dir(self.dir.as_fd(), &name).map_err(|e| self.failed("openat", &name, e))?;
        Ok(Self { dir, pid: self.pid, tid: Some(tid) })
    }

    /// `task/*/children`: the children of all its threads, in ascending order. Exact only while they are stopped: the
    /// kernel may skip some if others end meanwhile (Linux 3.5, `CONFIG_PROC_CHILDREN`).
    ///
    /// # Errors
    /// [`Gone`](ErrorKind::Gone), [`Absent`](ErrorKind::Absent) on a kernel built without it.
    pub fn children(&self) -> Result<Vec<u32>, Error> {
        let mut children = Vec::new();
        for tid in self.threads()? {
            let read = self.thread(tid).and_then(|t| t.parse("children", parse_children));
            match read {
                Ok(more) => children.extend(more),
                // A thread that has ended has no children any more: its process's other threads have them.
                Err(e) if e.kind() == ErrorKind::Gone && self.exists() => {}
                Err(e) => return Err(e),
            }
        }
        children.sort_unstable();
        Ok(children)
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
        let numbers = self.descriptor_numbers()?;
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

    /// The names in `fd`: the numbers of its open descriptors, in ascending order.
    ///
    /// # Errors
    /// As [`descriptors`](Process::descriptors).
    pub fn descriptor_numbers(&self) -> Result<Vec<u32>, Error> {
        list_numbers(self.dir.as_fd(), c"fd").map_err(|e| self.failed("getdents64", "fd", e))
    }

    /// `fdinfo/NUMBER`: offset and flags of one open descriptor.
    ///
    /// # Errors
    /// [`Absent`](ErrorKind::Absent) if it is not open, else as [`descriptors`](Process::descriptors).
    pub fn fdinfo(&self, number: u32) -> Result<FdInfo, Error> {
        self.fd_info(number, &mut Vec::new())
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

    /// `personality`: its execution domain and flags,
    /// [personality(2)](https://man7.org/linux/man-pages/man2/personality.2.html), as the bits that call takes (Linux
    /// 2.6.28).
    ///
    /// # Errors
    /// [`Denied`](ErrorKind::Denied) without ptrace attach access; [`Gone`](ErrorKind::Gone),
    /// [`Malformed`](ErrorKind::Malformed).
    pub fn personality(&self) -> Result<u32, Error> {
        self.parse("personality", |t| {
            let at = At { file: "personality", line: 1 };
            u32::try_from(at.hex("number", trim(t))?).map_err(|_| at.bad("number", t))
        })
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

    /// As [`parse`](Self::parse), with a buffer that is used again.
    pub(crate) fn parse_with<T>(
        &self,
        buffer: &mut Buffer,
        name: &str,
        parser: impl FnOnce(&[u8]) -> Result<T, Error>,
    ) -> Result<T, Error> {
        parser(self.read(name, &mut buffer.0)?).map_err(|e| e.of(|| self.object(name)))
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
        self.parse_with(&mut Buffer::default(), name, parser)
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

fn parse_children(text: &[u8]) -> Result<Vec<u32>, Error> {
    words(trim(text)).map(|w| At { file: "children", line: 1 }.num("pid", w)).collect()
}

fn identity(meta: Meta) -> FileIdentity {
    FileIdentity { device: meta.dev, inode: meta.inode, links: meta.links }
}

fn open_dir(parent: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}
