//! nftables: what is applied is what is listed, by us and by nft, and it does what it says to real traffic.

use std::net::IpAddr;

use crate::common::*;
use crate::netns_test;
use palisade_net::nft::{
    Base, Chain, ChainKind, Changes, CtState, DataType, Family, Field, Hook, Map, MapType, MapValue, Match,
    NatTo, Policy, Priority, Protocol, RateUnit, Reject, Rule, Ruleset, Set, Statement, Table, Value,
    Verdict,
};
use palisade_net::{ErrorKind, IpPrefix, MacAddr, Netns};

fn prefix(s: &str) -> IpPrefix {
    s.parse().unwrap()
}

/// Everything the model has, once.
fn everything() -> Ruleset {
    let nat = |hook, priority| Base { kind: ChainKind::Nat, hook, priority, policy: Policy::Accept };
    let sets = [
        Set::new("blocks", DataType::Ipv4)
            .with_ranges()
            .elements([prefix("10.0.0.0/8"), prefix("192.168.1.5"), prefix("255.255.255.0/24")])
            .elements([ip("172.16.0.1")..=ip("172.16.0.9")]),
        Set::new("blocks6", DataType::Ipv6).with_ranges().elements([prefix("fd00::/64"), prefix("ff00::/8")]),
        Set::new("ports", DataType::Port).elements((1000..1012u16).collect::<Vec<_>>()),
        Set::new("links", DataType::Interface).elements([name("eth0"), name("lo"), name("port12")]),
        Set::new("nobody", DataType::Mark),
    ];
    let maps = [
        Map::new("published", DataType::Port, MapType::Ipv4Endpoint)
            .element(8080u16, MapValue::Endpoint("10.0.0.2:80".parse().unwrap()))
            .element(8081u16, MapValue::Endpoint("10.0.0.3:81".parse().unwrap())),
        Map::new("published6", DataType::Port, MapType::Ipv6Endpoint)
            .element(8080u16, MapValue::Endpoint("[fd00::2]:80".parse().unwrap())),
        Map::new("homes", DataType::Port, MapType::Ipv4).element(5u16, MapValue::Address(ip("10.0.0.5"))),
        Map::new("pods", DataType::Ipv4, MapType::Verdict)
            .element(ip("10.0.0.2"), MapValue::Verdict(Verdict::Jump("pod".into())))
            .element(ip("10.0.0.3"), MapValue::Verdict(Verdict::Drop)),
        Map::new("nets", DataType::Ipv4, MapType::Verdict)
            .with_ranges()
            .element(prefix("10.0.0.0/24"), MapValue::Verdict(Verdict::Goto("pod".into()))),
    ];
    let to = |s: &str| s.parse().unwrap();
    let icmp = |n| Match::is(Field::IcmpType, Value::icmp_type(n));
    let mut table = Table::new(Family::Inet, "all")
        .chain(Chain::new("pod"))
        .chain(
            Chain::base(
                "in",
                Base {
                    kind: ChainKind::Filter,
                    hook: Hook::Input,
                    priority: Priority(5),
                    policy: Policy::Drop,
                },
            )
            .rule(Rule::new().matching(icmp(8)).accept())
            .rule(
                Rule::new()
                    .matching(Match::any_of(Field::Icmpv6Type, [135, 128].map(Value::icmpv6_type)))
                    .accept(),
            )
            .rule(Rule::new().ct_state(CtState::ESTABLISHED | CtState::RELATED).accept())
            .rule(Rule::new().matching(Match::ct_state(CtState::NEW | CtState::UNTRACKED).negated()).drop())
            .rule(Rule::new().source(prefix("10.1.0.0/16")).tcp_port(22).counter().accept())
            .rule(
                Rule::new()
                    .source(prefix("10.0.0.0/15"))
                    .matching(Match::any_of(
                        Field::DestinationPort(Some(Protocol::TCP)),
                        [Value::from(22), Value::from(80..=90), Value::from(91), Value::from(85..=89)],
                    ))
                    .counter()
                    .accept()
                    .commented("two words"),
            )
            .rule(
                Rule::new()
                    .source(prefix("fd00::/64"))
                    .matching(Match::is(Field::DestinationPort(Some(Protocol::UDP)), 53).negated())
                    .drop(),
            )
            .rule(Rule::new().with(Statement::VerdictMap { key: Field::Ipv4Destination, map: "pods".into() }))
            .rule(Rule::new().with(Statement::VerdictMap { key: Field::Ipv4Destination, map: "nets".into() }))
            .rule(Rule::new().with(Statement::VerdictList {
                key: Field::Ipv4Source,
                verdicts: vec![
                    (ip("10.0.0.2").into(), Verdict::Jump("pod".into())),
                    (ip("10.0.0.9").into(), Verdict::Accept),
                ],
            }))
            .rule(
                Rule::new()
                    .input(Value::interfaces_beginning("eth").unwrap())
                    .matching(Match::is(Field::OutputInterface, name("lo")).negated())
                    .drop(),
            )
            .rule(
                Rule::new()
                    .matching(Match::any_of(Field::Protocol, [Protocol::UDP, Protocol::TCP]))
                    .matching(Match::is(Field::DestinationPort(None), 53))
                    .accept(),
            )
            .rule(Rule::new().protocol(Protocol::TCP).reject(Reject::TcpReset))
            .rule(Rule::new().tcp_port(9).reject(Reject::TcpReset))
            .rule(Rule::new().reject(Reject::PortUnreachable))
            .rule(Rule::new().reject(Reject::HostUnreachable))
            .rule(
                Rule::new()
                    .matching(Match::in_set(Field::Ipv4Source, "blocks"))
                    .reject(Reject::AdminProhibited),
            )
            .rule(
                Rule::new()
                    .matching(Match::in_set(Field::Ipv6Source, "blocks6").negated())
                    .reject(Reject::NoRoute),
            )
            .rule(Rule::new().matching(Match::tcp_flags(0x17, 2)).with(Statement::Log {
                prefix: Some("x y".into()),
                level: Some(6),
                group: None,
            }))
            .rule(Rule::new().matching(Match::tcp_flags(0x17, 2).negated()).with(Statement::Log {
                prefix: None,
                level: None,
                group: Some(5),
            }))
            .rule(Rule::new().log("plain"))
            .rule(
                Rule::new()
                    .with(Statement::Limit { rate: 5, unit: RateUnit::Second, burst: 7, over: false })
                    .accept(),
            )
            .rule(
                Rule::new()
                    .with(Statement::Limit { rate: 9, unit: RateUnit::Hour, burst: 5, over: true })
                    .drop(),
            )
            .rule(
                Rule::new()
                    .matching(Match::is(Field::DestinationAddressType, Value::local_address()))
                    .accept(),
            )
            .rule(
                Rule::new()
                    .matching(Match::is(Field::SourceAddressType, Value::local_address()).negated())
                    .accept(),
            )
            .rule(
                Rule::new()
                    .matching(Match::is(Field::Mark, Value::mark(0x10)))
                    .with(Statement::SetMark(0x20)),
            )
            .rule(Rule::new().matching(Match::mark_masked(0xff, 0x10).negated()).accept())
            .rule(Rule::new().matching(Match::ct_dnat()).accept())
            .rule(Rule::new().matching(Match::in_set(Field::InputInterface, "links")).accept())
            .rule(
                Rule::new().matching(Match::any_of(Field::OutputInterface, [name("b"), name("a")])).accept(),
            )
            .rule(Rule::new().udp_port(8000..=8010).accept())
            .rule(
                Rule::new()
                    .matching(Match::is(Field::SourcePort(Some(Protocol::SCTP)), 8000..=8010).negated())
                    .accept(),
            )
            .rule(Rule::new().source(ip("10.0.0.5")..=ip("10.0.0.9")).accept())
            .rule(
                Rule::new()
                    .matching(Match::is(Field::Ipv6Source, ip("fd00::5")..=ip("fd00::9")).negated())
                    .accept(),
            )
            .rule(
                Rule::new()
                    .matching(Match::any_of(Field::Ipv4Source, [ip("5.6.7.8"), ip("1.2.3.4")]).negated())
                    .accept(),
            )
            .rule(Rule::new().protocol(Protocol(99)).accept())
            .rule(Rule::new().protocol(Protocol::ICMPV6).accept())
            .rule(Rule::new().matching(Match::is(Field::EtherType, Value::ether_type(0x0800))).accept())
            .rule(Rule::new().matching(Match::is(Field::EtherSource, MacAddr([2, 0, 0, 0, 0, 1]))).accept())
            .rule(Rule::new().source(prefix("0.0.0.0/0")).jump("pod"))
            .rule(Rule::new().counter())
            .rule(Rule::new().with(Statement::Verdict(Verdict::Return)))
            .rule(Rule::new().with(Statement::Verdict(Verdict::Continue)))
            .rule(Rule::new().with(Statement::Verdict(Verdict::Goto("pod".into())))),
        )
        .chain(
            Chain::dstnat("pre")
                .rule(Rule::new().with(Statement::Dnat(NatTo::Map {
                    key: Field::DestinationPort(Some(Protocol::TCP)),
                    map: "published".into(),
                    ipv4: true,
                    endpoints: true,
                })))
                .rule(Rule::new().with(Statement::Dnat(NatTo::Map {
                    key: Field::DestinationPort(Some(Protocol::TCP)),
                    map: "published6".into(),
                    ipv4: false,
                    endpoints: true,
                })))
                .rule(Rule::new().with(Statement::Dnat(NatTo::Map {
                    key: Field::DestinationPort(Some(Protocol::UDP)),
                    map: "homes".into(),
                    ipv4: true,
                    endpoints: false,
                })))
                .rule(Rule::new().tcp_port(8080).dnat(to("10.0.0.2:80")))
                .rule(Rule::new().tcp_port(8081).dnat(to("[fd00::2]:80")))
                .rule(Rule::new().with(Statement::Dnat(NatTo::Address(ip("10.0.0.2")))))
                .rule(Rule::new().tcp_port(5).with(Statement::Redirect(None)))
                .rule(Rule::new().protocol(Protocol::TCP).with(Statement::Redirect(Some(99)))),
        )
        .chain(
            Chain::srcnat("post")
                .rule(Rule::new().masquerade())
                .rule(
                    Rule::new()
                        .source(ip("1.2.3.4"))
                        .with(Statement::Snat(NatTo::Addresses(ip("10.0.0.1"), ip("10.0.0.5")))),
                )
                .rule(Rule::new().source(ip("1.2.3.4")).snat(ip("10.0.0.1"))),
        )
        .chain(
            Chain::base(
                "early",
                Base {
                    kind: ChainKind::Filter,
                    hook: Hook::Prerouting,
                    priority: Priority::RAW,
                    policy: Policy::Accept,
                },
            )
            .rule(Rule::new().tcp_port(5).with(Statement::NoTrack)),
        )
        .chain(Chain::base(
            "odd",
            Base {
                kind: ChainKind::Filter,
                hook: Hook::Prerouting,
                priority: Priority(-400),
                policy: Policy::Accept,
            },
        ))
        .chain(Chain::base(
            "reroute",
            Base {
                kind: ChainKind::Route,
                hook: Hook::Output,
                priority: Priority::MANGLE,
                policy: Policy::Accept,
            },
        ))
        .chain(Chain::base("natin", nat(Hook::Input, Priority::SRCNAT)))
        .chain(Chain::base("natout", nat(Hook::Output, Priority(-103))));
    for set in sets {
        table = table.set(set);
    }
    for map in maps {
        table = table.map(map);
    }
    let reject_all = |chain: Chain| {
        [
            Reject::PortUnreachable,
            Reject::HostUnreachable,
            Reject::AdminProhibited,
            Reject::NoRoute,
            Reject::TcpReset,
        ]
        .into_iter()
        .fold(chain, |c, r| c.rule(Rule::new().tcp_port(1).reject(r)))
    };
    Ruleset::new()
        .table(table)
        .table(
            Table::new(Family::Ip, "four")
                .chain(
                    reject_all(Chain::filter("c", Hook::Forward, Policy::Drop))
                        .rule(Rule::new().matching(icmp(8)).source(ip("10.0.0.1")).accept()),
                )
                .chain(Chain::dstnat("d").rule(Rule::new().tcp_port(1).dnat(to("10.0.0.1:7")))),
        )
        .table(
            Table::new(Family::Ip6, "six").chain(
                reject_all(Chain::filter("c", Hook::Forward, Policy::Accept))
                    .rule(Rule::new().destination(prefix("fd00::/12")).accept()),
            ),
        )
        .table(
            Table::new(Family::Bridge, "br").chain(
                Chain::base(
                    "c",
                    Base {
                        kind: ChainKind::Filter,
                        hook: Hook::Prerouting,
                        priority: Priority(-200),
                        policy: Policy::Accept,
                    },
                )
                .rule(
                    Rule::new()
                        .input(name("veth1"))
                        .matching(Match::is(Field::EtherSource, MacAddr([2, 0, 0, 0, 0, 1])).negated())
                        .drop(),
                )
                .rule(Rule::new().matching(Match::is(Field::ArpSource, ip("10.0.0.2")).negated()).drop())
                .rule(Rule::new().matching(Match::is(Field::Ipv4Source, ip("10.0.0.2")).negated()).drop())
                .rule(Rule::new().source(ip("fd00::1")).accept())
                .rule(Rule::new().matching(Match::is(Field::EtherType, Value::ether_type(0x0806))).accept())
                .rule(Rule::new().tcp_port(22).drop()),
            ),
        )
}

