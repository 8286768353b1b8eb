//! How the kernel schedules a payload, and what it takes for its execution domain.

use std::fmt;
use std::io;
use std::time::Duration;

use palisade_creds::{Capability, CapabilitySet};
use palisade_sys::{Program, Step};

use crate::sys;

/// A scheduling policy, [sched(7)](https://man7.org/linux/man-pages/man7/sched.7.html).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scheduler {
    /// The default: shares of time, by nice value.
    #[doc(alias = "SCHED_OTHER")]
    Other,
    /// As `Other`, for work that nobody waits for: woken less eagerly.
    #[doc(alias = "SCHED_BATCH")]
    Batch,
    /// Only when nothing else wants the CPU, nearly.
    #[doc(alias = "SCHED_IDLE")]
    Idle,
    /// Real time: runs until it waits or a higher priority (1 to 99) is ready.
    #[doc(alias = "SCHED_FIFO")]
    Fifo(u8),
    /// Real time, in turns with others of its priority (1 to 99).
    #[doc(alias = "SCHED_RR")]
    RoundRobin(u8),
    /// Real time by reservation: `runtime` within each `period`, done `deadline` after its start. Such a process can't
    /// fork or start a thread (`EAGAIN`), and must be allowed on all CPUs.
    #[doc(alias = "SCHED_DEADLINE")]
    Deadline {
        /// CPU time reserved in each period; at least 1024 ns.
        runtime: Duration,
        /// When it must be done; at least `runtime`.
        deadline: Duration,
        /// Length of a period; at least `deadline`.
        period: Duration,
    },
}

impl Scheduler {
    fn problem(self) -> Option<String> {
        match self {
            Self::Fifo(priority) | Self::RoundRobin(priority) if !(1..=99).contains(&priority) => {
                Some(format!("scheduler: priority {priority} is not from 1 to 99"))
            }
            Self::Deadline { runtime, deadline, period } => {
                // The kernel keeps them as nanoseconds, and the top bit for itself.
                let possible = runtime >= Duration::from_nanos(1024)
                    && runtime <= deadline
                    && deadline <= period
                    && period.as_nanos() < 1 << 63;
                (!possible).then(|| {
                    format!("scheduler: {runtime:?}, {deadline:?}, {period:?} are not 1024 ns <= runtime <= deadline <= period < 292 years")
                })
            }
            _ => None,
        }
    }

    /// The kernel's number, and the priority.
    fn policy(self) -> (i32, u8) {
        match self {
            Self::Other => (libc::SCHED_OTHER, 0),
            Self::Batch => (libc::SCHED_BATCH, 0),
            Self::Idle => (libc::SCHED_IDLE, 0),
            Self::Fifo(priority) => (libc::SCHED_FIFO, priority),
            Self::RoundRobin(priority) => (libc::SCHED_RR, priority),
            Self::Deadline { .. } => (libc::SCHED_DEADLINE, 0),
        }
    }

    /// What the kernel says about a process of this number instead, if it says something else.
    pub(crate) fn difference(self, pid: u32) -> io::Result<Option<String>> {
        let seen = sys::scheduling_of(pid)?;
        let time = Duration::from_nanos;
        let (policy, priority) = self.policy();
        let reserved = match self {
            Self::Deadline { runtime, deadline, period } => {
                [seen.sched_runtime, seen.sched_deadline, seen.sched_period].map(time)
                    == [runtime, deadline, period]
            }
            _ => true,
        };
        let same =
            seen.sched_policy as i32 == policy && seen.sched_priority == u32::from(priority) && reserved;
        Ok((!same).then(|| {
            let of = |number, priority| match number {
                libc::SCHED_OTHER => Some(Self::Other),
                libc::SCHED_BATCH => Some(Self::Batch),
                libc::SCHED_IDLE => Some(Self::Idle),
                libc::SCHED_FIFO => Some(Self::Fifo(priority)),
                libc::SCHED_RR => Some(Self::RoundRobin(priority)),
                libc::SCHED_DEADLINE => Some(Self::Deadline {
                    runtime: time(seen.sched_runtime),
                    deadline: time(seen.sched_deadline),
                    period: time(seen.sched_period),
                }),
                _ => None,
            };
            let known = of(seen.sched_policy as i32, u8::try_from(seen.sched_priority).unwrap_or(u8::MAX));
            known.map_or_else(|| format!("policy {}", seen.sched_policy), |policy| policy.to_string())
        }))
    }

    fn is_real_time(self) -> bool {
        matches!(self, Self::Fifo(_) | Self::RoundRobin(_) | Self::Deadline { .. })
    }
}

impl fmt::Display for Scheduler {
    /// The kernel's name of the policy, and the priority or the reservation.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other => f.write_str("SCHED_OTHER"),
            Self::Batch => f.write_str("SCHED_BATCH"),
            Self::Idle => f.write_str("SCHED_IDLE"),
            Self::Fifo(priority) => write!(f, "SCHED_FIFO {priority}"),
            Self::RoundRobin(priority) => write!(f, "SCHED_RR {priority}"),
            Self::Deadline { runtime, deadline, period } => {
                write!(f, "SCHED_DEADLINE {runtime:?} of {period:?} within {deadline:?}")
            }
        }
    }
}

