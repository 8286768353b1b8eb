//! A further program in a living sandbox.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigHandler, Signal};
use palisade::creds::{Capability, CapabilitySet};
use palisade::ns::Namespace;
use palisade::{Child, ErrorKind, ExitCause, Sandbox, SandboxBuilder, Stdio};
use palisade_testkit::{Snapshot, is_root, scaled, skip, wait_until};

#[path = "common/sys.rs"]
mod common;

/// A sandbox whose payload waits for its standard input to end.
fn living(builder: SandboxBuilder) -> Child {
    let sandbox = builder.build().unwrap();
    sandbox.command("/bin/cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
}

fn sh(child: &Child, script: &str) -> String {
    let out = child.exec("/bin/sh").args(["-c", script]).output().unwrap();
    assert!(out.status.success(), "{}: {}", out.status, String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// What is to be the same in the payload (`/proc/1`) and in what entered (`/proc/self`).
const SAME: &str = "for p in 1 self; do
    for n in user mnt pid net ipc uts cgroup time; do readlink /proc/$p/ns/$n; done
    grep -E '^(Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp|Seccomp_filters):' /proc/$p/status
    readlink /proc/$p/root; cat /proc/$p/cgroup
    sed -n '/Max core\\|Max open\\|Max processes/p' /proc/$p/limits
    echo --; done";

fn same(child: &Child) {
    let text = sh(child, SAME);
    let [payload, entered, ..] = text.split("--\n").collect::<Vec<_>>()[..] else { panic!("{text}") };
    assert!(payload.lines().count() > 20, "{text}");
    assert_eq!(payload, entered);
}

fn end(mut child: Child) {
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
}

#[test]
fn it_is_where_the_payload_is_and_may_do_as_much() {
    let child = living(Sandbox::builder().env("HOME", "/tmp"));
    same(&child);
    assert_eq!(sh(&child, "hostname; pwd; echo $HOME"), "sandbox\n/\n/tmp\n");
    // It is a process like others of the pid namespace, whose parent is outside.
    let pids = sh(&child, "echo $$ $PPID; ls /proc | grep -c '^[0-9]*$'");
    let words: Vec<u32> = pids.split_whitespace().map(|word| word.parse().unwrap()).collect();
    assert!(words[0] > 1 && words[1] == 0 && words[2] >= 3, "{pids}");
    end(child);
}

#[test]
fn every_sort_of_sandbox_can_be_entered() {
    let caps = CapabilitySet::EMPTY.with(Capability::Chown).with(Capability::NetAdmin);
    let mut builders = vec![
        Sandbox::builder().user(0, 0).capabilities(caps),
        Sandbox::builder().dangerously_unfiltered(),
        Sandbox::builder().share(Namespace::Net).share(Namespace::Ipc).share(Namespace::Uts),
    ];
    if is_root() {
        use palisade::creds::{IdMap, Maps};
        let range = || IdMap::range(0, 100_000, 70_000).unwrap();
        let maps = || Maps::new(range(), IdMap::range(0, 100_000, 70_000).unwrap());
        builders.extend([
            Sandbox::builder().share(Namespace::User),
            Sandbox::builder().share(Namespace::User).user(1234, 1234).capabilities(caps),
            Sandbox::builder().id_maps(maps()),
            Sandbox::builder()
                .id_maps(maps())
                .user(1000, 1000)
                .allow_privilege_escalation(true)
                .dangerously_unfiltered(),
        ]);
    }
    for builder in builders {
        let shown = format!("{builder:?}");
        let child = living(builder);
        let same = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| same(&child)));
        assert!(same.is_ok(), "{shown}");
        end(child);
    }
}

#[test]
fn it_has_the_surface_of_every_command() {
    let child = living(Sandbox::builder());
    let out = child
        .exec("sh")
        .args(["-c", "cat; echo $0 $X $Y; pwd; umask; read l <&7; echo $l; echo e >&2; exit 3"])
        .arg0("renamed")
        .env("X", "1")
        .env_remove("HOME")
        .current_dir("/tmp")
        .umask(0o27)
        .fd(7, std::fs::File::open("/etc/hostname").map_or_else(|_| null(), Into::into))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(text.starts_with("renamed 1\n/tmp\n0027\n") && out.stderr == b"e\n", "{text}");
    assert_eq!(out.status.code(), Some(3));
    assert!(out.status.usage().is_some(), "collected with its figures");

    let mut cat = child.exec("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(cat.stdin.as_mut().unwrap(), b"through").unwrap();
    assert_eq!(cat.try_wait().unwrap(), None);
    assert_eq!(cat.wait_with_output().unwrap().stdout, b"through");

    let status = child.exec("sleep").arg("1000").timeout(Duration::from_millis(50)).status().unwrap();
    assert_eq!(status.cause(), ExitCause::TimedOut);
    let mut sleeper = child.exec("sleep").arg("1000").spawn().unwrap();
    sleeper.signal(libc::SIGTERM).unwrap();
    assert_eq!(sleeper.wait().unwrap().signal(), Some(libc::SIGTERM));

    // From what entered, too.
    let sleeper = child.exec("sleep").arg("1000").spawn().unwrap();
    assert_eq!(sh(&sleeper, "echo in"), "in\n");
    let id = sleeper.id();
    drop(sleeper);
    assert!(wait_until(Duration::from_secs(10), || !std::path::Path::new(&format!("/proc/{id}")).exists()));
    assert_eq!(sh(&child, "echo still"), "still\n");
    end(child);
}

fn null() -> std::os::fd::OwnedFd {
    std::fs::File::open("/dev/null").unwrap().into()
}

#[test]
fn what_cannot_be_executed_is_an_error_and_leaves_nothing() {
    let child = living(Sandbox::builder());
    sh(&child, ":");
    let before = Snapshot::take();
    for (program, errno) in [("/no/such", libc::ENOENT), ("nosuchname", libc::ENOENT), ("/etc", libc::EACCES)]
    {
        let error = child.exec(program).spawn().unwrap_err();
        assert_eq!((error.kind(), error.errno()), (ErrorKind::Exec, Some(errno)), "{error}");
    }
    // CVE-2024-21626: a working directory by a descriptor.
    for directory in ["/proc/self/fd/3", "/proc/self/fd/5", "/proc/1/cwd", "/proc/self/root"] {
        let error = child.exec("/bin/true").current_dir(directory).spawn().unwrap_err();
        assert_eq!(error.step(), palisade::Step::WorkingDirectory, "{error}");
    }
    before.assert_unchanged();
    end(child);
}

#[test]
fn a_sandbox_that_has_ended_is_gone() {
    let mut child = living(Sandbox::builder());
    let command = child.exec("/bin/true");
    child.kill().unwrap();
    child.wait().unwrap();
    for command in [command, child.exec("/bin/true")] {
        let error = command.spawn().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Gone, "{error}");
    }
}

/// The end of the sandbox at any moment of an exec: an error, or a program that ended with it.
#[test]
fn the_end_of_the_sandbox_during_an_exec_leaves_no_process() {
    let sandbox = Sandbox::new().unwrap();
    let start = || {
        let mut command = sandbox.command("/bin/cat");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
    };
    let first = start();
    let begin = Instant::now();
    drop(first.exec("/bin/sleep").arg("1000").spawn().unwrap());
    let usual = begin.elapsed();
    drop(first);
    let (mut gone, mut ran) = (0, 0);
    for round in 0..60u32 {
        let mut child = start();
        let mut command = child.exec("/bin/sleep");
        command.arg("1000").stdin(Stdio::null()).stdout(Stdio::null());
        let exec = std::thread::spawn(move || command.spawn());
        std::thread::sleep(usual * round / 40);
        child.kill().unwrap();
        child.wait().unwrap();
        match exec.join().unwrap() {
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Gone, "{error}");
                gone += 1;
            }
            Ok(mut entered) => {
                assert_eq!(entered.wait().unwrap().signal(), Some(libc::SIGKILL));
                ran += 1;
            }
        }
    }
    println!("{gone} gone, {ran} ran");
    assert!(gone > 0);
    assert!(wait_until(Duration::from_secs(10), || children().is_empty()), "{:?}", children());
}