pub(crate) fn compare_with_nft(ns: &Netns, printed: &str) {
    match command(ns, "nft", &["list", "ruleset"]) {
        Some((true, theirs)) => {
            assert!(theirs == printed, "nft says\n{theirs}\nwe say\n{printed}\n{}", diff(&theirs, printed));
        }
        Some((false, e)) => panic!("{e}"),
        None => skip("nft", "nft(8) is not installed"),
    }
}

fn diff(a: &str, b: &str) -> String {
    a.lines()
        .zip(b.lines())
        .filter(|(a, b)| a != b)
        .map(|(a, b)| format!("nft {a}\nwe  {b}\n"))
        .take(8)
        .collect()
}

netns_test! {
    fn what_is_applied_is_listed_and_printed_as_nft_does() {
        let ns = fresh();
        let ruleset = everything();
        ns.apply(&ruleset).unwrap();
        let listed = ns.ruleset().unwrap();
        compare_with_nft(&ns, &listed.to_string());
        assert_eq!(listed.to_string(), ruleset.to_string());
        assert_eq!(listed, ruleset);
        // Again: tables are replaced, not added to.
        ns.apply(&ruleset).unwrap();
        assert_eq!(ns.ruleset().unwrap(), ruleset);
        ns.delete_table(Family::Ip, "four").unwrap();
        assert_eq!(ns.delete_table(Family::Ip, "four").unwrap_err().kind(), ErrorKind::NotFound);
        ns.flush_ruleset().unwrap();
        assert_eq!(ns.ruleset().unwrap(), Ruleset::new());
    }
}

