//! Identities given to threads, processes and commands, compared with what the kernel then shows.

mod common;

use std::process::Command;

use common::{InNamespace, sys};
use palisade_creds::{
    Capability, CapabilityRequest, CapabilitySet, Credentials, ErrorKind, ExecFile, Gid, IdMap, Identity,
    Ids, Maps, PreparedIdentity, Securebits, ThreadCapabilities, Uid, UserDb, UserSpec, write_maps,
};
use palisade_sys::Step;
use palisade_testkit::{is_root, skip};
use proptest::prelude::*;

fn gid(raw: u32) -> Gid {
    Gid::new(raw).expect("an id")
}

fn uid(raw: u32) -> Uid {
    Uid::new(raw).expect("an id")
}

/// Runs the closure in a thread of its own, whose credentials end with it.
fn in_thread<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(body).join().expect("the thread ended well"))
}

/// What /proc shows of a `cat` that was given the identity: text and credentials.
fn status_of(identity: &PreparedIdentity) -> (String, Credentials) {
    let mut command = Command::new("/bin/cat");
    let output = identity.apply_to_command(command.arg("/proc/self/status")).output().expect("spawned");
    let text = String::from_utf8(output.stdout).expect("text");
    let seen = Credentials::from_status(text.as_bytes()).expect("a status");
    seen.check(&identity.after().after_exec(&ExecFile::plain()).expect("a plain file"))
        .expect("as predicted");
    (text, seen)
}

/// F1, bit for bit: the docker preset as root and as 65534, with one dropped, with two added.
#[test]
fn docker_preset_has_dockers_masks() {
    if !is_root() {
        skip!("the preset takes capabilities", needs = "root");
    }
    let cases = [
        (CapabilityRequest::new(), "00000000a80425fb"),
        (CapabilityRequest::new().drop(Capability::NetRaw), "00000000a80405fb"),
        (CapabilityRequest::new().add(Capability::NetAdmin).add(Capability::SysTime), "00000000aa0435fb"),
    ];
    let here = ThreadCapabilities::current().expect("readable").bounding;
    for (request, mask) in cases {
        let set = request.resolve(here).expect("available");
        for user in [Uid::ROOT, Uid::NOBODY] {
            let identity = Identity::new().ids(user, gid(user.as_raw())).capabilities(set);
            let (status, _) = status_of(&identity.prepare().expect("root"));
            let line = |key| common::line_of(&status, key);
            let held = if user == Uid::ROOT { mask } else { "0000000000000000" };
            assert_eq!(line("CapBnd"), mask);
            assert_eq!((line("CapPrm").as_str(), line("CapEff").as_str()), (held, held));
            // A51: nothing inheritable; A53: nothing ambient.
            assert_eq!(
                (line("CapInh"), line("CapAmb")),
                ("0000000000000000".into(), "0000000000000000".into())
            );
            assert_eq!(line("Uid"), format!("{user}\t{user}\t{user}\t{user}"));
            assert_eq!((line("Groups").as_str(), line("NoNewPrivs").as_str()), ("", "1"));
        }
    }
}

/// Stand-alone use: drop everything but one capability, in this thread.
#[test]
fn a_thread_drops_all_but_one_capability() {
    if !is_root() {
        skip!("there is a capability to keep", needs = "root");
    }
    let before = Credentials::current().expect("readable");
    in_thread(|| {
        Identity::new()
            .capabilities(Capability::NetBindService)
            .prepare()
            .expect("root")
            .apply_to_thread()
            .expect("applied");
        let after = Credentials::current().expect("readable");
        assert_eq!(after.capabilities.bounding, Capability::NetBindService.into());
        assert_eq!(after.capabilities.effective, Capability::NetBindService.into());
        assert!(after.no_new_privs);
        let again = Identity::new().capabilities(Capability::SysTime).prepare().expect_err("given up");
        assert_eq!(again.kind(), ErrorKind::CapabilityUnavailable);
    });
    assert_eq!(Credentials::current().expect("readable"), before, "other threads keep theirs");
}

