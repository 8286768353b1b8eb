//! Processes held by descriptor, against the real kernel.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use crate::common::{Reaped, again, inside, is_root, root, skip};
use crate::sys::pidfd_open;
use palisade_procinfo::{
    DescriptorKind, ErrorKind, NamespaceKind, ProcRoot, Resource, SeccompMode, Setgroups, State,
};

#[test]
fn own_status_is_what_the_system_calls_say() {
    let me = root().myself().unwrap();
    assert_eq!(me.pid(), std::process::id());
    let s = me.status().unwrap();
    let nix_groups: Vec<u32> = nix_ids("-G");
    assert_eq!([s.uid.real], nix_ids("-ru")[..]);
    assert_eq!([s.uid.effective], nix_ids("-u")[..]);
    assert_eq!([s.gid.effective], nix_ids("-g")[..]);
    for g in &s.groups {
        assert!(nix_groups.contains(g), "{g} not in {nix_groups:?}");
    }
    assert_eq!(s.pid, std::process::id());
    assert_eq!(s.ns_pid.first(), Some(&s.pid));
    assert!(s.threads >= 2, "the test harness has threads");
    assert!(s.vm_rss.unwrap() > 100 * 1024 && s.vm_rss <= s.vm_hwm);
    assert!(matches!(s.state, State::Sleeping | State::Running));
    assert!(!s.is_kernel_thread());
}

/// What `id` says: it inherits the ids of this process.
fn nix_ids(option: &str) -> Vec<u32> {
    let args: Vec<&str> = if option == "-ru" { vec!["-r", "-u"] } else { vec![option] };
    let out = Command::new("id").args(args).output().expect("id");
    String::from_utf8_lossy(&out.stdout).split_whitespace().map(|n| n.parse().expect("a number")).collect()
}

#[test]
fn a_reaped_process_is_gone_and_a_zombie_is_not() {
    let mut child = Reaped::sleep();
    let held = root().process(child.pid()).unwrap();
    assert!(held.exists());
    child.0.kill().unwrap();
    while held.status().unwrap().state != State::Zombie {
        std::thread::yield_now();
    }
    assert!(held.exists());
    // Of a zombie there is no memory, no program, no mounts, no namespaces; that is a value and not a panic.
    for kind in [
        held.exe().unwrap_err().kind(),
        held.cwd().unwrap_err().kind(),
        held.mountinfo().unwrap_err().kind(),
        held.namespace(NamespaceKind::Mnt).unwrap_err().kind(),
    ] {
        assert_eq!(kind, ErrorKind::Absent);
    }
    assert_eq!(held.status().unwrap().vm_rss, None);
    child.0.wait().unwrap();
    assert!(!held.exists());
    for kind in [
        held.status().unwrap_err().kind(),
        held.limits().unwrap_err().kind(),
        held.exe().unwrap_err().kind(),
        held.descriptors().unwrap_err().kind(),
        held.namespace(NamespaceKind::Net).unwrap_err().kind(),
        held.mountinfo().unwrap_err().kind(),
    ] {
        assert_eq!(kind, ErrorKind::Gone);
    }
    let all = held.confinement();
    assert_eq!(all.limits.unwrap_err().kind(), ErrorKind::Gone);
}

