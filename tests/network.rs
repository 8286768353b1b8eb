//! Networks of sandboxes: each mode, on a machine of network namespaces that the test makes.
#![cfg(feature = "net")]
#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::Duration;

use palisade::creds::{Capability, CapabilitySet, ThreadCapabilities};
use palisade::enforced::{Moment, State, Subject};
use palisade::net::nft::{Changes, DataType, Family, Map, MapType, MapValue, Protocol};
use palisade::net::policy::{IpBlock, Peer, PolicyRule, PortSelector};
use palisade::net::{Bridge, BridgeSpec, IfName, IpPrefix, LinkSettings, Netns, Route};
use palisade::ns::{AnyNs, Namespace, Ns, kind};
use palisade::{Child, ErrorKind, Lifetime, Network, Sandbox, SandboxBuilder, Stdio, Step, UserModeProgram};
use palisade_testkit::{can_unshare_user, is_root, skip, temp_dir, wait_until};

const LONG: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_millis(300);

fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

fn prefix(text: &str) -> IpPrefix {
    text.parse().unwrap()
}

fn up(ns: &Netns, link: &str) {
    ns.set_link(&name(link), &LinkSettings::new().up()).unwrap();
}

/// A namespace that carries a bridge, with an outside server at 192.0.2.9 and fd99::9 that knows no way back.
fn carrier() -> (Bridge, Netns) {
    let (carrier, outside) = (Netns::create().unwrap(), Netns::create().unwrap());
    carrier.add_veth(&name("up0"), &outside, &name("eth0")).unwrap();
    for (ns, link, n) in [(&carrier, "up0", 1u8), (&outside, "eth0", 9)] {
        up(ns, "lo");
        ns.add_address(&name(link), [192, 0, 2, n], 24).unwrap();
        ns.add_address(&name(link), [0xfd99, 0, 0, 0, 0, 0, 0, u16::from(n)], 64).unwrap();
        up(ns, link);
    }
    let spec = BridgeSpec::new(name("br0")).network(prefix("10.5.0.0/24")).network(prefix("fd05::/64"));
    let bridge = Bridge::create(carrier, &spec).unwrap();
    bridge.netns().wait_ready(&name("up0"), LONG).unwrap();
    outside.wait_ready(&name("eth0"), LONG).unwrap();
    (bridge, outside)
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

fn tcp(ns: &Netns, to: &str, timeout: Duration) -> std::io::Result<String> {
    let to: SocketAddr = to.parse().unwrap();
    let mut stream = ns.run(|| TcpStream::connect_timeout(&to, timeout)).unwrap()?;
    stream.set_read_timeout(Some(LONG))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn udp(ns: &Netns, to: &str, timeout: Duration) -> std::io::Result<()> {
    let to: SocketAddr = to.parse().unwrap();
    let socket = ns.run(|| UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })).unwrap()?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.send(b"ping")?;
    socket.recv(&mut [0; 16]).map(drop)
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

/// A payload that stays, and its network.
fn stay(builder: SandboxBuilder) -> (Child, Netns) {
    let child = builder.build().unwrap().command("/bin/sleep").arg("1000").spawn().unwrap();
    let ns = Netns::open(Ns::<kind::Net>::of_pidfd(child.pidfd()).unwrap()).unwrap();
    (child, ns)
}

#[test]
fn the_modes_without_a_way_out() {
    let links = "cd /sys/class/net 2>/dev/null && echo *; cut -d: -f1 /proc/net/dev | tail -n +3";
    let listen = |builder: SandboxBuilder| bash(builder, "exec 3<>/dev/tcp/127.0.0.1/1 || echo closed");
    assert_eq!(bash(with(Network::none()), links).trim(), "lo");
    assert_eq!(bash(with(Network::loopback()), links).trim(), "lo");
    assert!(listen(with(Network::none())).contains("unreachable"), "no loopback");
    assert!(listen(with(Network::loopback())).contains("refused"), "a loopback where nobody listens");
    let inode = |builder| bash(builder, "readlink /proc/self/ns/net");
    let own = AnyNs::current(Namespace::Net).unwrap().to_string();
    assert_eq!(inode(with(Network::host())), own);
    assert_ne!(inode(with(Network::loopback())), own);
    // The host's resolver comes with the host's network only.
    let resolver = |builder| bash(builder, "test -e /etc/resolv.conf && echo there");
    assert_eq!(resolver(with(Network::loopback())), "");
    assert_eq!(resolver(with(Network::host())) == "there", std::path::Path::new("/etc/resolv.conf").exists());
}

#[test]
fn names_are_resolved_inside() {
    let network = Network::loopback()
        .add_host("db.shop", [10, 0, 0, 7])
        .add_host("db6", [0xfd00, 0, 0, 0, 0, 0, 0, 7])
        .nameserver([10, 0, 0, 53])
        .nameserver([0xfd00, 0, 0, 0, 0, 0, 0, 53]);
    let out = bash(
        with(network.clone()),
        "getent ahosts db.shop | head -1; getent ahosts db6 | head -1; cat /etc/resolv.conf; getent ahosts localhost | head -1",
    );
    let words: Vec<&str> =
        out.lines().map(|line| line.split_whitespace().next().unwrap_or_default()).collect();
    assert_eq!(words[..2], ["10.0.0.7", "fd00::7"], "{out}");
    assert!(out.contains("nameserver 10.0.0.53\nnameserver fd00::35\n"), "{out}");
    assert!(["::1", "127.0.0.1"].contains(&words[4]), "{out}");
    // In a root of one's own, over the files that are there.
    let dir = temp_dir();
    for made in ["etc", "usr", "proc", "dev", "tmp"] {
        std::fs::create_dir(dir.path().join(made)).unwrap();
    }
    for link in ["bin", "lib", "lib64"] {
        std::os::unix::fs::symlink(format!("usr/{link}"), dir.path().join(link)).unwrap();
    }
    let own = |network| Sandbox::builder().rootfs(dir.path()).bind_ro("/usr", "/usr").network(network);
    let error = own(network.clone()).build().and_then(|s| s.command("/bin/true").spawn()).unwrap_err();
    assert!(error.to_string().contains("/etc/hosts"), "{error}");
    for file in ["hosts", "resolv.conf"] {
        std::fs::write(dir.path().join("etc").join(file), "the image's").unwrap();
    }
    assert_eq!(bash(own(network), "cat /etc/hosts /etc/resolv.conf").matches("db.shop").count(), 1);
    assert_eq!(bash(own(Network::loopback()), "cat /etc/hosts"), "the image's");
}

#[test]
fn conflicts_are_told_together() {
    let network = Network::loopback()
        .publish(Protocol::TCP, 80, 80)
        .address([10, 0, 0, 1])
        .deny_egress()
        .add_host("a b", [1, 1, 1, 1]);
    let error = with(network).share(Namespace::Net).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidSpec);
    let text = error.to_string();
    for part in [
        "publish has no meaning",
        "address has no meaning",
        "allow_egress has no meaning",
        "host \"a b\"",
        "share() took away",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let pod = palisade::Pod::new(Namespace::Net);
    if let Ok(pod) = pod {
        let error =
            Sandbox::builder().pod(&pod).network(Network::loopback()).build().unwrap_err().to_string();
        assert!(error.contains("the pod has a network"), "{error}");
    }
    let nameservers = (1..5).fold(Network::host(), |network, n| network.nameserver([10, 0, 0, n]));
    let error = with(nameservers)
        .namespaces(palisade::ns::Namespaces::ALL.without(Namespace::Time))
        .build()
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("4 name servers: at most 3")
            && error.contains("asked later for a new network namespace"),
        "{error}"
    );
}

