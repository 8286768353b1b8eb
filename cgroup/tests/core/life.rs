//! Create, confine, freeze, kill, wait, remove: what the v2 core does on every layout, hybrid included.

use std::time::Duration;

use crate::common::{self, LONG, exists, is_root, killed, playground, run_in, skip, spawn_in, until};
use palisade_cgroup::{Cgroup, Controller, ErrorKind, Events, Kind, Limits, Mode};

#[test]
fn the_mode_is_what_statfs_says() {
    use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
    let v2 = |p: &str| statfs(p).is_ok_and(|s| s.filesystem_type() == CGROUP2_SUPER_MAGIC);
    let mode = Mode::detect().expect("mountinfo is readable");
    match mode {
        Mode::V2 => assert!(v2("/sys/fs/cgroup")),
        Mode::Hybrid => assert!(v2("/sys/fs/cgroup/unified")),
        other => assert!(!v2("/sys/fs/cgroup") && !v2("/sys/fs/cgroup/unified"), "{other:?}"),
    }
}

#[test]
fn a_command_is_born_confined_and_the_group_goes_with_its_owner() {
    let Some(home) = playground("confine") else { return };
    let leaf = home.create("leaf", &Limits::new()).expect("created");
    let path = leaf.path().to_path_buf();
    assert_eq!(leaf.kind().expect("has a type"), Kind::Domain);
    let mut child = spawn_in(&leaf, "grep -q '^0::.*/leaf$' /proc/self/cgroup && sleep 1000");
    until("the child sits in the leaf", || leaf.procs().expect("readable").contains(&child.id()));
    assert_eq!(Cgroup::of_process(child.id()).expect("lives").id().expect("id"), leaf.id().expect("id"));
    assert!(leaf.events().expect("readable").populated);
    drop(leaf);
    assert!(killed(child.wait().expect("reaped")));
    assert!(!exists(&path));
}

#[test]
fn freeze_waits_until_all_is_still_and_thaw_lets_it_run() {
    let Some(home) = playground("freeze") else { return };
    let leaf = home.create("leaf", &Limits::new()).expect("created");
    let mut child = spawn_in(&leaf, "while :; do :; done");
    leaf.freeze(LONG).expect("freezes");
    assert!(leaf.events().expect("readable").frozen);
    assert!(leaf.freeze_requested().expect("readable"));
    let used = leaf.cpu_stat().expect("readable").usage;
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(leaf.cpu_stat().expect("readable").usage, used);
    leaf.thaw(LONG).expect("thaws");
    until("it runs again", || leaf.cpu_stat().expect("readable").usage > used);
    leaf.kill().expect("killed");
    assert!(killed(child.wait().expect("reaped")));
    leaf.wait_empty(LONG).expect("empty");
    leaf.remove().expect("removed");
}

#[test]
fn a_group_below_a_frozen_one_does_not_thaw_alone() {
    let Some(home) = playground("thaw") else { return };
    let leaf = home.create("leaf", &Limits::new()).expect("created");
    home.freeze(LONG).expect("freezes");
    assert_eq!(leaf.thaw(Duration::from_millis(50)).expect_err("still frozen").kind(), ErrorKind::TimedOut);
    home.thaw(LONG).expect("thaws");
}

#[test]
fn frozen_groups_can_be_removed() {
    let Some(home) = playground("frozen-remove") else { return };
    let leaf = home.create("leaf", &Limits::new()).expect("created");
    let mut child = spawn_in(&leaf, "exec sleep 1000");
    leaf.freeze(LONG).expect("freezes");
    leaf.remove().expect("removed");
    assert!(killed(child.wait().expect("reaped")));
}

#[test]
fn events_announce_the_last_exit() {
    let Some(home) = playground("events") else { return };
    let leaf = home.create("leaf", &Limits::new()).expect("created");
    let mut child = spawn_in(&leaf, "exec sleep 1000");
    let mut watch = leaf.watch::<Events>().expect("opens");
    assert!(watch.read().expect("readable").populated);
    assert_eq!(watch.changed(Duration::from_millis(50)).expect("polls"), None);
    child.kill().expect("killed");
    child.wait().expect("reaped");
    let last = watch.wait_until(LONG, |e| !e.populated).expect("announced");
    assert!(!last.populated);
    assert_eq!(leaf.wait_empty(Duration::ZERO).map_err(|e| e.kind()), Ok(()));
    let gone = leaf.keep();
    gone.destroy(LONG).expect("removed");
    assert_eq!(watch.read().expect_err("gone").kind(), ErrorKind::Gone);
}

#[test]
fn a_thousand_processes_die_at_once() {
    let Some(home) = playground("thousand") else { return };
    let leaf = home.create("leaf", &Limits::new()).expect("created");
    let mut crowd = std::process::Command::new("/bin/sleep");
    crowd.arg("1000");
    leaf.confine(&mut crowd).expect("may enter");
    // Forked without an exec each: quick in an emulated machine too.
    common::sys::before_exec(&mut crowd, || common::sys::fork_idle(1000));
    let mut top = crowd.spawn().expect("starts");
    assert_eq!(leaf.procs().expect("readable").len(), 1001);
    leaf.freeze(LONG).expect("all freeze");
    leaf.thaw(LONG).expect("all thaw");
    leaf.remove_within(LONG).expect("all dead and gone");
    assert!(killed(top.wait().expect("reaped")));
}

