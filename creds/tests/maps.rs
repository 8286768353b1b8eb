//! Maps given to real user namespaces, directly and by the helpers.

mod common;

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use common::InNamespace;
use palisade_creds::{
    Credentials, ErrorKind, Gid, IdMap, Identity, Ids, Maps, Setgroups, SubIds, Uid, read_maps, write_maps,
};
use palisade_sys::{Fd, OpenHow, Program};
use palisade_testkit::{is_root, skip};

fn own() -> (Uid, Gid) {
    let metadata = std::fs::metadata("/proc/self").expect("/proc");
    (Uid::new(metadata.uid()).expect("an id"), Gid::new(metadata.gid()).expect("an id"))
}

fn ids(namespace: &mut InNamespace) -> (String, String) {
    (namespace.run("id -u").0, namespace.run("id -g").0)
}

/// What any user can have, and A43: it takes setgroups denied, which is then for good.
#[test]
fn a43_own_id_alone_with_setgroups_denied() {
    let maps = Maps::single((Uid::ROOT, Gid::ROOT), own());
    let mut namespace = InNamespace::new();
    let dir = namespace.pid_dir();
    assert_eq!(read_maps(dir.as_fd()).expect("readable"), None, "no map yet");
    let prepared = maps.prepare().expect("no privilege needed");
    assert!(!prepared.uses_helpers());
    assert!(prepared.to_string().starts_with("write \"deny\" to setgroups\nwrite \"0 "), "{prepared}");
    prepared.apply(dir.as_fd()).expect("written");
    assert_eq!(ids(&mut namespace), ("0".into(), "0".into()));
    assert_eq!(read_maps(dir.as_fd()).expect("readable"), Some(maps.clone()));
    assert_ne!(namespace.run("echo allow >/proc/self/setgroups 2>/dev/null").1, 0);

    let again = write_maps(dir.as_fd(), &maps).expect_err("a second write");
    assert_eq!((again.kind(), again.errno()), (ErrorKind::Permission, Some(libc::EPERM)), "{again}");
    assert!(again.hint().is_some());
}

/// A43: without the denial an unprivileged group map is refused, by us first and then by the kernel.
#[test]
fn a43_group_map_before_deny_is_refused() {
    if is_root() {
        skip!("root may write a group map with setgroups allowed", needs = "user");
    }
    let (uid, gid) = own();
    let maps = Maps::new(IdMap::single(Uid::ROOT, uid), IdMap::single(Gid::ROOT, gid));
    assert_eq!(maps.prepare().expect_err("not denied").kind(), ErrorKind::Conflict);
    let namespace = InNamespace::new();
    let dir = namespace.pid_dir();
    let error = write_maps(dir.as_fd(), &maps).expect_err("not denied");
    assert_eq!(error.errno(), Some(libc::EPERM));
    assert_eq!(read_maps(dir.as_fd()).expect("readable"), None, "and nothing else was written");
}

#[test]
fn ranges_by_root() {
    if !is_root() {
        skip!("ranges take CAP_SETUID", needs = "root");
    }
    let ranges: IdMap = "0 100000 1000\n1000 0 1\n1001 101000 5".parse().expect("a map");
    let maps = Maps::new(ranges.clone(), ranges);
    let mut namespace = InNamespace::new();
    let dir = namespace.pid_dir();
    let prepared = maps.prepare().expect("root");
    assert!(!prepared.uses_helpers());
    prepared.apply(dir.as_fd()).expect("written");
    assert_eq!(ids(&mut namespace), ("1000".into(), "1000".into()), "outer 0 is inner 1000");
    let read = read_maps(dir.as_fd()).expect("readable").expect("written");
    assert_eq!(read, maps);
    assert_eq!(read.setgroups(), Setgroups::Allow);
}

/// A namespace within a namespace: the inner map's outside is the outer's inside, and the host sees the composition.
#[test]
fn nested_namespaces_compose() {
    if !is_root() {
        skip!("ranges take CAP_SETUID", needs = "root");
    }
    let outer: IdMap = "0 0 1\n1 100000 1000".parse().expect("a map");
    let inner: IdMap = "0 501 10\n10 0 1".parse().expect("a map");
    let mut namespace = InNamespace::new();
    write_maps(namespace.pid_dir().as_fd(), &Maps::new(outer.clone(), outer.clone())).expect("written");
    let (pid, _) = namespace.run("unshare --user sleep 60 >/dev/null & echo $!");
    let before = "[ \"$(readlink /proc/self/ns/user)\" = \"$(readlink /proc/$!/ns/user)\" ]";
    assert_eq!(namespace.run(&format!("while {before}; do sleep 0.01; done")).1, 0);
    let dir = std::fs::File::open(format!("/proc/{pid}")).expect("process directory");

    let host_view = inner.compose(&outer).expect("a map");
    assert_eq!(host_view.to_string(), "0 100500 10\n10 0 1\n");
    let lines = inner.to_string().replace('\n', "\\n");
    for file in ["gid_map", "uid_map"] {
        // The outer shell lost its capabilities at its exec, before user 0 was mapped; a new one gets them back.
        assert_eq!(namespace.run(&format!("sh -c \"printf '{lines}' >/proc/$!/{file}\"")).1, 0);
    }
    let seen = read_maps(dir.as_fd()).expect("readable").expect("written");
    assert_eq!(seen.uid(), &host_view, "the host reads the inner map through the outer");
    assert_eq!(seen.gid(), &host_view);
    namespace.run("kill $!; wait");
}

