//! The rules of a bridge.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::{Attached, BridgeSpec};
use crate::nft::{
    Base, Chain, ChainKind, Changes, CtState, DataType, Family, Field, Hook, Map, MapType, MapValue, Match,
    NatTo, Policy, Priority, Protocol, Rule, Ruleset, Statement, Table, Value, Verdict,
};
use crate::prefix::IpPrefix;

/// The maps of published ports: name, protocol, family.
const MAPS: [(&str, Protocol, bool); 4] = [
    ("tcp4", Protocol::TCP, true),
    ("tcp6", Protocol::TCP, false),
    ("udp4", Protocol::UDP, true),
    ("udp6", Protocol::UDP, false),
];

fn map(name: &str, v4: bool) -> Map {
    Map::new(name, DataType::Port, if v4 { MapType::Ipv4Endpoint } else { MapType::Ipv6Endpoint })
}

/// What a port publishes, as elements of the maps; none where there is nothing.
fn published(attached: &Attached) -> Vec<Map> {
    let mut out = Vec::new();
    for (name, protocol, v4) in MAPS {
        // The first address of the family.
        let Some(addr) = attached.addresses.iter().find(|addr| addr.is_ipv4() == v4) else { continue };
        let ports = attached.publish.iter().filter(|(p, ..)| *p == protocol);
        out.push(ports.fold(map(name, v4), |map, (_, outside, inside)| {
            map.element(*outside, MapValue::Endpoint(SocketAddr::new(*addr, *inside)))
        }));
    }
    out
}

/// Opens the published ports of a sandbox.
pub(super) fn publish(name: &str, attached: &Attached) -> Changes {
    published(attached).into_iter().fold(Changes::new(Family::Inet, name), Changes::add_to_map)
}

/// Closes them.
pub(super) fn withdraw(name: &str, attached: &Attached) -> Changes {
    published(attached).into_iter().fold(Changes::new(Family::Inet, name), Changes::remove_from_map)
}

fn is_local() -> Match {
    Match::is(Field::DestinationAddressType, Value::local_address())
}

/// Translation and filtering of what the bridge carries.
pub(super) fn tables(spec: &BridgeSpec, name: &str) -> Ruleset {
    let bridge = || Value::from(&spec.name);
    let elsewhere = |field| Match::is(field, bridge()).negated();
    let mut table = Table::new(Family::Inet, name).owned();
    let mut prerouting = Chain::dstnat("prerouting");
    let mut output = Chain::base(
        "output",
        Base { kind: ChainKind::Nat, hook: Hook::Output, priority: Priority::DSTNAT, policy: Policy::Accept },
    );
    for (name, protocol, v4) in MAPS {
        table = table.map(map(name, v4));
        let key = Field::DestinationPort(Some(protocol));
        let dnat = Statement::Dnat(NatTo::Map { key, map: name.into(), ipv4: v4, endpoints: true });
        prerouting = prerouting.rule(Rule::new().matching(is_local()).with(dnat.clone()));
        // A loopback source could not be routed to the bridge.
        let loopback =
            if v4 { Value::from(LOOPBACK_V4) } else { Value::from(IpAddr::from(Ipv6Addr::LOCALHOST)) };
        let field = if v4 { Field::Ipv4Destination } else { Field::Ipv6Destination };
        let not_loopback = Match::is(field, loopback).negated();
        output = output.rule(Rule::new().matching(not_loopback).matching(is_local()).with(dnat));
    }
    let mut postrouting = Chain::srcnat("postrouting");
    for network in &spec.networks {
        if spec.masquerade {
            let rule = Rule::new().source(*network).matching(elsewhere(Field::OutputInterface));
            postrouting = postrouting.rule(rule.masquerade());
        }
        // From one sandbox to a published port of another, or its own: the answer must come back this way.
        let hairpin = Rule::new().source(*network).destination(*network).matching(Match::ct_dnat());
        postrouting = postrouting.rule(hairpin.masquerade());
    }
    let known = || Rule::new().ct_state(CtState::ESTABLISHED | CtState::RELATED).accept();
    let mut forward = Chain::filter("forward", Hook::Forward, Policy::Accept)
        .rule(known())
        // Addresses of one link are not for routers; clouds keep credentials there.
        .rule(Rule::new().input(bridge()).destination(LINK_LOCAL_V4).drop());
    if spec.isolated {
        // Not by way of the gateway either. Before what is published: whether the kernel bridges or routes that depends on
        // br_netfilter, and bridged it would meet the isolation of the ports.
        forward = forward.rule(Rule::new().input(bridge()).output(bridge()).counter().drop());
    }
    forward = forward
        .rule(Rule::new().output(bridge()).matching(Match::ct_dnat()).accept())
        .rule(Rule::new().matching(elsewhere(Field::InputInterface)).output(bridge()).counter().drop());
    let mut input = Chain::filter("input", Hook::Input, Policy::Accept);
    if !spec.reach_host {
        let ping = |field, value| Rule::new().input(bridge()).matching(Match::is(field, value)).accept();
        let neighbours = Match::any_of(Field::Icmpv6Type, [135, 136].map(Value::icmpv6_type));
        input = input
            .rule(known())
            .rule(Rule::new().input(bridge()).matching(neighbours).accept())
            .rule(ping(Field::IcmpType, Value::icmp_type(8)))
            .rule(ping(Field::Icmpv6Type, Value::icmpv6_type(128)))
            .rule(Rule::new().input(bridge()).counter().drop());
    }
    let table = [prerouting, input, forward, output, postrouting].into_iter().fold(table, Table::chain);
    Ruleset::from(table).table(guards(name))
}