/// What an ordinary user can do, and what it is told of the rest.
#[test]
fn without_privilege() {
    in_thread(|| {
        if is_root() {
            Identity::new()
                .ids(Uid::NOBODY, Gid::NOBODY)
                .keep_bounding_set()
                .prepare()
                .expect("root")
                .apply_to_thread()
                .expect("applied");
        }
        let kind = |identity: Identity| identity.prepare().expect_err("privileged").kind();
        assert_eq!(kind(Identity::new()), ErrorKind::CapabilityUnavailable, "bounding set");
        assert_eq!(kind(Identity::unprivileged().ids(uid(1), Gid::NOBODY)), ErrorKind::CapabilityUnavailable);
        assert_eq!(kind(Identity::unprivileged().groups([gid(5)])), ErrorKind::CapabilityUnavailable);
        assert_eq!(
            kind(Identity::unprivileged().securebits(Securebits::NOROOT)),
            ErrorKind::CapabilityUnavailable
        );
        assert_eq!(kind(Identity::unprivileged().ambient(Capability::Kill)), ErrorKind::Conflict);
        sys::set_keepcaps();
        let own = Credentials::current().expect("readable");
        let same = Identity::unprivileged()
            .ids(own.uid.real, own.gid.real)
            .groups(own.groups.clone().expect("known"));
        same.prepare().expect("its own").apply_to_thread().expect("applied");
        assert!(Credentials::current().expect("readable").no_new_privs);
        assert_eq!(sys::keepcaps(), 0, "A53: given up without privilege");
    });
}

/// A44: the groups asked for and no others; A48: none that is unmapped.
#[test]
fn a44_groups_are_the_ones_asked_for() {
    if !is_root() {
        skip!("groups are set with CAP_SETGID", needs = "root");
    }
    in_thread(|| {
        let dirty = Identity::new().groups([gid(77), gid(5)]).capabilities(CapabilitySet::DOCKER);
        dirty.prepare().expect("root").apply_to_thread().expect("applied");
        let (_, seen) = status_of(&Identity::new().ids(uid(1000), gid(1000)).prepare().expect("root"));
        assert_eq!(seen.groups, Some(vec![]));
        let files = UserDb::new("alice:x:1000:1001::/:", "a:x:9:alice\nb:x:4:alice\n");
        let alice = files.resolve(&"alice".parse::<UserSpec>().expect("a name")).expect("in the file");
        let (_, seen) = status_of(&Identity::new().user(&alice).prepare().expect("root"));
        assert_eq!((seen.uid, seen.gid), (Ids::all(uid(1000)), Ids::all(gid(1001))));
        assert_eq!(seen.groups, Some(vec![gid(4), gid(9), gid(1001)]));
        let (_, seen) =
            status_of(&Identity::new().ids(uid(1000), gid(1000)).keep_groups().prepare().expect("root"));
        assert_eq!(seen.groups, Some(vec![gid(5), gid(77)]));
    });
}

/// A51, A53: what the caller had inheritable, ambient, kept or in securebits does not get through unasked.
#[test]
fn a51_a53_nothing_is_left_over() {
    if !is_root() {
        skip!("the dirty state takes capabilities", needs = "root");
    }
    in_thread(|| {
        let set = CapabilitySet::DOCKER;
        let dirty = Identity::new()
            .capabilities(set)
            .ambient(set)
            .securebits(Securebits::KEEP_CAPS | Securebits::NO_SETUID_FIXUP)
            .allow_privilege_escalation(true);
        dirty.prepare().expect("root").apply_to_thread().expect("applied");
        assert_eq!(sys::keepcaps(), 1);
        let clean = Identity::new().capabilities(set).prepare().expect("root");
        let (_, seen) = status_of(&clean);
        assert!((seen.capabilities.inheritable | seen.capabilities.ambient).is_empty());
        clean.apply_to_thread().expect("applied");
        let seen = Credentials::current().expect("readable");
        assert_eq!((seen.securebits, sys::keepcaps()), (Some(Securebits::empty()), 0));
        assert!((seen.capabilities.inheritable | seen.capabilities.ambient).is_empty());
    });
}

