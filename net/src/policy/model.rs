//! Pods, groups and policies as plain values.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;

use super::selector::{Labels, Selector};
use crate::error::{Error, Result};
use crate::nft::Protocol;
use crate::prefix::IpPrefix;

/// A set of pods with a name and labels of its own, to which policies belong.
#[derive(Debug, Clone, PartialEq, Eq)]
#[doc(alias = "namespace")]
pub struct Group {
    /// The name.
    pub name: String,
    /// The labels.
    pub labels: BTreeMap<String, String>,
}

impl Group {
    /// A group without labels.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), labels: Labels::new() }
    }

    /// Adds a label.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }
}

/// A port that rules may refer to by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPort {
    /// The name.
    pub name: String,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The number.
    pub port: u16,
}

/// A sandbox on the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// The group.
    pub group: String,
    /// The name, unique in the group.
    pub name: String,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The addresses, of either family; no other pod has them.
    pub addresses: Vec<IpAddr>,
    /// Ports with names.
    pub ports: Vec<NamedPort>,
}

impl Pod {
    /// A pod without labels, addresses or named ports.
    #[must_use]
    pub fn new(group: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            group: group.into(),
            name: name.into(),
            labels: Labels::new(),
            addresses: Vec::new(),
            ports: Vec::new(),
        }
    }

    /// Adds a label.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// Adds an address.
    #[must_use]
    pub fn address(mut self, addr: impl Into<IpAddr>) -> Self {
        self.addresses.push(addr.into());
        self
    }

    /// Names a port.
    #[must_use]
    pub fn port(mut self, name: impl Into<String>, protocol: Protocol, port: u16) -> Self {
        self.ports.push(NamedPort { name: name.into(), protocol, port });
        self
    }

    /// `group/name`.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/{}", self.group, self.name)
    }
}

/// A block of addresses with holes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpBlock {
    block: IpPrefix,
    except: Vec<IpPrefix>,
}

impl IpBlock {
    /// The block without the `except`ions.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if an exception does not lie inside the block.
    pub fn new(block: IpPrefix, except: impl IntoIterator<Item = IpPrefix>) -> Result<Self> {
        let except: Vec<IpPrefix> = except.into_iter().collect();
        if let Some(stray) = except.iter().find(|hole| !block.covers(hole)) {
            return Err(Error::invalid(
                format_args!("exception {stray}"),
                format_args!("a block inside {block}"),
            ));
        }
        Ok(Self { block, except })
    }

    /// Whether it holds the address.
    #[must_use]
    pub fn contains(&self, addr: IpAddr) -> bool {
        self.block.contains(addr) && !self.except.iter().any(|hole| hole.contains(addr))
    }

    /// What it holds, as blocks without holes.
    #[must_use]
    pub fn prefixes(&self) -> Vec<IpPrefix> {
        self.block.without(&self.except)
    }
}

impl fmt::Display for IpBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.block)?;
        match self.except.as_slice() {
            [] => Ok(()),
            holes => {
                let holes: Vec<String> = holes.iter().map(ToString::to_string).collect();
                write!(f, " except {}", holes.join(","))
            }
        }
    }
}

/// The other end of a connection, as a rule describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Peer {
    /// These pods of the policy's own group.
    Pods(Selector),
    /// All pods of these groups.
    Groups(Selector),
    /// These pods of these groups: both conditions hold.
    PodsInGroups {
        /// Conditions on the pod.
        pods: Selector,
        /// Conditions on its group.
        groups: Selector,
    },
    /// Whoever has such an address.
    Block(IpBlock),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pods(pods) => write!(f, "pods {pods}"),
            Self::Groups(groups) => write!(f, "groups {groups}"),
            Self::PodsInGroups { pods, groups } => write!(f, "pods {pods} of groups {groups}"),
            Self::Block(block) => write!(f, "addresses {block}"),
        }
    }
}

/// Which ports of a protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ports {
    /// All.
    All,
    /// From the first to the last, both included.
    Range(u16, u16),
    /// The one that the destination pod calls so, with the rule's protocol.
    Named(String),
}

/// A protocol and ports of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSelector {
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// Which ports.
    pub ports: Ports,
}

impl PortSelector {
    /// One TCP port.
    #[must_use]
    pub fn tcp(port: u16) -> Self {
        Self { protocol: Protocol::TCP, ports: Ports::Range(port, port) }
    }

    /// One UDP port.
    #[must_use]
    pub fn udp(port: u16) -> Self {
        Self { protocol: Protocol::UDP, ports: Ports::Range(port, port) }
    }

