//! Payloads that outlive their maker, and are started, entered, killed and cleaned up by others.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command as StdCommand, Stdio as StdStdio};
use std::time::Duration;

use palisade::detached::Life;
use palisade::{Detached, ErrorKind, Lifetime, Sandbox, SandboxBuilder, Stdio};
use palisade_testkit::{scaled, temp_dir, wait_until};

/// Set in the environment of this test binary when it plays the maker.
const DIRECTORY: &str = "PALISADE_TEST_STATE";

fn builder() -> SandboxBuilder {
    Sandbox::builder().lifetime(Lifetime::Detached)
}

fn create(builder: SandboxBuilder, directory: &Path, program: &[&str]) -> palisade::Result<Detached> {
    let sandbox = builder.build().unwrap();
    let mut command = sandbox.command(program[0]);
    command.args(&program[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.create(directory)
}

/// The maker of the tests below; by itself it does nothing.
#[test]
fn maker() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let directory = PathBuf::from(directory);
    if directory.ends_with("many") {
        std::fs::create_dir(&directory).unwrap();
        for n in 0.. {
            create(builder(), &directory.join(n.to_string()), &["/bin/sleep", "1000"]).unwrap();
            println!("\nMADE");
        }
    }
    create(builder(), &directory, &["/bin/sleep", "1000"]).unwrap();
}

/// Starts this binary as a maker.
fn start_maker(directory: &Path) -> std::process::Child {
    StdCommand::new(std::env::current_exe().unwrap())
        .args(["--exact", "maker", "--nocapture"])
        .env(DIRECTORY, directory)
        .stdout(StdStdio::piped())
        .spawn()
        .unwrap()
}

fn alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with('Z')))
}

fn expect_refused<T: std::fmt::Debug>(result: palisade::Result<T>, part: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::State, "{error}");
    assert!(error.to_string().contains(part), "{part}: {error}");
}

#[test]
fn one_process_makes_it_and_another_starts_enters_and_ends_it() {
    let dir = temp_dir();
    let path = dir.path().join("one");
    let mut maker = start_maker(&path);
    drop(std::io::read_to_string(maker.stdout.take().unwrap()).unwrap());
    assert!(maker.wait().unwrap().success());
    std::thread::sleep(Duration::from_millis(100));

    let state = Detached::open(&path).unwrap();
    assert_eq!(state.status().unwrap(), Life::Paused);
    let pid = state.id().unwrap();
    // Nothing of the host is open there but the gate.
    let open: Vec<_> = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten().collect();
    let links: Vec<_> = open.iter().map(|entry| entry.path().read_link().unwrap()).collect();
    assert_eq!(links.len(), 4, "{links:?}");
    assert_eq!(links.iter().filter(|link| link.ends_with("one/start")).count(), 1, "{links:?}");

    state.start().unwrap();
    assert_eq!(state.status().unwrap(), Life::Running);
    let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    assert_eq!(comm, "sleep\n");
    expect_refused(state.start(), "does not wait for its start: running");

    let sandbox = builder().build().unwrap();
    let out = state.exec(&sandbox, "/bin/sh").unwrap().args(["-c", "cat /proc/1/comm"]).output().unwrap();
    assert_eq!(out.stdout, b"sleep\n");
    let error =
        state.exec(&Sandbox::builder().share(palisade::ns::Namespace::Net).build().unwrap(), "/bin/true");
    assert_eq!(error.unwrap().spawn().unwrap_err().kind(), ErrorKind::InvalidSpec);

    // Another one sees the same, and ends it.
    let other = Detached::open(&path).unwrap();
    other.kill().unwrap();
    let Life::Ended(status) = state.wait_timeout(scaled(Duration::from_secs(10))).unwrap() else {
        panic!("{:?}", state.status())
    };
    assert!(status.is_none_or(|status| status.signal() == Some(libc::SIGKILL)), "{status:?}");
    assert!(!alive(pid));
    assert!(matches!(Detached::open(&path).unwrap().status().unwrap(), Life::Ended(_)));
    expect_refused(state.start(), "ended");
    let gone = Detached::open(&path).unwrap().exec(&sandbox, "/bin/true");
    assert!(gone.is_err_and(|error| error.kind() == ErrorKind::Gone) || !alive(pid));
    other.cleanup().unwrap();
    assert!(!path.exists());
    assert_eq!(Detached::open(&path).unwrap_err().errno(), Some(libc::ENOENT));
}

#[test]
fn cleanup_ends_what_waits_and_what_runs() {
    let dir = temp_dir();
    for start in [false, true] {
        let path = dir.path().join("state");
        let state = create(builder(), &path, &["/bin/sleep", "1000"]).unwrap();
        let pid = state.id().unwrap();
        if start {
            state.start().unwrap();
        }
        assert!(alive(pid));
        state.cleanup().unwrap();
        assert!(!alive(pid) && !path.exists());
    }
}

