//! What the tests of this crate share.
#![allow(dead_code, reason = "each test binary uses a part")]

#[path = "sys.rs"]
pub(crate) mod sys;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A line of the text of a status file, without its key.
pub(crate) fn line_of(status: &str, key: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {key} in status")).trim().to_owned()
}

/// A shell in a new user namespace without maps, which runs what it is told and ends with the value.
pub(crate) struct InNamespace {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl InNamespace {
    /// Starts it by `command` (such as `setpriv … unshare --user`) with the shell's name and script after it.
    pub(crate) fn start(mut command: Command) -> Self {
        command.args(["sh", "-c", "echo ready; while read -r line; do eval \"$line\"; echo \"=$?\"; done"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("spawn");
        let stdin = child.stdin.take().expect("stdin");
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("read");
        assert_eq!(line, "ready\n", "the shell in the new namespace did not start");
        Self { child, stdin, stdout }
    }

    /// In a new user namespace of the caller's.
    pub(crate) fn new() -> Self {
        let mut command = Command::new("unshare");
        command.arg("--user");
        Self::start(command)
    }

    /// Its number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its directory in /proc.
    pub(crate) fn pid_dir(&self) -> std::fs::File {
        std::fs::File::open(format!("/proc/{}", self.child.id())).expect("process directory")
    }

    /// Runs a line of shell; what it printed, and its status.
    pub(crate) fn run(&mut self, line: &str) -> (String, i32) {
        writeln!(self.stdin, "{line}").expect("write");
        let mut said = String::new();
        loop {
            let mut line = String::new();
            assert!(self.stdout.read_line(&mut line).expect("read") > 0, "the shell ended");
            match line.strip_prefix('=').and_then(|status| status.trim().parse().ok()) {
                Some(status) => return (said.trim_end().to_owned(), status),
                None => said.push_str(&line),
            }
        }
    }
}

impl Drop for InNamespace {
    fn drop(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).ok();
    }
}
