//! Tables and what they hold.

use std::fmt;
use std::str::FromStr;

use super::rule::{Rule, Statement};
use super::set::{Map, Set};
use super::tuple::TupleSet;

use crate::error::{Error, Result};
use crate::name::IfName;

/// Which packets a table sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// ARP.
    Arp,
    /// Frames that cross a bridge.
    Bridge,
    /// Frames of one device, as they arrive.
    Netdev,
}

impl Family {
    const ALL: [(Self, u8, &'static str); 6] = [
        (Self::Inet, 1, "inet"),
        (Self::Ip, 2, "ip"),
        (Self::Arp, 3, "arp"),
        (Self::Netdev, 5, "netdev"),
        (Self::Bridge, 7, "bridge"),
        (Self::Ip6, 10, "ip6"),
    ];

    pub(crate) fn number(self) -> u8 {
        Self::ALL.iter().find(|(f, ..)| *f == self).map_or(0, |(_, n, _)| *n)
    }

    pub(crate) fn from_number(n: u8) -> Option<Self> {
        Self::ALL.iter().find(|(_, number, _)| *number == n).map(|(f, ..)| *f)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL.iter().find(|(family, ..)| family == self).map_or("", |(.., name)| name))
    }
}

/// Where in a packet's way through the kernel a chain sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Hook {
    /// Everything that arrives, before routing.
    Prerouting,
    /// What is for this namespace.
    Input,
    /// What is routed on (or bridged on, in the bridge family).
    Forward,
    /// What this namespace sends.
    Output,
    /// Everything that leaves, after routing.
    Postrouting,
    /// What arrives by devices that the chain [names](Chain::device), before anything else: `netdev`, and `inet` since
    /// Linux 5.10.
    Ingress,
    /// What leaves by devices that the chain [names](Chain::device), after everything else: `netdev`, since Linux 5.16.
    Egress,
}

impl Hook {
    /// The hooks of a family, by the kernel's numbers from 0.
    const fn of(family: Family) -> &'static [Self] {
        use Hook::{Egress, Forward, Ingress, Input, Output, Postrouting, Prerouting};
        match family {
            Family::Inet => &[Prerouting, Input, Forward, Output, Postrouting, Ingress],
            Family::Ip | Family::Ip6 | Family::Bridge => &[Prerouting, Input, Forward, Output, Postrouting],
            Family::Arp => &[Input, Output],
            Family::Netdev => &[Ingress, Egress],
        }
    }

    /// The kernel's number in a family that has this hook.
    pub(crate) fn number(self, family: Family) -> Option<u32> {
        Self::of(family).iter().position(|hook| *hook == self).and_then(|n| n.try_into().ok())
    }

    pub(crate) fn from_number(number: u32, family: Family) -> Option<Self> {
        Self::of(family).get(usize::try_from(number).ok()?).copied()
    }

    /// Whether its chains name devices.
    pub(crate) fn of_devices(self) -> bool {
        matches!(self, Self::Ingress | Self::Egress)
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// What a base chain may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ChainKind {
    /// Accept and refuse.
    Filter,
    /// Also translate addresses; sees only the first packet of each connection.
    Nat,
    /// Route again what it changed (output only).
    Route,
}

impl fmt::Display for ChainKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Route => "route",
        })
    }
}

/// The order of chains at one hook: lower runs earlier. Connection tracking itself is at -200.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Priority(pub i32);

impl Priority {
    /// Before connection tracking.
    pub const RAW: Self = Self(-300);
    /// Where connection tracking sits.
    pub const CONNTRACK: Self = Self(-200);
    /// Before destination translation.
    pub const MANGLE: Self = Self(-150);
    /// Destination translation.
    pub const DSTNAT: Self = Self(-100);
    /// Filtering.
    pub const FILTER: Self = Self(0);
    /// Mandatory access control marks.
    pub const SECURITY: Self = Self(50);
    /// Source translation.
    pub const SRCNAT: Self = Self(100);

