//! Hooks that not every family has: of devices, and of ARP.

use crate::common::*;
use crate::netns_test;
use crate::nft::compare_with_nft;
use palisade_net::ErrorKind;
use palisade_net::nft::{
    Base, Chain, ChainKind, Family, Field, Hook, Match, Policy, Priority, Protocol, Rule, Ruleset, Statement,
    Table,
};

fn base(hook: Hook, priority: i32) -> Base {
    Base { kind: ChainKind::Filter, hook, priority: Priority(priority), policy: Policy::Accept }
}

netns_test! {
    fn chains_of_devices_and_of_arp_are_listed_as_nft_does() {
        let (ns, other) = (fresh(), fresh());
        for link in ["eth0", "eth1"] {
            ns.add_veth(&name(link), &other, &name(link)).unwrap();
        }
        let lo = || name("lo");
        let netdev = Table::new(Family::Netdev, "n")
            .chain(Chain::base("one", base(Hook::Ingress, 0)).device(lo()).rule(Rule::new().tcp_port(80).drop()))
            .chain(
                Chain::base("two", base(Hook::Ingress, -300))
                    .device(name("eth0"))
                    .device(name("eth1"))
                    .rule(Rule::new().source(ip("10.0.0.1")).counter().accept()),
            )
            .chain(Chain::base("out", base(Hook::Egress, 5)).device(name("eth0")));
        let inet = Table::new(Family::Inet, "i").chain(Chain::base("early", base(Hook::Ingress, 0)).device(lo()));
        let asked = Match::is(Field::ArpSource, ip("10.0.0.1"));
        let arp = Table::new(Family::Arp, "a")
            .chain(Chain::base("in", base(Hook::Input, 0)).rule(Rule::new().matching(asked).drop()))
            .chain(Chain::base("late", base(Hook::Output, 100)));
        let ruleset = Ruleset::new().table(netdev).table(inet).table(arp);
        ns.apply(&ruleset).unwrap();
        let listed = ns.ruleset().unwrap();
        compare_with_nft(&ns, &listed.to_string());
        assert_eq!(listed, ruleset);
        // With its last device a chain may be gone; what is left is still read.
        ns.delete_link(&name("eth0")).unwrap();
        let listed = ns.ruleset().unwrap();
        compare_with_nft(&ns, &listed.to_string());
    }
}

netns_test! {
    fn chains_of_devices_and_of_arp_meet_their_packets() {
        let router = router();
        let (client, server) = (on_bridge(&router, 2), on_bridge(&router, 3));
        for port in [80, 81] {
            serve_tcp(&server, &format!("0.0.0.0:{port}"));
        }
        let ingress = Chain::base("c", base(Hook::Ingress, 0)).device(name("eth0"));
        server.apply(&Table::new(Family::Netdev, "n").chain(ingress.rule(Rule::new().tcp_port(80).drop())).into()).unwrap();
        assert!(tcp(&client, "10.0.0.3:80", SHORT).is_err());
        assert!(tcp(&client, "10.0.0.3:81", SHORT).is_ok());
        server.delete_table(Family::Netdev, "n").unwrap();
        assert!(tcp(&client, "10.0.0.3:80", SHORT).is_ok());
        // What is asked arrives, what is answered leaves: the hooks are not each other.
        let count = |name, hook| Chain::base(name, base(hook, 0)).rule(Rule::new().counter());
        let arp = Table::new(Family::Arp, "a").chain(count("in", Hook::Input));
        let nobody = on_bridge(&router, 4);
        nobody.apply(&arp.chain(count("out", Hook::Output).rule(Rule::new().drop())).into()).unwrap();
        assert!(tcp(&client, "10.0.0.4:80", SHORT).is_err(), "no answer leaves");
        let listed = nobody.ruleset().unwrap();
        let counted = |n: usize| match listed.tables()[0].chains()[n].rules()[0].statements() {
            [Statement::Counter { packets, .. }] => *packets,
            other => panic!("{other:?}"),
        };
        assert!(counted(0) > 0 && counted(1) > 0, "{listed}");
    }
}

netns_test! {
    fn hooks_that_a_family_lacks_are_refused() {
        let ns = fresh();
        let refused = |family, chain: Chain, parts: &[&str]| {
            let error = ns.apply(&Table::new(family, "t").chain(chain).into()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            assert!(parts.iter().all(|part| error.to_string().contains(part)), "{parts:?}: {error}");
        };
        refused(Family::Netdev, Chain::filter("c", Hook::Input, Policy::Drop), &["chain c: hook input", "netdev"]);
        refused(Family::Arp, Chain::filter("c", Hook::Forward, Policy::Drop), &["hook forward", "arp"]);
        refused(Family::Ip, Chain::base("c", base(Hook::Ingress, 0)).device(name("lo")), &["hook ingress", "family ip"]);
        refused(Family::Inet, Chain::base("c", base(Hook::Ingress, 0)), &["chain c with 0 devices"]);
        refused(Family::Inet, Chain::filter("c", Hook::Input, Policy::Drop).device(name("lo")), &["1 devices"]);
        let absent = Chain::base("c", base(Hook::Ingress, 0)).device(name("eth9"));
        // Since Linux 6.16 the device may come later.
        match ns.apply(&Table::new(Family::Netdev, "t").chain(absent).into()) {
            Ok(()) => compare_with_nft(&ns, &ns.ruleset().unwrap().to_string()),
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
        }
        // A port of a protocol is no business of ARP.
        let chain = Chain::filter("c", Hook::Input, Policy::Accept).rule(Rule::new().source(ip("10.0.0.1")).drop());
        refused(Family::Arp, chain, &["IP match", "arp"]);
        let chain = Chain::base("c", base(Hook::Egress, 0)).device(name("lo"));
        refused(Family::Inet, chain.rule(Rule::new().protocol(Protocol::TCP).drop()), &["hook egress", "inet"]);
    }
}
