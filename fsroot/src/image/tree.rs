//! A directory that an archive is unpacked into: every path is resolved inside it by the kernel.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, SFlag, mkdirat, mknodat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};

use crate::error::{Error, ErrorKind, Result};

/// Deepest path of an archive: removing a tree holds a descriptor for each level.
const MAX_DEPTH: usize = 256;

/// A path of an archive as one below the tree: no `..`, no NUL, not too deep. Empty for the root itself.
pub(super) fn clean(path: &[u8]) -> Result<PathBuf> {
    let shown = || Path::new(OsStr::from_bytes(&path[..path.len().min(200)]));
    let refuse = |what: &str| Err(Error::new(ErrorKind::Archive, what).at(shown()));
    if path.contains(&0) {
        return refuse("a path with a NUL byte");
    }
    if path.len() >= libc::PATH_MAX as usize {
        return refuse("a path of 4096 bytes or more");
    }
    let mut clean = PathBuf::new();
    let mut depth = 0;
    for name in path.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => return refuse("a path with '..'"),
            name if name.len() > 255 => return refuse("a name of more than 255 bytes"),
            name => {
                depth += 1;
                clean.push(OsStr::from_bytes(name));
            }
        }
    }
    if depth > MAX_DEPTH {
        return refuse("a path of more than 256 directories");
    }
    Ok(clean)
}

pub(super) struct Tree {
    root: OwnedFd,
}

/// The place of an entry: the open directory that it is in, and its name there.
pub(super) struct Spot {
    pub(super) dir: OwnedFd,
    pub(super) name: CString,
}

fn os(errno: Errno, what: &str) -> Error {
    Error::os(errno as i32, what)
}

fn inside(flags: OFlag, resolve: ResolveFlag) -> OpenHow {
    OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve)
}

/// Resolves inside the tree, whatever links it has.
const IN_TREE: ResolveFlag = ResolveFlag::RESOLVE_IN_ROOT
    .union(ResolveFlag::RESOLVE_NO_MAGICLINKS)
    .union(ResolveFlag::RESOLVE_NO_XDEV);
/// The name itself, in its directory.
const HERE: ResolveFlag =
    ResolveFlag::RESOLVE_BENEATH.union(ResolveFlag::RESOLVE_NO_SYMLINKS).union(ResolveFlag::RESOLVE_NO_XDEV);

impl Tree {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY;
        let root = openat2(nix::fcntl::AT_FDCWD, path, inside(flags, ResolveFlag::RESOLVE_NO_MAGICLINKS))
            .map_err(|errno| {
                let hint = "a seccomp filter hides openat2, by which nothing lands outside: let this process make it";
                let hidden = (errno == Errno::ENOSYS).then_some(hint);
                os(errno, "the directory to unpack into").at(path).hint(hidden)
            })?;
        Ok(Self { root })
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// An existing directory of the tree.
    fn directory(&self, path: &Path) -> nix::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        openat2(&self.root, path, inside(OFlag::O_DIRECTORY | OFlag::O_RDONLY, IN_TREE))
    }

    /// The directory of `path`, made where it is missing, and the last name. The paths of what was made are told.
    pub(super) fn spot(&self, path: &Path, make: bool, mut made: impl FnMut(&Path)) -> Result<Option<Spot>> {
        let Some(name) = path.file_name() else { return Ok(None) };
        let name = CString::new(name.as_bytes())
            .map_err(|_| Error::new(ErrorKind::Archive, "a name with a NUL byte").at(path))?;
        let parent = path.parent().unwrap_or(Path::new(""));
        let dir = match self.directory(parent) {
            Err(Errno::ENOENT) if make => {
                let mut dir = self.directory(Path::new("")).map_err(|errno| os(errno, "root").at(path))?;
                let mut at = PathBuf::new();
                for part in parent {
                    at.push(part);
                    dir = match self.directory(&at) {
                        Err(Errno::ENOENT) => {
                            mkdirat(&dir, part, Mode::from_bits_truncate(0o755))
                                .map_err(|errno| os(errno, "making a directory").at(&at))?;
                            made(&at);
                            self.directory(&at)
                        }
                        found => found,
                    }
                    .map_err(|errno| os(errno, "a directory on the way").at(&at))?;
                }
                dir
            }
            found => found.map_err(|errno| os(errno, "its directory").at(path))?,
        };
        Ok(Some(Spot { dir, name }))
    }
}

