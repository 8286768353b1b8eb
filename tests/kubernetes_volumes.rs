//! Volumes of Pods: what is mounted, whose it is, and how it is given to `fsGroup`.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;

use palisade::ErrorKind;
use palisade::k8s::{Node, PodSecurity, PodVolumes, VolumeSource, Volumes, documents};
use palisade::presets::docker::Docker;
use palisade_testkit::{in_child, is_root, skip, temp_dir};

#[expect(dead_code, reason = "what runs is not looked at from outside")]
#[path = "common/image.rs"]
mod common;
use common::{image, says};

fn read(text: &str) -> palisade::Result<PodSecurity> {
    documents(text).unwrap()[0].pod_security()
}

/// A Pod with these fields of its spec, and a container for each list of mounts.
fn pod(spec: &str, mounts: &[&str]) -> PodSecurity {
    let containers: Vec<_> = mounts
        .iter()
        .enumerate()
        .map(|(n, mounts)| format!("{{name: c{n}, image: i, volumeMounts: [{mounts}]}}"))
        .collect();
    let containers = containers.join(", ");
    let text = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {{{spec}, containers: [{containers}]}}}}"
    );
    read(&text).unwrap_or_else(|error| panic!("{error}"))
}

const DATA: &str = "{name: data, mountPath: /data}";

fn claim(context: &str) -> PodSecurity {
    let spec = format!(
        "securityContext: {{{context}}}, volumes: [{{name: data, persistentVolumeClaim: {{claimName: d}}}}]"
    );
    pod(&spec, &[DATA])
}

fn container(pod: &PodSecurity, volumes: &PodVolumes, name: &str, image: &Path) -> Docker {
    Node::new().volumes(volumes.clone()).container(pod, name, image).unwrap_or_else(|error| panic!("{error}"))
}

fn owner(path: impl AsRef<Path>) -> (u32, u32, u32) {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.uid(), meta.gid(), meta.mode() & 0o7777)
}

