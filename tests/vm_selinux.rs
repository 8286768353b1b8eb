//! SELinux, enforced: the test machine has a boot with a small policy, tests/machine/selinux.cil. Programs of the type
//! `container_t` read and write what is of the type `file_t`, if they hold its categories; not what is `secret_t`.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;

use palisade::enforced::{Moment, State, Subject};
use palisade::preflight::{Feature, Status};
use palisade::presets::docker::Docker;
use palisade::secfilter::lsm::ExecLabel;
use palisade::{Child, ErrorKind, Sandbox, SandboxBuilder, Step, preflight};
use palisade_testkit::{skip, temp_dir};
use tempfile::TempDir;

#[expect(dead_code, reason = "each test binary uses a part of it")]
#[path = "common/image.rs"]
mod common;
use common::{image, says};

const CONTAINER: &str = "system_u:system_r:container_t:s0:c1,c2";

macro_rules! need_policy {
    () => {
        let enforced = fs::read_to_string("/sys/fs/selinux/enforce").is_ok_and(|mode| mode.trim() == "1");
        if !enforced || label("system_u:object_r:secret_t:s0").check().is_err() {
            skip!("SELinux is not enforced here with the tests' own policy", needs = "selinux");
        }
    };
}

fn label(text: &str) -> ExecLabel {
    ExecLabel::selinux(text.parse().unwrap())
}

/// A file of this context below a directory.
fn file(dir: &Path, name: &str, context: &str) {
    fs::write("/proc/thread-self/attr/fscreate", context).unwrap();
    fs::write(dir.join(name), format!("{name}\n")).unwrap();
    fs::write("/proc/thread-self/attr/fscreate", "\n").unwrap();
}

/// Files for everybody, for a container's categories, for others', and for no container.
fn files() -> TempDir {
    let dir = temp_dir();
    for (name, context) in [
        ("open", "system_u:object_r:file_t:s0"),
        ("own", "system_u:object_r:file_t:s0:c1,c2"),
        ("others", "system_u:object_r:file_t:s0:c1,c3"),
        ("secret", "system_u:object_r:secret_t:s0"),
    ] {
        file(dir.path(), name, context);
    }
    dir
}

const READ: &str =
    "cd /mnt && for name in open own others secret; do cat $name 2>/dev/null || echo denied; done";

fn out(builder: SandboxBuilder, script: &str) -> String {
    let out = builder.build().unwrap().command("/bin/sh").args(["-c", script]).output().unwrap();
    String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned()
}

fn current(child: &Child) -> String {
    let text = fs::read_to_string(format!("/proc/{}/attr/current", child.id())).unwrap();
    text.trim_end_matches('\0').to_owned()
}

#[test]
fn a_context_is_entered_enforced_and_verified() {
    need_policy!();
    let dir = files();
    let free = || Sandbox::builder().bind_ro(dir.path(), "/mnt");
    let held = || free().exec_label(label(CONTAINER));
    assert_eq!(out(free(), READ), "open\nown\nothers\nsecret\n", "the control");
    assert_eq!(out(held(), READ), "open\nown\ndenied\ndenied\n");
    assert_eq!(out(held(), "cat /proc/self/attr/current"), format!("{CONTAINER}\0"));

    let child = held().build().unwrap().command("/bin/sleep").arg("1000").spawn().unwrap();
    assert_eq!(current(&child), CONTAINER);
    let report = child.enforced();
    let row = report.get(&Subject::Label).unwrap_or_else(|| panic!("{report}"));
    assert_eq!((row.asked(), row.state()), (CONTAINER, &State::Verified(Moment::AfterExec)), "{report}");
    // What enters is held as well.
    let entered = child.exec("/bin/sh").args(["-c", READ]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&entered.stdout), "open\nown\ndenied\ndenied\n");
    let entered = child.exec("/bin/cat").arg("/proc/self/attr/current").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&entered.stdout), format!("{CONTAINER}\0"));
    // And what the payload starts; it can't ask for more than it has.
    let script = "(echo system_u:system_r:host_t:s0 >/proc/self/attr/exec) 2>/dev/null; /bin/cat /mnt/secret";
    assert!(!out(held(), script).contains("secret\n"));
}

