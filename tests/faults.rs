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
