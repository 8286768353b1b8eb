//! The tables, chains and command lines of iptables, as a vocabulary that maps onto nftables.
//!
//! [`BuiltinTable`] and [`BuiltinChain`] say which chains exist and where they hang. [`Iptables`] takes command lines as
//! documentation and tutorials have them, keeps the state that they describe, and gives it as an nftables
//! [`Ruleset`](crate::nft::Ruleset). No program is run. What a command line asks and this vocabulary lacks is an error that
//! names the option. See [iptables(8)](https://man7.org/linux/man-pages/man8/iptables.8.html) and
//! [iptables-extensions(8)](https://man7.org/linux/man-pages/man8/iptables-extensions.8.html).

mod parse;
mod spec;
mod state;
mod values;

pub use parse::{Command, RuleNumber, parse};
pub use state::Iptables;

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::nft::{Base, ChainKind, Hook, Policy, Priority};

/// A table of iptables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BuiltinTable {
    /// Accepts and refuses; the default.
    Filter,
    /// Translates addresses.
    Nat,
    /// Alters packets.
    Mangle,
    /// Acts before connection tracking.
    Raw,
    /// Marks for mandatory access control.
    Security,
}

impl BuiltinTable {
    /// All tables.
    pub const ALL: [Self; 5] = [Self::Raw, Self::Mangle, Self::Nat, Self::Filter, Self::Security];

    /// The name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Mangle => "mangle",
            Self::Raw => "raw",
            Self::Security => "security",
        }
    }

    /// The chains that it has from the beginning.
    #[must_use]
    pub fn chains(self) -> &'static [BuiltinChain] {
        use BuiltinChain::{Forward, Input, Output, Postrouting, Prerouting};
        match self {
            Self::Filter | Self::Security => &[Input, Forward, Output],
            Self::Nat => &[Prerouting, Input, Output, Postrouting],
            Self::Mangle => &[Prerouting, Input, Forward, Output, Postrouting],
            Self::Raw => &[Prerouting, Output],
        }
    }

    /// Where a chain of the table hangs; `None` if the table has no such chain.
    #[must_use]
    pub fn base(self, chain: BuiltinChain, policy: Policy) -> Option<Base> {
        if !self.chains().contains(&chain) {
            return None;
        }
        let (kind, priority) = match (self, chain) {
            (Self::Filter, _) => (ChainKind::Filter, Priority::FILTER),
            (Self::Security, _) => (ChainKind::Filter, Priority::SECURITY),
            (Self::Raw, _) => (ChainKind::Filter, Priority::RAW),
            // What is sent here is routed again if a mark changed.
            (Self::Mangle, BuiltinChain::Output) => (ChainKind::Route, Priority::MANGLE),
            (Self::Mangle, _) => (ChainKind::Filter, Priority::MANGLE),
            (Self::Nat, BuiltinChain::Prerouting | BuiltinChain::Output) => {
                (ChainKind::Nat, Priority::DSTNAT)
            }
            (Self::Nat, _) => (ChainKind::Nat, Priority::SRCNAT),
        };
        Some(Base { kind, hook: chain.hook(), priority, policy })
    }
}

impl fmt::Display for BuiltinTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for BuiltinTable {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let wrong =
            || Error::invalid(format_args!("iptables table {s:?}"), "filter, nat, mangle, raw or security");
        Self::ALL.into_iter().find(|table| table.name() == s).ok_or_else(wrong)
    }
}

/// A chain that a table has from the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BuiltinChain {
    /// Everything that arrives.
    Prerouting,
    /// What is for this namespace.
    Input,
    /// What is routed on.
    Forward,
    /// What this namespace sends.
    Output,
    /// Everything that leaves.
    Postrouting,
}

impl BuiltinChain {
    /// All chains, in the order in which a packet meets them.
    pub const ALL: [Self; 5] =
        [Self::Prerouting, Self::Input, Self::Forward, Self::Output, Self::Postrouting];

    /// The name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "PREROUTING",
            Self::Input => "INPUT",
            Self::Forward => "FORWARD",
            Self::Output => "OUTPUT",
            Self::Postrouting => "POSTROUTING",
        }
    }

    /// The hook.
    #[must_use]
    pub fn hook(self) -> Hook {
        match self {
            Self::Prerouting => Hook::Prerouting,
            Self::Input => Hook::Input,
            Self::Forward => Hook::Forward,
            Self::Output => Hook::Output,
            Self::Postrouting => Hook::Postrouting,
        }
    }

    /// The chain of that name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|chain| chain.name() == name)
    }
}

impl fmt::Display for BuiltinChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
