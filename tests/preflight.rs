//! What is found out about a machine, against what works there.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::HashSet;
use std::fs;

use palisade::ns::{Namespace, Namespaces, unshare};
use palisade::preflight::{Feature, Status};
use palisade::secfilter::{Action, Install, Policy, Rule};
use palisade::{ErrorKind, Preflight, Sandbox, preflight};
use palisade_testkit::{Snapshot, can_unshare_user, in_child, skip};

macro_rules! need_userns {
    () => {
        if !can_unshare_user() {
            skip!("no user namespace can be made", needs = "userns");
        }
    };
}

/// The status of a feature, and its fix.
fn found(report: &Preflight, feature: &Feature) -> (Status, String) {
    let finding = report.get(feature).unwrap_or_else(|| panic!("{feature}:\n{report}"));
    (finding.status, finding.fix.clone().unwrap_or_default())
}

/// In a child that is root of a user namespace of its own, as `unshare -r` makes it.
fn as_inner_root(kinds: impl Into<Namespaces>, body: impl FnOnce()) {
    let own = [nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw()];
    in_child(|| {
        unshare(kinds.into().with(Namespace::User)).unwrap();
        fs::write("/proc/self/setgroups", "deny").unwrap();
        fs::write("/proc/self/uid_map", format!("0 {} 1", own[0])).unwrap();
        fs::write("/proc/self/gid_map", format!("0 {} 1", own[1])).unwrap();
        body();
    });
}

#[test]
fn it_says_what_works_and_leaves_nothing() {
    preflight(); // threads and the stage's file are kept from then on
    let before = Snapshot::take();
    let report = preflight();
    before.assert_unchanged();

    let spawned = Sandbox::new().and_then(|sandbox| sandbox.command("/bin/true").status());
    assert_eq!(report.is_ready(), spawned.is_ok_and(|status| status.success()), "{report}");
    let features: HashSet<_> = report.findings.iter().map(|finding| finding.feature.clone()).collect();
    assert_eq!(features.len(), report.findings.len(), "each feature once:\n{report}");
    assert_eq!(report.findings[0].feature, Feature::SecureDefault);
    for kind in Namespace::ALL {
        assert!(features.contains(&Feature::Namespace(kind)), "{kind}");
    }
    for name in ["cpu", "memory", "pids", "io", "cpuset"] {
        let there = report.controllers.iter().any(|controller| controller == name);
        let finding = report.get(&Feature::Controller(name.into())).unwrap();
        assert_eq!(finding.status == Status::Available, there, "{report}");
    }
    for finding in &report.findings {
        assert!(!finding.seen.is_empty(), "{}", finding.feature);
        let to_fix = matches!(finding.status, Status::Missing | Status::Limited);
        assert!(!to_fix || finding.fix.is_some(), "{} has no fix:\n{report}", finding.feature);
    }
    let uname = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(report.release, uname.trim());
    assert_eq!(report.user, (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw()));
    let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap();
    assert_eq!(report.seccomp_actions.join(" "), actions.trim());
}

#[test]
fn the_report_is_text_and_json() {
    let report = preflight();
    let text = report.to_string();
    let json = serde_json::to_value(&report).unwrap();
    let list = json["findings"].as_array().unwrap();
    assert_eq!(list.len(), report.findings.len());
    for (finding, row) in report.findings.iter().zip(list) {
        let name = finding.feature.to_string();
        assert!(text.lines().any(|line| line.starts_with(&name)), "{name}");
        assert_eq!(row["feature"], *name);
        assert_eq!(row["fix"].as_str(), finding.fix.as_deref());
    }
    assert_eq!(json["landlock_abi"], report.landlock_abi);
    assert!(json["cgroup_mode"].is_string());
    let ready = list.iter().find(|row| row["feature"] == "secure default").unwrap();
    assert_eq!(ready["status"] == "available", report.is_ready());
}

#[test]
fn root_of_a_namespace_with_one_id_has_no_ranges() {
    need_userns!();
    as_inner_root(Namespace::Mount, || {
        let report = preflight();
        assert!(report.privileged && report.is_ready(), "{report}");
        let (status, fix) = found(&report, &Feature::IdRanges);
        assert!(status == Status::Missing && fix.contains("range of ids"), "{report}");
    });
}

#[test]
fn user_namespaces_that_are_switched_off_are_named_with_their_sysctl() {
    need_userns!();
    as_inner_root(Namespace::Mount, || {
        fs::write("/proc/sys/user/max_user_namespaces", "0").unwrap();
        let report = preflight();
        assert!(!report.is_ready(), "{report}");
        let (status, fix) = found(&report, &Feature::Namespace(Namespace::User));
        assert_eq!(status, Status::Missing);
        assert!(fix.starts_with("sysctl -w user.max_user_namespaces="), "{report}");
        // Others can be made without one.
        assert!(report.is_available(&Feature::Namespace(Namespace::Uts)), "{report}");
        // The error of a spawn names the sysctl as well.
        let error = Sandbox::new().unwrap().command("/bin/true").spawn().unwrap_err();
        assert!(error.hint().unwrap().contains("user.max_user_namespaces"), "{error}");
    });
}

#[test]
fn a_masked_proc_is_told_apart_from_everything_else() {
    need_userns!();
    as_inner_root(Namespace::Mount, || {
        use nix::mount::{MsFlags, mount};
        // As an engine masks it.
        let null: Option<&str> = None;
        mount(Some("mask"), "/proc/fs", Some("tmpfs"), MsFlags::MS_RDONLY, null).unwrap();
        let report = preflight();
        assert!(!report.is_ready(), "{report}");
        let (status, fix) = found(&report, &Feature::Proc);
        assert_eq!(status, Status::Missing, "{report}");
        assert!(fix.contains("proc(None)"), "{report}");
        assert!(report.is_available(&Feature::Overlay), "tried without /proc:\n{report}");
        for kind in Namespace::ALL {
            assert!(report.is_available(&Feature::Namespace(kind)), "{report}");
        }
    });
}

#[test]
fn calls_that_an_outer_filter_hides_are_named() {
    for (call, feature) in [
        ("open_tree", Feature::MountApi),
        ("mount_setattr", Feature::MountApi),
        ("pidfd_open", Feature::Pidfd),
        ("memfd_create", Feature::Memfd),
        ("seccomp", Feature::Seccomp),
    ] {
        in_child(|| {
            let policy = Policy::new(Action::Allow).rule(Rule::new([call], Action::ENOSYS));
            Install::new(&policy.compile().unwrap()).apply().unwrap();
            let report = preflight();
            let finding = report.get(&feature).unwrap();
            assert_eq!(finding.status, Status::Missing, "{call}:\n{report}");
            assert!(finding.seen.contains(call) && finding.fix.is_some(), "{call}:\n{report}");
            // Without a guard nothing opens a pidfd by number.
            assert_eq!(report.is_ready(), call == "pidfd_open", "{call}:\n{report}");
        });
    }
}

#[test]
fn an_outer_filter_that_forbids_namespaces_is_no_surprise() {
    in_child(|| {
        let policy = Policy::new(Action::Allow).rule(Rule::new(["clone3"], Action::EPERM));
        Install::new(&policy.compile().unwrap()).apply().unwrap();
        let report = preflight();
        assert!(!report.is_ready(), "{report}");
        let (status, fix) = found(&report, &Feature::Namespace(Namespace::User));
        assert!(status == Status::Missing && fix.contains("seccomp profile"), "{report}");
        let error = Sandbox::new().and_then(|sandbox| sandbox.command("/bin/true").spawn()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Setup, "{error}");
    });
}
