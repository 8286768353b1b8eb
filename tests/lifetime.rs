//! Whose death ends whom.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader};
use std::process::{Command as StdCommand, Stdio as StdStdio};
use std::time::{Duration, Instant};

use palisade::ns::Namespace;
use palisade::{ErrorKind, Lifetime, Sandbox, Stdio};
use palisade_testkit::{is_root, scaled, skip, wait_until};

#[path = "common/sys.rs"]
mod common;

/// Set in the environment of this test binary when it plays the host program that is to be killed.
const ROLE: &str = "PALISADE_TEST_ROLE";

fn alive(pid: u32) -> bool {
    // A zombie that its reaper has not seen yet is dead.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with('Z')))
}

/// Starts this binary as a host program that runs `role` and prints pids.
fn host(role: &str) -> std::process::Child {
    StdCommand::new(std::env::current_exe().unwrap())
        .args(["--exact", "host_program", "--nocapture", "--include-ignored"])
        .env(ROLE, role)
        .stdout(StdStdio::piped())
        .stderr(StdStdio::inherit())
        .spawn()
        .unwrap()
}

/// The host program of the tests below; by itself it does nothing.
#[test]
fn host_program() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let mut builder = Sandbox::builder();
    if role == "detached" {
        builder = builder.lifetime(Lifetime::Detached);
    }
    let sandbox = builder.build().unwrap();
    let spawn = |script: &str| {
        let mut command = sandbox.command("/bin/sh");
        let command = command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::null());
        command.spawn().unwrap()
    };
    match role.as_str() {
        "many" => {
            let children: Vec<_> =
                (0..4).map(|_| spawn("sleep 1000 & setsid sleep 1000 & sleep 1000")).collect();
            for child in &children {
                println!("\nPID {}", child.id());
            }
            println!("\nREADY");
            std::thread::sleep(Duration::from_secs(100));
        }
        "spawning" => {
            println!("\nREADY");
            loop {
                std::mem::forget(spawn("sleep 1000"));
            }
        }
        // With a capability to change ids, and without a filter, the parent-death signal could be cleared.
        "clearing" => {
            let caps = palisade::creds::Capability::Setuid;
            let caps = palisade::creds::CapabilitySet::EMPTY.with(caps);
            let sandbox = Sandbox::builder().capabilities(caps).dangerously_unfiltered().build().unwrap();
            let script = "import ctypes,time; ctypes.CDLL(None).prctl(1,0,0,0,0); print(1, flush=True); time.sleep(1000)";
            let mut command = sandbox.command("python3");
            let mut child =
                command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
            let mut line = [0; 2];
            std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
            println!("\nPID {}", child.id());
            println!("\nREADY");
            std::thread::sleep(Duration::from_secs(100));
        }
        "detached" => {
            let child = spawn("sleep 1000");
            println!("\nPID {}", child.id());
            println!("\nREADY");
        }
        other => panic!("no role {other}"),
    }
}

/// Pids that a host program printed before it said READY.
fn read_pids(host: &mut std::process::Child) -> Vec<u32> {
    let mut pids = Vec::new();
    for line in BufReader::new(host.stdout.as_mut().unwrap()).lines() {
        let line = line.unwrap();
        if let Some(pid) = line.strip_prefix("PID ") {
            pids.push(pid.parse().unwrap());
        }
        if line == "READY" {
            return pids;
        }
    }
    panic!("the host program ended early");
}

/// A97: nothing of the sandboxes is alive 100 ms after the host program was killed.
#[test]
fn sigkill_of_the_host_program_ends_its_sandboxes() {
    let mut host = host("many");
    let pids = read_pids(&mut host);
    assert!(pids.len() == 4 && pids.iter().all(|&pid| alive(pid)));
    let trees: Vec<u32> = pids.iter().flat_map(|&pid| descendants(pid)).collect();
    assert!(trees.len() >= 8, "{trees:?}");
    host.kill().unwrap();
    host.wait().unwrap();
    let start = Instant::now();
    let gone = || pids.iter().chain(&trees).all(|&pid| !alive(pid));
    assert!(wait_until(Duration::from_secs(10), gone), "left: {pids:?} {trees:?}");
    assert!(start.elapsed() < scaled(Duration::from_millis(100)), "took {:?}", start.elapsed());
}

