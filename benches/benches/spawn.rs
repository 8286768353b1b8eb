//! Latency of spawn → exec → exit → waited for, in the profiles P0 to P6: through the public API, by raw system calls
//! (the floor), and by `std::process::Command`; the secure default with a real program; and both in a host program with
//! 1 GiB resident.
//!
//! `cargo bench -p palisade-benches --bench spawn`, as root for all profiles.
//!
//! Single figures drift with the machine; the ratios, measured interleaved in one run and printed at the end, hold.

use std::fs;
use std::hint::black_box;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command as StdCommand, Stdio as StdStdio};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use palisade::cgroup::{Cgroup, Limits};
use palisade::fsroot::{Dev, Proc, Root};
use palisade::ns::{Namespace, Namespaces};
use palisade::secfilter::presets;
use palisade::{Command, Lifetime, Sandbox, Stdio};
use palisade_benches::floor::{Floor, Profile, USER};
use palisade_benches::payload;

/// Inside the root of the profiles.
const PROGRAM: &str = "/payload";
/// A program that a libc starts.
const REAL: &str = "/bin/true";

/// `cargo bench -- --test` and the like only want to see that it works.
fn quick() -> bool {
    std::env::args().any(|arg| arg == "--test")
}

/// A root file system with nothing but the payload and mount points.
fn root() -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a temporary directory");
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    for directory in ["proc", "dev", "tmp"] {
        fs::create_dir(root.path().join(directory)).expect("it is empty");
    }
    payload::write(&root.path().join(PROGRAM.trim_start_matches('/'))).expect("it is ours");
    root
}

