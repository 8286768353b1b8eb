//! A payload on a terminal of its own.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use palisade::fsroot::{Dev, Devpts, Root};
use palisade::ns::Namespace;
use palisade::{Child, Command, ErrorKind, ExitCause, PtySize, Sandbox, Session, Stdio};
use palisade_sys::Injected;
use palisade_testkit::{Snapshot, is_root, scaled, skip, wait_until};

#[path = "common/sys.rs"]
mod common;

fn sandbox() -> Sandbox {
    Sandbox::builder().init(true).build().unwrap()
}

fn sh(sandbox: &Sandbox, script: &str) -> Command {
    let mut command = sandbox.command("/bin/sh");
    command.arg("-c").arg(script).pty(PtySize::new(30, 100));
    command
}

/// What a terminal shows, read up to something expected.
struct Screen<'a> {
    child: &'a mut Child,
    seen: String,
}

impl Screen<'_> {
    fn type_in(&mut self, keys: &str) {
        self.child.pty.as_mut().unwrap().write_all(keys.as_bytes()).unwrap();
    }

    /// Reads until `text` was shown after what was expected last; gives all up to its end.
    #[track_caller]
    fn expect(&mut self, text: &str) -> String {
        let end = Instant::now() + scaled(Duration::from_secs(20));
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            let pty = self.child.pty.as_mut().unwrap();
            let mut fds = [PollFd::new(pty.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, 100u8).unwrap();
            let mut chunk = [0; 4096];
            if fds[0].any() == Some(true) {
                let n = pty.read(&mut chunk).unwrap();
                assert!(n > 0, "it ended before {text:?}: {:?}", self.seen);
                self.seen.push_str(&String::from_utf8_lossy(&chunk[..n]));
            }
            assert!(Instant::now() < end, "no {text:?} in {:?}", self.seen);
        }
    }
}

/// A shell that asks for commands, as one at a terminal does.
fn shell(sandbox: &Sandbox) -> Child {
    let mut command = sandbox.command("/bin/bash");
    let child = command.args(["--norc", "--noprofile", "-i"]).env("PS1", "$ ").env("TERM", "dumb");
    child.pty(PtySize::default()).timeout(scaled(Duration::from_secs(60))).spawn().unwrap()
}

#[test]
fn it_is_the_controlling_terminal_of_the_right_size() {
    let script = "tty; stty size; test -t 0 && test -t 1 && test -t 2 && echo streams; echo to-tty >/dev/tty; \
                  stat -Lc '%F %t:%T' /dev/console; cat /proc/self/stat; exit 3";
    for init in [false, true] {
        let sandbox = Sandbox::builder().init(init).build().unwrap();
        let out = sh(&sandbox, script).stdin(Stdio::null()).output().unwrap();
        assert_eq!(out.status.code(), Some(3));
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(text.contains("not a tty"), "stdin was set otherwise: {text}");

        let out = sh(&sandbox, script).spawn().unwrap().wait_with_output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap().replace('\r', "");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[..5],
            ["/dev/pts/0", "30 100", "streams", "to-tty", "character special file 88:0"],
            "{text}"
        );
        let stat: Vec<&str> = lines[5].rsplit(") ").next().unwrap().split(' ').collect();
        let leader = if init { "2" } else { "1" };
        // Session, terminal (136:0), foreground process group.
        assert_eq!((stat[3], stat[4], stat[5]), (leader, "34816", leader), "{text}");
    }
}

#[test]
fn nothing_that_is_written_last_is_lost() {
    for init in [false, true, false, true] {
        let sandbox = Sandbox::builder().init(init).build().unwrap();
        let out = sh(&sandbox, "seq 20000; echo the end").output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(
            text.ends_with("19999\r\n20000\r\nthe end\r\n"),
            "{:?}",
            &text[text.len().saturating_sub(80)..]
        );
        assert_eq!(text.lines().count(), 20001);
    }
}