#[test]
fn conflicts_of_user_mode_networks() {
    let told = |network: Network, parts: &[&str]| {
        let error = with(network).build().unwrap_err();
        for part in parts {
            assert!(error.to_string().contains(part), "{part}: {error}");
        }
        error.kind()
    };
    let network = Network::user_mode_with(UserModeProgram::pasta().at("bin/pasta"))
        .publish(Protocol::TCP, 0, 80)
        .publish(Protocol::SCTP, 81, 80)
        .publish(Protocol::TCP, 82, 80)
        .publish(Protocol::TCP, 82, 81)
        .interface(name("eth1"));
    let parts = [
        "absolute",
        "ports are 1 to 65535",
        "publish 81: sctp",
        "the same tcp port twice",
        "interface has no meaning",
    ];
    assert_eq!(told(network, &parts), ErrorKind::InvalidSpec);
    let slirp = Network::user_mode_with(UserModeProgram::slirp4netns()).publish(Protocol::TCP, 8080, 80);
    assert_eq!(told(slirp, &["no published ports", "UserModeProgram::pasta"]), ErrorKind::InvalidSpec);
    let missing = Network::user_mode_with(UserModeProgram::pasta().at("/nowhere/pasta"));
    assert_eq!(told(missing, &["/nowhere/pasta", "correct the path"]), ErrorKind::Setup);
}