    pub(crate) fn show(self, family: Family, hook: Hook) -> String {
        let named: &[(&str, i32)] = match family {
            Family::Bridge => &[("dstnat", -300), ("filter", -200), ("out", 100), ("srcnat", 300)],
            Family::Arp | Family::Netdev => &[("filter", 0)],
            _ => &[
                ("raw", -300),
                ("mangle", -150),
                ("dstnat", -100),
                ("filter", 0),
                ("security", 50),
                ("srcnat", 100),
            ],
        };
        let fits = |name: &str| match name {
            "dstnat" => hook == Hook::Prerouting,
            "srcnat" => hook == Hook::Postrouting,
            "out" => hook == Hook::Output,
            _ => true,
        };
        for (name, base) in named.iter().filter(|(name, _)| fits(name)) {
            match i64::from(self.0) - i64::from(*base) {
                0 => return (*name).to_owned(),
                n @ 1..=10 => return format!("{name} + {n}"),
                n @ -10..=-1 => return format!("{name} - {}", -n),
                _ => {}
            }
        }
        self.0.to_string()
    }
}

/// What happens to packets that no rule of a base chain decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Policy {
    /// They pass.
    Accept,
    /// They are dropped.
    Drop,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Accept => "accept",
            Self::Drop => "drop",
        })
    }
}

/// Where a base chain hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Base {
    /// What it may do.
    pub kind: ChainKind,
    /// The hook.
    pub hook: Hook,
    /// The order among the chains there.
    pub priority: Priority,
    /// What happens at its end.
    pub policy: Policy,
}

/// A list of rules: hung on a hook (a base chain), or to jump to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    pub(crate) name: String,
    pub(crate) base: Option<Base>,
    pub(crate) devices: Vec<IfName>,
    pub(crate) rules: Vec<Rule>,
}

impl Chain {
    /// A chain to jump to.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), base: None, devices: Vec::new(), rules: Vec::new() }
    }

    /// A base chain.
    #[must_use]
    pub fn base(name: impl Into<String>, base: Base) -> Self {
        Self { name: name.into(), base: Some(base), devices: Vec::new(), rules: Vec::new() }
    }

    /// A base chain that filters at `hook`, priority 0.
    #[must_use]
    pub fn filter(name: impl Into<String>, hook: Hook, policy: Policy) -> Self {
        Self::base(name, Base { kind: ChainKind::Filter, hook, priority: Priority::FILTER, policy })
    }

    /// A base chain that rewrites destinations, before routing.
    #[must_use]
    pub fn dstnat(name: impl Into<String>) -> Self {
        let (kind, hook, policy) = (ChainKind::Nat, Hook::Prerouting, Policy::Accept);
        Self::base(name, Base { kind, hook, priority: Priority::DSTNAT, policy })
    }

    /// A base chain that rewrites sources, after routing.
    #[must_use]
    pub fn srcnat(name: impl Into<String>) -> Self {
        let (kind, hook, policy) = (ChainKind::Nat, Hook::Postrouting, Policy::Accept);
        Self::base(name, Base { kind, hook, priority: Priority::SRCNAT, policy })
    }

    /// With [`Hook::Ingress`] and [`Hook::Egress`]: sees what this device receives or sends. Several devices since
    /// Linux 5.5. Before Linux 6.16 the devices must be there, and the chain goes with the last of them.
    #[must_use]
    pub fn device(mut self, device: IfName) -> Self {
        self.devices.push(device);
        self
    }

    /// Adds a rule at the end.
    #[must_use]
    pub fn rule(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it hangs, if it is a base chain.
    #[must_use]
    pub fn hooked(&self) -> Option<&Base> {
        self.base.as_ref()
    }

    /// The devices whose packets it sees, if it hangs on devices.
    #[must_use]
    pub fn devices(&self) -> &[IfName] {
        &self.devices
    }

    /// The rules, in order.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }
}

