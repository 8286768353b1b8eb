//! A listing of all processes of a machine that has 1,000: palisade-procinfo's snapshot beside the procfs crate reading
//! the same files (`stat`, `status`, `cmdline`) of the same processes into the fields that both have.
//!
//! `cargo bench -p palisade-benches --bench proc`
//!
//! The two are measured by turns in one run; the ratio and the allocations of each are printed at the end.

use std::hint::black_box;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use nix::time::{ClockId, clock_gettime};
use palisade::procinfo::{Parts, ProcRoot, Snapshot};
use palisade_benches::count::{Counting, allocated};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Only to see that it works: `cargo bench -- --test` and the like.
fn quick() -> bool {
    std::env::args().any(|arg| arg == "--test")
}

/// Idle processes, which end with this value.
struct Crowd(Vec<Child>);

impl Crowd {
    fn new(n: usize) -> Crowd {
        let one =
            |_| Command::new("/bin/sleep").arg("10000").stdin(Stdio::null()).spawn().expect("/bin/sleep");
        Crowd((0..n).map(one).collect())
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for child in &mut self.0 {
            child.kill().expect("it is ours");
        }
        for child in &mut self.0 {
            child.wait().expect("it is ours");
        }
    }
}

fn ours(root: &ProcRoot) -> usize {
    let all = Snapshot::take(root, Parts::new()).expect("/proc");
    black_box(&all).processes.len()
}

/// As that crate's users do it; who vanishes meanwhile is left out.
fn theirs() -> usize {
    let all: Vec<_> = procfs::process::all_processes()
        .expect("/proc")
        .filter_map(|process| {
            let process = process.ok()?;
            Some((process.pid, process.stat().ok()?, process.status().ok()?, process.cmdline().ok()?))
        })
        .collect();
    black_box(&all).len()
}

fn listing(criterion: &mut Criterion) {
    let crowd = Crowd::new(if quick() { 10 } else { 1000 });
    let root = ProcRoot::host().expect("/proc");
    same(&root, &crowd);
    let mut group = criterion.benchmark_group("all processes");
    group.sample_size(20);
    group.bench_function("palisade-procinfo", |b| b.iter(|| ours(&root)));
    group.bench_function("procfs", |b| b.iter(theirs));
    group.finish();
    ratio(&root);
}

/// Both read the same of the processes that stand still.
fn same(root: &ProcRoot, crowd: &Crowd) {
    let all = Snapshot::take(root, Parts::new()).expect("/proc");
    for child in &crowd.0 {
        let mine = all.get(child.id()).expect("it is listed");
        let pid = i32::try_from(child.id()).expect("a pid");
        let process = procfs::process::Process::new(pid).expect("it lives");
        let (stat, status) = (process.stat().expect("stat"), process.status().expect("status"));
        assert_eq!((mine.stat.start_time.as_millis() / 10, mine.stat.threads), (stat.starttime.into(), 1));
        assert_eq!(
            (mine.status.capabilities.bounding, mine.status.uid.real),
            (status.capbnd.unwrap_or(0), status.ruid)
        );
        let theirs = process.cmdline().expect("cmdline");
        assert!(mine.cmdline.arguments.iter().map(|a| a.to_str().expect("text")).eq(theirs.iter()));
    }
}

/// Wall time and processor time of this thread, in milliseconds. The second holds on a busy machine too.
fn timed(run: impl FnOnce() -> usize) -> ([f64; 2], usize) {
    let cpu = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock"));
    let (wall, used) = (Instant::now(), cpu());
    let n = run();
    ([wall.elapsed(), cpu() - used].map(|time| time.as_secs_f64() * 1e3), n)
}

fn ratio(root: &ProcRoot) {
    let rounds = if quick() { 1 } else { 40 };
    // For each of the two: wall times and processor times.
    let mut times: [[Vec<f64>; 2]; 2] = Default::default();
    for _ in 0..rounds {
        let (mine, n) = timed(|| ours(root));
        let (other, m) = timed(theirs);
        assert!(n.abs_diff(m) < 100, "{n} and {m} processes");
        for (list, time) in times.iter_mut().flatten().zip([mine, other].into_iter().flatten()) {
            list.push(time);
        }
    }
    let [mine, other] = times.map(|lists| {
        lists.map(|mut list| {
            list.sort_by(f64::total_cmp);
            list[list.len() / 2]
        })
    });
    let counted = |run: &dyn Fn() -> usize| {
        let before = allocated();
        let n = run();
        let after = allocated();
        (n, after.0 - before.0, after.1 - before.1)
    };
    let (n, calls, bytes) = counted(&|| ours(root));
    let (m, other_calls, other_bytes) = counted(&theirs);
    println!(
        "\nmedians of {rounds} listings each, by turns   wall ms    CPU ms  allocations  a process      KiB"
    );
    let line = |name, [wall, cpu]: [f64; 2], calls: u64, bytes: u64, n: usize| {
        let each = calls as f64 / n as f64;
        println!("  {name:<38} {wall:>9.2} {cpu:>9.2} {calls:>12} {each:>10.1} {:>8}", bytes / 1024);
    };
    line("palisade-procinfo", mine, calls, bytes, n);
    line("procfs", other, other_calls, other_bytes, m);
    let ratio = [other[0] / mine[0], other[1] / mine[1], other_calls as f64 / calls as f64];
    println!("  {:<38} {:>9.2} {:>9.2} {:>12.2}", "procfs / palisade-procinfo", ratio[0], ratio[1], ratio[2]);
}

criterion_group!(benches, listing);
criterion_main!(benches);
