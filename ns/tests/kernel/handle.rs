//! Handles: where they come from, what they say.

use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Child, Command};

use palisade_ns::{AnyNs, ErrorKind, Namespace, Namespaces, Ns, Unshare, kind, pidfd_open, unshare};
use palisade_testkit::{Snapshot, can_unshare_user, in_child, is_root, skip};

use crate::sys;

/// A process in new namespaces of these kinds (with a user namespace where the caller needs one), killed on drop.
struct Inside(Child);

impl Inside {
    fn new(kinds: impl Into<Namespaces>) -> Self {
        let mut command = Command::new("sleep");
        Unshare::new(kinds).prepare().unwrap().pre_exec(command.arg("600"));
        Self(command.spawn().unwrap())
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn all_ways_lead_to_the_same_namespace() {
    for kind in Namespace::ALL {
        let me = std::process::id();
        let own = AnyNs::current(kind).unwrap();
        let pidfd = pidfd_open(me).unwrap();
        assert_eq!(own.kind(), kind);
        assert_eq!(AnyNs::of_process(me, kind).unwrap(), own);
        assert_eq!(AnyNs::of_thread(me, me, kind).unwrap(), own);
        assert_eq!(AnyNs::of_pidfd(&pidfd, kind).unwrap(), own);
        assert_eq!(AnyNs::for_children(kind).unwrap(), own);
        assert_eq!(AnyNs::open(format!("/proc/self/ns/{kind}")).unwrap(), own);
        assert_eq!(AnyNs::from_fd(own.as_fd().try_clone_to_owned().unwrap()).unwrap(), own);
        let link = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert_eq!(link.to_str().unwrap(), own.to_string());
    }
}

#[test]
fn kinds_are_checked() {
    let error = Ns::<kind::Uts>::open("/proc/self/ns/net").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongKind);
    assert!(error.to_string().contains("is not a uts namespace"), "{error}");
    let net = AnyNs::current(Namespace::Net).unwrap();
    assert_eq!(Ns::<kind::Pid>::try_from(net.clone()).unwrap_err().kind(), ErrorKind::WrongKind);
    assert!(Ns::<kind::Net>::try_from(net).is_ok());
}

#[test]
fn other_files_are_no_namespaces() {
    let not = |error: palisade_ns::Error| assert_eq!(error.kind(), ErrorKind::NotANamespace, "{error}");
    not(AnyNs::open("/dev/null").unwrap_err());
    not(AnyNs::open("/etc/passwd").unwrap_err());
    not(AnyNs::from_fd(OwnedFd::from(std::fs::File::open("/").unwrap())).unwrap_err());
    let (reader, _writer) = std::io::pipe().unwrap();
    not(AnyNs::from_fd(reader.into()).unwrap_err());
    // A FIFO does not block.
    let dir = palisade_testkit::temp_dir();
    let fifo = dir.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    not(AnyNs::open(&fifo).unwrap_err());
    // A descriptor that is no pidfd is not asked like one.
    let null = std::fs::File::open("/dev/null").unwrap();
    let error = AnyNs::of_pidfd(&null, Namespace::Net).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidValue, "{error}");
}

#[test]
fn an_ended_process_is_gone() {
    let mut child = Command::new("true").spawn().unwrap();
    let pidfd = pidfd_open(child.id()).unwrap();
    child.wait().unwrap();
    let error = AnyNs::of_pidfd(&pidfd, Namespace::Net).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Gone, "{error}");
    assert_eq!(AnyNs::of_process(child.id(), Namespace::Net).unwrap_err().kind(), ErrorKind::Gone);
    assert_eq!(pidfd_open(child.id()).unwrap_err().kind(), ErrorKind::Gone);
}

#[test]
fn a_stronger_process_is_refused() {
    if is_root() {
        skip!("root may look into most processes");
    }
    // Init of the machine, unless this runs in a small pid namespace of the user's own.
    let Err(error) = AnyNs::of_process(1, Namespace::Net) else { skip!("pid 1 is of the same user") };
    assert_eq!(error.kind(), ErrorKind::Permission, "{error}");
    assert!(error.hint().unwrap().contains("ptrace"), "{error}");
    assert!(palisade_ns::list().unwrap().unreadable.contains(&1));
    // By its pidfd too.
    let error = AnyNs::of_pidfd(pidfd_open(1).unwrap(), Namespace::Net).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission, "{error}");
}

#[test]
fn owners_and_parents() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    let inside = Inside::new(Namespace::User | Namespace::Net | Namespace::Uts);
    let pidfd = pidfd_open(inside.0.id()).unwrap();
    let user = Ns::<kind::User>::of_pidfd(&pidfd).unwrap();
    let net = Ns::<kind::Net>::of_pidfd(&pidfd).unwrap();
    let own = Ns::<kind::User>::current().unwrap();
    assert_eq!(net.owner().unwrap().unwrap(), user);
    assert_eq!(user.owner().unwrap().unwrap(), own);
    assert_eq!(user.parent().unwrap().unwrap(), own);
    assert_eq!(user.owner_uid().unwrap(), sys::ids().0);
    assert_eq!(user.depth_below_caller().unwrap(), Some(1));
    assert_eq!(own.depth_below_caller().unwrap(), Some(0));
    // What it did not make is owned as before.
    let ipc = Ns::<kind::Ipc>::of_pidfd(&pidfd).unwrap();
    assert_ne!(ipc.owner().unwrap(), Some(user));
}

