//! Failures injected into every operation of a set-up: each is an error that names its step, and nothing stays.
#![expect(clippy::unwrap_used, reason = "tests")]

use palisade::{ErrorKind, Plan, Sandbox, Stdio, Step};
use palisade_sys::Injected;
use palisade_testkit::Snapshot;

fn plan() -> Plan {
    let dir = "/usr/share";
    let sandbox = Sandbox::builder().bind_ro(dir, "/opt").build().unwrap();
    let mut command = sandbox.command("/bin/true");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.plan().unwrap()
}

/// Steps of each program's operations.
fn steps(plan: &mut Plan) -> [Vec<Step>; 3] {
    plan.programs_mut().map(|program| program.steps().collect())
}

#[test]
fn stress_every_failing_call_names_its_step_and_leaves_nothing() {
    let mut plan = plan();
    // Threads and the stage's file are made by the first spawn and kept.
    plan.clone().spawn().unwrap().wait().unwrap();
    let steps = steps(&mut plan);
    assert!(steps.iter().map(Vec::len).sum::<usize>() > 100, "a whole set-up: {steps:?}");
    let before = Snapshot::take();
    for (part, steps) in steps.iter().enumerate() {
        for (index, &step) in steps.iter().enumerate() {
            let mut broken = plan.clone();
            let program = &mut broken.programs_mut()[part];
            program.inject(index, Injected::Errno(libc::ENOMEM));
            let conditional = program.is_conditional(index);
            let error = match broken.spawn() {
                Ok(mut child) => {
                    assert!(conditional && child.wait().unwrap().success(), "{part}.{index}: not noticed");
                    continue;
                }
                Err(error) => error,
            };
            assert_eq!((error.step(), error.errno()), (step, Some(libc::ENOMEM)), "{part}.{index}: {error}");
            let kind = if step == Step::Exec { ErrorKind::Exec } else { ErrorKind::Setup };
            assert_eq!(error.kind(), kind, "{part}.{index}: {error}");
        }
    }
    before.assert_unchanged();
}

#[test]
fn stress_a_setup_that_ends_anywhere_is_never_taken_for_success() {
    let mut plan = plan();
    plan.clone().spawn().unwrap().wait().unwrap();
    let [_, _, stage] = steps(&mut plan);
    let before = Snapshot::take();
    for index in 0..stage.len() {
        let mut broken = plan.clone();
        broken.programs_mut()[2].inject(index, Injected::Exit);
        if broken.programs_mut()[2].is_conditional(index) {
            continue;
        }
        let error = broken.spawn().expect_err("an ended set-up");
        assert_eq!(error.kind(), ErrorKind::SetupKilled, "{index}: {error}");
    }
    before.assert_unchanged();
}

/// A killed process closes its descriptors, which is what a successful exec looks like, well before it is a zombie that
/// tells: its mounts go in between.
#[test]
fn a_kill_during_the_exec_is_never_taken_for_success() {
    let sandbox = Sandbox::new().unwrap();
    let mut command = sandbox.command("true");
    command.env("PATH", "/nowhere:/bin").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut plan = command.plan().unwrap();
    assert!(plan.clone().spawn().unwrap().wait().unwrap().success(), "the second candidate is executed");
    let stage = plan.programs_mut()[2].clone();
    // The first candidate's exec fails, so the stage is in the state of executing.
    let second = (0..stage.len()).rfind(|&index| stage.object(index) == Some("/bin/true")).unwrap();
    plan.programs_mut()[2].inject(second, Injected::Foreign);
    for _ in 0..20 {
        let error = plan.clone().spawn().expect_err("a killed set-up");
        assert_eq!((error.kind(), error.step()), (ErrorKind::SetupKilled, Step::Exec), "{error}");
    }
}

#[test]
fn the_plan_is_in_the_order_of_the_steps() {
    let mut plan = plan();
    for steps in steps(&mut plan) {
        assert!(steps.is_sorted(), "{steps:?}");
    }
}

#[test]
fn the_plan_prints_every_step() {
    let mut plan = plan();
    let text = plan.to_string();
    for steps in steps(&mut plan) {
        for step in steps {
            assert!(text.contains(step.name()), "{step}: {text}");
        }
    }
    for part in [
        "clone3(",
        "execveat(",
        "pivot_root(\".\", \".\")",
        "PR_SET_NO_NEW_PRIVS",
        "execve(\"/bin/true\", [\"/bin/true\"]",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_setup_that_hangs_ends_at_its_timeout() {
    use std::time::{Duration, Instant};
    let sandbox = Sandbox::builder().setup_timeout(Duration::from_millis(200)).build().unwrap();
    let mut command = sandbox.command("/bin/true");
    let mut plan = command.stdin(Stdio::null()).plan().unwrap();
    plan.clone().spawn().unwrap().wait().unwrap();
    let before = Snapshot::take();
    // As a path on a dead network mount would hang.
    plan.programs_mut()[2].inject(20, Injected::Hang);
    let start = Instant::now();
    let error = plan.spawn().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SetupTimeout, "{error}");
    assert!(start.elapsed() >= Duration::from_millis(200) && start.elapsed() < Duration::from_secs(9));
    before.assert_unchanged();
}

/// The calls of the host program's side fail, and those of the child once more, by a filter over the whole process: as
/// an outer container's would (A127), and as for want of memory. Each is an error that says where; no child is left.
#[test]
fn stress_every_call_that_a_filter_refuses_is_an_error() {
    use palisade::secfilter::{Action, Install, Policy, Rule};
    const CALLS: &[&str] = &[
        "memfd_create",
        "socketpair",
        "pipe2",
        "clone3",
        "pread64",
        "pwrite64",
        "sendto", // the host program's side
        "close_range",
        "capset",
        "execveat", // the prologue
        "setresuid",
        "umask",
        "openat2",
        "statx",
        "open_tree",
        "fsopen",
        "fsconfig",
        "fsmount",
        "move_mount",
        "mount_setattr",
        "pivot_root",
        "umount2",
        "sethostname",
        "setsid",
        "poll",
        "fchdir",
        "rt_sigprocmask",
    ];
    for call in CALLS {
        for errno in [libc::ENOSYS, libc::EPERM, libc::ENOMEM] {
            palisade_testkit::in_child(|| {
                let policy = Policy::new(Action::Allow).rule(Rule::new([*call], Action::Errno(errno as u16)));
                let filter = policy.compile().unwrap();
                Install::new(&filter).apply().unwrap();
                let outcome = Sandbox::new().and_then(|sandbox| {
                    let mut command = sandbox.command("/bin/true");
                    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()
                });
                match outcome {
                    Err(error) => {
                        // A thread that can't be started is EAGAIN to libc.
                        let told = |told| told == errno || *call == "clone3" && told == libc::EAGAIN;
                        let told = error.errno().is_none_or(told);
                        assert!(told && !error.to_string().is_empty(), "{call}: {error}");
                    }
                    // An ordinary user changes no id; the library knows other ways for some.
                    Ok(mut child) => {
                        let spared = ["setresuid", "rt_sigprocmask", "poll", "statx"];
                        assert!(spared.contains(call), "{call} was not missed");
                        drop(child.kill());
                    }
                }
                let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
                let children = tasks
                    .map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default());
                let left: String = children.collect();
                let gone =
                    || left.split_whitespace().all(|pid| !std::path::Path::new("/proc").join(pid).exists());
                assert!(
                    palisade_testkit::wait_until(std::time::Duration::from_secs(10), gone),
                    "{call}: {left}"
                );
            });
        }
    }
}