#[test]
fn an_exec_that_fails_at_the_start_is_an_error_there() {
    let dir = temp_dir();
    let path = dir.path().join("state");
    create(builder(), &path, &["/no/such"]).unwrap();
    // In a process that knows nothing of the plan.
    let state = Detached::open(&path).unwrap();
    let error = state.start().unwrap_err();
    assert_eq!((error.kind(), error.errno()), (ErrorKind::Exec, Some(libc::ENOENT)), "{error}");
    assert!(error.to_string().contains("/no/such") && error.hint().is_some(), "{error}");
    assert!(matches!(state.wait_timeout(Duration::from_secs(10)).unwrap(), Life::Ended(_)));
    state.cleanup().unwrap();
    // Killed while it waits.
    let state = create(builder(), &path, &["/bin/true"]).unwrap();
    state.kill().unwrap();
    state.wait_timeout(scaled(Duration::from_secs(10))).unwrap();
    expect_refused(state.start(), "ended");
    state.cleanup().unwrap();
}

#[test]
fn an_init_leaves_the_status_for_everybody() {
    let dir = temp_dir();
    let path = dir.path().join("state");
    let state = create(builder().init(true), &path, &["/bin/sh", "-c", "exit 7"]).unwrap();
    assert_eq!(state.status().unwrap(), Life::Paused);
    state.start().unwrap();
    state.wait_timeout(scaled(Duration::from_secs(10))).unwrap();
    let late = Detached::open(&path).unwrap();
    let Life::Ended(Some(status)) = late.status().unwrap() else { panic!("{:?}", late.status()) };
    assert_eq!(status.code(), Some(7));
    late.cleanup().unwrap();
}

/// A102: a process that has the number now is not the payload.
#[test]
fn a_reused_pid_is_not_taken_for_the_payload() {
    let dir = temp_dir();
    let path = dir.path().join("state");
    let state = create(builder(), &path, &["/bin/sleep", "1000"]).unwrap();
    let file = path.join("state");
    let record = std::fs::read_to_string(&file).unwrap();
    let line = record.lines().find(|line| line.starts_with("payload ")).unwrap();
    let words: Vec<&str> = line.split(' ').collect();
    let mut innocent = StdCommand::new("/bin/sleep").arg("1000").spawn().unwrap();
    let changes = [
        // Another process has the number.
        record.replace(line, &format!("payload {} {} {}", innocent.id(), words[2], words[3])),
        // It started at another time, or has another pidfd.
        record.replace(line, &format!("payload {} 12345 {}", words[1], words[3])),
        record.replace(line, &format!("payload {} {} 12345", words[1], words[2])),
        // The machine was booted again.
        record.replace("boot ", "boot x"),
    ];
    for changed in changes {
        std::fs::write(&file, changed).unwrap();
        let other = Detached::open(&path).unwrap();
        assert_eq!(other.status().unwrap(), Life::Ended(None));
        other.kill().unwrap();
        other.signal(libc::SIGTERM).unwrap();
        expect_refused(other.start(), "ended");
    }
    assert!(innocent.try_wait().unwrap().is_none() && alive(state.id().unwrap()));
    innocent.kill().unwrap();
    innocent.wait().unwrap();
    std::fs::write(&file, record).unwrap();
    state.cleanup().unwrap();
}

#[test]
fn a_place_that_is_taken_or_empty_is_an_error_with_the_way_out() {
    let dir = temp_dir();
    let path = dir.path().join("state");
    let state = create(builder(), &path, &["/bin/sleep", "1000"]).unwrap();
    let above = path.join("no/such");
    for (error, errno, hint) in [
        (create(builder(), &path, &["/bin/true"]).unwrap_err(), libc::EEXIST, "Detached::cleanup"),
        (create(builder(), &above, &["/bin/true"]).unwrap_err(), libc::ENOENT, "the directory above it"),
        (Detached::open(dir.path().join("other")).unwrap_err(), libc::ENOENT, "Command::create"),
    ] {
        assert_eq!(error.errno(), Some(errno), "{error}");
        assert!(error.hint().unwrap().contains(hint) && error.object().is_some(), "{error}");
    }
    state.kill().unwrap();
}

#[test]
fn what_others_may_write_or_own_is_refused() {
    let dir = temp_dir();
    let path = dir.path().join("state");
    let state = create(builder(), &path, &["/bin/sleep", "1000"]).unwrap();
    let mode =
        |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    for (file, fine) in [(path.clone(), 0o700), (path.join("state"), 0o600)] {
        mode(&file, fine | 0o020);
        expect_refused(Detached::open(&path), "others may use it");
        mode(&file, fine);
    }
    mode(&path.join("start"), 0o622);
    expect_refused(state.start(), "others may use it");
    mode(&path.join("start"), 0o600);
    // Links, and files of another kind, are not followed or opened.
    let link = dir.path().join("link");
    symlink(&path, &link).unwrap();
    assert!(Detached::open(&link).is_err());
    std::fs::rename(path.join("start"), path.join("away")).unwrap();
    std::fs::write(path.join("start"), "").unwrap();
    mode(&path.join("start"), 0o600);
    expect_refused(state.start(), "another kind of file");
    std::fs::rename(path.join("away"), path.join("start")).unwrap();
    std::fs::rename(path.join("state"), path.join("away")).unwrap();
    symlink(path.join("away"), path.join("state")).unwrap();
    assert_eq!(Detached::open(&path).unwrap_err().errno(), Some(libc::ELOOP));
    std::fs::rename(path.join("away"), path.join("state")).unwrap();
    std::fs::write(path.join("state"), "palisade-state 9\n").unwrap();
    expect_refused(Detached::open(&path), "no state: line 1");
    state.cleanup().unwrap();
}