fn set(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A directory that others can't enter.
fn closed_dir() -> tempfile::TempDir {
    let dir = temp_dir();
    set(dir.path(), 0o700);
    dir
}

macro_rules! need_root {
    () => {
        if !is_root() {
            skip!("owners are kept by id-mapped mounts, which root makes", needs = "root");
        }
    };
}

macro_rules! image {
    () => {
        match image() {
            Some(image) => image,
            None => skip!("no busybox (package busybox-static)"),
        }
    };
}

/// The example of the documentation of Kubernetes, and a second container that reads what the first has written.
#[test]
fn an_empty_dir_is_shared_and_belongs_to_fs_group() {
    need_root!();
    let image = image!();
    let node = closed_dir();
    let spec = "securityContext: {runAsUser: 1000, runAsGroup: 3000, fsGroup: 2000}, volumes: [{name: data, emptyDir: {}}]";
    let reader = "{name: data, mountPath: /shared, readOnly: true}";
    let pod = pod(spec, &[DATA, reader]);
    let volumes = Volumes::new().empty_dirs_in(node.path()).set_up(&pod).unwrap();
    let writer = container(&pod, &volumes, "c0", image.path());
    let script = "stat -c '%A %u %g' /data; echo hi >/data/f; stat -c '%u %g' /data/f; mkdir /data/d; stat -c '%A %g' /data/d";
    assert_eq!(says(&writer, script), "drwxrwsrwx 0 2000\n1000 2000\ndrwxr-sr-x 2000\n");
    // On disk the ids are the container's.
    assert_eq!(owner(node.path().join("data/f")), (1000, 2000, 0o644));
    let reader = container(&pod, &volumes, "c1", image.path());
    let script = "cat /shared/f; touch /shared/x 2>&1 | grep -o 'Read-only file system'; true";
    assert_eq!(says(&reader, script), "hi\nRead-only file system\n");
    // Set up again, as when containers are started again: the files are there, and their group's.
    set(node.path().join("data/f"), 0o600);
    Volumes::new().empty_dirs_in(node.path()).set_up(&pod).unwrap();
    assert_eq!(owner(node.path().join("data/f")), (1000, 2000, 0o660));
}

#[test]
fn an_empty_dir_in_memory_is_limited() {
    let image = image!();
    let group = if is_root() { "securityContext: {fsGroup: 2000}, " } else { "" };
    let spec = format!("{group}volumes: [{{name: data, emptyDir: {{medium: Memory, sizeLimit: 1Mi}}}}]");
    let pod = pod(&spec, &[DATA]);
    let volumes = Volumes::new().set_up(&pod).unwrap();
    let docker = container(&pod, &volumes, "c0", image.path()).read_only(true);
    let script = "stat -c '%A %g' /data; busybox dd if=/dev/zero of=/data/big bs=64k count=64 2>&1 | grep -o 'No space left'; \
                  busybox df -k /data | busybox awk 'END { print $2 }'";
    let (mode, gid) = if is_root() { ("drwxrwsrwt", 2000) } else { ("drwxrwxrwt", 0) };
    assert_eq!(says(&docker, script), format!("{mode} {gid}\nNo space left\n1024\n"));
}

#[test]
fn a_volume_is_given_to_its_group_file_by_file() {
    need_root!();
    let (node, outside) = (closed_dir(), temp_dir());
    let canary = outside.path().join("canary");
    fs::write(&canary, "").unwrap();
    set(&canary, 0o600);
    let volume = node.path().join("volume");
    let make = || {
        let _ = fs::remove_dir_all(&volume);
        fs::create_dir_all(volume.join("deep/er")).unwrap();
        for (name, mode) in [("plain", 0o600), ("deep/er/script", 0o755), ("deep/none", 0)] {
            fs::write(volume.join(name), "").unwrap();
            set(volume.join(name), mode);
            chown(volume.join(name), Some(1000), Some(1000)).unwrap();
        }
        symlink(&canary, volume.join("link")).unwrap();
        lchown(volume.join("link"), Some(1000), Some(1000)).unwrap();
        nix::unistd::mkfifo(&volume.join("fifo"), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        set(volume.join("deep"), 0o700);
        set(&volume, 0o755);
    };
    make();
    let volumes = Volumes::new().directory("data", &volume);
    volumes.set_up(&claim("runAsUser: 1000")).unwrap();
    assert_eq!(owner(volume.join("plain")), (1000, 1000, 0o600), "no fsGroup, no change");
    volumes.set_up(&claim("fsGroup: 2000")).unwrap();
    for (name, of) in [
        ("", (0, 2000, 0o2775)),
        ("plain", (1000, 2000, 0o660)),
        ("deep", (0, 2000, 0o2770)),
        ("deep/er", (0, 2000, 0o2775)),
        ("deep/er/script", (1000, 2000, 0o775)),
        ("deep/none", (1000, 2000, 0o660)),
        ("fifo", (0, 2000, 0o660)),
        ("link", (1000, 2000, 0o777)),
    ] {
        assert_eq!(owner(volume.join(name)), of, "{name:?}");
    }
    assert_eq!(owner(&canary), (0, 0, 0o600), "what a link leads to is not the volume's");

    // A claim that is read-only: no right to write, and none in the container.
    make();
    let spec = "securityContext: {fsGroup: 2000}, volumes: [{name: data, persistentVolumeClaim: {claimName: d, readOnly: true}}]";
    let read_only = pod(spec, &[DATA]);
    let set_up = volumes.set_up(&read_only).unwrap();
    assert_eq!(owner(volume.join("plain")), (1000, 2000, 0o640));
    assert_eq!(owner(volume.join("deep")), (0, 2000, 0o2750));
    let image = image!();
    let docker = container(&read_only, &set_up, "c0", image.path());
    let script = "touch /data/x 2>&1 | grep -o 'Read-only file system'; true";
    assert_eq!(says(&docker, script), "Read-only file system\n");
}

/// What a kubelet looks at: the root's group, its rights, its set-group-ID bit.
#[test]
fn on_root_mismatch_looks_at_the_root_alone() {
    need_root!();
    let node = closed_dir();
    let volume = node.path().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("f"), "").unwrap();
    let volumes = Volumes::new().directory("data", &volume);
    for (root, gid, policy, changed) in [
        (0o2770, 2000, "fsGroupChangePolicy: OnRootMismatch, ", false),
        (0o2777, 2000, "fsGroupChangePolicy: OnRootMismatch, ", false),
        (0o0770, 2000, "fsGroupChangePolicy: OnRootMismatch, ", true),
        (0o2750, 2000, "fsGroupChangePolicy: OnRootMismatch, ", true),
        (0o2770, 2001, "fsGroupChangePolicy: OnRootMismatch, ", true),
        (0o2770, 2000, "fsGroupChangePolicy: Always, ", true),
        (0o2770, 2000, "", true),
    ] {
        chown(&volume, Some(0), Some(gid)).unwrap();
        set(&volume, root);
        chown(volume.join("f"), Some(0), Some(0)).unwrap();
        set(volume.join("f"), 0o600);
        volumes.set_up(&claim(&format!("{policy}fsGroup: 2000"))).unwrap();
        let now = if changed { (0, 2000, 0o660) } else { (0, 0, 0o600) };
        assert_eq!(owner(volume.join("f")), now, "{root:o} {gid} {policy}");
    }
}

/// A container of before exchanges directories for links while the volume is given to its group.
#[test]
fn a_race_in_a_volume_reaches_nothing_outside() {
    need_root!();
    let (node, outside) = (closed_dir(), temp_dir());
    let volume = node.path().join("volume");
    let (directory, link) = (volume.join("d"), volume.join("l"));
    fs::create_dir_all(directory.join("in")).unwrap();
    for n in 0..20 {
        fs::write(directory.join(format!("in/{n}")), "").unwrap();
        fs::create_dir_all(outside.path().join("in")).unwrap();
        fs::write(outside.path().join(format!("in/{n}")), "").unwrap();
    }
    let before = owner(outside.path().join("in/0"));
    symlink(outside.path(), &link).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    let pods = [claim("fsGroup: 2000"), claim("fsGroup: 2001")];
    let volumes = Volumes::new().directory("data", &volume);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let flags = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                nix::fcntl::renameat2(nix::fcntl::AT_FDCWD, &directory, nix::fcntl::AT_FDCWD, &link, flags)
                    .unwrap();
            }
        });
        let run = || {
            for n in 0..400 {
                // What vanishes in between is passed over; nothing else goes wrong.
                volumes.set_up(&pods[n % 2]).unwrap();
            }
        };
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        ran.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    for n in 0..20 {
        assert_eq!(owner(outside.path().join(format!("in/{n}"))), before);
    }
    assert_eq!(owner(outside.path()).1, before.1);
    let inside = if link.is_symlink() { directory } else { link };
    assert!((2000..=2001).contains(&owner(inside.join("in/0")).1), "the volume was never given");
}

