//! User-mode networks: what a specification may ask of them, and what a spawn would do. What they carry is in vm_user_mode.
#![cfg(feature = "net")]
#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::IpAddr;
use std::path::Path;

use palisade::creds::{Capability, CapabilitySet, ThreadCapabilities};
use palisade::net::IpPrefix;
use palisade::net::nft::Protocol;
use palisade::{ErrorKind, Network, Sandbox, SandboxBuilder, Step, UserModeProgram};
use palisade_testkit::{can_unshare_user, is_root, skip, temp_dir};

fn with(network: Network) -> SandboxBuilder {
    Sandbox::builder().network(network)
}

/// A file that can be executed, with these lines of shell.
fn script(dir: &Path, lines: &str) -> UserModeProgram {
    let path = dir.join("pasta");
    std::fs::write(&path, format!("#!/bin/sh\n{lines}\n")).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    UserModeProgram::pasta().at(path)
}

/// What a spawn on it would do.
fn plan(network: Network) -> String {
    with(network).build().unwrap().command("/bin/true").plan().unwrap().to_string()
}

/// The rules that stand by default are rules, too: a payload that can reroute or send what it likes gets round them.
#[test]
fn powers_over_a_user_mode_network_are_a_conflict_without_rules_of_ones_own() {
    let dir = temp_dir();
    let network = || Network::user_mode_with(script(dir.path(), "exit 1"));
    for capability in [Capability::NetAdmin, Capability::NetRaw] {
        let set = CapabilitySet::EMPTY.with(capability);
        let bounding = ThreadCapabilities { bounding: set, ..ThreadCapabilities::default() };
        for builder in [with(network()).capabilities(set), with(network()).capability_sets(bounding)] {
            let error = builder.build().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidSpec);
            assert!(error.to_string().contains("could go around what the network's rules deny"), "{error}");
        }
    }
    // Another power is none over the network.
    with(network()).capabilities(CapabilitySet::EMPTY.with(Capability::Chown)).build().unwrap();
}

#[test]
fn the_loopback_is_shut_on_other_interfaces_than_lo_by_default() {
    let dir = temp_dir();
    let plan = plan(Network::user_mode_with(script(dir.path(), "exit 1")));
    for inside in ["127.0.0.1", "127.255.255.255", "::1"] {
        assert!(!allowed(&plan, inside), "{inside}: {plan}");
    }
    for outside in ["126.255.255.255", "128.0.0.1", "192.0.2.9", "::2", "2001:db8::9"] {
        assert!(allowed(&plan, outside), "{outside}: {plan}");
    }
    assert!(plan.contains("oifname \"lo\" accept"), "{plan}");
}

#[test]
fn multicast_and_broadcast_are_shut_by_default() {
    let dir = temp_dir();
    let network = || Network::user_mode_with(script(dir.path(), "exit 1"));
    let shut = ["224.0.0.251", "239.255.255.255", "255.255.255.255", "ff02::fb", "ff0e::1", "0.0.0.0", "::"];
    let default = plan(network());
    for addr in shut {
        assert!(!allowed(&default, addr), "{addr}: {default}");
    }
    for addr in ["223.255.255.255", "240.0.0.1", "fec0::1"] {
        assert!(allowed(&default, addr), "{addr}: {default}");
    }
    // What is named is open.
    let group: IpPrefix = "239.1.2.0/24".parse().unwrap();
    let named = plan(network().allow_egress(group));
    assert!(named.contains("ip daddr { 239.1.2.0/24 }"), "{named}");
    // Neighbours are found by multicast all the same: these go before the blocks are asked.
    let at = |text: &str| default.find(text).unwrap();
    assert!(at("nd-neighbor-solicit") < at("ip6 daddr {"), "{default}");
}

#[test]
fn the_addresses_of_ipv6_where_clouds_keep_credentials_are_shut_by_default() {
    let dir = temp_dir();
    let plan = plan(Network::user_mode_with(script(dir.path(), "exit 1")));
    for addr in [
        "169.254.169.254",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
        "fd00:c1::a9fe:a9fe",
        "fd00:42::42",
        "fd00:a9fe:a9fe::1",
        "fd00:100::100:200",
    ] {
        assert!(!allowed(&plan, addr), "{addr}: {plan}");
    }
    // The resolver inside, and neighbours of the others.
    for addr in ["fd00::3", "10.0.2.3", "fd00:ec3::254", "fd00:42::43", "100.100.100.201"] {
        assert!(allowed(&plan, addr), "{addr}: {plan}");
    }
}