/// Lab 41: a container's user 1000 is 232072 outside, as Docker's documentation counts; seen from outside, too.
#[test]
fn docker_remap_is_seen_from_outside() {
    let delegated = SubIds::parse(b"root:231072:65536\n0:500000:10\n");
    let maps = Maps::remapped(Uid::ROOT, &delegated, &delegated).expect("delegated");
    assert!(!maps.reaches_parent_root(), "A47: user 0 inside is not user 0 outside");
    let thousand = Uid::new(1000).expect("an id");
    assert_eq!(maps.uid().to_outside(thousand), Uid::new(232_072));
    let error = Maps::remapped(thousand, &delegated, &delegated).expect_err("no such line");
    assert_eq!(error.kind(), ErrorKind::NotDelegated);
    if !is_root() {
        skip!("ranges take CAP_SETUID", needs = "root");
    }
    let mut namespace = InNamespace::new();
    maps.prepare().expect("root").apply(namespace.pid_dir().as_fd()).expect("written");
    // The shell's own id is unmapped; it holds every capability inside until it executes something.
    let ids = (Uid::new(65_536).expect("an id"), Gid::new(7).expect("an id"));
    let inside = Credentials::in_new_user_namespace(ids.0, ids.1).expect("readable");
    let outside = inside.outside(&maps).expect("mapped");
    assert_eq!(
        (outside.uid, outside.gid.real.as_raw()),
        (Ids::all(Uid::new(500_000).expect("an id")), 231_079)
    );
    let unmapped =
        Credentials::in_new_user_namespace(Uid::new(70_000).expect("an id"), ids.1).expect("readable");
    assert_eq!(unmapped.outside(&maps).expect_err("beyond the ranges").kind(), ErrorKind::Unmapped);
    let seen = Credentials::of(namespace.pid_dir().as_fd()).expect("readable");
    assert_eq!(seen.uid, Ids::all(Uid::ROOT), "outside it is still who it was");
    assert_eq!(
        namespace.run("cat /proc/self/uid_map").0.split_ascii_whitespace().collect::<Vec<_>>().join(" "),
        "0 231072 65536 65536 500000 10"
    );
}

/// An outside id that the caller's own namespace has not got is told before any child exists.
#[test]
fn an_outside_id_that_does_not_exist_is_unmapped() {
    let test = std::env::current_exe().expect("this test");
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--"])
        .arg(test)
        .args(["--exact", "inner_unmapped", "--ignored", "--nocapture"])
        .output()
        .expect("unshare");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}

#[test]
#[ignore = "run by the test above in a namespace with one id"]
fn inner_unmapped() {
    let map: IdMap = "0 0 2".parse().expect("a map");
    let error = Maps::new(map.clone(), map).prepare().expect_err("id 1 is not mapped here");
    assert_eq!(error.kind(), ErrorKind::Unmapped);
}

#[test]
fn only_procfs_is_written_to() {
    let dir = palisade_testkit::temp_dir();
    std::fs::write(dir.path().join("uid_map"), "").expect("write");
    let open = std::fs::File::open(dir.path()).expect("open");
    let error =
        write_maps(open.as_fd(), &Maps::single((Uid::ROOT, Gid::ROOT), own())).expect_err("no procfs");
    assert_eq!(error.kind(), ErrorKind::NotTrusted);
    assert_eq!(std::fs::read(dir.path().join("uid_map")).expect("read"), b"");
}

/// Something mounted over the file, as a hostile /proc would have it, is not written to.
#[test]
fn a_file_mounted_over_a_map_is_not_written_to() {
    let dir = palisade_testkit::temp_dir();
    let decoy = dir.path().join("decoy");
    std::fs::write(&decoy, "").expect("write");
    let script = "sleep 60 & mount --bind \"$0\" /proc/$!/gid_map && \"$1\" --exact inner_mounted_over --ignored --nocapture; \
                  status=$?; kill $!; exit $status";
    let script = script.replace("\"$1\"", "PALISADE_PID=$! \"$1\"");
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--", "sh", "-c", &script])
        .arg(&decoy)
        .arg(std::env::current_exe().expect("this test"))
        .output()
        .expect("unshare");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    assert_eq!(std::fs::read(&decoy).expect("read"), b"");
}

