//! A further program in a living sandbox that has a cgroup: needs a delegated, pure cgroup v2.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use palisade::cgroup::{Bytes, Cgroup, Limits};
use palisade::ns::{Namespace, pidfd_open};
use palisade::{Child, Detached, ErrorKind, ExitCause, Lifetime, Sandbox, SandboxBuilder, Stdio};
use palisade_testkit::{cgroup_dir, scaled, skip, temp_dir, wait_until};

macro_rules! parent {
    () => {
        match cgroup_dir() {
            Some(path) => Cgroup::open(path).unwrap(),
            None => skip!("no delegated cgroup v2 directory", needs = "controllers"),
        }
    };
}

fn builder(parent: &Cgroup, limits: Limits) -> SandboxBuilder {
    Sandbox::builder().cgroup_parent(parent.clone()).cgroup(limits)
}

/// In the host's pid namespace, where no fresh /proc can be had.
fn shared(builder: SandboxBuilder) -> SandboxBuilder {
    builder.share(Namespace::Pid).host_view(|view| view.proc(None))
}

fn living(builder: SandboxBuilder) -> Child {
    let sandbox = builder.build().unwrap();
    sandbox.command("/bin/cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
}

#[test]
fn what_enters_is_born_in_the_cgroup_and_ends_with_it() {
    let parent = parent!();
    for share in [false, true] {
        let mut wanted = builder(&parent, Limits::new());
        if share {
            wanted = shared(wanted);
        }
        let mut child = living(wanted);
        let group = child.cgroup().unwrap().clone();
        let mut entered = child.exec("/bin/sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        assert!(group.procs().unwrap().contains(&entered.id()));
        assert_eq!(entered.cgroup().unwrap().id().unwrap(), group.id().unwrap());
        // Its drop ends it, and neither the sandbox nor the group.
        drop(child.exec("/bin/sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap());
        assert!(group.path().exists() && child.try_wait().unwrap().is_none());
        // By a process of others, too.
        let sandbox = Sandbox::builder();
        let sandbox = if share { shared(sandbox).cgroup(Limits::new()) } else { sandbox };
        let sandbox = sandbox.build().unwrap();
        let mut foreign = sandbox.exec_in(pidfd_open(child.id()).unwrap(), "/bin/sleep");
        let mut foreign = foreign.arg("1000").stdin(Stdio::null()).spawn().unwrap();
        assert!(group.procs().unwrap().contains(&foreign.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        for entered in [&mut entered, &mut foreign] {
            assert_eq!(entered.wait().unwrap().signal(), Some(libc::SIGKILL));
        }
        drop(child);
        assert!(wait_until(Duration::from_secs(5), || !group.path().exists()), "removed with its child");
    }
}

#[test]
fn out_of_memory_is_told_of_what_entered() {
    let parent = parent!();
    let bytes = |text: &str| text.parse::<Bytes>().unwrap();
    let limits = Limits::new().memory_max(bytes("32M")).memory_swap_max(bytes("0")).memory_oom_group(false);
    let child = living(builder(&parent, limits));
    let mut dd = child.exec("dd");
    dd.args(["if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"]).stderr(Stdio::null());
    assert_eq!(dd.status().unwrap().cause(), ExitCause::OutOfMemory);
    // One that is killed by hand afterwards is not taken for it.
    let mut entered = child.exec("/bin/sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
    entered.signal(libc::SIGKILL).unwrap();
    assert_eq!(entered.wait().unwrap().cause(), ExitCause::Signaled(libc::SIGKILL));
}

#[test]
fn a_frozen_sandbox_is_an_error_at_the_set_up_time() {
    let parent = parent!();
    let child = living(builder(&parent, Limits::new()).setup_timeout(scaled(Duration::from_millis(700))));
    let group = child.cgroup().unwrap().clone();
    group.freeze(Duration::from_secs(10)).unwrap();
    let error = child.exec("/bin/true").stdin(Stdio::null()).spawn().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SetupTimeout, "{error}");
    group.thaw(Duration::from_secs(10)).unwrap();
    assert!(child.exec("/bin/true").stdin(Stdio::null()).status().unwrap().success());
}

#[test]
fn the_cgroup_of_a_detached_payload_is_cleaned_up() {
    let parent = parent!();
    let dir = temp_dir();
    let path = dir.path().join("state");
    let sandbox = builder(&parent, Limits::new()).lifetime(Lifetime::Detached).build().unwrap();
    let mut command = sandbox.command("/bin/sleep");
    command.arg("1000").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let state = command.create(&path).unwrap();
    let group = state.cgroup().unwrap();
    assert_eq!(group.procs().unwrap(), [state.id().unwrap()]);
    state.start().unwrap();
    Detached::open(&path).unwrap().cleanup().unwrap();
    assert!(!group.path().exists() && !path.exists());
}
