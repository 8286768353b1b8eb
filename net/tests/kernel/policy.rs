//! Policies: the evaluator against the documented semantics, and against the kernel with real traffic.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use crate::common::*;
use crate::netns_test;
use palisade_net::nft::{Family, Protocol, Rule};
use palisade_net::policy::{
    Cluster, Deny, Direction, Group, IpBlock, Options, Peer, Pod, Policy, PolicyRule, PortSelector, Ports,
    Reason, Selector, Traffic,
};
use palisade_net::{ErrorKind, IpPrefix, Netns};

fn prefix(s: &str) -> IpPrefix {
    s.parse().unwrap()
}

fn traffic(source: &str, destination: &str, protocol: Protocol, port: u16) -> Traffic {
    Traffic { source: ip(source), destination: ip(destination), protocol, port }
}

fn v6(n: u8) -> IpAddr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n.into()).into()
}

/// Labs 82 and 83: three pods, and the three policies of the study.
fn study(policies: &[usize]) -> Cluster {
    let mut cluster =
        Cluster::new().group(Group::new("default")).node_address([10, 0, 0, 1]).node_address(v6(1));
    for n in 1..=3u8 {
        let name = format!("np{n}");
        let pod = Pod::new("default", name.clone())
            .label("app", name)
            .address([10, 0, 0, 10 + n])
            .address(v6(10 + n));
        cluster = cluster.pod(pod);
    }
    let app = |n: usize| Selector::label("app", format!("np{n}"));
    for n in policies {
        let policy = Policy::new("default", format!("np{n}-ingress"), app(*n)).isolate(Direction::Ingress);
        cluster = cluster.policy(match n {
            3 => policy,
            n => policy.allow(Direction::Ingress, PolicyRule::everything().peer(Peer::Pods(app(n + 1)))),
        });
    }
    cluster
}

/// The pairs that may not connect, of the nine.
const BLOCKED: [(u8, u8); 4] = [(1, 2), (1, 3), (2, 3), (3, 1)];

#[test]
fn the_study_matrix() {
    let cluster = study(&[1, 2, 3]);
    for from in 1..=3u8 {
        for to in 1..=3u8 {
            let t = Traffic {
                source: [10, 0, 0, 10 + from].into(),
                destination: [10, 0, 0, 10 + to].into(),
                protocol: Protocol::TCP,
                port: 80,
            };
            let decision = cluster.evaluate(&t);
            assert_eq!(decision.allowed(), !BLOCKED.contains(&(from, to)), "{decision}");
        }
    }
    let decision = cluster.evaluate(&traffic("10.0.0.12", "10.0.0.11", Protocol::TCP, 80));
    assert_eq!(
        decision.to_string(),
        "10.0.0.12 -> 10.0.0.11 tcp 80: allowed; egress: not isolated; \
         ingress: allowed by default/np1-ingress rule 1 (pods app=np2, any port)"
    );
    let decision = cluster.evaluate(&traffic("10.0.0.11", "10.0.0.13", Protocol::TCP, 80));
    assert_eq!(decision.ingress, Reason::Denied { policies: vec!["default/np3-ingress".into()] });
    assert_eq!(cluster.evaluate(&traffic("10.0.0.1", "10.0.0.13", Protocol::TCP, 80)).ingress, Reason::Node);
    assert_eq!(
        cluster.evaluate(&traffic("10.0.0.13", "10.0.0.13", Protocol::TCP, 80)).ingress,
        Reason::Itself
    );
    assert_eq!(
        cluster.evaluate(&traffic("10.0.0.13", "8.8.8.8", Protocol::TCP, 80)).ingress,
        Reason::Outside
    );
}

