//! Links, addresses, routes and neighbours against the real kernel.

use std::fs::File;
use std::io::{Read, Write};
use std::net::Ipv6Addr;
use std::os::fd::AsFd;
use std::process::Command;

use crate::common::*;
use crate::netns_test;
use palisade_net::{
    ErrorKind, IpPrefix, LinkKind, LinkSettings, MacAddr, MacvlanMode, NeighbourState, Netns, Route,
    RouteKind,
};

netns_test! {
    fn a_fresh_namespace_has_only_lo_down() {
        let before = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let ns = Netns::create().unwrap();
        let links = ns.links().unwrap();
        assert_eq!(links.len(), 1);
        assert_eq!((links[0].name.as_str(), links[0].up, links[0].kind.as_deref()), ("lo", false, None));
        assert!(ns.addresses().unwrap().is_empty());
        up(&ns, "lo");
        assert!(ns.link(&name("lo")).unwrap().running);
        assert_eq!(ns.addresses().unwrap().iter().map(|a| a.addr.to_string()).collect::<Vec<_>>(), ["127.0.0.1", "::1"]);
        assert_eq!(std::fs::read_link("/proc/thread-self/ns/net").unwrap(), before, "the thread moved");
        assert_ne!(ns.inode().unwrap(), Netns::current().unwrap().inode().unwrap());
        let again = Netns::open(ns.as_fd()).unwrap();
        assert_eq!(again.inode().unwrap(), ns.inode().unwrap());
    }
}

