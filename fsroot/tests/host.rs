//! The default view, and roots of others.

use std::fs;
use std::path::Path;
use std::process::Command;

use palisade_fsroot::{Dev, HostView, Layers, Masks, Proc, Root};
use palisade_testkit::{Snapshot, can_unshare_user, is_root, skip, temp_dir};

mod common;
use common::*;

macro_rules! need_userns {
    () => {
        if !can_unshare_user() {
            skip!("no user namespace can be made", needs = "userns");
        }
    };
}

#[test]
fn the_default_view_runs_programs_of_the_host() {
    need_userns!();
    let before = Snapshot::take();
    let root = Root::from(HostView::new().user(INSIDE, INSIDE)).prepare().unwrap();
    // A budget: each call is about a microsecond.
    assert!(root.program().call_count() < 200, "{}", root.program());
    in_view(&root, || {
        let out = Command::new("/bin/sh").args(["-c", "id -un; echo $((6*7))"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout), "user\n42\n", "{out:?}");
    });
    before.assert_unchanged();
}

#[test]
fn two_parts_give_the_same_view() {
    if !is_root() {
        skip!("the privileged parent", needs = "root");
    }
    let root = HostView::new().user(INSIDE, INSIDE);
    let root = Root::from(root).prepare().unwrap();
    // Mount points with their options, and the whole of /: the same either way.
    let table = |mut file: &fs::File| {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let fields = table.lines().map(|line| line.split(' ').skip(4).take(2).collect::<Vec<_>>().join(" "));
        let mut fields: Vec<_> = fields.collect();
        fields.sort();
        let text = format!("{fields:?} {:?}", names("/"));
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    };
    let (one, two) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    in_view(&root, || table(&one));
    in_split_view(&root, || table(&two));
    let read = |mut file: fs::File| {
        let mut text = String::new();
        std::io::Seek::rewind(&mut file).unwrap();
        std::io::Read::read_to_string(&mut file, &mut text).unwrap();
        text
    };
    let (one, two) = (read(one), read(two));
    assert!(one.contains("/usr ro,nosuid,nodev"), "{one}");
    assert_eq!(one, two);
}

/// A root of one static program.
#[test]
fn a_busybox_root_runs_a_shell() {
    need_userns!();
    let busybox = Path::new("/bin/busybox");
    let dynamic = fs::read(busybox).is_ok_and(|elf| elf.windows(15).any(|w| w == b"/lib64/ld-linux"));
    if !busybox.exists() || dynamic {
        skip!("a static busybox is not installed", needs = "tool");
    }
    let dir = temp_dir();
    for name in ["bin", "proc", "dev", "tmp", "etc"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    fs::copy(busybox, dir.path().join("bin/busybox")).unwrap();
    for name in ["sh", "ls", "id", "cat"] {
        std::os::unix::fs::symlink("busybox", dir.path().join("bin").join(name)).unwrap();
    }
    let root = Root::dir(dir.path())
        .mount(Dev::new("/dev"))
        .mount(Proc::new("/proc"))
        .tmpfs("/tmp")
        .masks(Masks::docker())
        .prepare()
        .unwrap();
    let run = || {
        let script = "echo x > /tmp/f && cat /tmp/f && id -u && ls / && echo y > /etc/f";
        let out = Command::new("/bin/sh").args(["-c", script]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout), "x\n1000\nbin\ndev\netc\nproc\ntmp\n", "{out:?}");
        assert!(String::from_utf8_lossy(&out.stderr).contains("Read-only file system"), "{out:?}");
    };
    in_view(&root, run);
    if is_root() {
        in_split_view(&root, run);
    }
}

/// The whole host, which is a Debian here, under a layer in memory: package tools and interpreters run, changes stay in
/// memory.
#[test]
fn a_distribution_runs_under_a_layer_in_memory() {
    if !is_root() {
        skip!(
            "the host's root as a layer: an ordinary user can't leave out the mounts below it",
            needs = "root"
        );
    }
    let marker = Path::new("/etc/palisade-test-marker");
    let layers = Layers::new("/").upper_in_memory(16 << 20, 1000);
    let root = Root::overlay(layers).mount(Dev::new("/dev")).mount(Proc::new("/proc")).prepare().unwrap();
    in_split_view(&root, || {
        fs::write(marker, "inside").unwrap();
        for command in
            ["test $(stat -c %a /tmp) = 1777", "python3 -c 'print(6*7)'", "dpkg --verify base-files"]
        {
            let tool = command.split(' ').next().unwrap();
            if tool != "test" && !Path::new("/usr/bin").join(tool).exists() {
                continue;
            }
            let out = Command::new("/bin/sh").args(["-c", command]).output().unwrap();
            assert!(out.status.success(), "{command}: {out:?}");
        }
    });
    assert!(!marker.exists());
}
