//! AppArmor, enforced: where the kernel has it, as the test machine's does.

use std::fs;

use palisade::ErrorKind;
use palisade::presets::docker::Docker;
use palisade::secfilter::lsm::{ContainerProfile, active};
use palisade_testkit::{is_root, skip};

#[expect(dead_code, reason = "each test binary uses a part of it")]
#[path = "common/image.rs"]
mod common;
use common::{image, running, says};

/// Unloads the profile whatever happened.
struct Loaded(ContainerProfile);

impl Drop for Loaded {
    fn drop(&mut self) {
        if let Err(error) = self.0.unload() {
            eprintln!("{error}");
        }
    }
}

/// The label is on the payload, and what the profile denies is denied to root with every capability of Docker's.
#[test]
fn a_profile_is_loaded_entered_and_enforced() {
    let active = active().is_ok_and(|modules| modules.iter().any(|name| name == "apparmor"));
    if !active {
        skip!("AppArmor is not active");
    }
    if !is_root() {
        skip!("profiles are loaded by root");
    }
    let Some(image) = image() else { skip!("no busybox (package busybox-static)") };
    fs::create_dir(image.path().join("guarded")).unwrap_or_else(|error| panic!("{error}"));
    let name = format!("palisade-test-{}", std::process::id());
    let profile = ContainerProfile::new(&name).and_then(|it| it.deny_writes("/guarded"));
    let profile = profile.unwrap_or_else(|error| panic!("{error}"));
    let free = Docker::new(image.path());
    let held = free.clone().security_opt(format!("apparmor={name}"));

    let error = held.build().map(drop).map_err(|error| (error.kind(), error.to_string()));
    let Err((kind, text)) = error else { panic!("a profile that is not loaded") };
    assert_eq!(kind, ErrorKind::InvalidSpec);
    assert!(text.contains("not loaded"), "{text}");

    profile.load().unwrap_or_else(|error| panic!("{error}"));
    let loaded = Loaded(profile);
    assert_eq!(says(&free, "touch /guarded/x && echo written"), "written\n", "the control");
    assert_eq!(
        says(&held, "touch /guarded/x 2>&1; touch /tmp/x && echo elsewhere"),
        "touch: /guarded/x: Permission denied\nelsewhere\n"
    );
    let child = running(&held);
    let label = fs::read_to_string(format!("/proc/{}/attr/apparmor/current", child.id()));
    assert_eq!(label.ok().as_deref().map(str::trim_end), Some(format!("{name} (enforce)").as_str()));
    drop(child);

    // A mount is denied although capability and filter allow it.
    let mount = "busybox mount -t tmpfs none /tmp 2>&1 && echo mounted || echo denied";
    assert!(says(&free.clone().cap_add("SYS_ADMIN"), mount).ends_with("mounted\n"));
    assert!(says(&held.clone().cap_add("SYS_ADMIN"), mount).ends_with("denied\n"));
    // With no_new_privs off, too: the label comes with the exec in either case.
    let escalating = held.clone().allow_privilege_escalation(true);
    assert_eq!(says(&escalating, "touch /guarded/x 2>/dev/null || echo denied"), "denied\n");
    // What the kernel shows below /proc is written to by nobody who has it.
    let core = "(echo x >/proc/sys/kernel/core_pattern) 2>/dev/null || echo denied";
    assert_eq!(says(&held.security_opt("systempaths=unconfined"), core), "denied\n");
    drop(loaded);
    let list = fs::read_to_string("/sys/kernel/security/apparmor/profiles").unwrap_or_default();
    assert!(!list.contains(&name), "{list}");
}
