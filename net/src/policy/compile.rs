//! Policies as nftables.
//!
//! In the namespace that carries the pods' traffic, one table holds: four maps from a pod's address to the chain of that
//! pod and direction, and a chain per isolated pod and direction whose rules return for what is allowed and whose end
//! denies. Both maps are asked, so both ends must consent. Everything is a function of the cluster: a change is a new
//! table, put in the place of the old one in one transaction.

use std::net::IpAddr;

use super::model::{Cluster, Direction, Peer, Pod, Policy, PolicyRule, Ports};
use crate::error::{Error, Result};
use crate::name::IfName;
use crate::nft::{
    Chain, CtState, DataType, Family, Field, Hook, Map, MapType, MapValue, Match, Policy as ChainPolicy,
    Protocol, Reject, Rule, Set, Statement, Table, Value, Verdict,
};
use crate::prefix::IpPrefix;

/// What happens to a connection that is not allowed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Deny {
    /// Nothing comes back: the other end times out.
    #[default]
    Drop,
    /// A TCP reset, or ICMP "administratively prohibited".
    Reject,
}

/// How policies are compiled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    deny: Deny,
    networks: Vec<IpPrefix>,
}

impl Options {
    /// Denies by dropping, and leaves addresses of unknown pods alone.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How to deny.
    #[must_use]
    pub fn deny(mut self, deny: Deny) -> Self {
        self.deny = deny;
        self
    }

    /// All addresses in `network` are pods' addresses: what comes from or goes to one that no pod of the cluster has is
    /// denied. So a pod whose link comes up before the policies know it reaches nobody.
    #[must_use]
    pub fn pod_network(mut self, network: IpPrefix) -> Self {
        self.networks.push(network);
        self
    }
}

impl Cluster {
    /// The policies as one table for the namespace through which the pods' traffic passes (hook `forward`).
    ///
    /// Routed traffic passes there always; traffic between ports of one bridge only with
    /// [`filter_bridged`](crate::Netns::filter_bridged). Traffic of that namespace itself (the node) is not filtered.
    ///
    /// # Errors
    /// What [`check`](Cluster::check) finds.
    pub fn forward_table(&self, name: &str, options: &Options) -> Result<Table> {
        self.check()?;
        let mut forward = Chain::filter("forward", Hook::Forward, ChainPolicy::Accept);
        for rule in preamble() {
            forward = forward.rule(rule);
        }
        let mut table = Table::new(Family::Inet, name);
        let mut chains = Vec::new();
        for v4 in [true, false] {
            let (ty, digit) = if v4 { (DataType::Ipv4, 4) } else { (DataType::Ipv6, 6) };
            let of_family = |addr: &&IpAddr| addr.is_ipv4() == v4;
            if options.networks.iter().any(|network| network.addr().is_ipv4() == v4) {
                let known = self.pods.iter().flat_map(|pod| &pod.addresses).chain(&self.node_addresses);
                let known = known.filter(of_family).copied();
                table = table.set(Set::new(format!("pods{digit}"), ty).elements(known));
                for network in options.networks.iter().filter(|network| network.addr().is_ipv4() == v4) {
                    for field in ends(v4) {
                        let stranger = Rule::new()
                            .matching(Match::is(field, *network))
                            .matching(Match::in_set(field, format!("pods{digit}")).negated());
                        for rule in denials(&stranger, options.deny, "no known pod") {
                            forward = forward.rule(rule);
                        }
                    }
                }
            }
            for (direction, field) in [Direction::Egress, Direction::Ingress].into_iter().zip(ends(v4)) {
                let mut map = Map::new(format!("{direction}{digit}"), ty, MapType::Verdict);
                for (index, pod) in self.pods.iter().enumerate() {
                    if self.isolating(direction, pod).is_empty() {
                        continue;
                    }
                    for addr in pod.addresses.iter().filter(of_family) {
                        map = map
                            .element(*addr, MapValue::Verdict(Verdict::Jump(chain_name(direction, index))));
                    }
                }
                let name = map.name().to_owned();
                table = table.map(map);
                chains.push((field, name));
            }
        }
        for (index, pod) in self.pods.iter().enumerate() {
            for direction in [Direction::Egress, Direction::Ingress] {
                let mut chain = Chain::new(chain_name(direction, index));
                if self.isolating(direction, pod).is_empty() {
                    continue;
                }
                for rule in self.pod_rules(direction, pod, options.deny) {
                    chain = chain.rule(rule);
                }
                table = table.chain(chain);
            }
        }
        for (key, map) in chains {
            forward = forward.rule(Rule::new().with(Statement::VerdictMap { key, map }));
        }
        Ok(table.chain(forward))
    }