/// Lab 84: the documentation's example, with all three identifiers, ports and both directions.
#[test]
fn the_documented_example() {
    let pod = |group: &str, name: &str, addr: [u8; 4]| Pod::new(group, name).address(addr);
    let block = IpBlock::new(prefix("172.17.0.0/16"), [prefix("172.17.1.0/24")]).unwrap();
    let cluster = Cluster::new()
        .group(Group::new("default"))
        .group(Group::new("mine").label("project", "myproject"))
        .group(Group::new("other"))
        .pod(pod("default", "db", [172, 16, 0, 1]).label("role", "db"))
        .pod(pod("default", "front", [172, 16, 0, 2]).label("role", "frontend"))
        .pod(pod("mine", "x", [172, 16, 0, 3]))
        .pod(pod("other", "front", [172, 16, 0, 4]).label("role", "frontend"))
        .policy(
            Policy::new("default", "test", Selector::label("role", "db"))
                .allow(
                    Direction::Ingress,
                    PolicyRule::everything()
                        .peer(Peer::Block(block))
                        .peer(Peer::Groups(Selector::label("project", "myproject")))
                        .peer(Peer::Pods(Selector::label("role", "frontend")))
                        .port(PortSelector::tcp(6379)),
                )
                .allow(
                    Direction::Egress,
                    PolicyRule::everything()
                        .peer(Peer::Block(IpBlock::new(prefix("10.0.0.0/24"), []).unwrap()))
                        .port(PortSelector::tcp(5978)),
                ),
        );
    cluster.check().unwrap();
    assert!(cluster.lint().is_empty());
    let ok =
        |from: &str, to: &str, protocol, port| cluster.evaluate(&traffic(from, to, protocol, port)).allowed();
    for (from, wanted) in [
        ("172.16.0.2", true),
        ("172.16.0.3", true),
        ("172.16.0.4", false),
        ("172.17.0.9", true),
        ("172.17.1.9", false),
        ("172.17.2.9", true),
        ("1.2.3.4", false),
    ] {
        assert_eq!(ok(from, "172.16.0.1", Protocol::TCP, 6379), wanted, "{from}");
        assert!(!ok(from, "172.16.0.1", Protocol::TCP, 6380));
        assert!(!ok(from, "172.16.0.1", Protocol::UDP, 6379));
    }
    assert!(ok("172.16.0.1", "10.0.0.7", Protocol::TCP, 5978));
    assert!(!ok("172.16.0.1", "10.0.1.7", Protocol::TCP, 5978));
    assert!(!ok("172.16.0.1", "172.16.0.2", Protocol::TCP, 5978));
    // One item with both selectors is AND; two items are OR.
    let both = |peers: Vec<Peer>| {
        let mut c = cluster.clone();
        c.policies =
            vec![Policy::new("default", "p", Selector::all()).allow(
                Direction::Ingress,
                peers.into_iter().fold(PolicyRule::everything(), PolicyRule::peer),
            )];
        ["172.16.0.2", "172.16.0.3", "172.16.0.4"]
            .map(|from| c.evaluate(&traffic(from, "172.16.0.1", Protocol::TCP, 1)).allowed())
    };
    let (front, mine) = (Selector::label("role", "frontend"), Selector::label("project", "myproject"));
    assert_eq!(
        both(vec![Peer::PodsInGroups { pods: front.clone(), groups: mine.clone() }]),
        [false, false, false]
    );
    assert_eq!(both(vec![Peer::Pods(front.clone()), Peer::Groups(mine)]), [true, true, false]);
    assert_eq!(both(vec![Peer::PodsInGroups { pods: front, groups: Selector::all() }]), [true, false, true]);
    assert_eq!(both(vec![]), [true, true, true]);
    assert!(IpBlock::new(prefix("10.0.0.0/24"), [prefix("10.0.1.0/24")]).is_err());
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let base = study(&[1]);
    let check = |change: &dyn Fn(Cluster) -> Cluster, words: &str| {
        let e = change(base.clone()).check().unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Invalid);
        assert!(e.to_string().contains(words), "{e}");
        assert!(change(base.clone()).forward_table("t", &Options::new()).is_err());
    };
    check(&|c| c.pod(Pod::new("nowhere", "x")), "group \"nowhere\"");
    check(&|c| c.pod(Pod::new("default", "np1")), "no other pod");
    check(&|c| c.pod(Pod::new("default", "x").address([10, 0, 0, 11])), "default/np1 has it");
    check(&|c| c.pod(Pod::new("default", "x").port("p", Protocol::ICMP, 1)), "tcp, udp or sctp");
    check(&|c| c.policy(Policy::new("default", "np1-ingress", Selector::all())), "no other policy");
    check(&|c| c.group(Group::new("default")), "no other group");
    let backwards = PortSelector { protocol: Protocol::TCP, ports: Ports::Range(9, 8) };
    check(
        &|c| {
            c.policy(
                Policy::new("default", "p", Selector::all())
                    .allow(Direction::Egress, PolicyRule::everything().port(backwards.clone())),
            )
        },
        "9-8",
    );
    let typo =
        base.clone().policy(Policy::new("default", "typo", Selector::label("app", "npp")).allow(
            Direction::Ingress,
            PolicyRule::everything().peer(Peer::Pods(Selector::label("app", "np9"))),
        ));
    let lint = typo.lint();
    assert_eq!(lint.len(), 2, "{lint:?}");
    assert!(lint[0].contains("app=npp") && lint[1].contains("app=np9"), "{lint:?}");
}