    /// A port by the name that the destination pod gives it.
    #[must_use]
    pub fn named(protocol: Protocol, name: impl Into<String>) -> Self {
        Self { protocol, ports: Ports::Named(name.into()) }
    }
}

impl fmt::Display for PortSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.ports {
            Ports::All => write!(f, "{}", self.protocol),
            Ports::Range(low, high) if low == high => write!(f, "{} {low}", self.protocol),
            Ports::Range(low, high) => write!(f, "{} {low}-{high}", self.protocol),
            Ports::Named(name) => write!(f, "{} {name}", self.protocol),
        }
    }
}

/// What a policy allows: one of the peers *and* one of the ports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyRule {
    /// The other end; empty means everybody.
    pub peers: Vec<Peer>,
    /// The ports; empty means all, of every protocol.
    pub ports: Vec<PortSelector>,
}

impl PolicyRule {
    /// Allows everything.
    #[must_use]
    pub fn everything() -> Self {
        Self::default()
    }

    /// Adds a peer.
    #[must_use]
    pub fn peer(mut self, peer: Peer) -> Self {
        self.peers.push(peer);
        self
    }

    /// Adds ports.
    #[must_use]
    pub fn port(mut self, port: PortSelector) -> Self {
        self.ports.push(port);
        self
    }
}

impl From<IpPrefix> for PolicyRule {
    /// Everything to or from a block.
    fn from(block: IpPrefix) -> Self {
        Self::everything().peer(Peer::Block(IpBlock { block, except: Vec::new() }))
    }
}

impl From<(IpPrefix, PortSelector)> for PolicyRule {
    /// These ports, to or from a block.
    fn from((block, port): (IpPrefix, PortSelector)) -> Self {
        Self::from(block).port(port)
    }
}

/// Which way a connection goes, seen from the pod that a policy selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// To the pod.
    Ingress,
    /// From the pod.
    Egress,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// Isolates the pods that it selects, and allows some connections again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The group to whose pods it applies.
    pub group: String,
    /// The name, unique in the group.
    pub name: String,
    /// The pods of the group.
    pub pods: Selector,
    /// `None` says nothing of connections to the pods; an empty list allows none.
    pub ingress: Option<Vec<PolicyRule>>,
    /// `None` says nothing of connections from the pods; an empty list allows none.
    pub egress: Option<Vec<PolicyRule>>,
}

impl Policy {
    /// A policy that as yet isolates nobody.
    #[must_use]
    pub fn new(group: impl Into<String>, name: impl Into<String>, pods: Selector) -> Self {
        Self { group: group.into(), name: name.into(), pods, ingress: None, egress: None }
    }

    /// Isolates the pods in a direction.
    #[must_use]
    pub fn isolate(mut self, direction: Direction) -> Self {
        self.rules_mut(direction).get_or_insert_default();
        self
    }

    /// Isolates the pods in a direction but for what `rule` allows.
    #[must_use]
    pub fn allow(mut self, direction: Direction, rule: PolicyRule) -> Self {
        self.rules_mut(direction).get_or_insert_default().push(rule);
        self
    }

    fn rules_mut(&mut self, direction: Direction) -> &mut Option<Vec<PolicyRule>> {
        match direction {
            Direction::Ingress => &mut self.ingress,
            Direction::Egress => &mut self.egress,
        }
    }

    pub(crate) fn rules(&self, direction: Direction) -> Option<&[PolicyRule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }

    /// `group/name`.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/{}", self.group, self.name)
    }

    pub(crate) fn selects(&self, pod: &Pod) -> bool {
        self.group == pod.group && self.pods.matches(&pod.labels)
    }
}

/// All groups, pods and policies, and the addresses of the machine that carries the pods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cluster {
    /// The groups.
    pub groups: Vec<Group>,
    /// The pods.
    pub pods: Vec<Pod>,
    /// The policies.
    pub policies: Vec<Policy>,
    /// Addresses of the pods' own machine, whose traffic from and to its pods is always allowed.
    pub node_addresses: Vec<IpAddr>,
}

impl Cluster {
    /// Nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a group.
    #[must_use]
    pub fn group(mut self, group: Group) -> Self {
        self.groups.push(group);
        self
    }

    /// Adds a pod.
    #[must_use]
    pub fn pod(mut self, pod: Pod) -> Self {
        self.pods.push(pod);
        self
    }

