//! `cpu`: weight, bandwidth, burst, idle; `cpu.stat`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::controller::FileName;
use crate::error::{Error, Result};
use crate::keyed::Flat;
use crate::limits::{Check, Limits};
use crate::value::{Limit, Weight, number};

/// Processor time in each period: `cpu.max`. The kernel takes a quota from 1 ms and a period from 1 ms to 1 s;
/// 100 ms is its default period.
#[doc(alias = "cpu.max")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CpuMax {
    quota: Limit<u64>,
    period: u64,
}

const EXPECTED: &str = "QUOTA PERIOD in microseconds: max or at least 1000, then 1000 to 1000000";
const DEFAULT_PERIOD: u64 = 100_000;

impl CpuMax {
    /// No limit.
    pub const MAX: CpuMax = CpuMax { quota: Limit::Max, period: DEFAULT_PERIOD };

    /// This many thousandths of one CPU in each 100 ms: 750 is three quarters of a CPU, 2000 two CPUs. Less than 10
    /// is raised to 10, the least that the kernel can give.
    pub const fn millicpus(n: u32) -> CpuMax {
        let n = if n < 10 { 10 } else { n };
        CpuMax { quota: Limit::At(n as u64 * (DEFAULT_PERIOD / 1000)), period: DEFAULT_PERIOD }
    }

    /// # Errors
    /// [`InvalidValue`](crate::ErrorKind::InvalidValue) for a quota below 1 ms or a period outside 1 ms to 1 s.
    pub fn new(quota: impl Into<Limit<Duration>>, period: Duration) -> Result<CpuMax> {
        let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        let quota = match quota.into() {
            Limit::Max => Limit::Max,
            Limit::At(d) => Limit::At(micros(d)),
        };
        CpuMax { quota, period: micros(period) }.checked()
    }

    /// The time that the group may run in each [period](CpuMax::period), over all CPUs together.
    pub fn quota(self) -> Limit<Duration> {
        match self.quota {
            Limit::Max => Limit::Max,
            Limit::At(us) => Limit::At(Duration::from_micros(us)),
        }
    }

    /// The length of a period.
    pub fn period(self) -> Duration {
        Duration::from_micros(self.period)
    }

    fn checked(self) -> Result<CpuMax> {
        let quota_ok = self.quota.value().is_none_or(|q| q >= 1000);
        if quota_ok && (1000..=1_000_000).contains(&self.period) {
            Ok(self)
        } else {
            Err(Error::invalid("cpu.max", self.to_string().as_bytes(), EXPECTED))
        }
    }
}

/// The kernel's own form, `QUOTA PERIOD`.
impl fmt::Display for CpuMax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.quota, self.period)
    }
}

impl FromStr for CpuMax {
    type Err = Error;

    fn from_str(s: &str) -> Result<CpuMax> {
        let bad = || Error::invalid("cpu.max", s.as_bytes(), EXPECTED);
        let (quota, period) = s.split_once(' ').map_or((s, None), |(q, p)| (q, Some(p)));
        let quota = match quota {
            "max" => Limit::Max,
            q => Limit::At(number(q.as_bytes()).ok_or_else(bad)?),
        };
        let period = period.map_or(Some(DEFAULT_PERIOD), |p| number(p.as_bytes())).ok_or_else(bad)?;
        CpuMax { quota, period }.checked()
    }
}

/// A nice value, -20 to 19, as another spelling of a weight: `cpu.weight.nice`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nice(i8);

impl Nice {
    /// # Errors
    /// [`InvalidValue`](crate::ErrorKind::InvalidValue) outside -20 to 19.
    pub fn new(nice: i8) -> Result<Nice> {
        if (-20..=19).contains(&nice) {
            Ok(Nice(nice))
        } else {
            Err(Error::invalid("nice", nice.to_string().as_bytes(), "-20 to 19"))
        }
    }

    /// The nice value as a number.
    pub const fn get(self) -> i8 {
        self.0
    }
}

impl fmt::Display for Nice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Nice {
    type Err = Error;

    fn from_str(s: &str) -> Result<Nice> {
        s.parse::<i8>().map_or_else(|_| Err(Error::invalid("nice", s.as_bytes(), "-20 to 19")), Nice::new)
    }
}

/// Settings of the `cpu` controller.
impl Limits {
    /// The share of a contended CPU among siblings: `cpu.weight`.
    #[doc(alias = "cpu.weight")]
    #[must_use]
    pub fn cpu_weight(self, weight: Weight) -> Limits {
        self.remove("cpu.weight.nice").put(FileName::of("cpu.weight"), weight.to_string(), Check::Text)
    }

    /// The same by a nice value: `cpu.weight.nice`. Replaces a weight given before.
    #[doc(alias = "cpu.weight.nice")]
    #[must_use]
    pub fn cpu_nice(self, nice: Nice) -> Limits {
        self.remove("cpu.weight").put(FileName::of("cpu.weight.nice"), nice.to_string(), Check::Text)
    }

