//! `presets::docker`: what `docker run` means, seen from inside and from outside.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use palisade::ErrorKind;
use palisade::creds::CapabilitySet;
use palisade::presets::docker::Docker;
use palisade_testkit::{is_root, skip, temp_dir};

/// A change of the options.
type Change = fn(Docker) -> Docker;

#[path = "common/image.rs"]
mod common;
use common::{image, masks, running, says};

macro_rules! image {
    () => {
        match image() {
            Some(image) => image,
            None => skip!("no busybox (package busybox-static)"),
        }
    };
}

#[test]
fn capability_masks_are_dockers_bit_for_bit() {
    let image = image!();
    let run = |change: Change| change(Docker::new(image.path()));
    let cases: [(Change, u64); 7] = [
        (|docker| docker, 0xa804_25fb),
        (|docker| docker.cap_drop("net_raw"), 0xa804_05fb),
        (|docker| docker.cap_add("CAP_NET_ADMIN").cap_add("SYS_TIME"), 0xaa04_35fb),
        (|docker| docker.cap_drop("ALL"), 0),
        (|docker| docker.cap_drop("all").cap_add("chown"), 1),
        // An add wins over a drop of the same name …
        (|docker| docker.cap_add("NET_RAW").cap_drop("NET_RAW"), 0xa804_25fb),
        // … but for all of them.
        (
            |docker| docker.cap_add("ALL").cap_drop("SYS_ADMIN"),
            CapabilitySet::supported().unwrap().bits() & !(1 << 21),
        ),
    ];
    for (change, mask) in cases {
        let root = running(&run(change));
        assert_eq!(masks(&root), [0, mask, mask, mask, 0], "root, {mask:x}");
        let nobody = running(&run(change).user("nobody"));
        assert_eq!(masks(&nobody), [0, 0, 0, mask, 0], "nobody, {mask:x}");
        for child in [root, nobody] {
            let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
            assert!(status.contains("NoNewPrivs:\t1\n") && status.contains("Seccomp:\t2\n"), "{status}");
        }
    }
}

/// Docker's own default: the host's users, no user namespace, and no_new_privs off. The masks are the same, of what the
/// caller itself can have.
#[test]
fn with_the_hosts_users_the_masks_are_the_same() {
    if !is_root() {
        skip!("the host's users need privileges", needs = "root");
    }
    let image = image!();
    let docker = Docker::new(image.path()).dangerously_use_host_users().allow_privilege_escalation(true);
    let own = fs::read_link("/proc/self/ns/user").unwrap();
    for (docker, effective) in [(docker.clone(), 0xa804_25fb), (docker.user("65534"), 0)] {
        let child = running(&docker);
        assert_eq!(masks(&child), [0, effective, effective, 0xa804_25fb, 0]);
        assert_eq!(fs::read_link(format!("/proc/{}/ns/user", child.id())).unwrap(), own);
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        assert!(status.contains("NoNewPrivs:\t0\n") && status.contains("Seccomp:\t2\n"), "{status}");
    }
}

#[test]
fn users_are_the_images() {
    let image = image!();
    let docker = || Docker::new(image.path());
    if is_root() {
        assert_eq!(says(&docker(), "id"), "uid=0(root) gid=0(root) groups=0(root),10(wheel)\n");
        assert_eq!(
            says(&docker().user("nobody"), "id"),
            "uid=65534(nobody) gid=65534(nogroup) groups=65534(nogroup)\n"
        );
        assert_eq!(says(&docker().user("10000:20000"), "id"), "uid=10000 gid=20000 groups=20000\n");
        assert_eq!(says(&docker().user("4000"), "id"), "uid=4000 gid=0(root) groups=0(root)\n");
        assert_eq!(
            says(&docker().user("nobody").group_add("audio").group_add("77"), "id -G"),
            "65534 29 77\n"
        );
        // The image's owners are ids inside, and what the container writes stays in the container.
        assert_eq!(
            says(&docker(), "stat -c %u:%g /bin/busybox; touch /made; stat -c %u:%g /made"),
            "0:0\n0:0\n"
        );
        assert!(!image.path().join("made").exists());
    } else {
        // Without delegated ids there is one, which the user stands for.
        assert_eq!(says(&docker().user("4000:5000"), "id -u; id -g"), "4000\n5000\n");
    }
    assert_eq!(
        says(&docker(), "echo $HOME $PATH"),
        "/root /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
    );
    let error = docker().user("alice").build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidSpec);
    assert!(
        error.to_string().contains("unable to find user alice: no matching entries in passwd file"),
        "{error}"
    );
}