/// From inside a user namespace, what is above it cannot be asked for.
#[test]
fn nothing_above_the_caller_is_seen() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    in_child(|| {
        let outer = Ns::<kind::User>::current().unwrap();
        unshare(Namespace::User | Namespace::Net).unwrap();
        let user = Ns::<kind::User>::current().unwrap();
        let net = Ns::<kind::Net>::current().unwrap();
        assert_eq!(net.owner().unwrap(), Some(user.clone()));
        assert_eq!(user.parent().unwrap(), None);
        assert_eq!(AnyNs::current(Namespace::Ipc).unwrap().owner().unwrap(), None);
        assert_eq!(outer.depth_below_caller().unwrap(), None);
    });
}

#[test]
fn three_levels_of_pid_namespaces_translate() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    in_child(|| {
        sys::enter_mapped_user();
        unshare(Namespace::Pid).unwrap();
        // sh is 1 in the first; unshare's child is 1 in the second and 2 or so in the first.
        let script = "unshare --pid --fork sleep 600 & wait";
        let mut sh = Command::new("sh").args(["-c", script]).spawn().unwrap();
        let first = Ns::<kind::Pid>::for_children().unwrap();
        assert_eq!(first.init().unwrap(), sh.id());
        let mut inner = None;
        palisade_testkit::wait_until(std::time::Duration::from_secs(10), || {
            let found = palisade_ns::list().unwrap();
            inner = found.namespaces.iter().find_map(|listed| {
                let pid: Ns<kind::Pid> = listed.namespace.clone().try_into().ok()?;
                (pid.parent().ok()?? == first && pid.init().is_ok()).then_some(pid)
            });
            inner.is_some()
        });
        let inner = inner.unwrap();
        let sleep = inner.init().unwrap();
        assert_eq!(inner.pid_from_caller(sleep).unwrap(), 1);
        let in_first = first.pid_from_caller(sleep).unwrap();
        assert!(in_first > 1);
        assert_eq!(first.pid_to_caller(in_first).unwrap(), sleep);
        // The first one's init has no number in the inner one.
        assert_eq!(inner.pid_from_caller(sh.id()).unwrap_err().kind(), ErrorKind::Gone);
        sh.kill().unwrap();
        sh.wait().unwrap();
        // With its init, all of it has ended.
        assert_eq!(first.init().unwrap_err().kind(), ErrorKind::Gone);
    });
}

#[test]
fn a_thread_has_namespaces_of_its_own() {
    if !is_root() {
        skip!("one thread of several cannot make a user namespace", needs = "root");
    }
    let (tell, hear) = std::sync::mpsc::channel();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            Unshare::new(Namespace::Uts).prepare().unwrap().run_in_thread().unwrap();
            tell.send((sys::thread_id(), AnyNs::current(Namespace::Uts).unwrap())).unwrap();
            assert!(ended.recv().is_err());
        });
        let (tid, uts) = hear.recv().unwrap();
        assert_eq!(AnyNs::of_thread(std::process::id(), tid, Namespace::Uts).unwrap(), uts);
        assert_ne!(AnyNs::of_process(std::process::id(), Namespace::Uts).unwrap(), uts);
        // The list has it too.
        let found = palisade_ns::list().unwrap();
        assert!(found.get(uts.id()).unwrap().pids.contains(&std::process::id()));
        drop(end);
    });
}

#[test]
fn handles_keep_it_and_close_it() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    in_child(|| {
        let before = Snapshot::take();
        let inside = Inside::new(Namespace::User | Namespace::Uts);
        let uts = Ns::<kind::Uts>::of_process(inside.0.id()).unwrap();
        drop(inside);
        let clone = uts.clone();
        drop(uts);
        assert!(clone.owner().unwrap().is_some(), "alive without a process");
        drop(clone);
        before.assert_unchanged();
    });
}

#[test]
fn the_list_has_what_there_is() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    let inside = Inside::new(Namespaces::ALL.without(Namespace::Pid));
    let pid = inside.0.id();
    let found = palisade_ns::list().unwrap();
    for kind in Namespace::ALL {
        let own = AnyNs::current(kind).unwrap();
        assert!(found.get(own.id()).unwrap().pids.contains(&std::process::id()), "{own}");
        let its = AnyNs::of_process(pid, kind).unwrap();
        let listed = found.get(its.id()).unwrap();
        assert_eq!(listed.namespace.kind(), kind);
        assert!(listed.pids.contains(&pid));
        if kind != Namespace::Pid {
            assert_eq!(listed.pids, [pid]);
            assert_ne!(its, own);
        }
    }
    assert!(found.namespaces.is_sorted_by_key(|listed| (listed.namespace.kind(), listed.namespace.id())));
    assert!(!found.unreadable.contains(&pid));
}

/// A user namespace whose only process went on to a deeper one is found as the parent.
#[test]
fn the_list_has_parents_without_processes() {
    if !can_unshare_user() {
        skip!("no user namespaces here", needs = "userns");
    }
    in_child(|| {
        let own = Ns::<kind::User>::current().unwrap();
        let script = "exec unshare --user --map-root-user unshare --user sleep 600";
        let child = Inside(Command::new("sh").args(["-c", script]).spawn().unwrap());
        palisade_testkit::wait_until(std::time::Duration::from_secs(10), || {
            let inner = Ns::<kind::User>::of_process(child.0.id()).unwrap();
            inner.depth_below_caller().unwrap() == Some(2)
        });
        let inner = Ns::<kind::User>::of_process(child.0.id()).unwrap();
        let middle = inner.parent().unwrap().unwrap();
        assert_eq!(middle.parent().unwrap(), Some(own));
        let found = palisade_ns::list().unwrap();
        assert_eq!(found.get(inner.id()).unwrap().pids, [child.0.id()]);
        assert_eq!(found.get(middle.id()).unwrap().pids, [] as [u32; 0]);
    });
}