#[test]
fn a_resize_is_seen_inside() {
    let sandbox = sandbox();
    let script = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.01; done";
    let mut child = sh(&sandbox, script).spawn().unwrap();
    assert_eq!(child.pty.as_ref().unwrap().size().unwrap(), PtySize { rows: 30, columns: 100 });
    let mut screen = Screen { child: &mut child, seen: String::new() };
    screen.expect("ready\r\n");
    for (rows, columns) in [(50, 132), (1, 1), (24, 80)] {
        screen.child.pty.as_ref().unwrap().resize(PtySize::new(rows, columns)).unwrap();
        screen.expect(&format!("{rows} {columns}\r\n"));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_shell_survives_interrupt_stop_and_resize() {
    let sandbox = sandbox();
    let mut child = shell(&sandbox);
    let mut screen = Screen { child: &mut child, seen: String::new() };
    screen.expect("$ ");
    // Ctrl-C ends what runs in the foreground, and not the shell.
    screen.type_in("sleep 1000\n");
    screen.expect("sleep 1000\r\n");
    assert!(wait_until(Duration::from_secs(10), || foreground_is(screen.child, "sleep")));
    screen.type_in("\x03");
    screen.expect("$ ");
    screen.type_in("echo status $?\n");
    screen.expect("status 130\r\n");
    // Ctrl-Z stops it; fg continues it; Ctrl-\ ends it.
    screen.type_in("sleep 1000\n");
    assert!(wait_until(Duration::from_secs(10), || foreground_is(screen.child, "sleep")));
    screen.type_in("\x1a");
    screen.expect("Stopped");
    screen.expect("$ ");
    screen.type_in("fg\n");
    screen.expect("sleep 1000\r\n");
    assert!(wait_until(Duration::from_secs(10), || foreground_is(screen.child, "sleep")));
    screen.type_in("\x1c");
    screen.expect("Quit");
    screen.expect("$ ");
    // A resize while it waits for a line.
    screen.child.pty.as_ref().unwrap().resize(PtySize::new(33, 77)).unwrap();
    screen.type_in("stty size; echo $LINES $COLUMNS\n");
    screen.expect("33 77\r\n33 77\r\n");
    screen.expect("$ ");
    // Ctrl-D is its end.
    screen.type_in("\x04");
    let status = child.wait().unwrap();
    assert_eq!(status.cause(), ExitCause::Exited(0));
}

/// Whether the foreground process group of the terminal is led by a program of this name.
fn foreground_is(child: &Child, name: &str) -> bool {
    // The workload is the first child of init.
    let children =
        std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap_or_default();
    children.split_whitespace().any(|pid| {
        let of = |pid: &str| {
            std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default()
        };
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let foreground = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(5)).map(str::to_owned);
        of(pid).split_whitespace().any(|pid| {
            let named =
                std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name);
            // The group's number is of our pid namespace here, as everything else.
            named && foreground.as_deref() == Some(pid)
        })
    })
}

#[test]
fn hanging_up_is_sighup_to_the_session() {
    let dir = palisade_testkit::temp_dir();
    std::fs::write(dir.path().join("log"), "").unwrap();
    let log = std::fs::File::options().append(true).open(dir.path().join("log")).unwrap();
    let sandbox = sandbox();
    let script = "trap 'echo hup >&5; exit 6' HUP; echo ready; while :; do sleep 0.01; done";
    let mut child = sh(&sandbox, script).fd(5, log).spawn().unwrap();
    Screen { child: &mut child, seen: String::new() }.expect("ready\r\n");
    let copy = child.pty.as_ref().unwrap().try_clone().unwrap();
    drop(child.pty.take());
    assert_eq!(child.wait_timeout(Duration::from_millis(50)).unwrap(), None, "a copy is still there");
    drop(copy);
    assert_eq!(child.wait().unwrap().code(), Some(6));
    assert_eq!(std::fs::read_to_string(dir.path().join("log")).unwrap(), "hup\n");
    // A payload without a handler: its status says why.
    let mut child = sh(&sandbox, "echo ready; exec sleep 1000").spawn().unwrap();
    Screen { child: &mut child, seen: String::new() }.expect("ready\r\n");
    drop(child.pty.take());
    assert_eq!(child.wait().unwrap().cause(), ExitCause::Signaled(libc::SIGHUP));
}

#[test]
fn streams_that_were_set_stay() {
    let sandbox = sandbox();
    let mut command = sh(&sandbox, "echo out; echo err >&2; echo tty >/dev/tty");
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!((err.as_str(), out.stdout.as_slice()), ("err\n", &b"out\r\ntty\r\n"[..]));
}

#[test]
fn each_sandbox_has_terminals_of_its_own() {
    let sandbox = sandbox();
    let mut first = sh(&sandbox, "echo ready; read line; echo $line").spawn().unwrap();
    let mut screen = Screen { child: &mut first, seen: String::new() };
    screen.expect("ready");
    // Of another instance: the same number, and no way to the other one.
    let out = sh(&sandbox, "ls /dev/pts; tty <&1; echo intruder >/dev/pts/0").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout), "0  ptmx\r\n/dev/pts/0\r\nintruder\r\n");
    screen.type_in("hello\n");
    let seen = screen.expect("hello\r\nhello\r\n");
    assert!(!seen.contains("intruder"), "{seen}");
    first.wait().unwrap();
}

#[test]
fn bad_wishes_are_refused() {
    let refused = |command: &Command, word: &str| {
        let error = command.plan().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSpec, "{error}");
        assert!(error.to_string().contains(word), "{error}");
    };
    let sandbox = sandbox();
    refused(sh(&sandbox, "").session(Session::Inherit), "session");
    refused(sh(&sandbox, "").session(Session::NewGroup), "session");
    refused(
        sh(&sandbox, "").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()),
        "streams are connected elsewhere",
    );
    // A view without a devpts of its own: none at all, the host's, and one that was covered.
    let bare = Root::empty().bind_ro("/usr", "/usr");
    for root in [
        bare.clone(),
        bare.clone().bind_ro("/dev", "/dev"),
        bare.clone().mount(Dev::new("/dev")).bind_ro("/dev/pts", "/dev/pts"),
    ] {
        refused(&sh(&Sandbox::builder().root(root).build().unwrap(), ""), "devpts");
    }
    let own = bare.tmpfs("/dev").mount(Devpts::new("/dev/pts"));
    sh(&Sandbox::builder().root(own).build().unwrap(), "").plan().unwrap();
}

