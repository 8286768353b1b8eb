//! A user-mode network. In the test machine `/dev/net/tun` is open to ordinary users, too.
#![cfg(feature = "net")]
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use nix::mount::MsFlags;
use nix::sched::{CloneFlags, unshare};
use palisade::net::nft::Protocol;
use palisade::net::{Bridge, BridgeSpec, IfName, IpPrefix, LinkSettings, Netns, Route};
use palisade::ns::{Ns, kind};
use palisade::{Child, ErrorKind, Network, Sandbox, SandboxBuilder, Step, UserModeProgram};
use palisade_testkit::{can_unshare_user, fork, in_child, skip, temp_dir, wait_until};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_secs(2);

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

/// Echoes datagrams until the process ends.
fn serve_udp(ns: &Netns, port: u16) {
    let socket = ns.run(|| UdpSocket::bind(("::", port))).unwrap().unwrap();
    thread::spawn(move || {
        let mut buf = [0; 512];
        while let Ok((len, peer)) = socket.recv_from(&mut buf) {
            drop(socket.send_to(&buf[..len], peer));
        }
    });
}

/// Whether what listens there says something.
fn answers_tcp(from: &Netns, to: &str) -> bool {
    let to: SocketAddr = to.parse().unwrap();
    let Ok(mut stream) = from.run(|| TcpStream::connect_timeout(&to, SHORT)).unwrap() else { return false };
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.read_to_string(&mut String::new()).is_ok_and(|len| len > 0)
}

