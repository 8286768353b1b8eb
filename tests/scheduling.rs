//! Priority, policy, CPUs, the kernel's choice for want of memory, and the execution domain of a payload.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use palisade::creds::{Capability, ThreadCapabilities};
use palisade::ns::Namespace;
use palisade::{Command, ErrorKind, Personality, Sandbox, Scheduler, Step};
use palisade_testkit::{is_root, skip};

fn sh(script: &str) -> Command {
    let mut command = Sandbox::new().unwrap().command("/bin/sh");
    command.arg("-c").arg(script);
    command
}

fn out(command: &Command) -> String {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}: {}", out.status, String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

/// Field `n` (as proc_pid_stat(5) counts) of the payload's stat.
fn stat(command: &mut Command, n: usize) -> String {
    let text = out(command);
    text.rsplit(") ").next().unwrap().split(' ').nth(n - 3).unwrap().to_owned()
}

const NICE: usize = 19;
const RT_PRIORITY: usize = 40;
const POLICY: usize = 41;

fn own_nice() -> i32 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    text.rsplit(") ").next().unwrap().split(' ').nth(NICE - 3).unwrap().parse().unwrap()
}

#[test]
fn nice_is_raised() {
    assert_eq!(stat(&mut sh("cat /proc/self/stat"), NICE), own_nice().to_string());
    assert_eq!(stat(sh("cat /proc/self/stat").nice(19), NICE), "19");
}

/// In a user namespace the kernel asks for a privilege that nobody has there.
#[test]
fn a_lower_nice_value_takes_a_privilege() {
    let nice_limit = own_limit("Max nice priority");
    if nice_limit > 0 {
        skip!("RLIMIT_NICE of this test allows it");
    }
    let error = sh("").nice(-20).spawn().unwrap_err();
    assert_eq!((error.step(), error.object()), (Step::Limits, Some("nice")), "{error}");
    assert!(error.hint().unwrap().contains("CAP_SYS_NICE"), "{error}");
    if !is_root() || !ThreadCapabilities::current().unwrap().effective.contains(Capability::SysNice) {
        skip!("not root with CAP_SYS_NICE", needs = "root");
    }
    // Without one the host program's privilege counts, and the payload does not get it.
    let sandbox = Sandbox::builder().share(Namespace::User).build().unwrap();
    let mut command = sandbox.command("/bin/cat");
    assert_eq!(stat(command.arg("/proc/self/stat").nice(-5), NICE), "-5");
    let mut command = sandbox.command("/bin/grep");
    assert_eq!(out(command.args(["CapEff", "/proc/self/status"]).nice(-5)), "CapEff:\t0000000000000000");
}

/// The soft limit of this process.
fn own_limit(name: &str) -> u64 {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
    line[name.len()..].split_whitespace().next().unwrap().parse().unwrap_or(u64::MAX)
}

#[test]
fn policies_are_set() {
    for (scheduler, number) in [(Scheduler::Other, "0"), (Scheduler::Batch, "3"), (Scheduler::Idle, "5")] {
        assert_eq!(stat(sh("cat /proc/self/stat").scheduler(scheduler), POLICY), number, "{scheduler:?}");
    }
    // The nice value is a thing of its own, before and after.
    let mut command = sh("cat /proc/self/stat");
    command.nice(18).scheduler(Scheduler::Batch);
    assert_eq!(stat(&mut command, NICE), "18");
    if own_limit("Max realtime priority") == 0 {
        let error = sh("").scheduler(Scheduler::Fifo(1)).spawn().unwrap_err();
        assert_eq!(
            (error.step(), error.object(), error.errno()),
            (Step::Limits, Some("scheduler"), Some(libc::EPERM))
        );
        assert!(error.hint().is_some(), "{error}");
    }
    if !is_root() || !ThreadCapabilities::current().unwrap().effective.contains(Capability::SysNice) {
        skip!("not root with CAP_SYS_NICE", needs = "root");
    }
    let sandbox = Sandbox::builder().share(Namespace::User).build().unwrap();
    let with = |scheduler| {
        let mut command = sandbox.command("/bin/cat");
        command.arg("/proc/self/stat").scheduler(scheduler);
        command
    };
    for (scheduler, number, priority) in
        [(Scheduler::Fifo(7), "1", "7"), (Scheduler::RoundRobin(99), "2", "99")]
    {
        match with(scheduler).output() {
            Ok(_) => {
                assert_eq!(stat(&mut with(scheduler), POLICY), number);
                assert_eq!(stat(&mut with(scheduler), RT_PRIORITY), priority);
            }
            // A cgroup v1 with the cpu controller and no real-time share refuses even root.
            Err(error) => assert_eq!(error.errno(), Some(libc::EPERM), "{error}"),
        }
    }
    let ms = Duration::from_millis;
    let deadline = Scheduler::Deadline { runtime: ms(10), deadline: ms(50), period: ms(100) };
    match with(deadline).output() {
        Ok(_) => assert_eq!(stat(&mut with(deadline), POLICY), "6"),
        // Bandwidth is the machine's to give: EBUSY, or EPERM where it has none.
        Err(error) => assert!(matches!(error.errno(), Some(libc::EPERM | libc::EBUSY)), "{error}"),
    }
}

