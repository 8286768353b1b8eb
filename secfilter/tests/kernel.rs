//! Compiled filters against the kernel.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::HashMap;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use palisade_secfilter::{
    Action, Arch, ErrorKind, Filter, Host, Install, Policy, Profile, Rule, SeccompData, Syscall, arg, presets,
};

mod common;
use common::sys::{self, Shared};
use common::{Random, in_child, passes_in_child, skip};

const ALL_ONES: [u64; 6] = [u64::MAX; 6];

fn number(name: &str) -> u32 {
    name.parse::<Syscall>().unwrap().number()
}

/// A policy in which nothing but ending is let through, so that every call can be tried; its refusals tell the rules
/// apart.
fn random_policy(random: &mut Random) -> Policy {
    let mut policy = Policy::new(Action::Errno(300)).unknown(Action::Errno(301)).allow(["exit_group"]);
    for index in 0..random.below(40) {
        let first = random.below(480) as u32;
        let calls: Vec<Syscall> = (0..1 + random.below(6) as u32)
            .map(|i| Syscall::new(first + i * (1 + index as u32 % 3)))
            .filter(|call| call.number() != number("exit_group"))
            .collect();
        let mut rule = Rule::new(calls, Action::Errno(302 + index as u16));
        for _ in 0..random.below(4) {
            let mask = [u64::MAX, u64::MAX, 0xffff_ffff, random.word()][random.below(4) as usize];
            let subject = arg(random.below(6) as u8).masked(mask);
            let value = random.word();
            rule = rule.when(match random.below(6) {
                0 => subject.eq(value & mask),
                1 => subject.ne(value & mask),
                2 => subject.lt(value),
                3 => subject.le(value),
                4 => subject.gt(value),
                _ => subject.ge(value),
            });
        }
        // A rule that hides another or is constant is left out.
        let longer = policy.clone().rule(rule);
        if longer.compile().is_ok() {
            policy = longer;
        }
    }
    policy
}

/// A74: the kernel, the evaluator and the policy agree.
#[test]
fn a74_kernel_evaluator_and_policy_agree() {
    const CALLS: usize = 2000;
    let rounds = std::env::var("PALISADE_FILTER_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    let mut random = Random(7);
    let results = Shared::new(CALLS);
    for round in 0..rounds {
        let policy = random_policy(&mut random);
        let filter = policy.compile().unwrap();
        let calls: Vec<SeccompData> = (0..CALLS)
            .map(|_| {
                let nr = match random.below(20) {
                    0 => 0x8000_0000,
                    1 => u32::MAX,
                    2 => 0x3fff_ffff,
                    _ => random.below(490) as u32,
                };
                let nr = if nr == number("exit_group") || is_trampoline(nr) { 0 } else { nr };
                SeccompData::new(Syscall::new(nr), std::array::from_fn(|_| random.word()))
            })
            .collect();
        passes_in_child(|| {
            if Install::new(&filter).apply().is_err() {
                return 1;
            }
            for (index, data) in calls.iter().enumerate() {
                results.set(index, sys::call(data.nr, data.args));
            }
            0
        });
        for (index, data) in calls.iter().enumerate() {
            let verdict = filter.evaluate(data);
            assert_eq!(verdict, policy.evaluate(data), "round {round} {data:?}\n{filter}");
            let Action::Errno(errno) = verdict else { panic!("{verdict}") };
            assert_eq!(results.get(index), -i64::from(errno), "round {round} {data:?}\n{filter}");
        }
    }
}

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
    // It makes a queue, which would stay: -1 is a key, and all flags.
    "msgget",
    // The kernel asks no filter about these (Linux 6.14 and newer), and kills whoever is not its own trampoline.
    "uretprobe",
    "uprobe",
];

fn is_trampoline(nr: u32) -> bool {
    matches!(Syscall::new(nr).name(), Some("uretprobe" | "uprobe"))
}

