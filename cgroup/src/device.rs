//! Device rules: which device nodes may be opened and made, as an ordered list.

use std::fmt;
use std::ops::{BitOr, Not};
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::value::number;

/// The two kinds of device nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceKind {
    /// Block device, `b`.
    Block,
    /// Character device, `c`.
    Char,
}

/// What is done to a device: any of reading, writing and making its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Access(u8);

impl Access {
    /// Make the node with `mknod(2)`.
    pub const MKNOD: Access = Access(1);
    /// Open for reading.
    pub const READ: Access = Access(2);
    /// Open for writing.
    pub const WRITE: Access = Access(4);
    /// All three.
    pub const ALL: Access = Access(7);
    pub(crate) const NONE: Access = Access(0);

    /// The kernel's bits.
    pub(crate) const fn bits(self) -> u8 {
        self.0
    }

    /// Whether all of `other` is in this.
    pub const fn contains(self, other: Access) -> bool {
        self.0 & other.0 == other.0
    }

    fn each(self) -> impl Iterator<Item = Access> {
        [Access::MKNOD, Access::READ, Access::WRITE].into_iter().filter(move |a| self.contains(*a))
    }
}

impl BitOr for Access {
    type Output = Access;

    fn bitor(self, other: Access) -> Access {
        Access(self.0 | other.0)
    }
}

impl Not for Access {
    type Output = Access;

    fn not(self) -> Access {
        Access(!self.0 & Access::ALL.0)
    }
}

/// In the order `rwm`.
impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        [(Access::READ, "r"), (Access::WRITE, "w"), (Access::MKNOD, "m")]
            .into_iter()
            .filter(|(a, _)| self.contains(*a))
            .try_for_each(|(_, c)| f.write_str(c))
    }
}

impl FromStr for Access {
    type Err = Error;

    fn from_str(s: &str) -> Result<Access> {
        let one = |c| match c {
            b'r' => Some(Access::READ),
            b'w' => Some(Access::WRITE),
            b'm' => Some(Access::MKNOD),
            _ => None,
        };
        let all = s.bytes().try_fold(Access::NONE, |a, c| Some(a | one(c)?));
        all.filter(|a| *a != Access::NONE && s.len() <= 3)
            .ok_or_else(|| Error::invalid("device access", s.as_bytes(), "one to three of r, w, m"))
    }
}

/// Which devices, and what is done to them. `None` stands for any. The text form is Docker's and the v1 kernel's:
/// `TYPE MAJOR:MINOR ACCESS`, as in `c 1:3 rwm`, `b 8:* r`, `a *:* rwm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Device {
    /// Block, character or both.
    pub kind: Option<DeviceKind>,
    /// The driver's number, 12 bits.
    pub major: Option<u32>,
    /// The device's number within it, 20 bits.
    pub minor: Option<u32>,
    /// What is done.
    pub access: Access,
}

impl Device {
    /// Every access to every device.
    pub const ALL: Device = Device { kind: None, major: None, minor: None, access: Access::ALL };

    const fn char(major: u32, minor: Option<u32>) -> Device {
        Device { kind: Some(DeviceKind::Char), major: Some(major), minor, access: Access::ALL }
    }