#[test]
fn affinity_is_set_and_what_does_not_exist_refused() {
    let allowed = std::fs::read_to_string("/proc/self/status").unwrap();
    let list = allowed.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:\t")).unwrap();
    let first: usize = list.split([',', '-']).next().unwrap().parse().unwrap();
    let script = "grep Cpus_allowed_list /proc/self/status";
    assert_eq!(out(sh(script).affinity([first])), format!("Cpus_allowed_list:\t{first}"));
    // Those that exist count.
    assert_eq!(out(sh(script).affinity([first, 8191])), format!("Cpus_allowed_list:\t{first}"));
    let error = sh("").affinity([8191]).spawn().unwrap_err();
    assert_eq!((error.object(), error.errno()), (Some("affinity"), Some(libc::EINVAL)), "{error}");
    assert!(error.hint().unwrap().contains("cpuset"), "{error}");
}

#[test]
fn oom_score_adj_is_set() {
    let own: i32 = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim().parse().unwrap();
    assert_eq!(out(&sh("cat /proc/self/oom_score_adj")), own.to_string());
    for init in [false, true] {
        let sandbox = Sandbox::builder().init(init).build().unwrap();
        let mut command = sandbox.command("/bin/cat");
        assert_eq!(out(command.arg("/proc/self/oom_score_adj").oom_score_adj(1000)), "1000");
    }
    // Into a living sandbox, by the process that enters.
    let mut child = sh("sleep 1000").spawn().unwrap();
    let mut command = child.exec("/bin/cat");
    assert_eq!(out(command.arg("/proc/self/oom_score_adj").oom_score_adj(700)), "700");
    child.kill().unwrap();
    child.wait().unwrap();
    let privileged = ThreadCapabilities::current().unwrap().effective.contains(Capability::SysResource);
    let lower = sh("cat /proc/self/oom_score_adj").oom_score_adj(-1000).output();
    match (privileged, lower) {
        (true, Ok(lower)) => assert_eq!(lower.stdout, b"-1000\n"),
        (false, Err(error)) => {
            assert_eq!(
                (error.object(), error.errno()),
                (Some("oom_score_adj"), Some(libc::EACCES)),
                "{error}"
            );
            assert!(error.hint().unwrap().contains("CAP_SYS_RESOURCE"), "{error}");
        }
        (_, other) => panic!("{other:?}"),
    }
}

#[test]
fn personality_is_set() {
    assert_eq!(out(sh("uname -m").personality(Personality::LINUX32)), "i686");
    assert!(out(sh("uname -r").personality(Personality::UNAME26)).starts_with("2.6."));
    let no_random = Personality::LINUX.with(Personality::ADDR_NO_RANDOMIZE);
    let maps = || out(sh("grep stack /proc/self/maps").personality(no_random));
    assert_eq!(maps(), maps());
    assert_eq!(no_random.to_string(), "LINUX|ADDR_NO_RANDOMIZE");
}

#[test]
fn bad_values_are_reported_together() {
    let ms = Duration::from_millis;
    let mut command = sh("");
    command.nice(20).affinity([]).oom_score_adj(1001).scheduler(Scheduler::Fifo(0));
    let error = command.plan().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidSpec);
    let text = error.to_string();
    // A line for each, the first as the others.
    assert_eq!((text.matches("\n  - ").count(), text.contains("4 conflicts:")), (4, true), "{text}");
    for part in ["nice: 20", "affinity: names no CPU", "oom_score_adj: 1001", "priority 0"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    for (command, part) in [
        (sh("").nice(-21), "nice: -21"),
        (sh("").scheduler(Scheduler::RoundRobin(100)), "priority 100"),
        (sh("").affinity([8192]), "CPU 8192"),
        (sh("").oom_score_adj(-1001), "-1001"),
        (sh("").scheduler(Scheduler::Deadline { runtime: ms(2), deadline: ms(1), period: ms(3) }), "runtime"),
        (sh("").scheduler(Scheduler::Deadline { runtime: ms(0), deadline: ms(1), period: ms(3) }), "1024 ns"),
    ] {
        let error = command.plan().unwrap_err();
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
    let deadline = Scheduler::Deadline { runtime: ms(1), deadline: ms(2), period: ms(3) };
    let init = Sandbox::builder().init(true).build().unwrap();
    let error = init.command("/bin/true").scheduler(deadline).plan().unwrap_err();
    assert!(error.to_string().contains("can't fork"), "{error}");
}
