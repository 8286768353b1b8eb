//! Joining: order, several at once, refusals; shared sets; namespaces bound to paths.

use std::os::fd::AsFd as _;
use std::process::{Child, Command};

use palisade_ns::{
    AnyNs, ErrorKind, Hostname, Join, Namespace, Namespaces, Ns, Shared, Unshare, kind, pidfd_open,
    unpersist, unshare,
};
use palisade_testkit::{Snapshot, can_unshare_user, in_child, is_root, skip, temp_dir, wait_until};

use crate::sys;

struct Inside(Child);

impl Inside {
    fn new(unshare: &Unshare) -> Self {
        let mut command = Command::new("sleep");
        unshare.prepare().unwrap().pre_exec(command.arg("600"));
        Self(command.spawn().unwrap())
    }

    fn named(kinds: impl Into<Namespaces>) -> Self {
        Self::new(&Unshare::new(kinds).hostname("inside".parse().unwrap()))
    }

    fn namespaces(&self) -> Vec<AnyNs> {
        Namespace::ALL.into_iter().map(|kind| AnyNs::of_process(self.0.id(), kind).unwrap()).collect()
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// As root directly, as an ordinary user by a user namespace in which files can be made.
fn enter(kinds: Namespaces) {
    if !is_root() {
        sys::enter_mapped_user();
    }
    unshare(kinds).unwrap();
}

fn own() -> Vec<AnyNs> {
    Namespace::ALL.into_iter().map(|kind| AnyNs::current(kind).unwrap()).collect()
}

#[test]
fn all_of_a_process_by_one_call() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    let inside = Inside::named(Namespaces::ALL.without(Namespace::Pid));
    in_child(|| {
        let pidfd = pidfd_open(inside.0.id()).unwrap();
        let join = Join::new().process(pidfd, Namespaces::ALL).prepare().unwrap();
        assert_eq!(
            join.kinds(),
            Namespaces::ALL.without(Namespace::Pid),
            "the pid namespace is ours already"
        );
        assert!(join.is_atomic() && !join.needs_fork());
        assert_eq!(join.program(7).to_string().lines().filter(|l| l.contains("setns(7, ")).count(), 1);
        assert_eq!(join.descriptors().len(), 1);
        join.run().unwrap();
        assert_eq!(own(), inside.namespaces());
        assert_eq!(Hostname::current().unwrap().as_bytes(), b"inside");
    });
}

#[test]
fn single_handles_in_any_order_come_in_the_right_one() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    let inside = Inside::named(Namespaces::ALL.without(Namespace::Pid));
    let handles = inside.namespaces();
    for turn in 0..handles.len() {
        in_child(|| {
            let turned = handles[turn..].iter().chain(&handles[..turn]);
            let join = turned.fold(Join::new(), Join::namespace).prepare().unwrap();
            assert!(!join.is_atomic());
            let first = join.program(10).to_string();
            assert!(first.lines().nth(1).unwrap().contains("CLONE_NEWUSER"), "it owns the others:\n{first}");
            join.run().unwrap();
            assert_eq!(own(), handles);
        });
    }
}

/// A namespace that the user namespace does not own needs capabilities that joining that would cost.
#[test]
fn a_namespace_of_another_owner_is_joined_first() {
    if !is_root() {
        skip!("a namespace owned by the caller's user namespace needs root to be made", needs = "root");
    }
    let outer = Inside::named(Namespace::Uts);
    let inner = Inside::new(&Unshare::new(Namespace::User | Namespace::Net));
    in_child(|| {
        let uts = Ns::<kind::Uts>::of_process(outer.0.id()).unwrap();
        let user = Ns::<kind::User>::of_process(inner.0.id()).unwrap();
        let net = Ns::<kind::Net>::of_process(inner.0.id()).unwrap();
        let join = Join::new().namespace(&net).namespace(&user).namespace(&uts).prepare().unwrap();
        join.run().unwrap();
        assert_eq!(Ns::<kind::Uts>::current().unwrap(), uts);
        assert_eq!(Ns::<kind::User>::current().unwrap(), user);
        assert_eq!(Ns::<kind::Net>::current().unwrap(), net);
    });
    // The other order is what the kernel refuses.
    in_child(|| {
        Ns::<kind::User>::of_process(inner.0.id()).unwrap().join_in_thread().unwrap();
        let error =
            Ns::<kind::Uts>::of_process(outer.0.id()).and_then(|uts| uts.join_in_thread()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Permission, "{error}");
    });
}