/// pasta leads a port to one place inside, at whichever addresses it is published.
#[test]
fn a_port_at_two_addresses_with_different_ports_inside_is_a_conflict() {
    let dir = temp_dir();
    let pasta = || Network::user_mode_with(script(dir.path(), "exit 1"));
    let (local, v6) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]));
    let wrong = |network: Network| match with(network).build() {
        Ok(_) => String::new(),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::InvalidSpec);
            error.to_string()
        }
    };
    for (addr, protocol) in [(IpAddr::from([192, 0, 2, 1]), Protocol::TCP), (v6, Protocol::UDP)] {
        let network = pasta().publish(protocol, 8080, 80).publish_at(addr, protocol, 8080, 81);
        let said = wrong(network);
        let parts = ["127.0.0.1/8080:80 and ", "/8080:81: a ", "leads to one port inside"];
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
        // Elsewhere, for another protocol, or to the same port there is room.
        let network = pasta()
            .publish(protocol, 8080, 80)
            .publish_at(addr, protocol, 8080, 80)
            .publish_at(addr, protocol, 8081, 81);
        assert_eq!(wrong(network), "");
    }
    let both = pasta().publish(Protocol::TCP, 8080, 80).publish(Protocol::UDP, 8080, 81);
    assert_eq!(wrong(both), "");
    // Without an address it is 127.0.0.1.
    let twice = pasta().publish(Protocol::TCP, 8080, 80).publish_at(local, Protocol::TCP, 8080, 80);
    assert!(wrong(twice).contains("the same tcp port twice"));
}

/// As pasta of 2023 says it.
#[test]
fn a_pasta_that_publishes_at_one_address_alone_is_told() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    let dir = temp_dir();
    let lines = "echo 'Overlapping port specifier ::1/8080:80' >&2; exit 1";
    let network = Network::user_mode_with(script(dir.path(), lines))
        .publish(Protocol::TCP, 8080, 80)
        .publish_at([0, 0, 0, 0, 0, 0, 0, 1], Protocol::TCP, 8080, 80);
    let error = with(network).build().unwrap().command("/bin/true").spawn().unwrap_err();
    assert_eq!((error.kind(), error.step()), (ErrorKind::Setup, Step::Network), "{error}");
    // Where there is no tun, that is said first.
    let hint = error.hint().unwrap();
    assert!(hint.contains("at one address alone") || hint.contains("/dev/net/tun"), "{error}");
}

/// What a further run of this binary says, with a search path of its own.
fn run_again(test: &str, path: &Path) -> String {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]).env("PATH", path);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    said
}

/// Root's PATH may have directories of others, whose program would run as root. Run by descriptor, a script is as well.
#[test]
fn root_runs_no_user_mode_program_that_others_can_change() {
    if !is_root() {
        skip!("needs root: who searches for programs of root alone", needs = "root");
    }
    let dir = temp_dir();
    script(dir.path(), "echo the words of the first >&2; exit 1");
    let spawned = || run_again("inner_spawn_by_pasta_of_path", dir.path());
    assert!(spawned().contains("the words of the first"));
    let mode = |mode| {
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    mode(0o777);
    let said = spawned();
    assert!(!said.contains("the words of the first"), "{said}");
    mode(0o755);
    std::os::unix::fs::chown(dir.path().join("pasta"), Some(59_000), None).unwrap();
    let said = spawned();
    assert!(!said.contains("the words of the first"), "{said}");
}

#[test]
#[ignore = "run by the test above, with a PATH of its own"]
fn inner_spawn_by_pasta_of_path() {
    let network = Network::user_mode_with(UserModeProgram::pasta());
    let said = with(network).build().and_then(|sandbox| sandbox.command("/bin/true").spawn());
    println!("{:?}", said.map(drop).map_err(|error| error.to_string()));
}

/// Whether a plan's rules have a destination among the blocks that they allow.
fn allowed(plan: &str, addr: &str) -> bool {
    let addr: IpAddr = addr.parse().unwrap();
    let lines = plan.lines().filter(|line| line.contains("daddr {"));
    let mut blocks = lines.flat_map(|line| line.split([' ', ','])).filter_map(|word| {
        let prefix = word.parse::<IpPrefix>().map(|prefix| (prefix.addr(), prefix.last()));
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        prefix.ok().or_else(|| Some((first.parse().ok()?, last.parse().ok()?)))
    });
    // All of IPv4 is less than all of IPv6.
    blocks.any(|(first, last)| first <= addr && addr <= last)
}