#[test]
fn a_volume_that_is_a_trap_is_refused() {
    need_root!();
    let node = closed_dir();
    let volume = node.path().join("volume");
    let mut deep = volume.clone();
    (0..129).for_each(|_| deep.push("d"));
    fs::create_dir_all(&deep).unwrap();
    let volumes = Volumes::new().directory("data", &volume);
    let error = volumes.set_up(&claim("fsGroup: 2000")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidSpec);
    assert!(error.to_string().contains("at most 128 directories below each other"), "{error}");
    // The root is done last: the next time begins again.
    assert_eq!(owner(&volume).1, 0);
    // Another file system in it is somebody else's.
    fs::remove_dir_all(volume.join("d")).unwrap();
    fs::create_dir(volume.join("mounted")).unwrap();
    in_child(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let none: Option<&str> = None;
        let private = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
        nix::mount::mount(none, "/", none, private, none).unwrap();
        let place = volume.join("mounted");
        nix::mount::mount(Some("none"), &place, Some("tmpfs"), nix::mount::MsFlags::empty(), none).unwrap();
        let error = volumes.set_up(&claim("fsGroup: 2000")).unwrap_err();
        assert_eq!((error.kind(), error.errno()), (ErrorKind::Setup, Some(libc::EXDEV)), "{error}");
        assert!(error.to_string().contains("mounted") && error.hint().is_some(), "{error}");
    });
}

/// CVE-2017-1002101, CVE-2021-25741: a link in the volume is followed inside of it, or not at all.
#[test]
fn a_sub_path_stays_in_its_volume() {
    need_root!();
    let image = image!();
    let (node, outside) = (closed_dir(), temp_dir());
    fs::write(outside.path().join("key"), "secret\n").unwrap();
    let volume = node.path().join("volume");
    fs::create_dir_all(volume.join("logs")).unwrap();
    fs::write(volume.join("logs/today"), "log\n").unwrap();
    symlink(outside.path(), volume.join("absolute")).unwrap();
    symlink("../../", volume.join("up")).unwrap();
    symlink("logs", volume.join("inside")).unwrap();
    let start = |sub: &str| {
        let spec = "securityContext: {fsGroup: 2000}, volumes: [{name: data, persistentVolumeClaim: {claimName: d}}]";
        let pod = pod(spec, &[&format!("{{name: data, mountPath: /data, subPath: {sub}}}")]);
        let volumes = Volumes::new().directory("data", &volume).set_up(&pod).unwrap();
        Node::new().volumes(volumes).container(&pod, "c0", image.path())
    };
    for sub in ["logs", "inside", "./logs"] {
        assert_eq!(says(&start(sub).unwrap(), "cat /data/today"), "log\n", "{sub}");
    }
    assert_eq!(says(&start("logs/today").unwrap(), "cat /data"), "log\n");
    for sub in ["absolute", "absolute/key", "absolute/new", "up", "up/new"] {
        let error = start(sub).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSpec);
        assert!(error.to_string().contains("volumeMounts[0].subPath"), "{sub}: {error}");
    }
    assert!(!outside.path().join("new").exists());
    // What is not there is made, with the volume's rights and group.
    assert_eq!(says(&start("new/er").unwrap(), "stat -c '%a %g' /data"), "2775 2000\n");
    // A link that comes later: the mount is of what was found, or there is none.
    let docker = start("logs").unwrap();
    fs::rename(volume.join("logs"), volume.join("moved")).unwrap();
    symlink(outside.path(), volume.join("logs")).unwrap();
    let error = docker.build().unwrap_err();
    assert!(error.to_string().contains("leads out of the source"), "{error}");
}

