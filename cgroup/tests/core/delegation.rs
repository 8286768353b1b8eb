//! Who may make groups where, and what the error says to everybody else.

use std::ffi::CString;
use std::os::unix::fs::MetadataExt;

use crate::common::{self, LONG, is_root, playground, skip, spawn_in, until};
use palisade_cgroup::{Cgroup, Error, ErrorKind, Kind, Limits, OwnedCgroup};

/// Runs a check in a child that sits in `group` and is uid 65534. What it returns as an error is a failure.
fn as_nobody_in(group: &Cgroup, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
    let mut probe = std::process::Command::new("/bin/true");
    group.confine(&mut probe).expect("may enter");
    common::sys::before_exec(&mut probe, move || {
        common::sys::become_nobody_in_this_thread();
        check().map_err(|why| {
            eprintln!("{why}");
            std::io::Error::from_raw_os_error(libc::EBADMSG)
        })
    });
    assert!(probe.status().expect("the check holds").success());
}

fn hand_over(group: &Cgroup, uid: u32) {
    for f in ["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
        std::os::unix::fs::chown(group.path().join(f), Some(uid), Some(uid)).expect("root may");
    }
}

fn two_levels(test: &str) -> Option<(OwnedCgroup, OwnedCgroup)> {
    if !is_root() {
        skip("root", "needs a second user");
        return None;
    }
    let home = playground(test)?;
    let leaf = home.create("leaf", &Limits::new()).expect("created");
    Some((leaf, home))
}

/// A110: a caller outside of any delegated subtree is told so, with the remedy.
#[test]
fn a110_a_login_without_delegation_gets_the_remedy() {
    let Some((leaf, _home)) = two_levels("outside") else { return };
    as_nobody_in(&leaf, || {
        let e = Cgroup::delegated().err().ok_or("was given a group")?;
        if e.kind() != ErrorKind::NotDelegated
            || !e.to_string().contains("systemd-run --user --scope -p Delegate=yes")
        {
            return Err(format!("not the remedy: {e}"));
        }
        let own = Cgroup::own().map_err(|e| e.to_string())?;
        let e = own.create("mine", &Limits::new()).err().ok_or("made a group")?;
        (e.kind() == ErrorKind::NotDelegated).then_some(()).ok_or_else(|| e.to_string())
    });
}

#[test]
fn a_handed_over_directory_is_found_and_used_without_root() {
    let Some((leaf, home)) = two_levels("handed") else { return };
    hand_over(&home, 65534);
    hand_over(&leaf, 65534);
    let expected = home.id().expect("id");
    as_nobody_in(&leaf, move || {
        let used = (|| {
            let place = Cgroup::delegated()?;
            if place.id()? != expected {
                return Ok(Err(format!("found {}", place.path().display())));
            }
            let job = place.create_unique("job", &Limits::new().max_descendants(0))?;
            let mut child = spawn_in(&job, "exec sleep 1000");
            let lived = job.freeze(LONG).and_then(|()| job.thaw(LONG)).and_then(|()| job.remove());
            child.wait().expect("reaped");
            lived?;
            Ok::<_, Error>(Ok(()))
        })();
        used.map_err(|e| e.to_string())?
    });
    assert_eq!(home.children().expect("readable").len(), 1, "only the leaf is left");
}

/// A107: sitting in a handed-over leaf does not give the right to leave the handed-over tree.
#[test]
fn a107_a_delegated_user_stays_below_the_delegation() {
    let Some((leaf, home)) = two_levels("stay") else { return };
    hand_over(&leaf, 65534);
    let sibling = home.create("sibling", &Limits::new()).expect("created");
    let targets = [home.path().to_path_buf(), sibling.path().to_path_buf()];
    as_nobody_in(&leaf, move || {
        for t in &targets {
            let e = Cgroup::open(t).and_then(|g| g.enter()).err().ok_or("left")?;
            if e.kind() != ErrorKind::NotDelegated {
                return Err(e.to_string());
            }
        }
        Ok(())
    });
}

#[test]
fn what_systemd_marks_counts() {
    let Some((leaf, home)) = two_levels("marked") else { return };
    let path = CString::new(home.path().as_os_str().as_encoded_bytes()).expect("no NUL");
    if !common::sys::mark(&path, c"user.delegate") {
        return skip("xattr", "cgroup directories take no attributes here");
    }
    let expected = home.id().expect("id");
    let mut probe = std::process::Command::new("/bin/true");
    leaf.confine(&mut probe).expect("may enter");
    common::sys::before_exec(&mut probe, move || {
        let found = Cgroup::delegated().and_then(|g| g.id());
        if found.is_ok_and(|id| id == expected) {
            Ok(())
        } else {
            Err(std::io::Error::from_raw_os_error(libc::EBADMSG))
        }
    });
    assert!(probe.status().expect("found").success());
}