    fn matches(&self, kind: DeviceKind, major: u32, minor: u32) -> bool {
        self.kind.is_none_or(|k| k == kind)
            && self.major.is_none_or(|m| m == major)
            && self.minor.is_none_or(|m| m == minor)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            None => 'a',
            Some(DeviceKind::Block) => 'b',
            Some(DeviceKind::Char) => 'c',
        };
        let n = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
        write!(f, "{kind} {}:{} {}", n(self.major), n(self.minor), self.access)
    }
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(s: &str) -> Result<Device> {
        let bad = || {
            Error::invalid(
                "device rule",
                s.as_bytes(),
                "TYPE MAJOR:MINOR ACCESS, as in `c 1:3 rwm`, `b 8:* r`, `a *:* m`",
            )
        };
        let words: Vec<&str> = s.split(' ').collect();
        let [kind, numbers, access] = words[..] else { return Err(bad()) };
        let kind = match kind {
            "a" => None,
            "b" => Some(DeviceKind::Block),
            "c" => Some(DeviceKind::Char),
            _ => return Err(bad()),
        };
        let (major, minor) = numbers.split_once(':').ok_or_else(bad)?;
        let one = |t: &str, bits: u32| match t {
            "*" => Ok(None),
            _ => {
                let n = number(t.as_bytes()).and_then(|n| u32::try_from(n).ok()).filter(|n| n >> bits == 0);
                n.map(Some).ok_or_else(bad)
            }
        };
        Ok(Device {
            kind,
            major: one(major, 12)?,
            minor: one(minor, 20)?,
            access: access.parse().map_err(|_| bad())?,
        })
    }
}

/// Ordered rules. For each kind of access the last rule that matches decides; where none matches, the rules' beginning
/// does. A request for several kinds at once, as opening for reading and writing, is allowed if each of them is.
///
/// ```
/// use palisade_cgroup::{Access, DeviceKind, DeviceRules};
///
/// let rules = DeviceRules::deny_all().allow("c 1:3 rw".parse()?);
/// assert!(rules.allows(DeviceKind::Char, 1, 3, Access::READ));
/// assert!(!rules.allows(DeviceKind::Char, 1, 3, Access::MKNOD));
/// # Ok::<(), palisade_cgroup::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRules {
    pub(crate) otherwise: bool,
    pub(crate) rules: Vec<(bool, Device)>,
}

impl DeviceRules {
    /// Nothing is allowed but what rules allow.
    pub fn deny_all() -> DeviceRules {
        DeviceRules { otherwise: false, rules: Vec::new() }
    }

    /// Everything is allowed but what rules deny.
    pub fn allow_all() -> DeviceRules {
        DeviceRules { otherwise: true, rules: Vec::new() }
    }

    /// The list of Docker and runc for an unprivileged container: every node may be made, few opened.
    pub fn docker() -> DeviceRules {
        let mknod = |kind| Device { kind: Some(kind), access: Access::MKNOD, ..Device::ALL };
        let mut rules = DeviceRules::deny_all();
        for minor in [5, 3, 9, 8] {
            rules = rules.allow(Device::char(1, Some(minor)));
        }
        rules = rules.allow(Device::char(5, Some(0))).allow(Device::char(5, Some(1)));
        rules = rules.deny(Device::char(10, Some(229)));
        rules = rules.allow(mknod(DeviceKind::Char)).allow(mknod(DeviceKind::Block));
        for (major, minor) in [
            (1, Some(3)),
            (1, Some(8)),
            (1, Some(7)),
            (5, Some(0)),
            (1, Some(5)),
            (1, Some(9)),
            (136, None),
            (5, Some(2)),
            (10, Some(200)),
        ] {
            rules = rules.allow(Device::char(major, minor));
        }
        rules
    }

    /// Adds a rule that allows.
    #[must_use]
    pub fn allow(mut self, device: Device) -> DeviceRules {
        self.rules.push((true, device));
        self
    }

    /// Adds a rule that denies.
    #[must_use]
    pub fn deny(mut self, device: Device) -> DeviceRules {
        self.rules.push((false, device));
        self
    }

    /// What the rules say to a request: the same answer that the kernel gives with them in force. A request for no
    /// access at all is allowed.
    pub fn allows(&self, kind: DeviceKind, major: u32, minor: u32, access: Access) -> bool {
        access.each().all(|bit| {
            let last = self
                .rules
                .iter()
                .rev()
                .find(|(_, d)| d.access.contains(bit) && d.matches(kind, major, minor));
            last.map_or(self.otherwise, |(allow, _)| *allow)
        })
    }
}

