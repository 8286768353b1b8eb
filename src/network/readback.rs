//! A network as the kernel has it, compared with what was made.

use std::net::IpAddr;

use palisade_net::nft::{Ruleset, Table};
use palisade_net::{IfName, InterfaceAddress, Link, Netns};
use palisade_procinfo::{NamespaceKind, Process};

use super::user_mode::INTERFACE;
use super::wiring::{Connection, Way};
use crate::enforced::{Answer, Subject, Unread};

impl Connection {
    /// What is otherwise than it was made, about each of its subjects: in the namespace that the process is in, and on
    /// the bridge.
    pub(crate) fn differences(&self, process: &Process) -> Vec<(Subject, Answer)> {
        let mut out = Vec::new();
        let inside = process.open_namespace(NamespaceKind::Net).map_err(Unread::from);
        let inside = inside.and_then(|file| Netns::open(file).map_err(Unread::from));
        let ask = |question: &dyn Fn(&Netns) -> Answer| question(inside.as_ref().map_err(Clone::clone)?);
        out.push((Subject::Network, ask(&|inside| self.interfaces(inside))));
        if let Some(Way::Bridge(port)) = self.way() {
            out.push((Subject::Port, port.difference().map_err(Unread::from)));
        }
        if let Some(table) = self.egress() {
            out.push((Subject::Egress, ask(&|inside| Ok(rules(table, &inside.ruleset()?)))));
        }
        out
    }

    /// It has the loopback, its own interface and no other that is up; and of a bridge the addresses that it was given.
    fn interfaces(&self, inside: &Netns) -> Answer {
        let links = inside.links()?;
        let (name, addresses) = match self.way() {
            Some(Way::Bridge(port)) => (port.interface().to_string(), Some(port.addresses())),
            Some(Way::UserMode { .. }) => (INTERFACE.to_owned(), None),
            None => return Ok(None),
        };
        let named = |link: &&Link| link.name.as_str() == name;
        let Some(own) = links.iter().find(named) else {
            return Ok(Some(format!("there is no {name}")));
        };
        let strange = links.iter().find(|link| link.up && link.name != IfName::loopback() && !named(link));
        if let Some(strange) = strange {
            return Ok(Some(format!("{} is there, too", strange.name)));
        }
        let Some(wanted) = addresses else { return Ok(None) };
        let seen = inside.addresses()?;
        // The kernel makes the link-local ones itself.
        let of_link = |seen: &&InterfaceAddress| seen.link == own.index && !is_link_local(seen.addr);
        let mut seen: Vec<IpAddr> = seen.iter().filter(of_link).map(|seen| seen.addr).collect();
        let mut wanted = wanted.to_vec();
        seen.sort_unstable();
        wanted.sort_unstable();
        Ok((seen != wanted).then(|| format!("{name} has the addresses {seen:?}")))
    }
}

impl From<palisade_net::Error> for Unread {
    fn from(error: palisade_net::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

fn is_link_local(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(v6) if v6.segments()[0] & 0xffc0 == 0xfe80)
}

/// This table, and no other beside it.
fn rules(wanted: &Table, seen: &Ruleset) -> Option<String> {
    let [table] = seen.tables() else {
        return Some(format!("{} tables of rules", seen.tables().len()));
    };
    let same = table.without_counts() == wanted.without_counts();
    (!same).then(|| format!("other rules: {table}"))
}
