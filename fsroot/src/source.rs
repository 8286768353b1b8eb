//! Sources on the host: found by the parent, found again and compared when the root is built.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::fstat;
use palisade_sys::Identity;

use crate::error::{Error, ErrorKind, Result};
use crate::mount::Bind;

/// An inode of the host, by the path that leads to it.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) path: CString,
    pub(crate) identity: Identity,
    /// How it is found again, if that path alone does not say it.
    pub(crate) way: Option<Way>,
    /// Number of the device, for a device node.
    pub(crate) device: (u32, u32),
}

/// A walk in two parts: to a directory, and on without leaving it. The number of an inode is given to another file as
/// soon as it is free, so what is found below is no proof of the way there: this is.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub(crate) directory: CString,
    pub(crate) identity: Identity,
    /// `RESOLVE_…` on the way to the directory.
    pub(crate) resolve: u64,
    /// Nothing: the directory itself.
    pub(crate) below: Option<CString>,
}

impl Source {
    /// Finds `path`; a relative one counts from the current directory.
    pub(crate) fn find(path: &Path) -> Result<Self> {
        Self::open(path).map(|(source, _)| source)
    }

    /// [`Source::find`], and the open file (`O_PATH`).
    pub(crate) fn open(path: &Path) -> Result<(Self, OwnedFd)> {
        Self::open_by(path, ResolveFlag::RESOLVE_NO_MAGICLINKS)
    }

    fn open_by(path: &Path, resolve: ResolveFlag) -> Result<(Self, OwnedFd)> {
        let absolute = std::path::absolute(path).map_err(|e| Error::io(&e, "source").at(path))?;
        let text = c_path(&absolute)?;
        let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(resolve);
        let file = openat2(AT_FDCWD, text.as_c_str(), how).map_err(|errno| {
            let hint = match errno {
                nix::errno::Errno::ELOOP if resolve.contains(ResolveFlag::RESOLVE_NO_SYMLINKS) => {
                    Some("there is a link on the way, where there was none")
                }
                nix::errno::Errno::ELOOP => Some("it leads through a link of /proc, or in circles"),
                nix::errno::Errno::ENOSYS => Some("openat2 is missing: Linux 5.6, or a filter hides it"),
                _ => None,
            };
            Error::os(errno as i32, "source can't be opened").at(path).hint(hint)
        })?;
        let (identity, device) = identify(&file).map_err(|error| error.at(path))?;
        Ok((Self { path: text, identity, way: None, device }, file))
    }

    /// What a bind shows.
    pub(crate) fn of_bind(bind: &Bind) -> Result<(Self, OwnedFd)> {
        let mut resolve = ResolveFlag::RESOLVE_NO_MAGICLINKS;
        if bind.exactly.is_some() {
            resolve |= ResolveFlag::RESOLVE_NO_SYMLINKS;
        }
        let (mut found, directory) = Self::open_by(&bind.source, resolve)?;
        if let Some((device, inode)) = bind.exactly {
            if found.identity.dev != (libc::major(device), libc::minor(device)) || found.identity.ino != inode
            {
                let hint = "it is another file than the one that was looked at before";
                return Err(Error::os(libc::ESTALE, "source has been replaced").at(&bind.source).hint(hint));
            }
        }
        let mut way = Way {
            directory: found.path.clone(),
            identity: found.identity,
            resolve: resolve.bits(),
            below: None,
        };
        let Some(below) = &bind.below else {
            found.way = bind.exactly.map(|_| way);
            return Ok((found, directory));
        };
        let path = bind.source.join(below);
        if below.is_absolute() || below.components().any(|part| part == Component::ParentDir) {
            return Err(Error::new(
                ErrorKind::InvalidPath,
                "a path below a source is relative, without `..`",
            )
            .at(below));
        }
        let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(resolve);
        let file = openat2(&directory, below.as_path(), how).map_err(|errno| {
            let hint = match errno {
                nix::errno::Errno::EXDEV => Some("a link on the way leads out of the source"),
                // Somebody moves directories about meanwhile, and the kernel can't tell that it stays below.
                nix::errno::Errno::EAGAIN => Some("something on the way is being moved: try again"),
                _ => None,
            };
            Error::os(errno as i32, "source can't be opened").at(&path).hint(hint)
        })?;
        (found.identity, found.device) = identify(&file).map_err(|error| error.at(&path))?;
        // The way there is walked again when the root is built, by links that may be others then: again without leaving
        // the directory, and what is found there has to be this inode.
        way.below = Some(c_path(below)?);
        found.way = Some(way);
        found.path = c_path(&std::path::absolute(&path).map_err(|e| Error::io(&e, "source").at(&path))?)?;
        Ok((found, file))
    }

    pub(crate) fn is_dir(&self) -> bool {
        self.is(libc::S_IFDIR)
    }

    pub(crate) fn is(&self, kind: libc::mode_t) -> bool {
        libc::mode_t::from(self.identity.kind) == kind
    }

    pub(crate) fn need_dir(self, what: &'static str) -> Result<Self> {
        if self.is_dir() {
            return Ok(self);
        }
        let path = Path::new(std::ffi::OsStr::from_bytes(self.path.as_bytes()));
        Err(Error::new(ErrorKind::WrongType, format!("{what} has to be a directory")).at(path))
    }
}

fn identify(file: impl AsFd) -> Result<(Identity, (u32, u32))> {
    let stat = fstat(file).map_err(|errno| Error::os(errno as i32, "fstat"))?;
    let number = |dev: libc::dev_t| (libc::major(dev), libc::minor(dev));
    let kind = (stat.st_mode & libc::S_IFMT) as u16;
    Ok((Identity { dev: number(stat.st_dev), ino: stat.st_ino, kind }, number(stat.st_rdev)))
}

/// Where a path leads inside a directory, links followed there: relative to it, without links. Nothing if it leads
/// nowhere, or if this can't be found out.
pub(crate) fn inside(directory: &OwnedFd, path: &Path) -> Option<PathBuf> {
    let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(resolve);
    let found = openat2(directory, path, how).ok()?;
    let name = |file: &OwnedFd| std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok();
    name(&found)?.strip_prefix(name(directory)?).ok().map(Path::to_owned)
}

/// A path for the kernel.
pub(crate) fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Error::new(ErrorKind::InvalidPath, "a path can't hold a NUL byte").at(path))
}
