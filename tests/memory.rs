//! The host program's memory during spawns: never readable by a process of the payload's uid, however hard it tries.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use palisade::{Sandbox, Stdio};
use palisade_testkit::{is_root, skip};

#[path = "common/sys.rs"]
mod common;

/// What the attacker looks for. It stands in the host program's memory at an address that the attacker is told.
static SECRET: [u8; 32] = *b"the host program's secret value!";

/// Uid of attacker and payloads: one that nobody else uses.
const TARGET: u32 = 61_234;

/// 8 threads spawn with a change of uid, while a process of that uid tries process_vm_readv, ptrace and
/// /proc/PID/mem on every pid that comes up; and the host program's dumpable flag never changes.
#[test]
fn a_process_of_the_target_uid_never_reads_the_host_programs_memory() {
    if !is_root() {
        skip!("only root can spawn under another uid", needs = "root");
    }
    let sandbox = Sandbox::builder().user(TARGET, TARGET).build().unwrap();
    let mut command = sandbox.command("/bin/true");
    command.stdin(Stdio::null());
    command.status().unwrap();

    let (stop_read, mut stop_write) = UnixStream::pair().unwrap();
    let (mut report_read, report_write) = UnixStream::pair().unwrap();
    let attacker = common::fork(|| {
        common::become_user(TARGET);
        let found = attack(&stop_read);
        let mut report = report_write;
        report.write_all(format!("{} {}", found.attempts, found.hits).as_bytes()).unwrap();
    });

    let stop = AtomicBool::new(false);
    let spawned = AtomicU64::new(0);
    let dumpable = common::prctl(libc::PR_GET_DUMPABLE);
    let deadline = Instant::now() + Duration::from_secs(8);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                // Eight seconds, and longer where the machine is too busy for the spawns that it takes.
                while Instant::now() < deadline
                    || spawned.load(Ordering::Relaxed) <= 50
                        && Instant::now() < deadline + Duration::from_secs(100)
                {
                    assert!(command.status().unwrap().success());
                    spawned.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(common::prctl(libc::PR_GET_DUMPABLE), dumpable);
            }
        });
        std::thread::sleep(deadline.saturating_duration_since(Instant::now()));
        stop.store(true, Ordering::Relaxed);
    });
    stop_write.write_all(b"x").unwrap();
    let mut report = String::new();
    report_read.read_to_string(&mut report).unwrap();
    common::reap(attacker);
    let (attempts, hits) = report.split_once(' ').expect("the attacker reports");
    assert_eq!(hits, "0", "of {attempts} attempts");
    assert!(attempts.parse::<u64>().unwrap() > 100, "it did try: {attempts}");
    assert!(spawned.load(Ordering::Relaxed) > 50);
    assert_eq!(common::prctl(libc::PR_GET_DUMPABLE), dumpable);
}

struct Found {
    attempts: u64,
    hits: u64,
}

/// Tries every process that is not its own, until told to stop.
fn attack(stop: &UnixStream) -> Found {
    let own = std::process::id();
    let address = SECRET.as_ptr() as u64;
    let mut found = Found { attempts: 0, hits: 0 };
    let mut seen = std::collections::HashMap::new();
    while !common::readable(stop) {
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            // Each process a few times: its state changes from clone to stage to payload.
            let tries = seen.entry(pid).or_insert(0u32);
            if pid == own || *tries > 200 {
                continue;
            }
            *tries += 1;
            found.attempts += 1;
            found.hits +=
                u64::from(common::vm_read(pid, address, SECRET.len()).as_deref() == Some(&SECRET[..]));
            found.hits += u64::from(mem_read(pid, address).as_deref() == Some(&SECRET[..]));
            found.hits += u64::from(
                common::ptrace_peek(pid, address).is_some_and(|word| word.to_ne_bytes() == SECRET[..8]),
            );
        }
    }
    found
}

fn mem_read(pid: u32, address: u64) -> Option<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::open(format!("/proc/{pid}/mem")).ok()?;
    let mut bytes = vec![0; SECRET.len()];
    file.read_exact_at(&mut bytes, address).ok()?;
    Some(bytes)
}

/// The attack itself works where it is allowed: against an own child without protection.
#[test]
fn the_attackers_means_do_read_an_unprotected_process() {
    let (mut read, _open_until_the_end) = UnixStream::pair().unwrap();
    let victim = common::fork(|| drop(read.read(&mut [0])));
    std::thread::sleep(Duration::from_millis(50));
    let address = SECRET.as_ptr() as u64;
    assert_eq!(common::vm_read(victim, address, SECRET.len()).as_deref(), Some(&SECRET[..]));
    assert_eq!(mem_read(victim, address).as_deref(), Some(&SECRET[..]));
    assert_eq!(
        common::ptrace_peek(victim, address).map(i64::to_ne_bytes).as_ref(),
        Some(&SECRET[..8].try_into().unwrap())
    );
    assert_eq!(common::kill(victim, libc::SIGKILL), 0);
    common::reap(victim);
}
