//! Policies: the evaluator against the documented semantics, and against the kernel with real traffic.

mod common;

use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use common::*;
use palisade_net::nft::{Family, Protocol, Rule, Table};
use palisade_net::policy::{
    Cluster, Deny, Direction, Group, IpBlock, Operator, Options, Peer, Pod, Policy, PolicyRule, PortSelector,
    Ports, Reason, Selector, Traffic,
};
use palisade_net::{ErrorKind, IpPrefix, Netns, Route};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

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
        wait_running(&pod, "eth0");
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

type Job = (Protocol, SocketAddr, bool);

/// A thread that lives in a namespace and tries connections there.
struct Prober {
    jobs: Sender<Job>,
    results: Receiver<bool>,
}

impl Prober {
    fn start(ns: Netns) -> Self {
        let (jobs, queue) = channel::<Job>();
        let (answer, results) = channel();
        thread::spawn(move || {
            ns.run(move || {
                for (protocol, to, expected) in queue {
                    let wait = Duration::from_millis(if expected { 3000 } else { 200 });
                    let ok = if protocol == Protocol::TCP {
                        TcpStream::connect_timeout(&to, wait).is_ok()
                    } else {
                        echo(to, wait).is_ok()
                    };
                    answer.send(ok).unwrap();
                }
            })
            .unwrap();
        });
        Self { jobs, results }
    }

    fn probe(&self, protocol: Protocol, to: SocketAddr, expected: bool) -> bool {
        self.jobs.send((protocol, to, expected)).unwrap();
        self.results.recv().unwrap()
    }
}

fn echo(to: SocketAddr, wait: Duration) -> std::io::Result<()> {
    let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(wait))?;
    socket.send(b"x")?;
    socket.recv(&mut [0; 8]).map(drop)
}

const PORTS: std::ops::RangeInclusive<u16> = 8001..=8004;

fn labels() -> impl Strategy<Value = Vec<(String, String)>> {
    prop::collection::vec(
        (prop::sample::select(vec!["app", "tier"]), prop::sample::select(vec!["a", "b", "c"])),
        0..3,
    )
    .prop_map(|all| all.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
}

fn selector() -> impl Strategy<Value = Selector> {
    let values =
        prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]).prop_map(str::to_owned), 1..3);
    let operator = prop_oneof![
        4 => values.clone().prop_map(Operator::In),
        2 => values.prop_map(Operator::NotIn),
        1 => Just(Operator::Exists),
        1 => Just(Operator::DoesNotExist),
    ];
    prop::collection::vec((prop::sample::select(vec!["app", "tier"]), operator), 0..3)
        .prop_map(|all| all.into_iter().fold(Selector::all(), |s, (key, op)| s.and(key, op)))
}

fn block() -> impl Strategy<Value = Peer> {
    let blocks = [
        "10.0.0.0/24",
        "10.0.0.8/29",
        "10.0.0.12/32",
        "192.0.2.0/24",
        "0.0.0.0/0",
        "fd00::/64",
        "fd00::c/126",
        "::/0",
        "2001:db8::/32",
    ];
    let holes = ["10.0.0.12/31", "10.0.0.11/32", "192.0.2.9/32", "fd00::d/128", "fd00::e/127"];
    (prop::sample::select(blocks.to_vec()), prop::sample::subsequence(holes.to_vec(), 0..=3)).prop_map(
        |(block, holes)| {
            let block = prefix(block);
            let holes = holes.into_iter().map(prefix).filter(|hole| block.covers(hole));
            Peer::Block(IpBlock::new(block, holes.collect::<Vec<_>>()).unwrap())
        },
    )
}

fn peer() -> impl Strategy<Value = Peer> {
    prop_oneof![
        3 => selector().prop_map(Peer::Pods),
        2 => selector().prop_map(Peer::Groups),
        2 => (selector(), selector()).prop_map(|(pods, groups)| Peer::PodsInGroups { pods, groups }),
        3 => block(),
    ]
}

