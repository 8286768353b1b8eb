//! A minimal /dev.

use std::path::{Path, PathBuf};

use crate::flags::MountFlags;
use crate::mount::{Bind, Devpts, Directory, Mount, Mqueue, Symlink, Tmpfs};

/// Character devices that every view has: name, major and minor number.
pub(crate) const DEVICES: &[(&str, (u32, u32))] = &[
    ("null", (1, 3)),
    ("zero", (1, 5)),
    ("full", (1, 7)),
    ("random", (1, 8)),
    ("urandom", (1, 9)),
    ("tty", (5, 0)),
];

/// Links that programs expect: name, contents.
const LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
    // The first terminal of a new devpts has this number; without one the link leads nowhere.
    ("console", "pts/0"),
];

/// A minimal `/dev`: null, zero, full, random, urandom and tty bound from the host, the usual links, terminals and
/// shared memory of its own; `console` is the first of these terminals. Nothing can be added to it, and no other device is there.
#[derive(Clone, Debug)]
pub struct Dev {
    pub(crate) target: PathBuf,
    /// Devices of the host, and where below the target they are seen.
    pub(crate) extra: Vec<(PathBuf, PathBuf)>,
    shm: Shm,
    tty_gid: Option<u32>,
    mqueue: Queues,
}

/// What `/dev/shm` is.
#[derive(Clone, Debug)]
enum Shm {
    Memory { size: u64, inodes: u64 },
    Directory(PathBuf),
    None,
}

/// What `/dev/mqueue` is.
#[derive(Clone, Debug)]
enum Queues {
    None,
    Own { by_parent: bool },
    Directory(PathBuf),
}

impl Dev {
    /// At `target`, which is `/dev` for every program that uses it.
    pub fn new(target: impl AsRef<Path>) -> Self {
        Self {
            target: target.as_ref().to_owned(),
            extra: Vec::new(),
            shm: Shm::Memory { size: Tmpfs::DEFAULT_SIZE, inodes: Tmpfs::DEFAULT_INODES },
            tty_gid: None,
            mqueue: Queues::None,
        }
    }

    /// Adds a device of the host (`/dev/fuse`, `/dev/net/tun`) at its place below `/dev`. The host's permissions of the
    /// node hold: `EACCES` at opening is theirs.
    pub fn device(self, path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        let below = path.strip_prefix("/dev").unwrap_or(path).to_owned();
        self.device_at(path, below)
    }

    /// Adds a device of the host under another name, which is relative to `/dev`.
    pub fn device_at(mut self, path: impl AsRef<Path>, name: impl AsRef<Path>) -> Self {
        let name = name.as_ref();
        self.extra.push((path.as_ref().to_owned(), name.strip_prefix("/").unwrap_or(name).to_owned()));
        self
    }

    /// Limits of `/dev/shm`: bytes and inodes.
    pub fn shm(mut self, size: u64, inodes: u64) -> Self {
        self.shm = Shm::Memory { size, inodes };
        self
    }

    /// `/dev/shm` is a directory of the host: POSIX shared memory is files in it, so views that are given the same
    /// one share that.
    pub fn shm_from(mut self, directory: impl AsRef<Path>) -> Self {
        self.shm = Shm::Directory(directory.as_ref().to_owned());
        self
    }

    /// No `/dev/shm`: `shm_open` fails.
    pub fn no_shm(mut self) -> Self {
        self.shm = Shm::None;
        self
    }

    /// Group of new terminals, where the user namespace maps it.
    pub fn tty_gid(mut self, gid: u32) -> Self {
        self.tty_gid = Some(gid);
        self
    }

    /// Message queues at `/dev/mqueue`: only with an ipc namespace of the same user namespace.
    pub fn mqueue(mut self) -> Self {
        self.mqueue = Queues::Own { by_parent: false };
        self
    }

    /// Message queues at `/dev/mqueue`, of an ipc namespace of another user namespace: see [`Mqueue::by_parent`].
    pub fn mqueue_by_parent(mut self) -> Self {
        self.mqueue = Queues::Own { by_parent: true };
        self
    }

    /// The message queues of the host at `/dev/mqueue`, from where they are mounted there: for views that share the
    /// host's ipc namespace. Left out where nothing stands at `mounted`.
    pub fn mqueue_from(mut self, mounted: impl AsRef<Path>) -> Self {
        self.mqueue = Queues::Directory(mounted.as_ref().to_owned());
        self
    }

    /// Its parts, in order. `own` says that the directory around it belongs to the view and is sealed in the end;
    /// then a directory is enough, and saves a file system.
    pub(crate) fn parts(&self, own: bool) -> Vec<Mount> {
        let at = |name: &str| self.target.join(name);
        let mut parts: Vec<Mount> = Vec::new();
        if own {
            parts.push(Directory::new(&self.target).into());
        } else {
            let entries = DEVICES.len() + LINKS.len() + 2 * self.extra.len() + 8;
            parts.push(
                Tmpfs::new(&self.target).mode(0o755).size(1 << 16).room_for(entries as u64).sealed().into(),
            );
        }
        let devices =
            DEVICES.iter().map(|&(name, number)| Bind::device(&format!("/dev/{name}"), at(name), number));
        parts.extend(devices.map(Mount::from));
        parts.extend(LINKS.iter().map(|&(name, text)| Mount::from(Symlink::new(text, at(name)))));
        let mut pts = Devpts::new(at("pts"));
        if let Some(gid) = self.tty_gid {
            pts = pts.gid(gid);
        }
        parts.push(pts.into());
        match &self.shm {
            Shm::Memory { size, inodes } => {
                let shm = Tmpfs::new(at("shm")).size(*size).inodes(*inodes);
                parts.push(shm.with(MountFlags::NOEXEC).into());
            }
            Shm::Directory(path) => {
                parts.push(Bind::new(path, at("shm")).with(MountFlags::NOEXEC).not_recursive().into());
            }
            Shm::None => {}
        }
        match &self.mqueue {
            Queues::Own { by_parent } => {
                let queues = Mqueue { by_parent: *by_parent, ..Mqueue::new(at("mqueue")) };
                parts.push(queues.into());
            }
            Queues::Directory(path) => {
                let bind = Bind::new(path, at("mqueue")).with(MountFlags::NOEXEC);
                parts.push(bind.not_recursive().optional().into());
            }
            Queues::None => {}
        }
        parts
    }
}