/// A runtime makes the mount point of a volume within another.
#[test]
fn a_volume_is_mounted_within_another() {
    let image = image!();
    let node = closed_dir();
    let inner = "{name: cache, mountPath: /data/deep/cache}";
    let spec = "volumes: [{name: data, emptyDir: {}}, {name: cache, emptyDir: {medium: Memory}}]";
    let pod = pod(spec, &[&format!("{inner}, {DATA}")]);
    let volumes = Volumes::new().empty_dirs_in(node.path()).set_up(&pod).unwrap();
    let docker = container(&pod, &volumes, "c0", image.path());
    let script =
        "echo a >/data/deep/cache/f; grep -c '/data/deep/cache tmpfs' /proc/mounts; cat /data/deep/cache/f";
    assert_eq!(says(&docker, script), "1\na\n");
    assert!(node.path().join("data/deep/cache").is_dir() && !node.path().join("data/deep/cache/f").exists());
}

#[test]
fn a_host_path_is_shown_where_the_caller_says_so() {
    let image = image!();
    let node = temp_dir();
    fs::create_dir(node.path().join("shown")).unwrap();
    fs::write(node.path().join("shown/f"), "node\n").unwrap();
    set(node.path().join("shown/f"), 0o644);
    let shown = node.path().join("shown").display().to_string();
    let group = if is_root() { "securityContext: {fsGroup: 2000}, " } else { "" };
    let with = |path: &str, kind: &str| {
        let spec = format!("{group}volumes: [{{name: data, hostPath: {{path: {path}, type: \"{kind}\"}}}}]");
        pod(&spec, &["{name: data, mountPath: /data, readOnly: true}"])
    };
    let error = Volumes::new().set_up(&with(&shown, "")).unwrap_err().to_string();
    assert!(
        error.contains("spec.volumes[0].hostPath.path") && error.contains("dangerously_allow"),
        "{error}"
    );
    let volumes = Volumes::new().dangerously_allow_host_path(node.path());
    for (path, kind, script) in [
        (shown.clone(), "Directory", "cat /data/f"),
        (shown.clone(), "", "cat /data/f"),
        (format!("{shown}/f"), "File", "cat /data"),
    ] {
        let pod = with(&path, kind);
        let set_up = volumes.set_up(&pod).unwrap();
        assert_eq!(says(&container(&pod, &set_up, "c0", image.path()), script), "node\n");
    }
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    assert_eq!(owner(format!("{shown}/f")), (uid, gid, 0o644), "a kubelet leaves a hostPath as it is");
    for (path, kind, says) in [
        (format!("{shown}/f"), "Directory", "hostPath.type: Directory: "),
        (shown.clone(), "Socket", "is no socket"),
        (format!("{shown}/none"), "DirectoryOrCreate", "hostPath.path"),
        ("/etc".to_owned(), "", "dangerously_allow_host_path"),
        (format!("{}x", node.path().display()), "", "dangerously_allow_host_path"),
    ] {
        let error = volumes.set_up(&with(&path, kind)).unwrap_err().to_string();
        assert!(error.contains(says), "{path} {kind}: {error}");
    }
    // A link below it does not lead out of it.
    symlink("/etc", node.path().join("etc")).unwrap();
    let pod = with(&format!("{}/etc", node.path().display()), "");
    let set_up = volumes.set_up(&pod).unwrap();
    let error = container(&pod, &set_up, "c0", image.path()).build().unwrap_err().to_string();
    assert!(error.contains("leads out of the source"), "{error}");
}