/// A file that can be executed, with these lines of shell.
fn script(dir: &std::path::Path, lines: &str) -> UserModeProgram {
    let path = dir.join("pasta");
    std::fs::write(&path, format!("#!/bin/sh\n{lines}\n")).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    UserModeProgram::pasta().at(path)
}

/// A process that does nothing more until it is killed; a word after it tells it from others.
const STOP: &str = "exec /bin/sh -c 'kill -STOP $$; :'";

/// Processes whose command line names something in this directory.
fn left_of(dir: &std::path::Path) -> usize {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = all.map(|entry| std::fs::read(entry.path().join("cmdline")).unwrap_or_default());
    lines.filter(|line| String::from_utf8_lossy(line).contains(&*dir.to_string_lossy())).count()
}

#[test]
fn a_user_mode_program_that_hangs_or_fails_is_an_error() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    let dir = temp_dir();
    let ran = dir.path().join("ran");
    let spawn = |lines: &str, limit: Duration| {
        let network = Network::user_mode_with(script(dir.path(), lines));
        let sandbox = with(network).setup_timeout(limit).build().unwrap();
        let error = sandbox.command("/bin/true").spawn().unwrap_err();
        assert!(wait_until(LONG, || left_of(dir.path()) == 0), "{lines}");
        error
    };
    let minute = Duration::from_secs(60);
    // Ended by the caller's clock, or by ours, which says what hangs.
    let hang = format!("touch {}; {STOP} {}", ran.display(), dir.path().display());
    let error = spawn(&hang, Duration::from_secs(1));
    assert_eq!((error.kind(), error.step()), (ErrorKind::SetupTimeout, Step::Network), "{error}");
    assert!(ran.exists());
    let error = spawn(&hang, minute);
    assert_eq!((error.kind(), error.step()), (ErrorKind::Setup, Step::Network), "{error}");
    assert!(
        error.object().unwrap().ends_with("/pasta") && error.to_string().contains("did not say"),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("user_mode_with"), "{error}");
    // What it says is passed on, as far as it goes; a flood of it holds nobody up.
    let error = spawn("echo the last words >&2; exit 1", minute);
    assert!(error.to_string().contains("the last words"), "{error}");
    let error = spawn("yes 2>/dev/null | head -c 1000000 >&2; exit 1", minute);
    assert!(error.to_string().contains(": y"), "{error}");
    let error = spawn("exit 0", minute);
    assert!(error.to_string().contains("without a word"), "{error}");
    let error = spawn("kill -9 $$", minute);
    assert!(error.to_string().contains("without a word"), "{error}");
}