/// One rule a line, after the beginning: `deny a *:* rwm`, `allow c 1:3 rwm`.
impl fmt::Display for DeviceRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = (self.otherwise, Device::ALL);
        std::iter::once(&start)
            .chain(&self.rules)
            .try_for_each(|(allow, d)| writeln!(f, "{} {d}", if *allow { "allow" } else { "deny" }))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rules_in_dockers_spelling() {
        for text in ["c 1:3 rwm", "b 8:* r", "a *:* rwm", "c 136:1048575 wm"] {
            assert_eq!(text.parse::<Device>().expect(text).to_string(), text);
        }
        for bad in [
            "",
            "c 1:3",
            "x 1:3 r",
            "c 1 r",
            "c 1:3 x",
            "c 1:3 ",
            "c 1:3 rrrr",
            "c -1:3 r",
            "c 4096:0 r",
            "c  1:3 r",
        ] {
            assert!(bad.parse::<Device>().is_err(), "{bad}");
        }
        assert_eq!("c 1:3 mr".parse::<Device>().expect("any order").to_string(), "c 1:3 rm");
    }

    #[test]
    fn dockers_list() {
        let rules = DeviceRules::docker();
        let c = |major, minor, access| rules.allows(DeviceKind::Char, major, minor, access);
        assert!(c(1, 3, Access::ALL) && c(136, 77, Access::READ | Access::WRITE) && c(5, 1, Access::READ));
        assert!(!c(1, 1, Access::READ), "/dev/mem");
        assert!(!c(10, 229, Access::READ), "/dev/fuse");
        assert!(c(1, 1, Access::MKNOD) && !c(1, 1, Access::MKNOD | Access::READ));
        assert!(!rules.allows(DeviceKind::Block, 8, 0, Access::READ));
        assert!(rules.allows(DeviceKind::Block, 8, 0, Access::MKNOD));
    }

    #[test]
    fn the_last_match_decides_for_each_access() {
        let rules = DeviceRules::allow_all()
            .deny("c 1:* rwm".parse().expect("rule"))
            .allow("c 1:5 r".parse().expect("rule"))
            .deny("c *:5 m".parse().expect("rule"));
        let five = |a| rules.allows(DeviceKind::Char, 1, 5, a);
        assert!(five(Access::READ) && !five(Access::WRITE) && !five(Access::READ | Access::WRITE));
        assert!(rules.allows(DeviceKind::Char, 2, 5, Access::READ | Access::WRITE));
        assert!(!rules.allows(DeviceKind::Char, 2, 5, Access::MKNOD));
        assert!(rules.allows(DeviceKind::Block, 1, 5, Access::ALL));
    }

    pub(crate) fn any_access() -> impl Strategy<Value = Access> {
        (1u8..8).prop_map(Access)
    }

    pub(crate) fn any_kind() -> impl Strategy<Value = DeviceKind> {
        prop_oneof![Just(DeviceKind::Block), Just(DeviceKind::Char)]
    }

    /// Few numbers, so that rules overlap.
    pub(crate) fn any_rules() -> impl Strategy<Value = DeviceRules> {
        let device = (
            proptest::option::of(any_kind()),
            proptest::option::of(0u32..3),
            proptest::option::of(0u32..3),
            any_access(),
        )
            .prop_map(|(kind, major, minor, access)| Device { kind, major, minor, access });
        (any::<bool>(), proptest::collection::vec((any::<bool>(), device), 0..8))
            .prop_map(|(otherwise, rules)| DeviceRules { otherwise, rules })
    }

    proptest! {
        #[test]
        fn any_text_is_a_rule_or_an_error(s in "[abc] [0-9*]{1,4}:[0-9*]{1,8} [rwm]{1,4}|\\PC*") {
            if let Ok(d) = s.parse::<Device>() {
                prop_assert_eq!(d.to_string().parse::<Device>().expect("own spelling"), d);
            }
        }
    }
}
