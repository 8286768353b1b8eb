//! The driver for systemd against message buses that have none: a real daemon, and peers that misbehave.
#![cfg(feature = "systemd")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::skip;
use palisade_cgroup::ErrorKind;
use palisade_cgroup::systemd::{Manager, TransientUnit};

/// Set where this test binary plays a program that asks for a scope: the kind of error that it is to get.
const EXPECTED: &str = "PALISADE_TEST_EXPECTED";

/// The program of the tests below; by itself it does nothing.
#[test]
fn program_that_asks() {
    let Some(expected) = std::env::var_os(EXPECTED) else { return };
    let unit = TransientUnit::scope("palisade-test").manager(Manager::User).timeout(Duration::from_secs(2));
    let e = unit.enter().expect_err("no systemd there");
    println!("{e}");
    assert_eq!(format!("{:?}", e.kind()), expected.to_string_lossy(), "{e}");
    assert!(e.kind() != ErrorKind::Absent || e.remedy().is_some(), "{e}");
}

/// The variable is the process's own, so each case has a process.
fn asks_at(address: &str, expected: ErrorKind) {
    asks(Command::new(std::env::current_exe().expect("known")), address, expected);
}

fn asks(mut program: Command, address: &str, expected: ErrorKind) {
    let out = program
        .args(["--exact", "program_that_asks", "--nocapture"])
        .env(EXPECTED, format!("{expected:?}"))
        .env("DBUS_SESSION_BUS_ADDRESS", address)
        .env_remove("XDG_RUNTIME_DIR")
        .output()
        .expect("runs");
    assert!(out.status.success(), "{address}: {}", String::from_utf8_lossy(&out.stdout));
}

/// A daemon that speaks the real protocol: we are let in, and told that nobody has systemd's name.
#[test]
fn a_bus_without_systemd_says_so() {
    let dir = palisade_testkit::temp_dir();
    let config = dir.path().join("config");
    let text = format!(
        "<busconfig><type>session</type><listen>unix:path={0}/bus</listen><listen>unix:abstract={0}/a%20b</listen>
         <policy context='default'><allow send_destination='*'/><allow receive_sender='*'/><allow own='*'/></policy></busconfig>",
        dir.path().display()
    );
    std::fs::write(&config, text).expect("written");
    let daemon = Command::new("dbus-daemon")
        .arg(format!("--config-file={}", config.display()))
        .args(["--nofork", "--nopidfile", "--print-address"])
        .stdout(Stdio::piped())
        .spawn();
    let Ok(daemon) = daemon else { return skip("tool", "no dbus-daemon here") };
    let mut daemon = Ended(daemon);
    let mut address = String::new();
    BufReader::new(daemon.0.stdout.as_mut().expect("piped")).read_line(&mut address).expect("told");
    assert!(address.starts_with("unix:"), "{address}");
    asks_at(&format!("unix:path={}/bus", dir.path().display()), ErrorKind::Absent);
    asks_at(&format!("tcp:host=x;unix:abstract={}/a%20b,guid=1", dir.path().display()), ErrorKind::Absent);
}

/// A process that ends with the test, however that ends.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.kill().expect("killed");
        self.0.wait().expect("reaped");
    }
}

/// From a pid namespace of one's own, the number of a process would mean another one to the systemd outside.
#[test]
fn a_bus_outside_of_the_pid_namespace_is_not_asked() {
    let user: &[&str] = if common::is_root() { &[] } else { &["-r"] };
    if !Command::new("unshare").args(user).args(["-p", "-f", "true"]).status().is_ok_and(|s| s.success()) {
        return skip("userns", "no pid namespaces here");
    }
    let dir = palisade_testkit::temp_dir();
    let path = dir.path().join("bus");
    let listener = UnixListener::bind(&path).expect("bound");
    let mut program = Command::new("unshare");
    program.args(user).args(["-p", "-f"]).arg(std::env::current_exe().expect("known"));
    asks(program, &format!("unix:path={}", path.display()), ErrorKind::NotDelegated);
    // It connected, and hung up without a word.
    let (mut peer, _) = listener.accept().expect("connected");
    let mut said = Vec::new();
    peer.read_to_end(&mut said).expect("readable");
    assert!(said.is_empty(), "{said:?}");
}

#[test]
fn no_bus_at_all_is_told_with_what_to_do() {
    asks_at("", ErrorKind::Absent);
    asks_at("tcp:host=localhost", ErrorKind::Absent);
    asks_at("unix:path=/nowhere/bus", ErrorKind::Absent);
}

/// What the client says before the first message; the daemon's side of it is in `answer`.
fn accept(listener: &UnixListener, answer: &[u8]) -> UnixStream {
    let (mut peer, _) = listener.accept().expect("asked");
    let mut asked = [0; 22];
    peer.read_exact(&mut asked).expect("authentication");
    assert_eq!(&asked, b"\0AUTH EXTERNAL\r\nDATA\r\n");
    peer.write_all(answer).expect("answered");
    peer
}

/// Whatever a peer does, there is an error in time.
#[test]
fn peers_that_misbehave_are_errors() {
    let dir = palisade_testkit::temp_dir();
    let path = dir.path().join("bus");
    let listener = UnixListener::bind(&path).expect("bound");
    let in_time = b"DATA\r\nOK 1234\r\n";
    // Each line: authentication, what follows, and the error.
    let cases: [(&[u8], &[u8], ErrorKind); 6] = [
        (b"REJECTED EXTERNAL\r\n", b"", ErrorKind::NotDelegated),
        (&[b'x'; 4000], b"", ErrorKind::Parse),
        // Silence.
        (in_time, b"", ErrorKind::TimedOut),
        (in_time, b"HTTP/1.1 400 Bad Request\r\n\r\n", ErrorKind::Parse),
        // A message of four gigabytes, and one whose header is too long for it.
        (in_time, b"l\x02\0\x01\xff\xff\xff\xff\x01\0\0\0\0\0\0\0", ErrorKind::Parse),
        (in_time, b"l\x02\0\x01\0\0\0\0\x01\0\0\0\x08\0\0\0\x05\x01u\0\xff\xff\xff", ErrorKind::TimedOut),
    ];
    for (answer, then, kind) in cases {
        std::thread::scope(|s| {
            s.spawn(|| asks_at(&format!("unix:path={}", path.display()), kind));
            let mut peer = accept(&listener, answer);
            peer.write_all(then).expect("written");
            // Until the client has had enough.
            drop(peer.read_to_end(&mut Vec::new()));
        });
    }
    // One that hangs up.
    std::thread::scope(|s| {
        s.spawn(|| asks_at(&format!("unix:path={}", path.display()), ErrorKind::Gone));
        drop(accept(&listener, in_time).shutdown(std::net::Shutdown::Write));
    });
    assert!(Path::new(&path).exists());
}