    /// The policies of one pod as a table for the inside of its own network namespace (hooks `input` and `output`): for
    /// sandboxes without `CAP_NET_ADMIN` that are not behind a namespace of ours. Each pod enforces its own end.
    ///
    /// # Errors
    /// What [`check`](Cluster::check) finds; [`NotFound`](crate::ErrorKind::NotFound) if the cluster has no such pod.
    pub fn pod_table(&self, name: &str, group: &str, pod: &str, options: &Options) -> Result<Table> {
        self.check()?;
        let pod = self
            .pods
            .iter()
            .find(|p| p.group == group && p.name == pod)
            .ok_or_else(|| Error::not_found(format_args!("pod {group}/{pod}")))?;
        let mut table = Table::new(Family::Inet, name);
        for (direction, hook) in [(Direction::Ingress, Hook::Input), (Direction::Egress, Hook::Output)] {
            let mut chain = Chain::filter(direction.to_string(), hook, ChainPolicy::Accept);
            if !self.isolating(direction, pod).is_empty() {
                let inward = direction == Direction::Ingress;
                let interface = if inward { Field::InputInterface } else { Field::OutputInterface };
                chain = chain.rule(Rule::new().matching(Match::is(interface, IfName::loopback())).accept());
                for rule in preamble() {
                    chain = chain.rule(rule);
                }
                for v4 in [true, false] {
                    let [source, destination] = ends(v4);
                    let other = if inward { source } else { destination };
                    // The pod itself by way of its own address, and its machine.
                    let always = pod
                        .addresses
                        .iter()
                        .chain(&self.node_addresses)
                        .filter(|a| a.is_ipv4() == v4)
                        .copied();
                    chain = chain.rule(Rule::new().matching(Match::any_of(other, always)).accept());
                }
                for rule in self.pod_rules(direction, pod, options.deny) {
                    chain = chain.rule(rule);
                }
                chain.rules.retain(|rule| !never(rule));
            }
            table = table.chain(chain);
        }
        Ok(table)
    }

    /// What the policies allow a pod in a direction, each rule returning, then the denial of the rest.
    fn pod_rules(&self, direction: Direction, pod: &Pod, deny: Deny) -> Vec<Rule> {
        let mut out = Vec::new();
        for (policy, rules) in self.isolating(direction, pod) {
            for (index, rule) in rules.iter().enumerate() {
                let note = comment(&format!("{} {direction} {}", policy.id(), index + 1));
                self.compile_rule(direction, pod, policy, rule, &note, &mut out);
            }
        }
        out.retain(|rule| !never(rule));
        out.extend(denials(&Rule::new().counter(), deny, &comment(&format!("{} {direction}", pod.id()))));
        out
    }

    fn compile_rule(
        &self,
        direction: Direction,
        pod: &Pod,
        policy: &Policy,
        rule: &PolicyRule,
        note: &str,
        out: &mut Vec<Rule>,
    ) {
        let peers = (!rule.peers.is_empty()).then(|| self.peer_prefixes(policy, rule));
        // One condition per family, or none at all for any peer.
        let from: Vec<Option<Match>> = match &peers {
            None => vec![None],
            Some(prefixes) => [true, false].map(|v4| Some(other_end(direction, v4, prefixes))).into(),
        };
        let mut named = Vec::new();
        let mut allow = |conditions: &[Match]| {
            for peer in &from {
                let rule = peer.iter().chain(conditions).cloned().fold(Rule::new(), Rule::matching);
                out.push(rule.with(Statement::Verdict(Verdict::Return)).commented(note));
            }
        };
        if rule.ports.is_empty() {
            allow(&[]);
        }
        for protocol in [Protocol::TCP, Protocol::UDP, Protocol::SCTP] {
            let mut numbers: Vec<Value> = Vec::new();
            let mut names: Vec<&str> = Vec::new();
            let mut all = false;
            for selector in rule.ports.iter().filter(|s| s.protocol == protocol) {
                match &selector.ports {
                    Ports::All => all = true,
                    Ports::Range(low, high) => numbers.push(Value::from(*low..=*high)),
                    Ports::Named(name) if direction == Direction::Ingress => {
                        numbers.extend(named_ports(pod, protocol, name))
                    }
                    Ports::Named(name) => names.push(name),
                }
            }
            if all {
                allow(&[Match::is(Field::Protocol, protocol)]);
                continue;
            }
            let port = Field::DestinationPort(Some(protocol));
            allow(&[Match::any_of(port, numbers)]);
            // Towards others, each destination has its own idea of what a name means.
            for target in &self.pods {
                let ports: Vec<Value> =
                    names.iter().flat_map(|name| named_ports(target, protocol, name)).collect();
                let fits =
                    |addr: &IpAddr| peers.as_ref().is_none_or(|all| all.iter().any(|p| p.contains(*addr)));
                let addresses: Vec<IpPrefix> =
                    target.addresses.iter().copied().filter(fits).map(IpPrefix::host).collect();
                for v4 in [true, false] {
                    let rule = Rule::new()
                        .matching(other_end(direction, v4, &addresses))
                        .matching(Match::any_of(port, ports.clone()));
                    named.push(rule.with(Statement::Verdict(Verdict::Return)).commented(note));
                }
            }
        }
        out.extend(named);
    }

