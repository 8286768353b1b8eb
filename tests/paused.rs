//! Payloads that wait for their start, in this process.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::{Duration, Instant};

use palisade::{ErrorKind, ExitCause, Lifetime, Paused, Sandbox, Stdio};
use palisade_testkit::{Snapshot, wait_until};

fn descriptors(pid: u32) -> Vec<String> {
    let dir = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let mut links: Vec<_> = dir
        .flatten()
        .map(|entry| {
            format!("{} {}", entry.file_name().to_string_lossy(), entry.path().read_link().unwrap().display())
        })
        .collect();
    links.sort();
    links
}

fn pause(program: &str, args: &[&str]) -> Paused {
    let sandbox = Sandbox::new().unwrap();
    let mut command = sandbox.command(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn_paused().unwrap()
}

#[test]
fn a_paused_payload_runs_when_it_is_started() {
    let paused = pause("/bin/sh", &["-c", "echo $$; exit 5"]);
    let name = std::fs::read_to_string(format!("/proc/{}/comm", paused.id())).unwrap();
    assert_eq!(name.trim().len(), 15, "still the stage: {name}");
    assert!(paused.enforced().to_string().contains("seccomp"), "{}", paused.enforced());
    let out = paused.start().unwrap().wait_with_output().unwrap();
    assert_eq!((out.status.code(), out.stdout.as_slice()), (Some(5), b"1\n".as_slice()));
}

#[test]
fn nothing_of_the_host_is_open_while_it_waits_but_what_it_waits_on() {
    let paused = pause("/bin/true", &[]);
    let open = descriptors(paused.id());
    assert_eq!(open.len(), 4, "{open:?}");
    assert!(
        open[0].ends_with("/dev/null") && open[1].contains("pipe:") && open[2].ends_with("/dev/null"),
        "{open:?}"
    );
    assert!(open[3].starts_with("3 socket:"), "{open:?}");
    let at = |name: &str| std::fs::read_link(format!("/proc/{}/{name}", paused.id())).unwrap();
    assert_eq!((at("cwd").to_str(), at("root").to_str()), (Some("/"), Some("/")));
    assert!(paused.start().unwrap().wait().unwrap().success());
}

#[test]
fn dropping_it_ends_it() {
    drop(pause("/bin/true", &[]));
    let before = Snapshot::take();
    for lifetime in [Lifetime::Host, Lifetime::Detached] {
        let sandbox = Sandbox::builder().lifetime(lifetime).build().unwrap();
        let paused = sandbox.command("/bin/true").stdin(Stdio::null()).spawn_paused().unwrap();
        let proc = format!("/proc/{}", paused.id());
        assert!(std::path::Path::new(&proc).exists());
        drop(paused);
        assert!(!std::path::Path::new(&proc).exists());
    }
    before.assert_unchanged();
}

#[test]
fn what_fails_at_the_start_is_an_error_of_it() {
    let error = pause("/no/such", &[]).start().unwrap_err();
    assert_eq!((error.kind(), error.errno()), (ErrorKind::Exec, Some(libc::ENOENT)), "{error}");
    // Ended by somebody else meanwhile.
    let paused = pause("/bin/true", &[]);
    assert_eq!(common::kill(paused.id(), libc::SIGKILL), 0);
    let error = paused.start().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SetupKilled, "{error}");
    // Set-up still fails before.
    let sandbox = Sandbox::new().unwrap();
    let error = sandbox.command("/bin/true").current_dir("/no/such").spawn_paused().unwrap_err();
    assert_eq!(error.step(), palisade::Step::WorkingDirectory, "{error}");
}

#[test]
fn its_times_count_from_the_start() {
    let sandbox = Sandbox::builder().setup_timeout(Duration::from_secs(1)).build().unwrap();
    let mut command = sandbox.command("/bin/sleep");
    command.arg("1000").stdin(Stdio::null()).timeout(Duration::from_millis(300));
    let paused = command.spawn_paused().unwrap();
    std::thread::sleep(Duration::from_millis(1200));
    let start = Instant::now();
    let status = paused.start().unwrap().wait().unwrap();
    assert_eq!(status.cause(), ExitCause::TimedOut);
    assert!(start.elapsed() >= Duration::from_millis(300));
}

#[test]
fn what_enters_a_living_sandbox_can_wait_too() {
    let sandbox = Sandbox::new().unwrap();
    let mut command = sandbox.command("/bin/cat");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut echo = child.exec("/bin/echo");
    echo.arg("in").stdin(Stdio::null()).stdout(Stdio::piped());
    let paused = echo.spawn_paused().unwrap();
    assert_eq!(paused.start().unwrap().wait_with_output().unwrap().stdout, b"in\n");
    let error = child.exec("/no/such").spawn_paused().unwrap().start().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exec, "{error}");
    // It does not hold the end of the sandbox up.
    let waiting = echo.spawn_paused().unwrap();
    child.kill().unwrap();
    assert!(child.wait_timeout(Duration::from_secs(20)).unwrap().is_some());
    let error = waiting.start().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Gone, "{error}");
}

#[test]
fn it_ends_with_its_host_program() {
    let pid = palisade_testkit::temp_dir();
    let file = pid.path().join("pid");
    palisade_testkit::in_child(|| {
        let paused = pause("/bin/true", &[]);
        std::fs::write(&file, paused.id().to_string()).unwrap();
        std::mem::forget(paused);
    });
    let pid = std::fs::read_to_string(&file).unwrap();
    assert!(
        wait_until(Duration::from_secs(10), || !std::path::Path::new("/proc").join(&pid).exists()),
        "{pid}"
    );
}

#[path = "common/sys.rs"]
mod common;