fn answers_udp(from: &Netns, to: &str) -> bool {
    let to: SocketAddr = to.parse().unwrap();
    let socket = from.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    socket.set_read_timeout(Some(SHORT)).unwrap();
    socket.connect(to).is_ok() && socket.send(b"ping").is_ok() && socket.recv(&mut [0; 16]).is_ok()
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

/// In a process and a network of its own, whose ways out lead to an outside at 192.0.2.9 and fd99::9; it has 192.0.2.1 and
/// fd99::1 itself. The host's resolver is the outside.
fn in_own_network(body: impl FnOnce(&Netns, &Netns)) {
    in_child(|| {
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        let own = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
        if uid.is_root() {
            unshare(own).unwrap();
        } else {
            unshare(CloneFlags::CLONE_NEWUSER | own).unwrap();
            for (file, text) in [
                ("setgroups", "deny".to_owned()),
                ("uid_map", format!("0 {uid} 1")),
                ("gid_map", format!("0 {gid} 1")),
            ] {
                std::fs::write(format!("/proc/self/{file}"), text).unwrap();
            }
        }
        let mount = |source, target, flags| {
            nix::mount::mount(source, target, None::<&str>, flags, None::<&str>).unwrap();
        };
        mount(None, "/", MsFlags::MS_REC | MsFlags::MS_PRIVATE);
        let dir = temp_dir();
        let resolver = dir.path().join("resolv.conf");
        std::fs::write(&resolver, "nameserver 192.0.2.9\nnameserver fd99::9\n").unwrap();
        mount(Some(resolver.as_path()), "/etc/resolv.conf", MsFlags::MS_BIND);
        let (own, outside) = (Netns::current().unwrap(), Netns::create().unwrap());
        own.add_veth(&name("up0"), &outside, &name("eth0")).unwrap();
        for (ns, link, n) in [(&own, "up0", 1u8), (&outside, "eth0", 9)] {
            up(ns, "lo");
            for network in [[192, 0, 2, n], [169, 254, 169, n]] {
                ns.add_address(&name(link), network, 24).unwrap();
            }
            ns.add_address(&name(link), [0xfd99, 0, 0, 0, 0, 0, 0, u16::from(n)], 64).unwrap();
            up(ns, link);
        }
        own.wait_ready(&name("up0"), LONG).unwrap();
        outside.wait_ready(&name("eth0"), LONG).unwrap();
        let gateways = [IpAddr::from([192, 0, 2, 9]), IpAddr::from([0xfd99, 0, 0, 0, 0, 0, 0, 9])];
        gateways.iter().for_each(|gateway| own.add_route(&Route::default_via(*gateway)).unwrap());
        body(&own, &outside);
    });
}

/// The programs for user-mode networks that are here: the host's own, and newer pastas that `./check tools` unpacks.
fn programs() -> Vec<UserModeProgram> {
    let installed =
        |program: &UserModeProgram| with(Network::user_mode_with(program.clone())).build().is_ok();
    let made = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let newer = ["pasta-trixie", "pasta-trixie-backports"].map(|dir| made.join(dir).join("pasta"));
    [UserModeProgram::slirp4netns(), UserModeProgram::pasta()]
        .into_iter()
        .chain(newer.into_iter().map(|path| UserModeProgram::pasta().at(path)))
        .filter(installed)
        .collect()
}

/// Runs `body` for each program, in a network of its own; or checks what is said where it can't work.
fn with_each_program(programs: &[UserModeProgram], body: impl Fn(&UserModeProgram, &Netns, &Netns)) {
    if programs.is_empty() {
        skip!("neither pasta nor slirp4netns is installed");
    }
    if let Err(error) = File::options().read(true).write(true).open("/dev/net/tun") {
        for program in programs {
            // It says so itself, and nothing runs without the network that was asked for.
            in_own_network(|_, _| {
                let sandbox = with(Network::user_mode_with(program.clone())).build().unwrap();
                let failed = sandbox.command("/bin/true").spawn().unwrap_err();
                assert_eq!((failed.kind(), failed.step()), (ErrorKind::Setup, Step::Network), "{failed}");
                assert!(failed.hint().is_some_and(|hint| hint.contains("/dev/net/tun")), "{failed}");
            });
        }
        skip!("no /dev/net/tun for this user: {error}");
    }
    for program in programs {
        println!("{program:?}");
        in_own_network(|own, outside| body(program, own, outside));
    }
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
    with_each_program(&programs(), |program, own, outside| {
        for ns in [own, outside] {
            serve_tcp(ns, 80);
        }
        let user_mode = || Network::user_mode_with(program.clone());
        // An address of IPv6 takes a moment where it is found by slirp4netns' own announcements.
        let run = |network, open: &str, shut: &str| {
            let script = format!(
                "for to in {open}; do for n in {{1..100}}; do exec 3<>/dev/tcp/$to && break; sleep 0.1; done 2>/dev/null; \
                 cat <&3 && echo; done; for to in {shut}; do \
                 timeout 0.4 bash -c \"exec 3<>/dev/tcp/$to\" 2>/dev/null || echo shut; done; cat /etc/resolv.conf"
            );
            bash(with(network), &script)
        };
        let (world, host) = ("192.0.2.9/80 fd99::9/80", "192.0.2.1/80 fd99::1/80");
        let closed = "10.0.2.2/80 fd00::2/80 169.254.169.9/80";
        let resolvers = "nameserver 10.0.2.3\nnameserver fd00::3";
        // By default everything outside, but neither the host's own services nor where clouds keep credentials.
        let out = run(user_mode(), world, &format!("{host} {closed}"));
        assert_eq!(out, format!("192.0.2.1\nfd99::1\n{}{resolvers}", "shut\n".repeat(5)));
        // What is allowed by name is allowed, the host's own address too.
        let network = user_mode().allow_egress(prefix("192.0.2.0/24")).nameserver([192, 0, 2, 53]);
        let out = run(network, "192.0.2.9/80 192.0.2.1/80", &format!("fd99::9/80 {closed}"));
        assert_eq!(out, format!("192.0.2.1\n192.0.2.1\n{}nameserver 192.0.2.53", "shut\n".repeat(4)));
        let out = run(user_mode().deny_egress(), "", world);
        assert_eq!(out, format!("shut\nshut\n{resolvers}"));
    });
}

#[test]
fn the_hosts_resolver_answers_in_a_user_mode_network() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    with_each_program(&programs(), |program, _, outside| {
        serve_udp(outside, 53);
        let ask =
            "exec 3<>/dev/udp/10.0.2.3/53; echo question >&3; timeout 10 dd bs=512 count=1 <&3 2>/dev/null";
        assert_eq!(bash(with(Network::user_mode_with(program.clone())), ask), "question");
    });
}

fn end(child: &mut Child) {
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success());
}

