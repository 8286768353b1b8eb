//! Ending a payload with all that it started.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader, Read};
use std::time::{Duration, Instant};

use palisade::creds::{Capability, CapabilitySet};
use palisade::{Child, Command, ErrorKind, ExitCause, Sandbox, Stdio};
use palisade_testkit::{Snapshot, scaled};

fn sh(init: bool, script: &str) -> Command {
    let mut command = Sandbox::builder().init(init).build().unwrap().command("/bin/sh");
    command.arg("-c").arg(script).stdout(Stdio::piped());
    command
}

/// Starts it and waits for its first line.
fn ready(command: &Command) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = command.spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    (child, out)
}

const LONG: Duration = Duration::from_secs(60);

/// Waits for a signal, and for those that it started, and says what came.
const POLITE: &str = "trap 'echo first; wait; exit 7' TERM; \
                      setsid sh -c 'trap \"echo second; exit 0\" TERM; echo ready; while :; do sleep 0.01; done' & \
                      while :; do wait; done";

#[test]
fn the_whole_tree_gets_the_signal() {
    for init in [false, true] {
        let (mut child, mut out) = ready(&sh(init, POLITE));
        let status = child.stop(libc::SIGTERM, scaled(LONG)).unwrap();
        assert_eq!(status.code(), Some(7), "{status}");
        let mut text = String::new();
        out.read_to_string(&mut text).unwrap();
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        // Each once: an init does not pass on what the payload had with the others.
        assert_eq!(lines, ["first", "second"]);
        // Again, after the end: the same answer.
        assert_eq!(child.stop(libc::SIGTERM, LONG).unwrap(), status);
        child.signal_tree(libc::SIGTERM).unwrap();
    }
}

#[test]
fn who_does_not_listen_is_killed() {
    ready(&sh(false, "echo ready")).0.stop(libc::SIGTERM, LONG).unwrap();
    let before = Snapshot::take();
    for init in [false, true] {
        let script = "trap '' TERM; (trap '' TERM; sleep 1000) & echo ready; while :; do sleep 1000; done";
        let (mut child, mut out) = ready(&sh(init, script));
        let start = Instant::now();
        let status = child.stop(libc::SIGTERM, Duration::from_millis(200)).unwrap();
        assert_eq!(status.cause(), ExitCause::Signaled(libc::SIGKILL));
        assert!(start.elapsed() >= Duration::from_millis(200));
        out.read_to_string(&mut String::new()).unwrap(); // nobody holds the pipe any more
    }
    before.assert_unchanged();
}

/// A signal without a handler ends a payload below an init, and is not even noticed by a pid 1.
#[test]
fn default_dispositions_need_an_init() {
    let (mut child, _out) = ready(&sh(true, "echo ready; exec sleep 1000"));
    let status = child.stop(libc::SIGTERM, scaled(LONG)).unwrap();
    assert_eq!(status.cause(), ExitCause::Signaled(libc::SIGTERM));
    let (mut child, _out) = ready(&sh(false, "echo ready; exec sleep 1000"));
    let status = child.stop(libc::SIGTERM, Duration::from_millis(100)).unwrap();
    assert_eq!(status.cause(), ExitCause::Signaled(libc::SIGKILL));
}

#[test]
fn bad_signals_are_refused_and_end_it_all_the_same() {
    let (mut child, _out) = ready(&sh(false, "echo ready; exec sleep 1000"));
    for signal in [0, -1, 65, 4000] {
        let error = child.signal_tree(signal).unwrap_err();
        assert_eq!((error.kind(), error.errno()), (ErrorKind::Supervise, Some(libc::EINVAL)), "{error}");
        assert!(error.hint().unwrap().contains("1 to 64"), "{error}");
    }
    assert_eq!(child.try_wait().unwrap(), None);
    let error = child.stop(4000, LONG).unwrap_err();
    assert_eq!(error.errno(), Some(libc::EINVAL), "{error}");
    assert_eq!(child.wait().unwrap().cause(), ExitCause::Signaled(libc::SIGKILL));
}

/// One call reaches all that is there, forked at whatever pace.
#[test]
fn a_crowd_is_signalled_at_once() {
    let script =
        "i=0; while [ $i -lt 50 ]; do setsid sleep 1000 & i=$((i+1)); done; echo ready; wait; echo all ended";
    let (mut child, mut out) = ready(&sh(true, script));
    // The shell itself has no handler for it: USR1 ends all of them, it first or last.
    child.signal_tree(libc::SIGUSR1).unwrap();
    assert_eq!(child.wait().unwrap().cause(), ExitCause::Signaled(libc::SIGUSR1));
    out.read_to_string(&mut String::new()).unwrap();
}

/// With a second user namespace, whose id 0 the payload is.
#[test]
fn it_works_across_nested_user_namespaces() {
    let all = CapabilitySet::EMPTY.with(Capability::SysAdmin).with(Capability::Kill);
    for init in [false, true] {
        let sandbox = Sandbox::builder().init(init).user(0, 0).capabilities(all).build().unwrap();
        let mut command = sandbox.command("/bin/sh");
        command.arg("-c").arg(POLITE).stdout(Stdio::piped());
        let (mut child, mut out) = ready(&command);
        assert_eq!(child.stop(libc::SIGTERM, scaled(LONG)).unwrap().code(), Some(7));
        let mut text = String::new();
        out.read_to_string(&mut text).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
    }
}

/// What entered a living sandbox is signalled with it, and alone when asked of itself.
#[test]
fn what_entered_is_part_of_the_tree() {
    let (mut child, _out) = ready(&sh(true, "trap 'exit 3' TERM; echo ready; while :; do sleep 0.01; done"));
    let mut entered = child.exec("/bin/sleep").arg("1000").spawn().unwrap();
    let mut second = child.exec("/bin/sleep").arg("1000").spawn().unwrap();
    entered.signal_tree(libc::SIGTERM).unwrap();
    assert_eq!(entered.wait().unwrap().cause(), ExitCause::Signaled(libc::SIGTERM));
    assert_eq!(child.try_wait().unwrap(), None);
    child.signal_tree(libc::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    let status = second.wait().unwrap();
    // By the signal, or by the end of the namespace if that was faster.
    assert!(matches!(status.cause(), ExitCause::Signaled(libc::SIGTERM | libc::SIGKILL)), "{status}");
}
