//! The verdict on a connection, and why.

use std::fmt;
use std::net::IpAddr;

use super::model::{Cluster, Direction, Peer, Pod, Policy, PolicyRule, PortSelector, Ports};
use crate::nft::Protocol;

/// A connection that somebody wants to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// The address of whoever begins it.
    pub source: IpAddr,
    /// The address that it goes to.
    pub destination: IpAddr,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The destination port; of no meaning for protocols without.
    pub port: u16,
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {} {} {}", self.source, self.destination, self.protocol, self.port)
    }
}

/// Why one end of a connection consents or does not.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// No pod has the address: no policy applies to this end.
    Outside,
    /// Both ends are the same pod, which cannot shut itself out.
    Itself,
    /// The other end is the pod's own machine.
    Node,
    /// No policy isolates the pod in this direction.
    NotIsolated,
    /// A rule allows it.
    Allowed {
        /// The policy, as `group/name`.
        policy: String,
        /// Which of its rules in this direction, from 1.
        rule: usize,
        /// The identifier that fits the other end; `None` where the rule names no peers.
        by: Option<Peer>,
        /// What fits protocol and port; `None` where the rule names no ports.
        port: Option<PortSelector>,
    },
    /// These policies isolate the pod, and no rule of theirs allows it.
    Denied {
        /// The policies, as `group/name`.
        policies: Vec<String>,
    },
}

impl Reason {
    /// Whether this end consents.
    #[must_use]
    pub fn allows(&self) -> bool {
        !matches!(self, Self::Denied { .. })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outside => f.write_str("no pod, no policy"),
            Self::Itself => f.write_str("the same pod"),
            Self::Node => f.write_str("the pod's own machine"),
            Self::NotIsolated => f.write_str("not isolated"),
            Self::Allowed { policy, rule, by, port } => {
                write!(f, "allowed by {policy} rule {rule} (")?;
                match by {
                    Some(peer) => write!(f, "{peer}")?,
                    None => f.write_str("any peer")?,
                }
                match port {
                    Some(port) => write!(f, ", {port})"),
                    None => f.write_str(", any port)"),
                }
            }
            Self::Denied { policies } => {
                write!(f, "denied: isolated by {}, no rule allows it", policies.join(" and "))
            }
        }
    }
}

/// The verdict on a connection, with the reasons of both ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What was asked.
    pub traffic: Traffic,
    /// The source's side.
    pub egress: Reason,
    /// The destination's side.
    pub ingress: Reason,
}

impl Decision {
    /// Whether both ends consent.
    #[must_use]
    pub fn allowed(&self) -> bool {
        self.egress.allows() && self.ingress.allows()
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.allowed() { "allowed" } else { "denied" };
        write!(f, "{}: {verdict}; egress: {}; ingress: {}", self.traffic, self.egress, self.ingress)
    }
}

impl Cluster {
    /// Decides on a connection and explains. Pure: nothing of the system is asked.
    #[must_use]
    pub fn evaluate(&self, traffic: &Traffic) -> Decision {
        let (source, destination) = (self.pod_at(traffic.source), self.pod_at(traffic.destination));
        let same = matches!((source, destination), (Some(a), Some(b)) if std::ptr::eq(a, b));
        let side = |direction, pod: Option<&Pod>, other: IpAddr| match pod {
            None => Reason::Outside,
            Some(_) if same => Reason::Itself,
            Some(_) if self.node_addresses.contains(&other) => Reason::Node,
            Some(pod) => self.consent(direction, pod, other, destination, traffic),
        };
        Decision {
            traffic: *traffic,
            egress: side(Direction::Egress, source, traffic.destination),
            ingress: side(Direction::Ingress, destination, traffic.source),
        }
    }

    /// The policies that isolate a pod in a direction, with their rules.
    pub(crate) fn isolating<'c>(
        &'c self,
        direction: Direction,
        pod: &Pod,
    ) -> Vec<(&'c Policy, &'c [PolicyRule])> {
        let applies = |policy: &'c Policy| Some((policy, policy.rules(direction)?));
        self.policies.iter().filter(|policy| policy.selects(pod)).filter_map(applies).collect()
    }

    fn consent(
        &self,
        direction: Direction,
        pod: &Pod,
        other: IpAddr,
        destination: Option<&Pod>,
        traffic: &Traffic,
    ) -> Reason {
        let policies = self.isolating(direction, pod);
        if policies.is_empty() {
            return Reason::NotIsolated;
        }
        for (policy, rules) in &policies {
            for (index, rule) in rules.iter().enumerate() {
                let (Some(by), Some(port)) =
                    (self.peer_of(policy, rule, other), port_of(rule, destination, traffic))
                else {
                    continue;
                };
                return Reason::Allowed { policy: policy.id(), rule: index + 1, by, port };
            }
        }
        Reason::Denied { policies: policies.iter().map(|(policy, _)| policy.id()).collect() }
    }

    /// `Some(None)`: the rule takes any peer.
    fn peer_of(&self, policy: &Policy, rule: &PolicyRule, other: IpAddr) -> Option<Option<Peer>> {
        if rule.peers.is_empty() {
            return Some(None);
        }
        let pod = self.pod_at(other);
        let fits = |peer: &&Peer| match peer {
            Peer::Block(block) => block.contains(other),
            _ => pod.is_some_and(|pod| self.is_peer(policy, peer, pod)),
        };
        rule.peers.iter().find(fits).map(|peer| Some(peer.clone()))
    }
}

/// `Some(None)`: the rule takes any port.
fn port_of(rule: &PolicyRule, destination: Option<&Pod>, traffic: &Traffic) -> Option<Option<PortSelector>> {
    if rule.ports.is_empty() {
        return Some(None);
    }
    let fits = |selector: &&PortSelector| {
        selector.protocol == traffic.protocol
            && match &selector.ports {
                Ports::All => true,
                Ports::Range(low, high) => (low..=high).contains(&&traffic.port),
                Ports::Named(name) => destination.is_some_and(|pod| {
                    pod.ports
                        .iter()
                        .any(|p| p.name == *name && p.protocol == selector.protocol && p.port == traffic.port)
                }),
            }
    };
    rule.ports.iter().find(fits).map(|selector| Some(selector.clone()))
}
