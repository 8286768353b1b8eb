//! A bridge with sandboxes, and an outside world behind its namespace.

use std::time::Duration;

use crate::common::*;
use crate::netns_test;
use palisade_net::nft::{Family, Protocol};
use palisade_net::{Bridge, BridgeSpec, ErrorKind, IpPrefix, Netns, PortSpec};

fn prefix(s: &str) -> IpPrefix {
    s.parse().unwrap()
}

fn spec() -> BridgeSpec {
    BridgeSpec::new(name("br0")).network(prefix("10.5.0.0/24")).network(prefix("fd05::/64"))
}

/// A carrier with an uplink to an outside server at 192.0.2.9 and fd99::9, which knows no way back.
fn carrier() -> (Netns, Netns) {
    let (carrier, outside) = (fresh(), fresh());
    carrier.add_veth(&name("up0"), &outside, &name("eth0")).unwrap();
    for (ns, link, n) in [(&carrier, "up0", 1u8), (&outside, "eth0", 9)] {
        ns.add_address(&name(link), [192, 0, 2, n], 24).unwrap();
        ns.add_address(&name(link), ip(&format!("fd99::{n}")), 64).unwrap();
        up(ns, link);
    }
    wait_ready(&carrier, "up0");
    wait_ready(&outside, "eth0");
    (carrier, outside)
}

fn ready(bridge: &Bridge, sandbox: &Netns, link: &str) {
    wait_ready(bridge.netns(), link);
    wait_ready(bridge.netns(), "br0");
    wait_ready(sandbox, "eth0");
}

netns_test! {
    fn sandboxes_get_addresses_a_way_out_and_published_ports() {
        let (carrier, outside) = carrier();
        serve_tcp(&carrier, "[::]:22");
        serve_tcp(&outside, "[::]:80");
        let bridge = Bridge::create(carrier, &spec()).unwrap();
        let (red, blue) = (fresh(), fresh());
        let red_port = bridge.attach(&red, &PortSpec::new().publish(Protocol::TCP, 8080, 80).publish(Protocol::UDP, 5353, 53)).unwrap();
        let blue_port = bridge.attach(&blue, &PortSpec::new().address([10, 5, 0, 77])).unwrap();
        assert_eq!(red_port.addresses(), [ip("10.5.0.2"), ip("fd05::2")]);
        assert_eq!(blue_port.addresses(), [ip("10.5.0.77"), ip("fd05::3")]);
        assert_eq!(red_port.gateways(), [ip("10.5.0.1"), ip("fd05::1")]);
        ready(&bridge, &red, red_port.link().as_str());
        ready(&bridge, &blue, blue_port.link().as_str());
        serve_tcp(&red, "[::]:80");
        serve_udp(&red, "[::]:53");
        // Each other, and out, in both families.
        assert_eq!(tcp(&blue, "10.5.0.2:80", LONG).unwrap(), "10.5.0.77");
        assert_eq!(tcp(&blue, "[fd05::2]:80", LONG).unwrap(), "fd05::3");
        assert_eq!(tcp(&blue, "192.0.2.9:80", LONG).unwrap(), "192.0.2.1");
        assert_eq!(tcp(&blue, "[fd99::9]:80", LONG).unwrap(), "fd99::1");
        // Published ports: from outside, from the carrier, from a neighbour, and from the sandbox itself.
        assert_eq!(tcp(&outside, "192.0.2.1:8080", LONG).unwrap(), "192.0.2.9");
        assert_eq!(tcp(&outside, "[fd99::1]:8080", LONG).unwrap(), "fd99::9");
        udp(&outside, "192.0.2.1:5353", LONG).unwrap();
        for ns in [bridge.netns(), &blue, &red] {
            assert!(tcp(ns, "192.0.2.1:8080", LONG).is_ok());
            assert!(tcp(ns, "[fd99::1]:8080", LONG).is_ok());
        }
        // What was not published stays closed, and so does the carrier (A88).
        let quick = Duration::from_millis(150);
        for closed in ["10.5.0.1:22", "192.0.2.1:22", "[fd05::1]:22", "[fd99::1]:22"] {
            assert!(tcp(&blue, closed, quick).is_err(), "{closed}");
        }
        outside.add_route(&palisade_net::Route::to(prefix("10.5.0.0/24")).via([192, 0, 2, 1])).unwrap();
        assert!(tcp(&outside, "10.5.0.2:80", quick).is_err(), "the way in without a published port");
        assert_ne!(ping(&blue, "10.5.0.1"), Some(false));
        // The rules are what nft reads as well; `owner` it shows in its own way.
        let inside = |t: &palisade_net::nft::Ruleset| t.tables().len();
        assert_eq!(inside(&bridge.netns().ruleset().unwrap()), 2);
        // As it was made, whatever the counters have counted.
        assert_eq!(red_port.difference().unwrap(), None);
        // Off again: nothing of it stays.
        let e = bridge.attach(&fresh(), &PortSpec::new().publish(Protocol::TCP, 8080, 1)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Exists, "{e}");
        red_port.detach().unwrap();
        assert!(tcp(&outside, "192.0.2.1:8080", quick).is_err());
        assert_eq!(red.links().unwrap().len(), 1);
        let again = bridge.attach(&red, &PortSpec::new().publish(Protocol::TCP, 8080, 80)).unwrap();
        assert_eq!(again.addresses()[0], ip("10.5.0.2"), "freed addresses are used again");
        let e = bridge.attach(&fresh(), &PortSpec::new().address([10, 5, 0, 77])).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Exists, "{e}");
        let e = bridge.attach(&fresh(), &PortSpec::new().address([10, 6, 0, 1])).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Invalid, "{e}");
        // A port that cannot be completed leaves nothing.
        let e = bridge.attach(&red, &PortSpec::new()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Exists, "{e}");
        let links = bridge.netns().links().unwrap();
        assert_eq!(links.iter().filter(|l| l.master.is_some()).count(), 2);
    }
}