/// What each system call answers to bad arguments, in a process of its own, under a filter or not.
fn probe(filter: Option<&Filter>, numbers: &[u32]) -> HashMap<u32, i64> {
    let results = Shared::new(1);
    let mut answers = HashMap::new();
    for &nr in numbers {
        results.set(0, i64::MIN);
        let status = in_child(|| {
            // Some answers depend on no_new_privs, which the filter brings.
            assert_eq!(sys::call(number("prctl"), [38, 1, 0, 0, 0, 0]), 0);
            if filter.is_some_and(|filter| filter.apply().is_err()) {
                return 1;
            }
            results.set(0, sys::call(nr, ALL_ONES));
            0
        });
        assert_eq!(status.code(), Some(0), "{}", Syscall::new(nr));
        answers.insert(nr, results.get(0));
    }
    answers
}

/// Every number is tried with bad arguments: what the evaluator says is refused is refused so, and what it lets
/// through gets the answer that it gets without a filter. (A63, A64, A68, A71.)
fn agrees_with_the_kernel(filter: &Filter) {
    let tried: Vec<u32> = (0..=600u32)
        .filter(|&nr| Syscall::new(nr).name().is_none_or(|name| !NOT_TRIED.contains(&name)))
        .collect();
    let verdict = |nr: u32| filter.evaluate(&SeccompData::new(Syscall::new(nr), ALL_ONES));
    let (through, refused): (Vec<u32>, Vec<u32>) = tried.iter().partition(|&&nr| verdict(nr).lets_through());
    assert!(through.len() > 30 && refused.len() > 100, "{} {}", through.len(), refused.len());
    let with = probe(Some(filter), &tried);
    let without = probe(None, &through);
    // Answers that differ from one process to the next.
    let identity =
        ["getpid", "gettid", "brk", "times", "getppid", "getcpu", "set_tid_address", "time", "umask"];
    for nr in through {
        let call = Syscall::new(nr);
        if !call.name().is_some_and(|name| identity.contains(&name)) {
            assert_eq!(with[&nr], without[&nr], "{call} is let through: with a filter, and without");
        }
    }
    for nr in refused {
        let Action::Errno(errno) = verdict(nr) else { panic!("{} {}", Syscall::new(nr), verdict(nr)) };
        assert_eq!(with[&nr], -i64::from(errno), "{}", Syscall::new(nr));
    }
}

#[test]
fn a71_payload_answers_every_number_as_the_evaluator_says() {
    let filter = presets::payload().compile().unwrap();
    agrees_with_the_kernel(&filter);
    let refused = |name: &str| filter.verdict(name.parse().unwrap()).never_allows();
    for name in "mount umount2 fsopen fsconfig fsmount open_tree move_mount mount_setattr setns pivot_root bpf keyctl \
                 add_key request_key perf_event_open userfaultfd kexec_load kexec_file_load ptrace process_vm_readv \
                 process_vm_writev pidfd_getfd name_to_handle_at open_by_handle_at init_module finit_module \
                 delete_module io_uring_setup io_uring_enter io_uring_register chroot clone3 reboot swapon acct syslog \
                 settimeofday clock_settime iopl ioperm quotactl fanotify_init lookup_dcookie"
        .split_whitespace()
    {
        assert!(refused(name), "{name}");
    }
}

/// Docker's profile: every number, tried, as the evaluator says (and so as listed, see `tests/profile.rs`).
#[test]
fn docker_default_answers_every_number_as_the_evaluator_says() {
    let host = Host::running().unwrap().capabilities(0xa804_25fb);
    agrees_with_the_kernel(&Profile::docker_default().policy(&host).unwrap().compile().unwrap());
}

#[test]
fn strict_compute_answers_as_the_evaluator_says() {
    agrees_with_the_kernel(&presets::strict_compute().default_action(Action::EPERM).compile().unwrap());
}

/// A59, A65: calls of another architecture, whose numbers and multiplexers (socketcall, ipc) the rules do not know.
#[test]
fn a59_foreign_abis_die() {
    let filter = presets::payload().compile().unwrap();
    for (what, probe) in [
        ("int 0x80", (|| i64::from(sys::call_i386(20))) as fn() -> i64),
        ("x32", || sys::call(0x4000_0000 + 39, [0; 6])),
    ] {
        let status = in_child(|| {
            filter.apply().unwrap();
            probe();
            0
        });
        assert_eq!(status.signal(), Some(libc::SIGSYS), "{what}: {status}");
    }
}

