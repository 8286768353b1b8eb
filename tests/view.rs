//! The secure default, seen from inside.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::os::unix::fs::PermissionsExt;

use palisade::creds::{Capability, CapabilitySet, IdMap, IdRange, Maps};
use palisade::ns::Namespace;
use palisade::{Command, ErrorKind, Sandbox, Step};
use palisade_testkit::{is_root, skip, temp_dir};

#[path = "common/sys.rs"]
mod common;

fn sh(sandbox: &Sandbox, script: &str) -> Command {
    let mut command = sandbox.command("/bin/sh");
    command.arg("-c").arg(script);
    command
}

fn says(sandbox: &Sandbox, script: &str) -> String {
    let out = sh(sandbox, script).output().unwrap();
    assert!(out.status.success(), "{script}: {}: {}", out.status, String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn default() -> Sandbox {
    Sandbox::new().unwrap()
}

#[test]
fn nothing_of_the_host_is_there_but_its_programs() {
    let sandbox = default();
    let mut root: Vec<String> = says(&sandbox, "ls -1 /").lines().map(str::to_owned).collect();
    root.retain(|name| {
        !["bin", "lib", "lib32", "lib64", "libx32", "sbin", "nix", "gnu"].contains(&name.as_str())
    });
    assert_eq!(root, ["dev", "etc", "proc", "tmp", "usr"]);
    for path in ["/etc/shadow", "/root", "/home", "/var", "/run", "/sys", "/etc/hostname", "/boot"] {
        assert_eq!(says(&sandbox, &format!("test -e {path} || echo absent")), "absent\n", "{path}");
    }
    assert_eq!(says(&sandbox, "ls -A /tmp /dev/shm | tr -d '\\n'"), "/dev/shm:/tmp:");
}

/// A21: nowhere in the host's trees can anything be written, submounts included.
#[test]
fn the_hosts_trees_are_read_only() {
    let sandbox = default();
    let script = "for d in / /usr /usr/bin /etc /etc/ssl /dev /proc/sys/kernel; do
        (: >$d/.probe) 2>/dev/null && echo $d; done; true";
    assert_eq!(says(&sandbox, script), "");
    let options = says(
        &sandbox,
        "while read -r id parent dev root at opts rest; do echo $at $opts; done </proc/self/mountinfo",
    );
    for line in options.lines() {
        let (at, options) = line.split_once(' ').unwrap();
        let has = |option| options.split(',').any(|o| o == option);
        assert!(has("nosuid"), "{line}");
        let writable = ["/tmp", "/dev/shm", "/dev/pts", "/proc"].contains(&at);
        assert!(has("ro") || writable, "{line}");
        let devices = at.starts_with("/dev/") || at.starts_with("/proc/");
        assert!(has("nodev") || devices, "{line}");
    }
}

/// A84.
#[test]
fn dev_is_the_declared_list() {
    let listed = says(&default(), "cd /dev; echo *");
    assert_eq!(
        listed.trim(),
        "console fd full null ptmx pts random shm stderr stdin stdout tty urandom zero"
    );
}

/// A83, A92: the payload is alone.
#[test]
fn no_other_process_is_in_sight_or_reach() {
    let sandbox = default();
    assert_eq!(says(&sandbox, "cd /proc; echo [0-9]*"), "1\n");
    assert_eq!(says(&sandbox, "kill -9 -1 2>/dev/null; echo alive"), "alive\n");
}

#[test]
fn no_privilege_is_left() {
    let status = says(&default(), "cat /proc/self/status");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
        line.unwrap().to_owned()
    };
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!((field("NoNewPrivs").as_str(), field("Seccomp").as_str()), ("1", "2"));
    let uid = if is_root() { 65534 } else { nix::unistd::getuid().as_raw() };
    assert_eq!(field("Uid"), [uid; 4].map(|id| id.to_string()).join("\t"));
    if is_root() {
        assert_eq!(field("Groups").trim(), "");
    }
}

/// A70: the session keyring of the host program is not the payload's, with the filter out of the way as well.
#[test]
fn no_key_of_the_host_is_readable() {
    assert_eq!(says(&default(), "cat /proc/keys 2>&1; true"), "", "masked");
    if !std::path::Path::new("/usr/bin/python3").exists() {
        skip!("python3 is not in the host's /usr", needs = "tool");
    }
    palisade_testkit::in_child(|| {
        let Some(key) = common::plant_key() else { return }; // keyctl is filtered here: no key can be had at all
        // KEYCTL_READ, as the payload and as an ordinary child of the host program.
        let script = format!("import ctypes; print(ctypes.CDLL(None).syscall(250, 11, {key}, None, 0))");
        let plain = std::process::Command::new("python3").args(["-c", &script]).output().unwrap();
        assert_ne!(plain.stdout, b"-1\n", "the key is there to be read");
        let sandbox = Sandbox::builder().dangerously_unfiltered().build().unwrap();
        let out = sandbox.command("python3").args(["-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout), "-1\n");
    });
}

/// A88: the network is loopback, and that is up.
#[test]
fn the_network_is_loopback() {
    let sandbox = default();
    let interfaces = says(&sandbox, "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' \\n'");
    assert_eq!(interfaces, "lo");
    let up = says(&sandbox, "cat /proc/net/fib_trie | grep -c 127.0.0.1");
    assert_ne!(up, "0\n");
}

/// A30: every file system in memory has its limits.
#[test]
fn memory_file_systems_are_limited() {
    let sandbox = default();
    for dir in ["/tmp", "/dev/shm"] {
        let script = format!("head -c 200000000 /dev/zero >{dir}/big 2>/dev/null; stat -c %s {dir}/big");
        let size: u64 = says(&sandbox, &script).trim().parse().unwrap();
        assert!(size <= 64 << 20, "{dir}: {size}");
    }
    // A redirection that fails ends a shell: another one counts how far it came.
    let fill = "cd /tmp; (i=0; while [ $i -lt 20000 ]; do : >$i; i=$((i+1)); done) 2>/dev/null; ls | wc -l";
    let many = says(&sandbox, fill);
    assert!((1000..20_000).contains(&many.trim().parse().unwrap()), "{many}");
}

#[test]
fn the_default_filter_refuses_and_ordinary_programs_run() {
    let sandbox = default();
    for script in
        ["unshare -U true", "unshare -m true", "mount -t tmpfs none /tmp", "chroot / true", "strace true"]
    {
        assert!(!sh(&sandbox, script).output().unwrap().status.success(), "{script}");
    }
    for (program, script) in [
        ("python3", "python3 -c 'import threading as t; x=t.Thread(target=print); x.start(); x.join()'"),
        ("perl", "perl -e 'print 1+1'"),
        ("git", "git --version"),
    ] {
        if says(&sandbox, &format!("command -v {program} || echo none")) != "none\n" {
            says(&sandbox, script);
        }
    }
}

/// A26: a set-user-ID program gains nothing, though it would outside.
#[test]
fn setuid_programs_gain_nothing() {
    use std::os::unix::process::CommandExt;
    if !is_root() {
        skip!("only root can make a set-user-ID program of root's", needs = "root");
    }
    let dir = temp_dir();
    let program = dir.path().join("id");
    std::fs::copy("/usr/bin/id", &program).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o4755)).unwrap();
    let plain = std::process::Command::new(&program).arg("-u").uid(61_235).gid(61_235).output().unwrap();
    assert_eq!(plain.stdout, b"0\n", "it does make root of anybody");
    let sandbox = Sandbox::builder().bind_ro(dir.path(), "/data").build().unwrap();
    assert_eq!(says(&sandbox, "/data/id -u"), "65534\n");
}

#[test]
fn capabilities_that_were_asked_for_are_held() {
    let wanted = CapabilitySet::EMPTY.with(Capability::NetBindService).with(Capability::Chown);
    let sandbox = Sandbox::builder().capabilities(wanted).build().unwrap();
    let status = says(&sandbox, "grep Cap /proc/self/status");
    let expected = format!("{:016x}", wanted.bits());
    for set in ["CapPrm", "CapEff", "CapBnd", "CapAmb", "CapInh"] {
        assert!(status.contains(&format!("{set}:\t{expected}")), "{status}");
    }
    // As user 0 inside they come from that, and nothing need be inheritable.
    let sandbox = Sandbox::builder().user(0, 0).capabilities(wanted).build().unwrap();
    let status = says(&sandbox, "id -u; grep Cap /proc/self/status");
    assert!(status.starts_with("0\n") && status.contains(&format!("CapEff:\t{expected}")), "{status}");
    assert!(
        status.contains(&format!("CapBnd:\t{expected}")) && status.contains("CapAmb:\t0000000000000000"),
        "{status}"
    );
}

#[test]
fn each_namespace_is_new_or_shared_as_said() {
    let own = |kind: &str| std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string();
    let kinds = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"];
    let script = "for k in user mnt pid net ipc uts cgroup; do readlink /proc/self/ns/$k; done";
    let inside = says(&default(), script);
    for (kind, link) in kinds.iter().zip(inside.lines()) {
        assert_ne!(own(kind), link, "{kind}");
    }
    for (shared, name) in [
        (Namespace::Net, "net"),
        (Namespace::Ipc, "ipc"),
        (Namespace::Uts, "uts"),
        (Namespace::Cgroup, "cgroup"),
    ] {
        let inside = says(&Sandbox::builder().share(shared).build().unwrap(), script);
        for (kind, link) in kinds.iter().zip(inside.lines()) {
            assert_eq!(own(kind) == link, *kind == name, "{name} shared: {kind}");
        }
    }
}

#[test]
fn binds_show_what_they_should_and_change_only_what_they_may() {
    let dir = temp_dir();
    let inside = dir.path().join("data");
    std::fs::create_dir(&inside).unwrap();
    std::fs::write(inside.join("file"), "old").unwrap();
    let sandbox = Sandbox::builder().bind(&inside, "/data").bind_ro(&inside, "/fixed").build().unwrap();
    says(&sandbox, "echo new >/data/file; echo made >/data/made; mkdir /data/sub");
    assert_eq!(std::fs::read_to_string(inside.join("file")).unwrap(), "new\n");
    // What it made belongs to the owner of the source, who is we.
    use std::os::unix::fs::MetadataExt;
    assert_eq!(std::fs::metadata(inside.join("made")).unwrap().uid(), nix::unistd::getuid().as_raw());
    let out = sh(&sandbox, "echo no >/fixed/file").output().unwrap();
    assert!(!out.status.success() && String::from_utf8_lossy(&out.stderr).contains("Read-only file system"));
    let error = Sandbox::builder().bind("/no/such/source", "/data").build().unwrap_err();
    assert!(error.to_string().contains("/no/such/source"), "{error}");
}

/// What a payload makes in a writable bind stays on the host: no program there may lend its owner's rights.
#[test]
fn no_set_id_program_can_be_left_on_the_host() {
    let dir = temp_dir();
    let sandbox = Sandbox::builder().bind(dir.path(), "/data").build().unwrap();
    let script = "cp /bin/true /data/x; chmod 755 /data/x; chmod 6755 /data/x 2>/dev/null && echo chmod;
        install -m 4755 /bin/true /data/y 2>/dev/null && echo install;
        perl -e 'umask 0; sysopen(F, \"/data/z\", 0x41, 06777) and print \"open\\n\"' 2>/dev/null; true";
    assert_eq!(says(&sandbox, script), "");
    for entry in std::fs::read_dir(dir.path()).unwrap().flatten() {
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o6000, 0, "{:?}", entry.path());
    }
    assert!(dir.path().join("x").exists());
    if is_root() {
        let error =
            Sandbox::builder().bind(dir.path(), "/data").dangerously_unfiltered().build().unwrap_err();
        assert!(error.to_string().contains("set-user-ID"), "{error}");
    }
}