/// An execution domain and its flags, [personality(2)](https://man7.org/linux/man-pages/man2/personality.2.html).
///
/// ```
/// use palisade::Personality;
/// let persona = Personality::LINUX32.with(Personality::ADDR_NO_RANDOMIZE);
/// assert_eq!(persona.to_string(), "LINUX32|ADDR_NO_RANDOMIZE");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Personality(u32);

macro_rules! personalities {
    ($($(#[$meta:meta])+ $name:ident = $bits:expr,)+) => {
        impl Personality {
            /// The kernel's own, without flags.
            pub const LINUX: Self = Self(0);
            $($(#[$meta])+ pub const $name: Self = Self($bits as u32);)+

            const NAMES: &[(u32, &str)] = &[$(($bits as u32, stringify!($name))),+];
        }
    };
}

personalities! {
    /// `uname -m` says i686: for builds of 32-bit programs.
    LINUX32 = 0x8,
    /// `uname -r` says 2.6: for programs that take a version above that for a mistake.
    UNAME26 = libc::UNAME26,
    /// No randomisation of addresses: runs are reproducible, and attacks easier.
    ADDR_NO_RANDOMIZE = libc::ADDR_NO_RANDOMIZE,
    /// The old layout of memory, mappings from below.
    ADDR_COMPAT_LAYOUT = libc::ADDR_COMPAT_LAYOUT,
    /// Time-outs of select and its like are not changed.
    STICKY_TIMEOUTS = libc::STICKY_TIMEOUTS,
}

impl Personality {
    /// Both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

impl fmt::Display for Personality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let domain = if self.0 & Self::LINUX32.0 == 0 { Some("LINUX") } else { None };
        let names = Self::NAMES.iter().filter(|(bits, _)| self.0 & bits == *bits).map(|(_, name)| *name);
        f.write_str(&domain.into_iter().chain(names).collect::<Vec<_>>().join("|"))
    }
}

/// What a command asks for; nothing is what the host program has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scheduling {
    pub(crate) nice: Option<i32>,
    pub(crate) scheduler: Option<Scheduler>,
    pub(crate) affinity: Option<Vec<usize>>,
    pub(crate) personality: Option<Personality>,
}

/// The most that any kernel is built for.
const MAX_CPUS: usize = 8192;

impl Scheduling {
    pub(crate) fn problems(&self, wrong: &mut Vec<String>) {
        if let Some(nice) = self.nice.filter(|nice| !(-20..=19).contains(nice)) {
            wrong.push(format!("nice: {nice} is not from -20 to 19"));
        }
        wrong.extend(self.scheduler.and_then(Scheduler::problem));
        match self.affinity.as_deref() {
            Some([]) => wrong.push("affinity: names no CPU".into()),
            Some(cpus) => {
                let beyond = cpus.iter().filter(|&&cpu| cpu >= MAX_CPUS);
                wrong.extend(beyond.map(|cpu| format!("affinity: CPU {cpu} is not below {MAX_CPUS}")));
            }
            None => {}
        }
    }

    /// Whether a process with this can't fork.
    pub(crate) fn forbids_fork(&self) -> bool {
        matches!(self.scheduler, Some(Scheduler::Deadline { .. }))
    }

    /// The capabilities with which the kernel allows more; without them it depends on resource limits.
    pub(crate) fn helpful_capabilities(&self) -> CapabilitySet {
        let more = self.nice.is_some() || self.scheduler.is_some_and(Scheduler::is_real_time);
        if more { CapabilitySet::EMPTY.with(Capability::SysNice) } else { CapabilitySet::EMPTY }
    }

    pub(crate) fn apply(&self, p: &mut Program) {
        if let Some(cpus) = &self.affinity {
            p.at(Step::Limits, "affinity");
            let mut mask = vec![0; cpus.iter().max().map_or(0, |most| most / 64 + 1)];
            for cpu in cpus {
                mask[cpu / 64] |= 1 << (cpu % 64);
            }
            p.sched_setaffinity(&mask);
        }
        if let Some(scheduler) = self.scheduler {
            p.at(Step::Limits, "scheduler");
            let (policy, priority) = scheduler.policy();
            if let Scheduler::Deadline { runtime, deadline, period } = scheduler {
                let nanoseconds = |time: Duration| time.as_nanos() as u64;
                p.sched_deadline(nanoseconds(runtime), nanoseconds(deadline), nanoseconds(period));
            } else {
                p.sched_setscheduler(policy, priority.into());
            }
        }
        if let Some(nice) = self.nice {
            p.at(Step::Limits, "nice");
            p.setpriority(nice);
        }
        if let Some(personality) = self.personality {
            p.at(Step::Limits, "personality");
            p.personality(personality.0);
        }
    }
}
