//! User-mode networks, by each program that is here, on a host that the test makes: a network namespace of its own with an
//! outside. In the test machine `/dev/net/tun` is open to ordinary users; elsewhere root gives the test's user one.
#![cfg(feature = "net")]
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use palisade::enforced::{Moment, State, Subject};
use palisade::net::nft::Protocol;
use palisade::net::{IfName, IpPrefix, LinkSettings, Netns, Route};
use palisade::{Child, ErrorKind, Network, Sandbox, SandboxBuilder, Stdio, Step, UserModeProgram};
use palisade_testkit::{can_unshare_user, fork, in_child, is_root, skip, temp_dir, wait_until};

#[path = "common/sys.rs"]
mod common;

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_secs(2);
/// An ordinary user, whom root becomes.
const USER: u32 = 59_000;

fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

fn prefix(text: &str) -> IpPrefix {
    text.parse().unwrap()
}

fn up(ns: &Netns, link: &str) {
    ns.set_link(&name(link), &LinkSettings::new().up()).unwrap();
}

/// In the calling thread's network and those that the process has made: answers each TCP connection to port 80 with the
/// address of the client and each datagram to port 53 with itself, until the process ends.
fn serve() {
    let listener = TcpListener::bind("[::]:80").unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let peer = stream.peer_addr().map(|peer| peer.ip().to_canonical().to_string());
            drop(stream.write_all(peer.unwrap_or_default().as_bytes()));
        }
    });
    let socket = UdpSocket::bind("[::]:53").unwrap();
    thread::spawn(move || {
        let mut buf = [0; 512];
        while let Ok((len, peer)) = socket.recv_from(&mut buf) {
            drop(socket.send_to(&buf[..len], peer));
        }
    });
}

/// Whether what listens there answers: `tcp 192.0.2.1:80`, `udp [::1]:53`.
fn answers(to: &str) -> bool {
    let (protocol, addr) = to.split_once(' ').unwrap();
    let addr: SocketAddr = addr.parse().unwrap();
    if protocol == "tcp" {
        let Ok(mut stream) = TcpStream::connect_timeout(&addr, SHORT) else { return false };
        stream.set_read_timeout(Some(LONG)).unwrap();
        return stream.read_to_string(&mut String::new()).is_ok_and(|len| len > 0);
    }
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(SHORT)).unwrap();
    socket.connect(addr).is_ok() && socket.send(b"ping").is_ok() && socket.recv(&mut [0; 16]).is_ok()
}

/// A thread outside that asks [`answers`].
struct Outside {
    ask: Sender<String>,
    told: Receiver<bool>,
}

impl Outside {
    fn new(ns: &Netns) -> Self {
        let ((ask, asked), (tell, told)) = (channel::<String>(), channel());
        let answer = || thread::spawn(move || asked.iter().try_for_each(|to| tell.send(answers(&to))));
        // A thread begins in the namespace of the one that starts it.
        ns.run(|| {
            serve();
            answer()
        })
        .unwrap();
        Self { ask, told }
    }

    fn answers(&self, to: &str) -> bool {
        self.ask.send(to.to_owned()).unwrap();
        self.told.recv().unwrap()
    }
}

/// Who the host program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Host {
    /// Root, of the machine or, for an ordinary user, of a user namespace that has the network, too.
    Root,
    /// An ordinary user without any power over the host's network.
    User,
}

/// A program to a host.
type Case = (Host, UserModeProgram);

/// In a process and a network of its own, whose ways out lead to an outside at 192.0.2.9 and fd99::9; it has 192.0.2.1 and
/// fd99::1 itself. Both serve. The host's resolver is the outside.
fn on_a_host(host: Host, body: impl FnOnce(&Outside)) {
    let dir = temp_dir(); // removed by whoever made it
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
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(none, dir.path(), Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
        let bind = |from: &str, to: &str| {
            mount(Some(&dir.path().join(from)), to, none, MsFlags::MS_BIND, none).unwrap();
        };
        std::fs::write(dir.path().join("resolv"), "nameserver 192.0.2.9\nnameserver fd99::9\n").unwrap();
        bind("resolv", "/etc/resolv.conf");
        if host == Host::User {
            let tun = dir.path().join("tun");
            mknod(&tun, SFlag::S_IFCHR, Mode::empty(), makedev(10, 200)).unwrap();
            std::fs::set_permissions(tun, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
            bind("tun", "/dev/net/tun");
        }
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
        serve();
        let outside = Outside::new(&outside);
        if host == Host::User {
            common::become_user(USER);
            // As a program is that was started by this user.
            nix::sys::prctl::set_dumpable(true).unwrap();
        }
        body(&outside);
    });
}