#[test]
fn a_user_mode_program_has_nothing_of_the_host_program() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    let dir = temp_dir();
    let told = dir.path().join("told");
    // Standard streams, and nothing else but what the shell itself opens; no signal is ignored.
    let lines = format!(
        "exec 3>&1 >{}; ls -l /proc/$$/fd; env; grep SigIgn /proc/self/status; pwd; echo 1 >&3; {STOP} {}",
        told.display(),
        dir.path().display()
    );
    let network = Network::user_mode_with(script(dir.path(), &lines));
    // It says that it is ready and has made no interface, which is seen; and is kept for what follows.
    let error = with(network.clone()).build().unwrap().command("/bin/true").spawn().unwrap_err();
    assert_eq!((error.kind(), error.object()), (ErrorKind::NotEnforced, Some("network")), "{error}");
    let child =
        with(network).verify(false).build().unwrap().command("/bin/sleep").arg("1000").spawn().unwrap();
    let said = std::fs::read_to_string(&told).unwrap();
    let open = said.lines().filter_map(|line| line.split_once(" -> "));
    let open: Vec<&str> = open.map(|(_, to)| to).filter(|to| !to.ends_with("/pasta")).collect();
    assert_eq!(open.len(), 4, "0, 1 twice, and 2: {said}");
    assert!(said.contains("SigIgn:\t0000000000000000\n/\n"), "{said}");
    let variables = said.lines().filter(|line| line.contains('=') && !line.starts_with("PWD=")).count();
    assert!(variables <= 2, "the shell's own: {said}");
    drop(child);
    assert!(wait_until(LONG, || left_of(dir.path()) == 0));
}

#[test]
fn a_payload_joins_the_network_of_another() {
    if !is_root() {
        skip!("needs root: a joined namespace is another's", needs = "root");
    }
    let (donor, inside) = stay(with(Network::loopback()));
    serve_tcp(&inside, 4000);
    let join = || with(Network::join(Ns::<kind::Net>::of_pidfd(donor.pidfd()).unwrap()));
    let there = AnyNs::of_pidfd(donor.pidfd(), Namespace::Net).unwrap().to_string();
    let out = bash(join(), "readlink /proc/self/ns/net; cat </dev/tcp/127.0.0.1/4000");
    assert_eq!(out, format!("{there}\n127.0.0.1"));
    // Others on the same threads are where they were.
    assert_eq!(
        bash(with(Network::host()), "readlink /proc/self/ns/net"),
        AnyNs::current(Namespace::Net).unwrap().to_string()
    );
}

#[test]
fn a_bridge_gives_addresses_a_way_out_and_published_ports() {
    if !is_root() {
        skip!("needs root: a bridge", needs = "root");
    }
    let (bridge, outside) = carrier();
    serve_tcp(&outside, 80);
    serve_tcp(bridge.netns(), 22);
    let network = Network::bridge(&bridge).publish(Protocol::TCP, 8080, 80).publish(Protocol::UDP, 5353, 53);
    let (web, inside) = stay(with(network.clone()));
    let port = web.port().unwrap();
    assert_eq!(port.addresses(), ["10.5.0.2".parse::<IpAddr>().unwrap(), "fd05::2".parse().unwrap()]);
    serve_tcp(&inside, 80);
    serve_udp(&inside, 53);
    // From outside through the published ports, both families and protocols; and nothing else.
    assert_eq!(tcp(&outside, "192.0.2.1:8080", LONG).unwrap(), "192.0.2.9");
    assert_eq!(tcp(&outside, "[fd99::1]:8080", LONG).unwrap(), "fd99::9");
    udp(&outside, "192.0.2.1:5353", LONG).unwrap();
    assert!(tcp(&outside, "192.0.2.1:80", SHORT).is_err());
    // A second payload reaches the first, itself unnamed to the world, and the world as the carrier; never the carrier.
    let second = Network::bridge(&bridge)
        .address([10, 5, 0, 77])
        .add_host("web", port.addresses()[0])
        .interface(name("net0"));
    let script = "exec 2>&1; for to in web/80 192.0.2.9/80 fd99::9/80; do cat </dev/tcp/$to; echo; done
        (exec 3<>/dev/tcp/10.5.0.1/22) & sleep 0.3; kill $! && echo silence; echo /proc/sys/net/ipv4/conf/net0";
    let out = bash(with(second), script);
    assert_eq!(out, "10.5.0.77\n192.0.2.1\nfd99::1\nsilence\n/proc/sys/net/ipv4/conf/net0", "{out}");
    // An own, unprivileged ping, and ports below 1024.
    assert_eq!(inside.sysctl("net.ipv4.ping_group_range").unwrap(), "0\t2147483647");
    assert_eq!(inside.sysctl("net.ipv4.ip_unprivileged_port_start").unwrap(), "0");
    // A port is published once, at a spawn as well.
    let error = with(network.clone()).build().unwrap().command("/bin/true").spawn().unwrap_err();
    assert_eq!((error.kind(), error.step()), (ErrorKind::Setup, Step::Network), "{error}");
    // What is dropped leaves the bridge: its place is free again, and its port closed.
    drop((web, inside));
    let links = || bridge.netns().links().unwrap().len();
    assert!(wait_until(LONG, || links() == 3), "lo, up0, br0: {:?}", bridge.netns().links());
    assert!(tcp(&outside, "192.0.2.1:8080", SHORT).is_err());
    assert!(wait_until(LONG, || with(network.clone())
        .build()
        .unwrap()
        .command("/bin/true")
        .output()
        .is_ok()));
    let (again, _) = stay(with(network));
    assert_eq!(again.port().unwrap().addresses()[0].to_string(), "10.5.0.2");
}

