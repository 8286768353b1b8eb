//! What the tests share.

use std::process::{Child, Command, Stdio};

use palisade_procinfo::ProcRoot;
use palisade_testkit::skip;

pub(crate) fn root() -> ProcRoot {
    ProcRoot::host().expect("/proc")
}

/// A child process that does not outlive the test.
pub(crate) struct Reaped(pub(crate) Child);

impl Reaped {
    pub(crate) fn spawn(command: &mut Command) -> Self {
        Self(command.spawn().expect("spawn"))
    }
    pub(crate) fn sleep() -> Self {
        Self::spawn(Command::new("sleep").arg("600").stdin(Stdio::null()))
    }
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
    pub(crate) fn end(&mut self) {
        self.0.kill().expect("kill");
        self.0.wait().expect("wait");
    }
}

impl Drop for Reaped {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Runs one test of this binary again, under another program (`unshare …`, `setpriv …`). In that run `inside` is
/// true and the test does its work; here it returns what the run printed. Skips if the wrapper does not work here.
pub(crate) fn again(test: &str, wrapper: &[&str]) {
    let (program, arguments) = wrapper.split_first().expect("a wrapper");
    let binary = std::env::current_exe().expect("own path");
    let mut list = Command::new(program);
    let works = list.args(arguments).arg(&binary).arg("--list").output().is_ok_and(|o| o.status.success());
    if !works {
        let wrapper = wrapper.join(" ");
        skip!("`{wrapper}` cannot run this test binary here", needs = "userns");
    }
    let out = Command::new(program)
        .args(arguments)
        .arg(&binary)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env("PALISADE_INSIDE", test)
        .output()
        .expect("run again");
    let shown = String::from_utf8_lossy(&out.stdout);
    assert!(
        out.status.success() && shown.contains("1 passed"),
        "inside: {shown}{}",
        String::from_utf8_lossy(&out.stderr)
    );
}

pub(crate) fn inside(test: &str) -> bool {
    std::env::var("PALISADE_INSIDE").is_ok_and(|t| t == test)
}
