//! A90: a kernel without the packet filter, or one that an outer filter hides. Nothing runs on a network that would be
//! guarded by rules; what needs none works. Single parts that are missing: `vm_modules.rs`.
#![cfg(feature = "net")]
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;

use nix::sched::{CloneFlags, unshare};
use palisade::net::nft::{Family, Protocol, Ruleset, Table};
use palisade::net::{Bridge, BridgeSpec, IfName, IpPrefix, LinkKind, Netns};
use palisade::preflight::{Feature, Status};
use palisade::secfilter::{Action, Install, Policy, Rule, arg};
use palisade::{Error, ErrorKind, Network, Sandbox, SandboxBuilder, Step, preflight};
use palisade_testkit::{Snapshot, can_unshare_user, in_child, is_root, skip, temp_dir};

fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

fn prefix(text: &str) -> IpPrefix {
    text.parse().unwrap()
}

/// From now on this process and its children get no socket to netfilter, as on a kernel without it.
fn hide_netfilter() {
    let rule = Rule::new(["socket"], Action::Errno(libc::EPROTONOSUPPORT as u16))
        .when(arg(0).low32().eq(libc::AF_NETLINK as u64))
        .when(arg(2).low32().eq(libc::NETLINK_NETFILTER as u64));
    Install::new(&Policy::new(Action::Allow).rule(rule).compile().unwrap()).apply().unwrap();
}

/// In a process of its own, with a network of its own: root of it, whoever calls.
fn with_own_network(body: impl FnOnce()) {
    in_child(|| {
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        let user = if uid.is_root() { CloneFlags::empty() } else { CloneFlags::CLONE_NEWUSER };
        unshare(user | CloneFlags::CLONE_NEWNET).unwrap();
        if !uid.is_root() {
            fs::write("/proc/self/setgroups", "deny").unwrap();
            fs::write("/proc/self/uid_map", format!("0 {uid} 1")).unwrap();
            fs::write("/proc/self/gid_map", format!("0 {gid} 1")).unwrap();
        }
        body();
    });
}

/// What a spawn says that must not reach its payload; and that it did not, and left nothing.
fn refused(network: Network) -> Error {
    let dir = temp_dir();
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let touch = |network, name: &str| {
        let builder = Sandbox::builder().bind(dir.path(), "/mnt").network(network);
        builder.build().unwrap().command("/bin/touch").arg(format!("/mnt/{name}")).output()
    };
    // The control; and threads and the stage's file are kept from the first spawn on.
    assert!(touch(Network::loopback(), "control").is_ok() && dir.path().join("control").exists());
    let before = Snapshot::take();
    let error = touch(network, "ran").unwrap_err();
    before.assert_unchanged();
    assert!(!dir.path().join("ran").exists(), "the payload ran: {error}");
    error
}

#[track_caller]
fn says_what_is_missing(error: &Error) {
    let text = error.to_string();
    assert_eq!((error.kind(), error.step()), (ErrorKind::Setup, Step::Network), "{text}");
    assert_eq!(error.errno(), Some(libc::EPROTONOSUPPORT), "{text}");
    assert!(text.contains("NETLINK_NETFILTER") && text.contains("nfnetlink"), "{text}");
    assert!(error.hint().is_some_and(|hint| hint.contains("CONFIG_NETFILTER_NETLINK")), "{text}");
}

fn runs(builder: SandboxBuilder) -> bool {
    builder.build().unwrap().command("/bin/true").status().unwrap().success()
}

#[test]
fn a90_without_nftables_nothing_runs_on_a_user_mode_network() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    let allowed = Network::user_mode().allow_egress(prefix("192.0.2.0/24"));
    if let Err(error) = Sandbox::builder().network(allowed.clone()).build() {
        skip!("{error}");
    }
    with_own_network(|| {
        hide_netfilter();
        // The last has no rules of its own, but the host's services are shut out by some.
        for network in [allowed, Network::user_mode().deny_egress(), Network::user_mode()] {
            says_what_is_missing(&refused(network));
        }
        for network in [Network::none(), Network::loopback()] {
            assert!(runs(Sandbox::builder().network(network)), "no rules are needed");
        }
    });
}

#[test]
fn a90_without_nftables_there_is_no_bridge() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    with_own_network(|| {
        // One that was made before, by somebody who could.
        let spec = BridgeSpec::new(name("br0")).network(prefix("10.5.0.0/24"));
        let old = Bridge::create(Netns::create().unwrap(), &spec).unwrap();
        let (links, rules) = (old.netns().links().unwrap().len(), old.netns().ruleset().unwrap());
        hide_netfilter();

        let carrier = Netns::create().unwrap();
        let before = carrier.links().unwrap().len();
        let again = Netns::open(&carrier).unwrap();
        let error = Bridge::create(carrier, &spec).unwrap_err();
        assert_eq!(error.kind(), palisade::net::ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("modprobe nfnetlink"), "{error}");
        assert_eq!(again.links().unwrap().len(), before, "no bridge stays");

        // Rules inside the sandbox can't be made, so it does not come onto the bridge, and its place is free.
        let network = Network::bridge(&old).publish(Protocol::TCP, 8080, 80);
        says_what_is_missing(&refused(network.clone().deny_egress()));
        assert_eq!(old.netns().links().unwrap().len(), links, "no port stays");
        assert_eq!(old.netns().ruleset().unwrap(), rules);
        let sandbox = Sandbox::builder().network(network).build().unwrap();
        let child = sandbox.command("/bin/sleep").arg("1000").spawn().unwrap();
        assert_eq!(child.port().unwrap().addresses()[0].to_string(), "10.5.0.2", "guarded by the old bridge");
    });
}

#[test]
fn links_need_no_nftables() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    with_own_network(|| {
        hide_netfilter();
        let (own, other) = (Netns::current().unwrap(), Netns::create().unwrap());
        own.add_veth(&name("a"), &other, &name("b")).unwrap();
        own.add_address(&name("a"), [10, 0, 0, 1], 24).unwrap();
        other.add_link(&name("br0"), &LinkKind::Bridge).unwrap();
        let rules = Ruleset::from(Table::new(Family::Inet, "t"));
        let attempts = [
            own.apply(&rules),
            own.ruleset().map(drop),
            own.connections().map(drop),
            own.flush_connections(),
            own.flush_ruleset(),
        ];
        for error in attempts.map(Result::unwrap_err) {
            assert_eq!(error.kind(), palisade::net::ErrorKind::Unsupported, "{error}");
            assert!(error.hint().is_some_and(|hint| hint.contains("modprobe nfnetlink")), "{error}");
        }
    });
}

#[test]
fn preflight_tells_of_missing_nftables() {
    let finding = |report: &palisade::Preflight| report.get(&Feature::Nftables).unwrap().clone();
    in_child(|| {
        let there = finding(&preflight());
        assert!(is_root() || there.status != Status::Unknown || !can_unshare_user(), "{there:?}");
        hide_netfilter();
        let hidden = finding(&preflight());
        if there.status == Status::Unknown {
            return;
        }
        assert_eq!(hidden.status, Status::Missing, "{hidden:?}");
        assert!(hidden.seen.contains("nfnetlink") && !hidden.seen.contains("modprobe"), "{hidden:?}");
        assert!(hidden.fix.as_deref().is_some_and(|fix| fix.contains("modprobe nfnetlink")), "{hidden:?}");
    });
}
