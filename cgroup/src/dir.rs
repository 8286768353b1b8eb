//! A cgroup directory held open: every access goes through the descriptor, the path is for messages only.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{ErrorKind as IoKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};
use nix::unistd::{AccessFlags, UnlinkatFlags, faccessat, unlinkat};

use crate::error::{Error, ErrorKind, Result};

const DIR: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

#[derive(Clone, Debug)]
pub(crate) struct Dir {
    fd: Arc<OwnedFd>,
    path: PathBuf,
}

impl Dir {
    /// Opens a path that the caller gave or the kernel reported. What is not a cgroup2 directory is an error.
    pub(crate) fn open(path: &Path) -> Result<Dir> {
        let fd = nix::fcntl::open(path, DIR.difference(OFlag::O_NOFOLLOW), Mode::empty())
            .map_err(|e| Error::os("open cgroup", path, e as i32).kinded(open_kind(e)))?;
        Dir::from_fd(fd, path)
    }

    pub(crate) fn from_fd(fd: OwnedFd, path: &Path) -> Result<Dir> {
        if !is_cgroup2(&fd, path)? {
            return Err(Error::new(ErrorKind::Absent, "not a directory of a cgroup2 mount").at(path));
        }
        Ok(Dir { fd: Arc::new(fd), path: path.to_path_buf() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The inode number, which is the group's id in the kernel.
    pub(crate) fn id(&self) -> Result<u64> {
        fstat(&self.fd).map(|s| s.st_ino).map_err(|e| Error::os("stat", &self.path, e as i32))
    }

    pub(crate) fn child(&self, name: &OsStr) -> Result<Dir> {
        let path = self.path.join(name);
        let fd = openat(&self.fd, name, DIR, Mode::empty())
            .map_err(|e| Error::os("open cgroup", &path, e as i32).kinded(open_kind(e)))?;
        Ok(Dir { fd: Arc::new(fd), path })
    }

    /// The group above, or `None` at the root of the mount.
    pub(crate) fn parent(&self) -> Result<Option<Dir>> {
        let path = self.path.parent().map_or_else(|| PathBuf::from("/"), Path::to_path_buf);
        let fd = openat(&self.fd, "..", DIR, Mode::empty())
            .map_err(|e| Error::os("open the group above", &self.path, e as i32).kinded(open_kind(e)))?;
        Ok(is_cgroup2(&fd, &path)?.then(|| Dir { fd: Arc::new(fd), path }))
    }

    pub(crate) fn mkdir(&self, name: &OsStr) -> Result<(), Errno> {
        mkdirat(&self.fd, name, Mode::from_bits_truncate(0o755))
    }

    pub(crate) fn rmdir(&self, name: &OsStr) -> Result<(), Errno> {
        unlinkat(&self.fd, name, UnlinkatFlags::RemoveDir)
    }

    pub(crate) fn file(&self, name: &str, flags: OFlag) -> Result<File, Errno> {
        openat(&self.fd, name, flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty()).map(File::from)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        faccessat(&self.fd, name, AccessFlags::F_OK, AtFlags::empty()).is_ok()
    }

    /// Whether the caller may write to a file, by its effective ids and the mount.
    pub(crate) fn writable(&self, name: &str) -> Result<(), Errno> {
        faccessat(&self.fd, name, AccessFlags::W_OK, AtFlags::AT_EACCESS)
    }

    /// The whole content of a control file.
    pub(crate) fn read(&self, name: &str) -> Result<Vec<u8>> {
        let fail = |errno| self.explain("read", name, errno);
        let mut file = self.file(name, OFlag::O_RDONLY).map_err(|e| fail(e as i32))?;
        // Not read_to_end: it asks for the size first, which the kernel does not know.
        let (mut text, mut part) = (Vec::new(), [0; 4096]);
        loop {
            match file.read(&mut part) {
                Ok(0) => return Ok(text),
                Ok(n) => text.extend_from_slice(&part[..n]),
                Err(e) if e.kind() == IoKind::Interrupted => {}
                Err(e) => return Err(fail(e.raw_os_error().unwrap_or(libc::EIO))),
            }
        }
    }

    /// One write of the whole value, as control files want it. An empty value is written as a line break, since a
    /// write of no bytes would never reach the kernel's handler.
    pub(crate) fn write(&self, name: &str, value: &str) -> Result<()> {
        self.try_write(name, value)
            .map_err(|errno| self.explain("write", name, errno).value(value.trim_end()))
    }

    pub(crate) fn try_write(&self, name: &str, value: &str) -> Result<(), i32> {
        let mut file = self.file(name, OFlag::O_WRONLY).map_err(|e| e as i32)?;
        let bytes = if value.is_empty() { b"\n" } else { value.as_bytes() };
        loop {
            match file.write(bytes) {
                Ok(n) if n == bytes.len() => return Ok(()),
                Ok(_) => return Err(libc::EIO),
                Err(e) if e.kind() == IoKind::Interrupted => {}
                Err(e) => return Err(e.raw_os_error().unwrap_or(libc::EIO)),
            }
        }
    }

    /// The names of the groups right below.
    pub(crate) fn children(&self) -> Result<Vec<OsString>> {
        let fail = |e: Errno| Error::os("list groups below", &self.path, e as i32);
        let mut dir = nix::dir::Dir::openat(&self.fd, ".", DIR, Mode::empty()).map_err(fail)?;
        let mut names = Vec::new();
        for entry in dir.iter() {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name().to_bytes();
            if entry.file_type() == Some(nix::dir::Type::Directory) && name != b"." && name != b".." {
                names.push(OsString::from_vec(name.to_vec()));
            }
        }
        Ok(names)
    }

    /// Says why a control file could not be read or written: a missing file is a missing controller, a kernel
    /// without the feature, or a group that is gone.
    pub(crate) fn explain(&self, what: &'static str, name: &str, errno: i32) -> Error {
        let e = Error::os(what, &self.at(name), errno);
        let controller = name.split('.').next().unwrap_or(name);
        let e = if controller == "cgroup" { e } else { e.for_controller(controller) };
        match errno {
            libc::ENOENT if !self.has("cgroup.procs") => e.kinded(ErrorKind::Gone),
            libc::ENOENT => match self.read("cgroup.controllers") {
                Ok(list) if controller != "cgroup" && !has_word(&list, controller) => e
                    .kinded(ErrorKind::ControllerMissing)
                    .hint("the controller is not enabled for this group: Cgroup::enable on its parent"),
                _ => e.kinded(ErrorKind::Unsupported).hint("the root group or this kernel has no such file"),
            },
            _ => e,
        }
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn is_cgroup2(fd: &OwnedFd, path: &Path) -> Result<bool> {
    let kind = fstatfs(fd).map_err(|e| Error::os("statfs", path, e as i32))?.filesystem_type();
    Ok(kind == CGROUP2_SUPER_MAGIC)
}

fn open_kind(e: Errno) -> ErrorKind {
    match e {
        Errno::ENOENT | Errno::ENODEV => ErrorKind::Gone,
        Errno::EACCES | Errno::EPERM => ErrorKind::NotDelegated,
        _ => ErrorKind::System,
    }
}

fn has_word(list: &[u8], word: &str) -> bool {
    list.split(u8::is_ascii_whitespace).any(|w| w == word.as_bytes())
}

/// A name for a new group: one path component that no file of the kernel has or may come to have.
pub(crate) fn check_name(name: &OsStr) -> Result<()> {
    const CONTROLLERS: [&str; 11] =
        ["cgroup", "cpu", "cpuset", "io", "memory", "pids", "hugetlb", "rdma", "misc", "dmem", "perf_event"];
    let bytes = name.as_bytes();
    let why = if bytes.is_empty() || bytes == b"." || bytes == b".." {
        "a name is not empty, `.` or `..`"
    } else if bytes.iter().any(|c| matches!(c, b'/' | b'\0' | b'\n')) {
        "a name has no `/`, NUL or line break"
    } else if bytes.len() > 255 {
        "a name has at most 255 bytes"
    } else if bytes.split(|c| *c == b'.').count() > 1
        && CONTROLLERS.iter().any(|c| bytes.split(|b| *b == b'.').next() == Some(c.as_bytes()))
    {
        "names that begin with a controller and a dot belong to the kernel's files"
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::InvalidName, "name of a group").value(name.to_string_lossy()).hint(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_component_and_not_the_kernels() {
        for good in ["a", "palisade-1", "..x", "cpu", "x.cpu.max", "with space", "ü"] {
            check_name(OsStr::new(good)).expect(good);
        }
        let long = "x".repeat(256);
        for bad in ["", ".", "..", "a/b", "a\nb", "a\0b", "cgroup.procs", "memory.new", &long] {
            assert_eq!(check_name(OsStr::new(bad)).expect_err(bad).kind(), ErrorKind::InvalidName);
        }
    }
}
