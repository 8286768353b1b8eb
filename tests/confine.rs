//! Groups, capability sets, kernel parameters, device rules, ids of the root: what the builder says beside the view.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::os::unix::fs::MetadataExt;

use palisade::cgroup::{Cgroup, DeviceRules, Limits};
use palisade::creds::{Capability, CapabilitySet, IdMap, Maps, ThreadCapabilities};
use palisade::fsroot::{Dev, Layers, MountFlags, Proc, Root};
use palisade::ns::Namespace;
use palisade::{Command, ErrorKind, Sandbox, SandboxBuilder, Stdio, Step};
use palisade_testkit::{cgroup_dir, is_root, skip, temp_dir};

fn says(builder: SandboxBuilder, script: &str) -> String {
    let out = builder.build().unwrap().command("/bin/sh").args(["-c", script]).output().unwrap();
    assert!(out.status.success(), "{script}: {}: {}", out.status, String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn maps() -> Maps {
    Maps::new(IdMap::range(0, 300_000, 65_536).unwrap(), IdMap::range(0, 300_000, 65_536).unwrap())
}

#[test]
fn groups_are_exactly_the_ones_given() {
    if !is_root() {
        let error = Sandbox::builder().groups([5, 6]).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSpec, "{error}");
        return;
    }
    let builder = Sandbox::builder().id_maps(maps()).user(1000, 1000).groups([6, 5]);
    assert_eq!(says(builder, "id -G"), "1000 5 6\n");
    let builder = Sandbox::builder().id_maps(maps()).groups([70_000]);
    assert_eq!(builder.build().unwrap_err().kind(), ErrorKind::InvalidSpec);
}

#[test]
fn bounding_without_permitted_is_what_engines_give_users() {
    let docker = CapabilitySet::DOCKER;
    let sets =
        ThreadCapabilities { bounding: docker, permitted: docker, effective: docker, ..Default::default() };
    let script = "grep -E '^(Cap|NoNewPrivs)' /proc/self/status | tr -d '\\n\\t'";
    let said = says(Sandbox::builder().user(1000, 1000).capability_sets(sets), script);
    let none = "0000000000000000";
    assert_eq!(
        said,
        format!("CapInh:{none}CapPrm:{none}CapEff:{none}CapBnd:{docker:x}CapAmb:{none}NoNewPrivs:1")
    );
    let said = says(Sandbox::builder().user(0, 0).capability_sets(sets), script);
    assert_eq!(
        said,
        format!("CapInh:{none}CapPrm:{docker:x}CapEff:{docker:x}CapBnd:{docker:x}CapAmb:{none}NoNewPrivs:1")
    );
}

/// Without no_new_privs the filter takes CAP_SYS_ADMIN, which is held to the end and not left to the payload.
#[test]
fn without_no_new_privs_a_filter_holds_and_cap_sys_admin_is_gone() {
    if !is_root() {
        skip!("ranges of ids need privileges", needs = "root");
    }
    let docker = CapabilitySet::DOCKER;
    let sets =
        ThreadCapabilities { bounding: docker, permitted: docker, effective: docker, ..Default::default() };
    for (uid, permitted) in [(0, docker), (1000, CapabilitySet::EMPTY)] {
        let builder = Sandbox::builder()
            .id_maps(maps())
            .user(uid, uid)
            .capability_sets(sets)
            .allow_privilege_escalation(true);
        let script =
            "grep -E '^(CapPrm|CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\\n\\t'";
        let said = says(builder, script);
        assert_eq!(
            said,
            format!("CapPrm:{permitted:x}CapEff:{permitted:x}CapBnd:{docker:x}NoNewPrivs:0Seccomp:2")
        );
    }
}

/// A set-user-ID program of an own root works exactly where no_new_privs and nosuid were taken off.
#[test]
fn set_user_id_programs_work_only_where_that_was_allowed() {
    if !is_root() {
        skip!("ranges of ids need privileges", needs = "root");
    }
    let root = busybox_root();
    let path = root.path().join("bin/su-id");
    std::fs::copy("/usr/bin/id", &path).unwrap();
    std::os::unix::fs::chown(&path, Some(0), Some(0)).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o4755)).unwrap();
    let run = |nosuid: bool, allow: bool| {
        let mut view = Root::overlay(Layers::new(root.path()).upper_in_memory(1 << 20, 1000));
        for dir in ["/usr", "/lib", "/lib64"] {
            view = view.bind_ro(dir, dir);
        }
        if !nosuid {
            view = view.without(MountFlags::NOSUID);
        }
        let builder = Sandbox::builder()
            .root(view.mount(Proc::new("/proc")).mount(Dev::new("/dev")))
            .id_maps(maps())
            .id_mapped_root(true)
            .user(1000, 1000)
            .capability_sets(ThreadCapabilities { bounding: CapabilitySet::DOCKER, ..Default::default() })
            .allow_privilege_escalation(allow);
        let out = builder.build().unwrap().command("/bin/su-id").arg("-u").output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    assert_eq!(run(false, true), "0\n", "the control");
    assert_eq!(run(true, true), "1000\n", "nosuid");
    assert_eq!(run(false, false), "1000\n", "no_new_privs");
}

