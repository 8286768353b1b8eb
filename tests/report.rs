//! Rows of the report on what a command or a sandbox asks for beyond the default: each is read back, and a call that was
//! left out is told on.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use palisade::creds::{Capability, ThreadCapabilities};
use palisade::enforced::{Moment, State, Subject};
use palisade::{Command, Enforced, ErrorKind, Personality, Plan, PtySize, Sandbox, Scheduler, Stdio};
use palisade_sys::Injected;
use palisade_testkit::{cgroup_dir, in_child, is_root, skip};

const BEFORE: State = State::Verified(Moment::BeforeExec);

fn sleep(sandbox: &Sandbox) -> Command {
    let mut command = sandbox.command("/bin/sleep");
    command.arg("1000").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn row(report: &Enforced, subject: &Subject) -> (String, State) {
    let row = report.get(subject).unwrap_or_else(|| panic!("{subject}:\n{report}"));
    (row.asked().to_owned(), row.state().clone())
}

/// The plan without any call of this text.
fn without(mut plan: Plan, call: &str) -> Plan {
    let stage = &mut plan.programs_mut()[2];
    let mut found = false;
    for index in 0..stage.len() {
        if stage.line(index).is_some_and(|line| line.contains(call)) {
            stage.inject(index, Injected::Skip);
            found = true;
        }
    }
    assert!(found, "{call} is not in the plan:\n{plan}");
    plan
}

fn told_on(command: &Command, call: &str, subject: &str) {
    let error = without(command.plan().unwrap(), call).spawn().unwrap_err();
    assert_eq!((error.kind(), error.object()), (ErrorKind::NotEnforced, Some(subject)), "{error}");
}

#[test]
fn policy_and_personality_are_read_back() {
    let sandbox = Sandbox::new().unwrap();
    for (scheduler, asked) in [(Scheduler::Batch, "SCHED_BATCH"), (Scheduler::Idle, "SCHED_IDLE")] {
        let mut command = sleep(&sandbox);
        let child = command.scheduler(scheduler).spawn().unwrap();
        assert_eq!(
            row(child.enforced(), &Subject::Scheduler),
            (asked.into(), BEFORE),
            "{}",
            child.enforced()
        );
        told_on(&command, "sched_setscheduler", "scheduler");
    }
    let mut command = sleep(&sandbox);
    let child = command.personality(Personality::LINUX.with(Personality::ADDR_NO_RANDOMIZE)).spawn().unwrap();
    let wanted = ("LINUX|ADDR_NO_RANDOMIZE".into(), BEFORE);
    assert_eq!(row(child.enforced(), &Subject::Personality), wanted, "{}", child.enforced());
    told_on(&command, "personality(", "personality");
}

#[test]
fn real_time_policies_are_read_back() {
    let held = ThreadCapabilities::current().unwrap().effective;
    if !is_root() || !held.contains(Capability::SysNice) {
        skip!("real-time policies take CAP_SYS_NICE", needs = "root");
    }
    let ms = Duration::from_millis;
    let deadline = Scheduler::Deadline { runtime: ms(1), deadline: ms(50), period: ms(100) };
    // In the host's user namespace, where the capability counts.
    let sandbox = Sandbox::builder().share(palisade::ns::Namespace::User).build().unwrap();
    for (scheduler, asked) in [
        (Scheduler::Fifo(3), "SCHED_FIFO 3"),
        (Scheduler::RoundRobin(7), "SCHED_RR 7"),
        (deadline, "SCHED_DEADLINE 1ms of 100ms within 50ms"),
    ] {
        let mut command = sleep(&sandbox);
        let child = match command.scheduler(scheduler).spawn() {
            Ok(child) => child,
            // No time for real-time groups (a v1 cpu controller), or none left to reserve.
            Err(error) if matches!(error.errno(), Some(libc::EPERM | libc::EBUSY)) => {
                println!("SKIP {asked}: {error}");
                continue;
            }
            Err(error) => panic!("{asked}: {error}"),
        };
        let (said, state) = row(child.enforced(), &Subject::Scheduler);
        assert_eq!((said.as_str(), state), (asked, BEFORE), "{}", child.enforced());
    }
}

#[test]
fn an_init_and_a_terminal_are_read_back() {
    let sandbox = Sandbox::builder().init(true).build().unwrap();
    let mut command = sandbox.command("/bin/sleep");
    let child = command.arg("1000").pty(PtySize::default()).spawn().unwrap();
    for subject in [Subject::Init, Subject::Terminal] {
        assert_eq!(row(child.enforced(), &subject).1, BEFORE, "{}", child.enforced());
        assert_eq!(row(&child.verify().unwrap(), &subject).1, State::Verified(Moment::Later));
    }
    told_on(&command, "TIOCSCTTY", "terminal");
}

/// What the kernel tells the process alone, or what no kernel keeps, is in the report as well, with the reason.
#[test]
fn what_nobody_tells_is_said_to_be_applied() {
    let sandbox = Sandbox::builder().hostname("inner").build().unwrap();
    let mut command = sleep(&sandbox);
    let child = command.timeout(Duration::from_secs(90)).spawn().unwrap();
    let report = child.enforced();
    for (subject, asked) in [
        (Subject::Keyring, "without keys of the host program"),
        (Subject::HostName, "inner"),
        (Subject::Timeout, "90s"),
        (Subject::Lifetime, "parent-death signal"),
    ] {
        let (said, state) = row(report, &subject);
        assert!(said.contains(asked), "{report}");
        assert!(matches!(state, State::Applied(_)), "{report}");
    }
    assert!(report.is_whole(), "{report}");
    let plain = sleep(&sandbox).spawn().unwrap();
    assert!(
        plain.enforced().get(&Subject::Timeout).is_none() && plain.enforced().get(&Subject::Init).is_none()
    );
}

/// The program for devices is read back from the kernel, as it was compiled.
#[test]
fn device_rules_are_read_back() {
    use palisade::cgroup::{Cgroup, DeviceRules, Limits};
    let Some(parent) = cgroup_dir().filter(|_| is_root()) else {
        skip!("device rules take root and a cgroup", needs = "root");
    };
    let sandbox = Sandbox::builder()
        .cgroup_parent(Cgroup::open(parent).unwrap())
        .cgroup(Limits::new())
        .device_rules(DeviceRules::docker())
        .build()
        .unwrap();
    let child = sleep(&sandbox).spawn().unwrap();
    assert_eq!(row(child.enforced(), &Subject::Devices).1, BEFORE, "{}", child.enforced());
    assert_eq!(row(child.enforced(), &Subject::Cgroup).1, BEFORE, "{}", child.enforced());
    let group = child.cgroup().unwrap();
    group.set_devices(&DeviceRules::allow_all()).unwrap();
    let other = |state: State| matches!(state, State::Differs { .. });
    assert!(other(row(&child.verify().unwrap(), &Subject::Devices).1), "another program");
    group.clear_devices().unwrap();
    assert!(other(row(&child.verify().unwrap(), &Subject::Devices).1), "no program");
}

/// A question that fails, where the kernel would have told, is an error, and the payload does not run.
#[test]
fn what_can_not_be_read_back_is_an_error() {
    use palisade::secfilter::{Action, Install, Policy};
    in_child(|| {
        let without = Policy::new(Action::Allow).set(["sched_getattr"], Action::Errno(libc::ENOMEM as u16));
        Install::new(&without.compile().unwrap()).apply().unwrap();
        let sandbox = Sandbox::new().unwrap();
        let mut command = sleep(&sandbox);
        drop(command.spawn().unwrap());
        let error = command.scheduler(Scheduler::Batch).spawn().unwrap_err();
        assert_eq!((error.kind(), error.object()), (ErrorKind::NotEnforced, Some("scheduler")), "{error}");
        assert!(error.to_string().contains("could not be read back: sched_getattr"), "{error}");
        assert!(error.hint().unwrap().contains("verify(false)"), "{error}");
        let unread = Sandbox::builder().verify(false).build().unwrap();
        drop(sleep(&unread).scheduler(Scheduler::Batch).spawn().unwrap());
    });
}
