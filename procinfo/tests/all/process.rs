//! Processes held by descriptor, against the real kernel.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use palisade_testkit::{is_root, skip};

use crate::common::{Reaped, again, inside, root};
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
        skip!("no user namespaces here", needs = "userns");
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
    let shown = has.to_string();
    assert!(shown.contains("no_new_privs true, seccomp ") && shown.contains("\nuser:["), "{shown}");
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
        skip!("needs root to become an ordinary user", needs = "root");
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
        skip!("the kernel refuses a mount over this file");
    }
    let held = root().process(child.pid()).unwrap();
    assert_eq!(held.limits().unwrap_err().kind(), ErrorKind::Overmounted);
    assert!(held.status().is_ok());
}

#[test]
fn a_kernel_thread_has_no_program_and_no_memory() {
    let Ok(kthreadd) = root().process(2) else { skip!("pid 2 is not visible") };
    let s = kthreadd.status().unwrap();
    if s.name != "kthreadd" {
        skip!("pid 2 is not kthreadd: a pid namespace");
    }
    assert!(s.is_kernel_thread());
    let exe = kthreadd.exe().unwrap_err().kind();
    assert!(matches!(exe, ErrorKind::Absent | ErrorKind::Denied), "{exe:?}");
}

/// The table of `/proc/PID` of the study (lab 7): a child named `a) b` with known environment, directory and file.
#[test]
fn every_file_of_a_child_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("a) b\n");
    std::fs::copy(std::fs::canonicalize("/bin/sh").unwrap(), &program).unwrap();
    let cwd = dir.path().join("its cwd");
    std::fs::create_dir(&cwd).unwrap();
    let mut child = Reaped::spawn(
        Command::new(&program)
            .args(["-c", "exec 3<&0 7>out; cat <&3 & echo $!; read x", "x y", ""])
            .env_clear()
            .envs([("PATH", "/usr/bin:/bin"), ("K", "v=1\n2")])
            .current_dir(&cwd)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null()),
    );
    let mut line = [0; 32];
    let n = child.0.stdout.as_mut().unwrap().read(&mut line).unwrap();
    let p = root().process(child.pid()).unwrap();
    assert_eq!(p.comm().unwrap(), "a) b\n");
    assert_eq!(p.stat().unwrap().comm, "a) b\n");
    assert_eq!(p.status().unwrap().name, "a) b\n");
    assert_eq!(p.exe().unwrap(), program);
    assert_eq!(p.cwd().unwrap(), cwd);
    assert_eq!(p.root().unwrap().to_str(), Some("/"));
    assert_eq!(p.root_identity().unwrap().inode, std::fs::metadata("/").unwrap().ino());
    let arguments = p.cmdline().unwrap().arguments;
    assert_eq!(arguments[0], *program);
    assert_eq!(arguments[3..], ["x y", ""]);
    assert_eq!(p.environ().unwrap().get("K").unwrap(), "v=1\n2");
    let seven = p.descriptors().unwrap().into_iter().find(|d| d.number == 7).unwrap();
    assert_eq!((seven.kind, seven.target), (DescriptorKind::File, cwd.join("out").into_os_string()));
    let (stat, statm) = (p.stat().unwrap(), p.statm().unwrap());
    assert_eq!(stat.virtual_size, statm.size * palisade_procinfo::page_size());
    assert_eq!(stat.ppid, std::process::id());
    let maps = p.maps().unwrap();
    assert!(maps.mappings.iter().any(|m| m.name == "[stack]" && m.address.contains(&stat.start_stack)));
    assert!(maps.mappings.iter().any(|m| m.name == program && m.permissions.execute));
    let rollup = p.smaps_rollup().unwrap();
    assert!(rollup.rss > 0 && rollup.pss <= rollup.rss);
    assert!(p.io().unwrap().syscr > 0);
    assert!(p.oom_score().unwrap() <= 2000);
    assert_eq!(p.oom_score_adj().unwrap(), root().myself().unwrap().oom_score_adj().unwrap());
    assert_eq!(p.personality().unwrap(), root().myself().unwrap().personality().unwrap());
    assert_eq!(p.timens_offsets().unwrap(), root().myself().unwrap().timens_offsets().unwrap());
    assert!(p.mounts().unwrap().entries.iter().any(|m| m.fs_type == "proc"));
    assert_eq!(p.threads().unwrap(), [child.pid()]);
    assert_eq!(p.thread(child.pid()).unwrap().status().unwrap().pid, child.pid());
    assert_eq!(p.thread(1).unwrap_err().kind(), ErrorKind::Absent);
    match p.children() {
        Ok(children) => {
            assert_eq!(children.len(), 1);
            assert_eq!(children[0].to_string(), String::from_utf8_lossy(&line[..n]).trim());
        }
        Err(e) => assert_eq!(e.kind(), ErrorKind::Absent, "a kernel without CONFIG_PROC_CHILDREN"),
    }
    assert!(matches!(p.wchan(), Ok(Some(_) | None)));
    match p.attr("current") {
        Ok(label) => assert!(!label.is_empty()),
        Err(e) => assert_eq!(e.kind(), ErrorKind::Absent, "{e}"),
    }
    assert_eq!(p.attr("../status").unwrap_err().kind(), ErrorKind::Malformed);
    let other = p.try_clone().unwrap();
    drop(p);
    assert_eq!(other.status().unwrap().pid, child.pid());
}

/// The table of `/proc` of the study (lab 6).
#[test]
fn every_file_of_the_system_is_read() {
    let root = root();
    let memory = root.meminfo().unwrap();
    assert!(memory.available <= memory.total && memory.used() <= memory.total);
    let load = root.loadavg().unwrap();
    assert!(load.total >= 1);
    let before = root.uptime().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(30));
    assert!(root.uptime().unwrap().up > before.up);
    let uname = String::from_utf8(Command::new("uname").arg("-r").output().unwrap().stdout).unwrap();
    assert_eq!(root.version().unwrap().to_string(), uname.trim());
    assert!(!root.filesystems().unwrap().get("proc").unwrap().needs_device);
    let cpus = root.cpuinfo().unwrap().cpus.len();
    assert_eq!(root.stat().unwrap().cpus.len(), cpus);
    root.partitions().unwrap();
    assert!(!root.mounts().unwrap().entries.is_empty());
    match root.pressure(palisade_procinfo::PressureOf::Memory) {
        Ok(p) => assert!(p.some.unwrap().avg10 <= 100.0),
        Err(e) => assert_eq!(e.kind(), ErrorKind::Absent, "{e}"),
    }
}

#[test]
fn descriptor_numbers_and_their_flags() {
    let file = File::open("/dev/null").expect("there");
    let me = ProcRoot::host().expect("mounted").myself().expect("there");
    let number = file.as_raw_fd() as u32;
    let numbers = me.descriptor_numbers().expect("own");
    assert!(numbers.contains(&number) && numbers.is_sorted(), "{numbers:?}");
    assert_ne!(me.fdinfo(number).expect("open").flags & libc::O_CLOEXEC as u32, 0);
    assert_eq!(me.fdinfo(999_999).expect_err("none").kind(), ErrorKind::Absent);
}
