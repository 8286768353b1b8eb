//! Spawning into a cgroup with limits: needs a delegated, pure cgroup v2.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use palisade::cgroup::{Bytes, Cgroup, Limits};
use palisade::ns::Namespace;
use palisade::{Command, ErrorKind, ExitCause, Sandbox, SandboxBuilder, Stdio};
use palisade_testkit::{cgroup_dir, skip, wait_until};

macro_rules! parent {
    () => {
        match cgroup_dir() {
            Some(path) => Cgroup::open(path).unwrap(),
            None => skip!("no delegated cgroup v2 directory", needs = "controllers"),
        }
    };
}

fn bytes(text: &str) -> Bytes {
    text.parse().unwrap()
}

fn builder(parent: &Cgroup, limits: Limits) -> SandboxBuilder {
    Sandbox::builder().cgroup_parent(parent.clone()).cgroup(limits)
}

fn sh(sandbox: &Sandbox, script: &str) -> Command {
    let mut command = sandbox.command("/bin/sh");
    command.arg("-c").arg(script);
    command
}

/// Cgroups of payloads of this process: they are in its one group below the parent.
fn children(parent: &Cgroup) -> usize {
    let own = format!("palisade-{}-", std::process::id());
    let groups = parent.children().unwrap().into_iter();
    groups
        .filter(|group| group.path().file_name().is_some_and(|name| name.to_string_lossy().starts_with(&own)))
        .map(|group| group.children().map_or(0, |children| children.len()))
        .sum()
}

#[test]
fn a_payload_is_born_inside_its_limits() {
    let parent = parent!();
    let sandbox = builder(&parent, Limits::new().memory_max(bytes("64M")).pids_max(16)).build().unwrap();
    let mut child = sh(&sandbox, "cat /proc/self/cgroup; sleep 1000").spawn().unwrap();
    let own = child.cgroup().unwrap().clone();
    assert_eq!(own.procs().unwrap()[0], child.id());
    let read = |file: &str| std::fs::read_to_string(own.path().join(file)).unwrap();
    assert_eq!((read("memory.max").trim(), read("pids.max").trim()), ("67108864", "16"));
    child.kill().unwrap();
    child.wait().unwrap();
    drop(child);
    assert!(wait_until(Duration::from_secs(5), || !own.path().exists()), "removed with its child");
}

#[test]
fn out_of_memory_is_told_from_a_signal() {
    let parent = parent!();
    let sandbox =
        builder(&parent, Limits::new().memory_max(bytes("32M")).memory_swap_max(bytes("0"))).build().unwrap();
    let status = sh(&sandbox, "exec dd if=/dev/zero of=/dev/null bs=200M count=1").status().unwrap();
    assert_eq!(status.cause(), ExitCause::OutOfMemory, "{status}");
    let status = sh(&sandbox, "exec tail -c 1000 /etc/passwd").status().unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn a_fork_bomb_stays_inside() {
    let parent = parent!();
    let sandbox = builder(&parent, Limits::new().pids_max(20)).build().unwrap();
    let out = sh(&sandbox, "f() { f | f & }; f; sleep 2; echo over")
        .timeout(Duration::from_secs(60))
        .output()
        .unwrap();
    assert!(out.status.cause() != ExitCause::OutOfMemory, "{}", out.status);
    assert!(wait_until(Duration::from_secs(10), || children(&parent) == 0));
}

/// A cgroup in which nothing can be executed: an error that says so, and the host program lives.
#[test]
fn too_little_memory_to_begin_never_takes_the_host_program() {
    let parent = parent!();
    for limit in ["0", "4K", "64K", "128K", "256K"] {
        let sandbox = builder(&parent, Limits::new().memory_max(bytes(limit)).memory_swap_max(bytes("0")))
            .build()
            .unwrap();
        for _ in 0..3 {
            match sandbox.command("/bin/true").status() {
                Err(error) => assert!(
                    matches!(error.kind(), ErrorKind::SetupKilled | ErrorKind::Setup | ErrorKind::Exec),
                    "{limit}: {error}"
                ),
                Ok(status) => {
                    assert!(
                        status.success() || status.cause() == ExitCause::OutOfMemory,
                        "{limit}: {status}"
                    );
                }
            }
        }
    }
    assert!(wait_until(Duration::from_secs(10), || children(&parent) == 0));
}

#[test]
fn a_frozen_cgroup_ends_the_setup_at_its_timeout() {
    let parent = parent!();
    let frozen = parent.create_unique("palisade-frozen", &Limits::new()).unwrap();
    std::fs::write(frozen.path().join("cgroup.freeze"), "1").unwrap();
    let sandbox = Sandbox::builder()
        .cgroup_parent(Cgroup::open(frozen.path()).unwrap())
        .cgroup(Limits::new())
        .setup_timeout(Duration::from_secs(2))
        .build()
        .unwrap();
    let error = sandbox.command("/bin/true").spawn().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SetupTimeout, "{error}");
    std::fs::write(frozen.path().join("cgroup.freeze"), "0").unwrap();
    assert!(wait_until(Duration::from_secs(10), || children(&frozen) == 0));
}

