//! A user-mode network. In the test machine `/dev/net/tun` is open to ordinary users, too.
#![cfg(feature = "net")]
#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use palisade::net::nft::Protocol;
use palisade::net::{Bridge, BridgeSpec, IfName, IpPrefix, LinkSettings, Netns};
use palisade::{ErrorKind, Moment, Network, Sandbox, SandboxBuilder, State, Subject};
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

/// Answers each TCP connection with the address of the client, until the process ends.
fn serve_tcp(ns: &Netns, port: u16) {
    let listener = ns.run(|| TcpListener::bind(("::", port))).unwrap().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let peer =
                stream.peer_addr().map(|peer| peer.ip().to_canonical().to_string()).unwrap_or_default();
            drop(stream.write_all(peer.as_bytes()));
        }
    });
}

/// Runs a line of bash in a sandbox and gives what it wrote; errors of it on the same stream.
fn bash(builder: SandboxBuilder, line: &str) -> String {
    let out = builder
        .build()
        .unwrap()
        .command("/bin/bash")
        .arg("-c")
        .arg(format!("exec 2>&1; {line}"))
        .output()
        .unwrap();
    String::from_utf8_lossy(&out.stdout).trim_end().to_owned()
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

/// Helpers that serve the payload `pid`.
fn helpers(pid: u32) -> usize {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = all.map(|entry| std::fs::read(entry.path().join("cmdline")).unwrap_or_default());
    let of = format!("/proc/{pid}/ns/net");
    lines.filter(|line| line.starts_with(b"/") && String::from_utf8_lossy(line).contains(&of)).count()
}

#[test]
fn a_user_mode_network_leaves_as_the_host_programs_own() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    in_own_network(|own, outside| {
        let network = Network::user_mode().allow_egress(prefix("192.0.2.0/24"));
        let sandbox = match with(network).build() {
            Ok(sandbox) => sandbox,
            Err(error) if error.to_string().contains("slirp4netns is not in PATH") => {
                assert!(error.hint().is_some_and(|hint| hint.contains("install")), "{error}");
                skip!("slirp4netns is not installed");
            }
            Err(error) => panic!("{error}"),
        };
        if let Err(error) = std::fs::File::options().read(true).write(true).open("/dev/net/tun") {
            // The helper says so, and nothing runs without the network that was asked for.
            let failed = sandbox.command("/bin/true").spawn().unwrap_err();
            assert_eq!(
                (failed.kind(), failed.step()),
                (ErrorKind::Setup, palisade::Step::Network),
                "{failed}"
            );
            assert!(failed.hint().is_some_and(|hint| hint.contains("/dev/net/tun")), "{failed}");
            skip!("no /dev/net/tun for this user: {error}");
        }
        for ns in [own, outside] {
            serve_tcp(ns, 80);
        }
        let run = |network, open: &str, shut: &str| {
            let script = format!(
                "for to in {open}; do cat </dev/tcp/$to && echo; done; for to in {shut}; do \
                 timeout 0.4 bash -c \"exec 3<>/dev/tcp/$to\" 2>/dev/null || echo shut; done; cat /etc/resolv.conf"
            );
            bash(with(network), &script)
        };
        let (world, host, gateway, cloud) =
            ("192.0.2.9/80", "192.0.2.1/80", "10.0.2.2/80", "169.254.169.9/80");
        // By default everything outside, but neither the host's own services nor where clouds keep credentials.
        let out = run(Network::user_mode(), world, &format!("{host} {gateway} {cloud}"));
        assert_eq!(out, "192.0.2.1\nshut\nshut\nshut\nnameserver 10.0.2.3");
        // What is allowed by name is allowed, the host's own address too.
        let network = Network::user_mode().allow_egress(prefix("192.0.2.0/24")).nameserver([192, 0, 2, 53]);
        let out = run(network, &format!("{world} {host}"), &format!("{gateway} {cloud}"));
        assert_eq!(out, "192.0.2.1\n192.0.2.1\nshut\nshut\nnameserver 192.0.2.53");
        assert_eq!(run(Network::user_mode().deny_egress(), "", world), "shut\nnameserver 10.0.2.3");
        // Its helper ends with the sandbox.
        let child = sandbox.command("/bin/sleep").arg("1000").spawn().unwrap();
        let pid = child.id();
        assert_eq!(helpers(pid), 1);
        // The report was read in its namespace, with and without privileges.
        for subject in [Subject::Network, Subject::Egress] {
            let state = child.enforced().get(&subject).unwrap().state();
            assert_eq!(*state, State::Verified(Moment::BeforeExec), "{}", child.enforced());
        }
        let mut plan = sandbox.command("/bin/true").plan().unwrap();
        plan.leave_out_egress_rules();
        let error = plan.spawn().unwrap_err();
        assert_eq!((error.kind(), error.object()), (ErrorKind::NotEnforced, Some("egress")), "{error}");
        drop(child);
        assert!(wait_until(LONG, || helpers(pid) == 0));
        // And with the host program, whatever ends that.
        let mut host = fork(|mut told| {
            let child = sandbox.command("/bin/sleep").arg("1000").spawn().unwrap();
            write!(told, "{}", child.id()).unwrap();
            drop(told);
            thread::sleep(LONG);
            0
        })
        .unwrap();
        let mut pid = String::new();
        host.pipe().read_to_string(&mut pid).unwrap();
        let pid: u32 = pid.parse().unwrap();
        assert_eq!(helpers(pid), 1);
        drop(host); // killed
        assert!(wait_until(LONG, || helpers(pid) == 0), "the helper");
        assert!(wait_until(LONG, || !std::path::Path::new(&format!("/proc/{pid}")).exists()), "the payload");
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
