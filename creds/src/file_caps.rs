//! File capabilities: the extended attribute `security.capability` of an executable.

use std::os::fd::AsFd;

use crate::{CapabilitySet, Error, ErrorKind, Result, Uid, sys};

/// What `security.capability` of a file holds, in any of its three versions.
///
/// See [capabilities(7)](https://man7.org/linux/man-pages/man7/capabilities.7.html), "File capabilities".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[doc(alias = "security.capability")]
#[doc(alias = "vfs_cap_data")]
pub struct FileCapabilities {
    /// Given at exec, as far as the bounding set goes.
    pub permitted: CapabilitySet,
    /// Given at exec, as far as the thread's inheritable set goes.
    pub inheritable: CapabilitySet,
    /// Whether what was given is effective at once. Then exec fails if it cannot give all of `permitted`.
    pub effective: bool,
    /// The user who is user 0 in the namespaces where they hold (version 3, Linux 4.14); `None` holds everywhere
    /// that may use the file system's set-user-ID bits.
    pub root: Option<Uid>,
}

const REVISION_MASK: u32 = 0xff00_0000;
const REVISION_1: u32 = 0x0100_0000;
const REVISION_2: u32 = 0x0200_0000;
const REVISION_3: u32 = 0x0300_0000;
const EFFECTIVE: u32 = 1;

impl FileCapabilities {
    /// Reads the value of the attribute, as the kernel does: version and length must match.
    ///
    /// # Errors
    /// [`ErrorKind::Syntax`].
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let bad = || {
            let length = bytes.len();
            Error::new(
                ErrorKind::Syntax,
                format!("{length} bytes of security.capability are of no known version"),
            )
        };
        let words: Vec<u32> =
            bytes.chunks_exact(4).filter_map(|word| word.try_into().ok()).map(u32::from_le_bytes).collect();
        if bytes.len() % 4 != 0 {
            return Err(bad());
        }
        let set = |low: u32, high: u32| CapabilitySet::from_bits(u64::from(low) | u64::from(high) << 32);
        let (magic, permitted, inheritable, root) = match *words.as_slice() {
            [magic, p, i] if magic & REVISION_MASK == REVISION_1 => (magic, set(p, 0), set(i, 0), None),
            [magic, p, i, ph, ih] if magic & REVISION_MASK == REVISION_2 => {
                (magic, set(p, ph), set(i, ih), None)
            }
            [magic, p, i, ph, ih, root] if magic & REVISION_MASK == REVISION_3 => {
                (magic, set(p, ph), set(i, ih), Some(Uid::new(root).ok_or_else(bad)?))
            }
            _ => return Err(bad()),
        };
        Ok(Self { permitted, inheritable, effective: magic & EFFECTIVE != 0, root })
    }

    /// The value to set: version 2, or 3 where there is a `root`.
    pub fn to_bytes(&self) -> Vec<u8> {
        let revision = if self.root.is_some() { REVISION_3 } else { REVISION_2 };
        let (p, i) = (self.permitted.bits(), self.inheritable.bits());
        #[expect(clippy::cast_possible_truncation, reason = "the two halves of a set")]
        let words =
            [revision | u32::from(self.effective), p as u32, i as u32, (p >> 32) as u32, (i >> 32) as u32];
        words.into_iter().chain(self.root.map(Uid::as_raw)).flat_map(u32::to_le_bytes).collect()
    }

    /// Those of an open file (not `O_PATH`); `None` if it has none, or just ones of a namespace that is not the caller's.
    ///
    /// # Errors
    /// [`ErrorKind::Syntax`]; [`ErrorKind::System`] from fgetxattr(2).
    pub fn of(file: impl AsFd) -> Result<Option<Self>> {
        match sys::fgetxattr(file.as_fd(), c"security.capability") {
            Ok(bytes) => Self::parse(&bytes).map(Some),
            Err(libc::ENODATA | libc::EOPNOTSUPP | libc::EOVERFLOW) => Ok(None),
            Err(errno) => Err(Error::os(errno, "fgetxattr(security.capability)")),
        }
    }

    /// Whether they hold in the user namespace from which they were read.
    fn holds(&self) -> bool {
        self.root.is_none_or(|root| root == Uid::ROOT)
    }

    pub(crate) fn that_hold(capabilities: Option<&Self>) -> Option<&Self> {
        capabilities.filter(|capabilities| capabilities.holds())
    }
}
