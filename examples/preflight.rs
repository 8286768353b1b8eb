//! What this machine can do for a sandbox, and what to change where it can't.
//!
//! `cargo run --example preflight` prints a line for each finding, `-- --json` the same for programs. It exits with 1
//! where the secure default does not work, and with 2 for other arguments.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let json = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--json"] => true,
        _ => {
            eprintln!("usage: preflight [--json], not {}", arguments.join(" "));
            return ExitCode::from(2);
        }
    };
    let report = palisade::preflight();
    if json {
        println!("{}", serde_json::to_string_pretty(&report).expect("a report is plain data"));
    } else {
        let who = if report.privileged { "privileged" } else { "ordinary" };
        println!("user {}:{}, {who}\n", report.user.0, report.user.1);
        print!("{report}");
    }
    if report.is_ready() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
