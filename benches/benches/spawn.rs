//! Latency of spawn → exec → exit → waited for, in the profiles P0 to P6: through the public API, by raw system calls
//! (the floor), and by `std::process::Command`; the secure default with a real program; and both in a host program with
//! 1 GiB resident.
//!
//! `cargo bench -p palisade-benches --bench spawn`, as root for all profiles.
//!
//! Single figures drift with the machine; the ratios, measured interleaved in one run and printed at the end, hold.

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::process::{Command as StdCommand, Stdio as StdStdio};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use palisade::{Command, Sandbox, Stdio};
use palisade_benches::floor::Profile;
use palisade_benches::profiles::{self, PROGRAM};

/// A program that a libc starts.
const REAL: &str = "/bin/true";

/// `cargo bench -- --test` and the like only want to see that it works.
fn quick() -> bool {
    std::env::args().any(|arg| arg == "--test")
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
    let root = profiles::root();
    let group = profiles::group();
    let parent = group.as_deref();
    let rounds = if quick() { 2 } else { 400 };
    println!("\nmedians of {rounds} interleaved runs each, µs; the payload has no libc");
    println!(
        "  profile   calls of the child       floor    palisade   ratio   std::process::Command   ratio"
    );
    for profile in Profile::ALL {
        let Some(mut floor) = profiles::floor(profile, root.path(), parent) else { continue };
        let command = profiles::palisade(profile, root.path(), parent);
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
            // Cgroups are removed between the parts: ours by a thread of the library, when the payload has ended.
            time(0, &mut || floor.run().expect("the floor runs"));
            floor.clean().expect("its cgroup is empty");
            if let Some(command) = &command {
                time(1, &mut || run(command));
            }
            profiles::settle(parent);
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
