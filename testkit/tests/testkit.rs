//! The kit's own promises.

use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;
use std::time::Duration;

use palisade_testkit::{Snapshot, in_child, skip, try_in_child, wait_until};

#[test]
fn a_panic_in_the_child_comes_back_with_message_and_place() {
    let outcome = try_in_child(|| panic!("the reason"));
    let message = outcome.panic.expect("a panic");
    assert!(message.contains("the reason") && message.contains("testkit.rs"), "{message}");
    assert_eq!(outcome.status.code(), Some(101));
}

#[test]
fn an_exit_code_and_a_signal_of_the_child_come_back() {
    let outcome = try_in_child(|| std::process::exit(7));
    assert_eq!((outcome.status.code(), outcome.panic), (Some(7), None));
    let outcome = try_in_child(|| std::process::abort());
    assert_eq!(outcome.status.signal(), Some(6));
}

#[test]
#[should_panic(expected = "in the child")]
fn in_child_fails_with_its_child() {
    in_child(|| panic!("no"));
}

#[test]
fn what_a_child_does_stays_in_it() {
    let here = std::env::current_dir().expect("a directory");
    in_child(|| std::env::set_current_dir("/proc").expect("chdir"));
    assert_eq!(std::env::current_dir().expect("a directory"), here);
}

#[test]
fn a_snapshot_sees_a_descriptor_and_a_child_that_stay() {
    in_child(|| {
        let before = Snapshot::take();
        before.assert_unchanged();
        let file = std::fs::File::open("/dev/null").expect("open");
        assert!(std::panic::catch_unwind(|| before.assert_unchanged()).is_err());
        drop(file);
        before.assert_unchanged();
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep");
        assert!(std::panic::catch_unwind(|| before.assert_unchanged()).is_err());
        child.kill().expect("kill");
        child.wait().expect("wait");
        before.assert_unchanged();
    });
}

#[test]
fn wait_until_ends_both_ways() {
    assert!(wait_until(Duration::from_secs(5), || true));
    assert!(!wait_until(Duration::from_millis(2), || false));
}

/// Skips only when asked, by the test below.
#[test]
fn skips_on_request() -> Result<(), std::fmt::Error> {
    if std::env::var_os("TESTKIT_SKIP").is_some() {
        let thing = "a thing";
        skip!("{thing} is missing", needs = "thing");
    }
    Ok(())
}

#[test]
fn skips_are_printed_and_can_be_forbidden() {
    let run = |required: &str| {
        Command::new(std::env::current_exe().expect("own path"))
            .args(["--exact", "skips_on_request", "--nocapture"])
            .env("TESTKIT_SKIP", "1")
            .env("PALISADE_TEST_REQUIRE", required)
            .output()
            .expect("runs")
    };
    let skipped = run("other");
    assert!(skipped.status.success());
    assert!(String::from_utf8_lossy(&skipped.stderr).contains("SKIP a thing is missing"));
    assert!(!run("other,thing").status.success());
}