#[test]
fn egress_is_what_is_allowed_and_nothing_else() {
    if !is_root() {
        skip!("needs root: a bridge", needs = "root");
    }
    let (bridge, outside) = carrier();
    for port in [80, 443, 5432] {
        serve_tcp(&outside, port);
    }
    serve_udp(&outside, 53);
    let (neighbour, beside) = stay(with(Network::bridge(&bridge)));
    serve_tcp(&beside, 80);
    let world = PolicyRule::everything()
        .peer(Peer::Block(IpBlock::new(prefix("192.0.2.0/24"), [prefix("192.0.2.128/25")]).unwrap()))
        .port(PortSelector::tcp(443));
    let network = Network::bridge(&bridge)
        .publish(Protocol::TCP, 8080, 80)
        .allow_egress(world)
        .allow_egress((prefix("192.0.2.9/32"), PortSelector::udp(53)))
        .allow_egress((prefix("fd99::/64"), PortSelector::tcp(5432)));
    let (child, inside) = stay(with(network.clone()));
    serve_tcp(&inside, 80);
    let allowed = ["192.0.2.9:443", "[fd99::9]:5432"];
    let denied =
        ["192.0.2.9:80", "[fd99::9]:80", "[fd99::9]:443", "192.0.2.9:5432", "10.5.0.2:80", "[fd05::2]:80"];
    for to in allowed {
        assert!(tcp(&inside, to, LONG).is_ok(), "{to}");
    }
    for to in denied {
        let error = tcp(&inside, to, SHORT).unwrap_err();
        assert!(
            [std::io::ErrorKind::TimedOut, std::io::ErrorKind::PermissionDenied].contains(&error.kind()),
            "{to}: {error}"
        );
    }
    udp(&inside, "192.0.2.9:53", LONG).unwrap();
    assert!(
        udp(&inside, "[fd99::9]:53", SHORT).is_err(),
        "the twin of the other family is not allowed with it"
    );
    // Answers to who came in are no egress.
    assert_eq!(tcp(&outside, "192.0.2.1:8080", LONG).unwrap(), "192.0.2.9");
    assert!(tcp(&beside, "10.5.0.3:80", LONG).is_ok());
    // The payload sees the same from its first instruction on, and has no say in it.
    let out = bash(
        with(Network::bridge(&bridge).deny_egress()),
        "for to in 192.0.2.9/443 fd99::9/443 10.5.0.2/80; do (exec 3<>/dev/tcp/$to) & sleep 0.2; kill $! && echo silence; done;
         cat </dev/tcp/127.0.0.1/9 2>&1 | grep -o refused; unshare -U true 2>&1 | grep -c -i 'not permitted'",
    );
    assert_eq!(out.matches("silence").count(), 3, "{out}");
    // A payload that could get around it is a conflict, with the name of what it could do it with.
    let raw = CapabilitySet::EMPTY.with(Capability::NetRaw);
    let error = with(network.clone()).capabilities(raw).build().unwrap_err().to_string();
    assert!(error.contains("CAP_NET_RAW could go around"), "{error}");
    // Nor one that only could gain it, by a program that may raise what its bounding set holds.
    let sets = ThreadCapabilities { bounding: raw, ..ThreadCapabilities::default() };
    let error = with(network.clone()).capability_sets(sets).build().unwrap_err().to_string();
    assert!(error.contains("CAP_NET_RAW could go around"), "{error}");
    let error = with(network).lifetime(Lifetime::Detached).build().unwrap_err().to_string();
    assert!(error.contains("a bridge's rules end with the host program"), "{error}");
    drop((child, neighbour));
}

