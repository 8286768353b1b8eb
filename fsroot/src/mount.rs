//! What a view is made of: mounts, files, links and directories, each a plain value.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::stat::fstat;

use crate::dev::Dev;
use crate::error::{Error, Result};
use crate::flags::{MountFlags, Propagation};
use crate::overlay::Overlay;
use crate::source::Source;

/// One item of a view. Items are made in the order of the calls that added them; a later one covers an earlier one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Mount {
    /// A file or directory of the host.
    Bind(Bind),
    /// A file system in memory.
    Tmpfs(Tmpfs),
    /// The processes of the pid namespace.
    Proc(Proc),
    /// The devices and the kernel's objects.
    Sysfs(Sysfs),
    /// Terminals.
    Devpts(Devpts),
    /// POSIX message queues.
    Mqueue(Mqueue),
    /// The control groups of the cgroup namespace.
    Cgroup2(Cgroup2),
    /// Several directories as one.
    Overlay(Overlay),
    /// A minimal `/dev`.
    Dev(Dev),
    /// A symbolic link.
    Symlink(Symlink),
    /// A file with given contents.
    File(File),
    /// An empty directory.
    Directory(Directory),
}

impl Mount {
    /// Whether what is written to it can end up in a file or directory of the host.
    pub fn writes_to_host(&self) -> bool {
        match self {
            Self::Bind(bind) => !bind.is_read_only(),
            Self::Overlay(overlay) => overlay.layers.keeps_changes(),
            _ => false,
        }
    }
}

macro_rules! into_mount {
    ($($name:ident),+) => {$(
        impl From<$name> for Mount {
            fn from(item: $name) -> Self {
                Self::$name(item)
            }
        }
    )+};
}
into_mount!(Bind, Tmpfs, Proc, Sysfs, Devpts, Mqueue, Cgroup2, Overlay, Dev, Symlink, File, Directory);

macro_rules! flag_setters {
    ($($name:ident),+) => {$(
        impl $name {
            /// Adds attributes to this mount.
            pub fn with(mut self, flags: MountFlags) -> Self {
                self.flags |= flags;
                self
            }

            /// Takes attributes off this mount: `nosuid` and `nodev`, which are set unless this is called.
            pub fn without(mut self, flags: MountFlags) -> Self {
                self.flags -= flags;
                self
            }
        }
    )+};
}
flag_setters!(Bind, Tmpfs, Proc, Sysfs, Devpts, Mqueue, Cgroup2);

const SAFE: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);
const INERT: MountFlags = SAFE.union(MountFlags::NOEXEC);

/// A file or directory of the host, seen at another place. `nosuid` and `nodev` unless taken off.
///
/// The source is found when the root is prepared and again when it is built; a difference is an error.
/// See [open_tree(2)](https://man7.org/linux/man-pages/man2/open_tree.2.html).
#[derive(Clone, Debug)]
pub struct Bind {
    pub(crate) source: PathBuf,
    /// What of the source, which is not left on the way there.
    pub(crate) below: Option<PathBuf>,
    /// Device and inode that the source has to be.
    pub(crate) exactly: Option<(u64, u64)>,
    pub(crate) target: PathBuf,
    pub(crate) recursive: bool,
    pub(crate) optional: bool,
    pub(crate) device: Option<(u32, u32)>,
    pub(crate) flags: MountFlags,
    pub(crate) propagation: Propagation,
    pub(crate) userns: Option<Arc<OwnedFd>>,
}

impl Bind {
    /// `source` of the host at `target`, writable as far as its own permissions go.
    pub fn new(source: impl AsRef<Path>, target: impl AsRef<Path>) -> Self {
        Self {
            source: source.as_ref().to_owned(),
            below: None,
            exactly: None,
            target: target.as_ref().to_owned(),
            recursive: true,
            optional: false,
            device: None,
            flags: SAFE,
            propagation: Propagation::Private,
            userns: None,
        }
    }

    /// `source` of the host at `target`; nothing can be written through it, nor through any mount below it.
    pub fn read_only(source: impl AsRef<Path>, target: impl AsRef<Path>) -> Self {
        Self::new(source, target).with(MountFlags::READ_ONLY)
    }

    /// Not the source, a directory, but what is at `path` below it. It is found without leaving the source: a link on the
    /// way that leads out, an absolute one or `..` is `EXDEV`, whoever put it there. So whoever may write to the source
    /// can't lead the bind elsewhere (CVE-2017-1002101, CVE-2021-25741). It is walked to again, from the source and within
    /// it, each time the root is built. Since Linux 5.6.
    pub fn subpath(mut self, path: impl AsRef<Path>) -> Self {
        self.below = Some(path.as_ref().to_owned());
        self
    }

