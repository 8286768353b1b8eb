//! Docker's profile inside `presets::docker`: every system call, tried with bad arguments, answers as the evaluator says.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};

use palisade::presets::docker::Docker;
use palisade::secfilter::{Action, Filter, Host, Profile, SeccompData, Syscall};
use palisade_testkit::{raw_call, temp_dir};

#[path = "common/sys.rs"]
mod common;

const ALL_ONES: [u64; 6] = [u64::MAX; 6];
const DOCKER: u64 = 0xa804_25fb;

/// Calls that do not come back, wait, or do something even with bad arguments.
const NOT_TRIED: &[&str] = &[
    "exit",
    "exit_group",
    "pause",
    "rt_sigreturn",
    "fork",
    "vfork",
    "clone",
    "sync",
    "alarm",
    "munlockall",
    "setsid",
    "restart_syscall",
    // The kernel asks no filter about these (Linux 6.14 and newer), and kills whoever is not its own trampoline.
    "uretprobe",
    "uprobe",
];

/// Calls whose answers differ from one process to the next.
const OF_THE_PROCESS: &[&str] =
    &["getpid", "gettid", "brk", "times", "getppid", "getcpu", "set_tid_address", "time", "umask", "getpgrp"];

/// Refused to a container with the default capabilities.
const REFUSED: &str = "acct add_key bpf clock_settime delete_module fanotify_init finit_module fsconfig fsmount fsopen \
    fspick get_mempolicy init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load \
    kexec_load keyctl lookup_dcookie mbind migrate_pages mount mount_setattr move_mount move_pages nfsservctl \
    open_by_handle_at open_tree perf_event_open pidfd_getfd pivot_root process_madvise quotactl quotactl_fd reboot \
    request_key set_mempolicy set_mempolicy_home_node setdomainname sethostname setns settimeofday swapoff swapon sysfs \
    syslog umount2 unshare uselib userfaultfd ustat vhangup";

fn numbers() -> impl Iterator<Item = u32> {
    (0..=600).filter(|&nr| Syscall::new(nr).name().is_none_or(|name| !NOT_TRIED.contains(&name)))
}

#[test]
#[ignore = "run by the test every_call_answers_as_the_evaluator_says, inside"]
fn probe_body() {
    for nr in numbers() {
        let (mut answer, to) = std::io::pipe().unwrap();
        // Each in a process of its own: some of them change it.
        let child = common::fork(|| {
            let result = raw_call(nr, ALL_ONES);
            (&to).write_all(&result.to_le_bytes()).unwrap();
        });
        drop(to);
        let mut bytes = [0; 8];
        answer.read_exact(&mut bytes).unwrap_or_else(|error| panic!("call {nr}: {error}"));
        common::reap(child);
        println!("\ncall {nr} {}", i64::from_le_bytes(bytes));
    }
}

/// What each call answers in a container.
fn probe(docker: &Docker) -> HashMap<u32, i64> {
    let program = std::env::current_exe().unwrap();
    let docker = ["/usr", "/lib", "/lib64"]
        .into_iter()
        .fold(docker.clone(), |docker, dir| docker.volume(format!("{dir}:{dir}:ro")));
    let docker = docker.volume(format!("{}:/probe:ro", program.display()));
    let sandbox = docker.build().unwrap_or_else(|error| panic!("{error}"));
    let mut command = sandbox.command("/probe");
    command.args(["--ignored", "--exact", "probe_body", "--nocapture", "--test-threads=1"]);
    let out = command.output().unwrap_or_else(|error| panic!("{error}"));
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{}: {text}{}", out.status, String::from_utf8_lossy(&out.stderr));
    let lines = text.lines().filter_map(|line| line.strip_prefix("call ")?.split_once(' '));
    lines.map(|(nr, answer)| (nr.parse().unwrap(), answer.parse().unwrap())).collect()
}

fn filter(capabilities: u64) -> Filter {
    let host = Host::running().unwrap().capabilities(capabilities);
    Profile::docker_default().policy(&host).unwrap().compile().unwrap()
}

fn image() -> tempfile::TempDir {
    let dir = temp_dir();
    for name in ["usr", "lib", "lib64", "proc", "dev", "sys", "etc", "tmp"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    fs::write(dir.path().join("probe"), "").unwrap();
    dir
}

/// What is refused is refused as the evaluator says; what is let through answers as it does without a filter.
#[test]
fn every_call_answers_as_the_evaluator_says() {
    let image = image();
    for (docker, capabilities) in [
        (Docker::new(image.path()), DOCKER),
        (Docker::new(image.path()).user("65534:65534"), DOCKER),
        (Docker::new(image.path()).cap_add("SYS_ADMIN"), DOCKER | 1 << 21),
    ] {
        let filter = filter(capabilities);
        let with = probe(&docker);
        let without = probe(&docker.security_opt("seccomp=unconfined"));
        assert_eq!(with.len(), numbers().count());
        let mut refused = Vec::new();
        for nr in numbers() {
            let call = Syscall::new(nr);
            match filter.evaluate(&SeccompData::new(call, ALL_ONES)) {
                Action::Allow if call.name().is_some_and(|name| OF_THE_PROCESS.contains(&name)) => {}
                Action::Allow => assert_eq!(with[&nr], without[&nr], "{call} is let through"),
                Action::Errno(errno) => {
                    assert_eq!(with[&nr], -i64::from(errno), "{call} is refused");
                    refused.extend(call.name().filter(|_| errno == libc::EPERM as u16));
                }
                other => panic!("{call}: {other}"),
            }
        }
        let number = |name: &str| name.parse::<Syscall>().unwrap().number();
        if capabilities == DOCKER {
            for name in REFUSED.split_whitespace() {
                assert!(refused.contains(&name), "{name} is refused");
            }
            // So that C libraries fall back to clone, instead of giving up.
            assert_eq!(with[&number("clone3")], -i64::from(libc::ENOSYS));
        } else {
            for name in [
                "mount",
                "umount2",
                "unshare",
                "setns",
                "bpf",
                "fsopen",
                "open_tree",
                "sethostname",
                "clone3",
            ] {
                assert!(!refused.contains(&name), "{name} goes with CAP_SYS_ADMIN");
            }
            assert!(refused.contains(&"reboot") && refused.contains(&"keyctl"));
        }
    }
}