/// A table: chains with the sets and maps that their rules refer to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub(crate) family: Family,
    pub(crate) name: String,
    pub(crate) owned: bool,
    pub(crate) sets: Vec<Set>,
    pub(crate) tuple_sets: Vec<TupleSet>,
    pub(crate) maps: Vec<Map>,
    pub(crate) chains: Vec<Chain>,
}

impl Table {
    /// An empty table.
    #[must_use]
    pub fn new(family: Family, name: impl Into<String>) -> Self {
        Self {
            family,
            name: name.into(),
            owned: false,
            sets: Vec::new(),
            tuple_sets: Vec::new(),
            maps: Vec::new(),
            chains: Vec::new(),
        }
    }

    /// Ties the table to the [`Netns`](crate::Netns) handle that applies it: only that can change it, and the kernel
    /// removes it when the handle, or the process, ends (Linux 5.12).
    #[must_use]
    pub fn owned(mut self) -> Self {
        self.owned = true;
        self
    }

    /// Adds a chain.
    #[must_use]
    pub fn chain(mut self, chain: Chain) -> Self {
        self.chains.push(chain);
        self
    }

    /// Adds a set.
    #[must_use]
    pub fn set(mut self, set: Set) -> Self {
        self.sets.push(set);
        self
    }

    /// Adds a set of tuples.
    #[must_use]
    pub fn tuple_set(mut self, set: TupleSet) -> Self {
        self.tuple_sets.push(set);
        self
    }

    /// Adds a map.
    #[must_use]
    pub fn map(mut self, map: Map) -> Self {
        self.maps.push(map);
        self
    }

    /// The same with every counter at zero: to compare what is listed with what was applied.
    #[must_use]
    pub fn without_counts(&self) -> Self {
        let mut table = self.clone();
        let rules = table.chains.iter_mut().flat_map(|chain| &mut chain.rules);
        for statement in rules.flat_map(|rule| &mut rule.statements) {
            if let Statement::Counter { packets, bytes } = statement {
                (*packets, *bytes) = (0, 0);
            }
        }
        table
    }

    /// Which packets it sees.
    #[must_use]
    pub fn family(&self) -> Family {
        self.family
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The chains.
    #[must_use]
    pub fn chains(&self) -> &[Chain] {
        &self.chains
    }

    /// The sets.
    #[must_use]
    pub fn sets(&self) -> &[Set] {
        &self.sets
    }

    /// The sets of tuples.
    #[must_use]
    pub fn tuple_sets(&self) -> &[TupleSet] {
        &self.tuple_sets
    }

    /// The maps.
    #[must_use]
    pub fn maps(&self) -> &[Map] {
        &self.maps
    }
}

/// All tables of a namespace, or those to apply together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    pub(crate) tables: Vec<Table>,
}

impl Ruleset {
    /// No tables.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a table.
    #[must_use]
    pub fn table(mut self, table: Table) -> Self {
        self.tables.push(table);
        self
    }

    /// The tables.
    #[must_use]
    pub fn tables(&self) -> &[Table] {
        &self.tables
    }
}

impl From<Table> for Ruleset {
    fn from(table: Table) -> Self {
        Self { tables: vec![table] }
    }
}

/// Checks the name of a table, chain, set or map: what `nft` itself can read back.
pub(crate) fn check_name(what: &str, name: &str) -> Result<()> {
    let fine = (1..=127).contains(&name.len())
        && name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && !name.starts_with("__")
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-./\\".contains(&b) && b != b'\\');
    if fine {
        return Ok(());
    }
    Err(Error::invalid(
        format_args!("name of {what} {name:?}"),
        "1 to 127 letters, digits, '_', '-', '.' or '/', beginning with a letter and not with '__'",
    ))
}

impl FromStr for Family {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        Self::ALL.iter().find(|(.., name)| *name == s).map(|(family, ..)| *family).ok_or_else(|| {
            Error::invalid(format_args!("nftables family {s:?}"), "inet, ip, ip6, arp, bridge or netdev")
        })
    }
}
