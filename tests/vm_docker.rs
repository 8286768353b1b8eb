//! The limits of `docker run`: what the cgroup's files say, what the container sees of them, and that they hold. Needs a
//! delegated, pure cgroup v2.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use palisade::cgroup::Cgroup;
use palisade::presets::docker::Docker;
use palisade::{Child, ExitCause, Stdio};
use palisade_testkit::{cgroup_dir, is_root, skip, wait_until};

/// A change of the options.
type Change = fn(Docker) -> Docker;

#[expect(dead_code, reason = "masks are looked at elsewhere")]
#[path = "common/image.rs"]
mod common;
use common::{image, running, says};

macro_rules! docker {
    ($image:ident) => {{
        let Some(parent) = cgroup_dir() else {
            skip!("no delegated cgroup v2 directory", needs = "controllers");
        };
        Docker::new($image.path()).cgroup_parent(Cgroup::open(parent).unwrap())
    }};
}

macro_rules! image {
    () => {
        match image() {
            Some(image) => image,
            None => skip!("no busybox (package busybox-static)"),
        }
    };
}

/// A file of a container's cgroup, as it is seen from outside.
fn file(child: &Child, name: &str) -> String {
    let path = child.cgroup().unwrap().path().join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_owned()
}

#[test]
fn each_option_is_a_setting_of_the_cgroup() {
    let image = image!();
    let docker = docker!(image);
    let cases: [(Change, &[(&str, &str)]); 13] = [
        // Swap is as much as memory, unless it is said; what is said is both together.
        (|docker| docker.memory("64m"), &[("memory.max", "67108864"), ("memory.swap.max", "67108864")]),
        (
            |docker| docker.memory("64m").memory_swap("64m"),
            &[("memory.max", "67108864"), ("memory.swap.max", "0")],
        ),
        (
            |docker| docker.memory("64m").memory_swap("96m"),
            &[("memory.max", "67108864"), ("memory.swap.max", "33554432")],
        ),
        (
            |docker| docker.memory("64m").memory_swap("-1"),
            &[("memory.max", "67108864"), ("memory.swap.max", "max")],
        ),
        (
            |docker| docker.memory("64m").memory_reservation("32m"),
            &[("memory.max", "67108864"), ("memory.low", "33554432")],
        ),
        (|docker| docker.cpus("0.5"), &[("cpu.max", "50000 100000")]),
        (|docker| docker.cpus("0.01"), &[("cpu.max", "1000 100000")]),
        // As runc converts it since 1.3.2.
        (|docker| docker.cpu_shares(512), &[("cpu.weight", "59")]),
        (|docker| docker.cpu_shares(1024), &[("cpu.weight", "100")]),
        (
            |docker| docker.cpuset_cpus("0").cpuset_mems("0"),
            &[("cpuset.cpus", "0"), ("cpuset.cpus.effective", "0"), ("cpuset.mems", "0")],
        ),
        (|docker| docker.pids_limit(33), &[("pids.max", "33")]),
        (|docker| docker.pids_limit(-1), &[("pids.max", "max")]),
        (|docker| docker.pids_limit(12).memory("32m"), &[("pids.max", "12"), ("memory.max", "33554432")]),
    ];
    for (change, files) in cases {
        let child = running(&change(docker.clone()));
        for (name, value) in files {
            assert_eq!(file(&child, name), *value, "{name}");
        }
        let group = child.cgroup().unwrap().path().to_owned();
        drop(child);
        assert!(wait_until(Duration::from_secs(10), || !group.exists()), "removed with its container");
    }
}

/// Where no controller weighs devices there is no such file, and the container does not start without it.
#[test]
fn a_blkio_weight_is_set_or_refused() {
    let image = image!();
    let docker = docker!(image);
    let any = running(&docker.clone().pids_limit(50));
    let there = any.cgroup().unwrap().path().join("io.weight").exists();
    let sandbox = docker.blkio_weight(500).build().unwrap();
    let mut command = sandbox.command("sleep");
    match command.arg("1000").stdin(Stdio::null()).spawn() {
        Ok(child) => assert_eq!(file(&child, "io.weight"), "default 4950"),
        Err(error) => {
            assert_eq!(error.step(), palisade::Step::Cgroup, "{error}");
            assert!(!there && error.to_string().contains("io"), "{error}");
        }
    }
}

