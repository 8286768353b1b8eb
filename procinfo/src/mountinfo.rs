use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::bytes::{At, lines, os, split_at, unescape_octal};

/// `/proc/PID/mountinfo`: the mounts of a process's mount namespace that lie below its root, in the kernel's order
/// (a later mount on the same place covers an earlier one).
///
/// See [proc_pid_mountinfo(5)](https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mounts {
    /// One for each line.
    pub mounts: Vec<Mount>,
}

/// One mount. Every text is the kernel's bytes with its octal escapes undone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Mount {
    /// Unique among the mounts that exist; used again later (`statx` has an unambiguous one).
    pub id: u64,
    /// The mount that this one lies on; of the topmost one, something outside of the list.
    pub parent: u64,
    /// `st_dev` of the files on it.
    pub device: Device,
    /// Which directory of the file system is its root. Not always a path: `net:[4026531840]` for a namespace file,
    /// `/../..` for a cgroup above the namespace's root, a path ending in `//deleted` where it was removed.
    pub root: PathBuf,
    /// Where it is mounted, from the process's root.
    pub mount_point: PathBuf,
    /// The options of the mount itself (`rw,nosuid,relatime`); see [`has_option`](Mount::has_option).
    pub options: OsString,
    /// Who is told of mounts made below it, and whose it takes over.
    pub propagation: Propagation,
    /// `overlay`, `proc`, `fuse.sshfs`…
    pub fs_type: OsString,
    /// The device or name it was mounted from. May be empty, and is whatever the mounting program said.
    pub source: OsString,
    /// The options of the file system (the super block), shared by all its mounts; see
    /// [`has_super_option`](Mount::has_super_option).
    pub super_options: OsString,
}

/// A device number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Device {
    /// 0 for file systems without a device.
    pub major: u32,
    /// Which one of them.
    pub minor: u32,
}

/// The optional fields: mount propagation, see
/// [mount_namespaces(7)](https://man7.org/linux/man-pages/man7/mount_namespaces.7.html). All empty: private.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Propagation {
    /// `shared:N`: the peer group that it sends to and receives from.
    pub shared: Option<u32>,
    /// `master:N`: the peer group that it receives from.
    pub master: Option<u32>,
    /// `propagate_from:N`: the nearest dominant peer group below the process's root.
    pub propagate_from: Option<u32>,
    /// `unbindable`: private, and cannot be the source of a bind.
    pub unbindable: bool,
    /// Fields that this crate does not know.
    pub other: Vec<OsString>,
}

impl Propagation {
    /// Neither shared nor slave: nothing that is mounted elsewhere shows up here, and the other way round.
    pub fn is_private(&self) -> bool {
        self.shared.is_none() && self.master.is_none()
    }
}

impl Mounts {
    /// Reads the text of a `mountinfo` file. Total on everything that Linux prints: an empty source, escapes, any
    /// number of optional fields, blanks in the options of a file system that does not escape them.
    ///
    /// # Errors
    /// [`Malformed`](crate::ErrorKind::Malformed) with the line and field.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let mounts = lines("mountinfo", text).map(|(at, l)| Mount::parse(at, l)).collect::<Result<_, _>>()?;
        Ok(Self { mounts })
    }

    /// The mounts in the kernel's order.
    pub fn iter(&self) -> std::slice::Iter<'_, Mount> {
        self.mounts.iter()
    }

    /// The mount that a path lookup at exactly `mount_point` ends on: of several stacked there, the last.
    pub fn at(&self, mount_point: impl AsRef<Path>) -> Option<&Mount> {
        let mount_point = mount_point.as_ref();
        self.mounts.iter().rev().find(|m| m.mount_point == mount_point)
    }

    /// The mount with this id.
    pub fn by_id(&self, id: u64) -> Option<&Mount> {
        self.mounts.iter().find(|m| m.id == id)
    }
}

impl<'a> IntoIterator for &'a Mounts {
    type Item = &'a Mount;
    type IntoIter = std::slice::Iter<'a, Mount>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Mount {
    fn parse(at: At, line: &[u8]) -> Result<Self, Error> {
        // Split at every single blank: two in a row are an empty field.
        let mut f = line.split(|c| *c == b' ');
        let id = at.num("mount id", at.next("mount id", &mut f)?)?;
        let parent = at.num("parent id", at.next("parent id", &mut f)?)?;
        let device = at.next("device", &mut f)?;
        let device = Device::parse(device).ok_or_else(|| at.bad("device", device))?;
        let root = PathBuf::from(unescape_octal(at.next("root", &mut f)?));
        let mount_point = PathBuf::from(unescape_octal(at.next("mount point", &mut f)?));
        let options = unescape_octal(at.next("options", &mut f)?);
        let mut propagation = Propagation::default();
        loop {
            match at.next("separator", &mut f)? {
                b"-" => break,
                field => propagation.field(at, field)?,
            }
        }
        let fs_type = unescape_octal(at.next("file system type", &mut f)?);
        let source = unescape_octal(at.next("source", &mut f)?);
        // All of the rest: some file systems do not escape the blanks in their options.
        let mut super_options = at.next("super options", &mut f)?.to_vec();
        for more in f {
            super_options.push(b' ');
            super_options.extend(more);
        }
        let super_options = unescape_octal(&super_options);
        Ok(Self {
            id,
            parent,
            device,
            root,
            mount_point,
            options,
            propagation,
            fs_type,
            source,
            super_options,
        })
    }

    /// Whether the mount has an option, such as `ro` or `nosuid`.
    pub fn has_option(&self, option: &str) -> bool {
        has(&self.options, option)
    }

    /// Whether the file system has an option, such as `ro` or `size=64k`.
    pub fn has_super_option(&self, option: &str) -> bool {
        has(&self.super_options, option)
    }

    /// Whether writing is refused, be it by the mount or by its file system.
    pub fn is_read_only(&self) -> bool {
        self.has_option("ro") || self.has_super_option("ro")
    }
}

fn has(options: &OsString, option: &str) -> bool {
    options.as_bytes().split(|c| *c == b',').any(|o| o == option.as_bytes())
}

impl Device {
    pub(crate) fn parse(b: &[u8]) -> Option<Self> {
        let (major, minor) = split_at(b, b':')?;
        let number = |b| crate::bytes::dec(b).and_then(|n| u32::try_from(n).ok());
        Some(Self { major: number(major)?, minor: number(minor)? })
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl Propagation {
    fn field(&mut self, at: At, field: &[u8]) -> Result<(), Error> {
        if let Some(n) = field.strip_prefix(b"shared:") {
            self.shared = Some(at.num("shared", n)?);
        } else if let Some(n) = field.strip_prefix(b"master:") {
            self.master = Some(at.num("master", n)?);
        } else if let Some(n) = field.strip_prefix(b"propagate_from:") {
            self.propagate_from = Some(at.num("propagate_from", n)?);
        } else if field == b"unbindable" {
            self.unbindable = true;
        } else {
            self.other.push(os(field));
        }
        Ok(())
    }
}