#[test]
fn ambient_capabilities_last_through_exec_of_any_user() {
    if !is_root() {
        skip!("there are capabilities to keep", needs = "root");
    }
    let kept = CapabilitySet::of(&[Capability::NetBindService, Capability::Kill]);
    let identity =
        Identity::new().ids(Uid::NOBODY, Gid::NOBODY).capabilities(kept).ambient(Capability::NetBindService);
    let (_, seen) = status_of(&identity.prepare().expect("root"));
    assert_eq!(seen.capabilities.effective, Capability::NetBindService.into());
    assert_eq!(seen.capabilities.bounding, kept);
    assert!(seen.no_new_privs);
}

/// Locked securebits hold, and are told before the kernel refuses.
#[test]
fn securebits_are_set_and_locked() {
    if !is_root() {
        skip!("securebits take CAP_SETPCAP", needs = "root");
    }
    in_thread(|| {
        let setpcap = Capability::Setpcap;
        let identity =
            Identity::new().capabilities(setpcap).ambient(setpcap).securebits(Securebits::LOCKED_DOWN);
        let (_, seen) = status_of(&identity.prepare().expect("root"));
        assert_eq!(
            seen.capabilities.effective,
            setpcap.into(),
            "of user 0 only what is ambient lasts: noroot"
        );
        identity.prepare().expect("root").apply_to_thread().expect("applied");
        let now = Credentials::current().expect("readable");
        assert_eq!(now.securebits, Some(Securebits::LOCKED_DOWN));
        let kind = |identity: Identity| identity.prepare().expect_err("locked").kind();
        assert_eq!(kind(Identity::new().securebits(Securebits::empty())), ErrorKind::Conflict);
        assert_eq!(kind(Identity::new().capabilities(setpcap).ambient(setpcap)), ErrorKind::Conflict);
        Identity::new().prepare().expect("locked bits stay").apply_to_thread().expect("applied");
    });
    let locked = Securebits::NOROOT.locked();
    assert!(locked.allows(locked) && locked.allows(locked | Securebits::EXEC_RESTRICT_FILE));
    assert!(!locked.allows(Securebits::NOROOT) && !locked.allows(locked - Securebits::NOROOT));
    assert!(!locked.allows(locked | Securebits::KEEP_CAPS));
    assert_eq!(
        "noroot, keep-caps-locked".parse::<Securebits>().expect("names"),
        Securebits::NOROOT | Securebits::KEEP_CAPS_LOCKED
    );
    assert_eq!("nothing".parse::<Securebits>().expect_err("no such").kind(), ErrorKind::Syntax);
}

/// A55, A128: whichever call is refused, the program is not run, and the error names the step.
#[test]
fn a55_a_refused_call_stops_everything() {
    if !is_root() {
        skip!("the fault is a filter without no_new_privs", needs = "root");
    }
    let prctl = |option: i32| (libc::SYS_prctl, Some(option as u32));
    let calls = [
        ("session keyring", (libc::SYS_keyctl, None)),
        ("bounding set", prctl(libc::PR_CAPBSET_DROP)),
        ("identity (65534:65534): prctl", prctl(libc::PR_SET_KEEPCAPS)),
        ("identity (65534:65534): setgroups", (libc::SYS_setgroups, None)),
        ("identity (65534:65534): setresgid", (libc::SYS_setresgid, None)),
        ("identity (65534:65534): setresuid", (libc::SYS_setresuid, None)),
        ("capabilities: prctl(PR_CAP_AMBIENT", prctl(libc::PR_CAP_AMBIENT)),
        ("capabilities: capset", (libc::SYS_capset, None)),
        ("capabilities: prctl(PR_SET_SECUREBITS", prctl(libc::PR_SET_SECUREBITS)),
        ("no_new_privs: prctl(PR_SET_NO_NEW_PRIVS, 1", prctl(libc::PR_SET_NO_NEW_PRIVS)),
    ];
    let identity = Identity::new()
        .ids(Uid::NOBODY, Gid::NOBODY)
        .capabilities(CapabilitySet::DOCKER)
        .securebits(Securebits::NOROOT)
        .new_session_keyring(true);
    let prepared = identity.prepare().expect("root");
    let dir = palisade_testkit::temp_dir();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("chmod");
    let mark = dir.path().join("ran");
    for (step, (call, first)) in calls {
        in_thread(|| {
            sys::refuse(call, first).expect("filter");
            let mut command = Command::new("touch");
            let error = prepared.apply_to_command(command.arg(&mark)).spawn().expect_err(step);
            assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{step}");
            assert!(!mark.exists());
            let error = prepared.apply_to_thread().expect_err(step);
            assert_eq!((error.kind(), error.errno()), (ErrorKind::Permission, Some(libc::EPERM)));
            assert!(error.to_string().contains(step), "{step}: {error}");
        });
    }
}

