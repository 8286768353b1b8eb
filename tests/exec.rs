//! A further program in a living sandbox.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigHandler, Signal};
use palisade::creds::{Capability, CapabilitySet};
use palisade::ns::{Namespace, pidfd_open};
use palisade::secfilter::{Action, Policy, Rule};
use palisade::{Child, ErrorKind, ExitCause, Output, Sandbox, SandboxBuilder, Stdio};
use palisade_sys::Injected;
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
fn a_sandbox_with_an_init_is_entered_beside_its_payload() {
    let mut child = living(Sandbox::builder().init(true));
    assert_eq!(
        sh(&child, "cat /proc/2/comm; test $$ -gt 2 && grep NoNewPrivs /proc/self/status"),
        "cat\nNoNewPrivs:\t1\n"
    );
    let mut entered = child.exec("/bin/sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    assert_eq!(entered.wait().unwrap().signal(), Some(libc::SIGKILL));
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

/// A56, CVE-2016-9962, CVE-2019-5736: what runs inside looks at everything that enters, with all capabilities of its
/// user namespace and the same user.
#[test]
fn stress_an_attacker_inside_gets_nothing_of_what_enters() {
    let canary = palisade_testkit::temp_dir();
    std::fs::write(canary.path().join("secret"), "secret").unwrap();
    // Descriptors that the host program forgot to close.
    let open = [canary.path().to_owned(), canary.path().join("secret")].map(|path| {
        let file = std::fs::File::open(path).unwrap();
        nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
        file
    });
    let all = CapabilitySet::supported().unwrap();
    let builder = Sandbox::builder().user(0, 0).capabilities(all).dangerously_unfiltered();
    let script = include_str!("common/attacker.py");
    let sandbox = builder.build().unwrap();
    let mut command = sandbox.command("python3");
    let command = command.arg("-c").arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
    let Ok(mut child) = command.spawn() else { skip!("python3 is not in the host's /usr", needs = "tool") };
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "READY");
    for _ in 0..1000 {
        let mut command = child.exec("/bin/true");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let status = command.timeout(Duration::from_secs(20)).status().unwrap();
        assert!(status.success(), "{status}");
    }
    // The attacks work: an ordinary program of the sandbox is attached to.
    let mut ordinary = child.exec("/bin/sleep").arg("1000").spawn().unwrap();
    std::thread::sleep(scaled(Duration::from_millis(200)));
    ordinary.kill().unwrap();
    drop(child.stdin.take());
    let said: Vec<String> = lines.map(Result::unwrap).collect();
    child.wait().unwrap();
    drop(open);
    println!("{said:?}");
    let [last] = &said[..] else { panic!("{said:#?}") };
    let figures: Vec<u32> = last.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert!(last.starts_with("MET ") && figures[0] > 100 && figures[1] > 100 && figures[2] > 0, "{last}");
}

/// What is traced inside when it ends is not waited for by the host program; its status is told all the same.
#[test]
fn a_program_that_is_traced_inside_still_ends() {
    let all = CapabilitySet::supported().unwrap();
    let mut child = living(Sandbox::builder().user(0, 0).capabilities(all).dangerously_unfiltered());
    let script = "import ctypes,sys,time
libc=ctypes.CDLL(None)
print(libc.ptrace(0x4206,int(sys.argv[1]),0,0),flush=True)
time.sleep(1000)";
    let mut entered = child.exec("/bin/sh");
    let entered = entered.args(["-c", "echo $$; exec cat"]);
    let mut entered = entered.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut pid = String::new();
    BufReader::new(entered.stdout.as_mut().unwrap()).read_line(&mut pid).unwrap();
    let mut tracer = child.exec("python3");
    let Ok(mut tracer) = tracer.args(["-c", script, pid.trim()]).stdout(Stdio::piped()).spawn() else {
        skip!("python3 is not in the host's /usr", needs = "tool")
    };
    let mut said = String::new();
    BufReader::new(tracer.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "0\n");
    entered.kill().unwrap();
    assert_eq!(entered.wait().unwrap().signal(), Some(libc::SIGKILL));
    child.kill().unwrap();
    assert!(child.wait_timeout(scaled(Duration::from_secs(20))).unwrap().is_some(), "the sandbox hangs");
    assert!(wait_until(Duration::from_secs(10), || children().is_empty()), "{:?}", children());
}

fn broken(plan: &mut palisade::Plan, part: usize, index: usize, what: Injected) -> bool {
    let program = &mut plan.programs_mut()[part];
    program.inject(index, what);
    program.is_conditional(index)
}

#[test]
fn stress_an_exec_that_fails_or_ends_anywhere_names_its_step_and_leaves_nothing() {
    let child = living(Sandbox::builder());
    let mut command = child.exec("/bin/true");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut plan = command.plan().unwrap();
    let text = plan.to_string();
    plan.clone().spawn().unwrap().wait().unwrap();
    let steps: [Vec<_>; 3] = plan.programs_mut().map(|program| program.steps().collect());
    for steps in &steps {
        assert!(steps.is_sorted(), "{steps:?}");
        assert!(steps.iter().all(|step| text.contains(step.name())), "{text}");
    }
    let before = Snapshot::take();
    for (part, steps) in steps.iter().enumerate() {
        for (index, &step) in steps.iter().enumerate() {
            let mut plan_ = plan.clone();
            let conditional = broken(&mut plan_, part, index, Injected::Errno(libc::ENOMEM));
            match plan_.spawn() {
                Ok(mut child) => assert!(conditional && child.wait().unwrap().success(), "{part}.{index}"),
                Err(error) => {
                    assert_eq!(
                        (error.step(), error.errno()),
                        (step, Some(libc::ENOMEM)),
                        "{part}.{index}: {error}"
                    );
                }
            }
            if part == 2 {
                let mut plan_ = plan.clone();
                if !broken(&mut plan_, part, index, Injected::Exit) {
                    let error = plan_.spawn().expect_err("an ended set-up");
                    assert_eq!(error.kind(), ErrorKind::SetupKilled, "{index}: {error}");
                }
            }
        }
    }
    assert!(wait_until(Duration::from_secs(5), || children() == [child.id()]), "{:?}", children());
    before.assert_unchanged();
    assert_eq!(sh(&child, "echo still"), "still\n");
    end(child);
}

/// A process inside with the same user can stop what enters: that ends at the set-up's time, with nothing left.
#[test]
fn an_exec_that_hangs_inside_ends_at_its_timeout() {
    let child = living(Sandbox::builder().setup_timeout(Duration::from_secs(1)));
    let mut command = child.exec("/bin/true");
    let plan = command.stdin(Stdio::null()).plan().unwrap();
    plan.clone().spawn().unwrap().wait().unwrap();
    let before = Snapshot::take();
    let last = plan.clone().programs_mut()[2].len() - 2;
    for index in [5, last] {
        let mut plan = plan.clone();
        broken(&mut plan, 2, index, Injected::Hang);
        let error = plan.spawn().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SetupTimeout, "{error}");
    }
    before.assert_unchanged();
    end(child);
}