    /// Every address that the peers of a rule mean, as blocks.
    fn peer_prefixes(&self, policy: &Policy, rule: &PolicyRule) -> Vec<IpPrefix> {
        let mut out = Vec::new();
        for peer in &rule.peers {
            match peer {
                Peer::Block(block) => out.extend(block.prefixes()),
                _ => {
                    let pods = self.pods.iter().filter(|pod| self.is_peer(policy, peer, pod));
                    out.extend(pods.flat_map(|pod| pod.addresses.iter().map(|addr| IpPrefix::host(*addr))));
                }
            }
        }
        out
    }
}

/// Source and destination of a family.
fn ends(v4: bool) -> [Field; 2] {
    if v4 { [Field::Ipv4Source, Field::Ipv4Destination] } else { [Field::Ipv6Source, Field::Ipv6Destination] }
}

/// A condition that the other end of a connection is in one of the blocks of a family.
fn other_end(direction: Direction, v4: bool, prefixes: &[IpPrefix]) -> Match {
    let [source, destination] = ends(v4);
    let field = if direction == Direction::Ingress { source } else { destination };
    Match::any_of(field, prefixes.iter().filter(|prefix| prefix.addr().is_ipv4() == v4).copied())
}

fn named_ports<'p>(pod: &'p Pod, protocol: Protocol, name: &'p str) -> impl Iterator<Item = Value> + 'p {
    pod.ports.iter().filter(move |p| p.name == name && p.protocol == protocol).map(|p| Value::from(p.port))
}

/// What passes before any policy: packets of connections that were allowed, errors about them, and what IPv6 needs to find
/// its neighbours (which a bridge shows to the filter as well).
fn preamble() -> [Rule; 2] {
    [
        Rule::new().ct_state(CtState::ESTABLISHED | CtState::RELATED).accept(),
        Rule::new()
            .matching(Match::any_of(
                Field::Icmpv6Type,
                [130, 131, 132, 133, 134, 135, 136, 143].map(Value::icmpv6_type),
            ))
            .accept(),
    ]
}

fn denials(conditions: &Rule, deny: Deny, note: &str) -> Vec<Rule> {
    let deny_with = |rule: Rule| rule.commented(note);
    match deny {
        Deny::Drop => vec![deny_with(conditions.clone().drop())],
        Deny::Reject => vec![
            deny_with(conditions.clone().protocol(Protocol::TCP).reject(Reject::TcpReset)),
            deny_with(conditions.clone().reject(Reject::AdminProhibited)),
        ],
    }
}

fn chain_name(direction: Direction, index: usize) -> String {
    format!("{direction}_{index}")
}

/// Names of others, as a comment that nft can print.
fn comment(text: &str) -> String {
    let mut out: String = text.chars().map(|c| if c.is_control() || c == '"' { '?' } else { c }).collect();
    while out.len() > 127 {
        out.pop();
    }
    out
}

/// Whether no packet can match: no address of this family, no such port.
fn never(rule: &Rule) -> bool {
    rule.statements()
        .iter()
        .any(|statement| matches!(statement, Statement::Match(condition) if condition.is_never()))
}
