//! User and group ids.

use std::fmt;
use std::str::FromStr;

use crate::{Error, ErrorKind, Result};

mod sealed {
    pub trait Sealed: Sized {}
}

/// A user or a group id: what an [`IdMap`](crate::IdMap) translates. [`Uid`] and [`Gid`] are the only ones.
pub trait Id: sealed::Sealed + Copy + Ord + fmt::Debug + fmt::Display {
    /// The id with this number; `None` for `u32::MAX`.
    fn from_raw(raw: u32) -> Option<Self>;
    /// The number.
    fn as_raw(self) -> u32;
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $noun:literal) => {
        $(#[$doc])*
        ///
        /// Every number but `u32::MAX`, which the kernel reads as "no id" or "leave unchanged".
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u32);

        impl $name {
            /// Id 0: all-powerful outside user namespaces, and inside them as far as the namespace reaches.
            pub const ROOT: Self = Self(0);
            /// Id 65534, by custom an id that owns no file; the kernel also shows unmapped ids as this number.
            pub const NOBODY: Self = Self(65534);

            /// The id with this number; `None` for `u32::MAX`.
            pub const fn new(raw: u32) -> Option<Self> {
                if raw == u32::MAX { None } else { Some(Self(raw)) }
            }

            /// The number.
            pub const fn as_raw(self) -> u32 {
                self.0
            }
        }

        impl sealed::Sealed for $name {}

        impl Id for $name {
            fn from_raw(raw: u32) -> Option<Self> {
                Self::new(raw)
            }

            fn as_raw(self) -> u32 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<$name> for u32 {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl TryFrom<u32> for $name {
            type Error = Error;

            fn try_from(raw: u32) -> Result<Self> {
                Self::new(raw).ok_or_else(|| {
                    Error::new(ErrorKind::InvalidId, format!(concat!("{} is no ", $noun, " id"), raw))
                })
            }
        }

        /// Decimal digits only.
        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                decimal(text.as_bytes()).and_then(Self::new).ok_or_else(|| {
                    Error::new(ErrorKind::InvalidId, format!(concat!("{:?} is no ", $noun, " id"), text))
                        .hint_is("ids are decimal numbers from 0 to 4294967294")
                })
            }
        }
    };
}

id_type! {
    /// A user id.
    Uid, "user"
}
id_type! {
    /// A group id.
    Gid, "group"
}

/// A number of decimal digits alone (no sign, no space) that fits 32 bits.
pub(crate) fn decimal(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u32, |value, &byte| match byte {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u32::from(byte - b'0')),
        _ => None,
    })
}
