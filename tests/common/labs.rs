//! Runs labs as tests: each in the example's own way, with its skips.

use std::path::PathBuf;
use std::process::Command;

use palisade_testkit::skip;

/// The example, which cargo builds with the tests.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let test = std::env::current_exe().expect("the test has a path");
    let example: PathBuf = test.ancestors().nth(2).expect("it is in target/debug/deps").join("examples/labs");
    assert!(example.exists(), "{} is missing: cargo build --example labs", example.display());
    let mut command = Command::new(example);
    command.args(arguments);
    command
}

pub(crate) fn run(number: u8) {
    let out = command(&[&number.to_string()]).output().expect("it starts");
    let text = String::from_utf8_lossy(&out.stdout);
    if out.status.code() == Some(77) {
        let reason = text.lines().rev().find_map(|line| line.strip_prefix("SKIP ")).unwrap_or("no reason");
        skip!("{reason}");
    }
    assert!(out.status.success(), "{}\n{text}\n{}", out.status, String::from_utf8_lossy(&out.stderr));
}

macro_rules! labs {
    ($($name:ident = $number:literal),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                labs::run($number);
            }
        )*
    };
}
pub(crate) use labs;