/// Names of policies come from outside: they must not become syntax.
#[test]
fn names_become_comments_not_syntax() {
    let evil = "x\" accept\n}".repeat(20);
    let cluster = Cluster::new()
        .group(Group::new(evil.clone()))
        .pod(Pod::new(evil.clone(), evil.clone()).address([10, 0, 0, 2]))
        .policy(
            Policy::new(evil.clone(), evil, Selector::all())
                .allow(Direction::Ingress, PolicyRule::everything().port(PortSelector::tcp(1))),
        );
    let text = cluster.forward_table("t", &Options::new()).unwrap().to_string();
    assert!(!text.contains("x\" accept"), "{text}");
    assert!(text.lines().all(|l| l.matches('"').count() % 2 == 0), "{text}");
}

netns_test! {
    /// Labs 82 and 83 on a bridge: all open, then the study's matrix, then open again without np3's policy.
    fn the_study_matrix_in_the_kernel() {
        let router = router();
        if let Err(e) = router.filter_bridged() {
            assert_eq!(e.kind(), ErrorKind::Unsupported);
            return skip("br_netfilter", &e.to_string());
        }
        let pods: Vec<Netns> = (11..=13).map(|n| on_bridge(&router, n)).collect();
        for pod in &pods {
            serve_tcp(pod, "[::]:80");
        }
        let compare = |cluster: &Cluster, blocked: &[(u8, u8)]| {
            let table = cluster.forward_table("policy", &Options::new()).unwrap();
            router.apply(&table.into()).unwrap();
            router.flush_connections().unwrap();
            for from in 1..=3u8 {
                for to in 1..=3u8 {
                    let addrs = [IpAddr::from([10, 0, 0, 10 + to]), v6(10 + to)];
                    for addr in addrs {
                        let source = if addr.is_ipv4() { IpAddr::from([10, 0, 0, 10 + from]) } else { v6(10 + from) };
                        let t = Traffic { source, destination: addr, protocol: Protocol::TCP, port: 80 };
                        let wanted = !blocked.contains(&(from, to));
                        assert_eq!(cluster.evaluate(&t).allowed(), wanted, "{t}");
                        let timeout = if wanted { LONG } else { Duration::from_millis(100) };
                        let got = tcp(&pods[usize::from(from) - 1], &SocketAddr::new(addr, 80).to_string(), timeout);
                        assert_eq!(got.is_ok(), wanted, "{t}: {got:?}");
                    }
                }
            }
        };
        compare(&study(&[]), &[]);
        compare(&study(&[1, 2, 3]), &BLOCKED);
        compare(&study(&[1, 2]), &[(1, 2), (3, 1)]);
        // The router itself is the pods' node.
        assert!(tcp(&router, "10.0.0.13:80", LONG).is_ok());
        if let Some((ok, text)) = command(&router, "nft", &["list", "ruleset"]) {
            assert!(ok);
            assert_eq!(text, router.ruleset().unwrap().to_string());
        }
    }
}

