//! A payload that may mount, and what it can't undo: A22, A23, A06 with CAP_SYS_ADMIN.
#![expect(clippy::unwrap_used, reason = "tests")]

use palisade::creds::{Capability, CapabilitySet, IdMap, IdRange, Maps};
use palisade::fsroot::{Mqueue, Sysfs};
use palisade::ns::Namespace;
use palisade::{Sandbox, SandboxBuilder, Step};
use palisade_testkit::{is_root, skip, temp_dir};

fn says(builder: SandboxBuilder, script: &str) -> String {
    let out = builder.build().unwrap().command("/bin/sh").arg("-c").arg(script).output().unwrap();
    assert!(out.status.success(), "{script}: {}: {}", out.status, String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn caps(list: impl IntoIterator<Item = Capability>) -> CapabilitySet {
    list.into_iter().collect()
}

/// Root inside with the right to mount, and no filter.
fn powerful() -> SandboxBuilder {
    let wanted = [Capability::SysAdmin, Capability::NetAdmin, Capability::SysChroot, Capability::DacOverride];
    Sandbox::builder().user(0, 0).capabilities(caps(wanted)).dangerously_unfiltered()
}

/// Masks, read-only paths, nosuid and the root stay as they are.
#[test]
fn a22_a23_a_payload_with_sys_admin_can_undo_nothing() {
    let dir = temp_dir();
    std::fs::write(dir.path().join("file"), "kept").unwrap();
    if is_root() {
        // The payload's own on the host, so that nothing but the mount is in its way.
        std::os::unix::fs::chown(dir.path().join("file"), Some(65534), Some(65534)).unwrap();
    }
    let script = "exec 2>/dev/null
        for path in /proc/keys /proc/timer_list /proc/sys /proc/sysrq-trigger /data /dev/null /usr /proc; do
            umount $path && echo unmounted $path; umount -l $path && echo detached $path; done
        for path in /data /usr / /proc/sys /dev; do mount -o remount,bind,rw $path && echo writable $path; done
        mount -o remount,bind,suid,dev /data && echo suid
        mount -t proc proc /tmp && echo proc
        mount -t proc -o subset=pid proc /tmp && echo subset
        mount --bind /data /tmp && mount -o remount,bind,rw /tmp && echo writable copy
        umount /tmp; mount --make-rprivate / && echo private
        echo changed >/data/file; cat /data/file /proc/keys; echo .; unshare -mp --fork mount -t proc proc /tmp && echo fresh proc
        true";
    let text = says(powerful().bind_ro(dir.path(), "/data"), script);
    assert_eq!(text, "private\nkept.\n", "{text}");
    assert_eq!(std::fs::read_to_string(dir.path().join("file")).unwrap(), "kept");
}

/// What is its own it may do with as it likes: mounts, host name, network.
#[test]
fn it_has_its_capabilities_over_what_is_its_own() {
    let script = "mount -t tmpfs none /tmp && : >/tmp/x && umount /tmp && echo mounted
        echo renamed >/proc/sys/kernel/hostname 2>/dev/null || hostname renamed; uname -n
        cat /proc/self/uid_map | tr -s ' '; id -u; grep -c . /proc/net/fib_trie >/dev/null && echo network";
    let text = says(powerful().hostname("first"), script);
    let map = " 0 0 1\n0\n";
    assert_eq!(text, format!("mounted\nrenamed\n{map}network\n"), "{text}");
    if let Some(ip) =
        ["/usr/sbin/ip", "/usr/bin/ip"].into_iter().find(|path| std::path::Path::new(path).exists())
    {
        let text = says(powerful(), &format!("{ip} link set lo down && {ip} link set lo up && echo done"));
        assert_eq!(text, "done\n");
    }
    // Without the right to mount nothing needs to be locked, and there is one user namespace.
    let plain = Sandbox::builder().capabilities(caps([Capability::NetBindService]));
    let plan = plain.build().unwrap().command("/bin/true").plan().unwrap().to_string();
    assert!(!plan.contains(Step::LockMounts.name()), "{plan}");
    assert!(
        powerful()
            .build()
            .unwrap()
            .command("/bin/true")
            .plan()
            .unwrap()
            .to_string()
            .contains("CLONE_NEWUSER")
    );
}

#[test]
fn a_range_of_ids_is_there_below_too() {
    if !is_root() {
        skip!("a range of ids needs root, or delegated ids", needs = "root");
    }
    let range = || IdMap::new([IdRange::new(0, 300_000, 1000).unwrap()]).unwrap();
    let wanted = [Capability::SysAdmin, Capability::Setuid, Capability::Setgid, Capability::Chown];
    let builder = Sandbox::builder()
        .id_maps(Maps::new(range(), range()))
        .capabilities(caps(wanted))
        .dangerously_unfiltered();
    let script = "cat /proc/self/uid_map | tr -s ' '; touch /tmp/f; chown 5:6 /tmp/f; stat -c %u:%g /tmp/f; cat /proc/self/setgroups;
        umount /proc/keys 2>/dev/null || echo locked";
    assert_eq!(says(builder, script), " 0 0 1000\n5:6\nallow\nlocked\n");
}

/// File systems that show a namespace are mounted by its owner: those stay with the first user namespace.
#[test]
fn views_of_namespaces_are_mounted_all_the_same() {
    let builder = powerful().mount(Sysfs::new("/sys")).mount(Mqueue::new("/queues"));
    assert_eq!(says(builder, "ls /sys/class/net; ls -d /queues; uname -n"), "lo\n/queues\nsandbox\n");
    let shared = powerful().share(Namespace::Net).share(Namespace::Ipc);
    assert_eq!(says(shared, "umount /proc/keys 2>/dev/null || echo locked"), "locked\n");
}
