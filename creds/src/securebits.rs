//! The securebits: how the kernel treats user 0 and changes of ids.

use std::fmt;
use std::str::FromStr;

use crate::{Error, ErrorKind, Result};

bitflags::bitflags! {
    /// The securebits of a thread; each has a lock, which nothing opens again. Setting them takes `CAP_SETPCAP`.
    ///
    /// [`Display`](fmt::Display) and [`FromStr`] use the names of systemd and libcap: `noroot`, `noroot-locked`, with
    /// commas. See [capabilities(7)](https://man7.org/linux/man-pages/man7/capabilities.7.html).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    #[doc(alias = "PR_SET_SECUREBITS")]
    pub struct Securebits: u32 {
        /// User 0 gains no capability by an exec.
        #[doc(alias = "SECBIT_NOROOT")]
        const NOROOT = 1 << 0;
        /// Locks [`NOROOT`](Self::NOROOT).
        const NOROOT_LOCKED = 1 << 1;
        /// A change to or from user 0 leaves the capabilities alone.
        #[doc(alias = "SECBIT_NO_SETUID_FIXUP")]
        const NO_SETUID_FIXUP = 1 << 2;
        /// Locks [`NO_SETUID_FIXUP`](Self::NO_SETUID_FIXUP).
        const NO_SETUID_FIXUP_LOCKED = 1 << 3;
        /// The permitted set stays when the last id of user 0 is given up; ends with an exec.
        #[doc(alias = "SECBIT_KEEP_CAPS")]
        const KEEP_CAPS = 1 << 4;
        /// Locks [`KEEP_CAPS`](Self::KEEP_CAPS).
        const KEEP_CAPS_LOCKED = 1 << 5;
        /// Nothing can be added to the ambient set. Linux 4.3.
        #[doc(alias = "SECBIT_NO_CAP_AMBIENT_RAISE")]
        const NO_CAP_AMBIENT_RAISE = 1 << 6;
        /// Locks [`NO_CAP_AMBIENT_RAISE`](Self::NO_CAP_AMBIENT_RAISE).
        const NO_CAP_AMBIENT_RAISE_LOCKED = 1 << 7;
        /// Asks interpreters to run only files that the kernel would execute. Linux 6.14.
        #[doc(alias = "SECBIT_EXEC_RESTRICT_FILE")]
        const EXEC_RESTRICT_FILE = 1 << 8;
        /// Locks [`EXEC_RESTRICT_FILE`](Self::EXEC_RESTRICT_FILE).
        const EXEC_RESTRICT_FILE_LOCKED = 1 << 9;
        /// Asks interpreters to take no commands from elsewhere than files. Linux 6.14.
        #[doc(alias = "SECBIT_EXEC_DENY_INTERACTIVE")]
        const EXEC_DENY_INTERACTIVE = 1 << 10;
        /// Locks [`EXEC_DENY_INTERACTIVE`](Self::EXEC_DENY_INTERACTIVE).
        const EXEC_DENY_INTERACTIVE_LOCKED = 1 << 11;
    }
}

const NAMES: [&str; 6] = [
    "noroot",
    "no-setuid-fixup",
    "keep-caps",
    "no-cap-ambient-raise",
    "exec-restrict-file",
    "exec-deny-interactive",
];

impl Securebits {
    /// A capability-only process for good: user 0 is nobody special, nothing is kept or raised, and all of it locked.
    pub const LOCKED_DOWN: Self = Self::from_bits_truncate(0b1110_1111);

    /// These bits with the locks of all of them, set or not set.
    #[must_use]
    pub const fn locked(self) -> Self {
        Self::from_bits_retain(self.bits() | 0b1010_1010)
    }

    /// Those of these bits that a lock keeps set, with the locks.
    #[must_use]
    pub const fn only_locked(self) -> Self {
        let locks = self.bits() & 0xaaa;
        Self::from_bits_retain(self.bits() & (locks | locks >> 1))
    }

    /// Whether a thread with these bits may get `wanted`: what is locked stays as it is.
    pub const fn allows(self, wanted: Self) -> bool {
        let locks = self.bits() & 0xaaa;
        // A lock stays, and keeps the bit to its right.
        (self.bits() ^ wanted.bits()) & (locks | locks >> 1) == 0
    }
}

impl fmt::Display for Securebits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        for bit in (0..32).filter(|bit| self.bits() >> bit & 1 == 1) {
            match (NAMES.get(bit / 2), bit % 2) {
                (Some(name), 0) => write!(f, "{comma}{name}")?,
                (Some(name), _) => write!(f, "{comma}{name}-locked")?,
                (None, _) => write!(f, "{comma}{bit}")?,
            }
            comma = ",";
        }
        Ok(())
    }
}

impl FromStr for Securebits {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.trim_ascii().is_empty() {
            return Ok(Self::empty());
        }
        text.split(',').map(str::trim_ascii).try_fold(Self::empty(), |bits, word| {
            let (name, lock) = word.strip_suffix("-locked").map_or((word, 0), |name| (name, 1));
            let index = NAMES.iter().position(|known| *known == name);
            let bit = index.map(|index| Self::from_bits_retain(1 << (index * 2 + lock)));
            bit.map(|bit| bits | bit)
                .ok_or_else(|| Error::new(ErrorKind::Syntax, format!("{word:?} is no securebit")))
        })
    }
}
