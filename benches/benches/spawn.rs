//! Latency of spawn → exec → exit → waited for, of the secure default beside `std::process::Command`, in a small host
//! program and in one with 1 GiB resident.
//!
//! `cargo bench -p palisade-benches --bench spawn`
//!
//! Single figures drift with the machine; the ratios, measured interleaved in one run and printed at the end, hold.

use std::hint::black_box;
use std::process::{Command as StdCommand, Stdio as StdStdio};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use palisade::{Command, Sandbox, Stdio};

const PROGRAM: &str = "/bin/true";

fn confined() -> Command {
    let sandbox = Sandbox::new().expect("the secure default is possible here");
    let mut command = sandbox.command(PROGRAM);
    command.stdin(Stdio::null());
    command
}

fn run(command: &Command) -> bool {
    command.status().expect("it runs").success()
}

fn run_std() -> bool {
    StdCommand::new(PROGRAM).stdin(StdStdio::null()).status().expect("it runs").success()
}

/// Memory that is really there.
fn resident(bytes: usize) -> Vec<u8> {
    let mut memory = vec![0u8; bytes];
    memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    memory
}

fn spawn(criterion: &mut Criterion) {
    let command = confined();
    let mut group = criterion.benchmark_group("spawn");
    group.bench_function("std::process::Command", |b| b.iter(run_std));
    group.bench_function("secure default", |b| b.iter(|| run(&command)));
    group.finish();
    ratios(&command);
}

/// Rounds of small and large by turns: the memory is made and given back in each, so both see the same machine.
fn ratios(command: &Command) {
    // `cargo bench -- --test` and the like only want to see that it works.
    let quick = std::env::args().any(|arg| arg == "--test");
    let (rounds, spawns) = if quick { (1, 1) } else { (8, 40) };
    let mut times: [Vec<Duration>; 4] = Default::default();
    for _ in 0..rounds {
        for large in [false, true] {
            let memory = resident(if large { 1 << 30 } else { 0 });
            for _ in 0..spawns {
                let start = Instant::now();
                run(command);
                times[usize::from(large)].push(start.elapsed());
                let start = Instant::now();
                run_std();
                times[2 + usize::from(large)].push(start.elapsed());
            }
            black_box(&memory);
        }
    }
    let medians = times.map(|mut list| {
        list.sort();
        list[list.len() / 2].as_secs_f64() * 1e6
    });
    let [small, large, std_small, std_large] = medians;
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