netns_test! {
    fn a_transaction_is_all_or_nothing() {
        let ns = fresh();
        let good = Ruleset::from(Table::new(Family::Inet, "t").chain(Chain::filter("c", Hook::Input, Policy::Drop)));
        ns.apply(&good).unwrap();
        let bad = Table::new(Family::Inet, "t").chain(Chain::new("c").rule(Rule::new().jump("nowhere")));
        let e = ns.apply(&bad.into()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NotFound, "{e}");
        assert!(e.to_string().contains("table inet t chain c rule 1"), "{e}");
        assert_eq!(ns.ruleset().unwrap(), good);
        let cases: [(Rule, &str); 9] = [
            (Rule::new().source(ip("10.0.0.1")).destination(ip("fd00::1")), "IPv6 match"),
            (Rule::new().tcp_port(1).udp_port(1), "already matches tcp"),
            (Rule::new().dnat("10.0.0.1:80".parse().unwrap()), "must match tcp, udp or sctp"),
            (Rule::new().matching(Match::is(Field::Mark, 80u16)), "of type mark"),
            (Rule::new().with(Statement::Foreign("xt".into())), "only read"),
            (Rule::new().commented("a\"b"), "comment"),
            (Rule::new().log("x".repeat(128)), "log prefix"),
            (Rule::new().jump("a b"), "name of chain"),
            (Rule::new().tcp_port(std::ops::RangeInclusive::new(9, 8)), "empty range"),
        ];
        for (rule, words) in cases {
            let table = Table::new(Family::Inet, "t").chain(Chain::new("c").rule(rule));
            let e = ns.apply(&table.into()).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Invalid, "{e}");
            assert!(e.to_string().contains(words), "{e}");
        }
        assert_eq!(ns.ruleset().unwrap(), good);
        for bad in ["", "a b", "__set0", "a\"", &"x".repeat(128), "1a"] {
            assert_eq!(ns.apply(&Table::new(Family::Inet, bad).into()).unwrap_err().kind(), ErrorKind::Invalid, "{bad}");
        }
    }
}