netns_test! {
    /// Lab 36: RED and BLUE joined by a veth pair; the namespace that made it cannot reach them.
    fn red_and_blue_talk_over_a_veth_pair() {
        let (red, blue) = (fresh(), fresh());
        red.add_veth(&name("reth0"), &blue, &name("beth0")).unwrap();
        let e = red.add_veth(&name("reth0"), &blue, &name("other")).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Exists, "{e}");
        red.add_address(&name("reth0"), [11, 11, 11, 2], 24).unwrap();
        blue.add_address(&name("beth0"), [11, 11, 11, 3], 24).unwrap();
        red.add_address(&name("reth0"), ip("fd11::2"), 64).unwrap();
        blue.add_address(&name("beth0"), ip("fd11::3"), 64).unwrap();
        let mac = MacAddr([2, 0, 0, 0, 0, 2]);
        red.set_link(&name("reth0"), &LinkSettings::new().mac(mac).mtu(1400).up()).unwrap();
        up(&blue, "beth0");
        wait_ready(&red, "reth0");
        wait_ready(&blue, "beth0");

        let link = red.link(&name("reth0")).unwrap();
        assert_eq!((link.kind.as_deref(), link.mtu, link.mac, link.up), (Some("veth"), 1400, Some(mac), true));
        let route = red.routes().unwrap().into_iter().find(|r| r.to.to_string() == "11.11.11.0/24").unwrap();
        assert_eq!((route.link, route.source, route.table), (Some(link.index), Some(ip("11.11.11.2")), 254));
        assert!(red.addresses().unwrap().iter().any(|a| a.addr == ip("fd11::2") && a.prefix_len == 64 && !a.tentative));

        serve_tcp(&blue, "[::]:7000");
        serve_udp(&blue, "[::]:7000");
        assert_eq!(tcp(&red, "11.11.11.3:7000", LONG).unwrap(), "11.11.11.2");
        assert_eq!(tcp(&red, "[fd11::3]:7000", LONG).unwrap(), "fd11::2");
        udp(&red, "11.11.11.3:7000", LONG).unwrap();
        if let Some(ok) = ping(&red, "11.11.11.3") {
            assert!(ok);
        }
        let seen = blue.neighbours().unwrap().into_iter().find(|n| n.addr == ip("11.11.11.2")).unwrap();
        assert_eq!(seen.mac, Some(mac));

        let outside = Netns::current().unwrap();
        let e = tcp(&outside, "11.11.11.3:7000", SHORT).unwrap_err();
        assert_eq!(e.raw_os_error(), Some(libc::ENETUNREACH));

        drop(red);
        // The namespace ends in the background; then its end of the pair takes the other along.
        let end = std::time::Instant::now() + LONG;
        while blue.links().unwrap().len() > 1 {
            assert!(std::time::Instant::now() < end, "beth0 outlived its peer's namespace");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

netns_test! {
    fn a_bridge_learns_where_its_ports_are() {
        let router = router();
        let (a, b) = (on_bridge(&router, 2), on_bridge(&router, 3));
        serve_tcp(&b, "[::]:80");
        assert_eq!(tcp(&a, "10.0.0.3:80", LONG).unwrap(), "10.0.0.2");
        let bridge = router.link(&name("br0")).unwrap();
        assert_eq!(bridge.kind.as_deref(), Some("bridge"));
        for (ns, port) in [(&a, "port2"), (&b, "port3")] {
            let mac = ns.link(&name("eth0")).unwrap().mac.unwrap();
            let port = router.link(&name(port)).unwrap();
            assert_eq!(port.master, Some(bridge.index));
            let learned = router.bridge_forwarding().unwrap().into_iter().find(|e| e.mac == mac && !e.permanent).unwrap();
            assert_eq!((learned.port, learned.bridge), (port.index, Some(bridge.index)));
        }
        // Isolated ports reach the bridge itself but not each other.
        for port in ["port2", "port3"] {
            router.set_link(&name(port), &LinkSettings::new().isolated(true).hairpin(true)).unwrap();
        }
        assert!(tcp(&a, "10.0.0.3:80", SHORT).is_err());
        serve_tcp(&router, "[::]:81");
        assert_eq!(tcp(&a, "10.0.0.1:81", LONG).unwrap(), "10.0.0.2");
        router.set_link(&name("port2"), &LinkSettings::new().no_master()).unwrap();
        assert_eq!(router.link(&name("port2")).unwrap().master, None);
    }
}

netns_test! {
    fn macvlan_in_another_namespace() {
        let (host, inner, peer) = (fresh(), fresh(), fresh());
        host.add_veth(&name("wire"), &peer, &name("eth0")).unwrap();
        up(&host, "wire");
        up(&peer, "eth0");
        peer.add_address(&name("eth0"), [10, 9, 0, 1], 24).unwrap();
        let kind = LinkKind::Macvlan { parent: name("wire"), mode: MacvlanMode::Bridge };
        host.add_link_in(&inner, &name("mv0"), &kind).unwrap();
        assert_eq!(inner.link(&name("mv0")).unwrap().kind.as_deref(), Some("macvlan"));
        assert_eq!(host.link(&name("mv0")).unwrap_err().kind(), ErrorKind::NotFound);
        inner.add_address(&name("mv0"), [10, 9, 0, 2], 24).unwrap();
        up(&inner, "mv0");
        wait_ready(&inner, "mv0");
        serve_tcp(&peer, "0.0.0.0:80");
        assert_eq!(tcp(&inner, "10.9.0.1:80", LONG).unwrap(), "10.9.0.2");
    }
}

netns_test! {
    fn a_tap_hands_its_frames_to_the_caller() {
        let ns = fresh();
        let tap = match ns.add_tap(&name("tap0")) {
            Ok(tap) => tap,
            Err(e) if matches!(e.kind(), ErrorKind::Permission | ErrorKind::NotFound) => {
                return skip("tun", &format!("/dev/net/tun cannot be opened: {e}"));
            }
            Err(e) => panic!("{e}"),
        };
        assert_eq!(ns.add_tap(&name("tap0")).unwrap_err().kind(), ErrorKind::Exists);
        ns.add_address(&name("tap0"), [10, 8, 0, 1], 24).unwrap();
        up(&ns, "tap0");
        ns.set_neighbour(&name("tap0"), [10, 8, 0, 2], MacAddr([2, 0, 0, 0, 0, 9])).unwrap();
        let socket = ns.run(|| std::net::UdpSocket::bind("10.8.0.1:5000")).unwrap().unwrap();
        socket.send_to(b"out of the tap", "10.8.0.2:6000").unwrap();
        let mut tap = File::from(tap);
        let frame = loop {
            let mut buf = [0; 2048];
            let len = tap.read(&mut buf).unwrap();
            // Neighbour discovery of the new link comes by as well.
            if buf[..len].ends_with(b"out of the tap") {
                break buf[..len].to_vec();
            }
        };
        assert_eq!(frame[..6], [2, 0, 0, 0, 0, 9]);
        // The same datagram sent back: addresses, and MACs, exchanged; ports too. No checksum needs to change.
        let mut back = frame.clone();
        back[..6].copy_from_slice(&frame[6..12]);
        back[6..12].copy_from_slice(&frame[..6]);
        back[26..30].copy_from_slice(&frame[30..34]);
        back[30..34].copy_from_slice(&frame[26..30]);
        back[34..36].copy_from_slice(&frame[36..38]);
        back[36..38].copy_from_slice(&frame[34..36]);
        tap.write_all(&back).unwrap();
        let mut buf = [0; 64];
        socket.set_read_timeout(Some(LONG)).unwrap();
        let (len, from) = socket.recv_from(&mut buf).unwrap();
        assert_eq!((&buf[..len], from.to_string().as_str()), (&b"out of the tap"[..], "10.8.0.2:6000"));
        drop(tap);
        assert_eq!(ns.link(&name("tap0")).unwrap_err().kind(), ErrorKind::NotFound);
    }
}

netns_test! {
    fn routes_round_trip() {
        let (ns, other) = (fresh(), fresh());
        ns.add_veth(&name("eth0"), &other, &name("eth0")).unwrap();
        ns.add_address(&name("eth0"), [10, 0, 0, 2], 24).unwrap();
        ns.add_address(&name("eth0"), ip("fd00::2"), 64).unwrap();
        up(&ns, "eth0");
        up(&other, "eth0");
        let to = |s: &str| s.parse::<IpPrefix>().unwrap();
        let routes = [
            Route::default_via([10, 0, 0, 1]),
            Route::default_via(ip("fd00::1")).metric(77),
            Route::to(to("10.1.0.0/16")).via([10, 0, 0, 9]).source([10, 0, 0, 2]).metric(5),
            Route::to(to("10.2.0.0/16")).dev(name("eth0")),
            Route::to(to("169.254.169.254")).kind(RouteKind::Blackhole),
            Route::to(to("fd01::/64")).kind(RouteKind::Unreachable),
            Route::to(to("192.0.2.1")).via([198, 51, 100, 1]).dev(name("eth0")).onlink(),
            Route::to(to("10.3.0.0/16")).via(ip("fd00::3")),
        ];
        for route in &routes {
            ns.add_route(route).unwrap();
        }
        assert_eq!(ns.add_route(&routes[0]).unwrap_err().kind(), ErrorKind::Exists);
        let index = ns.link(&name("eth0")).unwrap().index;
        let listed = ns.routes().unwrap();
        let find = |s: &str| listed.iter().find(|r| r.to == to(s) && r.table == 254).unwrap_or_else(|| panic!("{s}: {listed:#?}"));
        assert_eq!(find("0.0.0.0/0").via, Some(ip("10.0.0.1")));
        assert_eq!((find("::/0").via, find("::/0").metric), (Some(ip("fd00::1")), Some(77)));
        let r = find("10.1.0.0/16");
        assert_eq!((r.via, r.source, r.metric, r.link), (Some(ip("10.0.0.9")), Some(ip("10.0.0.2")), Some(5), Some(index)));
        assert_eq!((find("10.2.0.0/16").link, find("10.2.0.0/16").via), (Some(index), None));
        assert_eq!(find("169.254.169.254/32").kind, RouteKind::Blackhole);
        assert_eq!(find("fd01::/64").kind, RouteKind::Unreachable);
        assert_eq!(find("10.3.0.0/16").via, Some(ip("fd00::3")));
        for route in &routes {
            ns.delete_route(route).unwrap();
        }
        assert_eq!(ns.delete_route(&routes[0]).unwrap_err().kind(), ErrorKind::NotFound);
        let e = ns.add_route(&Route::to(to("10.5.0.0/16")).via([203, 0, 113, 1])).unwrap_err();
        assert_eq!(e.errno(), Some(libc::ENETUNREACH), "{e}");
    }
}

netns_test! {
    /// What others made is listed with all that is in it, whatever kind it is of.
    fn multipath_routes_and_foreign_links_are_listed() {
        let (ns, other) = (fresh(), fresh());
        for n in 0..2u8 {
            let link = name(&format!("eth{n}"));
            ns.add_veth(&link, &other, &link).unwrap();
            ns.add_address(&link, [10, 0, n, 2], 24).unwrap();
            ns.add_address(&link, Ipv6Addr::new(0xfd00, n.into(), 0, 0, 0, 0, 0, 2), 64).unwrap();
            up(&other, link.as_str());
            up(&ns, link.as_str());
        }
        for line in [
            "route add 10.9.0.0/16 nexthop via 10.0.0.1 dev eth0 weight 3 nexthop via 10.0.1.1 dev eth1",
            "-6 route add fd09::/64 nexthop via fd00::1 dev eth0 nexthop via fd00:1::1 dev eth1 weight 256",
            "link add vx0 type vxlan id 7 dstport 4789 remote 10.0.0.1",
            "link add mv0 link eth0 type macvtap mode bridge",
            "address add 10.7.0.1 peer 10.7.0.2 dev eth0",
        ] {
            match command(&ns, "ip", &line.split(' ').collect::<Vec<_>>()) {
                Some((true, _)) => {}
                Some((false, said)) if line.starts_with("link") => println!("not here: {said}"),
                Some((false, said)) => panic!("{line}: {said}"),
                None => return skip("ip", "ip(8) is not installed"),
            }
        }
        let index = |link: &str| ns.link(&name(link)).unwrap().index;
        let routes = ns.routes().unwrap();
        let hops = |to: &str| {
            let to: IpPrefix = to.parse().unwrap();
            let route = routes.iter().find(|route| route.to == to).unwrap();
            assert_eq!((route.via, route.link), (None, None));
            route.hops.iter().map(|hop| (hop.via.unwrap().to_string(), hop.link, hop.weight)).collect::<Vec<_>>()
        };
        let of = |via: &str, link: &str, weight| (via.to_owned(), index(link), weight);
        assert_eq!(hops("10.9.0.0/16"), [of("10.0.0.1", "eth0", 3), of("10.0.1.1", "eth1", 1)]);
        assert_eq!(hops("fd09::/64"), [of("fd00::1", "eth0", 1), of("fd00:1::1", "eth1", 256)]);
        assert!(routes.iter().filter(|route| route.link.is_some()).all(|route| route.hops.is_empty()));
        let kinds: Vec<_> = ns.links().unwrap().into_iter().filter_map(|link| link.kind).collect();
        assert_eq!(kinds.iter().filter(|kind| *kind == "veth").count(), 2, "{kinds:?}");
        assert!(ns.addresses().unwrap().iter().any(|a| a.addr == ip("10.7.0.1")));
    }
}

netns_test! {
    fn neighbours_and_addresses_change() {
        let (ns, other) = (fresh(), fresh());
        ns.add_veth(&name("eth0"), &other, &name("eth0")).unwrap();
        up(&ns, "eth0");
        up(&other, "eth0");
        ns.add_address(&name("eth0"), [10, 0, 0, 2], 24).unwrap();
        assert_eq!(ns.add_address(&name("eth0"), [10, 0, 0, 2], 24).unwrap_err().kind(), ErrorKind::Exists);
        for bad in [ip("0.0.0.0"), ip("224.0.0.1"), ip("::"), ip("ff02::1")] {
            assert_eq!(ns.add_address(&name("eth0"), bad, 24).unwrap_err().kind(), ErrorKind::Invalid);
        }
        assert_eq!(ns.add_address(&name("eth0"), [10, 0, 0, 3], 33).unwrap_err().kind(), ErrorKind::Invalid);
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        for addr in [ip("10.0.0.1"), IpAddr6::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).into()] {
            ns.set_neighbour(&name("eth0"), addr, mac).unwrap();
            let n = ns.neighbours().unwrap().into_iter().find(|n| n.addr == addr).unwrap();
            assert_eq!((n.mac, n.state), (Some(mac), NeighbourState::Permanent));
            ns.delete_neighbour(&name("eth0"), addr).unwrap();
        }
        ns.delete_address(&name("eth0"), [10, 0, 0, 2], 24).unwrap();
        assert!(ns.delete_address(&name("eth0"), [10, 0, 0, 2], 24).is_err());
        let e = ns.set_link(&name("eth0"), &LinkSettings::new().mac(MacAddr([1, 0, 0, 0, 0, 0]))).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Invalid);
        assert!(ns.set_link(&name("eth0"), &LinkSettings::new().mtu(10)).is_err());
    }
}

