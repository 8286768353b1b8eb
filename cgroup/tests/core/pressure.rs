//! Pressure: read, and triggers that fire under it and not before.

use std::time::Duration;

use crate::common::{LONG, playground, skip, spawn_in, until};
use palisade_cgroup::{
    Cgroup, ErrorKind, Limits, OwnedCgroup, Pressure, PressureWatch, Resource, Sampler, Trigger,
};

/// Two seconds: the shortest window that the kernel grants to everybody.
const WINDOW: Duration = Duration::from_secs(2);

fn leaf(test: &str) -> Option<(OwnedCgroup, OwnedCgroup)> {
    let home = playground(test)?;
    let leaf = home.create("leaf", &Limits::new()).expect("created");
    match leaf.pressure(Resource::Cpu) {
        Err(e) if e.kind() == ErrorKind::Unsupported => {
            skip("psi", e);
            None
        }
        other => {
            other.expect("readable");
            Some((leaf, home))
        }
    }
}

fn armed(group: &Cgroup, stall: Duration) -> PressureWatch {
    let trigger = Trigger::some(stall, WINDOW).expect("in range");
    group.pressure_watch(Resource::Cpu, trigger).expect("armed")
}

/// More spinners than CPUs: somebody always waits.
fn crowd(group: &Cgroup) -> Vec<std::process::Child> {
    let cpus = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    (0..cpus * 2 + 1).map(|_| spawn_in(group, "while :; do :; done")).collect()
}

#[test]
fn stress_a_trigger_fires_under_pressure_and_not_before() {
    let Some((leaf, _home)) = leaf("psi") else { return };
    let mut watch = armed(&leaf, Duration::from_millis(200));
    assert!(!watch.wait(Duration::from_millis(2500)).expect("waits"), "nobody is inside");
    let crowd = crowd(&leaf);
    assert!(watch.wait(LONG).expect("waits"), "fires");
    let now = leaf.pressure(Resource::Cpu).expect("readable");
    assert!(now.some.total > Duration::from_millis(200), "{now:?}");
    leaf.kill().expect("killed");
    for mut c in crowd {
        c.wait().expect("reaped");
    }
}

#[test]
fn a_trigger_says_when_its_group_is_gone() {
    let Some((leaf, _home)) = leaf("psi-gone") else { return };
    let mut watch = armed(&leaf, Duration::from_millis(500));
    leaf.remove().expect("removed");
    assert_eq!(watch.wait(LONG).expect_err("gone").kind(), ErrorKind::Gone);
}

#[test]
fn the_system_has_pressure_too() {
    match Pressure::of_system(Resource::Memory) {
        Ok(p) => assert!(p.full.is_some()),
        Err(e) => return skip("psi", e),
    }
    let mut watch = PressureWatch::of_system(Resource::Io, Trigger::full(WINDOW, WINDOW).expect("in range"));
    match &mut watch {
        Ok(w) => assert!(
            !w.wait(Duration::from_millis(10)).expect("waits"),
            "not two whole seconds in ten milliseconds"
        ),
        Err(e) => assert!(matches!(e.kind(), ErrorKind::NotDelegated | ErrorKind::Refused), "{e}"),
    }
}

#[test]
fn stress_a_sampler_sees_a_spinner_and_its_end() {
    let Some((leaf, _home)) = leaf("sampler") else { return };
    let mut sampler = Sampler::new(&leaf).expect("readable");
    let mut child = spawn_in(&leaf, "while :; do :; done");
    let mut busy = 0.0f64;
    until("a busy second", || {
        std::thread::sleep(Duration::from_millis(300));
        busy = sampler.usage().expect("readable").cpu_percent;
        busy > 10.0
    });
    assert!(busy < 150.0, "one spinner is one CPU: {busy}");
    leaf.kill().expect("killed");
    child.wait().expect("reaped");
    sampler.usage().expect("readable");
    std::thread::sleep(Duration::from_millis(100));
    let idle = sampler.usage().expect("readable");
    assert!(idle.cpu_percent < 1.0, "{idle}");
}