fn port() -> impl Strategy<Value = PortSelector> {
    let protocol = prop::sample::select(vec![Protocol::TCP, Protocol::UDP]);
    let ports = prop_oneof![
        1 => Just(Ports::All),
        3 => (PORTS, PORTS).prop_map(|(a, b)| Ports::Range(a.min(b), a.max(b))),
        2 => prop::sample::select(vec!["web", "dns"]).prop_map(|n| Ports::Named(n.to_owned())),
    ];
    (protocol, ports).prop_map(|(protocol, ports)| PortSelector { protocol, ports })
}

fn policy() -> impl Strategy<Value = (bool, Selector, Option<Vec<PolicyRule>>, Option<Vec<PolicyRule>>)> {
    let rule = (prop::collection::vec(peer(), 0..3), prop::collection::vec(port(), 0..3))
        .prop_map(|(peers, ports)| PolicyRule { peers, ports });
    let rules = prop::option::weighted(0.6, prop::collection::vec(rule, 0..3)).boxed();
    (any::<bool>(), selector(), rules.clone(), rules)
}

/// Six pods in two groups on fixed addresses, some of them with one family only, with random labels, names of ports and policies.
fn cluster() -> impl Strategy<Value = Cluster> {
    let pod =
        (any::<bool>(), labels(), prop::option::of((PORTS, any::<bool>())), prop::option::of(PORTS), 0..8u8);
    (prop::collection::vec(pod, 1..=6), labels(), labels(), prop::collection::vec(policy(), 0..5)).prop_map(
        |(pods, first, second, policies)| {
            let group = |name: &str, labels: Vec<(String, String)>| {
                labels.into_iter().fold(Group::new(name), |g, (k, v)| g.label(k, v))
            };
            let mut cluster = Cluster::new().group(group("one", first)).group(group("two", second));
            let pick = |first| if first { "one" } else { "two" };
            for (n, (first, labels, web, dns, families)) in (11u8..).zip(pods) {
                let mut pod = labels
                    .into_iter()
                    .fold(Pod::new(pick(first), format!("pod{n}")), |p, (k, v)| p.label(k, v));
                // Mostly both families.
                if families != 0 {
                    pod = pod.address([10, 0, 0, n]);
                }
                if families != 1 {
                    pod = pod.address(v6(n));
                }
                if let Some((port, tcp)) = web {
                    pod = pod.port("web", if tcp { Protocol::TCP } else { Protocol::UDP }, port);
                }
                if let Some(port) = dns {
                    pod = pod.port("dns", Protocol::UDP, port);
                }
                cluster = cluster.pod(pod);
            }
            for (n, (first, pods, ingress, egress)) in policies.into_iter().enumerate() {
                let mut policy = Policy::new(pick(first), format!("p{n}"), pods);
                (policy.ingress, policy.egress) = (ingress, egress);
                cluster = cluster.policy(policy);
            }
            cluster
        },
    )
}

/// Six pods and an outsider (index 6), all listening on all ports.
struct Net {
    router: Netns,
    pods: Vec<Netns>,
    probers: Vec<Prober>,
}

fn network() -> Net {
    let router = router();
    drop(router.set_sysctl("net.ipv4.icmp_ratelimit", "0"));
    drop(router.set_sysctl("net.ipv6.icmp.ratelimit", "0"));
    let mut pods: Vec<Netns> = (11..17).map(|n| on_bridge(&router, n)).collect();
    let ext = fresh();
    router.add_veth(&name("wan"), &ext, &name("eth0")).unwrap();
    for (ns, link, n) in [(&router, "wan", 1u8), (&ext, "eth0", 9)] {
        ns.add_address(&name(link), [192, 0, 2, n], 24).unwrap();
        ns.add_address(&name(link), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n.into()), 64).unwrap();
        up(ns, link);
    }
    wait_running(&router, "wan");
    ext.add_route(&Route::default_via([192, 0, 2, 1])).unwrap();
    ext.add_route(&Route::default_via(ip("2001:db8::1"))).unwrap();
    pods.push(ext);
    for pod in &pods {
        for port in PORTS {
            serve_tcp(pod, &format!("[::]:{port}"));
            serve_udp(pod, &format!("[::]:{port}"));
        }
    }
    let probers = pods.iter().map(|pod| Prober::start(Netns::open(pod).unwrap())).collect();
    Net { router, pods, probers }
}

