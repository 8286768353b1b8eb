//! Waiting, killing, collecting.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::Read;
use std::time::{Duration, Instant};

use palisade::{Child, Command, ErrorKind, ExitCause, Sandbox, Stdio};
use palisade_testkit::{in_child, scaled, skip, wait_until};

#[path = "common/sys.rs"]
mod common;

fn sandbox() -> Sandbox {
    Sandbox::new().expect("the secure default is possible here")
}

fn sh(script: &str) -> Command {
    let mut command = sandbox().command("/bin/sh");
    command.arg("-c").arg(script);
    command
}

fn sleeper() -> Child {
    sh("sleep 1000").spawn().unwrap()
}

fn alive(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn waiting_tells_running_from_ended() {
    let mut child = sleeper();
    assert_eq!(child.try_wait().unwrap(), None);
    let start = Instant::now();
    assert_eq!(child.wait_timeout(Duration::from_millis(50)).unwrap(), None);
    assert!(start.elapsed() >= Duration::from_millis(50));
    assert!(alive(child.id()));
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert_eq!((status.cause(), status.signal(), status.code()), (ExitCause::Signaled(9), Some(9), None));
    assert!(!status.success());
    assert!(!alive(child.id()), "waited for");
    // Again and after the end: the same answer, and no other process is hit.
    assert_eq!(child.wait().unwrap(), status);
    assert_eq!(child.try_wait().unwrap(), Some(status));
    child.kill().unwrap();
    child.signal(libc::SIGTERM).unwrap();
}

#[test]
fn a_signal_reaches_the_payload() {
    let mut child = sh("trap 'echo got; exit 3' USR1; echo ready; while :; do sleep 0.01; done")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut ready = [0; 6];
    out.read_exact(&mut ready).unwrap();
    child.signal(libc::SIGUSR1).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert_eq!(std::io::read_to_string(out).unwrap(), "got\n");
    let error = sleeper().signal(4000).unwrap_err();
    assert_eq!((error.kind(), error.errno()), (ErrorKind::Supervise, Some(libc::EINVAL)));
    assert!(error.to_string().contains("4000") && error.hint().unwrap().contains("1 to 64"), "{error}");
}

#[test]
fn a_timeout_kills_and_says_so() {
    let start = Instant::now();
    let status = sh("sleep 1000").timeout(Duration::from_millis(100)).status().unwrap();
    assert_eq!(status.cause(), ExitCause::TimedOut);
    assert!(
        start.elapsed() >= Duration::from_millis(100) && start.elapsed() < scaled(Duration::from_secs(20))
    );
    // Ignoring every signal, stopping itself, spinning: all end.
    for script in [
        "trap '' TERM INT HUP; sleep 1000",
        "kill -STOP $$; sleep 1000",
        "while :; do :; done",
        "setsid sleep 1000 & sleep 1000",
    ] {
        let out = sh(script).timeout(Duration::from_millis(200)).output().unwrap();
        assert_eq!(out.status.cause(), ExitCause::TimedOut, "{script}");
    }
    // In time: not touched.
    assert!(sh("exit 0").timeout(scaled(Duration::from_secs(60))).status().unwrap().success());
    // Through try_wait, too.
    let mut child = sh("sleep 1000").timeout(Duration::from_millis(50)).spawn().unwrap();
    assert!(wait_until(Duration::from_secs(20), || child.try_wait().unwrap().is_some()));
    assert_eq!(child.wait().unwrap().cause(), ExitCause::TimedOut);
}

#[test]
fn death_by_a_filter_says_so() {
    use palisade::secfilter::{Action, Policy, Rule};
    let policy = Policy::new(Action::Allow).rule(Rule::new(["mkdir", "mkdirat"], Action::KillProcess));
    let sandbox = Sandbox::builder().seccomp(policy).build().unwrap();
    let status = sandbox.command("/bin/mkdir").arg("/tmp/x").status().unwrap();
    assert_eq!(status.cause(), ExitCause::Signaled(libc::SIGSYS));
    assert!(status.hint().unwrap().contains("seccomp") && status.to_string().contains("seccomp"), "{status}");
    // A filter that would kill the exec itself is refused before anything runs.
    let policy = Policy::new(Action::Allow).rule(Rule::new(["execve"], Action::KillProcess));
    let error = Sandbox::builder().seccomp(policy).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidSpec, "{error}");
}

