//! Random clusters: the evaluator and the kernel say the same.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use crate::common::*;
use crate::netns_test;
use palisade_net::nft::{Family, Protocol, Ruleset, Table};
use palisade_net::policy::{
    Cluster, Deny, Group, IpBlock, Operator, Options, Peer, Pod, Policy, PolicyRule, PortSelector, Ports,
    Selector, Traffic,
};
use palisade_net::{IpPrefix, Netns, Route};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

fn prefix(s: &str) -> IpPrefix {
    s.parse().unwrap()
}

fn v6(n: u8) -> IpAddr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n.into()).into()
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
    wait_ready(&router, "wan");
    wait_ready(&ext, "eth0");
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

/// A ruleset as text, its counters at zero: a late packet of the case before may have been counted already.
fn shape(ruleset: &Ruleset) -> String {
    let text = ruleset.to_string();
    let mut last = "";
    let words = text.split_inclusive([' ', '\n']).map(|word| {
        let counted = matches!(last, "packets" | "bytes");
        last = word.trim_end();
        if counted { "0 " } else { word }
    });
    words.collect()
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
            prop_assert_eq!(shape(&net.router.ruleset().unwrap()), shape(&table.into()));
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
