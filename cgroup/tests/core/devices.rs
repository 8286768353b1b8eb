//! Device rules against the kernel: needs root, works on every layout with a v2 hierarchy.

use std::process::Command;

use crate::common::{self, is_root, playground, run_in, skip};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use palisade_cgroup::{Access, Cgroup, Device, DeviceKind, DeviceRules, ErrorKind, Limits, OwnedCgroup};

fn leaf(test: &str) -> Option<(OwnedCgroup, OwnedCgroup)> {
    if !is_root() {
        skip("root", "bpf(2) is for root");
        return None;
    }
    let home = playground(test)?;
    let leaf = home.create("leaf", &Limits::new()).expect("created");
    Some((leaf, home))
}

fn rule(text: &str) -> Device {
    text.parse().expect(text)
}

/// Lab 48: null yes, zero EPERM, mknod EPERM, even for root.
#[test]
fn null_yes_zero_no_mknod_no() {
    let Some((leaf, _home)) = leaf("devices") else { return };
    leaf.set_devices(&DeviceRules::deny_all().allow(rule("c 1:3 rwm"))).expect("in force");
    let script = "
        echo x >/dev/null || exit 10
        (: </dev/zero) 2>/dev/null && exit 11
        d=$(mktemp -d) || exit 12
        mknod $d/zero c 1 5 2>/dev/null && r=13
        mknod $d/null c 1 3 || r=14
        rm -r $d
        exit ${r:-0}";
    assert_eq!(run_in(&leaf, script).code(), Some(0));
}

#[test]
fn read_and_write_are_told_apart() {
    let Some((leaf, _home)) = leaf("rw") else { return };
    leaf.set_devices(&DeviceRules::deny_all().allow(rule("c 1:3 rwm")).allow(rule("c 1:7 r")))
        .expect("in force");
    // /dev/full: may be read, not written.
    let script = ": </dev/full || exit 10; (: >/dev/full) 2>/dev/null && exit 11; (: <>/dev/full) 2>/dev/null && exit 12; exit 0";
    assert_eq!(run_in(&leaf, script).code(), Some(0));
}

#[test]
fn rules_are_swapped_queried_and_cleared() {
    let Some((leaf, _home)) = leaf("swap") else { return };
    assert_eq!(leaf.device_programs().expect("readable"), []);
    let first = DeviceRules::deny_all().allow(rule("c 1:3 rwm"));
    let second = first.clone().allow(rule("c 1:5 r"));
    leaf.set_devices(&first).expect("first");
    let attached = leaf.device_programs().expect("readable");
    assert_eq!(attached.len(), 1);
    assert_eq!(attached[0].program, first.compile(), "{}", attached[0].program);
    leaf.set_devices(&second).expect("second");
    let swapped = leaf.device_programs().expect("readable");
    assert_eq!(swapped.len(), 1);
    assert_ne!(swapped[0].id, attached[0].id);
    assert_eq!(swapped[0].program, second.compile());
    assert_eq!(run_in(&leaf, ": </dev/zero").code(), Some(0));
    leaf.clear_devices().expect("cleared");
    assert_eq!(leaf.device_programs().expect("readable"), []);
    assert_eq!(run_in(&leaf, ": <>/dev/full").code(), Some(0));
}

/// While rules are swapped, no open slips through that both forbid.
#[test]
fn a_swap_leaves_no_gap() {
    let Some((leaf, _home)) = leaf("gap") else { return };
    let a = DeviceRules::deny_all().allow(rule("c 1:3 rwm"));
    let b = a.clone().allow(rule("c 1:7 rwm"));
    leaf.set_devices(&a).expect("first");
    let mut child = common::spawn_in(&leaf, "while :; do (: </dev/zero) 2>/dev/null && exit 11; done");
    let begun = || leaf.cpu_stat().expect("readable").usage;
    let start = begun();
    common::until("it is trying", || begun() > start + std::time::Duration::from_millis(100));
    for swap in 0..1000 {
        leaf.set_devices(if swap % 2 == 0 { &b } else { &a }).expect("swapped");
    }
    assert!(child.try_wait().expect("waits").is_none(), "an open got through");
    leaf.remove().expect("removed");
    assert!(common::killed(child.wait().expect("reaped")));
}