/// The same isolation as the floor's, said to the builder. `None`: not possible here.
fn palisade(profile: Profile, root: &Path, parent: Option<&Cgroup>) -> Option<Command> {
    let mut builder = Sandbox::builder();
    let mut kinds = Namespaces::ALL.without(Namespace::Time);
    if profile < Profile::P4 {
        kinds = kinds.without(Namespace::Net);
    }
    if profile < Profile::P3 {
        kinds = kinds.without(Namespace::User);
        builder = builder.user(USER, USER);
    }
    if profile < Profile::P5 {
        // Without a filter a payload could clear its parent-death signal, and each would get a guard: a process that the
        // floor does not have.
        builder = builder.dangerously_unfiltered().lifetime(Lifetime::Detached);
    }
    if profile >= Profile::P6 {
        builder = builder.cgroup(Limits::new()).cgroup_parent(parent?.clone());
    }
    if profile == Profile::P0 {
        kinds = Namespaces::EMPTY;
    }
    // The floor reads nothing back.
    builder = builder.namespaces(kinds).verify(false);
    let (builder, program) = if profile < Profile::P2 {
        (builder.dangerously_share_root(), root.join(PROGRAM.trim_start_matches('/')))
    } else {
        let root = Root::dir(root).mount(Proc::new("/proc")).mount(Dev::new("/dev"));
        (builder.root(root), PROGRAM.into())
    };
    let sandbox = builder.build().expect("the profile is possible here");
    let mut command = sandbox.command(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Some(command)
}

fn floor(profile: Profile, root: &Path, parent: Option<&Cgroup>) -> Option<Floor> {
    let filter = presets::payload().compile().expect("the default filter compiles");
    let filter: Vec<[u8; 8]> = filter
        .instructions()
        .iter()
        .map(|insn| {
            let mut bytes = [0; 8];
            bytes[..2].copy_from_slice(&insn.code.to_ne_bytes());
            bytes[2..4].copy_from_slice(&[insn.jt, insn.jf]);
            bytes[4..].copy_from_slice(&insn.k.to_ne_bytes());
            bytes
        })
        .collect();
    if profile >= Profile::P6 && parent.is_none() {
        return None;
    }
    Some(Floor::new(profile, root, PROGRAM, &filter, parent.map(Cgroup::path)))
}

fn std_command(program: &Path) -> StdCommand {
    let mut command = StdCommand::new(program);
    command.env_clear().stdin(StdStdio::null()).stdout(StdStdio::null()).stderr(StdStdio::null());
    command
}

fn confined() -> Command {
    let sandbox = Sandbox::new().expect("the secure default is possible here");
    let mut command = sandbox.command(REAL);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn run(command: &Command) {
    assert!(command.status().expect("it runs").success());
}

fn run_std(command: &mut StdCommand) {
    assert!(command.status().expect("it runs").success());
}

/// Memory that is really there.
fn resident(bytes: usize) -> Vec<u8> {
    let mut memory = vec![0u8; bytes];
    memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    memory
}

fn spawn(criterion: &mut Criterion) {
    let is_root = fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    let (command, mut real) = (confined(), std_command(Path::new(REAL)));
    let mut group = criterion.benchmark_group("spawn");
    group.bench_function("std::process::Command", |b| b.iter(|| run_std(&mut real)));
    group.bench_function("secure default", |b| b.iter(|| run(&command)));
    group.finish();
    if is_root {
        profiles();
    } else {
        println!("the profiles are measured as root");
    }
    verification();
    resident_memory(&command);
}

/// Each profile beside its floor and `std::process::Command`, by turns.
fn profiles() {
    let root = root();
    // An own group below the delegated one; its children are the floor's and the sandboxes'.
    let group = Cgroup::delegated().and_then(|parent| parent.create_unique("palisade-bench", &Limits::new()));
    if let Err(error) = &group {
        println!("P6 is left out: {error}");
    }
    let parent = group.as_ref().ok().map(std::ops::Deref::deref);
    let rounds = if quick() { 2 } else { 400 };
    println!("\nmedians of {rounds} interleaved runs each, µs; the payload has no libc");
    println!(
        "  profile   calls of the child       floor    palisade   ratio   std::process::Command   ratio"
    );
    for profile in Profile::ALL {
        let Some(mut floor) = floor(profile, root.path(), parent) else { continue };
        let command = palisade(profile, root.path(), parent);
        let mut std = std_command(&root.path().join(PROGRAM.trim_start_matches('/')));
        let mut times: [Vec<Duration>; 3] = Default::default();
        for round in 0..rounds + rounds / 10 {
            let mut time = |index: usize, run: &mut dyn FnMut()| {
                let start = Instant::now();
                run();
                // The first tenth warms up.
                if round >= rounds / 10 {
                    times[index].push(start.elapsed());
                }
            };
            time(0, &mut || floor.run().expect("the floor runs"));
            if let Some(command) = &command {
                time(1, &mut || run(command));
            }
            time(2, &mut || run_std(&mut std));
        }
        let [raw, ours, plain] = times.map(median);
        let calls = command.as_ref().map(|command| command.plan().expect("it is possible").child_calls());
        let text = |value: f64| if value.is_nan() { "–".to_owned() } else { format!("{value:.0}") };
        let ratio = |value: f64| if value.is_nan() { "–".to_owned() } else { format!("{value:.2}") };
        println!(
            "  {profile:?}      {:>6} floor, {:>5} palisade {:>6} {:>11} {:>7} {:>16} {:>14}",
            floor.child_calls(),
            calls.map_or("–".to_owned(), |calls| calls.to_string()),
            text(raw),
            text(ours),
            ratio(ours / raw),
            text(plain),
            ratio(ours / plain),
        );
    }
}

/// What reading back costs: the secure default with and without, by turns.
fn verification() {
    let with = confined();
    let sandbox = Sandbox::builder().verify(false).build().expect("the secure default is possible here");
    let mut without = sandbox.command(REAL);
    without.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut times: [Vec<Duration>; 2] = Default::default();
    for _ in 0..if quick() { 1 } else { 300 } {
        for (command, list) in [&with, &without].into_iter().zip(&mut times) {
            let start = Instant::now();
            run(command);
            list.push(start.elapsed());
        }
    }
    let [with, without] = times.map(median);
    println!(
        "\nsecure default, medians interleaved, µs: {with:.0} verified, {without:.0} not; ratio {:.2}",
        with / without
    );
}

fn median(mut list: Vec<Duration>) -> f64 {
    list.sort();
    list.get(list.len() / 2).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
}

/// Rounds of small and large by turns: the memory is made and given back in each, so both see the same machine.
fn resident_memory(command: &Command) {
    let (rounds, spawns) = if quick() { (1, 1) } else { (8, 40) };
    let mut real = std_command(Path::new(REAL));
    let mut times: [Vec<Duration>; 4] = Default::default();
    for _ in 0..rounds {
        for large in [false, true] {
            let memory = resident(if large { 1 << 30 } else { 0 });
            for _ in 0..spawns {
                let start = Instant::now();
                run(command);
                times[usize::from(large)].push(start.elapsed());
                let start = Instant::now();
                run_std(&mut real);
                times[2 + usize::from(large)].push(start.elapsed());
            }
            black_box(&memory);
        }
    }
    let [small, large, std_small, std_large] = times.map(median);
    println!(
        "\nmedians of {} runs each, interleaved, µs      0 resident   1 GiB resident   ratio",
        rounds * spawns
    );
    println!("  palisade, secure default               {small:>12.0} {large:>16.0} {:>7.2}", large / small);
    println!(
        "  std::process::Command                  {std_small:>12.0} {std_large:>16.0} {:>7.2}",
        std_large / std_small
    );
    println!(
        "  ratio                                  {:>12.2} {:>16.2}",
        small / std_small,
        large / std_large
    );
}

criterion_group!(benches, spawn);
criterion_main!(benches);
