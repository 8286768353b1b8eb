//! Files of a process's directory in /proc, by a descriptor of it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::BorrowedFd;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

use crate::{Error, ErrorKind, Result};

/// Opens a file of a process directory and makes sure that it is procfs's own: no link, and nothing mounted over it.
pub(crate) fn open(pid_dir: BorrowedFd<'_>, name: &str, flags: OFlag) -> Result<File> {
    let failed = |errno: nix::errno::Errno| {
        let error = Error::os(errno as i32, format!("open {name} of the process"));
        match errno {
            nix::errno::Errno::EXDEV | nix::errno::Errno::ELOOP => {
                Error::new(ErrorKind::NotTrusted, format!("something is mounted over {name} of the process"))
            }
            nix::errno::Errno::EACCES => {
                error.hint_is("the process must not have become undumpable, nor its files another user's")
            }
            _ => error,
        }
    };
    let magic =
        |fd: BorrowedFd<'_>| fstatfs(fd).map(|fs| fs.filesystem_type() == PROC_SUPER_MAGIC).map_err(failed);
    if !magic(pid_dir)? {
        return Err(Error::new(ErrorKind::NotTrusted, "the process directory is not of procfs"));
    }
    let resolve =
        ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_BENEATH;
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
    openat2(pid_dir, name, how).map(File::from).map_err(failed)
}

/// The contents of a small file of a process directory.
pub(crate) fn read(pid_dir: BorrowedFd<'_>, name: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(pid_dir, name, OFlag::O_RDONLY)?
        .take(1 << 20)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::io(&error, format!("read {name} of the process")))?;
    Ok(bytes)
}

/// One write(2) of all of it: the kernel takes no second.
pub(crate) fn write(pid_dir: BorrowedFd<'_>, name: &str, bytes: &[u8]) -> Result<()> {
    let what = || format!("write {:?} to {name} of the process", String::from_utf8_lossy(bytes));
    let mut file = open(pid_dir, name, OFlag::O_WRONLY)?;
    match file.write(bytes) {
        Ok(written) if written == bytes.len() => Ok(()),
        Ok(written) => {
            Err(Error::new(ErrorKind::System, format!("{}: only {written} bytes were taken", what())))
        }
        Err(error) => {
            let hint = match (name, error.raw_os_error()) {
                ("setgroups", Some(libc::EPERM)) => "its group map is written already",
                (_, Some(libc::EPERM)) => {
                    "the map may be written already; else it takes CAP_SETUID or CAP_SETGID in the parent namespace, \
                     or a single line of the caller's own id, for groups after setgroups was denied"
                }
                (_, Some(libc::EINVAL)) => "an outside id may be missing in the parent namespace",
                _ => return Err(Error::io(&error, what())),
            };
            Err(Error::io(&error, what()).hint_is(hint))
        }
    }
}

/// The process's number in the procfs that `pid_dir` is of.
pub(crate) fn pid_of(pid_dir: BorrowedFd<'_>) -> Result<u32> {
    let line = read(pid_dir, "stat")?;
    let digits = line.split(|byte| *byte == b' ').next().unwrap_or_default();
    crate::id::decimal(digits)
        .ok_or_else(|| Error::new(ErrorKind::Syntax, "stat of the process has no number"))
}
