//! An image of busybox, and containers of it.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use palisade::presets::docker::Docker;
use palisade::{Child, Stdio};
use palisade_testkit::temp_dir;
use tempfile::TempDir;

/// An image of busybox, with users as Docker's busybox has them.
pub(crate) fn image() -> Option<TempDir> {
    let program = ["/usr/bin/busybox", "/bin/busybox"].into_iter().find(|path| Path::new(path).exists())?;
    let dir = temp_dir();
    let root = dir.path();
    for name in ["bin", "etc", "proc", "dev", "sys", "tmp", "root"] {
        fs::create_dir(root.join(name)).unwrap();
    }
    fs::copy(program, root.join("bin/busybox")).unwrap();
    for name in [
        "sh", "cat", "id", "grep", "ls", "touch", "stat", "hostname", "true", "sleep", "readlink", "tr",
        "mkdir",
    ] {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/home:/bin/false\n",
    )
    .unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nwheel:x:10:root\naudio:x:29:\nnogroup:x:65534:\n").unwrap();
    Some(dir)
}

pub(crate) fn says(docker: &Docker, script: &str) -> String {
    let sandbox = docker.build().unwrap_or_else(|error| panic!("{error}"));
    let out = sandbox.command("sh").args(["-c", script]).output().unwrap_or_else(|error| panic!("{error}"));
    let (text, errors) = (String::from_utf8(out.stdout).unwrap(), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{script}: {}: {text}{errors}", out.status);
    text
}

/// A running container, to be looked at from outside.
pub(crate) fn running(docker: &Docker) -> Child {
    let sandbox = docker.build().unwrap_or_else(|error| panic!("{error}"));
    let mut command = sandbox.command("sleep");
    command.arg("1000").stdin(Stdio::null());
    command.spawn().unwrap_or_else(|error| panic!("{error}"))
}

/// The masks of /proc/PID/status: inheritable, permitted, effective, bounding, ambient.
pub(crate) fn masks(child: &Child) -> [u64; 5] {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(|name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap()
    })
}
