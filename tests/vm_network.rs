//! What a killed host program leaves on a bridge, as an ordinary user in a network of its own, too.
#![cfg(feature = "net")]
#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use palisade::net::nft::Protocol;
use palisade::net::{Bridge, BridgeSpec, IfName, IpPrefix, LinkSettings, Netns};
use palisade::{Network, Sandbox, SandboxBuilder};
use palisade_testkit::{can_unshare_user, fork, in_child, skip, wait_until};

const LONG: Duration = Duration::from_secs(60);

fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

fn prefix(text: &str) -> IpPrefix {
    text.parse().unwrap()
}

fn up(ns: &Netns, link: &str) {
    ns.set_link(&name(link), &LinkSettings::new().up()).unwrap();
}

fn with(network: Network) -> SandboxBuilder {
    Sandbox::builder().network(network)
}

/// In a process and a network of its own, with an outside at 192.0.2.9, and 192.0.2.1 for itself.
fn in_own_network(body: impl FnOnce(&Netns, &Netns)) {
    in_child(|| {
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        if uid.is_root() {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
        } else {
            unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET).unwrap();
            for (file, text) in [
                ("setgroups", "deny".to_owned()),
                ("uid_map", format!("0 {uid} 1")),
                ("gid_map", format!("0 {gid} 1")),
            ] {
                std::fs::write(format!("/proc/self/{file}"), text).unwrap();
            }
        }
        let (own, outside) = (Netns::current().unwrap(), Netns::create().unwrap());
        own.add_veth(&name("up0"), &outside, &name("eth0")).unwrap();
        for (ns, link, n) in [(&own, "up0", 1u8), (&outside, "eth0", 9)] {
            up(ns, "lo");
            ns.add_address(&name(link), [192, 0, 2, n], 24).unwrap();
            ns.add_address(&name(link), [169, 254, 169, n], 24).unwrap();
            up(ns, link);
        }
        own.wait_ready(&name("up0"), LONG).unwrap();
        body(&own, &outside);
    });
}

#[test]
fn a_killed_host_program_leaves_no_rules_and_no_port() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    in_own_network(|_, carrier| {
        let before = carrier.links().unwrap().len();
        let mut host = fork(|mut told| {
            let spec = BridgeSpec::new(name("br0")).network(prefix("10.5.0.0/24"));
            let bridge = Bridge::create(Netns::open(carrier).unwrap(), &spec).unwrap();
            let network = Network::bridge(&bridge).publish(Protocol::TCP, 8080, 80);
            let child = with(network).build().unwrap().command("/bin/sleep").arg("1000").spawn().unwrap();
            write!(told, "{}", child.id()).unwrap();
            drop(told);
            thread::sleep(LONG);
            0
        })
        .unwrap();
        let mut pid = String::new();
        host.pipe().read_to_string(&mut pid).unwrap();
        assert_eq!(carrier.links().unwrap().len(), before + 2, "the bridge and its port");
        assert_eq!(carrier.ruleset().unwrap().tables().len(), 2);
        drop(host); // killed
        assert!(wait_until(LONG, || carrier.ruleset().unwrap().tables().is_empty()), "rules");
        assert!(wait_until(LONG, || carrier.links().unwrap().len() == before + 1), "the port");
        assert!(wait_until(LONG, || !std::path::Path::new(&format!("/proc/{pid}")).exists()), "the payload");
    });
}