    /// The source has to be this inode of this device, as stat(2) numbers them, and no link may be on the way to it:
    /// `ESTALE` and `ELOOP`, when the root is prepared and when it is built. For a directory that was looked at before.
    /// Since Linux 5.6.
    pub fn exactly(mut self, device: u64, inode: u64) -> Self {
        self.exactly = Some((device, inode));
        self
    }

    /// The mounts below the source are left out. In a new user namespace this is `EINVAL` where there are some: the
    /// kernel does not let it uncover what they hide.
    pub fn not_recursive(mut self) -> Self {
        self.recursive = false;
        self
    }

    /// A source that does not exist when the root is prepared is left out.
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// How mounts spread between the source and this copy; private unless given.
    ///
    /// A shared or slave copy belongs to the source's peers if the privileged parent takes it
    /// ([`PreparedRoot::split`](crate::PreparedRoot::split)). Built inside the new mount namespace, a slave follows
    /// what the namespace of the host shares, and a shared one is the first of a peer group of its own.
    pub fn propagation(mut self, propagation: Propagation) -> Self {
        self.propagation = propagation;
        self
    }

    /// Owners on disk are read as ids of `userns`, a user namespace: a file of 1000 belongs to the host's id that
    /// `userns` maps 1000 to, and what that id makes is stored as 1000. So a volume keeps its owners whatever ids a
    /// sandbox has. Since Linux 5.12, on file systems that know it (tmpfs: 6.3); `EINVAL` on others.
    ///
    /// Needs `CAP_SYS_ADMIN` over the source's file system: the part that the privileged parent runs.
    /// See [mount_setattr(2)](https://man7.org/linux/man-pages/man2/mount_setattr.2.html), "ID-mapped mounts".
    pub fn id_mapped(mut self, userns: OwnedFd) -> Self {
        self.userns = Some(Arc::new(userns));
        self
    }

    /// The path on the host, without [`subpath`](Self::subpath).
    pub fn source(&self) -> &Path {
        &self.source
    }

    /// User and group of what is bound, as the calling process sees them.
    ///
    /// # Errors
    /// As of preparing a root with it: there is nothing, or it can't be reached.
    pub fn owner(&self) -> Result<(u32, u32)> {
        let (_, file) = Source::of_bind(self)?;
        let stat = fstat(file).map_err(|errno| Error::os(errno as i32, "fstat").at(&self.source))?;
        Ok((stat.st_uid, stat.st_gid))
    }

    /// Whether what is bound is a directory.
    ///
    /// # Errors
    /// As of [`owner`](Self::owner).
    pub fn is_dir(&self) -> Result<bool> {
        Source::of_bind(self).map(|(found, _)| found.is_dir())
    }

    /// Whether it is read-only.
    pub fn is_read_only(&self) -> bool {
        self.flags.contains(MountFlags::READ_ONLY)
    }

    /// Whether owners are translated.
    pub fn is_id_mapped(&self) -> bool {
        self.userns.is_some()
    }

    /// A character device of the host at `target`; it is checked by its number, and nothing but the device itself can
    /// be changed through it.
    pub(crate) fn device(source: &str, target: PathBuf, number: (u32, u32)) -> Self {
        Self { device: Some(number), ..Self::new(source, target) }
            .with(MountFlags::READ_ONLY | MountFlags::NOEXEC)
            .without(MountFlags::NODEV)
            .not_recursive()
    }
}

/// A file system in memory, always limited. `nosuid` and `nodev` unless taken off.
///
/// See [tmpfs(5)](https://man7.org/linux/man-pages/man5/tmpfs.5.html).
#[derive(Clone, Debug)]
pub struct Tmpfs {
    pub(crate) target: PathBuf,
    pub(crate) size: u64,
    pub(crate) inodes: u64,
    pub(crate) mode: u32,
    pub(crate) owner: Option<(u32, u32)>,
    pub(crate) sealed: bool,
    pub(crate) flags: MountFlags,
}

impl Tmpfs {
    /// Bytes of a tmpfs whose size is not given: 64 MiB.
    pub const DEFAULT_SIZE: u64 = 64 << 20;
    /// Inodes of a tmpfs whose number is not given; each takes about 1 KiB of the kernel's memory.
    pub const DEFAULT_INODES: u64 = 1 << 14;