/// What leads from a port to the chain of its guards.
fn guard_map() -> Map {
    Map::new("ports", DataType::Interface, MapType::Verdict)
}

/// The table of guards, with no ports yet.
fn guards(name: &str) -> Table {
    let base = Base {
        kind: ChainKind::Filter,
        hook: Hook::Prerouting,
        priority: Priority(-300),
        policy: Policy::Accept,
    };
    let lead = Statement::VerdictMap { key: Field::InputInterface, map: guard_map().name().into() };
    let chain = Chain::base("prerouting", base).rule(Rule::new().with(lead));
    Table::new(Family::Bridge, name).owned().map(guard_map()).chain(chain)
}

fn guard_entry(port: &Attached) -> Map {
    guard_map().element(&port.link, MapValue::Verdict(Verdict::Jump(port.link.to_string())))
}

/// Keeps a port to its own addresses, and from playing router or DHCP server for the others.
pub(super) fn add_guard(name: &str, port: &Attached) -> Changes {
    Changes::new(Family::Bridge, name).add_chain(guard_chain(port)).add_to_map(guard_entry(port))
}

fn guard_chain(port: &Attached) -> Chain {
    let of_family = |v4: bool| port.addresses.iter().filter(move |addr| addr.is_ipv4() == v4).copied();
    let v6 =
        of_family(false).map(IpPrefix::host).chain([LINK_LOCAL_V6, IpPrefix::host(Ipv6Addr::UNSPECIFIED)]);
    let conditions = [
        Match::is(Field::EtherSource, port.mac).negated(),
        Match::any_of(Field::ArpSource, of_family(true)).negated(),
        Match::any_of(Field::Ipv4Source, of_family(true)).negated(),
        Match::any_of(Field::Ipv6Source, v6).negated(),
        // Router advertisements and redirects; answers of a DHCP server.
        Match::any_of(Field::Icmpv6Type, [134, 137].map(Value::icmpv6_type)),
        Match::any_of(Field::SourcePort(Some(Protocol::UDP)), [67u16, 547]),
    ];
    let rules = conditions.into_iter().map(|condition| Rule::new().matching(condition).drop());
    rules.fold(Chain::new(port.link.to_string()), Chain::rule)
}

/// What in the listed rules is not as a port and its bridge made it, if anything.
pub(super) fn difference(listed: &Ruleset, spec: &BridgeSpec, name: &str, port: &Attached) -> Option<String> {
    let has = |table: &Table, wanted: &Map| {
        let map = table.maps().iter().find(|map| map.name() == wanted.name());
        map.is_some_and(|map| wanted.entries().iter().all(|entry| map.entries().contains(entry)))
    };
    for wanted in tables(spec, name).tables() {
        let family = wanted.family();
        let of_bridge = |table: &&Table| table.family() == family && table.name() == name;
        let Some(seen) = listed.tables().iter().find(of_bridge).map(Table::without_counts) else {
            return Some(format!("there is no table {family} {name}"));
        };
        let own = if family == Family::Bridge { Some(guard_chain(port)) } else { None };
        let mut chains = wanted.chains().iter().chain(&own);
        if let Some(lost) = chains.find(|chain| !seen.chains().contains(chain)) {
            return Some(format!("chain {} of table {family} {name} is another", lost.name()));
        }
        let entries = match family {
            Family::Bridge => vec![guard_entry(port)],
            _ => published(port),
        };
        if let Some(lost) = entries.iter().find(|map| !has(&seen, map)) {
            return Some(format!("map {} of table {family} {name} lacks {:?}", lost.name(), lost.entries()));
        }
    }
    None
}

/// Takes the guards of a port away again.
pub(super) fn remove_guard(name: &str, port: &Attached) -> Changes {
    Changes::new(Family::Bridge, name).remove_from_map(guard_entry(port)).remove_chain(port.link.to_string())
}

const LOOPBACK_V4: IpPrefix = IpPrefix::constant([127, 0, 0, 0], 8);
const LINK_LOCAL_V4: IpPrefix = IpPrefix::constant([169, 254, 0, 0], 16);
const LINK_LOCAL_V6: IpPrefix = IpPrefix::constant_v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10);
