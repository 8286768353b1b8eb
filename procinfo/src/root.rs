use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat, openat2, readlinkat};
use nix::sys::stat::Mode;
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

use crate::bytes::dec;
use crate::error::kind_of;
use crate::sys::statx;
use crate::{Error, ErrorKind, FdInfo, Process};

/// No file of `/proc` that this crate reads is sensibly longer, and a hostile process chooses the length of some.
pub(crate) const MAX_FILE: usize = 64 << 20;

/// A mounted proc file system, held by descriptor: everything is looked up below it, never by an absolute path again.
///
/// The pids it shows are those of the pid namespace that it was mounted for, whoever reads it.
#[derive(Debug)]
pub struct ProcRoot {
    dir: OwnedFd,
    path: PathBuf,
}

impl ProcRoot {
    /// The reader's own `/proc`.
    ///
    /// # Errors
    /// As [`open`](ProcRoot::open).
    pub fn host() -> Result<Self, Error> {
        Self::open("/proc")
    }

    /// The proc file system mounted at `path`.
    ///
    /// # Errors
    /// [`NotProc`](ErrorKind::NotProc) if something else lies there, or the errno of open(2).
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let root = Self::captured(path)?;
        root.verify()?;
        Ok(root)
    }

    /// A proc file system that is open already, such as one that fsmount(2) made and that has no path at all.
    ///
    /// # Errors
    /// [`NotProc`](ErrorKind::NotProc) if the descriptor is something else.
    pub fn from_fd(dir: OwnedFd) -> Result<Self, Error> {
        let root = Self { dir, path: PathBuf::from("(proc)") };
        root.verify()?;
        Ok(root)
    }

    /// A directory with the layout of `/proc`, for saved captures. It is not checked to be a proc file system, so
    /// nothing that it says may decide about security.
    ///
    /// # Errors
    /// The errno of open(2).
    pub fn captured(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref().to_owned();
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = open(&path, flags, Mode::empty())
            .map_err(|e| Error::call(kind_of(e), "open", path.display().to_string(), e))?;
        Ok(Self { dir, path })
    }

    fn verify(&self) -> Result<(), Error> {
        let fs =
            fstatfs(&self.dir).map_err(|e| Error::call(ErrorKind::System, "fstatfs", self.object(""), e))?;
        if fs.filesystem_type() == PROC_SUPER_MAGIC { Ok(()) } else { Err(Error::not_proc(self.object(""))) }
    }

    /// The process with this number now. From here on it is held: whatever is read later is of this process.
    ///
    /// # Errors
    /// [`Gone`](ErrorKind::Gone) if there is none, or none that this proc mount shows (`hidepid`).
    pub fn process(&self, pid: u32) -> Result<Process, Error> {
        Process::open(self, pid)
    }

    /// The calling process, by the `self` link.
    ///
    /// # Errors
    /// [`Absent`](ErrorKind::Absent) if the caller has no pid in this mount's pid namespace.
    pub fn myself(&self) -> Result<Process, Error> {
        let link = readlinkat(&self.dir, "self").map_err(|e| self.failed("readlinkat", "self", e))?;
        let pid = dec(link.as_bytes()).and_then(|p| u32::try_from(p).ok());
        let pid = pid.ok_or_else(|| Error::malformed("self", 1, "pid", link.as_bytes()))?;
        self.process(pid)
    }

    /// The process behind a pidfd. Whatever happens to its number meanwhile, it is this process or an error.
    ///
    /// # Errors
    /// [`Gone`](ErrorKind::Gone) if it was reaped; [`Absent`](ErrorKind::Absent) if it has no pid in this mount's pid
    /// namespace; [`Malformed`](ErrorKind::Malformed) if the descriptor is not a pidfd.
    pub fn process_of_pidfd(&self, pidfd: impl AsFd) -> Result<Process, Error> {
        use std::os::fd::AsRawFd;
        // The descriptor table of this thread: a thread may have its own.
        let name = format!("thread-self/fdinfo/{}", pidfd.as_fd().as_raw_fd());
        let pid_now = || {
            let mut buf = Vec::new();
            let text = self.read(&name, &mut buf)?;
            let info = FdInfo::parse(text).map_err(|e| e.of(|| self.object(&name)))?;
            let pid = info.extra("Pid").map(OsStrExt::as_bytes);
            match pid.and_then(crate::bytes::signed) {
                Some(-1) => Err(self.failed("pidfd", &name, Errno::ESRCH)),
                Some(0) => Err(self.failed("pidfd", &name, Errno::ENOENT)),
                Some(n) => u32::try_from(n).map_err(|_| Error::malformed("fdinfo", 1, "Pid", b"(negative)")),
                None => Err(Error::malformed("fdinfo", 1, "Pid", text).of(|| self.object(&name))),
            }
        };
        let process = self.process(pid_now()?)?;
        // A pid is not given away before its process is reaped. It still has it, so that is what was opened.
        pid_now()?;
        Ok(process)
    }

    /// The numbers of all processes that this mount shows, in ascending order.
    ///
    /// # Errors
    /// The errno of reading the directory.
    pub fn pids(&self) -> Result<Vec<u32>, Error> {
        list_numbers(self.dir.as_fd(), c".").map_err(|e| self.failed("getdents64", "", e))
    }

    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    pub(crate) fn object(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }

    pub(crate) fn failed(&self, call: &'static str, name: &str, errno: Errno) -> Error {
        Error::call(kind_of(errno), call, self.object(name), errno)
    }

    /// A system-wide file. Mounts over these are legitimate (LXCFS shows a container its own `meminfo`).
    pub(crate) fn read<'b>(&self, name: &str, buf: &'b mut Vec<u8>) -> Result<&'b [u8], Error> {
        let fd = openat(&self.dir, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(|e| self.failed("openat", name, e))?;
        match read_all(fd, buf) {
            Ok(Some(text)) => Ok(text),
            Ok(None) => Err(Error::too_large(self.object(name), MAX_FILE)),
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
}

/// Opens a file of a process, refusing to cross to another file system: what a mount over it says is not the kernel's.
pub(crate) fn open_own(dir: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let how =
        OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_SYMLINKS);
    match openat2(dir, name, how) {
        // Filtered away (old container profiles answer EPERM): the same check by hand.
        Err(Errno::ENOSYS | Errno::EPERM) => {
            let fd = openat(dir, name, flags | OFlag::O_NOFOLLOW, Mode::empty())?;
            if statx(fd.as_fd(), c"", false)?.dev == statx(dir, c"", false)?.dev {
                Ok(fd)
            } else {
                Err(Errno::EXDEV)
            }
        }
        done => done,
    }
}

/// The whole of a file, in as few reads as it takes: `None` if it is longer than this crate holds. `buf` keeps its
/// length from call to call, so that one buffer serves many files without being cleared again.
pub(crate) fn read_all(fd: OwnedFd, buf: &mut Vec<u8>) -> Result<Option<&[u8]>, Errno> {
    let mut file = File::from(fd);
    let mut len = 0;
    loop {
        if buf.len() - len < 1024 {
            if len > MAX_FILE {
                return Ok(None);
            }
            buf.resize((buf.len() * 2).max(4096), 0);
        }
        let room = buf.get_mut(len..).unwrap_or_default();
        match file.read(room) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO))),
        }
    }
    Ok(buf.get(..len))
}

/// The names of a directory that are numbers, in ascending order.
pub(crate) fn list_numbers(dir: BorrowedFd<'_>, name: &std::ffi::CStr) -> Result<Vec<u32>, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let mut dir = Dir::openat(dir, name, flags, Mode::empty())?;
    let mut numbers = Vec::new();
    for entry in dir.iter() {
        numbers.extend(dec(entry?.file_name().to_bytes()).and_then(|n| u32::try_from(n).ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}