#[test]
fn files_are_dockers() {
    let image = image!();
    let docker = Docker::new(image.path());
    // Hidden and read-only paths.
    let hidden =
        "cat /proc/keys /proc/timer_list 2>/dev/null | head -c 9; ls /sys/firmware | head -c 9; echo end";
    assert_eq!(says(&docker, &hidden.replace("head", "busybox head")), "end\n");
    let read_only = "for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /sys/kernel/mm/ksm/run /sys/fs/cgroup/x; do
        (echo x > $f) 2>/dev/null && echo written $f; done; echo end";
    assert_eq!(says(&docker, read_only), "end\n");
    let devices = says(&docker, "cd /dev; ls -1 | tr '\\n' ' '");
    assert_eq!(
        devices,
        "console fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero "
    );
    let mounts = says(&docker, "cat /proc/mounts");
    for (target, kind) in [
        ("/proc", "proc"),
        ("/sys", "sysfs"),
        ("/sys/fs/cgroup", "cgroup2"),
        ("/dev/pts", "devpts"),
        ("/dev/mqueue", "mqueue"),
        ("/", "overlay"),
    ] {
        let found = mounts.lines().any(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            fields[1] == target && fields[2] == kind
        });
        assert!(found, "{target} {kind}: {mounts}");
    }
    assert_eq!(
        says(
            &docker.clone().hostname("lab"),
            "hostname; cat /etc/hostname; grep -c lab /etc/hosts; echo $HOSTNAME"
        ),
        "lab\nlab\n2\nlab\n"
    );
    assert_eq!(
        says(
            &docker.clone().security_opt("systempaths=unconfined"),
            "grep -c ' /proc/' /proc/mounts || true"
        ),
        "0\n"
    );

    let fixed = docker.clone().read_only(true).tmpfs("/run:size=64k,mode=755");
    let out = says(&fixed, "touch /x 2>&1 || true; touch /run/x && stat -c %a /run");
    assert_eq!(out, "touch: /x: Read-only file system\n755\n");
    let full = says(
        &docker.clone().storage("1m"),
        "busybox dd if=/dev/zero of=/big bs=64k count=64 2>&1 | grep -o 'No space left'; true",
    );
    assert_eq!(full, "No space left\n");
    let shm = says(&docker.clone().shm_size("1m"), "busybox df -k /dev/shm | busybox awk 'END { print $2 }'");
    assert_eq!(shm, "1024\n");
}

#[test]
fn volumes_and_changes_that_are_kept() {
    let image = image!();
    let data = temp_dir();
    fs::write(data.path().join("a"), "kept\n").unwrap();
    let docker = Docker::new(image.path()).volume(format!("{}:/data:ro", data.path().display()));
    assert_eq!(
        says(&docker, "cat /data/a; touch /data/b 2>&1 || true"),
        "kept\ntouch: /data/b: Read-only file system\n"
    );
    if is_root() {
        let changes = temp_dir();
        for name in ["upper", "work"] {
            fs::create_dir(changes.path().join(name)).unwrap();
        }
        let docker = Docker::new(image.path()).changes_in(changes.path());
        assert_eq!(says(&docker.clone().user("7:8"), "touch /tmp/x 2>&1 | grep -c denied"), "1\n");
        says(&docker, "touch /made; mkdir /dir");
        let made = fs::metadata(changes.path().join("upper/made")).unwrap();
        assert_eq!((made.uid(), made.gid()), (0, 0), "as an image has it");
        assert_eq!(says(&docker, "ls -d /made /dir"), "/dir\n/made\n");
    }
}