#[test]
fn what_does_not_go_together_is_refused_before_anything_is_made() {
    let dir = temp_dir();
    let path = dir.path().join("state");
    let sandbox = builder().build().unwrap();
    let error = Sandbox::new().unwrap().command("/bin/true").create(&path).unwrap_err();
    assert!(
        error.kind() == ErrorKind::InvalidSpec && error.to_string().contains("Lifetime::Detached"),
        "{error}"
    );
    for command in [
        sandbox.command("/bin/true").stdout(Stdio::piped()),
        sandbox.command("/bin/true").timeout(Duration::from_secs(1)),
    ] {
        let error = command.create(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSpec, "{error}");
    }
    assert!(!path.exists());
    // A failing set-up leaves no directory, one that was there stays.
    let error = sandbox.command("/bin/true").current_dir("/no/such").create(&path).unwrap_err();
    assert_eq!(error.step(), palisade::Step::WorkingDirectory, "{error}");
    assert!(!path.exists());
    std::fs::create_dir(&path).unwrap();
    let error = sandbox.command("/bin/true").stdin(Stdio::null()).create(&path).unwrap_err();
    assert_eq!(error.errno(), Some(libc::EEXIST), "{error}");
    assert!(path.exists());
}

#[test]
fn only_one_of_many_starts_it() {
    let dir = temp_dir();
    let path = dir.path().join("state");
    let state = create(builder(), &path, &["/bin/sleep", "1000"]).unwrap();
    let started: usize = std::thread::scope(|scope| {
        let path = &path;
        let threads: Vec<_> =
            (0..6).map(|_| scope.spawn(move || Detached::open(path).unwrap().start().is_ok())).collect();
        threads.into_iter().map(|thread| usize::from(thread.join().unwrap())).sum()
    });
    assert_eq!(started, 1);
    state.cleanup().unwrap();
}

/// A97: a maker that is killed leaves a state that can be cleaned up, or one that nobody waits in.
#[test]
fn a_maker_killed_at_any_moment_leaves_nothing_that_cannot_be_cleaned_up() {
    for moment in 0..20u64 {
        let dir = temp_dir();
        let path = dir.path().join("many");
        let mut maker = start_maker(&path);
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(maker.stdout.take().unwrap()));
        while lines.next().unwrap().unwrap() != "MADE" {}
        std::thread::sleep(Duration::from_micros(moment * 613));
        let waiting = descendants(maker.id());
        maker.kill().unwrap();
        maker.wait().unwrap();
        let mut known = 0;
        for entry in std::fs::read_dir(&path).unwrap().flatten() {
            match Detached::open(entry.path()) {
                Ok(state) => {
                    known += usize::from(state.status().unwrap() == Life::Paused);
                    state.cleanup().unwrap();
                }
                // Not even a record yet.
                Err(error) => assert_eq!(error.errno(), Some(libc::ENOENT), "{error}"),
            }
        }
        assert!(known > 0);
        let left = || waiting.iter().filter(|&&pid| alive(pid)).count();
        assert!(wait_until(Duration::from_secs(10), || left() == 0), "moment {moment}: {} left", left());
    }
}

fn descendants(pid: u32) -> Vec<u32> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists =
        tasks.flatten().map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default());
    lists.collect::<Vec<_>>().join(" ").split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// A path is no proof: after the group is gone, another may have its name.
#[test]
fn anothers_cgroup_of_the_same_name_is_left_alone() {
    use palisade::cgroup::{Cgroup, Limits};
    let Ok(parent) = Cgroup::delegated() else { palisade_testkit::skip!("no cgroup to make one in") };
    let made = temp_dir();
    let state = made.path().join("state");
    let builder = builder().cgroup(Limits::new()).cgroup_parent(parent);
    let Ok(detached) = create(builder, &state, &["/bin/sleep", "1000"]) else {
        palisade_testkit::skip!("no cgroup to be born in")
    };
    let path = detached.cgroup().unwrap().path().to_owned();
    detached.kill().unwrap();
    assert!(wait_until(Duration::from_secs(20), || std::fs::remove_dir(&path).is_ok()), "it is not empty");
    std::fs::create_dir(&path).unwrap();
    assert!(detached.cgroup().is_none());
    detached.cleanup().unwrap();
    assert!(path.exists(), "somebody else's");
    std::fs::remove_dir(&path).unwrap();
}
