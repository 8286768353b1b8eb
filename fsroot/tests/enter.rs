//! Entering a root by itself, and errors in words.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use palisade_fsroot::{Enter, ErrorKind, HostView, Root};
use palisade_testkit::{Snapshot, can_unshare_user, in_child, is_root, skip, temp_dir};

mod common;
use common::*;

/// A directory with the host's /usr in it by links only: `true` runs in it once /usr is bound.
fn tree() -> tempfile::TempDir {
    let dir = temp_dir();
    fs::create_dir_all(dir.path().join("old")).unwrap();
    fs::create_dir_all(dir.path().join("a/b")).unwrap();
    fs::write(dir.path().join("inside"), "").unwrap();
    dir
}

#[test]
fn chroot_is_left_again_and_pivot_root_is_not() {
    if !is_root() {
        skip!("chroot(2) needs CAP_SYS_CHROOT", needs = "root");
    }
    let dir = tree();
    let canary = dir.path().join("canary");
    fs::write(&canary, "").unwrap();
    let escape = || {
        fs::create_dir_all("/a/b").unwrap();
        sys::chroot("/a/b").unwrap();
        (0..40).for_each(|_| std::env::set_current_dir("..").unwrap());
        sys::chroot(".").unwrap();
        canary.exists() && Path::new("/usr").exists()
    };
    let enter = Enter::chroot(dir.path()).prepare().unwrap();
    in_child(|| {
        run(&enter.program()).unwrap();
        assert_eq!(std::env::current_dir().unwrap(), Path::new("/"));
        assert!(Path::new("/inside").exists() && !Path::new("/usr").exists());
        assert!(escape(), "a plain chroot holds nobody with CAP_SYS_CHROOT");
    });
    let enter = Enter::pivot_root(dir.path()).prepare().unwrap();
    in_child(|| {
        sys::unshare(libc::CLONE_NEWNS).unwrap();
        run(&enter.program()).unwrap();
        assert!(Path::new("/inside").exists());
        assert!(!escape());
        assert!(Path::new("/inside").exists());
    });
}

#[test]
fn pivot_root_can_keep_the_old_root() {
    if !can_unshare_user() {
        skip!("no user namespace can be made", needs = "userns");
    }
    let dir = tree();
    let before = Snapshot::take();
    let enter = Enter::pivot_root(dir.path()).put_old("/old").prepare().unwrap();
    in_child(|| {
        unshare_all();
        run(&enter.program()).unwrap();
        assert!(Path::new("/inside").exists() && Path::new("/old/usr/bin").exists());
    });
    let detached = Enter::pivot_root(dir.path()).prepare().unwrap();
    in_child(|| {
        unshare_all();
        run(&detached.program()).unwrap();
        assert_eq!(names("/"), ["a", "inside", "old"]);
        assert_eq!(names("/old"), [""; 0]);
    });
    before.assert_unchanged();
    let missing = Enter::pivot_root(dir.path()).put_old("/missing").prepare().unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

#[test]
fn a_view_is_entered_in_pre_exec() {
    if !can_unshare_user() {
        skip!("no user namespace can be made", needs = "userns");
    }
    let before = Snapshot::take();
    let view = HostView::new();
    let root = Root::from(if is_root() { view } else { view.proc(None) }).prepare().unwrap();
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "umask; ls /; pwd; ls -l /etc/shadow 2>/dev/null"]);
    sys::pre_exec(&mut command, root.enter_program().image());
    let out = command.output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    let list = "bin\ndev\netc\nlib\nlib64\nproc\nsbin\ntmp\nusr\n";
    assert!(text.starts_with("00") && text.contains(list) && text.ends_with("usr\n/\n"), "{out:?}");
    before.assert_unchanged();
    // A set-up failure is an error of spawn.
    let dir = tree();
    let root = Root::dir(dir.path()).tmpfs("/missing").prepare().unwrap();
    let mut command = Command::new("/bin/true");
    sys::pre_exec(&mut command, root.enter_program().image());
    assert_eq!(errno(command.spawn()), libc::ENOENT);
}

#[test]
fn faults_are_explained() {
    if !can_unshare_user() {
        skip!("no user namespace can be made", needs = "userns");
    }
    let explained = |root: Root, prelude: fn(), kind: ErrorKind, words: &str| {
        let root = root.prepare().unwrap();
        in_child(|| {
            unshare_all();
            in_child(|| {
                prelude();
                let program = root.program();
                let fault = sys::run(&mut program.image()).unwrap_err();
                let error = root.explain(&program, fault);
                assert_eq!(error.kind(), kind, "{error}");
                assert!(error.to_string().contains(words), "{error}");
            });
        });
    };
    let dir = tree();
    symlink("nowhere", dir.path().join("link")).unwrap();
    explained(
        Root::dir(dir.path()).tmpfs("/missing"),
        || {},
        ErrorKind::NotFound,
        "put that under an overlay",
    );
    explained(Root::dir(dir.path()).tmpfs("/link"), || {}, ErrorKind::System, "name the place");
    explained(
        Root::dir(dir.path()).bind("/usr", "/inside"),
        || {},
        ErrorKind::System,
        "nor a file on a directory",
    );
    // The mounts below /dev and the like are locked in a new user namespace.
    let not_recursive = palisade_fsroot::Bind::new("/", "/host").not_recursive();
    explained(Root::empty().mount(not_recursive), || {}, ErrorKind::System, "bind it recursively");
    // In a chroot: which of the causes of EINVAL it is.
    let chroot = || {
        sys::chroot("/usr").unwrap();
        std::env::set_current_dir("/").unwrap();
    };
    explained(Root::empty(), chroot, ErrorKind::System, "it is in a chroot");
    // pivot_root itself: where the root is a mount that can be moved, one cause is left.
    let root = Root::empty().prepare().unwrap();
    let program = root.program();
    let pivot =
        (0..program.len()).find(|&n| program.line(n).is_some_and(|line| line.starts_with("pivot_root")));
    let fault = palisade_sys::Fault { index: pivot.unwrap() as u32, errno: libc::EINVAL, bit: 0 };
    let error = root.explain(&program, fault);
    assert!(error.to_string().contains("is shared"), "{error}");
    // Without the new mount API, as under docker's filter: a typed error, no half-built view.
    for errno in [libc::ENOSYS, libc::EPERM] {
        let root = Root::host().prepare().unwrap();
        in_child(|| {
            unshare_all();
            in_child(|| {
                sys::refuse_new_mount_api(errno).unwrap();
                let program = root.program();
                let fault = sys::run(&mut program.image()).unwrap_err();
                let error = root.explain(&program, fault);
                let kind = if errno == libc::ENOSYS { ErrorKind::Unsupported } else { ErrorKind::Permission };
                assert_eq!((error.kind(), error.errno()), (kind, Some(errno)), "{error}");
                assert!(Path::new("/root").exists(), "still the old root");
            });
        });
    }
}