impl Spot {
    /// What stands there now: the type bits of its mode, or 0.
    pub(super) fn kind(&self) -> Result<libc::mode_t> {
        match nix::sys::stat::fstatat(&self.dir, self.name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(stat.st_mode & libc::S_IFMT),
            Err(Errno::ENOENT) => Ok(0),
            Err(errno) => Err(os(errno, "looking at what is there")),
        }
    }

    /// Removes what stands there, with everything in it.
    pub(super) fn remove(&self) -> Result<()> {
        remove(self.dir.as_fd(), &self.name)
    }

    /// A new file, which the caller owns and nobody else can read yet.
    pub(super) fn file(&self) -> Result<OwnedFd> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        let how = inside(flags, HERE).mode(Mode::from_bits_truncate(0o600));
        openat2(&self.dir, self.name.as_c_str(), how).map_err(|errno| os(errno, "making a file"))
    }

    pub(super) fn make_directory(&self) -> Result<()> {
        mkdirat(&self.dir, self.name.as_c_str(), Mode::from_bits_truncate(0o700))
            .map_err(|errno| os(errno, "making a directory"))
    }

    /// The directory there, itself and no link.
    pub(super) fn open_directory(&self) -> nix::Result<OwnedFd> {
        openat2(&self.dir, self.name.as_c_str(), inside(OFlag::O_DIRECTORY | OFlag::O_RDONLY, HERE))
    }

    pub(super) fn symlink(&self, text: &[u8]) -> Result<()> {
        symlinkat(OsStr::from_bytes(text), &self.dir, self.name.as_c_str())
            .map_err(|errno| os(errno, "making a link"))
    }

    /// Another name for `target`, which is not followed if it is a link.
    pub(super) fn hard_link(&self, target: &Self) -> Result<()> {
        linkat(&target.dir, target.name.as_c_str(), &self.dir, self.name.as_c_str(), AtFlags::empty())
            .map_err(|errno| os(errno, "making a hard link"))
    }

    pub(super) fn node(&self, kind: SFlag, mode: u32, device: (u32, u32)) -> Result<()> {
        let mode = Mode::from_bits_truncate(mode & 0o777);
        let device = libc::makedev(device.0, device.1);
        mknodat(&self.dir, self.name.as_c_str(), kind, mode, device)
            .map_err(|errno| os(errno, "making a node"))
    }

    /// Owner of what is no open file: a link or a node.
    pub(super) fn chown(&self, uid: u32, gid: u32) -> Result<()> {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        fchownat(&self.dir, self.name.as_c_str(), Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(|errno| os(errno, "setting the owner"))
    }
}

fn remove(dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::EISDIR | Errno::EPERM) => {}
        Err(errno) => return Err(os(errno, "removing a file")),
    }
    let inner = openat2(dir, name, inside(OFlag::O_DIRECTORY | OFlag::O_RDONLY, HERE))
        .map_err(|errno| os(errno, "removing a directory"))?;
    for child in children(inner.as_fd())? {
        remove(inner.as_fd(), &child)?;
    }
    unlinkat(dir, name, UnlinkatFlags::RemoveDir).map_err(|errno| os(errno, "removing a directory"))
}

/// Names in a directory.
fn children(dir: BorrowedFd<'_>) -> Result<Vec<CString>> {
    let list = openat2(dir, ".", inside(OFlag::O_DIRECTORY | OFlag::O_RDONLY, HERE))
        .and_then(Dir::from_fd)
        .map_err(|errno| os(errno, "reading a directory"))?;
    let mut names = Vec::new();
    for entry in list {
        let entry = entry.map_err(|errno| os(errno, "reading a directory"))?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Removes from the directory `path` what `keep` does not name: what lower layers put there.
pub(super) fn remove_lower(dir: BorrowedFd<'_>, path: &Path, keep: &dyn Fn(&Path) -> bool) -> Result<()> {
    for child in children(dir)? {
        let at = path.join(OsStr::from_bytes(child.to_bytes()));
        if !keep(&at) {
            remove(dir, &child)?;
        } else if let Ok(inner) =
            openat2(dir, child.as_c_str(), inside(OFlag::O_DIRECTORY | OFlag::O_RDONLY, HERE))
        {
            remove_lower(inner.as_fd(), &at, keep)?;
        }
    }
    Ok(())
}
