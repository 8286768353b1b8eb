//! What is found out about a machine that has everything: the test machine.

use palisade::cgroup::Mode;
use palisade::preflight;
use palisade::preflight::Feature;
use palisade_testkit::{cgroup_dir, skip};

#[test]
fn a_machine_with_delegated_controllers_has_all_of_them() {
    if cgroup_dir().is_none() {
        skip!("no delegated cgroup v2 directory", needs = "controllers");
    }
    let report = preflight();
    println!("{report}");
    assert_eq!(report.cgroup_mode, Some(Mode::V2));
    assert!(report.is_ready(), "{report}");
    for feature in [Feature::Cgroup, Feature::Delegation, Feature::Seccomp, Feature::Overlay, Feature::Proc] {
        assert!(report.is_available(&feature), "{feature}:\n{report}");
    }
    for name in ["cpu", "memory", "pids"] {
        assert!(report.is_available(&Feature::Controller(name.into())), "{name}:\n{report}");
    }
    assert_eq!(
        report.is_available(&Feature::AppArmor),
        report.security_modules.iter().any(|m| m == "apparmor")
    );
    assert!(report.landlock_abi > 0 && report.is_available(&Feature::IdRanges), "{report}");
}
