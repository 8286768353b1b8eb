//! The driver against systemd itself: a user's manager, started by the test below a group of its own, with a message bus
//! of its own, in a mount namespace that hides the machine's `/run`. Needs pure cgroup v2.
#![cfg(feature = "systemd")]

mod common;

use std::process::Command;

use common::{LONG, is_root, killed, playground_with, run_in, skip, spawn_in, until};
use palisade_cgroup::systemd::{Manager, TransientUnit};
use palisade_cgroup::{Bytes, Cgroup, Controller, CpuMax, ErrorKind, Limit, Limits};

/// Set where this test binary plays a program in a user's session.
const ROLE: &str = "PALISADE_TEST_SESSION";

/// Makes a session: `$0` is the test binary, `$1` a group for systemd, `$2` one for the program.
const SESSION: &str = r#"
set -e
mount -t tmpfs -o mode=755 run /run
export XDG_RUNTIME_DIR=/run/user HOME=/run/home
mkdir -p /run/systemd/system $HOME $XDG_RUNTIME_DIR/systemd/user
chmod 700 $XDG_RUNTIME_DIR
cd $XDG_RUNTIME_DIR/systemd/user
printf '[Unit]\nRequires=dbus.socket\nAfter=dbus.socket\n' >palisade-test.target
printf '[Socket]\nListenStream=%%t/bus\n' >dbus.socket
printf '[Unit]\nRequires=dbus.socket\n[Service]\nType=notify\nExecStart=%s %s\n' "$(command -v dbus-daemon)" \
    '--session --address=systemd: --nofork --nopidfile --systemd-activation' >dbus.service
(echo 0 >$1/cgroup.procs && exec /lib/systemd/systemd --user --unit=palisade-test.target --log-target=null) &
i=0
until [ -S $XDG_RUNTIME_DIR/bus ]; do
    i=$((i+1)); [ $i -lt 1200 ] && kill -0 $! || exit 3
    sleep 0.05
done
echo 0 >$2/cgroup.procs
unset DBUS_SESSION_BUS_ADDRESS
exec "$0" --exact session --nocapture
"#;

#[test]
fn scopes_and_slices_of_systemd() {
    let has = |file: &str| std::path::Path::new(file).exists();
    if !has("/lib/systemd/systemd") || !has("/usr/bin/dbus-daemon") {
        return skip("tool", "no systemd or no dbus-daemon here");
    }
    let Some(home) = playground_with("systemd", &[Controller::MEMORY, Controller::CPU, Controller::PIDS])
    else {
        return;
    };
    let [manager, program] =
        ["manager", "program"].map(|name| home.create(name, &Limits::new()).expect("created"));
    // As the machine's systemd marks user@UID.service; a user's manager marks nothing itself.
    let path = std::ffi::CString::new(manager.path().as_os_str().as_encoded_bytes()).expect("no NUL");
    assert!(common::sys::mark(&path, c"user.delegate"));
    let mut session = Command::new("unshare");
    session.args(if is_root() { &["-m"][..] } else { &["-r", "-m"] });
    session
        .args(["--propagation", "private", "sh", "-c", SESSION])
        .arg(std::env::current_exe().expect("known"));
    session.arg(manager.path()).arg(program.path()).env(ROLE, "1");
    let status = session.status().expect("unshare runs");
    manager.remove_within(LONG).expect("removed");
    assert!(status.success(), "{status}");
}

fn scope(name: &str) -> TransientUnit {
    TransientUnit::scope(format!("palisade-test-{name}")).manager(Manager::User).timeout(LONG)
}

fn slice() -> TransientUnit {
    let limits = Limits::new()
        .memory_max(Bytes::mib(64))
        .memory_swap_max(Bytes::new(0))
        .cpu_max(CpuMax::millicpus(750));
    TransientUnit::slice("palisadetest").manager(Manager::User).timeout(LONG).limits(limits)
}

/// The program of the test above; by itself it does nothing.
#[test]
fn session() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    // The manager takes its name a moment after it has started the bus.
    until("systemd answers", || scope("none").stop().is_ok());
    a_slice_limits_what_is_in_it();
    a_scope_holds_a_running_process();
    // Last: from then on this process lives in the scope.
    the_caller_moves_into_a_scope();
}

fn a_slice_limits_what_is_in_it() {
    let group = slice().start().expect("made");
    assert_eq!(group.memory().expect("limited").max, Limit::At(Bytes::mib(64)));
    let cpu = std::fs::read_to_string(group.path().join("cpu.max")).expect("limited");
    assert_eq!(cpu, "75000 100000\n");
    slice().stop().expect("stopped");
    until("its group is gone", || !common::exists(group.path()));
    slice().stop().expect("one that is gone is fine");
}

fn a_scope_holds_a_running_process() {
    let mut child = Command::new("sleep").arg("1000").spawn().expect("starts");
    let unit = scope("child").process(child.id()).within("palisadetest").description("a test");
    let unit = unit.limits(Limits::new().pids_max(32));
    let group = unit.start().expect("made");
    let parent = group.path().parent().and_then(|p| p.file_name());
    assert_eq!(parent, Some("palisadetest.slice".as_ref()), "{}", group.path().display());
    assert_eq!(Cgroup::of_process(child.id()).expect("lives").id().expect("id"), group.id().expect("id"));
    assert_eq!(group.pids().expect("limited").max, Limit::At(32));
    // Taken, nobody to move, contradictory, unknown: each is an error, and says which.
    assert_eq!(unit.start().expect_err("taken").kind(), ErrorKind::Busy);
    let e = scope("nobody").process(u32::MAX / 2).start().expect_err("no such process");
    assert_eq!(e.kind(), ErrorKind::Refused, "{e}");
    assert!(e.to_string().contains("StartTransientUnit"), "{e}");
    // A limit that the group does not come to have is no success.
    let mut other = Command::new("sleep").arg("1000").spawn().expect("starts");
    let unlimited =
        scope("weight").process(other.id()).limits(Limits::new().memory_min(Bytes::new(u64::MAX - 1)));
    if let Err(e) = unlimited.start() {
        assert!(matches!(e.kind(), ErrorKind::NotVerified | ErrorKind::Refused), "{e}");
    }
    other.kill().expect("killed");
    other.wait().expect("reaped");
    // It is delegated: groups can be made in it, and it goes with its last process.
    let below = group.create("below", &Limits::new()).expect("ours to fill");
    assert!(run_in(&below, "exit 0").success());
    below.remove().expect("removed");
    unit.stop().expect("stopped");
    assert!(!child.wait().expect("reaped").success());
    until("its group is gone", || !common::exists(group.path()));
}

fn the_caller_moves_into_a_scope() {
    assert_eq!(Cgroup::delegated().expect_err("systemd rules here").kind(), ErrorKind::NotDelegated);
    let place = scope("own").enter().expect("made");
    assert!(place.contains_caller().expect("readable"));
    assert!(place.procs().expect("readable").is_empty(), "vacated");
    assert_eq!(Cgroup::delegated().expect("found").id().expect("id"), place.id().expect("id"));
    let limits = Limits::new().memory_max(Bytes::mib(32)).pids_max(8);
    let job = place.create_unique("job", &limits).expect("ours to fill");
    let mut child = spawn_in(&job, "exec sleep 1000");
    job.freeze(LONG).and_then(|()| job.thaw(LONG)).expect("ours to stop");
    job.remove().expect("removed");
    assert!(killed(child.wait().expect("reaped")));
}