    /// Adds a policy.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policies.push(policy);
        self
    }

    /// Adds an address of the machine that carries the pods.
    #[must_use]
    pub fn node_address(mut self, addr: impl Into<IpAddr>) -> Self {
        self.node_addresses.push(addr.into());
        self
    }

    /// Checks what types cannot: that groups exist, names and addresses are unique, and ports make sense.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid), naming the first object that does not fit.
    pub fn check(&self) -> Result<()> {
        let mut groups = HashSet::new();
        for group in &self.groups {
            if !groups.insert(group.name.as_str()) {
                return Err(Error::invalid(
                    format_args!("group {:?}", group.name),
                    "a name that no other group has",
                ));
            }
        }
        let known = |name: &str, what: String| {
            if groups.contains(name) {
                Ok(())
            } else {
                Err(Error::invalid(what, format_args!("group {name:?} does not exist")))
            }
        };
        let mut owners: HashMap<IpAddr, String> = HashMap::new();
        let mut ids = HashSet::new();
        for pod in &self.pods {
            known(&pod.group, format!("pod {}", pod.id()))?;
            if !ids.insert((&pod.group, &pod.name)) {
                return Err(Error::invalid(
                    format_args!("pod {}", pod.id()),
                    "a name that no other pod of the group has",
                ));
            }
            for addr in &pod.addresses {
                if let Some(other) = owners.insert(*addr, pod.id()) {
                    return Err(Error::invalid(
                        format_args!("address {addr} of pod {}", pod.id()),
                        format_args!("{other} has it already"),
                    ));
                }
            }
            for port in &pod.ports {
                check_protocol(port.protocol, &format!("port {:?} of pod {}", port.name, pod.id()))?;
            }
        }
        let mut ids = HashSet::new();
        for policy in &self.policies {
            known(&policy.group, format!("policy {}", policy.id()))?;
            if !ids.insert((&policy.group, &policy.name)) {
                return Err(Error::invalid(
                    format_args!("policy {}", policy.id()),
                    "a name that no other policy of the group has",
                ));
            }
            for rule in policy.ingress.iter().chain(&policy.egress).flatten() {
                for port in &rule.ports {
                    let what = format!("{port} in policy {}", policy.id());
                    check_protocol(port.protocol, &what)?;
                    if matches!(port.ports, Ports::Range(low, high) if low > high) {
                        return Err(Error::invalid(what, "the last port must not be before the first"));
                    }
                }
            }
        }
        Ok(())
    }

    /// Names of policies that select no pod and of selectors in rules that select none: usually a label with a typo.
    #[must_use]
    pub fn lint(&self) -> Vec<String> {
        let mut out = Vec::new();
        for policy in &self.policies {
            if !self.pods.iter().any(|pod| policy.selects(pod)) {
                out.push(format!("policy {} selects no pod ({})", policy.id(), policy.pods));
            }
            for direction in [Direction::Ingress, Direction::Egress] {
                for (index, rule) in policy.rules(direction).unwrap_or_default().iter().enumerate() {
                    for peer in rule.peers.iter().filter(|peer| !matches!(peer, Peer::Block(_))) {
                        if !self.pods.iter().any(|pod| self.is_peer(policy, peer, pod)) {
                            out.push(format!(
                                "policy {} {direction} rule {}: no pod matches {peer}",
                                policy.id(),
                                index + 1
                            ));
                        }
                    }
                }
            }
        }
        out
    }

    pub(crate) fn pod_at(&self, addr: IpAddr) -> Option<&Pod> {
        self.pods.iter().find(|pod| pod.addresses.contains(&addr))
    }

    /// Whether a peer of a policy means this pod by labels; blocks mean addresses.
    pub(crate) fn is_peer(&self, policy: &Policy, peer: &Peer, pod: &Pod) -> bool {
        let group_fits = |selector: &Selector| {
            self.groups
                .iter()
                .find(|group| group.name == pod.group)
                .is_some_and(|group| selector.matches(&group.labels))
        };
        match peer {
            Peer::Pods(pods) => policy.group == pod.group && pods.matches(&pod.labels),
            Peer::Groups(groups) => group_fits(groups),
            Peer::PodsInGroups { pods, groups } => pods.matches(&pod.labels) && group_fits(groups),
            Peer::Block(_) => false,
        }
    }
}

fn check_protocol(protocol: Protocol, what: &str) -> Result<()> {
    if [Protocol::TCP, Protocol::UDP, Protocol::SCTP].contains(&protocol) {
        Ok(())
    } else {
        Err(Error::invalid(format_args!("protocol {protocol} of {what}"), "tcp, udp or sctp"))
    }
}