#[test]
fn several_processes_make_one_set() {
    if !is_root() {
        skip!("namespaces of two sandboxes with one owner need root to be made", needs = "root");
    }
    let (a, b) = (Inside::named(Namespace::Uts), Inside::new(&Unshare::new(Namespace::Net | Namespace::Ipc)));
    in_child(|| {
        let join = Join::new()
            .process(pidfd_open(a.0.id()).unwrap(), Namespace::Uts.into())
            .process(pidfd_open(b.0.id()).unwrap(), Namespace::Net | Namespace::Ipc);
        let join = join.prepare().unwrap();
        assert_eq!((join.kinds().len(), join.is_atomic()), (3, false));
        join.run().unwrap();
        assert_eq!(AnyNs::current(Namespace::Uts).unwrap(), a.namespaces()[1]);
        assert_eq!(AnyNs::current(Namespace::Net).unwrap(), b.namespaces()[5]);
    });
    let twice = Join::new()
        .process(pidfd_open(a.0.id()).unwrap(), Namespace::Uts.into())
        .namespace(Ns::<kind::Uts>::of_process(b.0.id()).unwrap());
    let error = twice.prepare().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
}

#[test]
fn a_command_runs_in_anothers_pid_namespace() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    in_child(|| {
        unshare(Namespace::User | Namespace::Pid).unwrap();
        let init = Inside(Command::new("sleep").arg("600").spawn().unwrap());
        // Like a second program that has made nothing of its own: the command joins by the pidfd.
        let pidfd = pidfd_open(init.0.id()).unwrap();
        let join = Join::new().process(pidfd, Namespace::Pid.into()).prepare().unwrap();
        assert!(join.needs_fork());
        let mut command = Command::new("sh");
        // sh itself stays outside; what it starts is inside, beside pid 1.
        join.pre_exec(command.args(["-c", "cat /proc/self/status; true"]));
        let out = command.output().unwrap();
        let status = String::from_utf8(out.stdout).unwrap();
        let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap();
        let inside: u32 = ids.split_ascii_whitespace().last().unwrap().parse().unwrap();
        assert!(ids.split_ascii_whitespace().count() >= 2 && inside > 1, "{ids}");
    });
}

#[test]
fn a_pid_namespace_cannot_be_left_upwards() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    in_child(|| {
        let outer = Ns::<kind::Pid>::current().unwrap();
        unshare(Namespace::User | Namespace::Pid).unwrap();
        in_child(|| {
            assert_eq!(std::process::id(), 1);
            let error = outer.join_in_thread();
            // Without a /proc of its own, the caller's own namespaces cannot be told; with one, the kernel refuses.
            let error = error.unwrap_err();
            assert!(
                matches!(error.errno(), Some(libc::EINVAL | libc::EPERM)) || error.kind() == ErrorKind::Gone,
                "{error}"
            );
        });
    });
}

#[test]
fn several_threads_cannot_join_a_user_namespace() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    let inside = Inside::named(Namespace::User | Namespace::Uts);
    let before = own();
    std::thread::scope(|scope| {
        let (done, wait) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || wait.recv());
        let pidfd = pidfd_open(inside.0.id()).unwrap();
        let join = Join::new().process(pidfd, Namespaces::ALL).prepare().unwrap();
        assert_eq!(join.run().unwrap_err().kind(), ErrorKind::MultiThreaded);
        assert_eq!(join.run_in_thread().unwrap_err().kind(), ErrorKind::MultiThreaded);
        assert_eq!(own(), before, "the one call did nothing");
        // A child of std has one thread.
        let mut command = Command::new("uname");
        assert_eq!(join.pre_exec(command.arg("-n")).output().unwrap().stdout, b"inside\n");
        drop(done);
    });
}

/// CVE-2016-9962: between joining and exec, the copy of the host program's memory is closed to who is inside.
#[test]
fn a_joining_command_is_not_dumpable_before_its_exec() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    let inside = Inside::named(Namespace::User | Namespace::Uts);
    let pidfd = pidfd_open(inside.0.id()).unwrap();
    let join = Join::new().process(pidfd, Namespaces::ALL).prepare().unwrap();
    let mut command = Command::new("cat");
    let readable_file = "/proc/self/timens_offsets";
    sys::fail_if_dumpable(join.pre_exec(command.arg(readable_file)));
    assert!(command.output().unwrap().status.success());
    let mut open = Command::new("true");
    sys::fail_if_dumpable(&mut open);
    assert_eq!(open.spawn().unwrap_err().raw_os_error(), Some(libc::EDOM), "the check itself works");
    // And this process is as before.
    assert!(sys::is_dumpable());
}