#[test]
fn volumes_that_can_not_be_here_are_errors_with_their_field() {
    let image = image!();
    let node = closed_dir();
    let two = &[DATA, DATA][..];
    let one = &[DATA][..];
    for (volume, mounts, says) in [
        ("emptyDir: {}", one, "spec.volumes[0].emptyDir: there is no place for it"),
        ("emptyDir: {sizeLimit: 1Gi}", one, "spec.volumes[0].emptyDir.sizeLimit: a directory has no limit"),
        ("emptyDir: {medium: Memory}", two, "spec.volumes[0].emptyDir.medium: Memory: it is mounted 2 times"),
        ("emptyDir: {medium: HugePages}", one, "emptyDir.medium: unknown storage medium \"HugePages\""),
        (
            "persistentVolumeClaim: {claimName: d}",
            one,
            "spec.volumes[0].persistentVolumeClaim: nothing stands for",
        ),
        ("configMap: {name: c}", one, "spec.volumes[0].configMap: nothing stands for"),
        ("nfs: {server: s, path: /}", one, "spec.volumes[0].nfs: nothing stands for"),
    ] {
        let pod = pod(&format!("volumes: [{{name: data, {volume}}}]"), mounts);
        let error = Volumes::new().set_up(&pod).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSpec);
        assert!(error.to_string().contains(says), "{volume}: {error}");
        let error = Node::new().container(&pod, "c0", image.path()).unwrap_err().to_string();
        assert!(error.contains("volumeMounts[0].name") && error.contains("Volumes::set_up"), "{error}");
    }
    // One that no container mounts is not looked at, as a kubelet does not.
    Volumes::new().set_up(&pod("volumes: [{name: data, nfs: {}}]", &[""])).unwrap();
    let pod_of = |mount: &str| pod("volumes: [{name: data, emptyDir: {medium: Memory}}]", &[mount]);
    for (mount, says) in [
        ("{name: data, mountPath: /d, subPath: x}", "volumeMounts[0].subPath: \"x\""),
        ("{name: data, mountPath: /d, subPathExpr: $(A)}", "volumeMounts[0].subPathExpr: \"$(A)\""),
        (
            "{name: data, mountPath: /d, mountPropagation: HostToContainer}",
            "mountPropagation: HostToContainer",
        ),
    ] {
        let pod = pod_of(mount);
        let volumes = Volumes::new().set_up(&pod).unwrap();
        let error = Node::new().volumes(volumes).container(&pod, "c0", image.path()).unwrap_err().to_string();
        assert!(error.contains(says), "{mount}: {error}");
    }
    let error = Volumes::new().directory("other", node.path()).set_up(&pod_of(DATA)).unwrap_err().to_string();
    assert!(error.contains("it has no volume \"other\""), "{error}");
    let mut other = pod_of(DATA);
    let volumes = Volumes::new().set_up(&other).unwrap();
    other.name = "q".to_owned();
    let error = Node::new().volumes(volumes).container(&other, "c0", image.path()).unwrap_err().to_string();
    assert!(error.contains("they are those of pod \"p\""), "{error}");
    if is_root() {
        let open = temp_dir();
        set(open.path(), 0o755);
        fs::create_dir(open.path().join("v")).unwrap();
        let volumes = Volumes::new().directory("data", open.path().join("v"));
        let error = volumes.set_up(&claim("fsGroup: 2000")).unwrap_err().to_string();
        assert!(error.contains("set-user-ID program") && error.contains("mode 700"), "{error}");
        // Nobody writes to it: nothing to fear.
        let read = "{name: data, mountPath: /data, readOnly: true}";
        let read = pod("volumes: [{name: data, persistentVolumeClaim: {claimName: d}}]", &[read]);
        volumes.set_up(&read).unwrap();
    }
}

#[test]
fn a_config_map_is_a_directory_that_nobody_writes_to() {
    let image = image!();
    let node = closed_dir();
    fs::write(node.path().join("app.conf"), "x=1\n").unwrap();
    set(node.path().join("app.conf"), 0o644);
    let pod = pod("volumes: [{name: data, configMap: {name: c}}]", &[DATA]);
    let VolumeSource::Other { kind: "configMap", read_only: true, .. } = pod.volume("data").unwrap().source
    else {
        panic!("{:?}", pod.volumes)
    };
    let volumes = Volumes::new().directory("data", node.path()).set_up(&pod).unwrap();
    let docker = container(&pod, &volumes, "c0", image.path());
    let script = "cat /data/app.conf; touch /data/x 2>&1 | grep -o 'Read-only file system'; true";
    assert_eq!(says(&docker, script), "x=1\nRead-only file system\n");
}

/// A directory of the name that is there already: the Pod's own, or nobody's to follow.
#[test]
fn an_empty_dir_is_no_link_that_somebody_put_there() {
    let (node, outside) = (closed_dir(), temp_dir());
    symlink(outside.path(), node.path().join("data")).unwrap();
    let pod = pod("volumes: [{name: data, emptyDir: {}}]", &[DATA]);
    let error = Volumes::new().empty_dirs_in(node.path()).set_up(&pod).unwrap_err();
    assert_eq!((error.kind(), error.errno()), (ErrorKind::Setup, Some(libc::ENOTDIR)), "{error}");
    assert_eq!(owner(outside.path()).2, 0o755);
    fs::remove_file(node.path().join("data")).unwrap();
    fs::write(node.path().join("data"), "").unwrap();
    let error = Volumes::new().empty_dirs_in(node.path()).set_up(&pod).unwrap_err();
    assert_eq!(error.errno(), Some(libc::ENOTDIR), "{error}");
    if is_root() {
        fs::remove_file(node.path().join("data")).unwrap();
        fs::create_dir(node.path().join("data")).unwrap();
        chown(node.path().join("data"), Some(1000), None).unwrap();
        let error = Volumes::new().empty_dirs_in(node.path()).set_up(&pod).unwrap_err().to_string();
        assert!(error.contains("it is user 1000's"), "{error}");
    }
}