#[test]
fn a_time_that_no_clock_reaches_is_no_timeout() {
    assert!(sh("exit 0").timeout(Duration::MAX).status().unwrap().success());
    assert!(sh("exit 0").spawn().unwrap().wait_timeout(Duration::MAX).unwrap().is_some());
}

/// Found in review: a time-out that came just as the set-up ended left the payload running, or its zombie.
#[test]
fn stress_a_set_up_that_times_out_at_the_last_moment_leaves_nothing() {
    let time = |limit| Sandbox::builder().setup_timeout(limit).build().unwrap();
    let start = Instant::now();
    drop(time(Duration::from_secs(30)).command("/bin/sleep").arg("4545").spawn().unwrap());
    let usual = start.elapsed();
    let mut late = 0;
    for round in 0..200u32 {
        // Around the time that a set-up takes.
        let sandbox = time(usual * (60 + round % 80) / 100);
        late += u32::from(sandbox.command("/bin/sleep").arg("4545").spawn().is_err());
    }
    let left = || {
        let ours = std::fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let parent =
                stat.rsplit(')').next().and_then(|rest| rest.split(' ').nth(2)).and_then(|p| p.parse().ok());
            parent == Some(std::process::id())
        });
        ours.count()
    };
    assert!(wait_until(Duration::from_secs(20), || left() == 0), "{} left of {late} late ones", left());
}

/// Found in review: a payload that names itself like the stage made a spawn look failed.
#[test]
fn a_payloads_name_does_not_matter() {
    let script = "import ctypes; ctypes.CDLL(None).prctl(15, b'palisade-stage', 0, 0, 0)";
    for _ in 0..20 {
        match sandbox().command("python3").args(["-c", script]).status() {
            Ok(status) => assert!(status.success(), "{status}"),
            Err(error) => assert_eq!(error.errno(), Some(libc::ENOENT), "{error}"),
        }
    }
}

/// Found in review: the drop of a forked copy killed the original's payload.
#[test]
fn a_forked_copy_ends_nothing_when_it_is_dropped() {
    let mut child = Some(sleeper());
    let forked = common::fork(|| drop(child.take()));
    common::reap(forked);
    let mut child = child.unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(child.try_wait().unwrap(), None);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A103.
#[test]
fn a_gigabyte_on_both_streams_is_collected_without_deadlock() {
    let mut command = sh("head -c 536870912 /dev/zero >&2 & head -c 536870912 /dev/zero; wait");
    let out = command.output_limit(1 << 30).output().unwrap();
    assert!(out.status.success(), "{}", out.status);
    assert_eq!((out.stdout.len(), out.stderr.len()), (512 << 20, 512 << 20));
}

#[test]
fn output_is_limited() {
    let out = sh("cat /dev/zero").output_limit(100_000).output().unwrap();
    assert_eq!(out.status.cause(), ExitCause::OutputLimit);
    assert_eq!(out.stdout.len(), 100_000);
    let out = sh("head -c 100000 /dev/zero").output_limit(100_000).output().unwrap();
    assert!(out.status.success(), "exactly the limit is allowed: {}", out.status);
    assert_eq!(out.stdout.len(), 100_000);
}

#[test]
fn closed_streams_do_not_end_the_wait() {
    let start = Instant::now();
    let out = sh("exec >&- 2>&-; sleep 0.3; exit 7").output().unwrap();
    assert_eq!(out.status.code(), Some(7));
    assert!(start.elapsed() >= Duration::from_millis(300));
}

/// A93, A95: whatever the payload left behind ends with it.
#[test]
fn descendants_end_with_the_payload() {
    let out =
        sh("(setsid sleep 4242 >/dev/null 2>&1 &) ; (trap '' HUP; sleep 4242) >/dev/null 2>&1 & exit 0")
            .output()
            .unwrap();
    assert!(out.status.success());
    let left = std::fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
        std::fs::read(entry.path().join("cmdline")).is_ok_and(|line| line == b"sleep\x004242\0")
    });
    assert_eq!(left.count(), 0);
}

