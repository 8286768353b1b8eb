//! Sets of several fields together: listed as nft lists them, read back from nft, met by real traffic.

use crate::common::*;
use crate::netns_test;
use crate::nft::compare_with_nft;
use palisade_net::nft::{
    Chain, Changes, DataType, Family, Field, Hook, Policy, Protocol, Rule, Ruleset, Statement, Table, Tuple,
    TupleMatch, TupleSet, Value,
};
use palisade_net::{ErrorKind, IpPrefix, MacAddr};

const TCP: Field = Field::DestinationPort(Some(Protocol::TCP));

fn prefix(s: &str) -> IpPrefix {
    s.parse().unwrap()
}

fn sets() -> [TupleSet; 5] {
    [
        TupleSet::new("clients", [DataType::Ipv4, DataType::Port]).elements([
            (ip("10.0.0.2"), 443u16),
            (ip("10.0.0.1"), 8080),
            (ip("10.0.0.1"), 80),
            (ip("192.168.0.1"), 80),
        ]),
        TupleSet::new("blocks", [DataType::Ipv4, DataType::Port])
            .with_ranges()
            .elements([(prefix("10.0.0.0/8"), Value::from(80..=90)), (prefix("192.0.2.5"), 22.into())])
            .elements([(ip("172.16.0.3")..=ip("172.16.0.9"), 1u16..=65535)]),
        TupleSet::new("six", [DataType::Ipv6, DataType::Protocol, DataType::Port])
            .elements([(ip("fd00::2"), Protocol::UDP, 53u16), (ip("fd00::1"), Protocol::TCP, 80)]),
        TupleSet::new("stations", [DataType::Interface, DataType::Mac]).elements([
            (name("eth1"), MacAddr([2, 0, 0, 0, 0, 1])),
            (name("eth0"), MacAddr([2, 0, 0, 0, 0, 2])),
        ]),
        TupleSet::new("nobody", [DataType::Ipv4, DataType::Mark]),
    ]
}

/// Each kind of set and condition, once.
fn everything() -> Ruleset {
    let two = [Field::Ipv4Source, TCP];
    let rules = [
        Rule::new().matching_tuple(TupleMatch::in_set(two, "clients")).accept(),
        Rule::new().matching_tuple(TupleMatch::in_set(two, "blocks").negated()).counter().drop(),
        Rule::new()
            .matching_tuple(TupleMatch::in_set(
                [Field::Ipv6Destination, Field::Protocol, Field::DestinationPort(None)],
                "six",
            ))
            .accept(),
        Rule::new()
            .matching_tuple(TupleMatch::in_set([Field::InputInterface, Field::EtherSource], "stations"))
            .accept(),
        Rule::new()
            .matching_tuple(TupleMatch::in_set([Field::Ipv4Destination, Field::Mark], "nobody"))
            .accept(),
        Rule::new()
            .matching_tuple(TupleMatch::any_of(two, [(ip("10.0.0.9"), 81u16), (ip("10.0.0.1"), 80)]))
            .accept(),
        Rule::new()
            .matching_tuple(
                TupleMatch::any_of(
                    [Field::Ipv4Source, Field::Ipv4Destination, Field::DestinationPort(Some(Protocol::UDP))],
                    [
                        (prefix("10.0.0.0/24"), ip("10.1.0.1"), Value::from(53)),
                        (prefix("10.2.0.0/16"), ip("10.1.0.1"), (54..=60).into()),
                    ],
                )
                .negated(),
            )
            .accept(),
        // What was readable before stays readable, and the fields of other rules are alone again.
        Rule::new()
            .tcp_port(22)
            .matching_tuple(TupleMatch::in_set(two, "clients"))
            .source(ip("10.0.0.1"))
            .accept(),
    ];
    let chain = rules.into_iter().fold(Chain::filter("c", Hook::Input, Policy::Accept), Chain::rule);
    sets().into_iter().fold(Table::new(Family::Inet, "t"), Table::tuple_set).chain(chain).into()
}

netns_test! {
    fn sets_of_tuples_are_listed_and_printed_as_nft_does() {
        let ns = fresh();
        let ruleset = everything();
        ns.apply(&ruleset).unwrap();
        let listed = ns.ruleset().unwrap();
        compare_with_nft(&ns, &listed.to_string());
        assert_eq!(listed.to_string(), ruleset.to_string());
        assert_eq!(listed, ruleset);
        // Elements come and go, ranges too.
        let ranges = TupleSet::new("blocks", [DataType::Ipv4, DataType::Port]).with_ranges();
        let more = ranges.clone().elements([(prefix("198.51.100.0/24"), 7u16)]);
        let less = ranges.elements([(prefix("10.0.0.0/8"), 80u16..=90)]);
        let single = TupleSet::new("clients", [DataType::Ipv4, DataType::Port]);
        let changes = Changes::new(Family::Inet, "t")
            .add_to_tuple_set(more)
            .remove_from_tuple_set(less)
            .remove_from_tuple_set(single.elements([(ip("10.0.0.1"), 80u16)]));
        ns.change(&changes).unwrap();
        let listed = ns.ruleset().unwrap();
        compare_with_nft(&ns, &listed.to_string());
        let text = |n: usize| listed.tables()[0].tuple_sets()[n].tuples().iter().map(Tuple::to_string).collect::<Vec<_>>();
        assert_eq!(text(1), ["192.0.2.5 . 22", "172.16.0.3-172.16.0.9 . 1-65535", "198.51.100.0/24 . 7"]);
        assert_eq!(text(0).len(), 3);
    }
}