netns_test! {
    fn a_large_ruleset_is_one_transaction() {
        let ns = fresh();
        let addrs: Vec<IpAddr> = (0..20_000u32).map(|n| IpAddr::from((0x0a00_0000 + 2 * n).to_be_bytes())).collect();
        let mut chain = Chain::filter("c", Hook::Input, Policy::Accept);
        for port in 1..2000u16 {
            chain = chain.rule(Rule::new().tcp_port(port).counter().drop());
        }
        let table = Table::new(Family::Inet, "big")
            .set(Set::new("many", DataType::Ipv4).elements(addrs.clone()))
            .set(Set::new("ranges", DataType::Ipv4).with_ranges().elements(addrs))
            .chain(chain);
        let ruleset = Ruleset::from(table);
        ns.apply(&ruleset).unwrap();
        assert_eq!(ns.ruleset().unwrap(), ruleset);
    }
}

netns_test! {
    fn sets_and_maps_change_while_in_use() {
        let ns = fresh();
        let change = |f: &dyn Fn(Changes) -> Changes| ns.change(&f(Changes::new(Family::Inet, "t")));
        let ports = |p: &[u16]| Set::new("ports", DataType::Port).elements(p.to_vec());
        let endpoint = |p: u16, a: &str| {
            Map::new("m", DataType::Port, MapType::Ipv4Endpoint).element(p, MapValue::Endpoint(a.parse().unwrap()))
        };
        let nets = |s: &str| Set::new("nets", DataType::Ipv6).with_ranges().elements([prefix(s)]);
        ns.apply(&Table::new(Family::Inet, "t").set(ports(&[1])).set(nets("fd00::/16")).map(endpoint(1, "10.0.0.1:1")).into()).unwrap();
        change(&|c| c.add_to_set(ports(&[2, 3]))).unwrap();
        change(&|c| c.remove_from_set(ports(&[1]))).unwrap();
        assert_eq!(change(&|c| c.remove_from_set(ports(&[2, 9]))).unwrap_err().kind(), ErrorKind::NotFound);
        change(&|c| c.add_to_set(nets("fe80::/10"))).unwrap();
        change(&|c| c.remove_from_set(nets("fd00::/16"))).unwrap();
        change(&|c| c.add_to_map(endpoint(2, "10.0.0.2:2"))).unwrap();
        assert_eq!(change(&|c| c.add_to_map(endpoint(2, "10.0.0.9:9"))).unwrap_err().kind(), ErrorKind::Exists);
        change(&|c| c.remove_from_map(endpoint(1, "10.0.0.1:1"))).unwrap();
        let wanted = Table::new(Family::Inet, "t").set(ports(&[2, 3])).set(nets("fe80::/10")).map(endpoint(2, "10.0.0.2:2"));
        assert_eq!(ns.ruleset().unwrap(), wanted.into());
        let e = change(&|c| c.add_to_set(Set::new("none", DataType::Port).elements([1u16]))).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NotFound);
    }
}

