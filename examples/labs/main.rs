//! The labs of the study, each an experiment that asserts what the study says.
//!
//! `cargo run --example labs` lists them; `-- 13`, `-- chroot`, `-- C` and `-- all` run one, a topic, a group, all.
//!
//! # To add one
//!
//! - A [`Lab`] in the file of its topic (`anatomy` is the pattern), its number in `tests/labs.rs` or, if it needs
//!   controllers, modules or a security module, in `tests/vm_labs.rs`, and docs/labs.md made anew by `-- --markdown`.
//! - It runs in a process of its own that has one thread, inside the namespaces that it asked for (`outer`), with an
//!   empty directory, and tells what it does and asserts to a [`lab::Report`]. `Err(skip("reason"))` skips it.
//! - `kit` has what several labs need: forked children (`in_child`, `stay`), a busybox root, text of programs.
//! - Each must pass as root and, where the kernel allows it, as an ordinary user, who is root of an outer user namespace
//!   if the lab asked for outer namespaces. It shows the hole first, then what closes it.

mod anatomy;
#[path = "calls/sys.rs"]
mod calls;
mod capabilities;
mod catalogue;
mod chroot;
mod closure;
mod container;
mod daemon;
mod doctor;
mod ipc;
mod iptables;
mod kit;
mod lab;
mod labels;
mod mounts;
mod namespaces;
mod network;
mod network_policy;
mod page;
mod pid;
mod processes;
mod resources;
mod runner;
mod security_context;
mod syscalls;
mod troubleshooting;
mod user_namespace;
mod users;
mod wires;

use std::process::ExitCode;

use lab::{Body, Lab};
use lexopt::prelude::*;
use runner::Manner;

/// Each topic: its name on the command line, and its labs.
const TOPICS: &[(&str, &[Lab])] = &[
    ("anatomy", anatomy::LABS),
    ("processes", processes::LABS),
    ("daemon", daemon::LABS),
    ("chroot", chroot::LABS),
    ("mounts", mounts::LABS),
    ("namespaces", namespaces::LABS),
    ("ipc", ipc::LABS),
    ("pid", pid::LABS),
    ("user_namespace", user_namespace::LABS),
    ("resources", resources::LABS),
    ("users", users::LABS),
    ("capabilities", capabilities::LABS),
    ("syscalls", syscalls::LABS),
    ("labels", labels::LABS),
    ("network", network::LABS),
    ("iptables", iptables::LABS),
    ("security_context", security_context::LABS),
    ("network_policy", network_policy::LABS),
    ("troubleshooting", troubleshooting::LABS),
];

const USAGE: &str = "\
cargo run --example labs -- [OPTION…] [LAB…]

  LAB         a number (13), a topic (chroot), a group (C), or `all`; none lists them

  --explain   the mechanism behind it, and the plan of each sandbox
  --json      an object for each lab
  --markdown  docs/labs.md

Exit status: 0 all passed, 1 one failed, 77 all were skipped, 2 wrong usage.";

fn main() -> ExitCode {
    match run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("{error}\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<u8, lexopt::Error> {
    let mut manner = Manner::default();
    let mut wanted = Vec::new();
    let mut markdown = false;
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("explain") => manner.explain = true,
            Long("json") => manner.json = true,
            Long("markdown") => markdown = true,
            // How the runner starts a lab's own process.
            Long("inside") => {
                let lab = find(parser.value()?.parse()?).ok_or("no such lab")?;
                let directory: std::path::PathBuf = parser.value()?.into();
                return Ok(runner::inside(lab, &directory, manner));
            }
            // What a lab runs of this program inside a sandbox.
            Long("as") => {
                let role = parser.value()?.string()?;
                let words = parser.raw_args()?.map(|word| word.to_string_lossy().into_owned());
                return Ok(play(&role, &words.collect::<Vec<_>>()));
            }
            Long("help") | Short('h') => {
                println!("{USAGE}");
                return Ok(0);
            }
            Value(name) => wanted.push(name.string()?),
            other => return Err(other.unexpected()),
        }
    }
    if markdown {
        print!("{}", page::markdown());
        return Ok(0);
    }
    if wanted.is_empty() {
        print!("{}", if manner.json { page::json() } else { page::list() });
        return Ok(0);
    }
    let mut numbers = Vec::new();
    for name in &wanted {
        let chosen = chosen(name).ok_or_else(|| format!("no lab, topic or group is named {name:?}"))?;
        // One that several words stand for runs once.
        numbers.extend(chosen.into_iter().filter(|number| !numbers.contains(number)).collect::<Vec<_>>());
    }
    Ok(runner::run_all(&numbers, manner))
}

/// The labs that a word on the command line stands for.
fn chosen(name: &str) -> Option<Vec<u8>> {
    let all = || catalogue::ENTRIES.iter().map(|&(number, ..)| number);
    let chosen: Vec<u8> = if name == "all" {
        all().filter(|&number| find(number).is_some_and(|lab| matches!(lab.body, Body::Run(_)))).collect()
    } else if let Ok(number) = name.parse::<u8>() {
        all().filter(|&known| known == number).collect()
    } else if let Some((_, labs)) = TOPICS.iter().find(|(topic, _)| *topic == name) {
        labs.iter().map(|lab| lab.number).collect()
    } else {
        let group = |number| catalogue::entry(number).0.to_string().eq_ignore_ascii_case(name);
        all().filter(|&number| group(number) && find(number).is_some()).collect()
    };
    (!chosen.is_empty()).then_some(chosen)
}

fn find(number: u8) -> Option<&'static Lab> {
    TOPICS.iter().flat_map(|(_, labs)| labs.iter()).find(|lab| lab.number == number)
}

type Role = fn(&[String]) -> lab::Result;

/// Programs of labs, for the inside of a sandbox: name, and what it does with its arguments.
const ROLES: &[(&str, Role)] = &[("ask", daemon::ask)];

fn play(role: &str, arguments: &[String]) -> u8 {
    let Some((_, act)) = ROLES.iter().find(|(name, _)| *name == role) else { return 2 };
    match act(arguments) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{error}");
            1
        }
    }
}