/// A20, A31: a source that is swapped between `build` and `spawn` is an error.
#[test]
fn a_source_that_changed_its_identity_is_refused() {
    let dir = temp_dir();
    let path = dir.path().join("source");
    std::fs::create_dir(&path).unwrap();
    let sandbox = Sandbox::builder().bind_ro(&path, "/data").build().unwrap();
    says(&sandbox, "ls /data");
    std::fs::rename(&path, dir.path().join("moved")).unwrap();
    std::os::unix::fs::symlink("/etc", &path).unwrap();
    let error = sandbox.command("/bin/true").spawn().unwrap_err();
    assert!(matches!(error.step(), Step::Mounts | Step::Sources), "{error}");
    assert!(
        error.object().is_some_and(|object| object.contains("source") || object.contains("data")),
        "{error}"
    );
}

#[test]
fn an_own_root_file_system_works() {
    let busybox =
        ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| std::path::Path::new(path).exists());
    let Some(busybox) = busybox else { skip!("busybox-static is not installed", needs = "tool") };
    let dir = temp_dir();
    let root = dir.path();
    for sub in ["bin", "proc", "dev", "tmp", "etc"] {
        std::fs::create_dir(root.join(sub)).unwrap();
    }
    std::fs::copy(busybox, root.join("bin/busybox")).unwrap();
    std::fs::set_permissions(root.join("bin/busybox"), std::fs::Permissions::from_mode(0o755)).unwrap();
    for applet in ["sh", "ls", "id", "cat"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    let sandbox = Sandbox::builder().rootfs(root).build().unwrap();
    assert_eq!(says(&sandbox, "ls /"), "bin\ndev\netc\nproc\ntmp\n");
    assert_eq!(says(&sandbox, "echo $$; read -r name </proc/1/comm; echo $name"), "1\nsh\n");
    assert!(!sh(&sandbox, "echo x >/etc/new").output().unwrap().status.success(), "read-only");
    assert!(!root.join("etc/new").exists());
    // A mount point that is missing is an error that says which.
    std::fs::remove_dir(root.join("proc")).unwrap();
    let error = Sandbox::builder()
        .rootfs(root)
        .build()
        .and_then(|s| s.command("/bin/sh").spawn().map(drop))
        .unwrap_err();
    assert!(error.to_string().contains("/proc"), "{error}");
}