/// What the kernel would refuse is refused by `prepare`.
#[test]
fn contradictions_are_told_before_anything_happens() {
    let all = Credentials::in_new_user_namespace(Uid::ROOT, Gid::ROOT).expect("readable");
    let kind = |identity: Identity, maps: Option<&Maps>| {
        identity.prepare_from(&all, maps).expect_err("conflict").kind()
    };
    let kill = CapabilitySet::from(Capability::Kill);
    let sets = |sets| Identity::new().capability_sets(sets);
    let none = ThreadCapabilities::default();
    assert_eq!(kind(sets(ThreadCapabilities { effective: kill, ..none }), None), ErrorKind::Conflict);
    assert_eq!(kind(sets(ThreadCapabilities { ambient: kill, ..none }), None), ErrorKind::Conflict);
    assert_eq!(kind(sets(ThreadCapabilities { inheritable: kill, ..none }), None), ErrorKind::Conflict);
    let beyond = CapabilitySet::from_bits(1 << 62);
    assert_eq!(kind(Identity::new().capabilities(beyond), None), ErrorKind::CapabilityUnavailable);

    // A48 and A44 in a namespace with one id and setgroups denied.
    let single = Maps::single((Uid::ROOT, Gid::ROOT), (uid(1000), gid(1000)));
    assert_eq!(
        kind(Identity::new().ids(uid(5), Gid::ROOT).keep_groups(), Some(&single)),
        ErrorKind::Unmapped
    );
    assert_eq!(
        kind(Identity::new().ids(Uid::ROOT, gid(5)).keep_groups(), Some(&single)),
        ErrorKind::Unmapped
    );
    assert_eq!(kind(Identity::new().keep_groups().groups([gid(7)]), Some(&single)), ErrorKind::Unmapped);
    assert_eq!(kind(Identity::new().groups([Gid::ROOT]), Some(&single)), ErrorKind::Conflict);
    Identity::new()
        .ids(Uid::ROOT, Gid::ROOT)
        .keep_groups()
        .prepare_from(&all, Some(&single))
        .expect("its one id");
}

/// The calls, in the order that keeps each step possible.
#[test]
fn the_program_reads_like_the_calls() {
    let all = Credentials::in_new_user_namespace(Uid::ROOT, Gid::ROOT).expect("readable");
    let identity = Identity::new()
        .ids(uid(1000), gid(100))
        .groups([gid(7)])
        .capabilities(CapabilitySet::DOCKER)
        .ambient(Capability::NetBindService)
        .securebits(Securebits::NOROOT.locked())
        .new_session_keyring(true)
        .dumpable(false);
    let prepared = identity.prepare_from(&all, None).expect("a new namespace has all capabilities");
    let steps: Vec<Step> = prepared.programs().map(|(step, _)| step).collect();
    assert_eq!(
        steps,
        [Step::Keyring, Step::BoundingSet, Step::Identity, Step::Capabilities, Step::NoNewPrivs]
    );
    assert!(steps.is_sorted());
    let calls = prepared.to_string();
    let order = [
        "KEYCTL_JOIN_SESSION_KEYRING",
        "PR_CAPBSET_DROP",
        "PR_SET_KEEPCAPS, 1",
        "setgroups(",
        "setresgid(100",
        "setresuid(1000",
        "PR_SET_KEEPCAPS, 0",
        "PR_CAP_AMBIENT, 4",
        "capset(",
        "PR_CAP_AMBIENT, 2",
        "PR_SET_SECUREBITS",
        "PR_SET_DUMPABLE, 0",
        "PR_SET_NO_NEW_PRIVS, 1",
    ];
    let mut rest = calls.as_str();
    for call in order {
        let at = rest.find(call).unwrap_or_else(|| panic!("{call} missing or out of order in\n{calls}"));
        rest = &rest[at..];
    }
    let needs = prepared.needs();
    assert!(needs.contains_all(CapabilitySet::DOCKER), "what is kept is needed, too: {needs}");

    let nothing = Identity::new().keep_bounding_set().prepare_from(&all, None).expect("needs nothing");
    assert!(nothing.needs().is_empty());
    assert!(!nothing.to_string().contains("KEEPCAPS"));
}