    /// An empty directory at `target` that everybody may write to (mode 1777), with the default limits.
    pub fn new(target: impl AsRef<Path>) -> Self {
        Self {
            target: target.as_ref().to_owned(),
            size: Self::DEFAULT_SIZE,
            inodes: Self::DEFAULT_INODES,
            mode: 0o1777,
            owner: None,
            sealed: false,
            flags: SAFE,
        }
    }

    /// Limit of the contents in bytes, rounded up to pages; 0 would mean no limit and becomes one page.
    #[doc(alias = "size=")]
    pub fn size(mut self, bytes: u64) -> Self {
        self.size = bytes.max(1);
        self
    }

    /// Limit of the number of files, its root included; at least 1. Since Linux 6.6 each stands for 1 KiB that extended
    /// attributes are taken from as well: under SELinux, whose label every file has, some tenths fewer fit.
    #[doc(alias = "nr_inodes=")]
    pub fn inodes(mut self, inodes: u64) -> Self {
        self.inodes = inodes.max(1);
        self
    }

    /// Room for so many files that are made here, each with a label of a security module.
    pub(crate) fn room_for(self, files: u64) -> Self {
        self.inodes(files.saturating_mul(2))
    }

    /// Permissions of its root.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode & 0o7777;
        self
    }

    /// Owner of its root, as numbers of the user namespace; the building process unless given.
    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        self.owner = Some((uid, gid));
        self
    }

    /// Read-only once everything stands.
    pub fn sealed(mut self) -> Self {
        self.sealed = true;
        self
    }
}

/// Which processes a [`Proc`] shows to users other than their own. Since Linux 5.8 each mount has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HidePid {
    /// All of them.
    Off,
    /// All of them, but not what is in their directories.
    NoAccess,
    /// Not even that they exist.
    Invisible,
    /// Only those that the reader may trace.
    Ptraceable,
}

impl HidePid {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::NoAccess => "noaccess",
            Self::Invisible => "invisible",
            Self::Ptraceable => "ptraceable",
        }
    }
}

/// A fresh procfs of the pid namespace: `nosuid`, `nodev`, `noexec`.
///
/// In a user namespace the kernel refuses it (`EPERM`) unless an unmasked procfs is mounted already: inside most
/// containers there is none. See [proc(5)](https://man7.org/linux/man-pages/man5/proc.5.html).
#[derive(Clone, Debug)]
pub struct Proc {
    pub(crate) target: PathBuf,
    pub(crate) hidepid: Option<HidePid>,
    pub(crate) subset_pid: bool,
    pub(crate) flags: MountFlags,
}

impl Proc {
    /// At `target`, which is `/proc` for every program that uses it.
    pub fn new(target: impl AsRef<Path>) -> Self {
        Self { target: target.as_ref().to_owned(), hidepid: None, subset_pid: false, flags: INERT }
    }

    /// Hides processes of other users.
    #[doc(alias = "hidepid=")]
    pub fn hidepid(mut self, hidepid: HidePid) -> Self {
        self.hidepid = Some(hidepid);
        self
    }

    /// Only the directories of processes: no `/proc/sys`, `/proc/meminfo` … Since Linux 5.8.
    #[doc(alias = "subset=pid")]
    pub fn only_pids(mut self) -> Self {
        self.subset_pid = true;
        self
    }
}