netns_test! {
    /// A90: a pod that nobody announced reaches nobody, in both families, and a flow that was allowed ends when asked.
    fn unknown_pods_are_denied_and_old_flows_can_be_cut() {
        let router = router();
        if router.filter_bridged().is_err() {
            return skip("br_netfilter", "traffic between ports of a bridge is not filtered here");
        }
        let (known, stranger) = (on_bridge(&router, 11), on_bridge(&router, 66));
        let options = Options::new().pod_network(prefix("10.0.0.0/24")).pod_network(prefix("fd00::/64")).deny(Deny::Drop);
        let apply = |cluster: &Cluster| router.apply(&cluster.forward_table("policy", &options).unwrap().into()).unwrap();
        apply(&study(&[]));
        serve_tcp(&known, "[::]:80");
        serve_tcp(&stranger, "[::]:80");
        let quick = Duration::from_millis(150);
        for (from, to) in [(&stranger, "10.0.0.11:80"), (&stranger, "[fd00::b]:80"), (&known, "10.0.0.66:80"), (&known, "[fd00::42]:80")] {
            assert!(tcp(from, to, quick).is_err(), "{to}");
        }
        let cluster = study(&[]).pod(Pod::new("default", "late").address([10, 0, 0, 66]).address(v6(66)));
        apply(&cluster);
        assert!(tcp(&stranger, "10.0.0.11:80", LONG).is_ok());
        assert!(tcp(&known, "[fd00::42]:80", LONG).is_ok());

        // A UDP flow between the two.
        let server = known.run(|| UdpSocket::bind("10.0.0.11:53")).unwrap().unwrap();
        let client = stranger.run(|| UdpSocket::bind("10.0.0.66:0")).unwrap().unwrap();
        client.connect("10.0.0.11:53").unwrap();
        server.set_read_timeout(Some(Duration::from_millis(150))).unwrap();
        let arrives = || {
            client.send(b"x").unwrap();
            server.recv_from(&mut [0; 8])
        };
        let (_, peer) = arrives().unwrap();
        server.send_to(b"y", peer).unwrap();
        client.recv(&mut [0; 8]).unwrap();
        apply(&cluster.policy(Policy::new("default", "closed", Selector::label("app", "np1")).isolate(Direction::Ingress)));
        assert!(arrives().is_ok(), "a flow that was allowed goes on");
        let cut = router.forget_connections(|c| c.original.protocol == Protocol::UDP).unwrap();
        assert!(cut >= 1);
        assert!(arrives().is_err(), "a flow goes on after it was cut");
    }
}

netns_test! {
    /// The same policies enforced inside each pod, for sandboxes behind nobody's bridge.
    fn a_pod_enforces_its_own_end() {
        let router = router();
        drop(router.set_sysctl("net.bridge.bridge-nf-call-iptables", "0"));
        let pods: Vec<Netns> = (11..=13).map(|n| on_bridge(&router, n)).collect();
        let cluster = study(&[1, 2, 3]);
        for (n, pod) in pods.iter().enumerate() {
            serve_tcp(pod, "[::]:80");
            let table = cluster.pod_table("policy", "default", &format!("np{}", n + 1), &Options::new().deny(Deny::Reject)).unwrap();
            pod.apply(&table.into()).unwrap();
        }
        for from in 1..=3u8 {
            for to in 1..=3u8 {
                for addr in [format!("10.0.0.1{to}:80"), format!("[fd00::{:x}]:80", 10 + to)] {
                    let got = tcp(&pods[usize::from(from) - 1], &addr, LONG);
                    assert_eq!(got.is_ok(), !BLOCKED.contains(&(from, to)), "{from} -> {addr}: {got:?}");
                }
            }
        }
        assert!(tcp(&router, "10.0.0.13:80", LONG).is_ok(), "the node");
        assert!(tcp(&pods[2], "127.0.0.1:80", LONG).is_ok(), "loopback");
        let e = cluster.pod_table("policy", "default", "np9", &Options::new()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NotFound);
    }
}

