//! SELinux, enforced, by this crate alone: the test machine has a boot with a small policy, tests/machine/selinux.cil.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::process::Command;

use palisade_secfilter::ErrorKind;
use palisade_secfilter::lsm::{ExecLabel, active};

/// Ends the test where the policy is not loaded; fails where `PALISADE_TEST_REQUIRE` says that it is.
fn has_policy() -> bool {
    let there = active().is_ok_and(|modules| modules.iter().any(|name| name == "selinux"))
        && std::fs::read_to_string("/sys/fs/selinux/enforce").is_ok_and(|mode| mode.trim() == "1")
        && label("system_u:object_r:secret_t:s0").check().is_ok();
    let required = std::env::var("PALISADE_TEST_REQUIRE").unwrap_or_default();
    assert!(there || !required.split(',').any(|name| name == "selinux"), "SELinux is required here");
    if !there {
        println!("SKIP SELinux is not enforced here with the tests' own policy");
    }
    there
}

fn label(text: &str) -> ExecLabel {
    ExecLabel::selinux(text.parse().unwrap())
}

/// What a program says that was told to take a label.
fn cat(label: &ExecLabel, path: &str) -> std::io::Result<String> {
    let mut command = Command::new("/bin/cat");
    assert!(label.confine(command.arg(path)).unwrap());
    command.output().map(|out| String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
}

#[test]
fn a_command_takes_a_context_and_is_held_to_it() {
    if !has_policy() {
        return;
    }
    // The kernel writes categories its own way.
    let held = label("system_u:system_r:container_t:s0:c3,c2,c1");
    let current = cat(&held, "/proc/self/attr/current").unwrap();
    assert_eq!(current, "system_u:system_r:container_t:s0:c1.c3\0");
    assert!(held.is_in(&current) && !label("system_u:system_r:container_t:s0").is_in(&current));

    let dir = tempfile::tempdir().unwrap();
    for (context, words) in [
        ("system_u:object_r:file_t:s0", "open\n"),
        ("system_u:object_r:file_t:s0:c1,c2", "own\n"),
        ("system_u:object_r:file_t:s0:c4", "Permission denied"),
        ("system_u:object_r:secret_t:s0", "Permission denied"),
    ] {
        let path = dir.path().join("file");
        std::fs::write("/proc/thread-self/attr/fscreate", context).unwrap();
        std::fs::write(&path, if words.ends_with('\n') { words } else { "secret\n" }).unwrap();
        assert!(std::fs::read(&path).is_ok(), "{context}: the control");
        let said = cat(&held, path.to_str().unwrap()).unwrap();
        assert!(said.contains(words) && !said.contains("secret\n"), "{context}: {said}");
        std::fs::remove_file(path).unwrap();
    }
}

/// A80: neither unconfined nor with another label.
#[test]
fn a80_a_context_that_cannot_be_had_is_an_error() {
    if !has_policy() {
        return;
    }
    for unknown in [
        "nobody_u:system_r:container_t:s0",
        "system_u:system_r:no_such_t:s0",
        "system_u:system_r:container_t:s0:c900",
        "system_u:system_r:container_t",
        "system_u:system_r:file_t:s0",
    ] {
        let mut command = Command::new("/bin/true");
        let error = label(unknown).confine(&mut command).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Label, "{error}");
        assert!(error.to_string().contains(unknown) && error.to_string().contains("policy"), "{error}");
        assert!(!label(unknown).optional().confine(&mut command).unwrap());
        let out = Command::new("/bin/cat").arg("/proc/self/attr/current").output().unwrap();
        assert!(String::from_utf8_lossy(&out.stdout).contains(":host_t:"));
    }
    // A context that is known, but not to be had from here.
    let error = cat(&label("system_u:system_r:spc_t:s0"), "/proc/self/attr/current").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(13), "{error}");
    // The other module is not there.
    let other = ExecLabel::apparmor("unconfined").unwrap();
    assert_eq!(other.prepare().unwrap_err().kind(), ErrorKind::Label);
    assert!(other.optional().prepare().unwrap().is_none());
}
