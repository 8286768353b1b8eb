//! A90: IPv6 that is switched off when the rules are made, or that nobody asked for, is no way around them.
#![cfg(feature = "net")]
#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::Read;
use std::net::{IpAddr, SocketAddrV6, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use palisade::net::policy::PortSelector;
use palisade::net::{Bridge, BridgeSpec, ErrorKind, IfName, IpPrefix, Netns};
use palisade::ns::{Ns, kind};
use palisade::{Child, Network, Sandbox};
use palisade_testkit::{is_root, skip, wait_until};

const LONG: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_millis(300);

fn prefix(text: &str) -> IpPrefix {
    text.parse().unwrap()
}

fn switch(ns: &Netns, off: bool) {
    for links in ["all", "default"] {
        let name = format!("net.ipv6.conf.{links}.disable_ipv6");
        ns.set_sysctl(&name, if off { "1" } else { "0" }).unwrap();
    }
}

fn stay(network: Network) -> (Child, Netns) {
    let sandbox = Sandbox::builder().network(network).build().unwrap();
    let child = sandbox.command("/bin/sleep").arg("1000").spawn().unwrap();
    let ns = Netns::open(Ns::<kind::Net>::of_pidfd(child.pidfd()).unwrap()).unwrap();
    (child, ns)
}

fn serve_tcp(ns: &Netns) {
    let listener = ns.run(|| TcpListener::bind(("::", 80))).unwrap().unwrap();
    thread::spawn(move || listener.incoming().flatten().for_each(drop));
}

fn reaches(ns: &Netns, to: IpAddr) -> bool {
    let eth0 = ns.link(&"eth0".parse().unwrap()).unwrap().index;
    let to = match to {
        IpAddr::V6(to) => SocketAddrV6::new(to, 80, 0, eth0).into(),
        IpAddr::V4(_) => (to, 80).into(),
    };
    let stream = ns.run(|| TcpStream::connect_timeout(&to, SHORT)).unwrap();
    stream.is_ok_and(|mut stream| {
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.read(&mut [0]).is_ok()
    })
}

/// The address that the kernel gives to every link by itself, once it may be used.
fn link_local(ns: &Netns) -> IpAddr {
    let mut found = None;
    let there = wait_until(LONG, || {
        let all = ns.addresses().unwrap();
        found = all.into_iter().find(|a| a.addr.to_string().starts_with("fe80::") && !a.tentative);
        found.is_some()
    });
    assert!(there, "{:?}", ns.addresses());
    found.unwrap().addr
}

#[test]
fn a90_ipv6_that_comes_later_meets_rules() {
    if !is_root() {
        skip!("needs root: a bridge", needs = "root");
    }
    let carrier = Netns::create().unwrap();
    switch(&carrier, true);
    let spec = BridgeSpec::new("br0".parse().unwrap()).network(prefix("10.5.0.0/24"));
    let bridge = Bridge::create(carrier, &spec).unwrap();
    let (free, free_ns) = stay(Network::bridge(&bridge));
    // Of IPv4 addresses alone; a payload of its own can't switch IPv6 on or off, whoever made it can.
    let allowed = Network::bridge(&bridge).allow_egress((prefix("10.5.0.0/24"), PortSelector::tcp(80)));
    let (bound, bound_ns) = stay(allowed);
    switch(&bound_ns, true);
    switch(&bound_ns, false);
    switch(bridge.netns(), false);
    for ns in [&free_ns, bridge.netns()] {
        serve_tcp(ns);
    }
    let neighbour = free.port().unwrap().addresses()[0];
    assert!(reaches(&bound_ns, neighbour), "what is allowed");
    let (there, here) = (link_local(&free_ns), link_local(&bound_ns));
    assert!(!reaches(&bound_ns, there), "the neighbour's own address of its link");
    serve_tcp(&bound_ns);
    assert!(reaches(&free_ns, here), "the control: nothing but the rules is in the way");
    // An address that nobody gave: neither for the egress rules nor for those that guard the bridge.
    let br0: IfName = "br0".parse().unwrap();
    bridge.netns().add_address(&br0, "fd05::1".parse::<IpAddr>().unwrap(), 64).unwrap();
    for (ns, addr) in [(&free_ns, "fd05::2"), (&bound_ns, "fd05::3")] {
        ns.add_address(&"eth0".parse().unwrap(), addr.parse::<IpAddr>().unwrap(), 64).unwrap();
        for to in ["fd05::1", "fd05::2", "fd05::3"].into_iter().filter(|to| *to != addr) {
            assert!(!reaches(ns, to.parse().unwrap()), "{addr} to {to}");
        }
    }
    drop((free, bound));
}

#[test]
fn a90_a_network_without_its_ipv6_is_an_error() {
    if !is_root() {
        skip!("needs root: a bridge", needs = "root");
    }
    let carrier = Netns::create().unwrap();
    let again = Netns::open(&carrier).unwrap();
    let before = again.links().unwrap().len();
    switch(&carrier, true);
    let spec = BridgeSpec::new("br0".parse().unwrap()).network(prefix("10.5.0.0/24"));
    let error = Bridge::create(carrier, &spec.network(prefix("fd05::/64"))).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{text}");
    assert!(text.contains("fd05::1/64") && text.contains("IPv6"), "{text}");
    assert!(error.hint().is_some_and(|hint| hint.contains("disable_ipv6")), "{text}");
    assert_eq!(again.links().unwrap().len(), before, "nothing stays");
    assert!(again.ruleset().unwrap().tables().is_empty());
}