#[test]
fn joining_where_one_is_does_nothing() {
    let join = Join::new().process(pidfd_open(std::process::id()).unwrap(), Namespaces::ALL);
    let join = join.prepare().unwrap();
    assert!(join.kinds().is_empty() && join.program(3).is_empty() && join.descriptors().is_empty());
    join.run_in_thread().unwrap();
}

#[test]
fn a_pod_shares_what_it_says_and_ids() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    let (uid, gid) = sys::ids();
    in_child(|| {
        let before = Snapshot::take();
        let new = Unshare::new(Namespace::User | Namespace::Uts | Namespace::Ipc | Namespace::Net)
            .hostname("pod".parse().unwrap())
            .loopback_up();
        let pod = Shared::create(&new, |pid| sys::write_maps(pid, uid, gid)).unwrap();
        assert_eq!(pod.kinds(), Namespace::Uts | Namespace::Ipc | Namespace::Net);
        let join = pod.member(Namespace::Mount | Namespace::Cgroup).unwrap().prepare().unwrap();
        let mut ids = Vec::new();
        for _ in 0..2 {
            let mut command = Command::new("sh");
            let script = "uname -n; id -u; readlink /proc/self/ns/user /proc/self/ns/ipc /proc/self/ns/net";
            let out = join.pre_exec(command.args(["-c", script])).output().unwrap();
            let text = String::from_utf8(out.stdout).unwrap();
            let expected = format!("pod\n0\n{}\n", pod.user());
            assert!(text.starts_with(&expected), "{text}");
            ids.push(text);
        }
        assert_eq!(ids[0], ids[1]);
        in_child(|| {
            join.run().unwrap();
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            // A member that comes later reaches it.
            let mut command = Command::new("bash");
            command.args(["-c", &format!("exec 3<>/dev/tcp/127.0.0.1/{}", address.port())]);
            assert!(command.status().unwrap().success());
        });
        drop((pod, join));
        before.assert_unchanged();
    });
}

/// A pod by its first sandbox, which is pid 1 of the shared pid namespace.
#[test]
fn a_pod_with_a_pid_namespace() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    let kinds = Namespace::User | Namespace::Pid | Namespace::Ipc | Namespace::Uts;
    let script = "exec unshare --user --map-root-user --pid --ipc --uts --kill-child sleep 600";
    let mut outer = Inside(Command::new("sh").args(["-c", script]).spawn().unwrap());
    let mut first = None;
    wait_until(std::time::Duration::from_secs(10), || {
        let found = Ns::<kind::Pid>::of_process(outer.0.id()).ok().map(|pid| (pid, outer.0.id()));
        first = found.and_then(|(own, outer)| {
            let children = std::fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).ok()?;
            let pid = children.split_ascii_whitespace().next()?.parse::<u32>().ok()?;
            (Ns::<kind::Pid>::of_process(pid).ok()? != own).then_some(pid)
        });
        first.is_some()
    });
    let first = first.unwrap();
    let pod = Shared::of_process(pidfd_open(first).unwrap(), kinds).unwrap();
    assert_eq!(pod.kinds(), kinds.without(Namespace::User));
    let join = pod.member(Namespace::Mount | Namespace::Net).unwrap().prepare().unwrap();
    assert_eq!(join.kinds(), kinds);
    let mut command = Command::new("sh");
    let out = join.pre_exec(command.args(["-c", "cat /proc/self/status; true"])).output().unwrap();
    let status = String::from_utf8(out.stdout).unwrap();
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap();
    let inside: u32 = ids.split_ascii_whitespace().last().unwrap().parse().unwrap();
    assert!(ids.split_ascii_whitespace().count() >= 2 && inside > 1, "{ids}");
    // With the first one, the namespace ends, and the error says why nobody can join any more.
    assert!(Command::new("kill").args(["-KILL", &first.to_string()]).status().unwrap().success());
    outer.0.wait().unwrap(); // it has reaped the first one
    assert!(join.pre_exec(&mut Command::new("true")).status().unwrap().success(), "sh itself is outside");
    let mut command = Command::new("sh");
    let out = join.pre_exec(command.args(["-c", "cat /proc/self/status; true"])).output().unwrap();
    assert!(String::from_utf8_lossy(&out.stderr).contains("fork"), "no process can be made in it: {out:?}");
}