#[test]
fn a_range_of_ids_by_direct_write_or_by_the_helpers() {
    let maps = if is_root() {
        let range = |start| IdMap::new([IdRange::new(0, start, 1000).unwrap()]).unwrap();
        Maps::new(range(300_000), range(400_000))
    } else {
        match Maps::rootless() {
            Ok(maps) => maps,
            Err(error) => skip!("no ids are delegated to this user: {error}", needs = "idmap-range"),
        }
    };
    let caps = CapabilitySet::EMPTY.with(Capability::Setuid).with(Capability::Setgid).with(Capability::Chown);
    let sandbox = match Sandbox::builder().id_maps(maps).capabilities(caps).build() {
        Ok(sandbox) => sandbox,
        Err(error) if !is_root() => skip!("newuidmap: {error}", needs = "idmap-range"),
        Err(error) => panic!("{error}"),
    };
    let text = says(
        &sandbox,
        "id -u; id -g; cat /proc/self/uid_map; touch /tmp/f; chown 5:6 /tmp/f; stat -c %u:%g /tmp/f; cat /proc/self/setgroups",
    );
    assert!(text.starts_with("0\n0\n"), "{text}");
    assert!(text.ends_with("5:6\nallow\n"), "{text}");
    let sandbox = Sandbox::builder().id_maps(Maps::new(
        IdMap::single(palisade::creds::Uid::new(7).unwrap(), palisade::creds::Uid::new(300_000).unwrap()),
        IdMap::single(palisade::creds::Gid::new(7).unwrap(), palisade::creds::Gid::new(300_000).unwrap()),
    ));
    let error = sandbox.user(8, 8).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidSpec);
    assert!(error.to_string().contains("8:8 is not mapped"), "{error}");
}

/// A47: the host's root is not mapped by accident.
#[test]
fn mapping_the_hosts_root_takes_a_loud_word() {
    if !is_root() {
        skip!("only root can map root", needs = "root");
    }
    let error =
        Sandbox::builder().id_maps(Maps::new(IdMap::identity(), IdMap::identity())).build().unwrap_err();
    assert!(error.to_string().contains("dangerously_allow_host_root"), "{error}");
}

/// Root of a user namespace that maps one id alone (`unshare -r`) has no nobody to become, and no right over the mount
/// namespace it is in: it is in the place of an ordinary user.
#[test]
fn root_of_a_namespace_with_a_single_id_is_an_ordinary_user() {
    use palisade_testkit::in_child;
    in_child(|| {
        let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
        palisade::ns::unshare(Namespace::User).unwrap();
        std::fs::write("/proc/self/setgroups", "deny").unwrap();
        std::fs::write("/proc/self/gid_map", format!("0 {gid} 1")).unwrap();
        std::fs::write("/proc/self/uid_map", format!("0 {uid} 1")).unwrap();
        let out = default().command("/usr/bin/id").arg("-u").output().unwrap();
        assert_eq!((out.status.code(), out.stdout), (Some(0), b"0\n".to_vec()));
    });
}
