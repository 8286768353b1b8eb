use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use crate::Error;
use crate::bytes::{key_value, lines, os};

/// `/proc/PID/fdinfo/FD`: offset and flags of an open descriptor, and what its kind adds.
///
/// See [proc_pid_fdinfo(5)](https://man7.org/linux/man-pages/man5/proc_pid_fdinfo.5.html).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FdInfo {
    /// `pos`: the offset in bytes; can be negative for memory devices.
    pub position: i64,
    /// `flags`: access mode and status flags as open(2) takes them, with `O_CLOEXEC` for close-on-exec.
    pub flags: u32,
    /// `mnt_id`: the mount that the file was opened on, as [`Mount::id`](crate::Mount::id).
    pub mount_id: Option<u64>,
    /// `ino` (Linux 5.14).
    pub inode: Option<u64>,
    /// The lines that the kind of file adds, as they are: `eventfd-count:`, `Pid:`, `inotify wd:…`, `lock:`…
    pub extra: Vec<OsString>,
}

impl FdInfo {
    /// Reads the text of a `fdinfo` file.
    ///
    /// # Errors
    /// [`Malformed`](crate::ErrorKind::Malformed) with the line and field, also where `pos` or `flags` is missing.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let (mut position, mut flags, mut mount_id, mut inode) = (None, None, None, None);
        let mut extra = Vec::new();
        let mut end = crate::bytes::At { file: "fdinfo", line: 1 };
        for (at, line) in lines("fdinfo", text) {
            end = at;
            // The kernel prints its own four first; what a driver prints after them must not replace them.
            match key_value(line) {
                Some((b"pos", v)) if position.is_none() => position = Some(at.int("pos", v)?),
                Some((b"flags", v)) if flags.is_none() => flags = Some(at.octal("flags", v)?),
                Some((b"mnt_id", v)) if mount_id.is_none() => mount_id = Some(at.num("mnt_id", v)?),
                Some((b"ino", v)) if inode.is_none() => inode = Some(at.num("ino", v)?),
                _ => extra.push(os(line)),
            }
        }
        let (position, flags) = (end.required("pos", position)?, end.required("flags", flags)?);
        Ok(Self { position, flags, mount_id, inode, extra })
    }

    /// Whether an exec closes it.
    pub fn close_on_exec(&self) -> bool {
        self.flags & libc::O_CLOEXEC.unsigned_abs() != 0
    }

    /// Whether it was opened with `O_PATH`: a handle on a place, without access to contents.
    pub fn is_path(&self) -> bool {
        self.flags & libc::O_PATH.unsigned_abs() != 0
    }

    /// Whether its flags allow writing (an `O_PATH` handle never does).
    pub fn is_writable(&self) -> bool {
        !self.is_path() && self.flags & libc::O_ACCMODE.unsigned_abs() != libc::O_RDONLY.unsigned_abs()
    }

    /// The value of an extra line `key: value`.
    pub fn extra(&self, key: &str) -> Option<&OsStr> {
        let value = |l| key_value(l).filter(|(k, _)| *k == key.as_bytes()).map(|(_, v)| OsStr::from_bytes(v));
        self.extra.iter().find_map(|l| value(l.as_bytes()))
    }
}