/// A86: abstract Unix sockets belong to a network namespace. A88: neither the carrier nor what clouds keep at
/// 169.254.169.254. A89: another's address, router advertisements, a routed loopback.
#[test]
fn attacks_from_a_bridged_payload() {
    if !is_root() {
        skip!("needs root: a bridge", needs = "root");
    }
    let (bridge, outside) = carrier();
    let carrier = bridge.netns();
    let (_victim, beside) = stay(with(Network::bridge(&bridge)));
    let (_child, inside) = stay(with(Network::bridge(&bridge)));
    serve_tcp(&beside, 80);

    let abstract_name = format!("palisade-a86-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&abstract_name).unwrap();
    let _listener = carrier.run(|| UnixListener::bind_addr(&address)).unwrap().unwrap();
    assert!(carrier.run(|| UnixStream::connect_addr(&address)).unwrap().is_ok());
    let refused = inside.run(|| UnixStream::connect_addr(&address)).unwrap().unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);

    serve_tcp(carrier, 22);
    serve_tcp(&outside, 80);
    outside.add_address(&name("eth0"), [169, 254, 169, 254], 16).unwrap();
    carrier.add_address(&name("up0"), [169, 254, 0, 1], 16).unwrap();
    assert!(tcp(carrier, "169.254.169.254:80", LONG).is_ok(), "it is there");
    for closed in ["169.254.169.254:80", "10.5.0.1:22", "192.0.2.1:22", "[fd05::1]:22", "[fd99::1]:22"] {
        assert!(tcp(&inside, closed, SHORT).is_err(), "{closed}");
    }

    // A payload with all power over its own namespace takes another address than its own.
    assert_eq!(tcp(&inside, "10.5.0.2:80", LONG).unwrap(), "10.5.0.3");
    let (eth0, own) = (name("eth0"), IpAddr::from([10, 5, 0, 3]));
    let speak_as = |addr: IpAddr, patience| {
        inside.add_address(&eth0, addr, 24).unwrap();
        inside.add_route(&Route::to(prefix("10.5.0.2/32")).dev(eth0.clone()).source(addr)).unwrap();
        let said = tcp(&inside, "10.5.0.2:80", patience);
        inside.delete_address(&eth0, addr, 24).unwrap();
        said
    };
    inside.delete_address(&eth0, own, 24).unwrap();
    for stolen in [[10, 5, 0, 66], [192, 0, 2, 9]] {
        assert!(speak_as(stolen.into(), SHORT).is_err(), "as {stolen:?}");
    }
    assert_eq!(speak_as(own, LONG).unwrap(), "10.5.0.3", "with its own it is heard");
    for (sysctl, wanted) in [
        ("net.ipv4.conf.all.route_localnet", "0"),
        ("net.ipv6.conf.all.accept_ra", "0"),
        ("net.ipv4.conf.all.send_redirects", "0"),
    ] {
        assert_eq!(carrier.sysctl(sysctl).unwrap(), wanted, "{sysctl}");
    }
}

