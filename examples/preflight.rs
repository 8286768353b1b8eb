//! What this machine can do for a sandbox, and what to change where it can't.
//!
//! `cargo run --example preflight` prints a line for each finding, `-- --json` the same for programs. It exits with 1
//! where the secure default does not work.

use std::process::ExitCode;

fn main() -> ExitCode {
    let report = palisade::preflight();
    if std::env::args().any(|arg| arg == "--json") {
        println!("{}", serde_json::to_string_pretty(&report).expect("a report is plain data"));
    } else {
        let who = if report.privileged { "privileged" } else { "ordinary" };
        println!("user {}:{}, {who}\n", report.user.0, report.user.1);
        print!("{report}");
    }
    if report.is_ready() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