/// A directory with `bin`, owned by root.
fn busybox_root() -> tempfile::TempDir {
    let dir = temp_dir();
    std::fs::create_dir(dir.path().join("bin")).unwrap();
    dir
}

#[test]
fn the_ids_of_a_root_are_ids_inside() {
    if !is_root() {
        let error = Sandbox::builder().id_mapped_root(true).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSpec);
        return;
    }
    let root = busybox_root();
    for name in ["usr", "lib", "lib64", "proc", "dev", "tmp", "data"] {
        std::fs::create_dir(root.path().join(name)).unwrap();
    }
    std::os::unix::fs::chown(root.path().join("data"), Some(1000), Some(1000)).unwrap();
    let with = |view: Root, mapped: bool| {
        let view = ["/usr", "/lib", "/lib64"].into_iter().fold(view, |view, dir| view.bind_ro(dir, dir));
        let builder = Sandbox::builder()
            .root(view.mount(Proc::new("/proc")).mount(Dev::new("/dev")))
            .id_maps(maps())
            .id_mapped_root(mapped);
        let mut command = builder.build().unwrap().command("/usr/bin/stat");
        let out = command.args(["-c", "%u:%g", "/", "/data"]).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    let directory = || Root::dir(root.path());
    let overlay = || Root::overlay(Layers::new(root.path()).upper_in_memory(1 << 20, 1000));
    assert_eq!(with(directory(), false), "65534:65534\n65534:65534\n", "the control");
    assert_eq!(with(directory(), true), "0:0\n1000:1000\n");
    assert_eq!(with(overlay(), true), "0:0\n1000:1000\n");
    let owned = Root::overlay(Layers::new(root.path()).upper_in_memory(1 << 20, 1000).upper_owner(5, 6));
    assert_eq!(with(owned, true), "5:6\n1000:1000\n", "an overlay's root is its upper layer's");

    let view = Root::dir(root.path())
        .writable()
        .bind_ro("/usr", "/usr")
        .bind_ro("/lib", "/lib")
        .bind_ro("/lib64", "/lib64");
    let builder = Sandbox::builder().root(view).id_maps(maps()).id_mapped_root(true);
    let status = builder.build().unwrap().command("/usr/bin/touch").arg("/made").status().unwrap();
    assert!(status.success(), "{status}");
    let made = std::fs::metadata(root.path().join("made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (0, 0), "stored under the id inside");
}

#[test]
fn an_overlay_can_be_read_only_with_all_its_mount_points() {
    let root = busybox_root();
    let layers = Layers::new(root.path()).upper_in_memory(1 << 20, 1000).with(MountFlags::READ_ONLY);
    let view =
        Root::overlay(layers).bind_ro("/usr", "/usr").bind_ro("/lib", "/lib").bind_ro("/lib64", "/lib64");
    let view = view.tmpfs("/made/for/it");
    let sandbox = Sandbox::builder().root(view).build().unwrap();
    let touch = |path: &str| sandbox.command("/usr/bin/touch").arg(path).output().unwrap();
    let out = touch("/x");
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && text.contains("Read-only file system"), "{text}");
    assert!(touch("/made/for/it/x").status.success());
}

#[test]
fn parameters_of_own_namespaces_are_set_and_others_refused() {
    // Files of the network belong to CAP_NET_ADMIN, those of ipc to user 0 of the user namespace's owner.
    let builder = Sandbox::builder()
        .sysctl("net.ipv4.ip_unprivileged_port_start", "80")
        .sysctl("net/ipv4/ip_forward", "1");
    assert_eq!(
        says(builder, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ip_forward"),
        "80\n1\n"
    );
    if is_root() {
        let builder = Sandbox::builder()
            .namespaces(palisade::ns::Namespaces::ALL.without(Namespace::Time).without(Namespace::User))
            .sysctl("kernel.shmmni", "77");
        assert_eq!(says(builder, "cat /proc/sys/kernel/shmmni"), "77\n");
    }
    for name in ["kernel.core_pattern", "vm.swappiness", "net.../x", "kernel.hostname"] {
        let error = Sandbox::builder().sysctl(name, "1").build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSpec, "{name}");
        assert!(error.to_string().contains(name), "{error}");
    }
    let shared = Sandbox::builder().share(Namespace::Net).sysctl("net.ipv4.ip_forward", "1");
    assert!(shared.build().unwrap_err().to_string().contains("shared"));
    let bad = Sandbox::builder().sysctl("net.ipv4.ip_forward", "many").build().unwrap();
    let error = bad.command("/bin/true").spawn().unwrap_err();
    assert_eq!((error.step(), error.object()), (Step::Sysctls, Some("net.ipv4.ip_forward")));
}

#[test]
fn device_rules_hold_whatever_nodes_there_are() {
    let error = Sandbox::builder().device_rules(DeviceRules::docker()).build().unwrap_err();
    assert!(error.to_string().contains("cgroup"), "{error}");
    let (true, Some(path)) = (is_root(), cgroup_dir()) else {
        skip!("root and a cgroup of one's own are needed", needs = "root-cgroup2");
    };
    let rules = DeviceRules::deny_all().allow("c 1:3 rw".parse().unwrap());
    let builder = Sandbox::builder()
        .cgroup_parent(Cgroup::open(path).unwrap())
        .cgroup(Limits::new())
        .device_rules(rules);
    let script = ": >/dev/null && echo null; head -c1 /dev/zero 2>/dev/null | wc -c";
    assert_eq!(says(builder, script), "null\n0\n");
}

#[test]
fn a_label_of_a_module_that_is_not_there_is_an_error_unless_optional() {
    use palisade::secfilter::lsm::{ExecLabel, active};
    let label = ExecLabel::selinux("u:r:t:s0".parse().unwrap());
    if active().is_ok_and(|modules| modules.iter().any(|name| name == "selinux")) {
        skip!("SELinux is active");
    }
    let error = Sandbox::builder().exec_label(label.clone()).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidSpec, "{error}");
    if active().is_ok() {
        assert_eq!(says(Sandbox::builder().exec_label(label.optional()), "echo ran"), "ran\n");
    }
}