/// A109: the child is inside from its first instruction; so is everything it forks.
#[test]
fn a109_nothing_cloned_into_the_group_ever_runs_outside() {
    let Some(home) = playground("born") else { return };
    let leaf = home.create("leaf", &Limits::new()).expect("created");
    for _ in 0..20 {
        let code = common::sys::clone_into(std::os::fd::AsFd::as_fd(&leaf), || {
            let text = std::fs::read("/proc/self/cgroup").unwrap_or_default();
            match palisade_cgroup::parse_membership(&text) {
                Ok(path) if path.ends_with("leaf") => 0,
                _ => 1,
            }
        });
        assert_eq!(code.expect("cloned"), 0);
    }
    leaf.remove().expect("nothing left inside");
}

#[test]
fn the_calling_process_can_limit_itself_for_good() {
    let Some(home) = playground("self") else { return };
    let code = common::sys::clone_into(std::os::fd::AsFd::as_fd(&*home), || {
        let entered = home.create("me", &Limits::new()).and_then(OwnedCgroup::enter_for_good);
        match entered.and_then(|g| g.contains_caller()) {
            Ok(true) => 0,
            _ => 1,
        }
    });
    assert_eq!(code.expect("cloned"), 0);
    assert!(common::exists(&home.path().join("me")), "kept for the process that lived there");
    home.child("me").expect("there").destroy(LONG).expect("removed");
}

/// A copy of the process does not take the groups of the original away.
#[test]
fn a_forked_copy_drops_without_killing() {
    let Some(home) = playground("fork") else { return };
    let leaf = home.create("leaf", &Limits::new()).expect("created");
    let mut child = spawn_in(&leaf, "exec sleep 1000");
    let (path, ino) = (leaf.path().to_path_buf(), leaf.id().expect("id"));
    let mut owned = Some(leaf);
    let code = common::sys::clone_into(std::os::fd::AsFd::as_fd(&*home), || {
        drop(owned.take());
        0
    });
    assert_eq!(code.expect("cloned"), 0);
    assert_eq!(std::fs::metadata(&path).expect("still there").ino(), ino);
    assert!(child.try_wait().expect("waits").is_none());
    drop(owned);
    assert!(common::killed(child.wait().expect("reaped")));
}

#[test]
fn threads_are_moved_within_a_threaded_domain() {
    let Some(home) = playground("threaded") else { return };
    let domain = home.create("domain", &Limits::new()).expect("created");
    let threads = domain.create("threads", &Limits::new()).expect("created");
    let other = domain.create("other", &Limits::new()).expect("created");
    threads.make_threaded().expect("no domain controller in the way");
    assert_eq!(threads.kind().expect("readable"), Kind::Threaded);
    assert_eq!(domain.kind().expect("readable"), Kind::DomainThreaded);
    assert_eq!(other.kind().expect("readable"), Kind::DomainInvalid);
    let mut child = spawn_in(&domain, "exec sleep 1000");
    until("it sits in the domain", || domain.threads().expect("readable").contains(&child.id()));
    let e = other.add_thread(child.id()).expect_err("invalid until threaded");
    assert!(e.remedy().is_some(), "{e}");
    threads.add_thread(child.id()).expect("moved");
    assert_eq!(threads.threads().expect("readable"), [child.id()]);
    assert!(threads.procs().is_err(), "a threaded group has no processes of its own");
    home.remove().expect("removed with everything inside");
    child.wait().expect("reaped");
    // Removed above: nothing to be done for these.
    for gone in [domain, threads, other] {
        gone.remove().expect("gone is fine");
    }
}

/// A110: the read-only cgroup mount of most containers is named as what it is.
#[test]
fn a110_a_read_only_mount_is_told_apart_from_missing_rights() {
    let Some((leaf, _home)) = two_levels("readonly") else { return };
    let mount = Cgroup::root().expect("mounted").path().to_path_buf();
    let mount = CString::new(mount.as_os_str().as_encoded_bytes()).expect("no NUL");
    let mut probe = std::process::Command::new("/bin/true");
    leaf.confine(&mut probe).expect("may enter");
    common::sys::before_exec(&mut probe, move || {
        common::sys::make_read_only(&mount)?;
        let told = |e: Error| {
            e.kind() == ErrorKind::NotDelegated && e.remedy().is_some_and(|r| r.contains("read-only"))
        };
        let found = Cgroup::delegated().err().is_some_and(told);
        let made = Cgroup::own().and_then(|own| own.create("mine", &Limits::new())).err().is_some_and(told);
        if found && made { Ok(()) } else { Err(std::io::Error::from_raw_os_error(libc::EBADMSG)) }
    });
    assert!(probe.status().expect("told").success());
}