/// The programs that are here: the host's own, and newer pastas that `./check tools` unpacks. Each with each kind of host
/// that can be made here.
fn cases() -> Vec<Case> {
    let installed =
        |program: &UserModeProgram| with(Network::user_mode_with(program.clone())).build().is_ok();
    let made = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let newer = ["pasta-trixie", "pasta-trixie-backports"].map(|dir| made.join(dir).join("pasta"));
    let programs: Vec<_> = [UserModeProgram::slirp4netns(), UserModeProgram::pasta()]
        .into_iter()
        .chain(newer.into_iter().map(|path| UserModeProgram::pasta().at(path)))
        .filter(installed)
        .collect();
    let hosts = if is_root() { &[Host::Root, Host::User][..] } else { &[Host::Root] };
    hosts.iter().flat_map(|host| programs.iter().map(move |program| (*host, program.clone()))).collect()
}

/// Runs `body` for each case; or checks what is said where it can't work.
fn each(cases: &[Case], body: impl Fn(&UserModeProgram, &Outside)) {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    if cases.is_empty() {
        skip!("neither pasta nor slirp4netns is installed");
    }
    let tun = File::options().read(true).write(true).open("/dev/net/tun");
    for (host, program) in cases {
        println!("{host:?} {program:?}");
        on_a_host(*host, |outside| {
            if tun.is_ok() {
                return body(program, outside);
            }
            // It says so itself, and nothing runs without the network that was asked for.
            let sandbox = with(Network::user_mode_with(program.clone())).build().unwrap();
            let failed = sandbox.command("/bin/true").spawn().unwrap_err();
            assert_eq!((failed.kind(), failed.step()), (ErrorKind::Setup, Step::Network), "{failed}");
            assert!(failed.hint().is_some_and(|hint| hint.contains("/dev/net/tun")), "{failed}");
        });
    }
    if let Err(error) = tun {
        skip!("no /dev/net/tun for this user: {error}");
    }
}

fn with(network: Network) -> SandboxBuilder {
    Sandbox::builder().network(network)
}

/// Runs a line of bash in a sandbox and gives what it wrote; errors of it on the same stream.
fn bash(network: Network, line: &str) -> String {
    let line = format!("exec 2>&1; {line}");
    let out = with(network).build().unwrap().command("/bin/bash").args(["-c", &line]).output().unwrap();
    String::from_utf8_lossy(&out.stdout).trim_end().to_owned()
}

/// Helpers that serve the payload `pid`.
fn helpers(pid: u32) -> usize {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = all.map(|entry| std::fs::read(entry.path().join("cmdline")).unwrap_or_default());
    let of = [format!("/proc/{pid}/ns/net"), pid.to_string()];
    let serves = |line: &Vec<u8>| {
        let line = String::from_utf8_lossy(line);
        line.contains("tap0") && line.split('\0').any(|word| of.iter().any(|of| of == word))
    };
    lines.filter(serves).count()
}