#[test]
fn a_group_below_narrows_and_cannot_widen() {
    let Some((leaf, home)) = leaf("narrow") else { return };
    home.set_devices(&DeviceRules::deny_all().allow(rule("c 1:3 rwm"))).expect("above");
    leaf.set_devices(&DeviceRules::allow_all()).expect("below");
    assert_eq!(
        run_in(&leaf, "echo >/dev/null || exit 10; (: </dev/zero) 2>/dev/null && exit 11; exit 0").code(),
        Some(0)
    );
}

#[test]
fn an_ordinary_user_gets_a_typed_error() {
    let Some((leaf, _home)) = leaf("user") else { return };
    // A thread of its own: credentials are per thread in the kernel, and this one ends.
    let path = leaf.path().to_path_buf();
    let error = std::thread::spawn(move || {
        let group = Cgroup::open(path).expect("opens");
        common::sys::become_nobody_in_this_thread();
        group.set_devices(&DeviceRules::deny_all()).expect_err("no capabilities")
    })
    .join()
    .expect("ends");
    assert_eq!(error.kind(), ErrorKind::NotDelegated, "{error}");
    assert!(error.remedy().is_some_and(|r| r.contains("CAP_BPF")), "{error}");
}

/// The evaluator says what the kernel does, for real devices, all accesses and many lists.
#[test]
fn the_evaluator_agrees_with_the_kernel() {
    let Some((leaf, _home)) = leaf("oracle") else { return };
    // Numbers whose nodes can be opened without effect: null, zero, full; mknod is tried on numbers of no driver too.
    const DEVICES: [(u32, u32); 3] = [(1, 3), (1, 5), (1, 7)];
    let dir = tempfile::tempdir().expect("temporary directory");
    let node = |minor: u32| {
        format!(
            "/dev/{}",
            ["null", "zero", "full"][DEVICES.iter().position(|d| d.1 == minor).expect("one of them")]
        )
    };
    // A fixed walk through the space of rule lists: reproducible, and different each step.
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    let mut next = |n: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % n
    };
    for round in 0..40 {
        let mut rules = if next(2) == 0 { DeviceRules::deny_all() } else { DeviceRules::allow_all() };
        for _ in 0..next(6) {
            let kind = ["a", "b", "c"][next(3) as usize];
            let major = ["*", "1", "2"][next(3) as usize];
            let minor = ["*", "3", "5", "7"][next(4) as usize];
            let access = ["r", "w", "m", "rw", "rm", "wm", "rwm"][next(7) as usize];
            let device = rule(&format!("{kind} {major}:{minor} {access}"));
            rules = if next(2) == 0 { rules.allow(device) } else { rules.deny(device) };
        }
        leaf.set_devices(&rules).expect("in force");
        let mut cases = Vec::new();
        for (major, minor) in DEVICES {
            for access in [Access::READ, Access::WRITE, Access::READ | Access::WRITE, Access::MKNOD] {
                cases.push((major, minor, access, rules.allows(DeviceKind::Char, major, minor, access)));
            }
        }
        let made = dir.path().join(format!("node-{round}"));
        let mut probe = Command::new("/bin/true");
        let answers = std::sync::Arc::new(cases.clone());
        let paths: Vec<String> = cases.iter().map(|c| node(c.1)).collect();
        leaf.confine(&mut probe).expect("may enter");
        let check = move || {
            for ((major, minor, access, expected), path) in answers.iter().zip(&paths) {
                let allowed = if *access == Access::MKNOD {
                    let r = mknod(
                        &made,
                        SFlag::S_IFCHR,
                        Mode::S_IRUSR,
                        makedev((*major).into(), (*minor).into()),
                    );
                    if r.is_ok() {
                        std::fs::remove_file(&made)?;
                    }
                    r.is_ok()
                } else {
                    let mut o = std::fs::OpenOptions::new();
                    o.read(access.contains(Access::READ)).write(access.contains(Access::WRITE));
                    o.open(path).is_ok()
                };
                if allowed != *expected {
                    return Err(std::io::Error::from_raw_os_error(libc::EBADMSG));
                }
            }
            Ok(())
        };
        common::sys::before_exec(&mut probe, check);
        match probe.status() {
            Ok(status) => assert!(status.success()),
            Err(e) => panic!("the kernel disagrees ({e}) on one of {cases:?} with\n{rules}"),
        }
    }
}