type IpAddr6 = Ipv6Addr;

netns_test! {
    fn sysctls_belong_to_the_namespace() {
        let (a, b) = (fresh(), fresh());
        a.enable_forwarding().unwrap();
        assert_eq!(a.sysctl("net.ipv4.ip_forward").unwrap(), "1");
        assert_eq!(b.sysctl("net.ipv4.ip_forward").unwrap(), "0");
        assert_eq!(a.sysctl("net/ipv4/conf/all/route_localnet").unwrap(), "0");
        for bad in ["kernel.hostname", "net", "net.", "net/../kernel/hostname", "net..ipv4", "/net/ipv4/ip_forward"] {
            assert_eq!(a.set_sysctl(bad, "1").unwrap_err().kind(), ErrorKind::Invalid, "{bad}");
        }
        assert_eq!(a.set_sysctl("net.ipv4.no_such", "1").unwrap_err().kind(), ErrorKind::NotFound);
    }
}

/// A namespace of a user namespace that the caller made is reached without any privilege of the caller's own.
#[test]
fn an_ordinary_user_opens_the_namespace_that_it_made() {
    const AS_USER: &str = "PALISADE_NET_TEST_AS_USER";
    if nix_is_root() && std::env::var_os(AS_USER).is_none() {
        let out = Command::new("setpriv")
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .arg(std::env::current_exe().unwrap())
            .args(["links::an_ordinary_user_opens_the_namespace_that_it_made", "--exact", "--nocapture"])
            .env(AS_USER, "1")
            .output()
            .unwrap();
        let text =
            format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        print!("{text}");
        return assert!(out.status.success() && text.contains("1 passed"));
    }
    let mut child = match Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "cat"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
    {
        Ok(child) => child,
        Err(e) => return skip("userns", &format!("no unshare(1): {e}")),
    };
    // An echo shows that cat runs, inside.
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    if stdin.write_all(b"x").and_then(|()| stdout.read_exact(&mut [0])).is_err() {
        child.wait().unwrap();
        return skip("userns", "no user namespaces for this user");
    }
    let net = File::open(format!("/proc/{}/ns/net", child.id())).unwrap();
    let ns = Netns::open(&net).unwrap();
    up(&ns, "lo");
    assert!(ns.link(&name("lo")).unwrap().up);
    ns.add_link(&name("br0"), &LinkKind::Bridge).unwrap();
    assert_eq!(ns.links().unwrap().len(), 2);
    // What needs a move into the namespace says why it cannot.
    assert_eq!(ns.run(|| ()).unwrap_err().kind(), ErrorKind::Permission);
    // Another's namespace is refused, and so is something else.
    assert_eq!(Netns::current().unwrap_err().kind(), ErrorKind::Permission);
    assert!(Netns::open(File::open("/dev/null").unwrap()).is_err());
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

fn nix_is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").unwrap().lines().any(|l| l.starts_with("Uid:\t0\t0"))
}
