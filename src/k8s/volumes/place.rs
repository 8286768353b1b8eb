//! A Pod's volumes, where they are on this node, and how its containers get them.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{FileStat, Mode, fchmod, mkdirat};
use nix::unistd::geteuid;
use palisade_fsroot::{Bind, MountFlags, Tmpfs};

use super::directory::{Inode, open_again};
use super::model::VolumeMount;
use super::ownership::{failed, own, stat};
use crate::error::{Error, Result};

/// What a volume is on this node.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// A directory whose owners on disk are ids of the container.
    Directory { path: PathBuf, inode: Inode, read_only: bool },
    /// Below a path of the node that may be shown.
    Host { allowed: PathBuf, below: PathBuf },
    /// In the memory of the one container that has it.
    Memory { size: Option<u64>, group: Option<u32> },
}

/// A volume in a container.
#[derive(Clone, Debug)]
pub(crate) enum Mounted {
    /// Owners on disk are ids of the container, where it has ids of its own.
    Directory(Bind),
    Host(Bind),
    /// Its root is the container's user 0's, and this group's.
    Memory(Tmpfs, u32),
}

/// The volumes of a Pod, set up on this node by [`Volumes::set_up`](super::Volumes::set_up): for
/// [`Node::volumes`](crate::k8s::Node::volumes). Directories that it made stay until their maker removes them.
#[derive(Clone, Debug)]
pub struct PodVolumes {
    pub(super) pod: String,
    pub(super) places: BTreeMap<String, Place>,
}

impl PodVolumes {
    /// Whose they are.
    pub(crate) fn pod(&self) -> &str {
        &self.pod
    }

    /// What a container has of them, outer mount points first. Directories that `subPath` names and that are not there
    /// are made, as a kubelet does it, and mount points within other volumes.
    pub(crate) fn mounted(&self, mounts: &[VolumeMount]) -> Result<Vec<Mounted>, String> {
        let mut sorted: Vec<_> = mounts.iter().enumerate().collect();
        sorted.sort_by_key(|(_, mount)| mount.mount_path.components().count());
        let mut mounted = Vec::new();
        for (nth, (index, mount)) in sorted.iter().enumerate() {
            let within = |around: &&VolumeMount| mount.mount_path.starts_with(&around.mount_path);
            let around = sorted[..nth].iter().rev().map(|(_, around)| *around).find(within);
            let made = self.mount(mount).and_then(|made| {
                around.map_or(Ok(()), |around| self.mount_point(around, mount, &made))?;
                Ok(made)
            });
            mounted.push(made.map_err(|what| format!("volumeMounts[{index}]{what}"))?);
        }
        Ok(mounted)
    }

    /// A place in a volume for what is mounted within it, as a runtime makes it: a directory for a directory, a file for
    /// another file.
    fn mount_point(&self, around: &VolumeMount, mount: &VolumeMount, made: &Mounted) -> Result<(), String> {
        let Some(Place::Directory { path, inode, read_only: false }) = self.places.get(&around.name) else {
            return Ok(());
        };
        let below = match mount.mount_path.strip_prefix(&around.mount_path) {
            Ok(below) if !below.as_os_str().is_empty() => around.sub_path.join(below),
            _ => return Ok(()),
        };
        let last = match made {
            Mounted::Memory(..) => Last::Directory,
            Mounted::Directory(bind) | Mounted::Host(bind) => match bind.is_dir() {
                Ok(false) => Last::File,
                Ok(true) => Last::Directory,
                Err(error) => return Err(format!(".mountPath: {error}")),
            },
        };
        make(path, *inode, &below, last).map_err(|error| format!(".mountPath: {error}"))
    }

    fn mount(&self, mount: &VolumeMount) -> Result<Mounted, String> {
        let name = &mount.name;
        let place = self.places.get(name).ok_or_else(|| format!(".name: volume {name:?} is not set up"))?;
        if !mount.sub_path_expr.is_empty() {
            return Err(format!(
                ".subPathExpr: {:?}: nothing is expanded here: write it out as subPath",
                mount.sub_path_expr
            ));
        }
        match mount.mount_propagation.as_deref() {
            None | Some("None") => {}
            Some(other) => {
                return Err(format!(".mountPropagation: {other}: mounts do not spread here: leave it out"));
            }
        }
        // A kubelet takes a relative one from the root.
        let target = Path::new("/").join(&mount.mount_path);
        let read_only = |volume: bool| {
            if volume || mount.read_only { MountFlags::READ_ONLY } else { MountFlags::empty() }
        };
        let sub = &mount.sub_path;
        let whole = sub.as_os_str().is_empty();
        match place {
            Place::Memory { .. } | Place::Host { .. } if !whole => Err(format!(
                ".subPath: {sub:?}: {name:?} is mounted as a whole here: give a hostPath the path itself, a volume in \
                 memory a directory by Volumes::directory"
            )),
            Place::Memory { size, group } => {
                let sticky = 0o1777;
                let mode = if group.is_some() { sticky | libc::S_ISGID } else { sticky };
                let tmpfs = Tmpfs::new(target).mode(mode).with(read_only(false));
                let tmpfs = size.map_or(tmpfs.clone(), |size| tmpfs.size(size));
                Ok(Mounted::Memory(tmpfs, group.unwrap_or(0)))
            }
            Place::Host { allowed, below } => {
                let mut bind = Bind::new(allowed, target).with(read_only(false));
                if !below.as_os_str().is_empty() {
                    bind = bind.subpath(below);
                }
                Ok(Mounted::Host(bind))
            }
            Place::Directory { path, inode, read_only: volume } => {
                let mut bind = Bind::new(path, target).exactly(inode.0, inode.1).with(read_only(*volume));
                if !whole {
                    if !volume {
                        make(path, *inode, sub, Last::Directory)
                            .map_err(|error| format!(".subPath: {error}"))?;
                    }
                    bind = bind.subpath(sub);
                }
                Ok(Mounted::Directory(bind))
            }
        }
    }
}