#[test]
fn namespaces_by_their_modes() {
    let image = image!();
    let own = |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string();
    let docker = Docker::new(image.path());
    let kinds = ["ipc", "uts", "net", "pid", "cgroup", "mnt", "user"];
    let script = |kinds: &[&str]| {
        kinds.iter().map(|kind| format!("readlink /proc/self/ns/{kind}")).collect::<Vec<_>>().join("; ")
    };
    for (kind, link) in kinds.iter().zip(says(&docker, &script(&kinds)).lines()) {
        assert_ne!(link, own(kind), "{kind}");
    }
    let shared: [(&str, Change); 4] = [
        ("ipc", |docker| docker.ipc("host")),
        ("uts", |docker| docker.uts("host")),
        ("net", |docker| docker.network("host")),
        ("cgroup", |docker| docker.cgroupns("host")),
    ];
    for (kind, change) in shared {
        let docker = change(docker.clone());
        for (other, link) in kinds.iter().zip(says(&docker, &script(&kinds)).lines()) {
            assert_eq!(link == own(other), *other == kind, "{kind}: {other}");
        }
    }
    assert_eq!(says(&docker.clone().ipc("none"), "ls -d /dev/shm 2>/dev/null || echo none"), "none\n");
    assert_eq!(says(&docker.clone().network("none"), "busybox ip -o link | grep -c ."), "1\n");
    for (docker, says) in [
        (docker.clone().network("frontend"), "--network frontend: it is one of none, host, container:NAME"),
        (docker.clone().pid("none"), "--pid none: it is one of private, host"),
        (docker.clone().uts("container:x"), "--uts container:x: it is one of private, host"),
        (docker.clone().cgroupns("container:x"), "--cgroupns container:x: it is one of private, host"),
        (docker.clone().userns("host"), "dangerously_use_host_users"),
        (docker.clone().ipc("shareable"), "--ipc shareable: its /dev/shm is a directory"),
        (docker.clone().shm_directory("/tmp"), "it goes with --ipc shareable"),
        (docker.clone().ipc("container:x"), "--ipc container:x: no container is known by this name"),
    ] {
        let error = docker.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSpec);
        assert!(error.to_string().contains(says), "{says}: {error}");
    }
}

/// The link of each namespace, as seen from outside.
fn links(child: &palisade::Child, kinds: &[&str]) -> Vec<String> {
    let link = |kind: &&str| fs::read_link(format!("/proc/{}/ns/{kind}", child.id())).expect("it runs");
    kinds.iter().map(|kind| link(kind).display().to_string()).collect()
}

const KINDS: &[&str] = &["user", "ipc", "pid", "net", "uts", "mnt", "cgroup"];

/// `--pid`, `--network` and `--userns container:NAME`: what is named is shared, the user namespace with it, and nothing else.
#[test]
fn a_container_joins_anothers_namespaces() {
    let image = image!();
    let donor = running(&Docker::new(image.path()).hostname("donor"));
    let own = links(&donor, KINDS);
    let joining = || Docker::new(image.path()).container("other", &donor).container("donor", &donor);
    let cases: [(Change, &[&str]); 4] = [
        (|docker| docker.userns("container:donor"), &["user"]),
        (|docker| docker.network("container:donor"), &["user", "net"]),
        (|docker| docker.pid("container:donor"), &["user", "pid"]),
        (|docker| docker.pid("container:donor").network("container:other"), &["user", "pid", "net"]),
    ];
    for (change, shared) in cases {
        let child = running(&change(joining()));
        for ((kind, ours), theirs) in KINDS.iter().zip(links(&child, KINDS)).zip(&own) {
            assert_eq!(ours == *theirs, shared.contains(kind), "{shared:?}: {kind}");
        }
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        assert!(status.contains("NoNewPrivs:\t1\n") && status.contains("Seccomp:\t2\n"), "{status}");
    }
    // Its processes are seen, its names are not ours, and the image's owners are ids inside as without.
    let both = joining().pid("container:donor").network("container:donor");
    let script =
        "tr '\\0' ' ' </proc/1/cmdline; echo; test $$ -gt 1; hostname; busybox ip -o link | grep -c .; id -u";
    assert_eq!(says(&both, script), "sleep 1000 \nsandbox\n1\n0\n");
    if is_root() {
        assert_eq!(says(&both, "stat -c %u:%g /bin/busybox; touch /made; stat -c %u:%g /made"), "0:0\n0:0\n");
        assert_eq!(says(&both.user("nobody"), "id -u"), "65534\n");
    }
}

