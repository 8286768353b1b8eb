//! Spawning into a cgroup with limits: needs a delegated, pure cgroup v2.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use palisade::cgroup::{Bytes, Cgroup, Limits};
use palisade::{Command, ErrorKind, ExitCause, Sandbox, SandboxBuilder};
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

fn children(parent: &Cgroup) -> usize {
    parent
        .children()
        .unwrap()
        .into_iter()
        .filter(|child| child.path().to_string_lossy().contains("palisade"))
        .count()
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
    let status = sh(&sandbox, "exec tail -c 200000000 /dev/zero").status().unwrap();
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
                    assert!(status.success() || status.cause() == ExitCause::OutOfMemory, "{limit}: {status}")
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
    assert!(wait_until(Duration::from_secs(10), || frozen.children().unwrap().is_empty()));
}

#[test]
fn a_caller_outside_a_delegated_tree_is_told_the_remedy() {
    let parent = parent!();
    // No controller is enabled below a leaf: a limit there can't be enforced, and nothing runs without it.
    let leaf = parent.create_unique("palisade-leaf", &Limits::new()).unwrap();
    let sandbox = Sandbox::builder()
        .cgroup_parent(
            Cgroup::open("/sys/fs/cgroup")
                .unwrap()
                .child("no-such-group-of-ours")
                .unwrap_or_else(|_| Cgroup::open(leaf.path()).unwrap()),
        )
        .cgroup(Limits::new().memory_max(bytes("64M")))
        .build()
        .unwrap();
    match sandbox.command("/bin/true").spawn() {
        Ok(child) => assert!(child.cgroup().is_some_and(|group| group.path().join("memory.max").exists())),
        Err(error) => {
            assert!(error.step() == palisade::Step::Cgroup && error.to_string().len() > 40, "{error}")
        }
    }
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
