//! `networking.k8s.io/v1` NetworkPolicy.

use palisade_net::IpPrefix;
use palisade_net::nft::Protocol;
use palisade_net::policy::{Direction, IpBlock, Peer, Policy, PolicyRule, PortSelector, Ports, Selector};
use serde::Deserialize;
use serde_json::Value;

use super::document::Document;
use super::selector::{LabelSelector, is_dns_subdomain};
use crate::error::Result;

/// Fields that every document has are read by [`Document`].
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "fields that may be there, and are read elsewhere or mean nothing")]
struct Manifest {
    api_version: Value,
    kind: Value,
    metadata: Option<Value>,
    spec: Option<Spec>,
    status: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    pod_selector: Option<LabelSelector>,
    policy_types: Option<Vec<String>>,
    ingress: Option<Vec<IngressRule>>,
    egress: Option<Vec<EgressRule>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IngressRule {
    from: Option<Vec<PolicyPeer>>,
    ports: Option<Vec<PolicyPort>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EgressRule {
    to: Option<Vec<PolicyPeer>>,
    ports: Option<Vec<PolicyPort>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PolicyPeer {
    pod_selector: Option<LabelSelector>,
    namespace_selector: Option<LabelSelector>,
    ip_block: Option<Block>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Block {
    cidr: String,
    except: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PolicyPort {
    protocol: Option<String>,
    port: Option<IntOrString>,
    end_port: Option<u16>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a port from 1 to 65535 or the name of one")]
enum IntOrString {
    Int(u16),
    Text(String),
}

impl Document {
    /// A `networking.k8s.io/v1` NetworkPolicy as a policy of the neutral model, to be added to a
    /// [`Cluster`](palisade_net::policy::Cluster), with everything that the API server would have filled in.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidSpec`](crate::ErrorKind::InvalidSpec) if it is none, or the API server would refuse it; the
    /// message names the field.
    pub fn network_policy(&self) -> Result<Policy> {
        let manifest: Manifest = self.read("networking.k8s.io/v1", "NetworkPolicy")?;
        if !is_dns_subdomain(self.name()) {
            let name = self.name();
            return Err(self
                .wrong("metadata.name", format_args!("{name:?}: lower-case letters, digits, '-' and '.'")));
        }
        let spec = manifest.spec.unwrap_or_default();
        let wrong = |field: String, what: String| self.wrong(&field, what);
        let pods = selector(spec.pod_selector).map_err(|what| wrong("spec.podSelector".into(), what))?;
        let directions =
            directions(spec.policy_types, spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()))
                .map_err(|what| wrong("spec.policyTypes".into(), what))?;

        let mut policy = Policy::new(self.namespace(), self.name(), pods);
        let ingress = spec.ingress.unwrap_or_default().into_iter().map(|rule| (rule.from, rule.ports));
        let egress = spec.egress.unwrap_or_default().into_iter().map(|rule| (rule.to, rule.ports));
        let rules = ingress.enumerate().map(|(n, rule)| (Direction::Ingress, n, rule));
        for (direction, n, (peers, ports)) in
            rules.chain(egress.enumerate().map(|(n, rule)| (Direction::Egress, n, rule)))
        {
            let mut rule = PolicyRule::everything();
            let (at, side) = match direction {
                Direction::Ingress => (format!("spec.ingress[{n}]"), "from"),
                Direction::Egress => (format!("spec.egress[{n}]"), "to"),
            };
            for (n, of) in peers.unwrap_or_default().into_iter().enumerate() {
                rule = rule.peer(peer(of).map_err(|what| wrong(format!("{at}.{side}[{n}]"), what))?);
            }
            for (n, of) in ports.unwrap_or_default().into_iter().enumerate() {
                rule = rule.port(port(of).map_err(|what| wrong(format!("{at}.ports[{n}]"), what))?);
            }
            // A direction that the types leave out is not restricted, whatever rules there are for it.
            if directions.contains(&direction) {
                policy = policy.allow(direction, rule);
            }
        }
        Ok(directions.into_iter().fold(policy, Policy::isolate))
    }
}

/// As the API server has it: ingress always, egress if there are rules for it, unless it is said.
fn directions(types: Option<Vec<String>>, has_egress: bool) -> Result<Vec<Direction>, String> {
    let types = types.unwrap_or_default();
    if types.is_empty() {
        let egress = has_egress.then_some(Direction::Egress);
        return Ok([Direction::Ingress].into_iter().chain(egress).collect());
    }
    let read = |name: &String| match name.as_str() {
        "Ingress" => Ok(Direction::Ingress),
        "Egress" => Ok(Direction::Egress),
        other => Err(format!("{other:?} is neither Ingress nor Egress")),
    };
    types.iter().map(read).collect()
}

fn selector(of: Option<LabelSelector>) -> Result<Selector, String> {
    of.unwrap_or_default().into_selector()
}

fn peer(of: PolicyPeer) -> Result<Peer, String> {
    match (of.pod_selector, of.namespace_selector, of.ip_block) {
        (None, None, Some(of)) => Ok(Peer::Block(block(of)?)),
        (_, _, Some(_)) => Err("ipBlock stands alone: give each its own item of the list".into()),
        (Some(pods), None, None) => Ok(Peer::Pods(pods.into_selector()?)),
        (None, Some(groups), None) => Ok(Peer::Groups(groups.into_selector()?)),
        (Some(pods), Some(groups), None) => {
            Ok(Peer::PodsInGroups { pods: pods.into_selector()?, groups: groups.into_selector()? })
        }
        (None, None, None) => Err("one of podSelector, namespaceSelector, ipBlock is needed".into()),
    }
}

fn block(of: Block) -> Result<IpBlock, String> {
    let parse = |cidr: &String| {
        let (addr, len) = cidr.split_once('/').ok_or_else(|| format!("{cidr:?}: addr/length is wanted"))?;
        let addr: std::net::IpAddr = addr.parse().map_err(|_| format!("{cidr:?}: {addr:?} is no address"))?;
        let digits = !len.is_empty() && len.bytes().all(|b| b.is_ascii_digit());
        let len =
            len.parse().ok().filter(|_| digits).ok_or_else(|| format!("{cidr:?}: {len:?} is no length"))?;
        // The API server takes an address inside of the block for the block.
        IpPrefix::containing(addr, len).map_err(|error| error.to_string())
    };
    let cidr = parse(&of.cidr)?;
    let except = of.except.unwrap_or_default().iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    if let Some(all) = except.iter().find(|hole| **hole == cidr) {
        return Err(format!("except {all}: nothing would be left of {cidr}"));
    }
    IpBlock::new(cidr, except).map_err(|error| error.to_string())
}

fn port(of: PolicyPort) -> Result<PortSelector, String> {
    let protocol = protocol(of.protocol.as_deref())?;
    let ports = match (of.port, of.end_port) {
        (None, None) => Ports::All,
        (None, Some(_)) => return Err("endPort needs a port to begin with".into()),
        (Some(IntOrString::Int(0)), _) => return Err("port: 0 is no port".into()),
        (Some(IntOrString::Int(port)), None) => Ports::Range(port, port),
        (Some(IntOrString::Int(port)), Some(end)) if end >= port => Ports::Range(port, end),
        (Some(IntOrString::Int(port)), Some(end)) => {
            return Err(format!("endPort: {end} is before port {port}"));
        }
        (Some(IntOrString::Text(_)), Some(_)) => return Err("endPort needs a port that is a number".into()),
        (Some(IntOrString::Text(name)), None) if is_port_name(&name) => Ports::Named(name),
        (Some(IntOrString::Text(name)), None) => {
            return Err(format!(
                "port: {name:?}: a number, or at most 15 lower-case letters, digits and '-', one letter at least"
            ));
        }
    };
    Ok(PortSelector { protocol, ports })
}

pub(super) fn protocol(name: Option<&str>) -> Result<Protocol, String> {
    match name {
        None | Some("TCP") => Ok(Protocol::TCP),
        Some("UDP") => Ok(Protocol::UDP),
        Some("SCTP") => Ok(Protocol::SCTP),
        Some(other) => Err(format!("protocol: {other:?} is none of TCP, UDP, SCTP")),
    }
}

/// An IANA service name.
fn is_port_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    name.len() <= 15
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
        && bytes.iter().any(u8::is_ascii_lowercase)
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--")
}
