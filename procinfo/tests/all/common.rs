//! What the tests share.

use std::process::{Child, Command, Stdio};

use palisade_procinfo::ProcRoot;

/// Says why a test does not run here; fails instead where the machine promised the capability.
pub(crate) fn skip(capability: &str, reason: &str) {
    let required = std::env::var("PALISADE_TEST_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|c| c == capability), "{capability} is required here, but: {reason}");
    eprintln!("SKIP {reason}");
}

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

pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
}

/// Runs one test of this binary again, under another program (`unshare …`, `setpriv …`). In that run `inside` is
/// true and the test does its work; here it returns what the run printed. `None`: the wrapper does not work here.
pub(crate) fn again(test: &str, wrapper: &[&str]) -> Option<()> {
    let (program, arguments) = wrapper.split_first().expect("a wrapper");
    let works = Command::new(program).args(arguments).arg("true").output().is_ok_and(|o| o.status.success());
    if !works {
        skip("userns", &format!("`{}` does not work here", wrapper.join(" ")));
        return None;
    }
    let out = Command::new(program)
        .args(arguments)
        .arg(std::env::current_exe().expect("own path"))
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
    Some(())
}

pub(crate) fn inside(test: &str) -> bool {
    std::env::var("PALISADE_INSIDE").is_ok_and(|t| t == test)
}