/// An ordinary user's directories and groups: what is its own to give, and a clear answer where it is not.
#[test]
fn an_ordinary_users_volumes() {
    if is_root() {
        skip!("for an ordinary user");
    }
    let image = image!();
    let node = closed_dir();
    let plain = pod("volumes: [{name: data, emptyDir: {}}]", &[DATA, DATA]);
    let volumes = Volumes::new().empty_dirs_in(node.path()).set_up(&plain).unwrap();
    assert_eq!(
        says(&container(&plain, &volumes, "c0", image.path()), "echo hi >/data/f; stat -c %a /data"),
        "777\n"
    );
    assert_eq!(says(&container(&plain, &volumes, "c1", image.path()), "cat /data/f"), "hi\n");
    let grouped = |gid: u32| {
        let spec = format!(
            "securityContext: {{runAsUser: 1000, fsGroup: {gid}}}, volumes: [{{name: data, emptyDir: {{}}}}]"
        );
        pod(&spec, &[DATA])
    };
    let maps = palisade::creds::Maps::rootless().and_then(|maps| maps.prepare().map(|_| maps));
    if maps.is_err() {
        let error = Volumes::new().empty_dirs_in(node.path()).set_up(&grouped(2000)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSpec);
        let text = error.to_string();
        assert!(
            text.contains("spec.securityContext.fsGroup: 2000: ") && text.contains("/etc/subgid"),
            "{text}"
        );
        skip!("no ids are delegated to this user", needs = "idmap-range");
    }
    // Group 0 of the container is the caller's own, 2000 one of its range.
    for gid in [0, 2000] {
        let pod = grouped(gid);
        let volumes = Volumes::new().empty_dirs_in(node.path()).set_up(&pod).unwrap();
        let script =
            "stat -c '%A %u %g' /data; echo hi >/data/g; stat -c '%u %g' /data/g; busybox rm /data/g";
        let said = says(&container(&pod, &volumes, "c0", image.path()), script);
        assert_eq!(said, format!("drwxrwsrwx 0 {gid}\n1000 {gid}\n"));
    }
    // Other directories are given by who is a member of the group.
    fs::create_dir(node.path().join("claim")).unwrap();
    let volumes = Volumes::new().directory("data", node.path().join("claim"));
    volumes.set_up(&claim("fsGroup: 0")).unwrap();
    assert_eq!(owner(node.path().join("claim")).2 & 0o2770, 0o2770);
    let error = volumes.set_up(&claim("fsGroup: 2000")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidSpec);
    assert!(error.to_string().contains("the caller is no member"), "{error}");
}

/// `readOnly` of a kind that this library knows by name alone was dropped, and an `image` volume could be written to.
#[test]
fn storage_that_says_read_only_is_not_written_to() {
    let image = image!();
    let node = closed_dir();
    fs::create_dir(node.path().join("v")).unwrap();
    for (volume, read_only) in [
        ("nfs: {server: s, path: /, readOnly: true}", true),
        ("csi: {driver: d, readOnly: true}", true),
        ("iscsi: {readOnly: true}", true),
        ("image: {reference: i}", true),
        ("nfs: {server: s, path: /, readOnly: false}", false),
        ("csi: {driver: d, readOnly: null}", false),
        ("csi: {driver: d}", false),
    ] {
        let pod = pod(&format!("volumes: [{{name: data, {volume}}}]"), &[DATA]);
        let VolumeSource::Other { read_only: read, .. } = pod.volume("data").unwrap().source else {
            panic!("{volume}")
        };
        assert_eq!(read, read_only, "{volume}");
        let volumes = Volumes::new().directory("data", node.path().join("v")).set_up(&pod).unwrap();
        let docker = container(&pod, &volumes, "c0", image.path());
        let script = "touch /data/x 2>&1 | grep -c 'Read-only file system'; true";
        assert_eq!(says(&docker, script), if read_only { "1\n" } else { "0\n" }, "{volume}");
    }
    let text = "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {volumes: [{name: d, nfs: {readOnly: \"yes\"}}], \
                containers: [{name: c, image: i}]}}";
    let error = read(text).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidSpec);
    assert!(error.to_string().contains("readOnly: \"yes\": it is true or false"), "{error}");
}