/// What a path ends in.
#[derive(Clone, Copy, PartialEq)]
enum Last {
    Directory,
    File,
}

/// Makes the directories of a path in a volume, where there is nothing, and its last part: nothing outside of it, whatever
/// links a container puts in the way meanwhile.
fn make(volume: &Path, inode: Inode, sub: &Path, last: Last) -> Result<()> {
    let root = open_again(volume, inode)?;
    let at = volume.join(sub);
    let inside = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let open = |directory: &OwnedFd, path: &Path, flags: OFlag, resolve: ResolveFlag| {
        openat2(directory, path, OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve))
    };
    match open(&root, sub, OFlag::O_PATH, inside) {
        Ok(_) => return Ok(()),
        Err(Errno::ENOENT) => {}
        Err(errno) => {
            let error = failed("openat2", &errno.into(), &at);
            let outside = "a link on the way leads out of the volume";
            return Err(if errno == Errno::EXDEV { error.with_hint(outside) } else { error });
        }
    }
    // With the volume's own mode: its set-group-ID bit has given the new one its group.
    let mode = Mode::from_bits_truncate(stat(&root, volume)?.st_mode & 0o2777);
    let mut directory = root;
    let mut parts = sub.components().filter(|part| *part != Component::CurDir).peekable();
    while let Some(part) = parts.next() {
        let Component::Normal(name) = part else {
            let what = format!("{}: a path below a volume has no `..`", sub.display());
            return Err(Error::invalid(what));
        };
        let name = Path::new(name);
        if last == Last::File && parts.peek().is_none() {
            let flags =
                OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let how = OpenHow::new().flags(flags).mode(Mode::from_bits_truncate(0o644)).resolve(inside);
            return match openat2(&directory, name, how) {
                Ok(_) | Err(Errno::EEXIST) => Ok(()),
                Err(errno) => Err(failed("openat2", &errno.into(), &at)),
            };
        }
        let new = match mkdirat(&directory, name, Mode::from_bits_truncate(0o700)) {
            Ok(()) => true,
            Err(Errno::EEXIST) => false,
            Err(errno) => return Err(failed("mkdirat", &errno.into(), &at)),
        };
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        let next = open(&directory, name, flags, inside | ResolveFlag::RESOLVE_NO_SYMLINKS);
        directory = next.map_err(|errno| failed("openat2", &errno.into(), &at))?;
        if new {
            // A container may have put another one there since.
            if !is_new(&directory, &stat(&directory, &at)?, &at)? {
                let what = "somebody has put another directory there meanwhile: try again";
                return Err(Error::invalid(format!("{}: {what}", at.display())));
            }
            fchmod(&directory, mode).map_err(|errno| failed("fchmod", &errno.into(), &at))?;
        }
    }
    Ok(())
}

/// Whether a directory may be the one that was just made: ours, and empty.
fn is_new(directory: &OwnedFd, found: &FileStat, at: &Path) -> Result<bool> {
    let mut entries = std::fs::read_dir(own(directory)).map_err(|error| failed("openat", &error, at))?;
    Ok(found.st_uid == geteuid().as_raw() && entries.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A payload put another directory in the place of the one that was just made, and that one's mode was changed.
    #[test]
    fn a_directory_that_is_not_the_new_one_is_known() {
        let dir = palisade_testkit::temp_dir();
        let at = dir.path().join("new");
        std::fs::create_dir(&at).unwrap();
        let look = || {
            let file = OwnedFd::from(std::fs::File::open(&at).unwrap());
            is_new(&file, &stat(&file, &at).unwrap(), &at).unwrap()
        };
        assert!(look());
        std::fs::write(at.join("theirs"), "").unwrap();
        assert!(!look(), "it is not empty");
        std::fs::remove_file(at.join("theirs")).unwrap();
        if palisade_testkit::is_root() {
            std::os::unix::fs::chown(&at, Some(1000), None).unwrap();
            assert!(!look(), "it is somebody else's");
        }
    }
}
