//! User notification.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use palisade_secfilter::{Action, ErrorKind, Install, Listener, Policy, Response, Rule, Syscall, record};

mod common;
use common::{passes_in_child, skip, sys};

fn number(name: &str) -> u32 {
    name.parse::<Syscall>().unwrap().number()
}

/// Runs `body` in a thread whose calls named `call` are notified about, and `supervise` here. The filter lets
/// everything else through, so that the threads can talk.
fn supervised<T: Send>(call: &str, body: impl FnOnce() -> T + Send, supervise: impl FnOnce(Listener)) -> T {
    let filter = Policy::new(Action::Allow).rule(Rule::new([call], Action::UserNotif)).compile().unwrap();
    std::thread::scope(|scope| {
        let (send, receive) = mpsc::channel();
        let confined = scope.spawn(move || {
            send.send(Install::new(&filter).apply_with_listener().unwrap()).unwrap();
            body()
        });
        supervise(receive.recv().unwrap());
        confined.join().unwrap()
    })
}

fn getppid() -> i64 {
    sys::call(number("getppid"), [1, 2, 3, 4, 5, u64::MAX])
}

#[test]
fn calls_are_answered_in_the_filters_place() {
    let answers = supervised(
        "getppid",
        || [getppid(), getppid(), getppid()],
        |listener| {
            for response in [Response::Return(-5000), Response::Errno(77), Response::Continue] {
                let call = listener.receive().unwrap().unwrap();
                assert_eq!(call.syscall(), "getppid".parse().unwrap());
                assert_eq!(call.data().args, [1, 2, 3, 4, 5, u64::MAX]);
                assert!(listener.is_valid(&call).unwrap());
                assert_eq!(
                    listener.respond(&call, Response::Errno(0)).unwrap_err().kind(),
                    ErrorKind::BadRule
                );
                listener.respond(&call, response).unwrap();
                // A77: the cookie is good for one answer.
                assert_eq!(listener.respond(&call, response).unwrap_err().kind(), ErrorKind::Gone);
                assert!(!listener.is_valid(&call).unwrap());
            }
            assert!(listener.receive().unwrap().is_none(), "the thread has ended");
            assert!(listener.is_abandoned().unwrap());
        },
    );
    assert_eq!(answers, [-5000, -77, i64::from(std::os::unix::process::parent_id())]);
}

#[test]
fn a77_a_supervisor_that_goes_away_leaves_enosys() {
    let answers = supervised(
        "getppid",
        || [getppid(), getppid()],
        |listener| {
            let call = listener.receive().unwrap().unwrap();
            assert!(call.pid() > 0);
            drop(listener);
        },
    );
    assert_eq!(answers, [-i64::from(libc::ENOSYS); 2]);
}

#[test]
fn receive_gives_up_after_a_timeout() {
    supervised(
        "getppid",
        || std::thread::sleep(Duration::from_millis(300)),
        |listener| {
            let begin = Instant::now();
            assert!(listener.receive_timeout(Duration::from_millis(40)).unwrap().is_none());
            assert!(begin.elapsed() >= Duration::from_millis(40));
            assert!(!listener.is_abandoned().unwrap());
        },
    );
}

#[test]
fn descriptors_are_put_into_the_caller() {
    let file = |text: &str| {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        file
    };
    let read = |fd: i64| -> String {
        let file = std::fs::File::from(sys::adopt(fd));
        std::io::read_to_string(file).unwrap()
    };
    // In a process of its own: a thread would share the table of descriptors.
    let filter =
        Policy::new(Action::Allow).rule(Rule::new(["getppid"], Action::UserNotif)).compile().unwrap();
    passes_in_child(|| {
        let listener = Install::new(&filter).apply_with_listener().unwrap();
        let listener = &listener;
        std::thread::scope(|scope| {
            // This thread has the filter too, but does not call getppid.
            scope.spawn(move || {
                let call = listener.receive().unwrap().unwrap();
                let at = listener.add_fd(&call, file("first"), Some(200), true).unwrap();
                assert_eq!(at, 200);
                let fd = listener.respond_with_fd(&call, file("second"), false).unwrap();
                assert!(fd > 2);
                let error = listener.add_fd(&call, file("late"), None, true).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Gone);
            });
            assert_eq!(read(getppid()), "second");
            assert_eq!(read(200), "first");
        });
        0
    });
}

