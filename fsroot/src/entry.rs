//! Single steps of building a view: what stands where, and where it comes from.

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use crate::flags::{MountFlags, Propagation};
use crate::source::Source;

/// A mount that the privileged parent of a process gets for it, where there is one.
#[derive(Clone, Debug)]
pub(crate) enum Tree {
    Copy(Copied),
    /// The message queues of the ipc namespace that who gets them is in.
    Queues(MountFlags),
}

/// A mount that is copied from the host.
#[derive(Clone, Debug)]
pub(crate) struct Copied {
    pub(crate) source: Source,
    pub(crate) recursive: bool,
    /// Compared by device number, not by inode.
    pub(crate) device: bool,
    pub(crate) flags: MountFlags,
    pub(crate) propagation: Propagation,
    pub(crate) userns: Option<Arc<OwnedFd>>,
}

impl Tree {
    pub(crate) fn copied(&self) -> Option<&Copied> {
        match self {
            Self::Copy(copied) => Some(copied),
            Self::Queues(_) => None,
        }
    }
}

/// One step of building the view.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Where, as the caller wrote it.
    pub(crate) shown: String,
    /// Where it really stands, from the new root: links of the root's directory followed.
    pub(crate) place: PathBuf,
    pub(crate) at: At,
    pub(crate) work: Work,
    /// Others are placed in it: its descriptor stays open.
    pub(crate) holds: bool,
    /// Made read-only in the end.
    pub(crate) sealed: bool,
}

impl Entry {
    /// A file that stands on another one.
    pub(crate) fn is_mounted_file(&self) -> bool {
        matches!((&self.work, &self.at), (Work::File { .. }, At::Found { .. }))
    }
}

/// The place of an entry. `holder` is the index of the entry whose mount the place is in.
#[derive(Clone, Debug)]
pub(crate) enum At {
    /// It is the root.
    Root,
    /// A path whose every component this program makes itself, so that no link can be on it.
    Made { holder: usize, path: CString, make: Option<Point> },
    /// A path in somebody else's directory: resolved inside the mount of the holder, which it can't leave.
    Found { holder: usize, parents: Vec<CString>, name: CString, make: Option<Point> },
    /// On top of an earlier mount.
    On(usize),
}

/// What kind of mount point has to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    File,
    Directory,
}

#[derive(Clone, Debug)]
pub(crate) enum Work {
    /// A mount copied from the host, by index.
    Tree(usize),
    Filesystem {
        name: &'static CStr,
        options: Vec<(&'static CStr, Option<CString>)>,
        flags: MountFlags,
    },
    Overlay {
        lower: Vec<usize>,
        upper: UpperPlan,
        trusted: bool,
        flags: MountFlags,
    },
    File {
        contents: Arc<[u8]>,
        mode: u32,
        owner: Option<(u32, u32)>,
    },
    Symlink(CString),
    Directory {
        mode: u32,
        owner: Option<(u32, u32)>,
    },
}

#[derive(Clone, Debug)]
pub(crate) enum UpperPlan {
    None,
    Tree(usize),
    Memory { size: u64, inodes: u64, mode: u32, owner: Option<(u32, u32)> },
}

impl Work {
    pub(crate) fn is_filesystem(&self, wanted: &str) -> bool {
        matches!(self, Self::Filesystem { name, .. } if name.to_bytes() == wanted.as_bytes())
    }

    pub(crate) fn is_mount(&self) -> bool {
        matches!(self, Self::Tree(_) | Self::Filesystem { .. } | Self::Overlay { .. })
    }
}
