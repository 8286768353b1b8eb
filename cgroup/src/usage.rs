//! Rates from two readings, as `docker stats` shows them.

use std::fmt;
use std::time::{Duration, Instant};

use crate::cgroup::Cgroup;
use crate::cpu::CpuStat;
use crate::error::{ErrorKind, Result};
use crate::io::IoStat;
use crate::value::{Bytes, Limit};

/// One reading of a group's counters. What the group has no controller for is `None`.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Sample {
    /// When it was read.
    pub at: Instant,
    /// Processor time.
    pub cpu: CpuStat,
    /// Memory in use without idle page cache, and its limit.
    pub memory: Option<(Bytes, Limit<Bytes>)>,
    /// Block devices, all together.
    pub io: Option<IoStat>,
    /// Tasks.
    pub pids: Option<u64>,
}

/// What a group used between two readings.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Usage {
    /// The time between the readings.
    pub over: Duration,
    /// Per cent of one CPU: 200 is two CPUs.
    pub cpu_percent: f64,
    /// Part of the periods in which the quota held the group back, 0 to 1.
    pub throttled: f64,
    /// Memory in use and its limit at the second reading.
    pub memory: Option<(Bytes, Limit<Bytes>)>,
    /// Bytes read each second.
    pub read_per_second: Option<f64>,
    /// Bytes written each second.
    pub written_per_second: Option<f64>,
    /// Bytes read and written since the group was made.
    pub io_total: Option<(u64, u64)>,
    /// Tasks at the second reading.
    pub pids: Option<u64>,
}

impl Usage {
    /// What happened from one reading to a later one. Counters that went backwards, as after a mix-up of groups, count
    /// as no use.
    pub fn between(first: &Sample, second: &Sample) -> Usage {
        let over = second.at.saturating_duration_since(first.at);
        let seconds = over.as_secs_f64();
        let rate = |amount: f64| if seconds > 0.0 { amount / seconds } else { 0.0 };
        let io = |f: fn(&IoStat) -> u64| {
            first.io.as_ref().zip(second.io.as_ref()).map(|(a, b)| rate(f(b).saturating_sub(f(a)) as f64))
        };
        let periods = second.cpu.nr_periods.saturating_sub(first.cpu.nr_periods);
        let held = second.cpu.nr_throttled.saturating_sub(first.cpu.nr_throttled);
        Usage {
            over,
            cpu_percent: 100.0 * rate(second.cpu.usage.saturating_sub(first.cpu.usage).as_secs_f64()),
            throttled: if periods == 0 { 0.0 } else { held as f64 / periods as f64 },
            memory: second.memory,
            read_per_second: io(|s| s.rbytes),
            written_per_second: io(|s| s.wbytes),
            io_total: second.io.map(|s| (s.rbytes, s.wbytes)),
            pids: second.pids,
        }
    }

    /// Per cent of the memory limit in use, where there is a limit.
    pub fn memory_percent(&self) -> Option<f64> {
        match self.memory? {
            (used, Limit::At(max)) if max.get() > 0 => Some(100.0 * used.get() as f64 / max.get() as f64),
            _ => None,
        }
    }
}

/// The columns of `docker stats`: CPU %, MEM USAGE / LIMIT, MEM %, BLOCK I/O, PIDS. What is not known is `--`.
impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2}%", self.cpu_percent)?;
        match self.memory {
            Some((used, Limit::At(max))) => write!(f, "  {} / {}", binary(used), binary(max))?,
            Some((used, Limit::Max)) => write!(f, "  {} / max", binary(used))?,
            None => f.write_str("  -- / --")?,
        }
        match self.memory_percent() {
            Some(p) => write!(f, "  {p:.2}%")?,
            None => f.write_str("  --")?,
        }
        match self.io_total {
            Some((r, w)) => write!(f, "  {} / {}", decimal(r), decimal(w))?,
            None => f.write_str("  -- / --")?,
        }
        match self.pids {
            Some(n) => write!(f, "  {n}"),
            None => f.write_str("  --"),
        }
    }
}