#[test]
fn a_failing_terminal_names_its_step_and_leaves_nothing() {
    let sandbox = sandbox();
    let mut plan = sh(&sandbox, "exit 0").plan().unwrap();
    plan.clone().spawn().unwrap().wait().unwrap();
    let steps: Vec<palisade::Step> = plan.programs_mut()[2].steps().collect();
    assert!(steps.is_sorted());
    let before = Snapshot::take();
    let of_terminal = |step| matches!(step, palisade::Step::Stdio | palisade::Step::Session);
    let mut tried = 0;
    for (index, &step) in steps.iter().enumerate().filter(|(_, step)| of_terminal(**step)) {
        let mut broken = plan.clone();
        broken.programs_mut()[2].inject(index, Injected::Errno(libc::ENOMEM));
        let error = broken.spawn().expect_err("a failed set-up");
        assert_eq!((error.step(), error.errno()), (step, Some(libc::ENOMEM)), "{index}: {error}");
        tried += 1;
    }
    assert!(tried > 10, "{tried}");
    assert!(wait_until(Duration::from_secs(5), || Snapshot::take() == before));
    let text = plan.to_string();
    for part in ["TIOCGPTPEER", "TIOCSWINSZ", "TIOCSCTTY", "sendmsg(3"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// Without a user namespace the one who opens the terminal is not the one who uses it.
#[test]
fn its_owner_is_the_payload() {
    let script = "stat -Lc '%u' /proc/self/fd/1 /dev/console; echo again >/dev/pts/0";
    let check = |sandbox: &Sandbox, uid: u32| {
        let out = sh(sandbox, script).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout), format!("{uid}\r\n{uid}\r\nagain\r\n"));
    };
    let own = if is_root() { 65534 } else { nix::unistd::getuid().as_raw() };
    check(&sandbox(), own);
    if is_root() {
        check(&Sandbox::builder().share(Namespace::User).user(1234, 1234).build().unwrap(), 1234);
    }
}

/// CVE-2017-5226: input pushed into the terminal of the host program is run by the shell there. Here a payload without
/// any filter pushes into everything that it can reach.
#[test]
fn no_input_comes_into_the_hosts_terminal() {
    if !std::path::Path::new("/usr/bin/perl").exists() {
        skip!("perl is not installed", needs = "tmux");
    }
    const PUSH: &str = "for my $name (@ARGV) { open(my $tty, '+<', $name) or next; ioctl($tty, 0x5412, my $key = 'x'); } \
                        for my $fd (\\*STDIN, \\*STDOUT, \\*STDERR) { ioctl($fd, 0x5412, my $key = 'x'); } print 'done';";
    let attack = |sandbox: &Sandbox| {
        let mut command = sandbox.command("/usr/bin/perl");
        command.args(["-e", PUSH, "/dev/tty", "/dev/console", "/dev/pts/0", "/dev/pts/1"]);
        command
    };
    let host = nix::pty::openpty(None, None).unwrap();
    let pushed = |terminal: &nix::pty::OpenptyResult| {
        // As the shell of the host would read them: a line.
        nix::unistd::write(&terminal.master, b"\n").unwrap();
        let mut line = [0; 64];
        let count = nix::unistd::read(&terminal.slave, &mut line).unwrap();
        count - 1
    };
    palisade_testkit::in_child(|| {
        nix::unistd::setsid().unwrap();
        common::take_terminal(&host.slave);
        let sandbox = Sandbox::builder().dangerously_unfiltered().build().unwrap();
        let out = attack(&sandbox).pty(PtySize::default()).spawn().unwrap().wait_with_output().unwrap();
        assert!(String::from_utf8_lossy(&out.stdout).contains("done"), "{out:?}");
        assert_eq!(pushed(&host), 0, "input came into the host's terminal");
        // The control: with the host's own terminal and session the attack works, where the kernel still has it.
        let slave = || std::fs::File::from(host.slave.try_clone().unwrap());
        let mut command = attack(&sandbox);
        command.session(Session::Inherit).stdin(slave()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().unwrap();
        let legacy = std::fs::read_to_string("/proc/sys/dev/tty/legacy_tiocsti").unwrap_or("1".into());
        assert_eq!(pushed(&host) > 0, legacy.trim() == "1", "the control");
        // And the default filter refuses it even there.
        let sandbox = Sandbox::new().unwrap();
        let mut command = attack(&sandbox);
        command.session(Session::Inherit).stdin(slave()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().unwrap();
        assert_eq!(pushed(&host), 0, "the default filter");
    });
}
