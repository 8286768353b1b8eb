//! The security modules of the running system: where securityfs is not mounted, the test machine has it.

use palisade_secfilter::ErrorKind;
use palisade_secfilter::lsm::{ExecLabel, active};

#[test]
fn the_running_system_is_asked() {
    let Ok(active) = active() else {
        println!("SKIP securityfs is not mounted");
        return;
    };
    assert!(active.iter().any(|name| name == "capability"), "{active:?}");
    let list = std::fs::File::open("/sys/kernel/security/apparmor/profiles");
    if list.is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied) {
        println!("SKIP the list of profiles is for root");
        return;
    }
    let label = ExecLabel::apparmor("no such profile").unwrap();
    assert_eq!(label.prepare().unwrap_err().kind(), ErrorKind::Label);
    assert!(label.optional().prepare().unwrap().is_none());
}