#[test]
fn a_dropped_child_is_killed_and_leaves_no_zombie() {
    let child = sh("sleep 1000 & sleep 1000").spawn().unwrap();
    let pid = child.id();
    let start = Instant::now();
    drop(child);
    assert!(start.elapsed() < scaled(Duration::from_millis(500)), "a drop does not block");
    assert!(wait_until(Duration::from_secs(10), || !alive(pid)));
}

#[test]
fn the_pidfd_fits_an_event_loop() {
    use nix::poll::{PollFd, PollFlags, poll};
    let child = sh("sleep 0.1").spawn().unwrap();
    let mut fds = [PollFd::new(child.pidfd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, 60_000u16).unwrap(), 1);
}

/// An exec makes a child one that reports to its parent by SIGCHLD, whatever the clone said: a host program's own
/// `waitpid(-1)` may be faster.
#[test]
fn a_status_taken_by_the_host_programs_reaper_is_not_lost() {
    in_child(|| {
        let mut child = sh("exit 7").spawn().unwrap();
        assert!(wait_until(Duration::from_secs(10), || common::reap_any() == child.id() as i32));
        match child.wait() {
            Ok(status) => assert_eq!((status.code(), status.usage()), (Some(7), None)),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::StatusTaken);
                assert!(!kernel_keeps_status(), "{error}");
            }
        }
    });
}

#[test]
fn an_ignored_sigchld_loses_no_status() {
    use nix::sys::signal::{SigHandler, Signal};
    in_child(|| {
        common::set_handler(Signal::SIGCHLD, SigHandler::SigIgn);
        for code in [0, 7] {
            let result = sh(&format!("exit {code}")).output();
            match result {
                Ok(out) => assert_eq!(out.status.code(), Some(code)),
                Err(error) => assert!(!kernel_keeps_status(), "{error}"),
            }
        }
        assert!(sandbox().command("/no/such/program").output().is_err());
    });
}

/// Nothing but its status tells then that a set-up was killed during its exec; what died by a signal counts as killed.
#[test]
fn a_killed_set_up_that_somebody_else_waited_for_is_no_payload() {
    use nix::sys::signal::{SigHandler, Signal};
    if !kernel_keeps_status() {
        skip!("before Linux 6.15 nothing tells");
    }
    let mut command = sandbox().command("true");
    command.env("PATH", "/nowhere:/bin").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut plan = command.plan().unwrap();
    let stage = plan.programs_mut()[2].clone();
    // The first candidate's exec fails, so the stage is in the state of executing; its filter kills it then.
    let second = (0..stage.len()).rfind(|&index| stage.object(index) == Some("/bin/true")).unwrap();
    plan.programs_mut()[2].inject(second, palisade_sys::Injected::Foreign);
    let refused = |plan: &palisade::Plan| {
        for _ in 0..30 {
            let error = plan.clone().spawn().expect_err("a killed set-up");
            assert_eq!(error.kind(), ErrorKind::SetupKilled, "{error}");
            assert!(error.hint().is_some_and(|hint| hint.contains("seccomp")), "{error}");
        }
    };
    in_child(|| {
        common::set_handler(Signal::SIGCHLD, SigHandler::SigIgn);
        refused(&plan);
    });
    in_child(|| {
        std::thread::spawn(|| {
            loop {
                common::reap_any();
            }
        });
        refused(&plan);
    });
}

/// Since 6.15 a pidfd gives the status after it was collected.
fn kernel_keeps_status() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|n| n.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(15))
}
