//! Any ruleset and any answer.

use std::net::IpAddr;

use crate::common::*;
use crate::netns_test;
use crate::nft::compare_with_nft;
use palisade_net::nft::{
    Chain, CtState, DataType, Family, Field, Hook, Match, Policy, Protocol, Rule, Ruleset, Table, TupleMatch,
    Value,
};
use palisade_net::{ErrorKind, IpPrefix};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

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

/// Conditions on two or three fields together, of single values or ranges.
fn any_tuple_match() -> impl Strategy<Value = TupleMatch> {
    let fields = [
        vec![Field::Ipv4Source, Field::DestinationPort(Some(Protocol::TCP))],
        vec![Field::Ipv6Source, Field::Ipv6Destination],
        vec![Field::SourcePort(Some(Protocol::UDP)), Field::Ipv4Destination, Field::InputInterface],
        vec![Field::InputInterface, Field::Ipv4Source, Field::IcmpType],
    ];
    prop::sample::select(fields.to_vec())
        .prop_flat_map(|fields| {
            let tuple = fields.iter().copied().map(value_of).collect::<Vec<_>>();
            (Just(fields), prop::collection::vec(tuple, 1..4), any::<bool>())
        })
        .prop_map(|(fields, tuples, negated)| {
            let condition = TupleMatch::any_of(fields, tuples);
            if negated { condition.negated() } else { condition }
        })
}

netns_test! {
    fn any_ruleset_round_trips_and_prints_as_nft_does() {
        let ns = fresh();
        let conditions = (prop::collection::vec(any_match(), 1..4), prop::option::weighted(0.3, any_tuple_match()));
        let rules = prop::collection::vec(conditions, 1..40);
        let mut runner = TestRunner::new(Config { cases: 30, failure_persistence: None, ..Config::default() });
        runner.run(&rules, |rules| {
            let mut chain = Chain::filter("c", Hook::Input, Policy::Accept);
            let mut kept = 0;
            for (matches, tuple) in rules {
                let rule = matches.into_iter().fold(Rule::new(), Rule::matching);
                let overlapping = tuple.is_some();
                let rule = tuple.into_iter().fold(rule, Rule::matching_tuple).counter().accept();
                // Combinations that no packet fulfils (IPv4 and IPv6, TCP and UDP) are refused, by name.
                let alone = Table::new(Family::Inet, "probe").chain(Chain::new("c").rule(rule.clone()));
                match ns.apply(&alone.into()) {
                    Ok(()) => {
                        kept += 1;
                        chain = chain.rule(rule);
                    }
                    // So are tuples whose ranges overlap, by the kernel.
                    Err(e) if overlapping => prop_assert!([ErrorKind::Invalid, ErrorKind::Exists].contains(&e.kind()), "{}", e),
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

/// What a list of messages may hold, mostly well-formed: headers and attributes with random contents.
fn messages() -> impl Strategy<Value = Vec<u8>> {
    let attr = (0..20u16, any::<bool>(), prop::collection::vec(any::<u8>(), 0..24));
    let attrs = |list: &[(u16, bool, Vec<u8>)]| {
        let mut out = Vec::new();
        for (kind, nested, payload) in list {
            let mut payload = payload.clone();
            if *nested {
                // One attribute in another, and once more.
                let inner = [&[payload.len() as u8 + 4, 0, 1, 0][..], &payload].concat();
                payload = [&[inner.len() as u8 + 4, 0, 2, 0][..], &inner].concat();
            }
            out.extend((payload.len() as u16 + 4).to_ne_bytes());
            out.extend(kind.to_ne_bytes());
            out.extend(&payload);
            out.resize(out.len().next_multiple_of(4), 0);
        }
        out
    };
    let message = (0..20u16, prop::collection::vec(attr, 0..8)).prop_map(move |(kind, list)| {
        let body = [vec![1, 0, 0, 0], attrs(&list)].concat();
        let mut out = (body.len() as u32 + 16).to_ne_bytes().to_vec();
        out.extend(kind.to_ne_bytes());
        out.extend([0; 10]);
        out.extend(body);
        out
    });
    prop::collection::vec(message, 0..8).prop_map(|all| all.concat())
}

proptest! {
    #[test]
    fn any_answer_is_survived(data in messages(), noise in prop::collection::vec(any::<u8>(), 0..256)) {
        palisade_net::fuzz::ruleset(&data);
        palisade_net::fuzz::answers(data.get(16..).unwrap_or_default());
        palisade_net::fuzz::ruleset(&noise);
        palisade_net::fuzz::answers(&noise);
    }
}