/// A payload that did away with its parent-death signal has a guard.
#[test]
fn a_payload_that_clears_its_parent_death_signal_ends_all_the_same() {
    if !std::path::Path::new("/usr/bin/python3").exists() {
        skip!("python3 is not in the host's /usr", needs = "tool");
    }
    let mut host = host("clearing");
    let pids = read_pids(&mut host);
    assert!(alive(pids[0]));
    host.kill().unwrap();
    host.wait().unwrap();
    assert!(wait_until(Duration::from_secs(10), || !alive(pids[0])));
}

/// Killed at 40 different moments, some of them in the middle of a set-up.
#[test]
fn sigkill_at_any_moment_of_a_spawn_leaves_nothing() {
    for moment in 0..40u64 {
        let mut host = host("spawning");
        read_pids(&mut host);
        std::thread::sleep(Duration::from_micros(moment * 731));
        let before = descendants(host.id());
        host.kill().unwrap();
        host.wait().unwrap();
        let left = || before.iter().filter(|&&pid| alive(pid)).count();
        assert!(wait_until(Duration::from_secs(10), || left() == 0), "moment {moment}: {} left", left());
    }
}

fn descendants(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return found };
    for task in tasks.flatten() {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            found.push(child);
            found.extend(descendants(child));
        }
    }
    found
}

/// A98: a parent-death signal follows the thread that spawned; ours never ends.
#[test]
fn the_end_of_the_spawning_thread_changes_nothing() {
    let sandbox = Sandbox::new().unwrap();
    let mut child = std::thread::spawn(move || sandbox.command("/bin/sleep").arg("1000").spawn().unwrap())
        .join()
        .unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(child.try_wait().unwrap(), None);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The default filter keeps a payload from outliving its host program by clearing the signal.
#[test]
fn a_payload_cannot_clear_its_parent_death_signal() {
    let sandbox = Sandbox::new().unwrap();
    let script = "import ctypes,os\nlibc=ctypes.CDLL(None,use_errno=True)\nr=libc.prctl(1,0,0,0,0)\nprint(r,ctypes.get_errno())";
    let out = sandbox.command("python3").args(["-c", script]).output();
    let Ok(out) = out else { skip!("python3 is not in the host's /usr", needs = "tool") };
    assert_eq!(String::from_utf8_lossy(&out.stdout), "-1 1\n", "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn a_detached_payload_outlives_its_host_program() {
    let mut host = host("detached");
    let pids = read_pids(&mut host);
    // The harness still prints its result.
    drop(std::io::read_to_string(host.stdout.take().unwrap()).unwrap());
    assert!(host.wait().unwrap().success());
    std::thread::sleep(Duration::from_millis(200));
    assert!(alive(pids[0]));
    // It is this test's to end: the first of its own pid namespace, so the whole tree goes.
    assert_eq!(common::kill(pids[0], libc::SIGKILL), 0);
    assert!(wait_until(Duration::from_secs(10), || !alive(pids[0])));
}

#[test]
fn what_could_not_be_ended_for_sure_is_a_conflict() {
    let error = Sandbox::builder().share(Namespace::Pid).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidSpec);
    assert!(error.to_string().contains("neither a pid namespace nor a cgroup"), "{error}");
}

#[test]
fn a_host_program_that_forks_can_spawn_in_the_child() {
    let sandbox = Sandbox::new().unwrap();
    assert!(sandbox.command("/bin/true").status().unwrap().success());
    palisade_testkit::in_child(|| {
        assert!(sandbox.command("/bin/true").status().unwrap().success());
        drop(sandbox.command("/bin/sleep").arg("1000").spawn().unwrap());
    });
    assert!(sandbox.command("/bin/true").status().unwrap().success());
}

#[test]
fn host_root_is_said_loudly() {
    if !is_root() {
        skip!("only root can share the user namespace", needs = "root");
    }
    let error = Sandbox::builder().share(Namespace::User).user(0, 0).build().unwrap_err();
    assert!(error.to_string().contains("dangerously_allow_host_root"), "{error}");
}