#[test]
fn capabilities_that_the_kernel_does_not_have_are_refused() {
    let sets = ThreadCapabilities {
        bounding: Capability::NetRaw.into(),
        permitted: CapabilitySet::DOCKER,
        ..Default::default()
    };
    // Effective and ambient stay within what is permitted; inheritable within the bounding set.
    let beyond = ThreadCapabilities { ambient: Capability::SysAdmin.into(), ..sets };
    assert_eq!(
        Sandbox::builder().capability_sets(beyond).build().unwrap_err().kind(),
        ErrorKind::InvalidSpec
    );
}

/// An ordinary user's own id is 0 inside its delegated ranges: the change to another id there took all capabilities of
/// the set-up with it.
#[test]
fn in_delegated_ranges_the_payload_can_be_somebody_else_than_0() {
    if is_root() {
        skip!("root has no delegated ranges of its own");
    }
    let Ok(maps) = Maps::rootless() else { skip!("no ranges are delegated to this user") };
    let sandbox = Sandbox::builder().id_maps(maps).user(7, 8).build().unwrap();
    let mut sleep = sandbox.command("sleep");
    let child = sleep.arg("1000").stdin(Stdio::null()).spawn().unwrap();
    let id = |mut command: Command| {
        let out = command.args(["-c", "id -u; id -g"]).output().unwrap();
        (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap())
    };
    assert_eq!(id(sandbox.command("sh")), ("7\n8\n".into(), String::new()));
    assert_eq!(id(child.exec("sh")), ("7\n8\n".into(), String::new()), "what enters");
}
