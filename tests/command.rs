//! The surface of `Command`: what reaches the payload, and what comes back.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use palisade::{Command, ErrorKind, ExitCause, Resource, Sandbox, Session, Stdio, Step};

fn sandbox() -> Sandbox {
    Sandbox::new().expect("the secure default is possible here")
}

fn sh(sandbox: &Sandbox, script: &str) -> Command {
    let mut command = sandbox.command("/bin/sh");
    command.arg("-c").arg(script);
    command
}

/// Standard output of a script that succeeds.
fn says(command: &Command) -> String {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}: {}", out.status, String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn the_simplest_use_works() {
    let out = sandbox().command("/bin/echo").arg("hi").output().unwrap();
    assert!(out.status.success());
    assert_eq!(out.stdout, b"hi\n");
    assert_eq!(out.stderr, b"");
    assert!(out.status.usage().unwrap().max_rss > 0);
}

/// A42: no code of a payload's is taken for a failure of the set-up.
#[test]
fn exit_codes_are_the_payloads_own() {
    let sandbox = sandbox();
    for code in [0, 1, 2, 101, 105, 125, 126, 127, 128, 137, 255] {
        let status = sh(&sandbox, &format!("exit {code}")).status().unwrap();
        assert_eq!(status.code(), Some(code));
        assert_eq!(status.cause(), ExitCause::Exited(code));
        assert_eq!(std::process::ExitStatus::from(status).code(), Some(code));
    }
}

#[test]
fn a_signal_that_ends_the_payload_is_told() {
    // The payload is pid 1 of its namespace, which ignores what it has no handler for: a child of it dies.
    let status = sh(&sandbox(), "sh -c 'kill -TERM $$'; test $? = 143").status().unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn a_program_that_is_not_there_is_an_error_of_spawn() {
    let error = sandbox().command("/no/such/program").spawn().unwrap_err();
    assert_eq!(
        (error.kind(), error.step(), error.errno()),
        (ErrorKind::Exec, Step::Exec, Some(libc::ENOENT))
    );
    assert_eq!(error.object(), Some("/no/such/program"));
    assert!(error.to_string().contains("execve(\"/no/such/program\""), "{error}");
    assert!(error.hint().unwrap().contains("bind_ro"), "{error}");
}

/// A40: neither the host program's PATH nor a directory that is only named relatively says what runs.
#[test]
fn a_name_is_looked_up_in_the_payloads_path() {
    let sandbox = sandbox();
    assert_eq!(says(sandbox.command("echo").arg("x")), "x\n");
    let error = sandbox.command("echo").env("PATH", "/nowhere:relative::").spawn().unwrap_err();
    assert_eq!(error.errno(), Some(libc::ENOENT), "{error}");
    let error = sandbox.command("echo").env("PATH", ":.:").spawn().unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::Exec,
        "an empty or relative entry is no place of the sandbox: {error}"
    );
    let error = sandbox.command("passwd").env("PATH", "/etc:/nowhere").spawn().unwrap_err();
    assert_eq!(error.errno(), Some(libc::EACCES), "found but not executable beats not found: {error}");
    assert_eq!(error.object(), Some("passwd"));
}