netns_test! {
    /// What nft made is read, and made again it is the same.
    fn sets_of_tuples_that_nft_made_are_read() {
        let ns = fresh();
        let theirs = "table inet t { set a { type ipv4_addr . inet_service . ipv4_addr; flags interval; \
             elements = { 10.0.0.0/24 . 80-90 . 10.1.0.1, 10.2.0.0-10.2.0.5 . 22 . 10.0.0.0/8 }; }; \
             set b { type ifname . mark; elements = { \"eth0\" . 0x10, \"lo\" . 0x2 }; }; \
             set f { type ipv6_addr . ether_addr . inet_proto . inet_service; }; \
             chain c { ip saddr . tcp dport . ip daddr @a accept; iifname . meta mark != @b drop; \
             ip daddr . udp sport { 10.0.0.1 . 53, 10.0.0.2 . 53 } counter packets 0 bytes 0 accept; }; }";
        match command(&ns, "nft", &[theirs]) {
            Some((true, _)) => {}
            Some((false, said)) => panic!("{said}"),
            None => return skip("nft", "nft(8) is not installed"),
        }
        let listed = ns.ruleset().unwrap();
        compare_with_nft(&ns, &listed.to_string());
        let table = &listed.tables()[0];
        assert_eq!(table.tuple_sets().len(), 3);
        let known = |s: &Statement| !matches!(s, Statement::Foreign(_));
        assert!(table.chains()[0].rules().iter().all(|rule| rule.statements().iter().all(known)));
        ns.apply(&listed).unwrap();
        assert_eq!(ns.ruleset().unwrap(), listed);
        compare_with_nft(&ns, &listed.to_string());
    }
}

netns_test! {
    fn a_rule_on_several_fields_meets_those_packets_and_no_others() {
        let router = router();
        let (one, two, server) = (on_bridge(&router, 2), on_bridge(&router, 3), on_bridge(&router, 4));
        for port in [80, 81, 85] {
            serve_tcp(&server, &format!("0.0.0.0:{port}"));
        }
        let exact = TupleSet::new("exact", [DataType::Ipv4, DataType::Port]).elements([(ip("10.0.0.2"), 80u16)]);
        let ranges = TupleSet::new("ranges", [DataType::Ipv4, DataType::Port])
            .with_ranges()
            .elements([(prefix("10.0.0.3/32"), 81u16..=90)]);
        let fields = [Field::Ipv4Source, TCP];
        let chain = Chain::filter("c", Hook::Input, Policy::Accept)
            .rule(Rule::new().matching_tuple(TupleMatch::in_set(fields, "exact")).accept())
            .rule(Rule::new().matching_tuple(TupleMatch::in_set(fields, "ranges")).accept())
            .rule(Rule::new().protocol(Protocol::TCP).drop());
        server.apply(&Table::new(Family::Inet, "t").tuple_set(exact).tuple_set(ranges).chain(chain).into()).unwrap();
        let reached = |ns, ports: [u16; 3]| ports.map(|port| tcp(ns, &format!("10.0.0.4:{port}"), SHORT).is_ok());
        assert_eq!(reached(&one, [80, 81, 85]), [true, false, false]);
        assert_eq!(reached(&two, [80, 81, 85]), [false, true, true]);
    }
}

netns_test! {
    fn what_no_tuple_can_be_is_refused() {
        let ns = fresh();
        let refused = |table: Table, parts: &[&str]| {
            let error = ns.apply(&table.into()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            assert!(parts.iter().all(|part| error.to_string().contains(part)), "{parts:?}: {error}");
        };
        let table = || Table::new(Family::Inet, "t");
        let two = [DataType::Ipv4, DataType::Port];
        refused(table().tuple_set(TupleSet::new("s", [DataType::Ipv4])), &["fields ipv4_addr", "2 to 5"]);
        refused(table().tuple_set(TupleSet::new("s", [DataType::Port; 6])), &["2 to 5 fields"]);
        refused(table().tuple_set(TupleSet::new("s", [DataType::Ipv6; 5])), &["64 bytes"]);
        refused(table().tuple_set(TupleSet::new("s", [DataType::Ipv4, DataType::Mark]).with_ranges()), &["no mark"]);
        refused(table().tuple_set(TupleSet::new("s", two).elements([(80u16, ip("10.0.0.1"))])), &["80", "ipv4_addr"]);
        refused(table().tuple_set(TupleSet::new("s", two).elements([vec![Value::from(ip("10.0.0.1"))]])), &["2 values"]);
        refused(table().tuple_set(TupleSet::new("s", two).elements([(prefix("10.0.0.0/8"), 80u16)])), &["with_ranges"]);
        refused(table().tuple_set(TupleSet::new("s", two).with_ranges().elements([(ip("10.0.0.9")..=ip("10.0.0.3"), 80u16)])), &["10.0.0.9-10.0.0.3"]);
        let chain = |condition| Chain::new("c").rule(Rule::new().matching_tuple(condition).accept());
        let wrong = TupleMatch::in_set([TCP, Field::Ipv4Source], "s");
        refused(table().tuple_set(TupleSet::new("s", two)).chain(chain(wrong)), &["set s", "rule 1"]);
        let both = TupleMatch::any_of([Field::Ipv4Source, Field::Ipv6Source], [(ip("10.0.0.1"), ip("fd00::1"))]);
        refused(table().chain(chain(both)), &["IPv6"]);
        // Of none: never, and negated always.
        let none = TupleMatch::any_of([Field::Ipv4Source, TCP], Vec::<Tuple>::new());
        let chain = chain(none.clone()).rule(Rule::new().matching_tuple(none.negated()).drop());
        ns.apply(&table().chain(chain).into()).unwrap();
        assert_eq!(ns.ruleset().unwrap().tables()[0].chains()[0].rules(), [Rule::new().drop()]);
    }
}
