//! The directory that is a volume: found once, without links, and whose the way to it is.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::FileStat;
use nix::unistd::geteuid;

use super::ownership::{failed, own, stat};
use crate::error::{Error, Result};
use crate::sys::has_acl;

/// Device and inode.
pub(super) type Inode = (u64, u64);

/// Opens a directory by its canonical path: a link on the way is somebody's who may lead it elsewhere at any time.
pub(super) fn open(path: &Path) -> Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let resolve = ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    openat2(AT_FDCWD, path, OpenHow::new().flags(flags).resolve(resolve)).map_err(|errno| match errno {
        Errno::ELOOP => {
            let shown = path.display();
            let real = path.canonicalize().map_or("nowhere".to_owned(), |real| real.display().to_string());
            Error::invalid(format!("{shown}: a link on the way leads to {real}: give the path without links"))
        }
        _ => failed("openat2", &errno.into(), path),
    })
}

/// Opens it again, if it is the one that was set up.
pub(super) fn open_again(path: &Path, inode: Inode) -> Result<OwnedFd> {
    let directory = open(path)?;
    if inode_of(&stat(&directory, path)?) == inode {
        return Ok(directory);
    }
    let path = path.display();
    Err(Error::invalid(format!(
        "{path}: it is another directory than the one that was set up: set it up again"
    )))
}

pub(super) fn inode_of(found: &FileStat) -> Inode {
    (found.st_dev, found.st_ino)
}

/// The directory that one is in. By the descriptor: no name of it can be exchanged.
pub(super) fn above(directory: &impl AsFd, path: &Path) -> Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    openat2(directory, "..", OpenHow::new().flags(flags))
        .map_err(|errno| failed("openat2", &errno.into(), path))
}

/// Whether others are kept out of what is in a directory, by it or one above.
pub(super) fn is_closed(directory: &OwnedFd, path: &Path) -> Result<bool> {
    let caller = geteuid().as_raw();
    let closed = |directory: &OwnedFd, found: &FileStat| {
        let others = if found.st_gid == 0 { 0o001 } else { 0o011 };
        // Who else may enter, an access list says where it is.
        Ok(found.st_uid == caller && found.st_mode & others == 0 && !lists_others(directory, path)?)
    };
    let mut directory =
        directory.as_fd().try_clone_to_owned().map_err(|error| failed("dup", &error, path))?;
    let mut found = stat(&directory, path)?;
    loop {
        if closed(&directory, &found)? {
            return Ok(true);
        }
        let next = above(&directory, path)?;
        let next_found = stat(&next, path)?;
        if inode_of(&next_found) == inode_of(&found) {
            return Ok(false);
        }
        (directory, found) = (next, next_found);
    }
}

/// Who else than the caller and root may put another directory in the place of this one, or of one above.
pub(super) fn exchanged_by(directory: &OwnedFd, path: &Path) -> Result<Option<String>> {
    let trusted = |uid: u32| uid == 0 || uid == geteuid().as_raw();
    let mut found = stat(directory, path)?;
    let mut around = above(directory, path)?;
    loop {
        let of = stat(&around, path)?;
        if inode_of(&of) == inode_of(&found) {
            return Ok(None);
        }
        let name = || std::fs::read_link(own(&around)).unwrap_or_default().display().to_string();
        if !trusted(of.st_uid) {
            return Ok(Some(format!("{} is user {}'s", name(), of.st_uid)));
        }
        let group = of.st_gid != 0 || lists_others(&around, path)?;
        let written = of.st_mode & 0o002 != 0 || of.st_mode & 0o020 != 0 && group;
        let kept = of.st_mode & libc::S_ISVTX != 0 && trusted(found.st_uid);
        if written && !kept {
            return Ok(Some(format!("others may write to {}", name())));
        }
        found = of;
        around = above(&around, path)?;
    }
}

fn lists_others(directory: &OwnedFd, path: &Path) -> Result<bool> {
    has_acl(directory.as_fd()).map_err(|error| failed("getxattr", &error, path))
}