/// A donor that has made namespaces of its own led the next container into them.
#[test]
fn a_container_in_namespaces_of_its_own_making_is_not_joined() {
    let image = image!();
    let sandbox = Docker::new(image.path()).security_opt("seccomp=unconfined").build().unwrap();
    let mut command = sandbox.command("sh");
    command.args(["-c", "read -r go; exec busybox unshare -U -n busybox sleep 1000"]);
    let mut donor = command.stdin(palisade::Stdio::piped()).spawn().unwrap();
    Docker::new(image.path()).container("donor", &donor).network("container:donor").build().unwrap();
    let before = links(&donor, &["user"]);
    let mut stdin = donor.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, b"go\n").unwrap();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while links(&donor, &["user"]) == before || !cmdline(&donor).contains("sleep") {
        assert!(std::time::Instant::now() < until, "it did not unshare: {}", cmdline(&donor));
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let joining = |option: fn(Docker, &str) -> Docker| {
        option(Docker::new(image.path()).container("donor", &donor), "container:donor").build()
    };
    let options: [fn(Docker, &str) -> Docker; 2] =
        [|docker, mode| docker.network(mode), |docker, mode| docker.userns(mode)];
    for option in options {
        let error = joining(option).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSpec);
        assert!(error.to_string().contains("its payload has made it"), "{error}");
    }
}

fn cmdline(child: &palisade::Child) -> String {
    fs::read_to_string(format!("/proc/{}/cmdline", child.id())).expect("it runs")
}

