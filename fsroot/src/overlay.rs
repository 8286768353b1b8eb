//! Several directories as one.

use std::path::{Path, PathBuf};

use crate::flags::MountFlags;

/// The directories of an overlay: read-only layers, and where changes go.
///
/// See [overlayfs](https://docs.kernel.org/filesystems/overlayfs.html).
#[derive(Clone, Debug)]
pub struct Layers {
    pub(crate) lower: Vec<PathBuf>,
    pub(crate) upper: Upper,
    /// Owner of the upper layer's root in memory.
    pub(crate) owner: Option<(u32, u32)>,
    pub(crate) trusted: bool,
    pub(crate) flags: MountFlags,
}

/// Where the changes of an overlay go.
#[derive(Clone, Debug)]
pub(crate) enum Upper {
    None,
    Directory(PathBuf),
    Memory { size: u64, inodes: u64 },
}

impl Layers {
    pub(crate) fn keeps_changes(&self) -> bool {
        matches!(self.upper, Upper::Directory(_))
    }

    /// `lower` and what is added below it, read-only until an upper layer is given.
    pub fn new(lower: impl AsRef<Path>) -> Self {
        Self {
            lower: vec![lower.as_ref().to_owned()],
            upper: Upper::None,
            owner: None,
            trusted: false,
            flags: MountFlags::NOSUID | MountFlags::NODEV,
        }
    }

    /// A layer below those so far: what they have, they hide in it. At most 500 in all, the kernel's limit; more than
    /// 100 need Linux 6.7.
    pub fn lower(mut self, lower: impl AsRef<Path>) -> Self {
        self.lower.push(lower.as_ref().to_owned());
        self
    }

    /// Changes are kept on disk in `directory`, which holds two directories of one file system, made by the caller:
    /// `upper` with the changes and `work`, empty, for the kernel. No two overlays may use it at a time.
    #[doc(alias = "upperdir")]
    #[doc(alias = "workdir")]
    pub fn upper(mut self, directory: impl AsRef<Path>) -> Self {
        self.upper = Upper::Directory(directory.as_ref().to_owned());
        self
    }

    /// Changes live in memory, `size` bytes and `inodes` files at most, and end with the mount namespace.
    ///
    /// Before Linux 6.6 memory keeps no `user.*` attributes: directories of a lower layer can't be replaced then.
    pub fn upper_in_memory(mut self, size: u64, inodes: u64) -> Self {
        self.upper = Upper::Memory { size: size.max(1), inodes: inodes.max(4) };
        self
    }

    /// Owner of the directory that changes in memory live in, which is what the overlay's own root shows, as numbers of
    /// the user namespace; the building process unless given. Its mode is that of the first layer.
    pub fn upper_owner(mut self, uid: u32, gid: u32) -> Self {
        self.owner = Some((uid, gid));
        self
    }

    /// The overlay's own attributes are `trusted.overlay.*`, as engines that run as root keep them in their layers,
    /// and not `user.overlay.*`. Works in the first user namespace only.
    #[doc(alias = "userxattr")]
    pub fn trusted_attributes(mut self) -> Self {
        self.trusted = true;
        self
    }

    /// Adds attributes to the mount. An overlay with an upper layer that is the root becomes
    /// [read-only](MountFlags::READ_ONLY) in the end, when all mount points are made.
    pub fn with(mut self, flags: MountFlags) -> Self {
        self.flags |= flags;
        self
    }

    /// Takes attributes off the mount: `nosuid` and `nodev`, which are set unless this is called.
    pub fn without(mut self, flags: MountFlags) -> Self {
        self.flags -= flags;
        self
    }

    /// Read-only although there is an upper layer.
    pub(crate) fn is_sealed(&self) -> bool {
        !matches!(self.upper, Upper::None) && self.flags.contains(MountFlags::READ_ONLY)
    }

    pub(crate) fn is_writable(&self) -> bool {
        !matches!(self.upper, Upper::None) && !self.flags.contains(MountFlags::READ_ONLY)
    }
}

/// Several directories as one at a place of the view.
#[derive(Clone, Debug)]
pub struct Overlay {
    pub(crate) target: PathBuf,
    pub(crate) layers: Layers,
}

impl Overlay {
    /// `layers` at `target`.
    pub fn new(target: impl AsRef<Path>, layers: Layers) -> Self {
        Self { target: target.as_ref().to_owned(), layers }
    }
}