#[test]
fn a_pid_used_again_is_another_process() {
    let test = "process::a_pid_used_again_is_another_process";
    if !inside(test) {
        again(test, &["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]);
        return;
    }
    let mut first = Reaped::sleep();
    let pid = first.pid();
    let held = root().process(pid).unwrap();
    let pidfd = pidfd_open(pid);
    assert_eq!(root().process_of_pidfd(&pidfd).unwrap().pid(), pid);
    first.end();
    let second = loop {
        std::fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
        let next = Reaped::spawn(Command::new("cat").stdin(Stdio::piped()));
        if next.pid() == pid {
            break next;
        }
    };
    assert_eq!(second.pid(), pid);
    assert_eq!(held.status().unwrap_err().kind(), ErrorKind::Gone);
    assert_eq!(held.exe().unwrap_err().kind(), ErrorKind::Gone);
    assert_eq!(root().process_of_pidfd(&pidfd).unwrap_err().kind(), ErrorKind::Gone);
    assert_eq!(root().process(pid).unwrap().status().unwrap().pid, pid);
}

#[test]
fn no_process_has_pid_zero_and_a_file_is_no_pidfd() {
    assert_eq!(root().process(0).unwrap_err().kind(), ErrorKind::Gone);
    let file = File::open("/dev/null").unwrap();
    assert_eq!(root().process_of_pidfd(&file).unwrap_err().kind(), ErrorKind::Malformed);
}

#[test]
fn a_directory_is_not_taken_for_proc() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(ProcRoot::open(dir.path()).unwrap_err().kind(), ErrorKind::NotProc);
    assert_eq!(ProcRoot::open(dir.path().join("missing")).unwrap_err().errno(), Some(libc::ENOENT));
    assert_eq!(ProcRoot::from_fd(File::open("/").unwrap().into()).unwrap_err().kind(), ErrorKind::NotProc);
    ProcRoot::from_fd(File::open("/proc").unwrap().into()).unwrap().myself().unwrap();
}

#[test]
fn namespaces_are_the_files_behind_the_links() {
    let mine = root().myself().unwrap().namespaces();
    for (kind, id) in mine.iter() {
        let meta = std::fs::metadata(format!("/proc/self/ns/{kind}")).unwrap();
        let id = id.unwrap();
        assert_eq!((id.device, id.inode), (meta.dev(), meta.ino()), "{kind}");
        assert_eq!(kind.name().parse::<NamespaceKind>().unwrap(), kind);
    }
    let child = Reaped::sleep();
    let of_child = root().process(child.pid()).unwrap().namespaces();
    assert_eq!(mine.differing(&of_child), (vec![], vec![]));
    let handle = root().myself().unwrap().open_namespace(NamespaceKind::Net).unwrap();
    assert_eq!(File::from(handle).metadata().unwrap().ino(), mine.get(NamespaceKind::Net).unwrap().inode);
}

#[test]
fn a_confined_child_is_read_back_as_it_is() {
    // A child in a user, mount, uts and net namespace of its own, with limits, without new privileges.
    let wrapper = ["unshare", "--user", "--map-root-user", "--mount", "--uts", "--net"];
    if !Command::new(wrapper[0]).args(&wrapper[1..]).arg("true").status().is_ok_and(|s| s.success()) {
        return skip("userns", "no user namespaces here");
    }
    let script = "ulimit -n 77; umask 027; mount -t tmpfs 'a b' /tmp && mkdir '/tmp/x y' && \
                  mount -t tmpfs '' '/tmp/x y' && cd '/tmp/x y' && echo ready && exec setpriv --no-new-privs sleep 600";
    let mut child = Reaped::spawn(
        Command::new(wrapper[0])
            .args(&wrapper[1..])
            .args(["sh", "-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped()),
    );
    let mut ready = [0; 6];
    child.0.stdout.take().unwrap().read_exact(&mut ready).unwrap();
    let held = root().process(child.pid()).unwrap();
    while held.status().unwrap().name != "sleep" {
        std::thread::yield_now();
    }
    let mine = root().myself().unwrap().namespaces();
    let has = held.confinement();
    let status = has.status.unwrap();
    assert!(status.no_new_privs);
    assert_eq!(status.umask, Some(0o027));
    assert!(matches!(status.seccomp, Some(SeccompMode::Disabled | SeccompMode::Filter)));
    let (differing, unknown) = mine.differing(&has.namespaces);
    use NamespaceKind::{Mnt, Net, User, Uts};
    assert_eq!((differing, unknown), (vec![Mnt, Net, User, Uts], vec![]));
    assert_eq!(has.limits.unwrap().get(Resource::OpenFiles).unwrap().soft, Some(77));
    let own = root().myself().unwrap().status().unwrap().uid.effective;
    assert_eq!(has.uid_map.unwrap().to_outside(0), Some(own));
    assert_eq!(has.setgroups.unwrap(), Setgroups::Deny);
    let mounts = has.mounts.unwrap();
    assert_eq!(mounts.at("/tmp").unwrap().source, "a b");
    let inner = mounts.at("/tmp/x y").unwrap();
    assert_eq!((inner.fs_type.to_str(), inner.propagation.is_private()), (Some("tmpfs"), true));
    assert_eq!(mounts.by_id(inner.parent).unwrap().mount_point.to_str(), Some("/tmp"));
    assert_eq!(has.cwd.unwrap().to_str(), Some("/tmp/x y"));
    let descriptors = has.descriptors.unwrap();
    assert_eq!(descriptors[0].target, "/dev/null");
    assert!(matches!(descriptors[1].kind, DescriptorKind::Pipe { .. }));
    for d in &descriptors {
        assert!(!d.info.as_ref().unwrap().close_on_exec(), "{d:?} went through an exec");
    }
}

#[test]
fn descriptors_have_kinds_targets_and_flags() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a (deleted)");
    let mut file = File::create(&path).unwrap();
    file.write_all(b"12345").unwrap();
    let removed = File::create(dir.path().join("b")).unwrap();
    std::fs::remove_file(dir.path().join("b")).unwrap();
    let folder = File::open(dir.path()).unwrap();
    let null = File::open("/dev/null").unwrap();
    let (reader, _writer) = nix::unistd::pipe().unwrap();
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let ns = File::open("/proc/self/ns/uts").unwrap();
    let pidfd = pidfd_open(std::process::id());
    let all = root().myself().unwrap().descriptors().unwrap();
    let of = |fd: i32| all.iter().find(|d| i32::try_from(d.number) == Ok(fd)).unwrap();

    let d = of(file.as_raw_fd());
    assert_eq!((&d.kind, d.target.as_os_str()), (&DescriptorKind::File, path.as_os_str()));
    let info = d.info.as_ref().unwrap();
    assert_eq!(info.position, 5);
    assert!(info.close_on_exec() && info.is_writable() && !info.is_path());
    assert_eq!(d.file.as_ref().unwrap().links, 1, "a name that ends in (deleted) is not a deleted file");
    assert_eq!(d.file.as_ref().unwrap().inode, file.metadata().unwrap().ino());
    let mounts = root().myself().unwrap().mountinfo().unwrap();
    assert!(mounts.by_id(info.mount_id.unwrap()).is_some());

    assert_eq!(of(removed.as_raw_fd()).file.as_ref().unwrap().links, 0);
    assert_eq!(of(folder.as_raw_fd()).kind, DescriptorKind::Directory);
    assert!(!of(folder.as_raw_fd()).info.as_ref().unwrap().is_writable());
    match of(null.as_raw_fd()).kind {
        DescriptorKind::CharDevice(d) => assert_eq!(d.to_string(), "1:3"),
        ref other => panic!("{other:?}"),
    }
    assert!(matches!(of(reader.as_raw_fd()).kind, DescriptorKind::Pipe { inode } if inode > 0));
    assert!(matches!(of(socket.as_raw_fd()).kind, DescriptorKind::Socket { inode } if inode > 0));
    assert_eq!(of(ns.as_raw_fd()).kind, DescriptorKind::Namespace(NamespaceKind::Uts));
    assert_eq!(of(pidfd.as_raw_fd()).kind, DescriptorKind::PidFd);
    let pid = of(pidfd.as_raw_fd()).info.as_ref().unwrap().extra("Pid").unwrap().to_owned();
    assert_eq!(pid, *std::process::id().to_string());
    assert!(all.windows(2).all(|w| w[0].number < w[1].number));
}

#[test]
fn what_an_ordinary_user_may_not_read_is_denied_part_by_part() {
    let test = "process::what_an_ordinary_user_may_not_read_is_denied_part_by_part";
    if inside(test) {
        // The parent is a process of root; pid 1 may be hidden or belong to this user too.
        let parent = root().myself().unwrap().status().unwrap().ppid;
        let has = root().process(parent).unwrap().confinement();
        assert_eq!(has.status.unwrap().uid.effective, 0);
        assert!(has.limits.is_ok() && has.mounts.is_ok());
        assert!(has.namespaces.iter().all(|(_, id)| id.unwrap_err().kind() == ErrorKind::Denied));
        assert_eq!(has.descriptors.unwrap_err().kind(), ErrorKind::Denied);
        let exe = has.exe.unwrap_err();
        assert_eq!((exe.kind(), exe.errno()), (ErrorKind::Denied, Some(libc::EACCES)));
        assert!(exe.to_string().contains(&format!("process {parent}: exe")), "{exe}");
        return;
    }
    if !is_root() {
        return skip("root", "needs root to become an ordinary user");
    }
    again(test, &["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]);
}

#[test]
fn a_mount_over_a_process_file_is_noticed() {
    let test = "process::a_mount_over_a_process_file_is_noticed";
    if !inside(test) {
        again(test, &["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc"]);
        return;
    }
    let lie = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&lie, "Name:\tlie\nSeccomp:\t2\n").unwrap();
    let child = Reaped::sleep();
    let target = format!("/proc/{}/limits", child.pid());
    let bound = Command::new("mount").arg("--bind").arg(lie.path()).arg(&target).status().unwrap();
    if !bound.success() {
        return skip("procbind", "the kernel refuses mounts over /proc/PID (Linux 6.12 and later)");
    }
    let held = root().process(child.pid()).unwrap();
    assert_eq!(held.limits().unwrap_err().kind(), ErrorKind::Overmounted);
    assert!(held.status().is_ok());
}

#[test]
fn a_kernel_thread_has_no_program_and_no_memory() {
    let Ok(kthreadd) = root().process(2) else { return skip("hostpid", "pid 2 is not visible") };
    let s = kthreadd.status().unwrap();
    if s.name != "kthreadd" {
        return skip("hostpid", "pid 2 is not kthreadd: a pid namespace");
    }
    assert!(s.is_kernel_thread());
    let exe = kthreadd.exe().unwrap_err().kind();
    assert!(matches!(exe, ErrorKind::Absent | ErrorKind::Denied), "{exe:?}");
}