netns_test! {
    /// A89: no false addresses in either family, no ARP lies, no router advertisements; isolated ports do not meet at all.
    fn a_sandbox_keeps_to_its_own_addresses() {
        let (carrier, _outside) = carrier();
        let bridge = Bridge::create(carrier, &spec()).unwrap();
        let (good, evil) = (fresh(), fresh());
        let a = bridge.attach(&good, &PortSpec::new()).unwrap();
        let b = bridge.attach(&evil, &PortSpec::new()).unwrap();
        ready(&bridge, &good, a.link().as_str());
        ready(&bridge, &evil, b.link().as_str());
        serve_tcp(&good, "[::]:80");
        assert!(tcp(&evil, "10.5.0.2:80", LONG).is_ok());
        assert_eq!((a.difference().unwrap(), b.difference().unwrap()), (None, None));
        assert!(tcp(&evil, "[fd05::2]:80", LONG).is_ok());
        let quick = Duration::from_millis(150);
        evil.add_address(&name("eth0"), [10, 5, 0, 66], 24).unwrap();
        evil.delete_address(&name("eth0"), [10, 5, 0, 3], 24).unwrap();
        evil.add_address(&name("eth0"), ip("fd05::66"), 64).unwrap();
        evil.delete_address(&name("eth0"), ip("fd05::3"), 64).unwrap();
        assert!(tcp(&evil, "10.5.0.2:80", quick).is_err(), "a false IPv4 source");
        assert!(tcp(&evil, "[fd05::2]:80", quick).is_err(), "a false IPv6 source");
        assert!(!good.neighbours().unwrap().iter().any(|n| n.addr == ip("10.5.0.66") && n.mac.is_some()), "a false ARP");
    }
}

netns_test! {
    fn isolated_sandboxes_do_not_meet() {
        let (carrier, outside) = carrier();
        serve_tcp(&outside, "[::]:80");
        let bridge = Bridge::create(carrier, &spec().isolated(true)).unwrap();
        let (a, b) = (fresh(), fresh());
        let port_a = bridge.attach(&a, &PortSpec::new().publish(Protocol::TCP, 8080, 80)).unwrap();
        let port_b = bridge.attach(&b, &PortSpec::new()).unwrap();
        ready(&bridge, &a, port_a.link().as_str());
        ready(&bridge, &b, port_b.link().as_str());
        serve_tcp(&a, "[::]:80");
        assert!(tcp(&b, "10.5.0.2:80", SHORT).is_err());
        assert!(tcp(&b, "[fd05::2]:80", SHORT).is_err());
        // By way of the gateway, with the neighbour forced.
        b.add_route(&palisade_net::Route::to(prefix("10.5.0.2")).via([10, 5, 0, 1])).unwrap();
        assert!(tcp(&b, "10.5.0.2:80", SHORT).is_err());
        assert!(tcp(&b, "192.0.2.9:80", LONG).is_ok());
        assert!(tcp(&b, "192.0.2.1:8080", SHORT).is_err());
        assert!(tcp(&outside, "192.0.2.1:8080", LONG).is_ok());
    }
}

netns_test! {
    fn nothing_stays_of_a_bridge() {
        let ns = fresh();
        let bridge = Bridge::create(Netns::open(&ns).unwrap(), &spec()).unwrap();
        let sandboxes: Vec<Netns> = (0..20).map(|_| fresh()).collect();
        let ports: Vec<_> = (8000..).zip(&sandboxes)
            .map(|(n, sandbox)| bridge.attach(sandbox, &PortSpec::new().publish(Protocol::TCP, n, 80)).unwrap())
            .collect();
        assert_eq!(ns.links().unwrap().len(), 22);
        let e = Bridge::create(Netns::open(&ns).unwrap(), &spec()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Exists, "{e}");
        // The handle of the first still owns its rules.
        assert!(ns.ruleset().unwrap().tables().iter().any(|t| t.family() == Family::Bridge && t.name() == "palisade-br0"));
        drop(bridge);
        assert_eq!(ns.links().unwrap().len(), 22, "ports keep their bridge");
        drop(ports);
        assert_eq!(ns.links().unwrap().len(), 1);
        assert_eq!(ns.ruleset().unwrap().tables(), []);
        let two = [prefix("10.0.0.0/8"), prefix("10.1.0.0/16")];
        let overlap = BridgeSpec::new(name("br0")).network(two[0]).network(two[1]);
        assert_eq!(Bridge::create(Netns::open(&ns).unwrap(), &overlap).unwrap_err().kind(), ErrorKind::Invalid);
    }
}