#[test]
fn a_user_mode_network_leaves_as_the_host_programs_own() {
    each(&cases(), |program, _| {
        let user_mode = || Network::user_mode_with(program.clone());
        // An address of IPv6 takes a moment where it is found by slirp4netns' own announcements.
        let run = |network, open: &str, shut: &str| {
            let script = format!(
                "for to in {open}; do for n in {{1..100}}; do exec 3<>/dev/tcp/$to && break; sleep 0.1; done 2>/dev/null; \
                 cat <&3 && echo; done; for to in {shut}; do \
                 timeout 0.4 bash -c \"exec 3<>/dev/tcp/$to\" 2>/dev/null || echo shut; done; cat /etc/resolv.conf"
            );
            bash(network, &script)
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

/// pasta sends from a socket of the host, and what that sends to a group comes back to the members of the host itself.
#[test]
fn multicast_of_a_user_mode_network_does_not_come_to_the_hosts_listeners() {
    each(&cases(), |program, _| {
        let (v4, v6) = (Ipv4Addr::new(239, 1, 2, 3), Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 0, 0x123));
        let (of_v4, of_v6) =
            (UdpSocket::bind("0.0.0.0:7000").unwrap(), UdpSocket::bind("[::]:7001").unwrap());
        of_v4.join_multicast_v4(&v4, &[192, 0, 2, 1].into()).unwrap();
        let up0 = nix::net::if_::if_nametoindex("up0").unwrap();
        of_v6.join_multicast_v6(&v6, up0).unwrap();
        let listeners = [&of_v4, &of_v6];
        listeners.iter().for_each(|listener| listener.set_read_timeout(Some(SHORT)).unwrap());
        // The host hears itself, or nothing could be seen here.
        UdpSocket::bind("192.0.2.1:0").unwrap().send_to(b"host", (v4, 7000)).unwrap();
        UdpSocket::bind("[fd99::1]:0").unwrap().send_to(b"host", (v6, 7001)).unwrap();
        let heard = |listener: &UdpSocket| {
            let mut buf = [0; 8];
            listener.recv(&mut buf).ok().map(|len| String::from_utf8_lossy(&buf[..len]).into_owned())
        };
        assert_eq!(listeners.map(heard), [Some("host".to_owned()), Some("host".to_owned())]);
        let said = bash(
            Network::user_mode_with(program.clone()),
            "for to in 239.1.2.3/7000 ff0e::123/7001; do for n in 1 2 3; do echo inside >/dev/udp/$to; done; done; \
             for n in {1..100}; do exec 3<>/dev/tcp/fd99::9/80 && break; sleep 0.1; done 2>/dev/null; cat <&3",
        );
        assert_eq!(listeners.map(heard), [None, None], "{said}");
        // Neighbours are found: without, nothing of IPv6 would leave.
        assert!(said.ends_with("fd99::1"), "{said}");
    });
}

#[test]
fn the_hosts_resolver_answers_in_a_user_mode_network() {
    each(&cases(), |program, _| {
        let ask =
            "exec 3<>/dev/udp/10.0.2.3/53; echo question >&3; timeout 10 dd bs=512 count=1 <&3 2>/dev/null";
        assert_eq!(bash(Network::user_mode_with(program.clone()), ask), "question");
    });
}

fn end(child: &mut Child) {
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success());
}

#[test]
fn a_user_mode_networks_helper_ends_with_payload_and_host_program() {
    each(&cases(), |program, _| {
        let sandbox = with(Network::user_mode_with(program.clone())).build().unwrap();
        let child = sandbox.command("/bin/sleep").arg("1000").spawn().unwrap();
        let pid = child.id();
        assert_eq!(helpers(pid), 1);
        // The report was read in its namespace.
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
        assert!(wait_until(LONG, || !Path::new(&format!("/proc/{pid}")).exists()), "the payload");
    });
}

/// What a helper is given has the lowest numbers.
#[test]
fn a_user_mode_network_starts_where_few_files_may_be_open() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    each(&cases(), |program, _| {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, 61, hard).unwrap();
        // The default view takes more while it is made.
        let dir = temp_dir();
        for made in ["etc", "usr", "proc", "dev", "tmp"] {
            std::fs::create_dir(dir.path().join(made)).unwrap();
        }
        for link in ["bin", "lib", "lib64"] {
            std::os::unix::fs::symlink(format!("usr/{link}"), dir.path().join(link)).unwrap();
        }
        for file in ["hosts", "resolv.conf"] {
            std::fs::write(dir.path().join("etc").join(file), "").unwrap();
        }
        let network = Network::user_mode_with(program.clone());
        let sandbox = Sandbox::builder().rootfs(dir.path()).bind_ro("/usr", "/usr").network(network).build();
        assert!(sandbox.unwrap().command("/bin/true").status().unwrap().success());
    });
}

/// A payload that serves: TCP at 8000, UDP at 5300.
const SERVER: &str = "
import socket, threading
tcp = socket.create_server(('::', 8000), family=socket.AF_INET6, dualstack_ipv6=True)
udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
udp.bind(('::', 5300))
print('ready', flush=True)
def echo():
    while True:
        data, peer = udp.recvfrom(512)
        udp.sendto(data, peer)
threading.Thread(target=echo, daemon=True).start()
while True:
    peer, _ = tcp.accept()
    peer.sendall(b'here')
    peer.close()