/// Pids of this process's children.
fn children() -> Vec<u32> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let lists = tasks.map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default());
    lists.collect::<Vec<_>>().join(" ").split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// A pid namespace ends when all in it were waited for, those with a parent outside included.
#[test]
fn the_sandbox_ends_though_nobody_waits_for_what_entered() {
    let mut child = living(Sandbox::builder());
    let mut entered: Vec<Child> =
        (0..3).map(|_| child.exec("/bin/sleep").arg("1000").spawn().unwrap()).collect();
    child.kill().unwrap();
    let status = child.wait_timeout(scaled(Duration::from_secs(20))).unwrap();
    assert_eq!(status.unwrap().signal(), Some(libc::SIGKILL));
    for entered in &mut entered {
        assert_eq!(entered.wait().unwrap().signal(), Some(libc::SIGKILL));
        assert!(entered.signal(libc::SIGTERM).is_ok(), "nothing to hit");
    }
}

/// What entered may make siblings of itself, whose parent is the host program: they keep nothing from ending.
#[test]
fn siblings_made_by_what_entered_are_waited_for() {
    let mut child = living(Sandbox::builder().dangerously_unfiltered());
    // CLONE_PARENT | SIGCHLD; one sibling ends at once, one stays.
    let script = "import ctypes,os,time
libc=ctypes.CDLL(None)
for life in (0,1000):
    if libc.syscall(56,0x8000|17,0,0,0,0)==0:
        time.sleep(life); os._exit(0)
print('made',flush=True)
time.sleep(1000)";
    let mut command = child.exec("python3");
    let Ok(mut entered) = command.args(["-c", script]).stdout(Stdio::piped()).spawn() else {
        skip!("python3 is not in the host's /usr", needs = "tool")
    };
    let mut line = String::new();
    BufReader::new(entered.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "made\n");
    child.kill().unwrap();
    assert!(child.wait_timeout(scaled(Duration::from_secs(20))).unwrap().is_some(), "the sandbox hangs");
    assert_eq!(entered.wait().unwrap().signal(), Some(libc::SIGKILL));
    assert!(wait_until(Duration::from_secs(10), || children().is_empty()), "{:?}", children());
}