#[test]
fn another_architecture_runs_by_its_own_table() {
    let policy = Policy::new(Action::Allow).also(Arch::X86).rule(Rule::new(["getppid"], Action::Errno(77)));
    let filter = policy.compile().unwrap();
    let status = in_child(|| if sys::call_i386(64) > 0 { 0 } else { 1 });
    if status.code() != Some(0) {
        return skip("ia32", "this kernel runs no 32-bit programs");
    }
    passes_in_child(|| {
        filter.apply().unwrap();
        assert_eq!(sys::call_i386(64), -77);
        assert!(sys::call_i386(20) > 0, "getpid is 20 there");
        assert_eq!(sys::call(number("getppid"), [0; 6]), -77);
        0
    });
}

/// A62, and the parent-death signal: refused by value, in either half of the word.
#[test]
fn a62_terminal_input_and_parent_death_are_out_of_reach() {
    let filter = presets::payload().compile().unwrap();
    passes_in_child(|| {
        let file = std::fs::File::open("/dev/null").unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&file) as u64;
        let (ioctl, prctl) = (number("ioctl"), number("prctl"));
        assert_eq!(sys::call(ioctl, [fd, 0x5412, 0, 0, 0, 0]), -i64::from(libc::ENOTTY));
        assert_eq!(sys::call(prctl, [1, 9, 0, 0, 0, 0]), 0);
        filter.apply().unwrap();
        for high in [0, 1 << 32, u64::MAX << 32] {
            for request in [0x5412, 0x541c] {
                assert_eq!(sys::call(ioctl, [fd, high | request, 0, 0, 0, 0]), -i64::from(libc::EPERM));
            }
            assert_eq!(sys::call(prctl, [high | 1, 0, 0, 0, 0, 0]), -i64::from(libc::EPERM));
        }
        assert_eq!(sys::call(ioctl, [fd, 0x5401, 0, 0, 0, 0]), -i64::from(libc::ENOTTY));
        assert_eq!(sys::call(prctl, [1, 9, 0, 0, 0, 0]), 0, "setting SIGKILL again is fine");
        0
    });
}

#[test]
fn a69_sockets_of_other_families_do_not_exist() {
    let filter = presets::payload().compile().unwrap();
    passes_in_child(|| {
        filter.apply().unwrap();
        let socket = |family, kind, protocol| sys::call(number("socket"), [family, kind, protocol, 0, 0, 0]);
        for (family, kind) in [(38, 5), (40, 1), (17, 3), (31, 1), (29, 3), (2, 10), (30, 1), (21, 5)] {
            assert_eq!(socket(family, kind, 0), -i64::from(libc::EAFNOSUPPORT), "{family}");
        }
        assert_eq!(socket(16, 3, 9), -i64::from(libc::EAFNOSUPPORT), "netlink audit");
        for (family, kind) in [(1, 1), (2, 1), (10, 2), (16, 3)] {
            drop(sys::adopt(socket(family, kind, 0)));
        }
        0
    });
}

