use std::time::{Duration, SystemTime};

use crate::Error;
use crate::bytes::{At, dec, lines, words};
use crate::stat::ticks;

/// `/proc/stat`, see [proc_stat(5)](https://man7.org/linux/man-pages/man5/proc_stat.5.html).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SystemStat {
    /// Summed over all processors.
    pub total: CpuTimes,
    /// Each processor that is online, by its number.
    pub cpus: Vec<(u32, CpuTimes)>,
    /// Interrupts since boot.
    pub interrupts: u64,
    /// Context switches since boot.
    pub context_switches: u64,
    /// When the system was booted, in the reader's time namespace.
    pub boot_time: SystemTime,
    /// Tasks made since boot.
    pub forks: u64,
    /// Tasks that run or are ready.
    pub running: u32,
    /// Tasks that wait for storage.
    pub blocked: u32,
    /// Soft interrupts since boot.
    pub soft_interrupts: u64,
}

/// How a processor has spent its time since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CpuTimes {
    /// Programs, guests included.
    pub user: Duration,
    /// Programs with a lowered priority.
    pub nice: Duration,
    /// The kernel.
    pub system: Duration,
    /// Nothing to do.
    pub idle: Duration,
    /// Nothing to do but wait for storage.
    pub iowait: Duration,
    /// Interrupts.
    pub irq: Duration,
    /// Soft interrupts.
    pub softirq: Duration,
    /// Taken by the hypervisor for others.
    pub steal: Duration,
    /// Virtual processors of guests (part of `user`).
    pub guest: Duration,
    /// The same with a lowered priority (part of `nice`).
    pub guest_nice: Duration,
}

impl SystemStat {
    /// Reads the text of `stat`.
    ///
    /// # Errors
    /// [`Malformed`](crate::ErrorKind::Malformed) with the line and field, also if a line is missing.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let (mut total, mut cpus) = (None, Vec::new());
        let mut counters = [None; NAMES.len()];
        let mut end = At { file: "stat", line: 1 };
        for (at, line) in lines("stat", text) {
            end = at;
            let mut w = words(line);
            let key = at.next("key", &mut w)?;
            if let Some(number) = key.strip_prefix(b"cpu") {
                let times = CpuTimes::of(at, &mut w)?;
                match dec(number) {
                    Some(n) => cpus.push((u32::try_from(n).map_err(|_| at.bad("cpu", key))?, times)),
                    None if number.is_empty() => total = Some(times),
                    None => return Err(at.bad("cpu", key)),
                }
            } else if let Some(i) = NAMES.iter().position(|n| n.as_bytes() == key) {
                let value: u64 = at.num("counter", at.next("counter", &mut w)?)?;
                if let Some(slot) = counters.get_mut(i) {
                    *slot = Some(value);
                }
            }
        }
        let get =
            |i: usize| end.required(NAMES.get(i).copied().unwrap_or(""), counters.get(i).copied().flatten());
        let small = |i: usize| {
            let n = get(i)?;
            u32::try_from(n).map_err(|_| end.bad("tasks", n.to_string().as_bytes()))
        };
        let since_epoch = Duration::from_secs(get(2)?);
        let boot_time = SystemTime::UNIX_EPOCH.checked_add(since_epoch);
        Ok(Self {
            total: end.required("cpu", total)?,
            cpus,
            interrupts: get(0)?,
            context_switches: get(1)?,
            boot_time: end.required("btime", boot_time)?,
            forks: get(3)?,
            running: small(4)?,
            blocked: small(5)?,
            soft_interrupts: get(6)?,
        })
    }
}

const NAMES: [&str; 7] = ["intr", "ctxt", "btime", "processes", "procs_running", "procs_blocked", "softirq"];

impl CpuTimes {
    fn of<'a>(at: At, w: &mut impl Iterator<Item = &'a [u8]>) -> Result<Self, Error> {
        let mut time = |field| at.num(field, at.next(field, w)?).map(ticks);
        Ok(Self {
            user: time("user")?,
            nice: time("nice")?,
            system: time("system")?,
            idle: time("idle")?,
            iowait: time("iowait")?,
            irq: time("irq")?,
            softirq: time("softirq")?,
            steal: time("steal")?,
            guest: time("guest")?,
            guest_nice: time("guest_nice")?,
        })
    }
}
