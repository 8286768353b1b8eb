//! Interface names and link-layer addresses.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// The name of a network interface: 1 to 15 bytes.
///
/// The kernel refuses `/`, `:`, white space, `.` and `..`; this type also refuses `%` (which the kernel takes for a
/// template, `veth%d`), `*`, `"` and `\` (which mean something in rules) and everything outside printable ASCII.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IfName(String);

impl IfName {
    /// The loopback interface, `lo`.
    #[must_use]
    pub fn loopback() -> Self {
        Self("lo".into())
    }

    /// Checks a name.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if the kernel would refuse the name or take it for a template.
    pub fn new(name: impl AsRef<str>) -> Result<Self> {
        let name = name.as_ref();
        let fine = (1..=15).contains(&name.len())
            && name != "."
            && name != ".."
            && name.bytes().all(|b| b.is_ascii_graphic() && !b"/:%*\"\\".contains(&b));
        if fine {
            Ok(Self(name.into()))
        } else {
            Err(Error::invalid(
                format_args!("interface name {name:?}"),
                "1 to 15 printable ASCII characters, none of / : % * \" \\, and not . or ..",
            ))
        }
    }

    /// A name that the kernel reported, which may be odder than what [`new`](Self::new) lets through.
    pub(crate) fn reported(name: String) -> Self {
        Self(name)
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IfName {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        Self::new(s)
    }
}

impl TryFrom<&str> for IfName {
    type Error = Error;
    fn try_from(s: &str) -> Result<Self> {
        Self::new(s)
    }
}

impl AsRef<str> for IfName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An Ethernet address, written `02:00:00:00:00:01`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// Whether this may be the address of one interface: not a group address and not all zero.
    #[must_use]
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddr {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let wrong = || {
            Error::invalid(
                format_args!("MAC address {s:?}"),
                "six pairs of hexadecimal digits, like 02:00:00:00:00:01",
            )
        };
        let mut out = [0; 6];
        let mut parts = s.split(':');
        for byte in &mut out {
            let part = parts
                .next()
                .filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))
                .ok_or_else(wrong)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() { Err(wrong()) } else { Ok(Self(out)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_the_kernel_refuses_are_refused() {
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a:b",
            "a b",
            "veth%d",
            "eth*",
            "0123456789abcdef",
            "a\n",
            "é",
            "a\"b",
            "a\\",
        ] {
            assert!(IfName::new(bad).is_err(), "{bad:?}");
        }
        for good in ["lo", "veth-1", "eth0.100", "0123456789abcde", "..."] {
            assert_eq!(IfName::new(good).unwrap().to_string(), good);
        }
    }

    proptest! {
        #[test]
        fn mac_round_trips(bytes: [u8; 6]) {
            prop_assert_eq!(MacAddr(bytes).to_string().parse::<MacAddr>().unwrap(), MacAddr(bytes));
        }

        #[test]
        fn mac_parser_is_total(s in ".*") {
            if let Ok(mac) = s.parse::<MacAddr>() {
                prop_assert_eq!(mac.to_string(), s.to_lowercase());
            }
        }
    }
}
