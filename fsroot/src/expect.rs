//! What the mount table of a view has to say, for whoever compares it with the kernel's.

use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::entry::{Entry, Tree, Work};
use crate::flags::{MountFlags, Propagation};
use crate::prepare::PreparedRoot;

/// A mount of a view that stands: its place, and what `/proc/PID/mountinfo` has to say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Placed {
    /// Where it stands, from the new root. Links of the root's directory are followed as they were when the root was
    /// prepared.
    pub path: PathBuf,
    /// The attributes that it has at least.
    pub flags: MountFlags,
    /// The type of a new file system; `None` for a copy of a mount of the host.
    pub filesystem: Option<&'static str>,
    /// What was mounted below the source is below it too, with the same attributes at least.
    pub recursive: bool,
    /// Mounts that the host makes or takes away below the source are followed.
    pub follows: bool,
}

impl PreparedRoot {
    /// The mounts of the view, the root first, in the order in which they are made: a later one on the same place covers
    /// an earlier one.
    pub fn placed(&self) -> Vec<Placed> {
        self.entries.iter().filter_map(|entry| self.placed_one(entry)).collect()
    }

    fn placed_one(&self, entry: &Entry) -> Option<Placed> {
        let own = MountFlags::READ_ONLY | MountFlags::NOSUID | MountFlags::NODEV;
        let name = |name: &'static CStr| name.to_str().ok();
        let (flags, filesystem, tree) = match &entry.work {
            Work::Tree(index) => match &self.trees[*index] {
                Tree::Copy(copied) => (copied.flags, None, Some(copied)),
                Tree::Queues(flags) => (*flags, Some("mqueue"), None),
            },
            Work::Filesystem { name: kind, flags, .. } => (*flags, name(kind), None),
            Work::Overlay { flags, .. } => (*flags, Some("overlay"), None),
            // A file that covers another one is a mount; any other is made in a directory.
            Work::File { .. } if entry.is_mounted_file() => (own, None, None),
            Work::File { .. } | Work::Symlink(_) | Work::Directory { .. } => return None,
        };
        Some(Placed {
            path: Path::new("/").join(&entry.place),
            flags: if entry.sealed { flags | MountFlags::READ_ONLY } else { flags },
            filesystem,
            recursive: tree.is_some_and(|tree| tree.recursive),
            follows: self.propagation != Propagation::Private
                || tree.is_some_and(|tree| tree.propagation != Propagation::Private),
        })
    }

    /// The paths that are hidden where they exist: each is a mount.
    pub fn hidden(&self) -> impl Iterator<Item = &Path> {
        self.hidden.iter().map(|hidden| Path::new(OsStr::from_bytes(hidden.path.to_bytes())))
    }

    /// The paths that are read-only where they exist: each is a mount.
    pub fn read_only(&self) -> impl Iterator<Item = &Path> {
        self.read_only.iter().map(|path| Path::new(OsStr::from_bytes(path.to_bytes())))
    }

    /// Sources of [optional](crate::Bind::optional) binds that were asked for and are not there, as they do not exist.
    pub fn left_out(&self) -> &[PathBuf] {
        &self.left_out
    }
}
