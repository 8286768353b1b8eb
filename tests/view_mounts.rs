//! Every kind of mount through the builder, seen from inside.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;

use palisade::fsroot::{
    Bind, Cgroup2, Devpts, Directory, File, HidePid, HostView, Layers, Masks, MountFlags, Mqueue, Overlay,
    Proc, Propagation, Root, Symlink, Sysfs, Tmpfs,
};
use palisade::ns::Namespace;
use palisade::{Sandbox, SandboxBuilder};
use palisade_testkit::{is_root, skip, temp_dir};

fn says(builder: SandboxBuilder, script: &str) -> String {
    let out = builder.build().unwrap().command("/bin/sh").arg("-c").arg(script).output().unwrap();
    assert!(out.status.success(), "{script}: {}: {}", out.status, String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// File system, mount options and options of the superblock of what is mounted at `$1`.
const OPTIONS: &str = "o() { while read -r id up dev root at opts rest; do
    [ \"$at\" = \"$1\" ] && echo \"$opts ${rest#*- }\"; done </proc/self/mountinfo; }; ";

#[test]
fn binds_with_options() {
    let dir = temp_dir();
    fs::write(dir.path().join("run"), "#!/bin/sh\necho ran\n").unwrap();
    fs::set_permissions(dir.path().join("run"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut noexec = Bind::read_only(dir.path(), "/noexec").with(MountFlags::NOEXEC);
    if is_root() {
        // How access times are kept is locked in a new user namespace; a privileged parent changes its own copy.
        noexec = noexec.with(MountFlags::NOATIME);
    }
    let file = Bind::read_only(dir.path().join("run"), "/one-file");
    let builder = Sandbox::builder().mount(noexec).mount(file).bind_ro(dir.path(), "/exec");
    let script =
        format!("{OPTIONS} o /noexec; /exec/run; /one-file; /noexec/run 2>/dev/null || echo refused");
    let text = says(builder, &script);
    let lines: Vec<_> = text.lines().collect();
    let atime = if is_root() { "noatime" } else { "" };
    assert!(lines[0].starts_with(&format!("ro,nosuid,nodev,noexec,{atime}")), "{text}");
    assert_eq!(lines[1..], ["ran", "ran", "refused"]);
}

#[test]
fn kernel_file_systems_with_their_options() {
    let builder = Sandbox::builder()
        .host_view(|view| view.proc(Some(Proc::new("/proc").hidepid(HidePid::Invisible))))
        .mount(Proc::new("/pids").only_pids())
        .mount(Sysfs::new("/sys"))
        .mount(Mqueue::new("/queues"))
        .mount(Cgroup2::new("/groups"))
        .mount(Devpts::new("/terminals").max(3).mode(0o600))
        .mount(Tmpfs::new("/memory").size(1 << 20).inodes(10).mode(0o700));
    let points = ["/proc", "/pids", "/sys", "/queues", "/groups", "/terminals", "/memory"];
    let each: String = points.iter().map(|point| format!("o {point}; ")).collect();
    let text =
        says(builder, &format!("{OPTIONS}{each} test -e /pids/meminfo || echo subset; ls /sys/class/net"));
    let lines: Vec<_> = text.lines().collect();
    for (line, parts) in lines.iter().zip([
        ["proc", "hidepid=invisible", "nosuid,nodev,noexec"],
        ["proc", "subset=pid", "nosuid,nodev,noexec"],
        ["sysfs", "ro,", "nosuid,nodev,noexec"],
        ["mqueue", "rw", "nosuid,nodev,noexec"],
        ["cgroup2", "ro,", "nosuid,nodev,noexec"],
        ["devpts", "mode=600", "max=3"],
        ["tmpfs", "size=1024k,nr_inodes=10,mode=700", "nosuid,nodev"],
    ]) {
        assert!(parts.iter().all(|part| line.contains(part)), "{parts:?}: {line}");
    }
    assert_eq!(lines[7..], ["subset", "lo"], "/sys is of the sandbox's network");
}

#[test]
fn files_links_and_directories() {
    let builder = Sandbox::builder()
        .mount(Directory::new("/data").mode(0o750))
        .mount(File::new("/data/config", b"bytes \xff\n").mode(0o600))
        .mount(Symlink::new("data/config", "/link"));
    let text =
        says(builder, "stat -c '%n %a %F' /data /data/config; readlink /link; od -An -tx1 /data/config");
    assert_eq!(
        text,
        "/data 750 directory\n/data/config 600 regular file\ndata/config\n 62 79 74 65 73 20 ff 0a\n"
    );
    if is_root() {
        let owned = Sandbox::builder().mount(Directory::new("/own").owner(65534, 65534).mode(0o700));
        assert_eq!(says(owned, "stat -c %u:%g:%a /own"), "65534:65534:700\n");
    }
}

#[test]
fn overlays_below_and_as_the_root() {
    let dir = temp_dir();
    for (layer, name) in [("low", "a"), ("high", "b")] {
        fs::create_dir_all(dir.path().join(layer)).unwrap();
        let file = dir.path().join(layer).join(name);
        fs::write(&file, layer).unwrap();
        if is_root() {
            // Who the payload is outside, where root starts it.
            std::os::unix::fs::chown(&file, Some(65534), Some(65534)).unwrap();
        }
    }
    let layers =
        Layers::new(dir.path().join("high")).lower(dir.path().join("low")).upper_in_memory(1 << 20, 100);
    let text = says(
        Sandbox::builder().mount(Overlay::new("/both", layers.clone())),
        "cd /both; cat a b; echo new >a; cat a",
    );
    assert_eq!(text, "lowhighnew\n");
    assert_eq!(fs::read(dir.path().join("low/a")).unwrap(), b"low", "layers do not change");
    // As the root, with the host's programs bound in: mount points are made in the layer in memory.
    let root = Root::overlay(layers);
    let mut builder = Sandbox::builder().root(root).bind_ro("/usr", "/usr").mount(Proc::new("/proc"));
    for link in ["bin", "lib", "lib64"] {
        builder = match fs::read_link(format!("/{link}")) {
            Ok(text) => builder.mount(Symlink::new(text, format!("/{link}"))),
            Err(_) => builder.bind_ro(format!("/{link}"), format!("/{link}")),
        };
    }
    assert_eq!(says(builder, "cat /a /b"), "lowhigh");
}

#[test]
fn devices_masks_and_propagation() {
    let dir = temp_dir();
    fs::create_dir(dir.path().join("secret")).unwrap();
    fs::write(dir.path().join("secret/file"), "x").unwrap();
    fs::write(dir.path().join("open"), "y").unwrap();
    let builder = Sandbox::builder()
        .bind_ro(dir.path(), "/data")
        .tmpfs("/scratch")
        .hide("/data/secret")
        .hide("/data/open")
        .hide("/no/such/path")
        .protect("/scratch")
        .propagation(Propagation::Shared);
    let script = format!(
        "{OPTIONS} ls -A /data/secret; cat /data/open; (: >/scratch/x) || echo kept; cat /proc/keys; o / | cut -d' ' -f1; \
         grep -c ' / / .*shared:' /proc/self/mountinfo"
    );
    assert_eq!(says(builder, &format!("exec 2>/dev/null; {script}")), "kept\nro,nosuid,nodev,relatime\n1\n");
    // Masks in place of the default ones.
    let bare = Sandbox::builder().masks(Masks::none());
    let names = says(bare, "grep -c /proc/ /proc/self/mountinfo; true");
    assert_eq!(names, "0\n");
    if let Some(node) = ["/dev/fuse", "/dev/loop-control", "/dev/net/tun", "/dev/ptmx"]
        .into_iter()
        .find(|node| fs::metadata(node).is_ok())
    {
        let text = says(Sandbox::builder().device(node), &format!("stat -c %F {node}"));
        assert_eq!(text, "character special file\n");
    }
    let error = Sandbox::builder().device("/etc/passwd").build().unwrap_err().to_string();
    assert!(error.contains("no character or block device"), "{error}");
}

/// A volume of another owner is changed by whom it belongs to, through an id-mapped mount, below it alone.
#[test]
fn an_id_mapped_volume_keeps_its_owner() {
    use std::os::unix::fs::MetadataExt;
    if !is_root() {
        skip!("id-mapped mounts take CAP_SYS_ADMIN over the source's file system", needs = "root");
    }
    let dir = temp_dir();
    std::os::unix::fs::chown(dir.path(), Some(61_001), Some(61_002)).unwrap();
    says(
        Sandbox::builder().bind(dir.path(), "/volume"),
        "echo x >/volume/file; test $(stat -c %u /volume) = 65534",
    );
    let made = fs::metadata(dir.path().join("file")).unwrap();
    assert_eq!((made.uid(), made.gid()), (61_001, 61_002));
}

/// The whole of a small root from a list, in memory, nothing of the host but one program.
#[test]
fn a_root_from_a_list() {
    let root: Root = HostView::new().into();
    assert!(format!("{root:?}").contains("Host"), "a plain value");
    let Some(busybox) =
        ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| fs::metadata(path).is_ok())
    else {
        skip!("busybox-static is not installed", needs = "tool");
    };
    let root = Root::empty().bind_ro(busybox, "/bin/sh").mount(File::new("/etc/motd", "hello\n"));
    let builder = Sandbox::builder().root(root).share(Namespace::Net);
    assert_eq!(says(builder, "read -r line </etc/motd; echo $line /*"), "hello /bin /etc\n");
}