/// The report has the network's rows, spawns fail where the rules are not in place, and a later look tells what was
/// changed since.
#[test]
fn the_report_tells_what_became_of_a_network() {
    if !is_root() {
        skip!("needs root: a bridge", needs = "root");
    }
    let (bridge, _outside) = carrier();
    let allowed = (prefix("10.0.0.0/8"), PortSelector::tcp(443));
    let network = Network::bridge(&bridge).publish(Protocol::TCP, 8080, 80).allow_egress(allowed);
    let sandbox = with(network).build().unwrap();
    let mut command = sandbox.command("/bin/sleep");
    command.arg("1000");
    let child = command.spawn().unwrap();
    let subjects = [Subject::Network, Subject::Port, Subject::Egress];
    for subject in &subjects {
        let row = child.enforced().get(subject).unwrap();
        assert_eq!(*row.state(), State::Verified(Moment::BeforeExec), "{}", child.enforced());
    }
    assert_eq!(child.enforced().get(&Subject::Egress).unwrap().asked(), "what 1 rules allow");
    let differs = |subject: &Subject| {
        let now = child.verify().unwrap();
        match now.get(subject).unwrap().state() {
            State::Differs { found, .. } => found.clone(),
            other => panic!("{subject}: {other}\n{now}"),
        }
    };
    let now = child.verify().unwrap();
    for subject in &subjects {
        assert_eq!(*now.get(subject).unwrap().state(), State::Verified(Moment::Later), "{now}");
    }
    // Not put in place: nothing runs.
    let shut = with(Network::bridge(&bridge).deny_egress()).build().unwrap();
    let mut plan = shut.command("/bin/true").plan().unwrap();
    plan.leave_out_egress_rules();
    let error = plan.spawn().unwrap_err();
    assert_eq!((error.kind(), error.object()), (ErrorKind::NotEnforced, Some("egress")), "{error}");
    assert!(error.to_string().contains("0 tables"), "{error}");
    // Changed from outside.
    let inside = Netns::open(Ns::<kind::Net>::of_pidfd(child.pidfd()).unwrap()).unwrap();
    inside.add_address(&name("eth0"), [10, 9, 9, 9], 32).unwrap();
    assert!(differs(&Subject::Network).contains("10.9.9.9"));
    inside.flush_ruleset().unwrap();
    assert!(differs(&Subject::Egress).contains("0 tables"));
    let table = bridge.netns().ruleset().unwrap().tables()[0].name().to_owned();
    let map = Map::new("tcp4", DataType::Port, MapType::Ipv4Endpoint);
    let published = map.element(8080u16, MapValue::Endpoint("10.5.0.2:80".parse().unwrap()));
    bridge.netns().change(&Changes::new(Family::Inet, table).remove_from_map(published)).unwrap();
    assert!(differs(&Subject::Port).contains("tcp4"));
}

#[test]
fn a_plan_shows_the_rules() {
    if !is_root() {
        skip!("needs root: a bridge", needs = "root");
    }
    let (bridge, _outside) = carrier();
    let network = Network::bridge(&bridge).allow_egress((prefix("10.0.0.0/8"), PortSelector::tcp(443)));
    let plan = with(network).build().unwrap().command("/bin/true").plan().unwrap().to_string();
    assert!(
        plan.contains("== host program: network")
            && plan.contains("ip daddr { 10.0.0.0/8 } tcp dport { 443 }"),
        "{plan}"
    );
}

#[test]
fn spawns_leave_nothing_on_the_bridge() {
    if !is_root() {
        skip!("needs root: a bridge", needs = "root");
    }
    let (bridge, _outside) = carrier();
    let sandbox = with(Network::bridge(&bridge).deny_egress()).build().unwrap();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for n in 0..5 {
                    let mut child = sandbox.command("/bin/true").stdout(Stdio::null()).spawn().unwrap();
                    if n % 2 == 0 {
                        assert!(child.wait().unwrap().success());
                    }
                }
            });
        }
    });
    assert!(wait_until(LONG, || bridge.netns().links().unwrap().len() == 3));
    let rules = bridge.netns().ruleset().unwrap().to_string();
    assert!(!rules.contains("br0p"), "{rules}");
}