netns_test! {
    /// An egress allow-list in place before the link is up: default deny, both families (A88, A90).
    fn an_egress_allow_list_is_there_before_the_link() {
        let (pod, outside) = (fresh(), fresh());
        pod.add_veth(&name("eth0"), &outside, &name("eth0")).unwrap();
        let block = |s: &str| Peer::Block(IpBlock::new(prefix(s), []).unwrap());
        let cluster = Cluster::new()
            .group(Group::new("g"))
            .pod(Pod::new("g", "p").address([192, 0, 2, 2]).address(v6(2)))
            .policy(
                Policy::new("g", "egress", Selector::all()).isolate(Direction::Ingress).allow(
                    Direction::Egress,
                    PolicyRule::everything().peer(block("192.0.2.9/32")).peer(block("fd00::9/128")).port(PortSelector::tcp(443)),
                ),
            );
        let table = cluster.pod_table("egress", "g", "p", &Options::new().deny(Deny::Reject)).unwrap();
        pod.apply(&table.into()).unwrap();
        assert!(!pod.link(&name("eth0")).unwrap().up);
        pod.add_address(&name("eth0"), [192, 0, 2, 2], 24).unwrap();
        pod.add_address(&name("eth0"), v6(2), 64).unwrap();
        for last in [9, 10] {
            outside.add_address(&name("eth0"), [192, 0, 2, last], 24).unwrap();
            outside.add_address(&name("eth0"), v6(last), 64).unwrap();
        }
        outside.add_address(&name("eth0"), [169, 254, 169, 254], 32).unwrap();
        pod.add_address(&name("eth0"), [169, 254, 1, 1], 16).unwrap();
        up(&pod, "eth0");
        up(&outside, "eth0");
        wait_ready(&pod, "eth0");
        wait_ready(&outside, "eth0");
        for port in ["443", "80"] {
            serve_tcp(&outside, &format!("[::]:{port}"));
        }
        serve_udp(&outside, "[::]:443");
        serve_tcp(&pod, "[::]:80");
        assert!(tcp(&pod, "192.0.2.9:443", LONG).is_ok());
        assert!(tcp(&pod, "[fd00::9]:443", LONG).is_ok());
        for closed in ["192.0.2.9:80", "[fd00::9]:80", "192.0.2.10:443", "[fd00::a]:443", "169.254.169.254:80"] {
            assert!(tcp(&pod, closed, SHORT).is_err(), "{closed}");
        }
        assert!(udp(&pod, "192.0.2.9:443", SHORT).is_err());
        assert!(tcp(&outside, "192.0.2.2:80", SHORT).is_err(), "the way in");
        assert_ne!(ping(&pod, "192.0.2.9"), Some(true));
    }
}

#[test]
fn rules_of_a_pod_read_like_the_policy() {
    let cluster = Cluster::new()
        .group(Group::new("g"))
        .pod(Pod::new("g", "web").label("app", "web").address([10, 0, 0, 2]).port("http", Protocol::TCP, 80))
        .pod(Pod::new("g", "db").address([10, 0, 0, 3]).address(v6(3)))
        .policy(
            Policy::new("g", "p", Selector::label("app", "web")).allow(
                Direction::Ingress,
                PolicyRule::everything()
                    .peer(Peer::Pods(Selector::all()))
                    .port(PortSelector::named(Protocol::TCP, "http"))
                    .port(PortSelector { protocol: Protocol::UDP, ports: Ports::Range(53, 54) }),
            ),
        );
    let table = cluster.forward_table("t", &Options::new()).unwrap();
    let chain = table.chains().iter().find(|c| c.name() == "ingress_0").unwrap();
    let lines: Vec<String> =
        chain.rules().iter().map(|r: &Rule| r.display(Family::Inet).to_string()).collect();
    assert_eq!(
        lines,
        [
            "ip saddr { 10.0.0.2, 10.0.0.3 } tcp dport { 80 } return comment \"g/p ingress 1\"",
            "ip6 saddr { fd00::3 } tcp dport { 80 } return comment \"g/p ingress 1\"",
            "ip saddr { 10.0.0.2, 10.0.0.3 } udp dport { 53-54 } return comment \"g/p ingress 1\"",
            "ip6 saddr { fd00::3 } udp dport { 53-54 } return comment \"g/p ingress 1\"",
            "counter packets 0 bytes 0 drop comment \"g/web ingress\"",
        ]
    );
}
