//! A90: parts of nftables that a kernel lacks. The test machine has a boot whose kernel finds no module but those that
//! this test lets it have, and no IPv6.
#![cfg(feature = "net")]
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use palisade::net::nft::Protocol;
use palisade::net::policy::PortSelector;
use palisade::net::{Bridge, BridgeSpec, ErrorKind, IpPrefix, Netns, Port};
use palisade::ns::{Ns, kind};
use palisade::preflight::{Feature, Finding, Status};
use palisade::{Network, Sandbox, Step, preflight};
use palisade_testkit::{Snapshot, is_root, scaled, skip, temp_dir};

/// Names of modules, one a line; `*` is all.
const REFUSED: &str = "/run/refused-modules";

/// In the order in which a bridge, its rules and a place on it ask for them; beside each what its error says.
const BRIDGE: [(&str, &str); 10] = [
    ("nfnetlink", "NETLINK_NETFILTER"),
    ("nf_conntrack_netlink", "connections"),
    ("bridge", "kind bridge"),
    ("nf_tables", "nf_tables"),
    ("nft_chain_nat", "type nat"),
    ("nft_fib_inet", "\"fib\""),
    ("nft_nat", "\"nat\""),
    ("nft_ct", "\"ct\""),
    ("nft_masq", "\"masq\""),
    ("veth", "kind veth"),
];

/// Those that rules for what leaves a sandbox ask for.
const EGRESS: [&str; 3] = ["nfnetlink", "nf_tables", "nft_ct"];

fn prefix(text: &str) -> IpPrefix {
    text.parse().unwrap()
}

fn nftables() -> Finding {
    preflight().get(&Feature::Nftables).unwrap().clone()
}

fn make(networks: &[&str]) -> Result<(Bridge, Netns, Port), palisade::net::Error> {
    let spec = BridgeSpec::new("br0".parse().unwrap());
    let spec = networks.iter().fold(spec, |spec, network| spec.network(prefix(network)));
    let bridge = Bridge::create(Netns::create()?, &spec)?;
    let inside = Netns::create()?;
    let port = bridge.attach(&inside, &palisade::net::PortSpec::new().publish(Protocol::TCP, 80, 80))?;
    Ok((bridge, inside, port))
}

/// A payload whose connections are restricted does not run, and nothing stays of its spawn.
fn assert_no_egress(missing: &str) {
    let dir = temp_dir();
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let touch = |network, name: &str| {
        let builder = Sandbox::builder().bind(dir.path(), "/mnt").network(network);
        builder.build().unwrap().command("/bin/touch").arg(format!("/mnt/{name}")).output()
    };
    assert!(touch(Network::loopback(), "control").is_ok() && dir.path().join("control").exists());
    let before = Snapshot::take();
    let error = touch(Network::user_mode().allow_egress(prefix("192.0.2.0/24")), "ran").unwrap_err();
    before.assert_unchanged();
    assert_eq!((error.kind(), error.step()), (palisade::ErrorKind::Setup, Step::Network), "{error}");
    println!("egress rules without {missing}: {error}");
    assert!(error.hint().is_some_and(|hint| hint.starts_with(&format!("modprobe {missing},"))), "{error}");
    assert!(!dir.path().join("ran").exists(), "the payload ran: {error}");
    let finding = nftables();
    assert_eq!(finding.status, Status::Missing, "{finding:?}");
    assert!(finding.fix.as_ref().is_some_and(|fix| fix.contains(missing)), "{finding:?}");
}

/// Whether a connection is made within a moment.
fn reaches(from: &Netns, to: IpAddr, port: u16) -> bool {
    let to = SocketAddr::new(to, port);
    from.run(|| TcpStream::connect_timeout(&to, scaled(Duration::from_millis(300)))).unwrap().is_ok()
}

#[test]
fn a90_each_part_that_is_missing_is_named_and_nothing_runs() {
    if !Path::new(REFUSED).exists() {
        skip!("every module is to be had here", needs = "modules");
    }
    // As the machine was booted: nothing is there.
    assert_no_egress(EGRESS[0]);
    if !is_root() {
        return; // only root lets modules in
    }
    let mut told = EGRESS[0];
    for (n, (module, words)) in BRIDGE.into_iter().enumerate() {
        let later: String = BRIDGE[n..].iter().map(|(module, _)| format!("{module}\n")).collect();
        fs::write(REFUSED, later).unwrap();
        let before = Snapshot::take();
        let error = make(&["10.5.0.0/24"]).map(drop).unwrap_err();
        before.assert_unchanged();
        let text = error.to_string();
        println!("without {module}: {text}");
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{module}: {text}");
        assert!(text.contains(words), "{module}: {text}");
        assert!(error.hint().is_some_and(|hint| hint.contains(&format!("modprobe {module},"))), "{text}");
        // Rules for what leaves a sandbox take fewer parts.
        let refused = |part: &&str| BRIDGE[n..].iter().any(|(module, _)| module == part);
        match EGRESS.into_iter().find(refused) {
            Some(missing) if missing != told => {
                assert_no_egress(missing);
                told = missing;
            }
            None if module == "veth" => {
                let finding = nftables();
                assert_eq!(finding.status, Status::Limited, "{finding:?}");
                assert!(finding.fix.as_ref().is_some_and(|fix| fix.contains("modprobe veth")), "{finding:?}");
            }
            _ => {}
        }
    }
    fs::write(REFUSED, "").unwrap();
    assert_eq!(nftables().status, Status::Available, "{:?}", nftables());
    // The kernel was told not to have it: no socket, no rules of it.
    let error = TcpListener::bind("[::1]:0").map(drop).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EAFNOSUPPORT), "{error}");
    without_ipv6();
}

/// With every module, but no IPv6 in the kernel: rules hold for what there is, and a network of IPv6 is an error.
fn without_ipv6() {
    let error = make(&["10.5.0.0/24", "fd05::/64"]).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    println!("without IPv6: {error}");
    assert!(error.to_string().contains("no IPv6") && error.to_string().contains("ipv6.disable=1"), "{error}");

    let (bridge, free, port) = make(&["10.5.0.0/24"]).unwrap();
    for at in [80, 81] {
        let listener = free.run(|| TcpListener::bind(("0.0.0.0", at))).unwrap().unwrap();
        thread::spawn(move || listener.incoming().flatten().for_each(drop));
    }
    let network = Network::bridge(&bridge)
        .allow_egress((prefix("10.5.0.0/24"), PortSelector::tcp(80)))
        .allow_egress((prefix("fd05::/64"), PortSelector::tcp(80)));
    let sandbox = Sandbox::builder().network(network).build().unwrap();
    let child = sandbox.command("/bin/sleep").arg("1000").spawn().unwrap();
    let inside = Netns::open(Ns::<kind::Net>::of_pidfd(child.pidfd()).unwrap()).unwrap();
    let free = port.addresses()[0];
    assert!(reaches(&inside, free, 80), "what is allowed");
    assert!(!reaches(&inside, free, 81), "what is not");
}