fn address(index: usize, v4: bool) -> IpAddr {
    match (index, v4) {
        (6, true) => ip("192.0.2.9"),
        (6, false) => ip("2001:db8::9"),
        (n, true) => [10, 0, 0, 11 + n as u8].into(),
        (n, false) => v6(11 + n as u8),
    }
}

type Probe = (usize, usize, bool, bool, u16);

fn probes() -> impl Strategy<Value = Vec<Probe>> {
    prop::collection::vec((0..7usize, 0..7usize, any::<bool>(), any::<bool>(), PORTS), 24)
}

fn compare(net: &Net, cluster: &Cluster, probes: &[Probe]) -> Result<(), TestCaseError> {
    for (from, to, v4, tcp, port) in probes {
        let protocol = if *tcp { Protocol::TCP } else { Protocol::UDP };
        let (source, destination) = (address(*from, *v4), address(*to, *v4));
        let decision = cluster.evaluate(&Traffic { source, destination, protocol, port: *port });
        // A pod talking to itself never leaves its namespace.
        let wanted = decision.allowed() || from == to;
        let got = net.probers[*from].probe(protocol, SocketAddr::new(destination, *port), wanted);
        prop_assert_eq!(got, wanted, "{}", decision);
    }
    Ok(())
}

fn config(cases: u32) -> Config {
    Config { cases, failure_persistence: None, max_shrink_iters: 200, ..Config::default() }
}

netns_test! {
    /// 200 random clusters: the evaluator, and the kernel with real TCP and UDP of both families, say the same.
    fn evaluator_and_kernel_agree_on_a_bridge() {
        let net = network();
        if net.router.filter_bridged().is_err() {
            return skip("br_netfilter", "traffic between ports of a bridge is not filtered here");
        }
        let mut denied = 0;
        TestRunner::new(config(200)).run(&(cluster(), probes()), |(cluster, probes)| {
            let table = cluster.forward_table("policy", &Options::new().deny(Deny::Reject)).unwrap();
            net.router.apply(&table.clone().into()).unwrap();
            net.router.flush_connections().unwrap();
            prop_assert_eq!(net.router.ruleset().unwrap(), table.into());
            compare(&net, &cluster, &probes)
        }).unwrap();
        // The generator must not make everything open: count once more, without traffic.
        let mut runner = TestRunner::new(config(50));
        runner.run(&(cluster(), probes()), |_| Ok(())).unwrap();
        for _ in 0..100 {
            let tree = (cluster(), probes()).new_tree(&mut runner).unwrap();
            let (cluster, probes) = proptest::strategy::ValueTree::current(&tree);
            denied += probes.iter().filter(|(from, to, v4, _, port)| {
                let t = Traffic { source: address(*from, *v4), destination: address(*to, *v4), protocol: Protocol::TCP, port: *port };
                !cluster.evaluate(&t).allowed()
            }).count();
        }
        assert!((200..2200).contains(&denied), "of 2400 probes {denied} are denied");
    }
}

netns_test! {
    /// The same with each pod enforcing its own end.
    fn evaluator_and_kernel_agree_inside_the_pods() {
        let net = network();
        drop(net.router.set_sysctl("net.bridge.bridge-nf-call-iptables", "0"));
        TestRunner::new(config(40)).run(&(cluster(), probes()), |(cluster, probes)| {
            for (n, ns) in net.pods.iter().enumerate().take(6) {
                match cluster.pods.get(n) {
                    Some(pod) => {
                        let table = cluster.pod_table("policy", &pod.group, &pod.name, &Options::new().deny(Deny::Reject)).unwrap();
                        ns.apply(&table.into()).unwrap();
                    }
                    None => ns.apply(&Table::new(Family::Inet, "policy").into()).unwrap(),
                }
                ns.flush_connections().unwrap();
            }
            // A pod without an address of a family is known to no policy there, but its own table still guards it.
            let whole: Vec<Probe> = probes.into_iter().filter(|(from, to, v4, ..)| {
                [*from, *to].iter().all(|n| cluster.pods.get(*n).is_none_or(|pod| pod.addresses.contains(&address(*n, *v4))))
            }).collect();
            compare(&net, &cluster, &whole)
        }).unwrap();
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