/// A70: a key of the caller's session is found by a child, unless it joins a keyring of its own.
#[test]
fn a70_session_keys_are_out_of_reach() {
    in_thread(|| {
        let keep = || {
            let now = ThreadCapabilities::current().expect("readable");
            Identity::new().capability_sets(now).new_session_keyring(true).allow_privilege_escalation(true)
        };
        if let Err(error) = keep().prepare().expect("own capabilities").apply_to_thread() {
            skip!(error, needs = "keyring");
        }
        if let Err(error) = sys::add_session_key(c"palisade-secret", b"secret") {
            skip!(error, needs = "keyring");
        }
        sys::find_session_key(c"palisade-secret").expect("in this session");
        in_thread(|| {
            sys::find_session_key(c"palisade-secret").expect("threads inherit the session");
            keep().prepare().expect("own capabilities").apply_to_thread().expect("applied");
            let error = sys::find_session_key(c"palisade-secret").expect_err("a session of its own");
            assert_eq!(error.raw_os_error(), Some(libc::ENOKEY));
        });
        sys::find_session_key(c"palisade-secret").expect("the caller's session is as it was");
    });
}

fn inner(test: &str, command: &mut Command) {
    let test_binary = std::env::current_exe().expect("this test");
    let output = command
        .arg(test_binary)
        .args(["--exact", test, "--ignored", "--nocapture"])
        .output()
        .expect("spawned");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

/// Stand-alone use: become nobody in a threaded program.
#[test]
fn a_threaded_program_becomes_nobody() {
    if !is_root() {
        skip!("there is somebody to become", needs = "root");
    }
    inner("inner_threaded", Command::new("env").arg("--"));
}

#[test]
#[ignore = "run by the test above, as it changes its whole process"]
fn inner_threaded() {
    let (go, ready) = (std::sync::Barrier::new(4), std::sync::Barrier::new(4));
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    ready.wait();
                    go.wait();
                    let now = Credentials::current().expect("readable");
                    (
                        now,
                        std::fs::File::open("/etc/shadow").is_err(),
                        Command::new("/bin/true").status().is_ok(),
                    )
                })
            })
            .collect();
        ready.wait();
        let several = Identity::new().ids(Uid::NOBODY, Gid::NOBODY).capabilities(Capability::Kill);
        let error = several.prepare().expect("root").apply_to_process().expect_err("not for all threads");
        assert_eq!(error.kind(), ErrorKind::Conflict);
        let open = Identity::new().ids(Uid::NOBODY, Gid::NOBODY).allow_privilege_escalation(true);
        assert_eq!(
            open.prepare().expect("root").apply_to_process().expect_err("no_new_privs").kind(),
            ErrorKind::Conflict
        );
        assert_eq!(Credentials::current().expect("readable").uid, Ids::all(Uid::ROOT), "nothing was done");

        let nobody = Identity::new().ids(Uid::NOBODY, Gid::NOBODY).dumpable(false);
        nobody.prepare().expect("root").apply_to_process().expect("applied to all");
        go.wait();
        for worker in workers {
            let (now, refused, runs) = worker.join().expect("the worker ended well");
            assert_eq!((now.uid, now.gid), (Ids::all(Uid::NOBODY), Ids::all(Gid::NOBODY)));
            assert!(now.groups == Some(vec![]) && now.no_new_privs);
            assert!((now.capabilities.permitted | now.capabilities.effective).is_empty());
            assert!(refused && runs);
        }
        let later = scope.spawn(|| Credentials::current().expect("readable")).join().expect("a later thread");
        assert_eq!(later.uid, Ids::all(Uid::NOBODY));
    });
    assert_eq!(sys::dumpable(), 0);
}

