//! The specification of a root.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::dev::Dev;
use crate::error::Result;
use crate::flags::{MountFlags, Propagation};
use crate::host::HostView;
use crate::masks::Masks;
use crate::mount::{Bind, Mount, Tmpfs};
use crate::overlay::Layers;
use crate::prepare::PreparedRoot;

/// What a process is to see: a root directory, and what is mounted in it.
///
/// A plain value; [`Root::prepare`] looks at the host and turns it into system calls.
#[derive(Clone, Debug)]
pub struct Root {
    pub(crate) base: Base,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) masks: Masks,
    pub(crate) writable: bool,
    pub(crate) flags: MountFlags,
    pub(crate) userns: Option<Arc<OwnedFd>>,
    pub(crate) propagation: Propagation,
    pub(crate) size: u64,
    pub(crate) inodes: u64,
}

/// What stands at `/` before anything is mounted below it.
#[derive(Clone, Debug)]
pub(crate) enum Base {
    Host(Box<HostView>),
    Memory,
    Directory(PathBuf),
    Overlay(Layers),
}

impl From<HostView> for Root {
    fn from(view: HostView) -> Self {
        Self { masks: Masks::docker(), ..Self::new(Base::Host(Box::new(view))) }
    }
}

impl Root {
    fn new(base: Base) -> Self {
        Self {
            base,
            mounts: Vec::new(),
            masks: Masks::none(),
            writable: false,
            flags: MountFlags::NOSUID | MountFlags::NODEV,
            userns: None,
            propagation: Propagation::Private,
            size: Tmpfs::DEFAULT_SIZE,
            inodes: Tmpfs::DEFAULT_INODES,
        }
    }

    /// The host's programs and libraries, read-only, with a private `/tmp`, `/dev` and `/proc`: [`HostView`]'s defaults,
    /// and [`Masks::docker`].
    pub fn host() -> Self {
        HostView::new().into()
    }

    /// Whether what is written in it can end up in a file or directory of the host: a writable directory as the root, an
    /// overlay whose changes are kept on disk, a bind that is not read-only.
    pub fn writes_to_host(&self) -> bool {
        let base = match &self.base {
            Base::Directory(_) => self.writable,
            Base::Overlay(layers) => layers.keeps_changes(),
            Base::Host(_) | Base::Memory => false,
        };
        base || self.mounts.iter().any(Mount::writes_to_host)
    }

    /// A root file system of one's own in a directory: read-only unless [`Root::writable`]. Mount points have to exist
    /// in it; where they don't and it must not be changed, put it under an overlay ([`Root::overlay`]).
    pub fn dir(path: impl AsRef<Path>) -> Self {
        Self::new(Base::Directory(path.as_ref().to_owned()))
    }

    /// An empty root in memory. Directories on the way to a mount point are made; in the end it is read-only unless
    /// [`Root::writable`].
    pub fn empty() -> Self {
        Self::new(Base::Memory)
    }

    /// Several directories as one. Mount points are made where they are missing if it has an upper layer.
    pub fn overlay(layers: Layers) -> Self {
        Self::new(Base::Overlay(layers))
    }

    /// The root itself can be written to. A directory is changed then, for good; a root in memory is limited to 64 MiB
    /// and 16,384 files, or what [`Root::limits`] says. An overlay goes by its upper layer alone.
    pub fn writable(mut self) -> Self {
        self.writable = true;
        self
    }

    /// Limits of a writable root in memory: bytes and inodes.
    pub fn limits(mut self, size: u64, inodes: u64) -> Self {
        (self.size, self.inodes) = (size.max(1), inodes.max(1));
        self
    }

    /// Adds an item; items are made in call order.
    pub fn mount(mut self, item: impl Into<Mount>) -> Self {
        self.mounts.push(item.into());
        self
    }

    /// Adds a file or directory of the host that can be written to: [`Bind::new`].
    pub fn bind(self, source: impl AsRef<Path>, target: impl AsRef<Path>) -> Self {
        self.mount(Bind::new(source, target))
    }

    /// Adds a file or directory of the host, read-only with everything below it: [`Bind::read_only`].
    pub fn bind_ro(self, source: impl AsRef<Path>, target: impl AsRef<Path>) -> Self {
        self.mount(Bind::read_only(source, target))
    }

    /// Adds an empty directory in memory, with the default limits: [`Tmpfs::new`].
    pub fn tmpfs(self, target: impl AsRef<Path>) -> Self {
        self.mount(Tmpfs::new(target))
    }

    /// What is hidden or made read-only once the view stands, in place of what was said before.
    pub fn masks(mut self, masks: Masks) -> Self {
        self.masks = masks;
        self
    }

    /// Hides a path besides what is hidden already: a directory looks empty, a file reads as empty.
    pub fn hide(mut self, path: impl AsRef<Path>) -> Self {
        self.masks = self.masks.hide(path);
        self
    }

    /// Makes a path of the finished view read-only, with everything mounted below it, besides those that are already.
    pub fn protect(mut self, path: impl AsRef<Path>) -> Self {
        self.masks = self.masks.read_only(path);
        self
    }

    /// Changes every [`Dev`] that was added so far, that of the host's view included: to add a device, say.
    pub fn change_dev(mut self, change: impl Fn(Dev) -> Dev) -> Self {
        if let Base::Host(view) = &mut self.base {
            view.change_dev(&change);
        }
        for item in &mut self.mounts {
            if let Mount::Dev(dev) = item {
                *dev = change(dev.clone());
            }
        }
        self
    }

    /// Takes attributes off the root and off the binds of [`Root::host`]: `nosuid`, for payloads that may gain
    /// privileges.
    pub fn without(mut self, flags: MountFlags) -> Self {
        self.flags -= flags;
        self
    }

    /// Owners on disk of a root that is a directory, or of an overlay's layers, are read as ids of `userns`, as
    /// [`Bind::id_mapped`] has it. Layers: since Linux 5.19.
    pub fn id_mapped(mut self, userns: OwnedFd) -> Self {
        self.userns = Some(Arc::new(userns));
        self
    }

    /// How mounts below the finished root spread into mount namespaces that are made from this one; private unless
    /// given.
    pub fn propagation(mut self, propagation: Propagation) -> Self {
        self.propagation = propagation;
        self
    }

    /// Finds every source, decides every step, and turns it into system calls.
    ///
    /// # Errors
    /// A path that is not accepted, a source that does not exist or is of the wrong type, items that contradict each
    /// other, a mount point that is missing in a root that must not be changed.
    pub fn prepare(&self) -> Result<PreparedRoot> {
        PreparedRoot::new(self)
    }
}