#[test]
fn a_user_mode_networks_helper_ends_with_payload_and_host_program() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    with_each_program(&programs(), |program, _, _| {
        let sandbox = with(Network::user_mode_with(program.clone())).build().unwrap();
        let child = sandbox.command("/bin/sleep").arg("1000").spawn().unwrap();
        let pid = child.id();
        assert_eq!(helpers(pid), 1);
        drop(child);
        assert!(wait_until(LONG, || helpers(pid) == 0));
        // A child that was waited for has no helper when it is dropped.
        let mut child = sandbox.command("/bin/sleep").arg("1000").spawn().unwrap();
        end(&mut child);
        let pid = child.id();
        drop(child);
        assert_eq!(helpers(pid), 0);
        // A payload that ends by itself takes it along before it is waited for.
        let mut child = sandbox.command("/bin/sleep").arg("0.2").spawn().unwrap();
        assert!(wait_until(LONG, || helpers(child.id()) == 0));
        assert!(child.wait().unwrap().success());
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
fn ports_are_published_by_pasta_at_the_addresses_that_were_named() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    let mut all = programs();
    all.retain(|program| *program != UserModeProgram::slirp4netns());
    with_each_program(&all, |program, own, outside| {
        let at_loopback = Network::user_mode_with(program.clone())
            .publish(Protocol::TCP, 8080, 80)
            .publish_at([0, 0, 0, 0, 0, 0, 0, 1], Protocol::TCP, 8082, 80)
            .deny_egress();
        let everywhere = at_loopback
            .clone()
            .publish_at([192, 0, 2, 1], Protocol::TCP, 8081, 80)
            .publish(Protocol::UDP, 5353, 53)
            .publish_at([192, 0, 2, 1], Protocol::UDP, 5354, 53);
        let spawn = |network: &Network| {
            let sandbox = with(network.clone()).build().unwrap();
            let child = sandbox.command("/bin/sleep").arg("1000").spawn()?;
            let inside = Netns::open(Ns::<kind::Net>::of_pidfd(child.pidfd()).unwrap()).unwrap();
            serve_tcp(&inside, 80);
            serve_udp(&inside, 53);
            Ok::<_, palisade::Error>(child)
        };
        let reach = |from: &Netns| {
            let tcp = ["127.0.0.1:8080", "192.0.2.1:8080", "192.0.2.1:8081", "127.0.0.1:8081", "[::1]:8082"];
            let udp = ["127.0.0.1:5353", "192.0.2.1:5353", "192.0.2.1:5354"];
            let tcp = tcp.iter().filter(|to| answers_tcp(from, to)).copied();
            tcp.chain(udp.iter().filter(|to| answers_udp(from, to)).copied()).collect::<Vec<_>>()
        };
        let (network, of_own, of_outside) = match spawn(&everywhere) {
            Ok(mut child) => {
                end(&mut child);
                drop(child);
                let of_own = vec![
                    "127.0.0.1:8080",
                    "192.0.2.1:8081",
                    "[::1]:8082",
                    "127.0.0.1:5353",
                    "192.0.2.1:5354",
                ];
                (everywhere, of_own, vec!["192.0.2.1:8081", "192.0.2.1:5354"])
            }
            // What this version is known not to carry is refused, not lost.
            Err(error) => {
                assert_eq!((error.kind(), error.step()), (ErrorKind::Setup, Step::Network), "{error}");
                let told = ["before 2024", "newer passt"].map(|part| error.to_string().contains(part));
                assert_eq!(told, [true; 2], "{error}");
                (at_loopback, vec!["127.0.0.1:8080", "[::1]:8082"], vec![])
            }
        };
        let mut child = spawn(&network).unwrap();
        assert_eq!(reach(own), of_own);
        assert_eq!(reach(outside), of_outside);
        // A port that is taken is an error, and nothing runs.
        let taken = spawn(&network).unwrap_err();
        assert_eq!((taken.kind(), taken.step()), (ErrorKind::Setup, Step::Network), "{taken}");
        assert!(taken.hint().is_some_and(|hint| hint.contains("published port")), "{taken}");
        // When a child was waited for and dropped, its ports are free.
        end(&mut child);
        drop(child);
        let mut again = spawn(&network).unwrap();
        assert_eq!(reach(own), of_own);
        end(&mut again);
        drop(again);
        assert!(reach(own).is_empty());
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
