//! Views built in processes of their own.
#![allow(dead_code, reason = "each test binary uses its part of this")]

pub(crate) mod sys;

use std::fs;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::path::Path;

use palisade_fsroot::{PreparedRoot, Root};
use palisade_sys::{Explained, Program};
use palisade_testkit::in_child;

/// The id that the tests' user namespaces map to the caller.
pub(crate) const INSIDE: u32 = 1000;

/// A new user namespace with one id, and new mount, pid, ipc, uts and network namespaces, for children.
pub(crate) fn unshare_all() {
    let (uid, gid) = sys::ids();
    let other =
        libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWNET | libc::CLONE_NEWUTS;
    sys::unshare(libc::CLONE_NEWUSER | other).expect("unshare");
    fs::write("/proc/self/setgroups", "deny").expect("setgroups");
    fs::write("/proc/self/gid_map", format!("{INSIDE} {gid} 1")).expect("gid_map");
    fs::write("/proc/self/uid_map", format!("{INSIDE} {uid} 1")).expect("uid_map");
    sys::umask(0);
}

/// Runs a program in this process.
pub(crate) fn run(program: &Program) -> Result<(), Explained> {
    sys::run(&mut program.image()).map_err(|fault| program.explain(fault))
}

/// Builds the view in a child with namespaces of its own, masks included, and calls `body` in it, as pid 1.
#[track_caller]
pub(crate) fn in_view(root: &PreparedRoot, body: impl FnOnce()) {
    in_child(|| {
        unshare_all();
        in_child(|| {
            build(root).unwrap_or_else(|error| panic!("{error}"));
            body();
        });
    });
}

/// Builds the view in this process.
///
/// # Panics
/// In the mount namespace that the test was started in, where a program that fails halfway would leave its mounts.
pub(crate) fn build(root: &PreparedRoot) -> Result<(), Explained> {
    assert!(sys::is_apart(), "a view is built in a mount namespace of the test's own: unshare first");
    run(&root.program())?;
    run(&root.masks())
}

/// Why a view cannot be built; in a child with namespaces of its own.
#[track_caller]
pub(crate) fn fails(root: &Root, check: impl FnOnce(Explained)) {
    refused(&root.prepare().unwrap_or_else(|error| panic!("{error}")), check);
}

/// The same of a view that was prepared before.
#[track_caller]
pub(crate) fn refused(root: &PreparedRoot, check: impl FnOnce(Explained)) {
    in_child(|| {
        unshare_all();
        in_child(|| check(build(root).expect_err("this view must not come into being")));
    });
}

/// [`in_view`] in two parts: sources taken by this process, the rest in the child.
#[track_caller]
pub(crate) fn in_split_view(root: &PreparedRoot, body: impl FnOnce()) {
    const FIRST: i32 = 300;
    in_child(|| {
        sys::unshare(libc::CLONE_NEWNS).expect("unshare");
        let (sources, slots, rest) = root.split(FIRST);
        let mut image = sources.image();
        sys::run(&mut image).unwrap_or_else(|fault| panic!("{}", sources.explain(fault)));
        let trees: Vec<_> = slots.iter().map(|&slot| sys::adopt(image.slot(slot)).into_raw_fd()).collect();
        unshare_all();
        in_child(|| {
            for (tree, to) in trees.iter().zip(FIRST..) {
                sys::dup2(tree.as_raw_fd(), to);
            }
            run(&rest).unwrap_or_else(|error| panic!("{error}"));
            run(&root.masks()).unwrap_or_else(|error| panic!("{error}"));
            body();
        });
    });
}

/// Names in a directory, sorted.
pub(crate) fn names(dir: impl AsRef<Path>) -> Vec<String> {
    let dir = dir.as_ref();
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The errno of what must fail.
#[track_caller]
pub(crate) fn errno<T>(result: std::io::Result<T>) -> i32 {
    match result {
        Ok(_) => panic!("this must fail"),
        Err(error) => error.raw_os_error().expect("an errno"),
    }
}