/// Programs that people run must not notice the default filter. (A63: threads start although clone3 is refused.)
#[test]
fn real_programs_run_under_payload() {
    let filter = presets::payload().compile().unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("a.c"),
        "#include <pthread.h>\n#include <stdio.h>\nstatic void *f(void *p) { return p; }\nint main(void) { pthread_t t; \
         int e = pthread_create(&t, 0, f, 0); if (e) return e; pthread_join(t, 0); puts(\"threaded\"); return 0; }\n",
    )
    .unwrap();
    std::fs::write(
        dir.path().join("a.rs"),
        "fn main() { std::thread::spawn(|| println!(\"rust\")).join().unwrap(); }",
    )
    .unwrap();
    for (program, script, expected) in [
        ("sh", "echo hi | cat && (sleep 0.01 & wait) && ls / > /dev/null && echo shell", "shell"),
        (
            "python3",
            "python3 -c 'import threading, subprocess, socket, sqlite3, ctypes, multiprocessing as m, asyncio, tempfile\n\
             t = threading.Thread(target=lambda: None); t.start(); t.join()\n\
             asyncio.run(asyncio.sleep(0.01))\nsubprocess.run([\"true\"], check=True)\nsocket.socketpair()\n\
             p = m.get_context(\"fork\").Process(target=int); p.start(); p.join()\nprint(\"python\")'",
            "python",
        ),
        ("gcc", "gcc -O1 -pthread -o a a.c && ./a", "threaded"),
        (
            "git",
            "git init -q g && cd g && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x && git log \
             --format=%s",
            "x",
        ),
        (
            "node",
            "node -e 'const w = new (require(\"worker_threads\").Worker)(\"1\", {eval: true}); w.on(\"exit\", () => \
             require(\"child_process\").exec(\"echo node\", (e, o) => process.stdout.write(e ? String(e) : o)))'",
            "node",
        ),
        ("rustc", "rustc -o r a.rs && ./r", "rust"),
        ("cargo", "cargo new -q --vcs none c && cd c && cargo run -q --offline", "Hello, world!"),
    ] {
        let found =
            Command::new("sh").args(["-c", &format!("command -v {program}")]).stdout(Stdio::null()).status();
        if !found.unwrap().success() {
            skip(program, &format!("{program} is not installed"));
            continue;
        }
        let mut command = Command::new("sh");
        command.args(["-c", script]).current_dir(dir.path());
        if !sys::is_root() {
            command.env("HOME", dir.path());
        }
        Install::new(&filter).confine(&mut command).unwrap();
        let output = command.output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(
            output.status.success() && out.ends_with(&format!("{expected}\n")),
            "{program}: {}\n{out}{err}",
            output.status
        );
    }
}

#[test]
fn strict_compute_runs_a_program_that_computes_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let compile = |name: &str, source: &str, extra: &[&str]| {
        std::fs::write(dir.path().join("x.c"), source).unwrap();
        let status = Command::new("gcc")
            .args(extra)
            .arg("-o")
            .arg(dir.path().join(name))
            .arg(dir.path().join("x.c"))
            .status();
        status.is_ok_and(|status| status.success())
    };
    let good = "#include <stdio.h>\n#include <stdlib.h>\nint main(void) { int n; char *m = malloc(1 << 22); \
                if (!m || scanf(\"%d\", &n) != 1) return 1; printf(\"%d\\n\", n * n); return 0; }\n";
    if !compile("good", good, &[]) || !compile("static", good, &["-static"]) {
        return skip("gcc", "gcc is not installed");
    }
    let filter = presets::strict_compute().compile().unwrap();
    let run = |name: &str| {
        let mut command = Command::new(dir.path().join(name));
        let input = dir.path().join("input");
        std::fs::write(&input, "12\n").unwrap();
        command.stdin(std::fs::File::open(input).unwrap());
        Install::new(&filter).confine(&mut command).unwrap();
        command.output().unwrap()
    };
    for name in ["good", "static"] {
        let output = run(name);
        assert!(output.status.success(), "{name}: {}", output.status);
        assert_eq!(output.stdout, b"144\n");
    }
    for (name, body) in [
        ("forks", "fork();"),
        ("connects", "socket(1, 1, 0);"),
        ("unlinks", "unlink(\"/nowhere\");"),
        ("kills", "kill(getpid(), 0);"),
    ] {
        let source = format!(
            "#include <unistd.h>\n#include <signal.h>\n#include <sys/socket.h>\nint main(void) {{ {body} return 0; }}\n"
        );
        assert!(compile(name, &source, &[]));
        let status = run(name).status;
        assert_eq!(status.signal(), Some(libc::SIGSYS), "{name}: {status}");
    }
    let source = "#include <fcntl.h>\n#include <errno.h>\nint main(void) { return open(\"new\", O_CREAT | O_WRONLY, 0600) < 0 && errno == EPERM ? 0 : 1; }\n";
    assert!(compile("writes", source, &[]));
    assert_eq!(run("writes").status.code(), Some(0));
}