/// A39: a missing interpreter, an empty file, a directory, no permission: none of them goes to a shell.
#[test]
fn what_is_no_program_is_an_error_without_a_shell() {
    let dir = tempfile::tempdir().unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let file = |name: &str, contents: &[u8], mode| {
        let path = dir.path().join(name);
        std::fs::write(&path, contents).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    file("empty", b"", 0o755);
    file("text", b"echo pwned\n", 0o755);
    file("orphan", b"#!/no/such/interpreter\n", 0o755);
    file("plain", b"#!/bin/sh\n", 0o644);
    file("script", b"#!/bin/sh\necho $0 $1\n", 0o755);
    let sandbox = Sandbox::builder().bind_ro(dir.path(), "/opt").build().unwrap();
    for (name, errno) in [
        ("empty", libc::ENOEXEC),
        ("text", libc::ENOEXEC),
        ("orphan", libc::ENOENT),
        ("plain", libc::EACCES),
        ("", libc::EACCES),
    ] {
        let error = sandbox.command(format!("/opt/{name}")).output().unwrap_err();
        assert_eq!((error.kind(), error.errno()), (ErrorKind::Exec, Some(errno)), "{name}: {error}");
    }
    assert_eq!(says(sandbox.command("/opt/script").arg("a b")), "/opt/script a b\n");
}

#[test]
fn arguments_and_arg0_arrive_as_they_are() {
    let sandbox = sandbox();
    let odd = ["", " ", "a b", "--", "*", "$HOME", "\n", "ü"];
    let out = sh(&sandbox, "for a; do printf '<%s>' \"$a\"; done").arg("sh").args(odd).output().unwrap();
    let expected: String = odd.iter().map(|a| format!("<{a}>")).collect();
    assert_eq!(String::from_utf8(out.stdout).unwrap(), expected);
    let mut command = sandbox.command("/bin/cat");
    assert_eq!(says(command.arg("/proc/self/cmdline")), "/bin/cat\0/proc/self/cmdline\0");
    assert_eq!(says(command.arg0("other name")), "other name\0/proc/self/cmdline\0");
}

#[test]
fn the_environment_is_the_sandboxes_own() {
    let sandbox =
        Sandbox::builder().env("FROM", "sandbox").env("BOTH", "1").env("BOTH", "2").build().unwrap();
    let mut command = sandbox.command("/usr/bin/env");
    let names = |text: &str| {
        let mut names: Vec<_> = text.lines().map(|l| l.split('=').next().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    let text = says(command.env("ADDED", "x=y"));
    assert!(
        text.contains("FROM=sandbox\n") && text.contains("BOTH=2\n") && text.contains("ADDED=x=y\n"),
        "{text}"
    );
    let known = ["ADDED", "BOTH", "FROM", "HOME", "LANG", "PATH", "TERM", "TZ"];
    assert!(
        names(&text).iter().all(|name| known.contains(&name.as_str())),
        "nothing of the host program: {text}"
    );
    assert!(!says(command.env_remove("FROM")).contains("FROM"));
    assert_eq!(says(command.env_clear().env("ONLY", "")), "ONLY=\n");
}

#[test]
fn the_directory_umask_and_limits_are_set() {
    let sandbox = sandbox();
    assert_eq!(says(sh(&sandbox, "pwd").current_dir("/tmp")), "/tmp\n");
    assert_eq!(says(&sh(&sandbox, "pwd")), "/\n");
    assert_eq!(says(sh(&sandbox, "umask").umask(0o27)), "0027\n");
    assert_eq!(says(sh(&sandbox, "ulimit -n; ulimit -c").rlimit(Resource::OpenFiles, 100, 200)), "100\n0\n");
    assert_eq!(says(&sh(&sandbox, "ulimit -n; ulimit -Hn")), "1024\n1024\n");
    let error = sandbox.command("/bin/true").current_dir("/no/such/dir").spawn().unwrap_err();
    assert_eq!((error.step(), error.errno()), (Step::WorkingDirectory, Some(libc::ENOENT)), "{error}");
    // The same umask as ours unless asked.
    let ours = std::fs::read_to_string("/proc/self/status").unwrap();
    let ours = ours.lines().find_map(|l| l.strip_prefix("Umask:\t")).unwrap().to_owned();
    assert_eq!(says(&sh(&sandbox, "umask")).trim(), ours);
}

/// CVE-2024-21626 (A04): a working directory through a descriptor that set-up still had open.
#[test]
fn no_magic_link_is_a_working_directory() {
    let sandbox = sandbox();
    for path in
        (0..64).map(|n| format!("/proc/self/fd/{n}")).chain(["/proc/self/cwd".into(), "/proc/1/root".into()])
    {
        let error = sandbox.command("/bin/pwd").current_dir(&path).output().unwrap_err();
        assert_eq!(error.step(), Step::WorkingDirectory, "{path}: {error}");
    }
}

#[test]
fn a_session_is_new_unless_asked() {
    let sandbox = sandbox();
    let ids = "read -r a b c d pgrp session tty rest </proc/self/stat; echo $pgrp $session $tty";
    assert_eq!(says(&sh(&sandbox, ids)), "1 1 0\n");
    assert_eq!(says(sh(&sandbox, ids).session(Session::NewGroup)).split(' ').next(), Some("1"));
    // The host program's own session and group are outside the pid namespace: 0.
    assert!(says(sh(&sandbox, ids).session(Session::Inherit)).starts_with("0 0 "));
}

/// A113: NULs, values that contradict each other, and what is too long are errors before anything runs.
#[test]
fn bad_values_are_errors_that_name_them() {
    let sandbox = sandbox();
    let mut command = sandbox.command("/bin/true\0");
    command.arg("a\0b").current_dir("relative").umask(0o1000).rlimit(Resource::Cpu, 2, 1).env("A=B", "x");
    command.fd(2, OwnedFd::from(std::fs::File::open("/dev/null").unwrap()));
    let error = command.spawn().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidSpec);
    let text = error.to_string();
    for part in ["program", "a\\0b", "relative", "umask", "RLIMIT_CPU", "A=B", "fd: 2"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let error =
        Sandbox::builder().env("", "x").hostname("h".repeat(65)).user(u32::MAX, 0).build().unwrap_err();
    let text = error.to_string();
    for part in ["3 conflicts", "env: a name is empty", "hostname", "65 bytes", "user: 4294967295"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let error = sandbox.command("/bin/true").arg("x".repeat(4 << 20)).spawn().unwrap_err();
    assert_eq!((error.step(), error.errno()), (Step::Exec, Some(libc::E2BIG)), "{error}");
    assert_eq!(sandbox.command("").spawn().unwrap_err().kind(), ErrorKind::InvalidSpec);
}

#[test]
fn streams_are_piped_null_and_any_descriptor() {
    let sandbox = sandbox();
    let mut child = sandbox.command("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"through").unwrap();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "through");
    assert!(child.wait().unwrap().success());

    assert_eq!(says(sandbox.command("cat").stdin(Stdio::null())), "");

    let mut file = tempfile::tempfile().unwrap();
    let copy = file.try_clone().unwrap();
    let status =
        sh(&sandbox, "echo out; echo err >&2").stdout(copy).stderr(file.try_clone().unwrap()).status();
    assert!(status.unwrap().success());
    use std::io::Seek;
    file.rewind().unwrap();
    assert_eq!(std::io::read_to_string(file).unwrap(), "out\nerr\n");

    // A pipeline of two sandboxes.
    let mut first = sh(&sandbox, "echo piped").stdout(Stdio::piped()).spawn().unwrap();
    let out = sandbox.command("cat").stdin(first.stdout.take().unwrap()).output().unwrap();
    assert_eq!(out.stdout, b"piped\n");
    assert!(first.wait().unwrap().success());
}

/// The limit of descriptors is the payload's, not the set-up's.
#[test]
fn a_low_limit_of_open_files_is_no_matter_of_the_setup() {
    let sandbox = sandbox();
    for limit in [5, 10, 16] {
        let mut command = sh(&sandbox, "ulimit -n");
        command.rlimit(Resource::OpenFiles, limit, limit);
        assert_eq!(says(&command), format!("{limit}\n"));
        command.fd(3, OwnedFd::from(std::fs::File::open("/dev/null").unwrap()));
        assert_eq!(says(&command), format!("{limit}\n"));
    }
}

#[test]
fn a_command_can_be_spawned_again() {
    let sandbox = sandbox();
    let command = sh(&sandbox, "echo again");
    for _ in 0..3 {
        assert_eq!(says(&command), "again\n");
    }
}

/// CVE-2024-21626 (A33): exactly the declared descriptors are there, at their numbers.
#[test]
fn declared_descriptors_arrive_and_no_other() {
    use std::os::fd::AsRawFd;
    let sandbox = sandbox();
    let list = "for fd in /proc/self/fd/*; do echo ${fd##*/}; done";
    // A descriptor without close-on-exec that the host program leaked.
    let leaked = std::fs::File::open("/").unwrap();
    nix::fcntl::fcntl(&leaked, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    assert!(leaked.as_raw_fd() > 2);
    let listed = says(&sh(&sandbox, list));
    // The shell itself opens the directory that it lists.
    assert_eq!(listed, "0\n1\n2\n3\n", "{listed}");

    let file = |text: &str| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        OwnedFd::from(file)
    };
    let mut command = sh(&sandbox, "cat <&3; cat <&4; cat <&9; ls /proc/self/fd | tr '\\n' ' '");
    command.fd(9, file("nine ")).fd(3, file("three ")).fd(4, file("four "));
    assert_eq!(says(&command), "three four nine 0 1 2 3 4 5 9 ");
}

#[test]
fn signals_reach_the_payload_as_std_leaves_them() {
    let sandbox = sandbox();
    let masks = "grep -E '^Sig(Blk|Ign)' /proc/self/status";
    palisade_testkit::in_child(move || {
        use nix::sys::signal::{SigHandler, SigSet, Signal};
        common::set_handler(Signal::SIGUSR1, SigHandler::SigIgn);
        SigSet::all().thread_block().unwrap();
        let reset = says(&sh(&sandbox, masks));
        assert!(reset.contains("SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000"), "{reset}");
        let kept =
            says(sandbox.command("grep").args(["SigIgn", "/proc/self/status"]).keep_ignored_signals(true));
        assert_eq!(
            u64::from_str_radix(kept.trim().split('\t').next_back().unwrap(), 16).unwrap() >> 9 & 1,
            1,
            "{kept}"
        );
    });
}

#[path = "common/sys.rs"]
mod common;
