//! Values that several controllers share, in the kernel's spelling.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// A number of bytes. Parses `268435456`, `256M`, `256m`, `256MiB` (all powers of 1024, as the kernel and Docker
/// read them) and prints the shortest exact form.
///
/// ```
/// # use palisade_cgroup::Bytes;
/// assert_eq!("256M".parse::<Bytes>()?, Bytes::mib(256));
/// assert_eq!(Bytes::new(268435456).to_string(), "256M");
/// # Ok::<(), palisade_cgroup::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(u64);

const UNITS: [(u8, u32); 6] = [(b'E', 60), (b'P', 50), (b'T', 40), (b'G', 30), (b'M', 20), (b'K', 10)];

impl Bytes {
    /// Exactly `n` bytes.
    pub const fn new(n: u64) -> Bytes {
        Bytes(n)
    }

    /// `n` times 1024 bytes; the largest number there is where that overflows.
    pub const fn kib(n: u64) -> Bytes {
        Bytes(n.saturating_mul(1 << 10))
    }

    /// `n` times 1024² bytes; the largest number there is where that overflows.
    pub const fn mib(n: u64) -> Bytes {
        Bytes(n.saturating_mul(1 << 20))
    }

    /// `n` times 1024³ bytes; the largest number there is where that overflows.
    pub const fn gib(n: u64) -> Bytes {
        Bytes(n.saturating_mul(1 << 30))
    }

    /// The number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in UNITS {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{}", self.0 >> shift, unit as char);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl FromStr for Bytes {
    type Err = Error;

    fn from_str(s: &str) -> Result<Bytes> {
        let bad =
            || Error::invalid("bytes", s.as_bytes(), "digits and one of K M G T P E, below 2^64; as in 256M");
        let end = s.find(|c: char| !c.is_ascii_digit()).unwrap_or(s.len());
        let number = number(&s.as_bytes()[..end]).ok_or_else(bad)?;
        let unit = s[end..].to_ascii_uppercase();
        let shift = match unit.as_bytes() {
            [] | b"B" => 0,
            [u] | [u, b'B'] | [u, b'I', b'B'] => UNITS.iter().find(|(n, _)| n == u).ok_or_else(bad)?.1,
            _ => return Err(bad()),
        };
        number.checked_mul(1 << shift).map(Bytes).ok_or_else(bad)
    }
}

/// A limit as the kernel spells it: a value, or `max` for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit<T> {
    /// No limit: the kernel's word `max`.
    #[doc(alias = "max")]
    Max,
    /// At most this much.
    At(T),
}

impl<T> Limit<T> {
    /// The value, or `None` for `max`.
    pub fn value(self) -> Option<T> {
        match self {
            Limit::Max => None,
            Limit::At(v) => Some(v),
        }
    }
}

impl<T> From<T> for Limit<T> {
    fn from(v: T) -> Limit<T> {
        Limit::At(v)
    }
}

impl<T: fmt::Display> fmt::Display for Limit<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::Max => f.write_str("max"),
            Limit::At(v) => v.fmt(f),
        }
    }
}

impl<T: FromStr> FromStr for Limit<T> {
    type Err = T::Err;

    fn from_str(s: &str) -> Result<Limit<T>, T::Err> {
        if s == "max" { Ok(Limit::Max) } else { s.parse().map(Limit::At) }
    }
}

/// A share of a contended resource: 1 to 10000, 100 by default. Used by `cpu.weight` and `io.weight`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u16);

impl Weight {
    /// The kernel's default, 100.
    pub const DEFAULT: Weight = Weight(100);
    /// The smallest weight, 1.
    pub const MIN: Weight = Weight(1);
    /// The largest weight, 10000.
    pub const MAX: Weight = Weight(10_000);

    /// # Errors
    /// [`InvalidValue`](crate::ErrorKind::InvalidValue) outside 1 to 10000.
    pub fn new(weight: u16) -> Result<Weight> {
        if (1..=10_000).contains(&weight) {
            Ok(Weight(weight))
        } else {
            Err(Error::invalid("weight", weight.to_string().as_bytes(), "1 to 10000, 100 by default"))
        }
    }

    /// The weight as a number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl Default for Weight {
    fn default() -> Weight {
        Weight::DEFAULT
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Weight {
    type Err = Error;

    fn from_str(s: &str) -> Result<Weight> {
        let n = number(s.as_bytes()).and_then(|n| u16::try_from(n).ok());
        n.map_or_else(|| Weight::new(0).map_err(|e| e.value(s)), Weight::new)
    }
}

/// Digits only, below 2^64: no sign, no blank, no underscore.
pub(crate) fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |n, c| {
        let digit = c.checked_sub(b'0').filter(|d| *d < 10)?;
        n.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_in_all_spellings() {
        for (text, n) in
            [("0", 0), ("1", 1), ("64k", 65536), ("256MiB", 268_435_456), ("1gb", 1 << 30), ("7b", 7)]
        {
            assert_eq!(text.parse::<Bytes>().expect(text).get(), n, "{text}");
        }
        for text in ["", "M", "-1", "+1", "1X", "1KK", "16E", "18446744073709551616", "1 M", "1.5G", "٣"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
        assert_eq!(Bytes::mib(u64::MAX).get(), u64::MAX);
    }

    #[test]
    fn weights_keep_to_their_range() {
        assert!(Weight::new(0).is_err());
        assert!(Weight::new(10_001).is_err());
        assert!("70000".parse::<Weight>().is_err());
        assert_eq!("10000".parse::<Weight>().expect("in range"), Weight::MAX);
    }

    proptest! {
        #[test]
        fn bytes_round_trip(n: u64) {
            let shown = Bytes::new(n).to_string();
            prop_assert_eq!(shown.parse::<Bytes>().expect("own spelling").get(), n);
            prop_assert_eq!(n.to_string().parse::<Bytes>().expect("kernel spelling").get(), n);
        }

        #[test]
        fn any_text_is_a_value_or_an_error(s in "\\PC*") {
            if let Ok(b) = s.parse::<Bytes>() {
                prop_assert_eq!(b.to_string().parse::<Bytes>().expect("own spelling"), b);
            }
            if let Ok(l) = s.parse::<Limit<Bytes>>() {
                prop_assert_eq!(l.to_string().parse::<Limit<Bytes>>().expect("own spelling"), l);
            }
            if let Ok(w) = s.parse::<Weight>() {
                prop_assert_eq!(w.to_string().parse::<Weight>().expect("own spelling"), w);
            }
        }
    }
}