#[test]
fn the_callers_memory_is_read_while_it_waits() {
    let text = *b"/some/path\0";
    let address = text.as_ptr() as u64;
    supervised(
        "getppid",
        || sys::call(number("getppid"), [address, 0, 0, 0, 0, 0]),
        |listener| {
            let call = listener.receive().unwrap().unwrap();
            let mut buffer = [0; 11];
            assert_eq!(listener.read_memory(&call, call.data().args[0], &mut buffer).unwrap(), 11);
            assert_eq!(buffer, text);
            assert_eq!(listener.read_memory(&call, 8, &mut buffer).unwrap_err().kind(), ErrorKind::Os);
            listener.respond(&call, Response::Return(0)).unwrap();
            let error = listener.read_memory(&call, address, &mut buffer).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Gone);
        },
    );
}

#[test]
fn a_descriptor_makes_the_way_to_another_owner() {
    supervised("getppid", getppid, |listener| {
        let fd: OwnedFd = listener.into();
        let listener = Listener::from(fd);
        assert!(std::os::fd::AsRawFd::as_raw_fd(&listener.as_fd()) > 2);
        let call = listener.receive().unwrap().unwrap();
        listener.respond(&call, Response::Return(1)).unwrap();
    });
}

#[test]
fn a_recording_gives_a_policy_that_is_enough() {
    let script = "echo hi | cat; cd /; exec 3< /dev/null; umask 77; (exit 3)";
    let recording = record({
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdout(std::process::Stdio::null());
        command
    })
    .unwrap();
    assert_eq!(recording.status.code(), Some(3));
    let count = |name: &str| recording.calls.get(&name.parse().unwrap()).copied().unwrap_or(0);
    assert!(count("execve") >= 2, "sh and cat");
    assert_eq!(count("chdir"), 1);
    assert!(count("umask") >= 1);
    assert_eq!(count("mount") + count("socket"), 0);
    let filter = recording.policy(Action::KillProcess).compile().unwrap();
    let again = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdout(std::process::Stdio::null());
        Install::new(&filter).confine(&mut command).unwrap();
        command.status().unwrap()
    };
    assert_eq!(again(script).code(), Some(3));
    assert_eq!(again("kill -CONT $$").signal(), Some(libc::SIGSYS), "kill was not recorded");
    let json = recording.to_profile_json();
    assert!(json.contains("\"umask\"") && !json.contains("\"mount\""), "{json}");
    #[cfg(feature = "profiles")]
    {
        use palisade_secfilter::{Host, Profile};
        let profile = Profile::from_json(json.as_bytes()).unwrap();
        let policy = profile.policy(&Host::running().unwrap()).unwrap();
        assert!(policy.compile().unwrap().verdict("umask".parse().unwrap()).always_allows());
    }
}

#[test]
fn a_recording_survives_threads_signals_and_failures() {
    let error = record(Command::new("/nowhere/at/all")).unwrap_err();
    assert_eq!((error.kind(), error.errno()), (ErrorKind::Os, Some(libc::ENOENT)));
    let recording = record({
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 5 & kill $!; wait; kill -9 $$"]);
        command
    })
    .unwrap();
    assert_eq!(recording.status.signal(), Some(libc::SIGKILL));
    if Command::new("python3").arg("--version").output().is_err() {
        return skip("python3", "python3 is not installed");
    }
    let recording = record({
        let mut command = Command::new("python3");
        command.args(["-c", "import threading as t\nx = [t.Thread(target=sum, args=(range(9),)) for i in range(8)]\n[i.start() for i in x]; [i.join() for i in x]"]);
        command
    })
    .unwrap();
    assert!(recording.status.success());
    let clones: u64 = ["clone", "clone3"]
        .map(|name| recording.calls.get(&name.parse().unwrap()).copied().unwrap_or(0))
        .iter()
        .sum();
    assert!(clones >= 8, "{clones}");
}