    /// Time in each period: `cpu.max`.
    #[doc(alias = "cpu.max")]
    #[must_use]
    pub fn cpu_max(self, max: CpuMax) -> Limits {
        self.put(FileName::of("cpu.max"), max.to_string(), Check::Text)
    }

    /// Unused quota that may be saved for a burst, at most one quota: `cpu.max.burst` (5.14).
    #[doc(alias = "cpu.max.burst")]
    #[must_use]
    pub fn cpu_burst(self, burst: Duration) -> Limits {
        self.put(FileName::of("cpu.max.burst"), burst.as_micros().to_string(), Check::Text)
    }

    /// Run only when nothing else wants the CPU: `cpu.idle` (5.15). The weight is 0 then.
    #[doc(alias = "cpu.idle")]
    #[must_use]
    pub fn cpu_idle(self, idle: bool) -> Limits {
        self.put(FileName::of("cpu.idle"), u8::from(idle).to_string(), Check::Text)
    }
}

/// `cpu.stat`: time used, and how often the quota held the group back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CpuStat {
    /// Processor time used, by the group and those below. Known without the `cpu` controller too.
    pub usage: Duration,
    /// Of it, in user mode.
    pub user: Duration,
    /// Of it, in the kernel.
    pub system: Duration,
    /// Periods in which the group wanted to run.
    pub nr_periods: u64,
    /// Of them, those in which the quota ran out.
    pub nr_throttled: u64,
    /// Time that tasks were held back.
    pub throttled: Duration,
    /// Periods in which saved quota was used.
    pub nr_bursts: u64,
    /// Time used above the quota in those.
    pub burst: Duration,
}

impl CpuStat {
    /// # Errors
    /// [`Parse`](crate::ErrorKind::Parse) for what is not a `key value` file.
    pub fn parse(text: &[u8]) -> Result<CpuStat> {
        let flat = Flat::parse("cpu.stat", text)?;
        let time = |key| Duration::from_micros(flat.count(key));
        Ok(CpuStat {
            usage: time("usage_usec"),
            user: time("user_usec"),
            system: time("system_usec"),
            nr_periods: flat.count("nr_periods"),
            nr_throttled: flat.count("nr_throttled"),
            throttled: time("throttled_usec"),
            nr_bursts: flat.count("nr_bursts"),
            burst: time("burst_usec"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cpu_max_in_the_kernels_spelling() {
        assert_eq!(CpuMax::millicpus(750).to_string(), "75000 100000");
        assert_eq!("75000".parse::<CpuMax>().expect("default period"), CpuMax::millicpus(750));
        assert_eq!("max 100000".parse::<CpuMax>().expect("no limit"), CpuMax::MAX);
        for bad in
            ["", "999 100000", "1000 999", "1000 1000001", "1000 ", "-1 100000", "max max", "1000 1000 1000"]
        {
            assert!(bad.parse::<CpuMax>().is_err(), "{bad}");
        }
        assert!(CpuMax::new(Duration::from_micros(999), Duration::from_millis(100)).is_err());
        assert!(CpuMax::new(Limit::Max, Duration::from_secs(2)).is_err());
        assert!("20".parse::<Nice>().is_err());
        assert_eq!("-20".parse::<Nice>().expect("least").to_string(), "-20");
    }

    #[test]
    fn weight_and_nice_are_one_knob() {
        let l = Limits::new().cpu_weight(Weight::MAX).cpu_nice(Nice::new(5).expect("in range"));
        assert_eq!(l.to_string(), "cpu.weight.nice = 5\n");
    }

    #[test]
    fn a_real_cpu_stat() {
        let s = CpuStat::parse(include_bytes!("../tests/fixtures/v2/cpu.stat")).expect("parses");
        assert_eq!((s.usage.as_micros(), s.user.as_micros(), s.system.as_micros()), (42269, 15370, 26898));
        assert!(CpuStat::parse(b"usage_usec x\n").is_err());
    }

    proptest! {
        #[test]
        fn cpu_max_round_trips(q in 1000u64..10_000_000_000, p in 1000u64..=1_000_000) {
            let m = CpuMax::new(Duration::from_micros(q), Duration::from_micros(p)).expect("in range");
            prop_assert_eq!(m.to_string().parse::<CpuMax>().expect("own spelling"), m);
        }

        #[test]
        fn any_text_is_a_value_or_an_error(s in "\\PC*", bytes: Vec<u8>) {
            let seen = (s.parse::<CpuMax>(), s.parse::<Nice>(), CpuStat::parse(&bytes));
            if let Ok(m) = seen.0 {
                prop_assert_eq!(m.to_string().parse::<CpuMax>().expect("own spelling"), m);
            }
        }
    }
}