#[test]
fn a_shareable_ipc_namespace_goes_with_its_memory() {
    let image = image!();
    let shm = temp_dir();
    fs::set_permissions(shm.path(), std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
    let shareable = Docker::new(image.path()).ipc("shareable").shm_directory(shm.path());
    let donor = running(&shareable);
    fs::write(shm.path().join("segment"), "shared\n").unwrap();
    fs::set_permissions(shm.path().join("segment"), std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .unwrap();
    let kinds = &["user", "ipc", "pid"];
    let joining = Docker::new(image.path()).container("donor", &donor).ipc("container:donor");
    let child = running(&joining);
    let (theirs, ours) = (links(&donor, kinds), links(&child, kinds));
    assert_eq!((&ours[..2], ours[2] == theirs[2]), (&theirs[..2], false));
    assert_eq!(says(&joining, "cat /dev/shm/segment; ls -d /dev/mqueue"), "shared\n/dev/mqueue\n");
    // A member hands it on.
    let third = Docker::new(image.path()).container("member", &child).ipc("container:member");
    assert_eq!(says(&third, "cat /dev/shm/segment"), "shared\n");
    assert_eq!(says(&Docker::new(image.path()), "ls /dev/shm"), "");
    let private = running(&Docker::new(image.path()));
    let error = Docker::new(image.path()).container("p", &private).ipc("container:p").build().unwrap_err();
    assert!(error.to_string().contains("--ipc container:p: non-shareable IPC"), "{error}");
    let error = joining.shm_size("1m").build().unwrap_err().to_string();
    assert!(error.contains("--shm-size"), "{error}");
}

/// One user namespace for all, and its ids.
#[test]
fn the_id_map_rule_holds_for_joined_containers() {
    let image = image!();
    let (one, two) = (running(&Docker::new(image.path())), running(&Docker::new(image.path())));
    let joining = || Docker::new(image.path()).container("one", &one).container("two", &two);
    let own = palisade::creds::Maps::single(
        (palisade::creds::Uid::ROOT, palisade::creds::Gid::ROOT),
        (palisade::creds::Uid::NOBODY, palisade::creds::Gid::NOBODY),
    );
    for (docker, says) in [
        (joining().network("container:one").pid("container:two"), "others of the set to user:["),
        (joining().userns("container:one").pid("container:two"), "others of the set to user:["),
        (joining().network("container:one").id_maps(own), "id_maps: the ids are those of the container"),
        (
            joining().network("container:one").hostname("x"),
            "conflicting options: hostname and the network mode",
        ),
        (
            joining().network("container:three"),
            "--network container:three: no container is known by this name",
        ),
        (joining().pid("container:one").cap_add("SYS_ADMIN"), "CAP_SYS_ADMIN can't share its pid namespace"),
    ] {
        let error = docker.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSpec, "{error}");
        assert!(error.to_string().contains(says), "{says}: {error}");
    }
    if is_root() {
        let error = joining().dangerously_use_host_users().network("container:one").build().unwrap_err();
        assert!(error.to_string().contains("leave out dangerously_use_host_users"), "{error}");
        let host = || Docker::new(image.path()).dangerously_use_host_users();
        let donor = running(&host());
        let child =
            running(&host().container("donor", &donor).network("container:donor").pid("container:donor"));
        let kinds = &["user", "net", "pid", "ipc"];
        let (theirs, ours) = (links(&donor, kinds), links(&child, kinds));
        assert_eq!((&ours[..3], ours[3] == theirs[3]), (&theirs[..3], false));
        let error = Docker::new(image.path()).container("donor", &donor).pid("container:donor").build();
        assert!(error.unwrap_err().to_string().contains("take dangerously_use_host_users"));
        let shared = running(&Docker::new(image.path()).network("host"));
        let error = Docker::new(image.path()).container("s", &shared).network("container:s").build();
        assert!(error.unwrap_err().to_string().contains("belongs to user:["));
    }
    let mut ended = one;
    let late = Docker::new(image.path()).container("one", &ended).network("container:one");
    ended.kill().unwrap();
    ended.wait().unwrap();
    let error = late.build().unwrap_err().to_string();
    assert!(error.contains("--network container:one"), "{error}");
}

#[test]
fn all_that_is_wrong_is_reported_at_once() {
    let image = image!();
    let error = Docker::new(image.path())
        .cap_add("SYS_MAGIC")
        .device("/etc/passwd")
        .security_opt("selinux=off")
        .memory("1m")
        .cpus("many")
        .privileged(true)
        .uts("host")
        .hostname("x")
        .build()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidSpec);
    let text = error.to_string();
    for part in [
        "8 conflicts",
        "--cap-add \"SYS_MAGIC\"",
        "--device \"/etc/passwd\"",
        "--security-opt \"selinux=off\"",
        "6 MiB",
        "--cpus \"many\"",
        "--privileged: it is incompatible with a user namespace",
        "--uts=host",
    ] {
        assert!(text.contains(part) || part == "8 conflicts", "{part}: {text}");
    }
    for security in ["seccomp=/nowhere.json", "label=type:container_t"] {
        assert!(Docker::new(image.path()).security_opt(security).build().is_err(), "{security}");
    }
}

#[test]
fn a_device_is_seen_at_its_place() {
    let image = image!();
    let docker = Docker::new(image.path()).device("/dev/full:/dev/labdev");
    assert_eq!(says(&docker, "ls -l /dev/labdev | busybox awk '{print $5, $6}'"), "1, 7\n");
    assert_eq!(says(&docker, "(echo x > /dev/labdev) 2>&1 | grep -o 'No space left'"), "No space left\n");
}