#[test]
fn the_id_map_rule() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    let (a, b) = (
        Inside::named(Namespace::User | Namespace::Uts),
        Inside::new(&Unshare::new(Namespace::User | Namespace::Net)),
    );
    let uts = Ns::<kind::Uts>::of_process(a.0.id()).unwrap();
    let net = Ns::<kind::Net>::of_process(b.0.id()).unwrap();
    let error = Shared::new([uts.clone().into(), net.into()]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OwnerMismatch, "{error}");
    let user = Ns::<kind::User>::of_process(b.0.id()).unwrap();
    assert_eq!(Shared::new([uts.into(), user.into()]).unwrap_err().kind(), ErrorKind::OwnerMismatch);

    let pidfd = pidfd_open(a.0.id()).unwrap();
    let pod = Shared::of_process(pidfd.as_fd(), Namespace::User | Namespace::Uts).unwrap();
    assert_eq!(pod.kinds(), Namespaces::from(Namespace::Uts));
    assert_eq!(pod.member(Namespace::User.into()).unwrap_err().kind(), ErrorKind::OwnerMismatch);
    assert_eq!(pod.member(Namespace::Uts.into()).unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(Shared::new([]).unwrap_err().kind(), ErrorKind::Conflict);
    let with_pid = Shared::create(&Unshare::new(Namespace::User | Namespace::Pid), |_| Ok(()));
    assert_eq!(with_pid.unwrap_err().kind(), ErrorKind::Conflict);
}

#[test]
fn a_pod_that_cannot_be_made_leaves_nothing() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    in_child(|| {
        let before = Snapshot::take();
        let new = Unshare::new(Namespace::User | Namespace::Uts);
        let error = Shared::create(&new, |_| Err(std::io::Error::from_raw_os_error(libc::EDOM))).unwrap_err();
        assert_eq!(error.errno(), Some(libc::EDOM), "{error}");
        sys::enter_mapped_user();
        sys::run(&Namespace::User.limit_program(0)).unwrap();
        let error = Shared::create(&new, |_| Ok(())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
        assert!(error.to_string().contains("unshare(CLONE_NEWUSER|CLONE_NEWUTS)"), "{error}");
        before.assert_unchanged();
    });
}

/// Host programs may ignore SIGCHLD or wait for any child: neither loses the pod.
#[test]
fn a_pod_is_made_where_sigchld_is_ignored() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    in_child(|| {
        sys::ignore_sigchld();
        let pod = Shared::create(&Unshare::new(Namespace::User | Namespace::Uts), |_| Ok(())).unwrap();
        assert_eq!(pod.namespaces().len(), 1);
        assert_eq!(Snapshot::take(), Snapshot::take());
    });
}

#[test]
fn persistent_until_it_is_undone() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    let dir = temp_dir();
    let mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let before = mounts();
    in_child(|| {
        enter(Namespace::Mount | Namespace::Uts);
        sys::private_tmpfs(dir.path());
        let path = dir.path().join("a name with\nodd \\ bytes");
        let uts = Ns::<kind::Uts>::current().unwrap();
        uts.persist(&path).unwrap();
        let again = uts.persist(&path).unwrap_err();
        assert_eq!(again.errno(), Some(libc::EEXIST), "{again}");
        assert!(path.exists());

        assert_eq!(Ns::<kind::Uts>::open(&path).unwrap(), uts);
        assert_eq!(Ns::<kind::Net>::open(&path).unwrap_err().kind(), ErrorKind::WrongKind);
        let found = palisade_ns::list().unwrap();
        assert_eq!(found.get(uts.id()).unwrap().paths, [path.as_path()]);

        // It lives without a process or a handle: this process leaves it.
        let id = uts.id();
        drop((uts, found));
        unshare(Namespace::Uts).unwrap();
        assert_eq!(Ns::<kind::Uts>::open(&path).unwrap().id(), id);
        assert!(palisade_ns::list().unwrap().get(id).unwrap().pids.is_empty());

        unpersist(&path).unwrap();
        assert!(!path.exists());
        assert!(palisade_ns::list().unwrap().get(id).is_none());
    });
    assert_eq!(mounts(), before, "the host's mount table is as before");
}

#[test]
fn only_namespaces_are_unpersisted() {
    let dir = temp_dir();
    let file = dir.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink("/proc/self/ns/net", &link).unwrap();
    for path in [&file, &link] {
        assert_eq!(unpersist(path).unwrap_err().kind(), ErrorKind::NotANamespace, "{path:?}");
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert_eq!(unpersist(dir.path().join("none")).unwrap_err().errno(), Some(libc::ENOENT));
}

#[test]
fn a_failed_persist_leaves_no_file() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    let dir = temp_dir();
    in_child(|| {
        enter(Namespace::Mount.into());
        sys::private_tmpfs(dir.path());
        // A mount namespace cannot be bound in itself.
        let path = dir.path().join("mnt");
        let error = Ns::<kind::Mount>::current().unwrap().persist(&path).unwrap_err();
        assert_eq!(error.errno(), Some(libc::ELOOP), "{error}");
        assert!(!path.exists());
    });
}
