//! nftables: what is applied is what is listed, by us and by nft, and it does what it says to real traffic.

mod common;

use std::net::IpAddr;

use common::*;
use palisade_net::nft::{
    Base, Chain, ChainKind, CtState, DataType, Family, Field, Hook, Map, MapType, MapValue, Match, NatTo,
    Policy, Priority, Protocol, RateUnit, Reject, Rule, Ruleset, Set, Statement, Table, Value, Verdict,
};
use palisade_net::{ErrorKind, IpPrefix, LinkSettings, MacAddr, Netns, Route};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

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

fn compare_with_nft(ns: &Netns, printed: &str) {
    match command(ns, "nft", &["list", "ruleset"]) {
        Some((true, theirs)) => {
            assert!(theirs == printed, "nft says\n{theirs}\nwe say\n{printed}\n{}", diff(&theirs, printed))
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

fn value_of(field: Field) -> BoxedStrategy<Value> {
    let v4 = any::<u32>().prop_map(|n| IpAddr::from(n.to_be_bytes()));
    let v6 = any::<u128>().prop_map(|n| IpAddr::from(n.to_be_bytes()));
    let ordered = |a: IpAddr, b: IpAddr| Value::from(a.min(b)..=a.max(b));
    match field.data_type() {
        DataType::Ipv4 => prop_oneof![
            v4.clone().prop_map(Value::from),
            (v4.clone(), 0..=32u8).prop_map(|(a, l)| IpPrefix::containing(a, l).unwrap().into()),
            (v4.clone(), v4).prop_map(move |(a, b)| ordered(a, b)),
        ]
        .boxed(),
        DataType::Ipv6 => prop_oneof![
            v6.clone().prop_map(Value::from),
            (v6.clone(), 0..=128u8).prop_map(|(a, l)| IpPrefix::containing(a, l).unwrap().into()),
            (v6.clone(), v6).prop_map(move |(a, b)| ordered(a, b)),
        ]
        .boxed(),
        DataType::Port => prop_oneof![
            any::<u16>().prop_map(Value::from),
            (any::<u16>(), any::<u16>()).prop_map(|(a, b)| Value::from(a.min(b)..=a.max(b)))
        ]
        .boxed(),
        DataType::Mark => any::<u32>().prop_map(Value::mark).boxed(),
        DataType::Interface => "[a-z][a-z0-9]{0,14}".prop_map(|s| name(&s).into()).boxed(),
        _ => any::<u8>().prop_map(Value::icmp_type).boxed(),
    }
}

fn any_match() -> impl Strategy<Value = Match> {
    let fields = [
        Field::Ipv4Source,
        Field::Ipv4Destination,
        Field::Ipv6Source,
        Field::Ipv6Destination,
        Field::SourcePort(Some(Protocol::TCP)),
        Field::DestinationPort(Some(Protocol::UDP)),
        Field::DestinationPort(Some(Protocol::SCTP)),
        Field::InputInterface,
        Field::OutputInterface,
        Field::Mark,
        Field::IcmpType,
    ];
    let one = prop::sample::select(fields.to_vec())
        .prop_flat_map(|field| {
            (Just(field), prop::collection::vec(value_of(field), 1..6), any::<bool>(), any::<bool>())
        })
        .prop_map(|(field, values, many, negated)| {
            let condition =
                if many { Match::any_of(field, values) } else { Match::is(field, values[0].clone()) };
            if negated { condition.negated() } else { condition }
        });
    let states = prop::sample::subsequence(
        vec![CtState::NEW, CtState::ESTABLISHED, CtState::RELATED, CtState::INVALID, CtState::UNTRACKED],
        1..=5,
    )
    .prop_map(|s| Match::ct_state(s.into_iter().reduce(|a, b| a | b).unwrap()));
    prop_oneof![
        8 => one,
        1 => states.clone(),
        1 => states.prop_map(Match::negated),
        1 => (1..=0xffu8, any::<u8>()).prop_map(|(m, v)| Match::tcp_flags(m, v & m)),
    ]
}

netns_test! {
    fn any_ruleset_round_trips_and_prints_as_nft_does() {
        let ns = fresh();
        let rules = prop::collection::vec(prop::collection::vec(any_match(), 1..4), 1..40);
        let mut runner = TestRunner::new(Config { cases: 30, failure_persistence: None, ..Config::default() });
        runner.run(&rules, |rules| {
            let mut chain = Chain::filter("c", Hook::Input, Policy::Accept);
            let mut kept = 0;
            for matches in rules {
                let rule = matches.into_iter().fold(Rule::new(), Rule::matching).counter().accept();
                // Combinations that no packet fulfils (IPv4 and IPv6, TCP and UDP) are refused, by name.
                let alone = Table::new(Family::Inet, "probe").chain(Chain::new("c").rule(rule.clone()));
                match ns.apply(&alone.into()) {
                    Ok(()) => {
                        kept += 1;
                        chain = chain.rule(rule);
                    }
                    Err(e) => prop_assert_eq!(e.kind(), ErrorKind::Invalid, "{}", e),
                }
            }
            drop(ns.delete_table(Family::Inet, "probe"));
            let ruleset = Ruleset::from(Table::new(Family::Inet, "t").chain(chain));
            ns.apply(&ruleset).map_err(|e| TestCaseError::fail(e.to_string()))?;
            let listed = ns.ruleset().unwrap();
            prop_assert_eq!(listed.tables()[0].chains()[0].rules().len(), kept);
            prop_assert_eq!(listed.to_string(), ruleset.to_string());
            prop_assert_eq!(&listed, &ruleset);
            compare_with_nft(&ns, &listed.to_string());
            Ok(())
        }).unwrap();
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
        let ports = |p: &[u16]| Set::new("ports", DataType::Port).elements(p.to_vec());
        let endpoint = |p: u16, a: &str| {
            Map::new("m", DataType::Port, MapType::Ipv4Endpoint).element(p, MapValue::Endpoint(a.parse().unwrap()))
        };
        let nets = |s: &str| Set::new("nets", DataType::Ipv6).with_ranges().elements([prefix(s)]);
        ns.apply(&Table::new(Family::Inet, "t").set(ports(&[1])).set(nets("fd00::/16")).map(endpoint(1, "10.0.0.1:1")).into()).unwrap();
        ns.add_to_set(Family::Inet, "t", &ports(&[2, 3])).unwrap();
        ns.remove_from_set(Family::Inet, "t", &ports(&[1])).unwrap();
        assert_eq!(ns.remove_from_set(Family::Inet, "t", &ports(&[2, 9])).unwrap_err().kind(), ErrorKind::NotFound);
        ns.add_to_set(Family::Inet, "t", &nets("fe80::/10")).unwrap();
        ns.remove_from_set(Family::Inet, "t", &nets("fd00::/16")).unwrap();
        ns.add_to_map(Family::Inet, "t", &endpoint(2, "10.0.0.2:2")).unwrap();
        assert_eq!(ns.add_to_map(Family::Inet, "t", &endpoint(2, "10.0.0.9:9")).unwrap_err().kind(), ErrorKind::Exists);
        ns.remove_from_map(Family::Inet, "t", &endpoint(1, "10.0.0.1:1")).unwrap();
        let wanted = Table::new(Family::Inet, "t").set(ports(&[2, 3])).set(nets("fe80::/10")).map(endpoint(2, "10.0.0.2:2"));
        assert_eq!(ns.ruleset().unwrap(), wanted.into());
        let e = ns.add_to_set(Family::Inet, "t", &Set::new("none", DataType::Port).elements([1u16])).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NotFound);
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
                    add set inet t pairs { type ipv4_addr . inet_service; }; \
                    add rule inet t c ip saddr . tcp dport @pairs accept";
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

/// A client, a router with `ruleset`, and an outside server at 192.0.2.9 that knows no way back into 10.0.0.0/24.
fn outside(router: &Netns) -> Netns {
    let ext = fresh();
    router.add_veth(&name("wan"), &ext, &name("eth0")).unwrap();
    router.add_address(&name("wan"), [192, 0, 2, 1], 24).unwrap();
    up(router, "wan");
    ext.add_address(&name("eth0"), [192, 0, 2, 9], 24).unwrap();
    up(&ext, "eth0");
    wait_running(router, "wan");
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
        wait_running(&router, "port3");
        assert!(tcp(&evil, "10.0.0.2:80", SHORT).is_err(), "a false MAC passed");
        drop(evil.add_route(&Route::default_via([10, 0, 0, 1])));
    }
}
