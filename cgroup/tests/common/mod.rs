//! What the tests share: a place for groups of their own, and a way to skip.
#![allow(dead_code, reason = "no test binary uses every helper")]

pub(crate) mod sys;

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use palisade_cgroup::{Cgroup, Controller, Limits, OwnedCgroup};

/// Plenty for any wait that is to succeed, in a slow emulated machine too.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) fn is_root() -> bool {
    palisade_testkit::is_root()
}

/// Says that a test cannot run here; where helpers find out, a return does not end the test.
#[track_caller]
pub(crate) fn skip(capability: &str, reason: impl std::fmt::Display) {
    palisade_testkit::note_skip(&reason, capability);
}

/// Creates, inhabits and removes groups from four threads; nothing may be left.
pub(crate) fn cycles(home: &Cgroup, limits: &Limits, n: usize) {
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                for _ in 0..n / 4 {
                    let leaf = home.create_unique("cycle", limits).expect("created");
                    let mut c = Command::new("/bin/true");
                    leaf.confine(&mut c).expect("may enter");
                    assert!(c.status().expect("runs").success());
                    leaf.remove().expect("removed");
                }
            });
        }
    });
    assert_eq!(home.children().expect("readable").len(), 0);
}

/// A fresh group of this test's own below whatever is delegated here, removed by its own name when dropped.
pub(crate) fn playground(test: &str) -> Option<OwnedCgroup> {
    let made =
        Cgroup::delegated().and_then(|d| d.create_unique(&format!("palisade-test-{test}"), &Limits::new()));
    made.map_err(|e| skip("cgroup2", e)).ok()
}

/// The same, with controllers enabled for the groups below it.
pub(crate) fn playground_with(test: &str, controllers: &[Controller]) -> Option<OwnedCgroup> {
    let group = playground(test)?;
    match group.enable(&controllers.iter().cloned().collect()) {
        Ok(()) => Some(group),
        Err(e) => {
            skip("controllers", e);
            None
        }
    }
}

pub(crate) fn sh(script: &str) -> Command {
    let mut c = Command::new("/bin/sh");
    c.arg("-c").arg(script);
    c
}

/// Starts a shell script inside the group.
pub(crate) fn spawn_in(group: &Cgroup, script: &str) -> Child {
    let mut c = sh(script);
    group.confine(&mut c).expect("may enter");
    c.spawn().expect("/bin/sh starts")
}

pub(crate) fn run_in(group: &Cgroup, script: &str) -> ExitStatus {
    spawn_in(group, script).wait().expect("reaped")
}

pub(crate) fn killed(status: ExitStatus) -> bool {
    status.signal() == Some(9)
}

pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LONG, "in vain waited for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
