//! The default view.

use std::fs;
use std::process::Command;

use palisade_fsroot::{HostView, Root};
use palisade_testkit::{Snapshot, can_unshare_user, is_root, skip};

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
    println!("{} calls, {} for masks", root.program().call_count(), root.masks().call_count());
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
    let table = |text: String| -> Vec<String> {
        // Mount point and options: the ids differ.
        text.lines().map(|line| line.split(' ').skip(4).take(2).collect::<Vec<_>>().join(" ")).collect()
    };
    in_view(&root, || {
        let one = table(fs::read_to_string("/proc/self/mountinfo").unwrap());
        println!("{one:#?}");
    });
    in_split_view(&root, || {
        let out = Command::new("/bin/ls").arg("/").output().unwrap();
        assert!(out.status.success(), "{out:?}");
    });
}
