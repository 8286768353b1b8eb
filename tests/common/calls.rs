//! Counting the system calls of a spawn by strace.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command as HostCommand;
use std::time::Duration;

use palisade::cgroup::{Cgroup, Limits};
use palisade::fsroot::{Dev, Proc, Root};
use palisade::ns::{Namespace, Namespaces};
use palisade::{Command, Lifetime, Sandbox, Stdio};
use palisade_testkit::{cgroup_dir, is_root, note_skip, temp_dir, wait_until};

/// A profile, and the most calls that the host program and the child may make for one spawn, from the call of `spawn`
/// until the payload is executed and, in the host program, waited for and its cgroup removed. docs/performance.md has
/// the same numbers.
pub(crate) type Budget = (&'static str, usize, usize);

fn command(profile: &str, root: &Path) -> Command {
    let mut builder = Sandbox::builder();
    let level = profile.strip_prefix('P').map_or(9, |digit| digit.parse::<u8>().unwrap());
    let mut kinds = Namespaces::ALL.without(Namespace::Time);
    if level < 4 {
        kinds = kinds.without(Namespace::Net);
    }
    if level < 3 {
        kinds = kinds.without(Namespace::User);
    }
    if level < 5 {
        builder = builder.dangerously_unfiltered().lifetime(Lifetime::Detached);
    }
    if level == 0 {
        kinds = Namespaces::EMPTY;
    }
    if level == 6 {
        let parent = Cgroup::open(cgroup_dir().unwrap()).unwrap();
        builder = builder.cgroup(Limits::new()).cgroup_parent(parent);
    }
    // The profiles are compared with a floor that reads nothing back.
    builder = builder.namespaces(kinds).verify(level > 6);
    builder = match level {
        0 | 1 => builder.dangerously_share_root(),
        2..=6 => {
            for name in ["usr", "proc", "dev"] {
                fs::create_dir(root.join(name)).unwrap();
            }
            for name in ["bin", "lib", "lib64"] {
                symlink(format!("usr/{name}"), root.join(name)).unwrap();
            }
            let root = Root::dir(root).mount(Proc::new("/proc")).mount(Dev::new("/dev"));
            builder.root(root).bind_ro("/usr", "/usr")
        }
        _ => builder,
    };
    let mut command = builder.build().unwrap().command("/bin/true");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// What strace saw of one process, in order.
fn lines_of(trace: &str, pid: u32) -> Vec<&str> {
    let mine = trace.lines().filter_map(|line| {
        let (number, rest) = line.split_once(' ')?;
        (number.parse() == Ok(pid)).then(|| rest.trim_start())
    });
    // A call that was interrupted by another process's has a second line; ends and signals are no calls.
    mine.filter(|line| !line.starts_with("<... ") && !line.starts_with("+++") && !line.starts_with("---"))
        .collect()
}

fn count(profile: &str, test: &str) -> (usize, usize, usize) {
    let made = temp_dir();
    let log = made.path().join("trace");
    let out = HostCommand::new("strace")
        .args(["-f", "-o"])
        .arg(&log)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env("PALISADE_CALLS", profile)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(
        out.status.success(),
        "{profile}: {}\n{text}\n{}",
        out.status,
        String::from_utf8_lossy(&out.stderr)
    );
    let planned = text.split("planned ").nth(1).unwrap().lines().next().unwrap().parse().unwrap();
    let trace = fs::read_to_string(log).unwrap();
    let (before, rest) = trace.split_once("/palisade-begin").unwrap();
    let (spawn, rest) = rest.split_once("/palisade-waited").unwrap();
    // Then a thread of the library removes the cgroup, and the main one looks whether that is done.
    let (after, _) = rest.split_once("/palisade-end").unwrap();
    let main: u32 = before.lines().last().unwrap().split(' ').next().unwrap().parse().unwrap();
    let pids = |text: &str| -> Vec<u32> {
        let mut pids: Vec<u32> =
            text.lines().filter_map(|line| line.split(' ').next()?.parse().ok()).collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    };
    let host = pids(before);
    let (mut parent, mut child) = (0, 0);
    for pid in pids(spawn) {
        let lines = lines_of(spawn, pid);
        if host.contains(&pid) {
            parent += lines.len() + if pid == main { 0 } else { lines_of(after, pid).len() };
        } else if let Some(last) = lines.iter().rposition(|line| line.starts_with("execve(")) {
            child += last + 1;
        }
    }
    (parent, child, planned)
}

/// What runs under strace.
fn spawn_once(profile: &str) {
    let root = temp_dir();
    let command = command(profile, root.path());
    println!("planned {}", command.plan().unwrap().child_calls());
    // Groups of this process's payloads.
    let own = format!("palisade-{}-", std::process::id());
    let groups = || {
        let all = cgroup_dir().into_iter().flat_map(|dir| fs::read_dir(dir).unwrap().flatten());
        let own = all.filter(|entry| entry.file_name().to_string_lossy().starts_with(&own));
        let inside = own.flat_map(|entry| fs::read_dir(entry.path()).unwrap().flatten());
        inside.filter(|entry| entry.path().is_dir()).count()
    };
    let gone = || assert!(wait_until(Duration::from_secs(10), || groups() == 0), "a cgroup stays");
    // Threads and what is made once are there after the first.
    command.status().unwrap();
    gone();
    let _ = fs::metadata("/palisade-begin");
    command.status().unwrap();
    let _ = fs::metadata("/palisade-waited");
    gone();
    let _ = fs::metadata("/palisade-end");
}

/// Counts each profile, in the test of this name, which runs itself under strace.
pub(crate) fn check(budgets: &[Budget], test: &str) {
    if let Ok(profile) = std::env::var("PALISADE_CALLS") {
        return spawn_once(&profile);
    }
    if HostCommand::new("strace").arg("-V").output().is_err() {
        return note_skip(&"no strace", "");
    }
    for &(profile, host_budget, child_budget) in budgets {
        if !is_root() && matches!(profile, "P1" | "P2") {
            continue; // without a user namespace they take root
        }
        if profile == "P6" && cgroup_dir().is_none() {
            println!("P6 is not counted: there is no cgroup to be had");
            continue;
        }
        let (host, child, planned) = count(profile, test);
        println!(
            "{profile}: host program {host} of {host_budget}, child {child} of {child_budget}, planned {planned}"
        );
        assert!(child > 0 && host > 0, "{profile}: nothing was counted");
        // Of the default view, masks of files that are not there are jumped over.
        let as_planned = if profile == "default" { child <= planned } else { child == planned };
        assert!(as_planned, "{profile}: the plan says {planned}, the child made {child}");
        assert!(child <= child_budget, "{profile}: {child} calls of the child");
        assert!(host <= host_budget, "{profile}: {host} calls of the host program");
    }
}