/// Processes that are not children of this program: the sandbox must describe them.
#[test]
fn a_process_of_others_is_entered_with_a_sandbox_that_describes_it() {
    let child = living(Sandbox::builder());
    let pidfd = || pidfd_open(child.id()).unwrap();
    let run = |builder: SandboxBuilder, script: &str| {
        let sandbox = builder.build().unwrap();
        sandbox.exec_in(pidfd(), "/bin/sh").args(["-c", script]).output()
    };
    let text = |out: Output| String::from_utf8(out.stdout).unwrap();
    let out = text(run(Sandbox::builder(), SAME).unwrap());
    let [payload, entered, ..] = out.split("--\n").collect::<Vec<_>>()[..] else { panic!("{out}") };
    assert_eq!(payload, entered);
    // More restricted than the payload: its policy is the caller's.
    let policy =
        Policy::new(Action::Allow).rule(Rule::new(["mkdir", "mkdirat"], Action::Errno(libc::EXDEV as u16)));
    let out = run(Sandbox::builder().seccomp(policy), "mkdir /tmp/x").unwrap();
    assert!(String::from_utf8_lossy(&out.stderr).contains("cross-device"), "{out:?}");

    let caps = CapabilitySet::EMPTY.with(Capability::Chown);
    let mut bad = vec![
        (Sandbox::builder().capabilities(caps), "capabilities: CAP_CHOWN"),
        (Sandbox::builder().share(Namespace::Net), "in another net namespace"),
        (Sandbox::builder().user(0, 0), "user: 0:0 of the sandbox"),
    ];
    if is_root() {
        bad.push((Sandbox::builder().share(Namespace::User), "in another user namespace"));
    }
    for (builder, part) in bad {
        let error = run(builder, ":").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSpec, "{error}");
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
    // The host program's own process shares everything.
    let own = pidfd_open(std::process::id()).unwrap();
    let error = Sandbox::new().unwrap().exec_in(own, "/bin/true").spawn().unwrap_err();
    assert!(error.to_string().contains("shares the net namespace"), "{error}");
    let gone = pidfd();
    end(child);
    let error = Sandbox::new().unwrap().exec_in(gone, "/bin/true").spawn().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Gone, "{error}");
}

/// Without a user namespace a capability inside reaches what enters while that still has more.
#[test]
fn who_may_trace_with_the_hosts_users_is_not_entered() {
    if !is_root() {
        skip!("takes root");
    }
    let trace = CapabilitySet::EMPTY.with(Capability::SysPtrace);
    let builder = || Sandbox::builder().share(Namespace::User).capabilities(trace);
    let child = living(builder());
    let error = child.exec("/bin/true").status().unwrap_err();
    assert!(error.to_string().contains("CAP_SYS_PTRACE"), "{error}");
    end(child);
    let mut asleep = builder().build().unwrap().command("/bin/sleep").arg("1000").spawn().unwrap();
    asleep.signal_tree(libc::SIGTERM).unwrap();
    asleep.stop(libc::SIGTERM, Duration::from_millis(100)).unwrap();
}