/// Lines of /proc/thread-self/status.
fn status_line(key: &str) -> String {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap();
    line.trim().to_owned()
}

#[test]
fn install_sets_no_new_privs_unless_told_not_to() {
    let filter = presets::payload().compile().unwrap();
    passes_in_child(|| {
        let before: u32 = status_line("Seccomp_filters").parse().unwrap();
        filter.apply().unwrap();
        assert_eq!(status_line("NoNewPrivs"), "1");
        assert_eq!(status_line("Seccomp"), "2");
        assert_eq!(status_line("Seccomp_filters"), (before + 1).to_string());
        0
    });
    if !sys::is_root() || status_line("NoNewPrivs") != "0" {
        return skip("root", "the rest needs root without no_new_privs");
    }
    passes_in_child(|| {
        Install::new(&filter).keep_privileges().log().allow_speculation().apply().unwrap();
        assert_eq!(status_line("NoNewPrivs"), "0");
        assert_eq!(status_line("Seccomp"), "2");
        0
    });
}

/// A76.
#[test]
fn a76_without_no_new_privs_and_capability_it_is_an_error() {
    if status_line("NoNewPrivs") != "0" {
        return skip("root", "no_new_privs is set already");
    }
    let filter = presets::payload().compile().unwrap();
    passes_in_child(|| {
        if sys::is_root() {
            sys::become_nobody();
        }
        let error = Install::new(&filter).keep_privileges().apply().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Privilege);
        assert_eq!(error.errno(), Some(libc::EACCES));
        assert!(error.to_string().contains("keep_privileges"), "{error}");
        assert_eq!(status_line("Seccomp_filters"), "0");
        Install::new(&filter).apply().unwrap();
        0
    });
}

#[test]
fn all_threads_take_it_or_none() {
    let refuse =
        Policy::new(Action::Allow).rule(Rule::new(["getppid"], Action::Errno(77))).compile().unwrap();
    let other = Policy::new(Action::Allow).rule(Rule::new(["getpgrp"], Action::Errno(78))).compile().unwrap();
    let getppid = || sys::call(number("getppid"), [0; 6]);
    passes_in_child(|| {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            wait.recv().unwrap();
            getppid()
        });
        Install::new(&refuse).all_threads().apply().unwrap();
        go.send(()).unwrap();
        assert_eq!(thread.join().unwrap(), -77);
        0
    });
    passes_in_child(|| {
        let (send_tid, tid) = std::sync::mpsc::channel();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            other.apply().unwrap();
            send_tid.send(sys::gettid()).unwrap();
            wait.recv().unwrap();
        });
        let tid = tid.recv().unwrap();
        let error = Install::new(&refuse).all_threads().apply().unwrap_err();
        assert_eq!((error.kind(), error.thread()), (ErrorKind::Thread, Some(tid)));
        assert!(getppid() > 0, "nothing was installed");
        let error = Install::new(&refuse).all_threads().apply_with_listener().unwrap_err();
        assert_eq!((error.kind(), error.thread()), (ErrorKind::Thread, None));
        go.send(()).unwrap();
        thread.join().unwrap();
        0
    });
}

/// Filters stack; all of them together may have 32768 instructions.
#[test]
fn too_many_filters_are_refused_by_the_kernel() {
    let rules = (0..1500).map(|i| Rule::new(["read"], Action::Errno(5)).when(arg(0).eq(3 * i)));
    let long = rules.fold(Policy::new(Action::Allow), Policy::rule).compile().unwrap();
    assert!(long.instructions().len() > 1000);
    passes_in_child(|| {
        for _ in 0..40 {
            if let Err(error) = long.apply() {
                assert_eq!((error.kind(), error.errno()), (ErrorKind::Os, Some(libc::ENOMEM)));
                return 0;
            }
        }
        1
    });
}

#[test]
fn a_filter_that_forbids_exec_is_refused_for_a_command() {
    let filter = Policy::new(Action::EPERM).compile().unwrap();
    let error = Install::new(&filter).confine(&mut Command::new("/bin/true")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ForbidsExec);
}