#[test]
#[ignore = "run by the test above where a map is mounted over"]
fn inner_mounted_over() {
    let pid = std::env::var("PALISADE_PID").expect("set by the test above");
    let dir = std::fs::File::open(format!("/proc/{pid}")).expect("process directory");
    let map = IdMap::identity();
    let error = write_maps(dir.as_fd(), &Maps::new(map.clone(), map)).expect_err("mounted over");
    assert_eq!(error.kind(), ErrorKind::NotTrusted, "{error}");
}

/// The helpers as an ordinary user, with subid files of the test's own mounted over the system's in a private namespace.
#[test]
fn delegated_ranges_by_the_helpers() {
    if !is_root() {
        skip!("the test makes its own /etc/subuid", needs = "root");
    }
    if !std::path::Path::new("/usr/bin/newuidmap").exists() {
        skip!("newuidmap is not installed", needs = "uidmap");
    }
    let dir = palisade_testkit::temp_dir();
    std::fs::write(dir.path().join("subids"), "nobody:100000:1000\n65534:300000:500\n").expect("write");
    let script = "mount --bind \"$0\" /etc/subuid && mount --bind \"$0\" /etc/subgid && \
                  exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$1\" --ignored --exact inner_helpers --nocapture";
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .arg(dir.path().join("subids"))
        .arg(std::env::current_exe().expect("this test"))
        .output()
        .expect("unshare");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "run by the test above as an ordinary user with delegated ids"]
fn inner_helpers() {
    let maps = Maps::rootless().expect("delegated by name and by number");
    assert_eq!(maps.uid().to_string(), "0 65534 1\n1 100000 1000\n1001 300000 500\n");
    let prepared = maps.prepare().expect("installed");
    assert!(prepared.uses_helpers(), "{prepared}");
    let mut namespace = InNamespace::new();
    let dir = namespace.pid_dir();
    prepared.apply(dir.as_fd()).expect("the helpers allow it");
    assert_eq!(read_maps(dir.as_fd()).expect("readable"), Some(maps));
    assert_eq!(ids(&mut namespace), ("0".into(), "0".into()));
    assert_eq!(namespace.run("setpriv --reuid 1500 --regid 7 --groups 8,9 id -u"), ("1500".into(), 0));

    let strange: IdMap = "0 65534 1\n1 200000 10".parse().expect("a map");
    let prepared = Maps::new(strange.clone(), strange).prepare().expect("the files are the helpers' to read");
    let namespace = InNamespace::new();
    let error = prepared.apply(namespace.pid_dir().as_fd()).expect_err("not delegated");
    assert_eq!(error.kind(), ErrorKind::NotDelegated, "{error}");
    assert_eq!(read_maps(namespace.pid_dir().as_fd()).expect("readable"), None);

    let status = std::fs::read_to_string("/proc/self/stat").expect("/proc");
    let me = status.split(' ').next().expect("a number");
    let children = std::fs::read_to_string(format!("/proc/{me}/task/{me}/children")).unwrap_or_default();
    assert!(children.split_ascii_whitespace().count() <= 2, "no helper is left behind: {children}");
}

/// Under no_new_privs a set-user-ID helper can do nothing: told before there is a child.
#[test]
fn helpers_need_a_thread_without_no_new_privs() {
    if !std::path::Path::new("/usr/bin/newuidmap").exists() {
        skip!("newuidmap is not installed", needs = "uidmap");
    }
    std::thread::scope(|scope| {
        let body = || {
            let mut identity = Identity::unprivileged();
            if is_root() {
                identity = identity.ids(Uid::NOBODY, Gid::NOBODY);
            }
            identity.prepare().expect("own or root's").apply_to_thread().expect("applied");
            let ranges: IdMap = "0 65534 1\n1 100000 10".parse().expect("a map");
            let error = Maps::new(ranges.clone(), ranges).prepare().expect_err("no helper can work");
            assert_eq!(error.kind(), ErrorKind::HelperFailed, "{error}");
        };
        scope.spawn(body).join().expect("the thread ended well");
    });
}

/// A child that makes its own user namespace between fork and exec, and maps itself.
#[test]
fn a_process_maps_itself() {
    let mut program = Program::new();
    program.unshare(libc::CLONE_NEWUSER);
    let proc_self = program.openat2(Fd::CWD, c"/proc/self", OpenHow::default());
    Maps::single((Uid::ROOT, Gid::ROOT), own()).add_to(&mut program, proc_self);
    let mut command = Command::new("sh");
    common::sys::before_exec(command.args(["-c", "id -u; id -g; cat /proc/self/setgroups"]), program.image());
    let output = command.output().expect("spawned");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0\n0\ndeny\n");
}