/// The path of a volume was walked again for each use, and what a link in it led to was given away and mounted.
#[test]
fn a_link_on_the_way_to_a_volume_leads_nowhere() {
    let image = image!();
    let (node, outside) = (closed_dir(), closed_dir());
    let volume = node.path().join("parent/volume");
    fs::create_dir_all(&volume).unwrap();
    fs::create_dir(outside.path().join("volume")).unwrap();
    fs::write(outside.path().join("volume/key"), "").unwrap();
    let before = owner(outside.path().join("volume/key"));
    let group = if is_root() { "securityContext: {fsGroup: 2000}, " } else { "" };
    let spec = format!("{group}volumes: [{{name: data, persistentVolumeClaim: {{claimName: d}}}}]");
    let pod = pod(&spec, &[DATA]);
    let volumes = Volumes::new().directory("data", &volume);
    let set_up = volumes.set_up(&pod).unwrap();
    assert_eq!(says(&container(&pod, &set_up, "c0", image.path()), "ls /data"), "");
    // As a payload would that has what is above, or a user that the directory above belongs to.
    let built = container(&pod, &set_up, "c0", image.path()).build().unwrap();
    fs::rename(node.path().join("parent"), node.path().join("moved")).unwrap();
    symlink(outside.path(), node.path().join("parent")).unwrap();
    let error = built.command("true").output().unwrap_err();
    assert_eq!(error.errno(), Some(libc::ELOOP), "{error}");
    let error = container(&pod, &set_up, "c0", image.path()).build().unwrap_err();
    assert!(error.to_string().contains("there is a link on the way"), "{error}");
    let error = volumes.set_up(&pod).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidSpec, "{error}");
    let real = outside.path().join("volume").display().to_string();
    assert!(
        error.to_string().contains("a link on the way leads to") && error.to_string().contains(&real),
        "{error}"
    );
    assert_eq!(owner(outside.path().join("volume/key")), before);
    // Another directory of that name is not the volume.
    fs::remove_file(node.path().join("parent")).unwrap();
    fs::create_dir_all(&volume).unwrap();
    let error = container(&pod, &set_up, "c0", image.path()).build().unwrap_err();
    assert!(error.to_string().contains("another file than the one that was looked at"), "{error}");
}

/// Root walked through a directory that was reached through somebody else's, who could exchange it for another.
#[test]
fn a_volume_below_somebody_elses_directory_is_not_walked() {
    need_root!();
    let node = closed_dir();
    let around = node.path().join("around");
    let volume = around.join("v");
    fs::create_dir_all(&volume).unwrap();
    let pod = claim("fsGroup: 2000");
    let volumes = Volumes::new().directory("data", &volume);
    let config = "securityContext: {fsGroup: 2000}, volumes: [{name: data, configMap: {name: c}}]";
    let config = self::pod(config, &[DATA]);
    for (uid, gid, mode, says) in [
        (1000, 0, 0o755, "around is user 1000's"),
        (0, 0, 0o757, "others may write to"),
        (0, 1000, 0o775, "others may write to"),
    ] {
        chown(&around, Some(uid), Some(gid)).unwrap();
        set(&around, mode);
        for pod in [&pod, &config] {
            let error = volumes.set_up(pod).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidSpec);
            assert!(error.to_string().contains(says), "{error}");
        }
    }
    assert_eq!(owner(&volume).1, 0, "nothing was given");
    // What the sticky bit keeps is nobody's to exchange, if it is root's.
    set(&around, 0o1777);
    volumes.set_up(&pod).unwrap();
    chown(&volume, Some(1000), None).unwrap();
    let error = volumes.set_up(&pod).unwrap_err().to_string();
    assert!(error.contains("others may write to"), "{error}");
}

/// An ordinary caller's containers could leave a set-user-ID program of the caller's where anybody may run it.
#[test]
fn a_volume_that_others_reach_is_refused_to_everybody() {
    let open = temp_dir();
    fs::create_dir(open.path().join("v")).unwrap();
    let pod = pod("volumes: [{name: data, persistentVolumeClaim: {claimName: d}}]", &[DATA]);
    let volumes = Volumes::new().directory("data", open.path().join("v"));
    let error = volumes.set_up(&pod).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidSpec);
    assert!(
        error.to_string().contains("set-user-ID program") && error.to_string().contains("mode 700"),
        "{error}"
    );
    let empty = self::pod("volumes: [{name: data, emptyDir: {}}]", &[DATA]);
    let error = Volumes::new().empty_dirs_in(open.path()).set_up(&empty).unwrap_err().to_string();
    assert!(error.contains("mode 700") && !open.path().join("data").exists(), "{error}");
    set(open.path(), 0o700);
    volumes.set_up(&pod).unwrap();
}

