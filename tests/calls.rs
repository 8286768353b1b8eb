//! How many system calls a spawn takes: written down, counted by strace, and as many as the plan says.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command as HostCommand;

use palisade::fsroot::{Dev, Proc, Root};
use palisade::ns::{Namespace, Namespaces};
use palisade::{Command, Lifetime, Sandbox, Stdio};
use palisade_testkit::{is_root, skip, temp_dir};

/// A profile, and the most calls that the host program and the child may make for one spawn, from the call of `spawn`
/// until the payload is executed and, in the host program, waited for. docs/performance.md has the same numbers.
const BUDGETS: [(&str, usize, usize); 7] = [
    ("P0", 70, 150),
    ("P1", 70, 155),
    ("P2", 80, 255),
    ("P3", 130, 255),
    ("P4", 130, 260),
    ("P5", 130, 260),
    ("default", 200, 470),
];

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

fn count(profile: &str) -> (usize, usize, usize) {
    let made = temp_dir();
    let log = made.path().join("trace");
    let out = HostCommand::new("strace")
        .args(["-f", "-o"])
        .arg(&log)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "a_spawn_makes_no_more_calls_than_written_down", "--nocapture", "--test-threads=1"])
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
    let (spawn, _) = rest.split_once("/palisade-end").unwrap();
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
            parent += lines.len();
        } else if let Some(last) = lines.iter().rposition(|line| line.starts_with("execve(")) {
            child += last + 1;
        }
    }
    (parent, child, planned)
}

#[test]
fn a_spawn_makes_no_more_calls_than_written_down() {
    if let Ok(profile) = std::env::var("PALISADE_CALLS") {
        let root = temp_dir();
        let command = command(&profile, root.path());
        println!("planned {}", command.plan().unwrap().child_calls());
        // Threads and what is made once are there after the first.
        command.status().unwrap();
        let _ = fs::metadata("/palisade-begin");
        command.status().unwrap();
        let _ = fs::metadata("/palisade-end");
        return;
    }
    if HostCommand::new("strace").arg("-V").output().is_err() {
        skip!("no strace");
    }
    for (profile, host_budget, child_budget) in BUDGETS {
        if !is_root() && matches!(profile, "P1" | "P2") {
            continue; // without a user namespace they take root
        }
        let (host, child, planned) = count(profile);
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