#[test]
fn a_profile_of_ones_own_and_none() {
    let image = image!();
    let file = image.path().join("profile.json");
    fs::write(&file, r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":1}]}"#).unwrap();
    let docker = Docker::new(image.path());
    assert_eq!(says(&docker, "mkdir /made && echo made"), "made\n");
    let own = docker.clone().security_opt(format!("seccomp={}", file.display()));
    assert_eq!(
        says(&own, "mkdir /made 2>&1; touch /file && echo touched"),
        "mkdir: can't create directory '/made': Operation not permitted\ntouched\n"
    );
    let unshare = "busybox unshare -U true 2>&1 && echo unshared || true";
    assert_eq!(says(&docker, unshare), "unshare: unshare(0x10000000): Operation not permitted\n");
    let none = docker.security_opt("seccomp=unconfined");
    assert_eq!(
        says(
            &none,
            "grep -o 'Seccomp:.*' /proc/self/status | tr '\\t' ' '; busybox unshare -U true && echo unshared"
        ),
        "Seccomp: 0\nunshared\n"
    );
}

/// Every capability, device and path, and still namespaces of its own.
#[test]
fn privileged_is_what_docker_means_by_it() {
    if !is_root() {
        skip!("the host's users need privileges", needs = "root");
    }
    let image = image!();
    let docker = Docker::new(image.path()).privileged(true).dangerously_use_host_users();
    let own =
        CapabilitySet::from_bits(palisade::creds::ThreadCapabilities::current().unwrap().bounding.bits());
    let child = running(&docker);
    assert_eq!(masks(&child), [0, own.bits(), own.bits(), own.bits(), 0]);
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    assert!(status.contains("Seccomp:\t0\n"), "{status}");
    drop(child);
    let walk = "busybox find /dev '(' -type c -o -type b ')' ! -path '/dev/pts/*' | busybox wc -l";
    let inside: usize = says(&docker, walk).trim().parse().unwrap();
    let mut host = Vec::new();
    fn nodes(dir: &Path, into: &mut Vec<String>) {
        use std::os::unix::fs::FileTypeExt;
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let (kind, name) = (entry.file_type().unwrap(), entry.file_name().to_string_lossy().into_owned());
            if kind.is_dir() && !["pts", "shm", "mqueue"].contains(&name.as_str()) {
                nodes(&entry.path(), into);
            } else if (kind.is_char_device() || kind.is_block_device()) && name != "console" && name != "ptmx"
            {
                into.push(name);
            }
        }
    }
    nodes("/dev".as_ref(), &mut host);
    assert_eq!(inside, host.len(), "{host:?}");
    // A parameter of its own network: writable, where it is read-only otherwise.
    let write = "(echo 1 > /proc/sys/net/ipv4/ip_forward) 2>/dev/null && echo written || echo no";
    assert_eq!(says(&docker, write), "written\n");
    assert_eq!(says(&Docker::new(image.path()).dangerously_use_host_users(), write), "no\n");
    let own = |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string();
    for kind in ["net", "pid", "mnt", "uts", "ipc"] {
        assert_ne!(says(&docker, &format!("readlink /proc/self/ns/{kind}")).trim(), own(kind));
    }
}

/// What was asked for is not dropped for what else was asked for.
#[test]
fn options_that_restrict_win() {
    let image = image!();
    let held =
        Docker::new(image.path()).allow_privilege_escalation_if_possible().security_opt("no-new-privileges");
    assert_eq!(says(&held, "grep NoNewPrivs /proc/self/status"), "NoNewPrivs:\t1\n");
    let labelled = Docker::new(image.path()).privileged(true).security_opt("apparmor=some-profile");
    let error = labelled.build().unwrap_err().to_string();
    assert!(error.contains("takes no label"), "{error}");
}