macro_rules! plain {
    ($($(#[$meta:meta])+ $name:ident, $flags:expr;)+) => {$(
        $(#[$meta])+
        #[derive(Clone, Debug)]
        pub struct $name {
            pub(crate) target: PathBuf,
            pub(crate) flags: MountFlags,
        }

        impl $name {
            /// At `target`.
            pub fn new(target: impl AsRef<Path>) -> Self {
                Self { target: target.as_ref().to_owned(), flags: $flags }
            }
        }
    )+};
}

plain! {
    /// A fresh sysfs of the network namespace, which has to be one of the same user namespace (`EPERM` otherwise):
    /// read-only, `nosuid`, `nodev`, `noexec`. See [sysfs(5)](https://man7.org/linux/man-pages/man5/sysfs.5.html).
    Sysfs, INERT.union(MountFlags::READ_ONLY);
    /// The control groups below the root of the cgroup namespace: read-only, `nosuid`, `nodev`, `noexec`.
    /// See [cgroups(7)](https://man7.org/linux/man-pages/man7/cgroups.7.html).
    Cgroup2, INERT.union(MountFlags::READ_ONLY);
}

/// The POSIX message queues of the ipc namespace: `nosuid`, `nodev`, `noexec`. Takes `CAP_SYS_ADMIN` in the user namespace
/// that owns the ipc namespace. See [mq_overview(7)](https://man7.org/linux/man-pages/man7/mq_overview.7.html).
#[derive(Clone, Debug)]
pub struct Mqueue {
    pub(crate) target: PathBuf,
    pub(crate) by_parent: bool,
    pub(crate) flags: MountFlags,
}

impl Mqueue {
    /// At `target`, which is `/dev/mqueue` for every program that uses it.
    pub fn new(target: impl AsRef<Path>) -> Self {
        Self { target: target.as_ref().to_owned(), by_parent: false, flags: INERT }
    }

    /// In a [split](crate::PreparedRoot::split) view: mounted by the privileged parent, of the ipc namespace that it is in
    /// when it takes the sources. For an ipc namespace over which the view's user namespace has no power.
    pub fn by_parent(mut self) -> Self {
        self.by_parent = true;
        self
    }
}

/// Terminals of its own: `nosuid`, `noexec`. See [pts(4)](https://man7.org/linux/man-pages/man4/pts.4.html).
#[derive(Clone, Debug)]
pub struct Devpts {
    pub(crate) target: PathBuf,
    pub(crate) mode: u32,
    pub(crate) gid: Option<u32>,
    pub(crate) max: Option<u32>,
    pub(crate) flags: MountFlags,
}

impl Devpts {
    /// At `target`, with a multiplexer `ptmx` in it that everybody may open.
    pub fn new(target: impl AsRef<Path>) -> Self {
        let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
        Self { target: target.as_ref().to_owned(), mode: 0o620, gid: None, max: None, flags }
    }

    /// Permissions of new terminals; 620 unless given.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode & 0o777;
        self
    }

    /// Group of new terminals: that of `tty`, 5 mostly, where the user namespace maps it. Their opener's unless given.
    pub fn gid(mut self, gid: u32) -> Self {
        self.gid = Some(gid);
        self
    }

    /// Limit of the number of terminals.
    pub fn max(mut self, terminals: u32) -> Self {
        self.max = Some(terminals);
        self
    }
}

/// A symbolic link that is made in a directory of the view's own: a tmpfs, an overlay that can be written.
#[derive(Clone, Debug)]
pub struct Symlink {
    pub(crate) target: PathBuf,
    pub(crate) text: OsString,
}

impl Symlink {
    /// A link at `path` that says `text`.
    pub fn new(text: impl AsRef<OsStr>, path: impl AsRef<Path>) -> Self {
        Self { target: path.as_ref().to_owned(), text: text.as_ref().to_owned() }
    }
}

/// A file with given contents. In a root that is not the view's own it is mounted over the file that stands there.
#[derive(Clone, Debug)]
pub struct File {
    pub(crate) target: PathBuf,
    pub(crate) contents: Arc<[u8]>,
    pub(crate) mode: u32,
    pub(crate) owner: Option<(u32, u32)>,
}

impl File {
    /// `contents` at `path`, mode 644.
    pub fn new(path: impl AsRef<Path>, contents: impl AsRef<[u8]>) -> Self {
        Self {
            target: path.as_ref().to_owned(),
            contents: contents.as_ref().into(),
            mode: 0o644,
            owner: None,
        }
    }

    /// Its permissions.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode & 0o7777;
        self
    }

    /// Its owner, as numbers of the user namespace; the building process unless given. Needs `CAP_CHOWN` there.
    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        self.owner = Some((uid, gid));
        self
    }
}

/// An empty directory, made in a directory of the view's own: a tmpfs, an overlay that can be written.
#[derive(Clone, Debug)]
pub struct Directory {
    pub(crate) target: PathBuf,
    pub(crate) mode: u32,
    pub(crate) owner: Option<(u32, u32)>,
}

impl Directory {
    /// At `path`, mode 755.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self { target: path.as_ref().to_owned(), mode: 0o755, owner: None }
    }

    /// Its permissions.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode & 0o7777;
        self
    }

    /// Its owner, as numbers of the user namespace; the building process unless given. Needs `CAP_CHOWN` there.
    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        self.owner = Some((uid, gid));
        self
    }
}

impl Mount {
    /// Where it is seen.
    pub fn target(&self) -> &Path {
        match self {
            Self::Bind(it) => &it.target,
            Self::Tmpfs(it) => &it.target,
            Self::Proc(it) => &it.target,
            Self::Sysfs(it) => &it.target,
            Self::Devpts(it) => &it.target,
            Self::Mqueue(it) => &it.target,
            Self::Cgroup2(it) => &it.target,
            Self::Overlay(it) => &it.target,
            Self::Dev(it) => &it.target,
            Self::Symlink(it) => &it.target,
            Self::File(it) => &it.target,
            Self::Directory(it) => &it.target,
        }
    }
}
