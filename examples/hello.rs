//! The first sandbox: one real program, run on the host and in a sandbox, and what each run saw and cost.
//!
//! `cargo run --example hello` works for root and for ordinary users, with nothing but Rust installed.

use std::collections::BTreeMap;
use std::process::Command as HostCommand;
use std::time::{Duration, Instant};

use palisade::cgroup::{Bytes, Cgroup, Limits};
use palisade::secfilter::{Install, presets};
use palisade::{Child, Sandbox, Stdio};

/// What the program prints, a line each: `name=value`. It looks only at what any program can see.
const LOOK: &str = r#"
say() { printf '%s=%s\n' "$1" "$2"; }
say pid "$$"
set -- /proc/[0-9]*; say processes "$#"
say user "$(id -u):$(id -g)"
read -r name </proc/sys/kernel/hostname; say hostname "$name"
for kind in user mnt pid net ipc uts cgroup; do say "$kind" "$(readlink /proc/self/ns/$kind)"; done
say mounts "$(grep -c '' /proc/self/mountinfo)"
set -- /*; say root "$#"
while read -r field value rest; do
    case $field in CapEff:|CapBnd:|NoNewPrivs:|Seccomp:) say "${field%:}" "$value";; esac
done </proc/self/status
interfaces=; while read -r name rest; do case $name in *:) interfaces="$interfaces ${name%:}";; esac; done </proc/net/dev
say interfaces "${interfaces# }"
while IFS= read -r line; do case $line in 0::*) say cgroup "${line#0::}";; esac; done </proc/self/cgroup
if [ -w /usr ]; then say write yes; else say write no; fi
"#;

type Look = BTreeMap<String, String>;

/// Title of each row, and the name that the program gives it.
const ROWS: &[(&str, &str)] = &[
    ("pid", "pid"),
    ("processes in sight", "processes"),
    ("user:group", "user"),
    ("host name", "hostname"),
    ("user namespace", "user"),
    ("mount namespace", "mnt"),
    ("pid namespace", "pid"),
    ("network namespace", "net"),
    ("ipc namespace", "ipc"),
    ("uts namespace", "uts"),
    ("cgroup namespace", "cgroup"),
    ("mounts", "mounts"),
    ("entries of /", "root"),
    ("may write to /usr", "write"),
    ("capabilities", "CapEff"),
    ("… ever to be had", "CapBnd"),
    ("no_new_privs", "NoNewPrivs"),
    ("system call filter", "Seccomp"),
    ("network interfaces", "interfaces"),
    ("cgroup", "cgroup path"),
];

fn main() {
    let host = parse(&HostCommand::new("/bin/sh").args(["-c", LOOK]).output().expect("/bin/sh runs").stdout);
    let (limited, missing) = cgroup();
    let outcome = Sandbox::new().and_then(|plain| {
        let sandbox = if limited { with_cgroup()? } else { plain };
        let mut command = sandbox.command("/bin/sh");
        command.args(["-c", LOOK]);
        let out = command.output()?;
        Ok((sandbox, parse(&out.stdout), out.status))
    });
    match outcome {
        Ok((sandbox, inside, status)) => {
            println!("The same program, /bin/sh, on the host and in Sandbox::new() ({status}):\n");
            print_table(&host, &inside);
            print_costs(&sandbox);
        }
        Err(error) => {
            println!(
                "A sandbox is not possible here:\n  {error}\n\nWithout it, this is what a program sees:\n"
            );
            print_table(&host, &Look::new());
        }
    }
    if let Some(missing) = missing {
        println!("\nNot shown: limits by a cgroup of its own.\n  {}", missing.replace('\n', "\n  "));
    }
    println!("\nNext: `cargo run --example compile` does a real job inside, with limits.");
}

/// The program under the default filter alone, in the host's namespaces.
fn filtered() -> Result<Look, Box<dyn std::error::Error>> {
    let filter = presets::payload().compile()?;
    let mut command = HostCommand::new("/bin/sh");
    Install::new(&filter).confine(&mut command)?;
    Ok(parse(&command.args(["-c", LOOK]).output()?.stdout))
}

/// Whether this process may make a cgroup with limits, and what is missing if not.
fn cgroup() -> (bool, Option<String>) {
    let made = Cgroup::delegated().and_then(|parent| parent.create_unique("palisade-hello", &limits()));
    match made {
        Ok(_removed_on_drop) => (true, None),
        Err(error) => (false, Some(error.to_string())),
    }
}

fn limits() -> Limits {
    Limits::new().memory_max("256M".parse::<Bytes>().expect("a size")).pids_max(64)
}

fn with_cgroup() -> palisade::Result<Sandbox> {
    Sandbox::builder().cgroup(limits()).build()
}

/// A namespace's value is the text of a link, `kind:[inode]`; two kinds share their name with another row.
fn parse(output: &[u8]) -> Look {
    let mut look = Look::new();
    for line in String::from_utf8_lossy(output).lines() {
        let Some((name, value)) = line.split_once('=') else { continue };
        let link = value.split_once(":[").and_then(|(_, inode)| inode.strip_suffix(']'));
        match (name, link) {
            (kind, Some(inode)) => look.insert(format!("{kind} namespace"), inode.into()),
            ("cgroup", None) => look.insert("cgroup path".into(), value.into()),
            (name, None) => look.insert(name.into(), value.into()),
        };
    }
    look
}

fn print_table(host: &Look, inside: &Look) {
    let value = |look: &Look, title: &str, name: &str| {
        let key = if title.ends_with(" namespace") { format!("{name} namespace") } else { name.to_owned() };
        match look.get(&key).map(|value| (name, value.as_str())) {
            None => "-".to_owned(),
            Some(("Seccomp", "0")) => "none".into(),
            Some(("Seccomp", "2")) => "on".into(),
            Some(("NoNewPrivs", "0")) => "off".into(),
            Some(("NoNewPrivs", "1")) => "on".into(),
            Some(("CapEff" | "CapBnd", "0000000000000000")) => "none".into(),
            Some((_, value)) => shorten(value),
        }
    };
    println!("  {:<20}  {:<26}  {:<26}", "", "host", "sandbox");
    println!("  {:-<20}  {:-<26}  {:-<26}", "", "", "");
    for (title, name) in ROWS {
        println!("  {title:<20}  {:<26}  {:<26}", value(host, title, name), value(inside, title, name));
    }
}

fn shorten(value: &str) -> String {
    let count = value.chars().count();
    if count <= 26 {
        value.into()
    } else {
        format!("…{}", value.chars().skip(count - 25).collect::<String>())
    }
}

const RUNS: usize = 30;

fn print_costs(sandbox: &Sandbox) {
    let mut confined = sandbox.command("/bin/true");
    confined.stdin(Stdio::null());
    let mut plain = HostCommand::new("/bin/true");
    plain.stdin(std::process::Stdio::null());
    // Interleaved, since a machine's speed drifts; the first of each warms up.
    let mut times: [Vec<Duration>; 3] = Default::default();
    for _ in 0..=RUNS {
        let start = Instant::now();
        let started = confined.spawn().map(|mut child: Child| (start.elapsed(), child.wait()));
        let whole = start.elapsed();
        let Ok((setup, Ok(_))) = started else { return };
        let start = Instant::now();
        if plain.status().is_err() {
            return;
        }
        for (list, time) in times.iter_mut().zip([setup, whole, start.elapsed()]) {
            list.push(time);
        }
    }
    let median = |times: &mut Vec<Duration>| {
        times.remove(0);
        times.sort();
        times[times.len() / 2].as_micros()
    };
    let [setup, whole, plain] = times.each_mut().map(median);
    let calls = confined.plan().map_or(0, |plan| plan.child_calls());
    println!("\n  What it costs, median of {RUNS} runs of /bin/true in µs:");
    println!(
        "    in the sandbox, until it is executed   {setup:>8}   ({calls} system calls of set-up at most)"
    );
    println!("    in the sandbox, until it has ended     {whole:>8}");
    println!("    std::process::Command, to its end      {plain:>8}");
}