#[test]
fn the_report_knows_the_kernels_spelling_of_categories() {
    need_policy!();
    let builder = Sandbox::builder().exec_label(label("system_u:system_r:container_t:s0:c5,c3,c4"));
    let child = builder.build().unwrap().command("/bin/sleep").arg("1000").spawn().unwrap();
    assert_eq!(current(&child), "system_u:system_r:container_t:s0:c3.c5");
    let report = child.enforced();
    assert_eq!(*report.get(&Subject::Label).unwrap().state(), State::Verified(Moment::AfterExec), "{report}");
}

#[test]
fn dockers_label_options_keep_containers_apart() {
    need_policy!();
    let Some(image) = image() else { skip!("no busybox (package busybox-static)") };
    for (name, level) in [("a", "c1,c2"), ("b", "c3,c4")] {
        file(image.path(), name, &format!("system_u:object_r:file_t:s0:{level}"));
    }
    let free = Docker::new(image.path());
    let read = "for name in a b; do cat /$name 2>/dev/null || echo denied; done";
    assert_eq!(says(&free, read), "a\nb\n", "the control");
    for escalation in [false, true] {
        let level = |level: &str| {
            let options = ["label=type:container_t", level];
            let held = options.iter().fold(free.clone(), |docker, option| docker.security_opt(*option));
            held.allow_privilege_escalation(escalation)
        };
        let [a, b] = ["label=level:s0:c1,c2", "label=level:s0:c3,c4"].map(level);
        assert_eq!(says(&a, read), "a\ndenied\n");
        assert_eq!(says(&b, read), "denied\nb\n");
        assert_eq!(says(&a, "cat /proc/self/attr/current | tr -d '\\0'"), CONTAINER);
    }
    // Categories of this process's own, which this small policy does not have.
    let error = free.clone().security_opt("label=level:s0:c1000").build().unwrap_err();
    assert!(error.to_string().contains("policy"), "{error}");
    // disable: as without.
    let off = free.security_opt("label=disable");
    assert!(says(&off, "cat /proc/self/attr/current").contains(":host_t:"));
}

/// A80: a label that cannot be had is an error of `build`, or of the exec where only the policy knows; nothing runs
/// without it.
#[test]
fn a80_a_context_that_cannot_be_had_is_an_error_unless_optional() {
    need_policy!();
    let with = |text: &str| Sandbox::builder().exec_label(label(text));
    for unknown in ["system_u:system_r:no_such_t:s0", "system_u:system_r:container_t:s0:c900", "a_u:b_r:c_t"]
    {
        let error = with(unknown).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSpec, "{error}");
        assert!(error.to_string().contains(unknown), "{error}");
        let optional = Sandbox::builder().exec_label(label(unknown).optional());
        let child = optional.build().unwrap().command("/bin/sleep").arg("1000").spawn().unwrap();
        assert!(current(&child).contains(":host_t:"));
        let report = child.enforced();
        let state = report.get(&Subject::Label).unwrap().state();
        assert!(matches!(state, State::Missing(_)), "{report}");
    }
    // One that is known, but that the policy does not let this program take: EPERM, since no_new_privs is set.
    let dir = temp_dir();
    let sandbox = with("system_u:system_r:spc_t:s0").bind(dir.path(), "/mnt").build().unwrap();
    let error = sandbox.command("/bin/touch").arg("/mnt/ran").output().unwrap_err();
    assert_eq!(
        (error.kind(), error.step(), error.errno()),
        (ErrorKind::Exec, Step::Exec, Some(libc::EPERM)),
        "{error}"
    );
    assert!(error.hint().is_some_and(|hint| hint.contains("spc_t")), "{error}");
    assert!(!dir.path().join("ran").exists());
    // The other module is not there.
    let other = ExecLabel::apparmor("unconfined").unwrap();
    assert_eq!(Sandbox::builder().exec_label(other).build().unwrap_err().kind(), ErrorKind::InvalidSpec);
    let report = preflight();
    assert!(report.is_ready() && report.is_available(&Feature::Selinux), "{report}");
    assert_eq!(report.get(&Feature::AppArmor).unwrap().status, Status::Missing, "{report}");
}