#[test]
fn many_may_enter_at_once() {
    let child = living(Sandbox::builder());
    std::thread::scope(|scope| {
        for n in 0..8 {
            let child = &child;
            scope.spawn(move || {
                for m in 0..4 {
                    assert_eq!(sh(child, &format!("echo {n}.{m}")), format!("{n}.{m}\n"));
                }
            });
        }
    });
    end(child);
}

/// A `wait` of the host program's own, and an ignored SIGCHLD.
#[test]
fn a_status_taken_by_the_host_program_is_not_lost() {
    for ignored in [false, true] {
        palisade_testkit::in_child(|| {
            if ignored {
                common::set_handler(Signal::SIGCHLD, SigHandler::SigIgn);
            }
            let child = living(Sandbox::builder());
            let mut entered = child.exec("/bin/sh").args(["-c", "sleep 0.2; exit 7"]).spawn().unwrap();
            while !ignored && common::reap_any() != entered.id() as i32 {
                if entered.try_wait().unwrap_or_default().is_some() {
                    break; // our thread was faster
                }
            }
            match entered.wait() {
                Ok(status) => assert_eq!(status.code(), Some(7)),
                Err(error) => assert_eq!(error.kind(), ErrorKind::StatusTaken, "{error}"),
            }
            let status = child.exec("/bin/true").spawn().unwrap().wait();
            assert!(status.is_ok_and(|status| status.success()), "the sandbox can still be entered");
        });
    }
}