/// In a user namespace of an ordinary user: docker's set inside, which is nothing outside.
#[test]
fn in_an_unprivileged_user_namespace() {
    inner("inner_namespace", Command::new("unshare").args(["--user", "--map-root-user", "--"]));
}

#[test]
#[ignore = "run by the test above in a user namespace with one id"]
fn inner_namespace() {
    let identity = Identity::new().ids(Uid::ROOT, Gid::ROOT).capabilities(CapabilitySet::DOCKER);
    let error = identity.clone().groups([Gid::ROOT]).prepare().expect_err("setgroups is denied");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let (_, seen) = status_of(&identity.clone().keep_groups().prepare().expect("all capabilities inside"));
    assert_eq!(seen.capabilities.effective, CapabilitySet::DOCKER);
    let error = identity.ids(uid(5), Gid::ROOT).keep_groups().prepare().expect_err("one id");
    assert_eq!(error.kind(), ErrorKind::Unmapped);
    let error = Identity::new().ids(Uid::ROOT, Gid::NOBODY).keep_groups().prepare().expect_err("one id");
    assert_eq!(error.kind(), ErrorKind::Unmapped);
}

/// In a user namespace with ranges: another user inside, with groups, from user 0 inside.
#[test]
fn in_a_user_namespace_with_ranges() {
    if !is_root() {
        skip!("ranges take CAP_SETUID", needs = "root");
    }
    let map: IdMap = "0 0 1\n1 100000 65535".parse().expect("a map");
    let mut namespace = InNamespace::new();
    let dir = namespace.pid_dir();
    write_maps(std::os::fd::AsFd::as_fd(&dir), &Maps::new(map.clone(), map)).expect("written");
    let test = std::env::current_exe().expect("this test");
    let line = format!("{} --exact inner_ranges --ignored --nocapture 2>&1 </dev/null", test.display());
    let (said, status) = namespace.run(&line);
    assert!(status == 0 && said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "run by the test above in a user namespace with ranges"]
fn inner_ranges() {
    let identity = Identity::new().ids(Uid::NOBODY, gid(33)).groups([gid(7), gid(65_534)]);
    let identity = identity.capabilities(CapabilitySet::DOCKER).ambient(Capability::NetBindService);
    let (_, seen) = status_of(&identity.prepare().expect("all capabilities inside"));
    assert_eq!((seen.uid, seen.gid), (Ids::all(Uid::NOBODY), Ids::all(gid(33))));
    assert_eq!(seen.groups, Some(vec![gid(7), gid(65_534)]));
    assert_eq!(seen.capabilities.bounding, CapabilitySet::DOCKER);
}

#[test]
fn a_status_is_read_or_refused() {
    let text = std::fs::read_to_string("/proc/thread-self/status").expect("/proc");
    let seen = Credentials::from_status(text.as_bytes()).expect("the kernel's own");
    seen.check(&Credentials::current().expect("readable")).expect("the same thread");
    for (from, to) in [
        ("Uid:\t", "Uid:\tx "),
        ("NoNewPrivs:\t0", "NoNewPrivs:\t2"),
        ("Groups:", "Group:"),
        ("Gid:\t", "Gid:\t4294967295\t"),
    ] {
        if text.contains(from) {
            let error = Credentials::from_status(text.replacen(from, to, 1).as_bytes()).expect_err(to);
            assert_eq!(error.kind(), ErrorKind::Syntax);
        }
    }
    let mut other = seen.clone();
    other.capabilities.ambient = Capability::Kill.into();
    assert_eq!(seen.check(&other).expect_err("a difference").kind(), ErrorKind::NotApplied);
}

proptest! {
    #[test]
    fn parsers_are_total(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[a-z,-]{0,40}", bits in 0u32..0x1000) {
        let _ = (Credentials::from_status(&bytes), text.parse::<Securebits>());
        let bits = Securebits::from_bits_retain(bits);
        prop_assert_eq!(bits.to_string().parse::<Securebits>().expect("its own text"), bits);
    }
}
