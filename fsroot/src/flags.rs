//! Attributes of one mount, and how mounts and unmounts spread.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind};

bitflags::bitflags! {
    /// Attributes of one mount, in the kernel's spelling: `"ro,nosuid,nodev"` parses, and prints the same.
    ///
    /// See [mount_setattr(2)](https://man7.org/linux/man-pages/man2/mount_setattr.2.html).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct MountFlags: u64 {
        /// `ro`: nothing is changed through this mount. Device nodes can still be written to.
        const READ_ONLY = libc::MOUNT_ATTR_RDONLY;
        /// `nosuid`: set-user-id bits and file capabilities have no effect.
        const NOSUID = libc::MOUNT_ATTR_NOSUID;
        /// `nodev`: device nodes can't be opened.
        const NODEV = libc::MOUNT_ATTR_NODEV;
        /// `noexec`: nothing can be executed or mapped executable.
        const NOEXEC = libc::MOUNT_ATTR_NOEXEC;
        /// `noatime`: reading does not change access times.
        const NOATIME = libc::MOUNT_ATTR_NOATIME;
        /// `strictatime`: every reading changes access times.
        const STRICTATIME = libc::MOUNT_ATTR_STRICTATIME;
        /// `nodiratime`: reading a directory does not change its access time.
        const NODIRATIME = libc::MOUNT_ATTR_NODIRATIME;
        /// `nosymfollow`: symbolic links are not followed. Since Linux 5.10.
        const NOSYMFOLLOW = libc::MOUNT_ATTR_NOSYMFOLLOW;
    }
}

const NAMES: &[(MountFlags, &str)] = &[
    (MountFlags::READ_ONLY, "ro"),
    (MountFlags::NOSUID, "nosuid"),
    (MountFlags::NODEV, "nodev"),
    (MountFlags::NOEXEC, "noexec"),
    (MountFlags::NOATIME, "noatime"),
    (MountFlags::STRICTATIME, "strictatime"),
    (MountFlags::NODIRATIME, "nodiratime"),
    (MountFlags::NOSYMFOLLOW, "nosymfollow"),
];

impl fmt::Display for MountFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> =
            NAMES.iter().filter(|(flag, _)| self.contains(*flag)).map(|(_, name)| *name).collect();
        f.write_str(&names.join(","))
    }
}

impl FromStr for MountFlags {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut flags = Self::empty();
        for word in text.split(',').filter(|word| !word.is_empty()) {
            let Some((flag, _)) = NAMES.iter().find(|(_, name)| *name == word) else {
                return Err(Error::new(ErrorKind::InvalidValue, format!("{word:?} is no mount flag"))
                    .hint("known: ro nosuid nodev noexec noatime strictatime nodiratime nosymfollow"));
            };
            flags |= *flag;
        }
        if flags.contains(Self::NOATIME | Self::STRICTATIME) {
            return Err(Error::new(ErrorKind::InvalidValue, "noatime and strictatime exclude each other"));
        }
        Ok(flags)
    }
}

/// The part of the attributes that is one number, not bits: `MOUNT_ATTR__ATIME`.
const ATIME_FIELD: u64 = 0x70;

impl MountFlags {
    /// What a mount has to lose so that these can be set.
    pub(crate) fn clears(self) -> u64 {
        if self.intersects(Self::NOATIME | Self::STRICTATIME) { ATIME_FIELD } else { 0 }
    }
}

/// Whether mounts and unmounts below one mount are seen below its copies.
///
/// See [mount_namespaces(7)](https://man7.org/linux/man-pages/man7/mount_namespaces.7.html).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Propagation {
    /// Neither way.
    #[default]
    Private,
    /// What the original gets, the copy gets too; not the other way round.
    Slave,
    /// Both ways.
    Shared,
    /// Neither way, and no copy can be made.
    Unbindable,
}

impl Propagation {
    pub(crate) fn bits(self) -> u64 {
        match self {
            Self::Private => libc::MS_PRIVATE,
            Self::Slave => libc::MS_SLAVE,
            Self::Shared => libc::MS_SHARED,
            Self::Unbindable => libc::MS_UNBINDABLE,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Slave => "slave",
            Self::Shared => "shared",
            Self::Unbindable => "unbindable",
        }
    }
}

impl fmt::Display for Propagation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Propagation {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let all = [Self::Private, Self::Slave, Self::Shared, Self::Unbindable];
        all.into_iter().find(|kind| kind.name() == text).ok_or_else(|| {
            Error::new(ErrorKind::InvalidValue, format!("{text:?} is no propagation type"))
                .hint("known: private slave shared unbindable")
        })
    }
}