/// A110: a limit that can't be had is an error, and nothing runs without it.
#[test]
fn a_limit_that_does_not_exist_is_an_error_before_anything_runs() {
    let parent = parent!();
    let limits = Limits::new().file("hugetlb.13MB.max".parse().unwrap(), "0");
    let error = builder(&parent, limits).build().unwrap().command("/bin/true").spawn().unwrap_err();
    assert_eq!(error.step(), palisade::Step::Cgroup, "{error}");
    assert!(error.to_string().contains("hugetlb"), "{error}");
    assert!(wait_until(Duration::from_secs(10), || children(&parent) == 0));
}

/// Two limits of one parent do not mix, and nothing is left of 100 spawns from 4 threads.
#[test]
fn many_spawns_leave_an_empty_tree() {
    let parent = parent!();
    let sandbox = builder(&parent, Limits::new().pids_max(16)).build().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..25 {
                    assert!(sandbox.command("/bin/true").status().unwrap().success());
                }
            });
        }
    });
    assert!(wait_until(Duration::from_secs(20), || children(&parent) == 0), "{} left", children(&parent));
}

/// Set in the environment of this test binary when it plays a host program that is to be killed.
const ROLE: &str = "PALISADE_TEST_ROLE";

/// The host program of the test below; by itself it does nothing.
#[test]
fn host_program() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let parent = parent!();
    // Shares the pid namespace: only the cgroup holds what the payload starts.
    let shared =
        builder(&parent, Limits::new()).share(Namespace::Pid).host_view(|view| view.proc(None)).build();
    let own = builder(&parent, Limits::new()).build();
    let mut children = Vec::new();
    for sandbox in [shared, own].into_iter().flatten() {
        children.push(
            sh(&sandbox, "setsid sleep 4343 & sleep 4343")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()
                .unwrap(),
        );
        println!("\nGROUP {}", children.last().unwrap().cgroup().unwrap().path().display());
    }
    println!("\nREADY");
    std::thread::sleep(Duration::from_secs(1000));
}

/// A97: after SIGKILL of the host program, neither a process nor a cgroup of it is left.
#[test]
fn a_killed_host_program_leaves_no_cgroup() {
    let _parent = parent!();
    let mut host = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "host_program", "--nocapture"])
        .env(ROLE, "1")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut groups = Vec::new();
    for line in std::io::BufRead::lines(std::io::BufReader::new(host.stdout.as_mut().unwrap())) {
        let line = line.unwrap();
        groups.extend(line.strip_prefix("GROUP ").map(std::path::PathBuf::from));
        if line == "READY" {
            break;
        }
    }
    assert!(!groups.is_empty());
    let populated = |group: &std::path::Path| {
        std::fs::read_to_string(group.join("cgroup.procs")).is_ok_and(|p| p.lines().count() >= 2)
    };
    assert!(
        wait_until(Duration::from_secs(10), || groups.iter().all(|group| populated(group))),
        "{groups:?}"
    );
    host.kill().unwrap();
    host.wait().unwrap();
    let gone = || groups.iter().all(|group| !group.exists() && !group.parent().unwrap().exists());
    assert!(wait_until(Duration::from_secs(10), gone), "{groups:?}");
}

/// Without a pid namespace the members of the cgroup get the signal, and have their time after the payload's end.
#[test]
fn a_cgroup_without_a_pid_namespace_is_stopped_as_a_whole() {
    use std::io::Read;
    let parent = parent!();
    let sandbox = builder(&parent, Limits::new())
        .share(Namespace::Pid)
        .host_view(|view| view.proc(None))
        .build()
        .unwrap();
    let polite = "trap 'echo first; exit 7' TERM; \
                  setsid sh -c 'trap \"sleep 0.2; echo second; exit 0\" TERM; echo ready; while :; do sleep 0.01; done' & \
                  while :; do wait; done";
    let deaf = "trap 'exit 8' TERM; setsid sh -c 'trap \"\" TERM; echo ready; while :; do sleep 1; done' & \
                while :; do wait; done";
    for (script, code, said) in [(polite, 7, "first\nsecond\n"), (deaf, 8, "")] {
        let mut child = sh(&sandbox, script).stdout(Stdio::piped()).spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        out.read_exact(&mut [0; 6]).unwrap();
        let grace = if code == 7 { Duration::from_secs(600) } else { Duration::from_secs(2) };
        assert_eq!(child.stop(15, grace).unwrap().code(), Some(code));
        let mut text = String::new();
        out.read_to_string(&mut text).unwrap();
        assert_eq!(text, said);
    }
}