/// Four digits and a unit of 1024, as Docker shows memory.
fn binary(b: Bytes) -> String {
    scaled(b.get(), 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"], 4)
}

/// Three digits and a unit of 1000, as Docker shows traffic.
fn decimal(n: u64) -> String {
    scaled(n, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB", "EB"], 3)
}

fn scaled(n: u64, base: f64, units: &[&str], digits: usize) -> String {
    let (mut value, mut unit) = (n as f64, 0);
    while value >= base && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    let before = format!("{}", value.trunc()).len();
    let text = format!("{value:.*}", digits.saturating_sub(before));
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", units[unit])
}

/// Reads a group again and again and gives the use since the last time.
///
/// ```no_run
/// # use palisade_cgroup::{Cgroup, Sampler};
/// let mut sampler = Sampler::new(&Cgroup::own()?)?;
/// std::thread::sleep(std::time::Duration::from_secs(1));
/// println!("{}", sampler.usage()?); // 12.50%  82.61MiB / 256MiB  32.27%  1.2MB / 0B  3
/// # Ok::<(), palisade_cgroup::Error>(())
/// ```
#[derive(Debug)]
pub struct Sampler {
    group: Cgroup,
    last: Sample,
}

impl Sampler {
    /// Takes the first reading.
    ///
    /// # Errors
    /// As [`Cgroup::sample`].
    pub fn new(group: &Cgroup) -> Result<Sampler> {
        Ok(Sampler { group: group.clone(), last: group.sample()? })
    }

    /// Takes the next reading.
    ///
    /// # Errors
    /// As [`Cgroup::sample`].
    pub fn usage(&mut self) -> Result<Usage> {
        let next = self.group.sample()?;
        let usage = Usage::between(&self.last, &next);
        self.last = next;
        Ok(usage)
    }
}

impl Cgroup {
    /// Reads the counters that rates are made of.
    ///
    /// # Errors
    /// [`Gone`](ErrorKind::Gone) if the group was removed. A missing controller is no error but `None`.
    pub fn sample(&self) -> Result<Sample> {
        let memory = known(self.memory())?;
        let io = known(self.io_stat())?.map(|all| {
            all.iter().fold(IoStat::default(), |mut sum, (_, s)| {
                sum.rbytes = sum.rbytes.saturating_add(s.rbytes);
                sum.wbytes = sum.wbytes.saturating_add(s.wbytes);
                sum.rios = sum.rios.saturating_add(s.rios);
                sum.wios = sum.wios.saturating_add(s.wios);
                sum.dbytes = sum.dbytes.saturating_add(s.dbytes);
                sum.dios = sum.dios.saturating_add(s.dios);
                sum
            })
        });
        Ok(Sample {
            at: Instant::now(),
            cpu: self.cpu_stat()?,
            memory: memory.map(|m| (m.working_set(), m.max)),
            io,
            pids: known(self.pids())?.map(|p| p.current),
        })
    }
}

fn known<T>(r: Result<T>) -> Result<Option<T>> {
    match r {
        Ok(v) => Ok(Some(v)),
        // The root group has controllers but not every file.
        Err(e) if matches!(e.kind(), ErrorKind::ControllerMissing | ErrorKind::Unsupported) => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: Instant, usage: u64, io: u64) -> Sample {
        Sample {
            at,
            cpu: CpuStat { usage: Duration::from_millis(usage), ..CpuStat::default() },
            memory: Some((Bytes::new(86_623_027), Limit::At(Bytes::mib(256)))),
            io: Some(IoStat { rbytes: io, ..IoStat::default() }),
            pids: Some(3),
        }
    }

    #[test]
    fn rates_and_the_line_of_docker_stats() {
        let t = Instant::now();
        let u = Usage::between(&sample(t, 1000, 0), &sample(t + Duration::from_secs(2), 2500, 1_234_567));
        assert!((u.cpu_percent - 75.0).abs() < 1e-9);
        assert_eq!(u.read_per_second, Some(617_283.5));
        assert_eq!(u.to_string(), "75.00%  82.61MiB / 256MiB  32.27%  1.23MB / 0B  3");
    }

    #[test]
    fn counters_that_stand_still_or_go_back_are_no_use() {
        let t = Instant::now();
        assert!(Usage::between(&sample(t, 5, 5), &sample(t, 9, 9)).cpu_percent.abs() < 1e-9);
        let back = Usage::between(&sample(t, 5, 5), &sample(t + Duration::from_secs(1), 0, 0));
        assert_eq!((back.cpu_percent, back.read_per_second), (0.0, Some(0.0)));
        let none = Sample { memory: None, io: None, pids: None, ..sample(t, 0, 0) };
        assert_eq!(Usage::between(&none, &none).to_string(), "0.00%  -- / --  --  -- / --  --");
        assert_eq!(binary(Bytes::new(u64::MAX)), "16EiB");
    }
}
