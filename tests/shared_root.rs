//! The host program's own root: limits and a filter without a view.
#![expect(clippy::unwrap_used, reason = "tests")]

use palisade::ns::{Namespace, Namespaces};
use palisade::{ErrorKind, Lifetime, Sandbox, SandboxBuilder};
use palisade_testkit::{is_root, temp_dir};

fn says(sandbox: &Sandbox, script: &str) -> String {
    let mut command = sandbox.command("/bin/sh");
    let out = command.args(["-c", script]).output().unwrap();
    assert!(out.status.success(), "{}: {}", out.status, String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

fn nothing_new() -> SandboxBuilder {
    Sandbox::builder().dangerously_share_root().namespaces(Namespaces::EMPTY).lifetime(Lifetime::Detached)
}

#[test]
fn without_namespaces_only_the_filter_the_limits_and_the_identity_stand() {
    let sandbox = nothing_new().build().unwrap();
    for kind in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let link = format!("/proc/self/ns/{kind}");
        let own = std::fs::read_link(&link).unwrap().to_string_lossy().into_owned();
        assert_eq!(says(&sandbox, &format!("readlink {link}")), own);
    }
    let status = says(&sandbox, "cat /proc/self/status");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
        line.unwrap_or_default().split_whitespace().next().unwrap_or_default().to_owned()
    };
    assert_eq!(field("NoNewPrivs"), "1");
    assert_eq!(field("Seccomp"), "2");
    assert_eq!(field("CapEff"), "0000000000000000");
    assert_eq!(field("CapPrm"), "0000000000000000");
    let own = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap());
    assert_eq!(field("Uid"), if is_root() { "65534".to_owned() } else { own.to_string() });
    if is_root() {
        assert_eq!(field("CapBnd"), "0000000000000000");
    }
    assert_eq!(says(&sandbox, "ulimit -n"), "1024");
}

/// Files of the host are there; a default sandbox does not have them.
#[test]
fn what_the_host_has_is_there() {
    let made = temp_dir();
    std::fs::write(made.path().join("seen"), "it is").unwrap();
    let script = format!("cat {}", made.path().join("seen").display());
    assert_eq!(says(&nothing_new().build().unwrap(), &script), "it is");
    let mut command = Sandbox::new().unwrap().command("/bin/sh");
    assert!(!command.args(["-c", &script]).output().unwrap().status.success());
}

#[test]
fn a_mount_table_of_its_own_is_private() {
    let sandbox = Sandbox::builder().dangerously_share_root().build().unwrap();
    let propagation = says(&sandbox, "cat /proc/self/mountinfo");
    let of_root = propagation.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap();
    assert!(!of_root.contains(" shared:") && !of_root.contains(" master:"), "{of_root}");
    let own = std::fs::read_link("/proc/self/ns/mnt").unwrap();
    assert_ne!(says(&sandbox, "readlink /proc/self/ns/mnt"), own.to_string_lossy());
}

#[test]
fn what_would_need_a_view_is_a_conflict() {
    let error = nothing_new().tmpfs("/tmp").build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidSpec);
    assert!(error.to_string().contains("dangerously_share_root"), "{error}");
    let error = nothing_new().lifetime(Lifetime::Host).build().unwrap_err();
    assert!(error.to_string().contains("Detached"), "{error}");
    if !is_root() {
        let error = nothing_new().user(0, 0).build().unwrap_err();
        assert!(error.to_string().contains("user:"), "{error}");
        let error = nothing_new().namespaces(Namespace::Net).build().unwrap_err();
        assert!(error.to_string().contains("user namespace"), "{error}");
    }
}

/// What a payload leaves where others of the host are must not be theirs to run as its owner.
#[test]
fn where_files_are_left_for_others_no_set_user_id_bit_is_set() {
    let made = temp_dir();
    std::fs::set_permissions(made.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let file = made.path().join("left");
    let script = format!("touch {0}; chmod u+s {0} 2>&1 || true", file.display());
    assert!(says(&nothing_new().build().unwrap(), &script).contains("not permitted"));
    let root = palisade::fsroot::Root::host().bind(made.path(), "/tmp");
    let bound = Sandbox::builder().root(root).build().unwrap();
    let said = says(&bound, "touch /tmp/bound; chmod u+s /tmp/bound 2>&1 || true");
    assert!(said.contains("not permitted"), "{said}");
    for name in ["left", "bound"] {
        let mode = std::fs::metadata(made.path().join(name)).unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::mode(&mode) & 0o4000, 0);
    }
}