netns_test! {
    fn chains_come_and_go() {
        let ns = fresh();
        let map = Map::new("m", DataType::Interface, MapType::Verdict);
        let lead = Rule::new().with(Statement::VerdictMap { key: Field::InputInterface, map: "m".into() });
        let table = Table::new(Family::Inet, "t").map(map.clone()).chain(Chain::filter("in", Hook::Input, Policy::Accept).rule(lead));
        ns.apply(&table.clone().into()).unwrap();
        let chain = || Chain::new("eth0").rule(Rule::new().matching(Match::any_of(Field::Ipv4Source, [ip("10.0.0.1"), ip("10.0.0.3")])).drop());
        let entry = || map.clone().element(name("eth0"), MapValue::Verdict(Verdict::Jump("eth0".into())));
        let changes = || Changes::new(Family::Inet, "t");
        ns.change(&changes().add_chain(chain()).add_to_map(entry())).unwrap();
        let listed = ns.ruleset().unwrap();
        assert_eq!(listed.tables()[0].chains().last(), Some(&chain()));
        assert_eq!(listed.tables()[0].maps(), [entry()]);
        assert_eq!(ns.change(&changes().add_chain(chain())).unwrap_err().kind(), ErrorKind::Exists);
        assert_eq!(ns.change(&changes().remove_chain("eth0")).unwrap_err().kind(), ErrorKind::Busy);
        assert_eq!(ns.change(&changes().remove_chain("eth1")).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(ns.change(&Changes::new(Family::Inet, "none").remove_chain("x")).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(ns.ruleset().unwrap(), listed);
        ns.change(&changes().remove_from_map(entry()).remove_chain("eth0")).unwrap();
        assert_eq!(ns.ruleset().unwrap(), table.into());
        ns.change(&changes()).unwrap();
    }
}

netns_test! {
    fn an_owned_table_goes_with_its_handle() {
        let ns = fresh();
        let second = Netns::open(&ns).unwrap();
        let table = Table::new(Family::Inet, "mine").owned().chain(Chain::filter("c", Hook::Input, Policy::Drop));
        second.apply(&table.clone().into()).unwrap();
        assert_eq!(ns.ruleset().unwrap(), table.clone().into());
        assert_eq!(ns.delete_table(Family::Inet, "mine").unwrap_err().kind(), ErrorKind::Permission);
        second.apply(&table.into()).unwrap();
        drop(second);
        assert_eq!(ns.ruleset().unwrap(), Ruleset::new());
    }
}

netns_test! {
    fn rules_of_others_are_read_as_far_as_known() {
        let ns = fresh();
        let text = "add table inet t; add chain inet t c; add rule inet t c ip ttl 5 tcp dport 22 accept; \
                    add rule inet t c ip saddr 10.1.0.0/16 accept; add rule inet t c meta skuid 5 drop; \
                    add map inet t pairs { type ipv4_addr . inet_service : verdict; }; \
                    add rule inet t c ip saddr . tcp dport vmap @pairs";
        match command(&ns, "nft", &[text]) {
            Some((ok, out)) => assert!(ok, "{out}"),
            None => return skip("nft", "nft(8) is not installed"),
        }
        let ruleset = ns.ruleset().unwrap();
        let rules = ruleset.tables()[0].chains()[0].rules();
        assert!(rules[0].statements().iter().any(|s| matches!(s, Statement::Foreign(_))), "{rules:?}");
        assert_eq!(rules[1], Rule::new().source(prefix("10.1.0.0/16")).accept());
        for rule in [&rules[2], &rules[3]] {
            assert!(rule.statements().iter().any(|s| matches!(s, Statement::Foreign(_))), "{rule:?}");
        }
        // What was only half understood is never applied again as if it were whole.
        assert_eq!(ns.apply(&ruleset).unwrap_err().kind(), ErrorKind::Invalid);
    }
}
