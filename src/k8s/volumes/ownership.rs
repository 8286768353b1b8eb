//! How a volume is given to `fsGroup`: what a kubelet's `SetVolumeOwnership` does, with no way out of the volume.

use std::ffi::{OsStr, OsString};
use std::fs::Permissions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{FileStat, fstat};
use nix::unistd::{Gid, fchownat};
use palisade_sys::Step;

use crate::error::{Error, Result};

/// Directories below each other, two descriptors each. Deeper ones are an error: they are somebody's who fills a volume.
const MOST_LEVELS: usize = 128;
/// How often something that is being moved to another directory is looked for. A mount is found as often.
const TRIES: usize = 16;

/// To whom a volume is given, and what its files may then be used for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ownership {
    pub(super) gid: u32,
    /// The group may not write.
    pub(super) read_only: bool,
}

/// A directory that is not done yet.
struct Level {
    directory: OwnedFd,
    entries: std::fs::ReadDir,
    path: PathBuf,
}

impl Ownership {
    /// Bits that are added to a mode.
    fn mask(self, is_dir: bool) -> u32 {
        let files = if self.read_only { 0o440 } else { 0o660 };
        if is_dir { files | 0o110 | libc::S_ISGID } else { files }
    }

    /// Whether the root of a volume is as it should be: with `OnRootMismatch` nothing else is looked at.
    pub(super) fn holds(self, root: &FileStat) -> bool {
        let mask = self.mask(true);
        root.st_mode & libc::S_IFMT == libc::S_IFDIR && root.st_gid == self.gid && root.st_mode & mask == mask
    }

    /// Gives all of it to the group, its root last: so a root that is as it should be says that the rest is, too.
    ///
    /// Links are given, not followed. Nothing outside is ever reached, whoever changes the volume meanwhile: each step
    /// starts at the descriptor of the directory above, and is made to the file that was looked at.
    pub(super) fn give(self, root: OwnedFd, path: &Path) -> Result<()> {
        let mut open = vec![Level::new(root, path.to_owned())?];
        while let Some(level) = open.last_mut() {
            let Some(entry) = level.entries.next() else {
                let stat = stat(&level.directory, &level.path)?;
                self.change(&level.directory, &stat, &level.path)?;
                open.pop();
                continue;
            };
            let entry = match entry {
                Ok(entry) => entry,
                // The directory itself is gone.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                    open.pop();
                    continue;
                }
                Err(error) => return Err(failed("getdents64", &error, &level.path)),
            };
            let path = level.path.join(entry.file_name());
            let Some(file) = find(&level.directory, &entry.file_name(), OFlag::O_PATH, &path)? else {
                continue;
            };
            let found = stat(&file, &path)?;
            if found.st_mode & libc::S_IFMT != libc::S_IFDIR {
                self.change(&file, &found, &path)?;
                continue;
            }
            // The same directory, to be read.
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
            let Some(directory) = find(&file, OsStr::new("."), flags, &path)? else { continue };
            if open.len() == MOST_LEVELS {
                let path = path.display();
                return Err(Error::invalid(format!(
                    "{path}: a volume has at most {MOST_LEVELS} directories below each other: remove what is below this one, \
                     or leave out fsGroup"
                )));
            }
            open.push(Level::new(directory, path)?);
        }
        Ok(())
    }

    fn change(self, file: &OwnedFd, stat: &FileStat, path: &Path) -> Result<()> {
        let mut mode = stat.st_mode;
        if stat.st_gid != self.gid {
            let group = Some(Gid::from_raw(self.gid));
            fchownat(file, "", None, group, AtFlags::AT_EMPTY_PATH).map_err(|errno| {
                let error = failed(&format!("fchownat(…, -1, {})", self.gid), &errno.into(), path);
                let ours = "files are given by their owner, to a group of the owner's, or by root";
                if errno == Errno::EPERM { error.with_hint(ours) } else { error }
            })?;
            // The kernel has taken set-user-ID and set-group-ID off a program, and they stay off.
            mode = fstat(file).map_err(|errno| failed("fstat", &errno.into(), path))?.st_mode;
        }
        let mask = self.mask(mode & libc::S_IFMT == libc::S_IFDIR);
        // A link has no mode.
        if mode & libc::S_IFMT == libc::S_IFLNK || mode & mask == mask {
            return Ok(());
        }
        // A descriptor by which nothing can be read takes fchmod only since Linux 6.6.
        let wanted = Permissions::from_mode((mode | mask) & 0o7777);
        std::fs::set_permissions(own(file), wanted)
            .map_err(|error| failed(&format!("fchmod(…, {:o})", (mode | mask) & 0o7777), &error, path))
    }
}

impl Level {
    fn new(directory: OwnedFd, path: PathBuf) -> Result<Self> {
        let entries = std::fs::read_dir(own(&directory)).map_err(|error| failed("openat", &error, &path))?;
        Ok(Self { directory, entries, path })
    }
}

/// An open file, by the one name that can't be exchanged.
pub(super) fn own(file: &OwnedFd) -> OsString {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

pub(super) fn stat(file: &OwnedFd, path: &Path) -> Result<FileStat> {
    fstat(file).map_err(|errno| failed("fstat", &errno.into(), path))
}

pub(super) fn failed(call: &str, error: &io::Error, path: &Path) -> Error {
    Error::call(Step::Prepare, call, error).with_object(path.to_string_lossy())
}

/// What has this name in a directory: no link is followed, no mount entered. Nothing if it is not there any more.
pub(super) fn find(
    directory: &impl AsFd,
    name: &OsStr,
    flags: OFlag,
    path: &Path,
) -> Result<Option<OwnedFd>> {
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_MAGICLINKS
        | ResolveFlag::RESOLVE_NO_XDEV;
    let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let how = OpenHow::new().flags(flags).resolve(resolve);
    // What leaves its directory while it is looked up is EXDEV as a mount is, and is not there the next time.
    let moved = |found: &nix::Result<OwnedFd>| matches!(found, Err(Errno::EXDEV | Errno::EAGAIN));
    let mut found = openat2(directory, name, how);
    for _ in 1..TRIES {
        if !moved(&found) {
            break;
        }
        found = openat2(directory, name, how);
    }
    match found {
        Ok(file) => Ok(Some(file)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => {
            let error = failed("openat2", &errno.into(), path);
            let other = "another file system is mounted there: make it a volume of its own";
            Err(if errno == Errno::EXDEV { error.with_hint(other) } else { error })
        }
    }
}
