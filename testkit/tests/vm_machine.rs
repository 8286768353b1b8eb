//! The test machine is what the other `vm_*` tests take for granted.

use std::fs;
use std::process::Command;

use palisade_testkit::{can_unshare_user, cgroup_dir, is_root, skip, temp_dir};

#[test]
fn the_cgroup_directory_is_pure_v2_and_its_limits_work() {
    let Some(dir) = cgroup_dir() else { skip!("no cgroup directory", needs = "cgroup2") };
    let own = fs::read_to_string("/proc/self/cgroup").expect("own cgroup");
    if own.lines().any(|line| !line.starts_with("0::")) {
        skip!("cgroup v1 is mounted too", needs = "controllers");
    }
    let controllers = fs::read_to_string(dir.join("cgroup.subtree_control")).expect("controllers");
    for needed in ["cpu", "memory", "pids"] {
        assert!(controllers.split_whitespace().any(|name| name == needed), "{needed} not in {controllers}");
    }
    let child = dir.join(format!("machine-{}", std::process::id()));
    fs::create_dir(&child).expect("a child");
    fs::write(child.join("pids.max"), "1").expect("a limit");
    let fork = format!("echo $$ >{}/cgroup.procs; (true)", child.display());
    let output = Command::new("sh").args(["-c", &fork]).output().expect("sh");
    fs::remove_dir(&child).expect("removed");
    assert!(String::from_utf8_lossy(&output.stderr).contains("fork"), "{output:?}");
}

#[test]
fn user_namespaces_and_ranges_of_ids_can_be_had() {
    if !can_unshare_user() {
        skip!("no user namespace for this user", needs = "userns");
    }
    if is_root() {
        return;
    }
    let output = Command::new("unshare").args(["-U", "--map-auto", "cat", "/proc/self/uid_map"]).output();
    let output = output.expect("unshare");
    assert!(String::from_utf8_lossy(&output.stdout).contains("100000"), "{output:?}");
}

#[test]
fn the_host_tree_cannot_be_written() {
    if std::env::var_os("PALISADE_MACHINE").is_none() {
        skip!("not in the test machine", needs = "machine");
    }
    let error = fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/written"), "").expect_err("read-only");
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    assert!(fs::write(temp_dir().path().join("file"), "").is_ok());
}