";

fn spawn(network: &Network) -> Result<Child, palisade::Error> {
    let sandbox = with(network.clone()).build().unwrap();
    let mut command = sandbox.command("/usr/bin/python3");
    let mut child = command.args(["-c", SERVER]).stdout(Stdio::piped()).spawn()?;
    let mut line = [0; 6];
    child.stdout.take().unwrap().read_exact(&mut line).unwrap();
    assert_eq!(&line, b"ready\n");
    Ok(child)
}

/// What a version is known not to carry is refused, not lost.
#[test]
fn a_port_at_two_addresses_leads_inside_from_both_or_is_refused() {
    let mut all = cases();
    all.retain(|(_, program)| *program != UserModeProgram::slirp4netns());
    each(&all, |program, _| {
        let network = Network::user_mode_with(program.clone()).publish(Protocol::TCP, 8080, 8000).publish_at(
            [0, 0, 0, 0, 0, 0, 0, 1],
            Protocol::TCP,
            8080,
            8000,
        );
        match spawn(&network) {
            Ok(mut child) => {
                assert_eq!(["tcp 127.0.0.1:8080", "tcp [::1]:8080"].map(answers), [true; 2]);
                end(&mut child);
            }
            Err(error) => {
                assert_eq!((error.kind(), error.step()), (ErrorKind::Setup, Step::Network), "{error}");
                assert!(error.hint().is_some_and(|hint| hint.contains("at one address alone")), "{error}");
            }
        }
    });
}

#[test]
fn ports_are_published_by_pasta_at_the_addresses_that_were_named() {
    let mut all = cases();
    all.retain(|(_, program)| *program != UserModeProgram::slirp4netns());
    each(&all, |program, outside| {
        let at_loopback = Network::user_mode_with(program.clone())
            .publish(Protocol::TCP, 8080, 8000)
            .publish_at([0, 0, 0, 0, 0, 0, 0, 1], Protocol::TCP, 8082, 8000)
            .deny_egress();
        let everywhere = at_loopback
            .clone()
            .publish_at([192, 0, 2, 1], Protocol::TCP, 8081, 8000)
            .publish(Protocol::UDP, 5353, 5300)
            .publish_at([192, 0, 2, 1], Protocol::UDP, 5354, 5300);
        let all = [
            "tcp 127.0.0.1:8080",
            "tcp 192.0.2.1:8080",
            "tcp 192.0.2.1:8081",
            "tcp 127.0.0.1:8081",
            "tcp [::1]:8082",
            "udp 127.0.0.1:5353",
            "udp 192.0.2.1:5353",
            "udp 192.0.2.1:5354",
        ];
        let from_host = || all.into_iter().filter(|to| answers(to)).collect::<Vec<_>>();
        let from_outside = || all.into_iter().filter(|to| outside.answers(to)).collect::<Vec<_>>();
        let (network, of_own, of_outside) = match spawn(&everywhere) {
            Ok(mut child) => {
                end(&mut child);
                drop(child);
                let of_own = vec![all[0], all[2], all[4], all[5], all[7]];
                (everywhere, of_own, vec![all[2], all[7]])
            }
            // What this version is known not to carry is refused, not lost.
            Err(error) => {
                assert_eq!((error.kind(), error.step()), (ErrorKind::Setup, Step::Network), "{error}");
                let told = ["before 2024", "newer passt"].map(|part| error.to_string().contains(part));
                assert_eq!(told, [true; 2], "{error}");
                (at_loopback, vec![all[0], all[4]], vec![])
            }
        };
        let mut child = spawn(&network).unwrap();
        assert_eq!(from_host(), of_own);
        assert_eq!(from_outside(), of_outside);
        // A port that is taken is an error, and nothing runs.
        let taken = spawn(&network).unwrap_err();
        assert_eq!((taken.kind(), taken.step()), (ErrorKind::Setup, Step::Network), "{taken}");
        assert!(taken.hint().is_some_and(|hint| hint.contains("published port")), "{taken}");
        // When a child was waited for and dropped, its ports are free.
        end(&mut child);
        drop(child);
        let mut again = spawn(&network).unwrap();
        assert_eq!(from_host(), of_own);
        end(&mut again);
        drop(again);
        assert!(from_host().is_empty());
    });
}
