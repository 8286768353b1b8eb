use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use crate::bytes::{dec, os};
use crate::{Device, Error, FdInfo, NamespaceKind};

/// An open descriptor of a process: one entry of `/proc/PID/fd` and what is behind it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Descriptor {
    /// Its number in that process.
    pub number: u32,
    /// What sort of object it is open on.
    pub kind: DescriptorKind,
    /// The text of the link: a path from the process's root, or `socket:[81]`, `anon_inode:[eventpoll]`…
    pub target: OsString,
    /// Which object it is, by device and inode.
    pub file: Result<FileIdentity, Error>,
    /// Offset, flags (with close-on-exec) and what the kind adds.
    pub info: Result<FdInfo, Error>,
}

/// Device, inode and number of names of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileIdentity {
    /// `st_dev`.
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
    /// `st_nlink`: 0 for a file that was deleted, and for files that never had a name.
    pub links: u32,
}

/// What sort of object a descriptor is open on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DescriptorKind {
    /// A regular file.
    File,
    /// A directory: with fchdir(2) a way to wherever it is, whatever the process's root.
    Directory,
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A FIFO that has a name.
    Fifo,
    /// A symbolic link, opened with `O_PATH | O_NOFOLLOW`.
    Symlink,
    /// A pipe.
    Pipe {
        /// The same for both ends.
        inode: u64,
    },
    /// A socket, of any family.
    Socket {
        /// As in `/proc/net/*` and `ss -e`.
        inode: u64,
    },
    /// A namespace.
    Namespace(NamespaceKind),
    /// A process or thread.
    PidFd,
    /// A memfd, with the name given at its creation. (A deleted file `/memfd:…` in the root directory looks alike.)
    MemFd(OsString),
    /// Another object without a file: `eventpoll`, `eventfd`, `io_uring`, `seccomp notify`, `bpf-map`…
    Anonymous(OsString),
    /// Neither the link nor the file says.
    Unknown,
}

impl DescriptorKind {
    /// The kind, from the text of the link, and the type and device number of the file where they are known.
    ///
    /// Only an absolute path begins with a slash, so no file's name can pose as one of the other objects; what lies
    /// behind a path is told by its type.
    pub fn of(link: &OsStr, mode: Option<u32>, rdev: Device) -> Self {
        let link = link.as_bytes();
        let bracketed = |prefix: &[u8]| {
            let inner = link.strip_prefix(prefix)?.strip_prefix(b":[")?.strip_suffix(b"]")?;
            dec(inner)
        };
        if let Some(inode) = bracketed(b"socket") {
            return Self::Socket { inode };
        }
        if let Some(inode) = bracketed(b"pipe") {
            return Self::Pipe { inode };
        }
        if bracketed(b"pidfd").is_some() {
            return Self::PidFd;
        }
        if let Some(kind) = NamespaceKind::ALL.into_iter().find(|k| bracketed(k.name().as_bytes()).is_some())
        {
            return Self::Namespace(kind);
        }
        if let Some(name) = link.strip_prefix(b"anon_inode:") {
            let name = name.strip_prefix(b"[").and_then(|n| n.strip_suffix(b"]")).unwrap_or(name);
            return if name == b"pidfd" { Self::PidFd } else { Self::Anonymous(os(name)) };
        }
        if let Some(name) = link.strip_prefix(b"/memfd:").and_then(|l| l.strip_suffix(b" (deleted)")) {
            return Self::MemFd(os(name));
        }
        match mode.map(|m| m & libc::S_IFMT) {
            Some(libc::S_IFREG) => Self::File,
            Some(libc::S_IFDIR) => Self::Directory,
            Some(libc::S_IFCHR) => Self::CharDevice(rdev),
            Some(libc::S_IFBLK) => Self::BlockDevice(rdev),
            Some(libc::S_IFIFO) => Self::Fifo,
            Some(libc::S_IFLNK) => Self::Symlink,
            _ => Self::Unknown,
        }
    }
}
