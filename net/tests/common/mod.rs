//! Tests run inside a user and network namespace of their own: the test binary starts itself again for one test.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use palisade_net::{IfName, LinkKind, LinkSettings, Netns, Route};

const INSIDE: &str = "PALISADE_NET_TEST_INSIDE";

/// Prints the reason, or fails where `PALISADE_TEST_REQUIRE` names the capability.
pub(crate) fn skip(capability: &str, reason: &str) {
    let required = std::env::var("PALISADE_TEST_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|c| c == capability), "{capability} is required here: {reason}");
    eprintln!("SKIP {reason}");
}

/// Runs `body` in a process of its own, root of a fresh user and network namespace.
pub(crate) fn inside(test: &str, body: fn()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let unshare = ["--user", "--map-root-user", "--net"];
    match Command::new("unshare").args(unshare).arg("true").output() {
        Ok(out) if out.status.success() => {}
        Ok(out) => {
            return skip("userns", &format!("no user namespaces: {}", String::from_utf8_lossy(&out.stderr)));
        }
        Err(e) => return skip("userns", &format!("no unshare(1): {e}")),
    }
    let out = Command::new("unshare")
        .args(unshare)
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    print!("{text}");
    assert!(out.status.success(), "{test}: exit {:?} signal {:?}", out.status.code(), out.status.signal());
    assert!(text.contains("1 passed"), "the inner run found no test named {test}");
}

/// A test whose body runs [`inside`].
#[macro_export]
macro_rules! netns_test {
    ($(#[$meta:meta])* fn $name:ident() $body:block) => {
        $(#[$meta])*
        #[test]
        fn $name() {
            common::inside(stringify!($name), || $body);
        }
    };
}

pub(crate) fn name(text: &str) -> IfName {
    IfName::new(text).unwrap()
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn up(ns: &Netns, link: &str) {
    ns.set_link(&name(link), &LinkSettings::new().up()).unwrap();
}

/// A namespace with `lo` up.
pub(crate) fn fresh() -> Netns {
    let ns = Netns::create().unwrap();
    up(&ns, "lo");
    ns
}

/// A namespace with `eth0` = 10.0.0.`n`/24 and fd00::`n`/64 on the bridge `br0` of `router`, and default routes through it.
pub(crate) fn on_bridge(router: &Netns, n: u8) -> Netns {
    let ns = fresh();
    let port = name(&format!("port{n}"));
    router.add_veth(&port, &ns, &name("eth0")).unwrap();
    router.set_link(&port, &LinkSettings::new().master(name("br0")).up()).unwrap();
    ns.add_address(&name("eth0"), [10, 0, 0, n], 24).unwrap();
    ns.add_address(&name("eth0"), std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n.into()), 64).unwrap();
    up(&ns, "eth0");
    ns.add_route(&Route::default_via([10, 0, 0, 1])).unwrap();
    ns.add_route(&Route::default_via(ip("fd00::1"))).unwrap();
    wait_running(router, port.as_str());
    ns
}

/// A forwarding namespace with the bridge `br0` = 10.0.0.1/24, fd00::1/64.
pub(crate) fn router() -> Netns {
    let ns = fresh();
    ns.add_link(&name("br0"), &LinkKind::Bridge).unwrap();
    ns.add_address(&name("br0"), [10, 0, 0, 1], 24).unwrap();
    ns.add_address(&name("br0"), ip("fd00::1"), 64).unwrap();
    up(&ns, "br0");
    ns.enable_forwarding().unwrap();
    ns
}

pub(crate) fn wait_running(ns: &Netns, link: &str) {
    let end = Instant::now() + Duration::from_secs(10);
    while !ns.link(&name(link)).unwrap().running {
        assert!(Instant::now() < end, "{link} never came up");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Answers each TCP connection with the address of the client, until the process ends.
pub(crate) fn serve_tcp(ns: &Netns, addr: &str) {
    let listener = ns.run(|| TcpListener::bind(addr)).unwrap().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let peer = stream.peer_addr().map(|a| a.ip().to_canonical().to_string()).unwrap_or_default();
            drop(stream.write_all(peer.as_bytes()));
        }
    });
}

/// Echoes datagrams until the process ends.
pub(crate) fn serve_udp(ns: &Netns, addr: &str) {
    let socket = ns.run(|| UdpSocket::bind(addr)).unwrap().unwrap();
    thread::spawn(move || {
        let mut buf = [0; 512];
        while let Ok((len, peer)) = socket.recv_from(&mut buf) {
            drop(socket.send_to(&buf[..len], peer));
        }
    });
}

/// Connects from `ns`; the answer is what the server sent.
pub(crate) fn tcp(ns: &Netns, to: &str, timeout: Duration) -> std::io::Result<String> {
    let to: SocketAddr = to.parse().unwrap();
    let mut stream = ns.run(|| TcpStream::connect_timeout(&to, timeout)).unwrap()?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

pub(crate) const SHORT: Duration = Duration::from_millis(300);
pub(crate) const LONG: Duration = Duration::from_secs(5);

/// Sends a datagram from `ns` and waits for its echo.
pub(crate) fn udp(ns: &Netns, to: &str, timeout: Duration) -> std::io::Result<()> {
    let to: SocketAddr = to.parse().unwrap();
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = ns.run(|| UdpSocket::bind(any)).unwrap()?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.send(b"ping")?;
    socket.recv(&mut [0; 16]).map(drop)
}

/// Runs a program inside `ns` (a child takes the namespace of the thread that starts it); `None` where it is not installed.
pub(crate) fn command(ns: &Netns, program: &str, args: &[&str]) -> Option<(bool, String)> {
    match ns.run(|| Command::new(program).args(args).output()).unwrap() {
        Ok(out) => Some((
            out.status.success(),
            format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)),
        )),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => panic!("{program}: {e}"),
    }
}

/// Whether an ICMP echo from `ns` is answered within a second; `None` without ping(8).
pub(crate) fn ping(ns: &Netns, to: &str) -> Option<bool> {
    command(ns, "ping", &["-n", "-c1", "-W1", to]).map(|(ok, _)| ok)
}
