//! Sets of capabilities, and the presets of the container engines.

use std::fmt;
use std::ops::{BitAnd, BitOr, Not, Sub};
use std::str::FromStr;

use crate::{Capability, Error, ErrorKind, Result};

/// A set of capabilities, in the 64 bits that the kernel has for it.
///
/// It can hold capabilities that a newer kernel has and this crate has no name for: what is read from the kernel is
/// never cut short, so that dropping "everything else" drops those, too. They print as numbers.
///
/// [`Display`](fmt::Display) prints names with commas between them, as [`FromStr`] takes them; `{:x}` prints the
/// mask of `/proc/PID/status`.
///
/// ```
/// use palisade_creds::{Capability, CapabilitySet};
///
/// let kept = CapabilitySet::DOCKER - Capability::NetRaw.into();
/// assert_eq!(format!("{kept:x}"), "00000000a80405fb");
/// assert_eq!("chown,CAP_KILL".parse::<CapabilitySet>()?.to_string(), "CAP_CHOWN,CAP_KILL");
/// # Ok::<(), palisade_creds::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CapabilitySet(u64);

impl CapabilitySet {
    /// No capability.
    pub const EMPTY: Self = Self(0);

    /// Every capability that this crate has a name for.
    pub const KNOWN: Self = Self::of(Capability::ALL);

    /// The 14 that Docker leaves to a container unless told otherwise (moby: `daemon/pkg/oci/caps/defaults.go`).
    pub const DOCKER: Self = Self::of(&[
        Capability::Chown,
        Capability::DacOverride,
        Capability::Fsetid,
        Capability::Fowner,
        Capability::Mknod,
        Capability::NetRaw,
        Capability::Setgid,
        Capability::Setuid,
        Capability::Setfcap,
        Capability::Setpcap,
        Capability::NetBindService,
        Capability::SysChroot,
        Capability::Kill,
        Capability::AuditWrite,
    ]);

    /// The 11 that Podman leaves to a container unless told otherwise (containers/common: `pkg/config/default.go`).
    pub const PODMAN: Self =
        Self(Self::DOCKER.0 & !Self::of(&[Capability::Mknod, Capability::NetRaw, Capability::AuditWrite]).0);

    /// The set of these capabilities.
    pub const fn of(capabilities: &[Capability]) -> Self {
        let mut bits = 0;
        let mut index = 0;
        while index < capabilities.len() {
            bits |= capabilities[index].bit();
            index += 1;
        }
        Self(bits)
    }

    /// The set with these bits, bit 0 being `CAP_CHOWN`.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The bits, bit 0 being `CAP_CHOWN`.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Every capability up to this number, which is how the kernel tells what it has (`/proc/sys/kernel/cap_last_cap`).
    pub const fn up_to(last: u8) -> Self {
        if last >= 63 { Self(u64::MAX) } else { Self((1 << (last + 1)) - 1) }
    }

    /// Whether there is none in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many are in it.
    pub const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether this one is in it.
    pub const fn contains(self, capability: Capability) -> bool {
        self.0 & capability.bit() != 0
    }

    /// Whether all of `other` are in it.
    pub const fn contains_all(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    /// The set and this one.
    #[must_use]
    pub const fn with(self, capability: Capability) -> Self {
        Self(self.0 | capability.bit())
    }

    /// The set but this one.
    #[must_use]
    pub const fn without(self, capability: Capability) -> Self {
        Self(self.0 & !capability.bit())
    }

    /// Those in it that this crate has a name for, by number.
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        Capability::ALL.iter().copied().filter(move |known| self.contains(*known))
    }

    /// The numbers of all in it, whether this crate has a name for them or not.
    pub fn numbers(self) -> impl Iterator<Item = u8> {
        (0..64u8).filter(move |number| self.0 >> number & 1 == 1)
    }

    /// Checks that all in it are in `available` (the caller's bounding set, or what the kernel has for a new user namespace).
    ///
    /// # Errors
    /// [`ErrorKind::CapabilityUnavailable`], naming the first that is missing.
    pub fn check_available(self, available: Self) -> Result<()> {
        let missing = self - available;
        let Some(number) = missing.numbers().next() else { return Ok(()) };
        let hint = "it is above the kernel's last capability, or not in this process's bounding set";
        Err(match Capability::from_number(number) {
            Some(capability) => Error::new(
                ErrorKind::CapabilityUnavailable,
                format!("{capability} (since Linux {}) is not available here", capability.since()),
            )
            .capability_is(capability),
            None => Error::new(
                ErrorKind::CapabilityUnavailable,
                format!("capability {number} is not available here"),
            ),
        }
        .hint_is(hint))
    }
}

impl From<Capability> for CapabilitySet {
    fn from(capability: Capability) -> Self {
        Self(capability.bit())
    }
}

impl FromIterator<Capability> for CapabilitySet {
    fn from_iter<I: IntoIterator<Item = Capability>>(capabilities: I) -> Self {
        Self(capabilities.into_iter().fold(0, |bits, capability| bits | capability.bit()))
    }
}

impl Extend<Capability> for CapabilitySet {
    fn extend<I: IntoIterator<Item = Capability>>(&mut self, capabilities: I) {
        *self = *self | capabilities.into_iter().collect();
    }
}

impl BitOr for CapabilitySet {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitAnd for CapabilitySet {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// The set difference.
impl Sub for CapabilitySet {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// All 64 numbers but those in the set, the unknown ones included.
impl Not for CapabilitySet {
    type Output = Self;

    fn not(self) -> Self {
        Self(!self.0)
    }
}

impl fmt::Display for CapabilitySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, number) in self.numbers().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match Capability::from_number(number) {
                Some(capability) => write!(f, "{comma}{capability}")?,
                None => write!(f, "{comma}{number}")?,
            }
        }
        Ok(())
    }
}

/// The mask as `/proc/PID/status` prints it: 16 hexadecimal digits.
impl fmt::LowerHex for CapabilitySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Names, or numbers up to 63, with commas between them; the empty text is the empty set.
impl FromStr for CapabilitySet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.trim_ascii().is_empty() {
            return Ok(Self::EMPTY);
        }
        text.split(',').try_fold(Self::EMPTY, |set, name| {
            let name = name.trim_ascii();
            match crate::id::decimal(name.as_bytes()) {
                Some(number) if number < 64 => Ok(Self(set.0 | 1 << number)),
                _ => Ok(set.with(name.parse()?)),
            }
        })
    }
}