/// The container sees its own group as the root of the tree, and can change nothing of it.
#[test]
fn a_container_sees_its_limits_and_can_not_change_them() {
    let image = image!();
    let docker = docker!(image).pids_limit(40).memory("48m").cpus("0.5");
    let script = "cd /sys/fs/cgroup; cat pids.max memory.max cpu.max /proc/self/cgroup; \
                  for f in pids.max memory.max cgroup.procs; do (echo max >$f) 2>/dev/null && echo written $f; done; \
                  mkdir below 2>/dev/null && echo made; true";
    assert_eq!(says(&docker, script), "40\n50331648\n50000 100000\n0::/\n");
}

#[test]
fn memory_beyond_the_limit_ends_the_container() {
    let image = image!();
    let docker = docker!(image).memory("16m").memory_swap("16m");
    let sandbox = docker.build().unwrap();
    let dd = |size: &str| {
        let size = format!("bs={size}");
        let mut command = sandbox.command("busybox");
        command.args(["dd", "if=/dev/zero", "of=/dev/null", &size, "count=1"]);
        command.stderr(Stdio::null()).spawn().unwrap()
    };
    let mut child = dd("128M");
    let status = child.wait().unwrap();
    assert_eq!((status.cause(), status.signal()), (ExitCause::OutOfMemory, Some(libc::SIGKILL)), "{status}");
    let status = dd("1M").wait().unwrap();
    assert!(status.success(), "{status}");
    // What is in memory is the container's, its files too.
    let docker = docker.tmpfs("/big:size=64m");
    let sandbox = docker.build().unwrap();
    let mut command = sandbox.command("busybox");
    command.args(["dd", "if=/dev/zero", "of=/big/file", "bs=1M", "count=40"]).stderr(Stdio::null());
    let status = command.status().unwrap();
    assert_eq!(status.cause(), ExitCause::OutOfMemory, "{status}");
}

#[test]
fn processes_beyond_the_limit_are_not_made() {
    let image = image!();
    let docker = docker!(image).pids_limit(6);
    let script = "for i in 1 2 3 4 5 6 7 8; do sleep 100 & done 2>&1; cat /sys/fs/cgroup/pids.current";
    let sandbox = docker.build().unwrap();
    let out = sandbox.command("sh").args(["-c", script]).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
    assert!(said.contains("can't fork: Resource temporarily unavailable"), "{}: {said}", out.status);
    // The shell, what it has started, and the one that looks.
    let script =
        "for i in 1 2 3 4; do sleep 100 & done; n=$(busybox cat /sys/fs/cgroup/pids.current); echo $n";
    assert_eq!(says(&docker, script), "6\n");
}

#[test]
fn a_quota_of_cpu_time_holds() {
    let image = image!();
    let docker = docker!(image).cpus("0.1").cpuset_cpus("0");
    assert_eq!(
        says(&docker, "grep Cpus_allowed_list /proc/self/status; busybox nproc"),
        "Cpus_allowed_list:\t0\n1\n"
    );
    let sandbox = docker.build().unwrap();
    let mut command = sandbox.command("sh");
    let child = command.args(["-c", "while :; do :; done"]).stdin(Stdio::null()).spawn().unwrap();
    let stat = |name: &str| -> u64 {
        let stat = file(&child, "cpu.stat");
        let line = stat.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().parse().unwrap()
    };
    assert!(
        wait_until(Duration::from_secs(60), || stat("nr_throttled ") >= 5),
        "{}",
        file(&child, "cpu.stat")
    );
}

/// Read, but not written: with a cgroup that is the kernel's to say, whatever the node's mode.
#[test]
fn devices_are_what_their_rules_say() {
    const FUSE: &str = "/dev/fuse";
    let image = image!();
    let docker = docker!(image);
    if !fs::metadata(FUSE).is_ok_and(|meta| meta.permissions().mode() & 0o666 == 0o666) {
        skip!("no {FUSE} that everybody may open");
    }
    if !is_root() {
        let sandbox = docker.device("/dev/fuse:/dev/read:r").build().unwrap();
        let error = sandbox.command("sleep").spawn().unwrap_err();
        assert_eq!(error.step(), palisade::Step::Cgroup, "{error}");
        skip!("rules for devices are a program that root attaches", needs = "root");
    }
    let script = "(: </dev/it) 2>/dev/null && echo read; (: >/dev/it) 2>/dev/null && echo written; \
                  (: >/dev/null) && echo null";
    for (option, says_) in [
        ("/dev/fuse:/dev/it:r", "read\nnull\n"),
        ("/dev/fuse:/dev/it:w", "written\nnull\n"),
        ("/dev/fuse:/dev/it", "read\nwritten\nnull\n"),
    ] {
        let docker = docker.clone().pids_limit(100).device(option);
        assert_eq!(says(&docker, script), says_, "{option}");
    }
}