/// A111: a payload with a delegated group nests groups without end.
#[test]
fn a111_thousands_of_nested_groups_are_removed() {
    let Some(home) = playground("nested") else { return };
    let leaf = home.create("leaf", &Limits::new()).expect("created");
    let path = leaf.path().to_path_buf();
    // Wide and deep, with somebody alive at the bottom.
    for i in 0..600 {
        std::fs::create_dir(path.join(format!("w{i}"))).expect("made");
    }
    let mut bottom = path.clone();
    for _ in 0..300 {
        bottom.push("d");
        std::fs::create_dir(&bottom).expect("made");
    }
    let mut child = spawn_in(&Cgroup::open(&bottom).expect("opens"), "exec sleep 1000");
    assert_eq!(leaf.tree_stat().expect("readable").descendants, 900);
    assert!(leaf.events().expect("readable").populated);
    leaf.remove_within(LONG).expect("removed");
    assert!(!exists(&path));
    assert!(killed(child.wait().expect("reaped")));
}

#[test]
fn a111_limits_on_nesting_hold() {
    let Some(home) = playground("depth") else { return };
    let leaf = home.create("leaf", &Limits::new().max_depth(1).max_descendants(2)).expect("created");
    let a = leaf.create("a", &Limits::new()).expect("first");
    let too_deep = a.create("b", &Limits::new()).expect_err("second level");
    assert_eq!((too_deep.kind(), too_deep.errno()), (ErrorKind::Busy, Some(libc::EAGAIN)));
    let _b = leaf.create("b", &Limits::new()).expect("second");
    assert_eq!(leaf.create("c", &Limits::new()).expect_err("third").kind(), ErrorKind::Busy);
}

/// A111: somebody else removes the group first.
#[test]
fn a111_a_group_removed_by_others_is_gone_not_an_error_to_remove() {
    let Some(home) = playground("gone") else { return };
    let leaf = home.create("leaf", &Limits::new()).expect("created");
    std::fs::remove_dir(leaf.path()).expect("removed behind its back");
    for e in [
        leaf.procs().map(drop).expect_err("gone"),
        leaf.kill().expect_err("gone"),
        leaf.cpu_stat().map(drop).expect_err("gone"),
        leaf.enter().expect_err("gone"),
        leaf.create("x", &Limits::new()).map(drop).expect_err("gone"),
        home.child("leaf").map(drop).expect_err("gone"),
    ] {
        assert_eq!(e.kind(), ErrorKind::Gone, "{e}");
    }
    leaf.remove().expect("removing what is gone is fine");
}

#[test]
fn names_are_checked_and_collisions_told() {
    let Some(home) = playground("names") else { return };
    for bad in ["", ".", "..", "a/b", "cgroup.procs", "memory.x", "a\nb"] {
        assert_eq!(home.create(bad, &Limits::new()).expect_err(bad).kind(), ErrorKind::InvalidName);
    }
    let first = home.create("twice", &Limits::new()).expect("created");
    assert_eq!(home.create("twice", &Limits::new()).expect_err("taken").kind(), ErrorKind::Busy);
    assert!(exists(first.path()));
    let (a, b) = (home.create_unique("u", &Limits::new()), home.create_unique("u", &Limits::new()));
    assert_ne!(a.expect("made").path(), b.expect("made").path());
}

#[test]
fn what_the_caller_sits_in_is_not_killed() {
    let own = match Cgroup::own() {
        Ok(own) => own,
        Err(e) => return skip("cgroup2", e),
    };
    assert!(own.contains_caller().expect("readable"));
    assert_eq!(own.kill().expect_err("the test itself").kind(), ErrorKind::CallerInside);
    assert!(matches!(
        own.destroy(Duration::ZERO).expect_err("the test itself").kind(),
        ErrorKind::CallerInside | ErrorKind::Busy
    ));
}

/// A110: what cannot be limited is an error that says so; nothing is left behind.
#[test]
fn a110_a_missing_controller_is_named_with_the_ancestor_that_lacks_it() {
    let Some(home) = playground("missing") else { return };
    let nowhere: Controller = "nosuch".parse().expect("well formed");
    let e = home.enable(&[nowhere].into()).expect_err("no kernel has it");
    assert_eq!((e.kind(), e.controller()), (ErrorKind::ControllerMissing, Some("nosuch")), "{e}");
    assert!(e.path().is_some_and(|p| home.path().starts_with(p) && p != home.path()), "{e}");
    if Mode::detect().expect("readable") == Mode::Hybrid {
        let limits = Limits::new().memory_max(palisade_cgroup::Bytes::mib(64));
        if home.controllers().expect("readable").contains(&Controller::MEMORY) {
            return;
        }
        let e = home.create("limited", &limits).expect_err("v1 has memory");
        assert_eq!((e.kind(), e.controller()), (ErrorKind::ControllerMissing, Some("memory")), "{e}");
        assert!(e.remedy().is_some_and(|r| r.contains("v1")), "{e}");
        assert!(!exists(&home.path().join("limited")));
        let leaf = home.create("leaf", &Limits::new()).expect("created");
        assert_eq!(leaf.apply(&limits).expect_err("no file").kind(), ErrorKind::ControllerMissing);
        assert_eq!(leaf.memory().expect_err("no file").kind(), ErrorKind::ControllerMissing);
    }
}