/// The mode alone does not say who may enter where there is an access list.
#[test]
fn a_directory_with_an_access_list_is_not_closed() {
    let node = closed_dir();
    let around = node.path().join("around");
    fs::create_dir_all(around.join("v")).unwrap();
    let pod = pod("volumes: [{name: data, persistentVolumeClaim: {claimName: d}}]", &[DATA]);
    let volumes = Volumes::new().directory("data", around.join("v"));
    // The directory above is opened, the one around the volume is what closes it.
    set(&around, 0o700);
    set(node.path(), 0o755);
    volumes.set_up(&pod).unwrap();
    let list = "import os, struct, sys\n\
                entries = [(1, 7, -1), (2, 1, 1000), (4, 0, -1), (16, 1, -1), (32, 0, -1)]\n\
                value = struct.pack('<I', 2) + b''.join(struct.pack('<HHi', *entry) for entry in entries)\n\
                os.setxattr(sys.argv[1], 'system.posix_acl_access', value)";
    let set_list = std::process::Command::new("python3").arg("-c").arg(list).arg(&around).output();
    match set_list {
        Ok(out) if out.status.success() => {}
        _ => skip!("no access list can be set (python3, a file system that has them)"),
    }
    let error = volumes.set_up(&pod).unwrap_err().to_string();
    assert!(error.contains("access list"), "{error}");
}

/// A file that is mounted within a directory volume got a directory to stand on: `EINVAL` at each start.
#[test]
fn a_file_is_mounted_within_a_directory_volume() {
    let image = image!();
    let node = closed_dir();
    fs::create_dir(node.path().join("config")).unwrap();
    fs::write(node.path().join("config/app.conf"), "x=1\n").unwrap();
    set(node.path().join("config/app.conf"), 0o644);
    let spec = "volumes: [{name: etc, emptyDir: {}}, {name: config, configMap: {name: c}}]";
    let mounts = "{name: config, mountPath: /etc/app/deep/app.conf, subPath: app.conf}, {name: etc, mountPath: /etc/app}";
    let pod = pod(spec, &[mounts]);
    let volumes = Volumes::new().empty_dirs_in(node.path()).directory("config", node.path().join("config"));
    for _ in 0..2 {
        let set_up = volumes.set_up(&pod).unwrap();
        let docker = container(&pod, &set_up, "c0", image.path());
        assert_eq!(says(&docker, "cat /etc/app/deep/app.conf; touch /etc/app/new"), "x=1\n");
    }
    let point = fs::symlink_metadata(node.path().join("etc/deep/app.conf")).unwrap();
    assert!(point.is_file() && point.len() == 0);
}

/// What is found below a volume was compared by its inode alone: a link that leads out to a file of that number was followed.
#[test]
fn a_sub_path_is_walked_again_within_its_volume() {
    let image = image!();
    let (node, outside) = (closed_dir(), tempfile::TempDir::new().unwrap());
    let volume = node.path().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("f"), "inside\n").unwrap();
    set(volume.join("f"), 0o644);
    let spec = "volumes: [{name: data, persistentVolumeClaim: {claimName: d}}]";
    let pod = pod(spec, &["{name: data, mountPath: /data, subPath: f}"]);
    let volumes = Volumes::new().directory("data", &volume).set_up(&pod).unwrap();
    let built = container(&pod, &volumes, "c0", image.path()).build().unwrap();
    let cat = || built.command("cat").arg("/data").output();
    assert_eq!(cat().unwrap().stdout, b"inside\n");
    // The very inode, as a new file gets the number of one that was removed.
    fs::hard_link(volume.join("f"), outside.path().join("secret")).unwrap();
    fs::remove_file(volume.join("f")).unwrap();
    symlink(outside.path().join("secret"), volume.join("f")).unwrap();
    let error = cat().unwrap_err();
    assert_eq!(error.errno(), Some(libc::EXDEV), "{error}");
}

/// Something that left its directory while it was looked up was taken for a mount, and the volume was never given.
#[test]
fn what_moves_between_directories_is_passed_over() {
    need_root!();
    let node = closed_dir();
    let volume = node.path().join("volume");
    let places = [volume.join("a/moving"), volume.join("b/moving")];
    fs::create_dir_all(places[0].join("deep/er")).unwrap();
    fs::create_dir(volume.join("b")).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    let pods = [claim("fsGroup: 2000"), claim("fsGroup: 2001")];
    let volumes = Volumes::new().directory("data", &volume);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                fs::rename(&places[0], &places[1]).unwrap();
                fs::rename(&places[1], &places[0]).unwrap();
                // And something that vanishes while it is read.
                fs::create_dir_all(volume.join("b/brief/er")).unwrap();
                let _ = fs::remove_dir_all(volume.join("b/brief"));
            }
        });
        let run = || (0..1000).try_for_each(|n| volumes.set_up(&pods[n % 2]).map(drop));
        let ran = run();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        ran.unwrap_or_else(|error| panic!("{error}"));
    });
}
