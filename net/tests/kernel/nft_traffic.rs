//! Rules that real traffic meets.

use crate::common::*;
use crate::netns_test;
use palisade_net::nft::{
    Base, Chain, ChainKind, DataType, Family, Field, Hook, Map, MapType, MapValue, Match, NatTo, Policy,
    Priority, Protocol, Rule, Statement, Table, Value,
};
use palisade_net::{IpPrefix, LinkSettings, MacAddr, Netns, Route};

fn prefix(s: &str) -> IpPrefix {
    s.parse().unwrap()
}

/// A client, a router with `ruleset`, and an outside server at 192.0.2.9 that knows no way back into 10.0.0.0/24.
fn outside(router: &Netns) -> Netns {
    let ext = fresh();
    router.add_veth(&name("wan"), &ext, &name("eth0")).unwrap();
    router.add_address(&name("wan"), [192, 0, 2, 1], 24).unwrap();
    up(router, "wan");
    ext.add_address(&name("eth0"), [192, 0, 2, 9], 24).unwrap();
    up(&ext, "eth0");
    wait_ready(router, "wan");
    ext
}

netns_test! {
    /// Lab 72: forwarding alone does not bring answers back; masquerading does, and a published port leads inside.
    fn masquerade_and_port_publishing() {
        let router = router();
        let inside = on_bridge(&router, 2);
        let ext = outside(&router);
        serve_tcp(&ext, "0.0.0.0:80");
        serve_udp(&ext, "0.0.0.0:80");
        serve_tcp(&inside, "0.0.0.0:80");
        assert!(tcp(&inside, "192.0.2.9:80", SHORT).is_err(), "no way back");
        let published = Map::new("published", DataType::Port, MapType::Ipv4Endpoint)
            .element(8080u16, MapValue::Endpoint("10.0.0.2:80".parse().unwrap()));
        let nat = Table::new(Family::Ip, "nat")
            .map(published)
            .chain(Chain::dstnat("pre").rule(
                Rule::new().matching(Match::is(Field::DestinationAddressType, Value::local_address())).with(
                    Statement::Dnat(NatTo::Map { key: Field::DestinationPort(Some(Protocol::TCP)), map: "published".into(), ipv4: true, endpoints: true }),
                ),
            ))
            .chain(Chain::srcnat("post").rule(
                Rule::new().source(prefix("10.0.0.0/24")).matching(Match::is(Field::OutputInterface, name("br0")).negated()).masquerade(),
            ));
        router.apply(&nat.into()).unwrap();
        assert_eq!(tcp(&inside, "192.0.2.9:80", LONG).unwrap(), "192.0.2.1", "the server sees the gateway");
        udp(&inside, "192.0.2.9:80", LONG).unwrap();
        assert_eq!(tcp(&ext, "192.0.2.1:8080", LONG).unwrap(), "192.0.2.9");
        assert!(tcp(&ext, "192.0.2.1:8081", SHORT).is_err());
        assert_ne!(ping(&inside, "192.0.2.9"), Some(false));
    }
}

netns_test! {
    /// Attacks A89 and A90 as far as links and rules can stop them: a neighbour that lies about its addresses is not heard,
    /// and IPv6 is not forgotten.
    fn a_spoofing_port_is_not_heard() {
        let router = router();
        let (good, evil) = (on_bridge(&router, 2), on_bridge(&router, 3));
        serve_tcp(&good, "[::]:80");
        assert!(tcp(&evil, "10.0.0.2:80", LONG).is_ok());
        let guard = |port: &str, ns: &Netns, v4: &str, v6: &str| {
            let mac = ns.link(&name("eth0")).unwrap().mac.unwrap();
            let not = |field, value: Value| Rule::new().input(name(port)).matching(Match::is(field, value).negated()).drop();
            [not(Field::EtherSource, mac.into()), not(Field::ArpSource, ip(v4).into()), not(Field::Ipv4Source, ip(v4).into()), not(Field::Ipv6Source, ip(v6).into())]
        };
        let base = Base { kind: ChainKind::Filter, hook: Hook::Prerouting, priority: Priority(-300), policy: Policy::Accept };
        let mut chain = Chain::base("spoof", base);
        for rule in guard("port3", &evil, "10.0.0.3", "fd00::3") {
            chain = chain.rule(rule);
        }
        router.apply(&Table::new(Family::Bridge, "guard").chain(chain).into()).unwrap();
        assert_eq!(tcp(&evil, "10.0.0.2:80", LONG).unwrap(), "10.0.0.3");
        evil.add_address(&name("eth0"), [10, 0, 0, 66], 24).unwrap();
        evil.delete_address(&name("eth0"), [10, 0, 0, 3], 24).unwrap();
        assert!(tcp(&evil, "10.0.0.2:80", SHORT).is_err(), "a false IPv4 source passed");
        evil.add_address(&name("eth0"), ip("fd00::66"), 64).unwrap();
        evil.delete_address(&name("eth0"), ip("fd00::3"), 64).unwrap();
        assert!(tcp(&evil, "[fd00::2]:80", SHORT).is_err(), "a false IPv6 source passed");
        evil.set_link(&name("eth0"), &LinkSettings::new().down().mac(MacAddr([2, 0, 0, 0, 0, 66]))).unwrap();
        up(&evil, "eth0");
        evil.add_address(&name("eth0"), [10, 0, 0, 3], 24).unwrap();
        wait_ready(&router, "port3");
        assert!(tcp(&evil, "10.0.0.2:80", SHORT).is_err(), "a false MAC passed");
        drop(evil.add_route(&Route::default_via([10, 0, 0, 1])));
    }
}