#[test]
fn a_directory_that_is_no_cgroup_is_refused() {
    for path in ["/", "/proc", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/no-such-group"] {
        let e = Cgroup::open(path).expect_err(path);
        assert!(matches!(e.kind(), ErrorKind::Absent | ErrorKind::Gone), "{e}");
    }
}

/// A107: a payload that can see the tree moves itself out, or others in.
#[test]
fn a107_an_ordinary_user_cannot_leave_its_group() {
    if !is_root() {
        return skip("root", "needs a second user");
    }
    let Some(home) = playground("escape") else { return };
    let leaf = home.create("leaf", &Limits::new()).expect("created");
    let up = home.path().display().to_string();
    let here = leaf.path().display().to_string();
    let script = format!(
        "exec setpriv --reuid 65534 --regid 65534 --clear-groups sh -c '
            for d in {up} {here}/.. {here} /sys/fs/cgroup/unified /sys/fs/cgroup; do
                [ -d $d ] || continue
                (echo 0 >$d/cgroup.procs) 2>/dev/null && exit 10
                (mkdir $d/mine) 2>/dev/null && exit 11
                (echo 1 >$d/cgroup.kill) 2>/dev/null && exit 12
            done
            grep -q \"^0::.*/leaf$\" /proc/self/cgroup || exit 13'"
    );
    assert_eq!(run_in(&leaf, &script).code(), Some(0));
}

/// A107: the same for a payload that is root in namespaces of its own: its cgroup namespace roots at the leaf.
#[test]
fn a107_a_cgroup_namespace_hides_the_way_up() {
    if !is_root() {
        return skip("root", "mounts in the test");
    }
    let Some(home) = playground("cgns") else { return };
    let leaf = home.create("leaf", &Limits::new()).expect("created");
    let script = "exec unshare -C -m --propagation private sh -c '
        grep -qx \"0::/\" /proc/self/cgroup || exit 10
        mount -t cgroup2 none /mnt || exit 11
        grep -qx $$ /mnt/cgroup.procs || exit 12
        ls -d /mnt/../mnt/cgroup.type >/dev/null || exit 13
        [ -z \"$(ls -d /mnt/*/ 2>/dev/null)\" ] || exit 14'";
    assert_eq!(run_in(&leaf, script).code(), Some(0));
}

/// Ten thousand groups come and go.
#[test]
fn stress_four_threads_leave_an_empty_tree() {
    let Some(home) = playground("cycles") else { return };
    let emulated = std::env::var_os("PALISADE_TEST_SCALE").is_some();
    // `vm_limits` has 500 there, with limits.
    common::cycles(&home, &Limits::new(), if emulated { 40 } else { 10_000 });
}

/// Moving everybody out of the root of the system would be a disaster, and nobody needs it.
#[test]
fn the_root_is_never_vacated() {
    let root = match Cgroup::root() {
        Ok(root) => root,
        Err(e) => return skip("cgroup2", e),
    };
    if root.kind().expect("readable") != Kind::Root {
        return skip("root group", "this is a cgroup namespace");
    }
    root.vacate("palisade-test-never-made").expect("nothing to do");
    assert!(!exists(&root.path().join("palisade-test-never-made")));
}

/// A128: whichever descriptor cannot be had, the error says so and no half-made group is left.
#[test]
fn a128_running_out_of_descriptors_leaves_nothing_behind() {
    let Some(home) = playground("emfile") else { return };
    let limits = Limits::new().max_depth(1);
    // From 'none at all' up to 'enough': the directory that holds the groups is open already.
    for limit in 0..64 {
        let code = common::sys::with_descriptors(limit, || match home.create("x", &limits) {
            Ok(made) => {
                drop(made.keep());
                0
            }
            Err(e) if e.errno() == Some(libc::EMFILE) => 1,
            Err(_) => 2,
        });
        let there = exists(&home.path().join("x"));
        match code {
            0 => {
                assert!(there);
                home.child("x").and_then(|g| g.destroy(LONG)).expect("removed");
                assert!(limit > 0, "the limit had no effect");
                return;
            }
            1 => assert!(!there, "left behind with {limit} descriptors"),
            other => panic!("{other} with {limit} descriptors"),
        }
    }
    panic!("64 descriptors are not enough");
}
