//! Offsets of the clocks of a time namespace.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use palisade_sys::{Fd, OpenHow, Program, Slot, Step};

use crate::error::{Error, ErrorKind, Result};
use crate::namespace::Namespace;

/// How far a clock is set forward (or back) inside a time namespace.
///
/// Text is in seconds with up to nine decimals, `86400` or `-0.5`. The kernel has no sum of clock and offset below
/// zero or beyond about 146 years: it refuses such an offset with `ERANGE` when it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClockOffset {
    /// Rounded down, as the kernel wants it: -0.5 s is -1 s and 500000000 ns.
    secs: i64,
    nanos: u32,
}

const NANOS: i128 = 1_000_000_000;

impl ClockOffset {
    /// No offset.
    pub const ZERO: Self = Self { secs: 0, nanos: 0 };

    /// The clock inside is ahead by `by`; the largest offset if that is beyond 2^63 seconds.
    pub fn forward(by: Duration) -> Self {
        match i64::try_from(by.as_secs()) {
            Ok(secs) => Self { secs, nanos: by.subsec_nanos() },
            Err(_) => Self { secs: i64::MAX, nanos: 999_999_999 },
        }
    }

    /// The clock inside is behind by `by`; the smallest offset if that is beyond 2^63 seconds.
    pub fn back(by: Duration) -> Self {
        let nanos = -(i128::from(by.as_secs()) * NANOS + i128::from(by.subsec_nanos()));
        Self::from_nanos(nanos).unwrap_or(Self { secs: i64::MIN, nanos: 0 })
    }

    fn from_nanos(nanos: i128) -> Option<Self> {
        let secs = i64::try_from(nanos.div_euclid(NANOS)).ok()?;
        Some(Self { secs, nanos: nanos.rem_euclid(NANOS) as u32 })
    }

    fn to_nanos(self) -> i128 {
        i128::from(self.secs) * NANOS + i128::from(self.nanos)
    }

    /// The distance, without the direction.
    pub fn magnitude(self) -> Duration {
        let nanos = self.to_nanos().unsigned_abs();
        Duration::new((nanos / NANOS as u128) as u64, (nanos % NANOS as u128) as u32)
    }

    /// Whether the clock inside is behind.
    pub fn is_back(self) -> bool {
        self.secs < 0
    }
}

impl fmt::Display for ClockOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.is_back() { "-" } else { "" };
        let (secs, nanos) = (self.magnitude().as_secs(), self.magnitude().subsec_nanos());
        let decimals = if nanos == 0 { String::new() } else { format!(".{nanos:09}") };
        f.pad(&format!("{sign}{secs}{}", decimals.trim_end_matches('0')))
    }
}

impl FromStr for ClockOffset {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = || {
            let (back, unsigned) = match text.strip_prefix('-') {
                Some(rest) => (true, rest),
                None => (false, text),
            };
            let (secs, decimals) = unsigned.split_once('.').unwrap_or((unsigned, "0"));
            let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
            if !digits(secs) || !digits(decimals) || decimals.len() > 9 {
                return None;
            }
            let nanos: i128 = format!("{decimals:0<9}").parse().ok()?;
            let sum = secs.parse::<u64>().map(i128::from).ok()? * NANOS + nanos;
            Self::from_nanos(if back { -sum } else { sum })
        };
        parsed().ok_or_else(|| {
            let what =
                format!("clock offset {text:?} is not seconds with up to nine decimals, like 86400 or -0.5");
            Error::new(ErrorKind::Syntax, what)
        })
    }
}

/// The offsets of a time namespace. `Display` and `FromStr` use the lines of `/proc/PID/timens_offsets`.
///
/// `CLOCK_MONOTONIC` and `CLOCK_BOOTTIME` (which `/proc/uptime` follows) are shifted; `CLOCK_REALTIME`, the time of
/// day, is the same in all namespaces. Since Linux 5.6.
///
/// [time_namespaces(7)](https://man7.org/linux/man-pages/man7/time_namespaces.7.html)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[doc(alias = "timens_offsets")]
pub struct TimeOffsets {
    monotonic: ClockOffset,
    boottime: ClockOffset,
}

const FILE: &std::ffi::CStr = c"/proc/self/timens_offsets";

impl TimeOffsets {
    /// No offset.
    pub const ZERO: Self = Self { monotonic: ClockOffset::ZERO, boottime: ClockOffset::ZERO };

    /// Sets the offset of `CLOCK_MONOTONIC`.
    #[must_use]
    pub fn monotonic(self, offset: ClockOffset) -> Self {
        Self { monotonic: offset, ..self }
    }

    /// Sets the offset of `CLOCK_BOOTTIME`.
    #[must_use]
    pub fn boottime(self, offset: ClockOffset) -> Self {
        Self { boottime: offset, ..self }
    }

    /// The offset of `CLOCK_MONOTONIC`.
    pub fn monotonic_offset(&self) -> ClockOffset {
        self.monotonic
    }

    /// The offset of `CLOCK_BOOTTIME`.
    pub fn boottime_offset(&self) -> ClockOffset {
        self.boottime
    }

    /// Makes a time namespace, writes the offsets and enters it: unshare(2), the two files
    /// `/proc/self/timens_offsets` and `/proc/self/ns/time_for_children`, setns(2).
    ///
    /// The offsets can be written only until the namespace has a member, and clone3(2) would make the child one;
    /// so this is done by a process in its own namespace of every other kind. Entering by setns does not depend on
    /// the kernel: an execve alone does it only in newer ones. The process must have one thread (`EUSERS`).
    ///
    /// `/proc` must be a proc file system that shows this process, its own or one of an outer pid namespace, and the
    /// process must be dumpable (`EACCES` otherwise; a change of ids ends that), or hold `CAP_DAC_OVERRIDE` over id
    /// 0: where it will not be, [`TimeOffsets::open`] the file before and [`TimeOffsets::enter`] later. Needs `CAP_SYS_ADMIN` and
    /// `CAP_SYS_TIME` in the user namespace.
    pub fn program(&self) -> Program {
        let mut p = Program::new();
        p.at(Step::TimeNamespace, "timens_offsets");
        let file = Self::open(&mut p);
        self.enter(&mut p, file);
        p
    }

    /// The first half of [`TimeOffsets::program`], for a process that changes its ids in between: opens its own
    /// `/proc/self/timens_offsets` while it is dumpable, with the credentials that the kernel asks for later.
    pub fn open(p: &mut Program) -> Slot {
        p.openat2(Fd::CWD, FILE, OpenHow { flags: libc::O_WRONLY, ..OpenHow::default() })
    }

    /// The second half: makes the namespace, writes the offsets to the open `file`, closes that, and enters.
    pub fn enter(&self, p: &mut Program, file: impl Into<Fd>) {
        let (kind, file) = (Namespace::Time.bit() as i32, file.into());
        p.unshare(kind);
        // One write: the kernel takes both lines of it or none.
        p.write_all(file, self.to_string().as_bytes());
        p.close(file);
        let namespace = p.openat2(Fd::CWD, c"/proc/self/ns/time_for_children", OpenHow::default());
        p.setns(namespace, kind);
        p.close(namespace);
    }

    /// Reads the contents of a `timens_offsets` file.
    ///
    /// # Errors
    /// [`ErrorKind::Syntax`] if a line is not of a clock, seconds and nanoseconds below 10^9.
    pub fn parse(contents: &[u8]) -> Result<Self> {
        let text = std::str::from_utf8(contents).unwrap_or("\u{fffd}");
        let mut offsets = Self::ZERO;
        for line in text.lines() {
            let words: Vec<_> = line.split_ascii_whitespace().collect();
            let offset = match words[..] {
                [_, secs, nanos] => secs.parse().ok().zip(nanos.parse().ok().filter(|&n| n < NANOS as u32)),
                _ => None,
            };
            match (words.first().copied(), offset) {
                // The kernel takes the clocks' numbers too.
                (Some("monotonic" | "1"), Some((secs, nanos))) => {
                    offsets.monotonic = ClockOffset { secs, nanos }
                }
                (Some("boottime" | "7"), Some((secs, nanos))) => {
                    offsets.boottime = ClockOffset { secs, nanos }
                }
                _ => {
                    let what = format!("timens_offsets: {line:?} is not a clock, seconds and nanoseconds");
                    return Err(Error::new(ErrorKind::Syntax, what));
                }
            }
        }
        Ok(offsets)
    }
}

impl fmt::Display for TimeOffsets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (clock, offset) in [("monotonic", self.monotonic), ("boottime", self.boottime)] {
            writeln!(f, "{clock} {} {}", offset.secs, offset.nanos)?;
        }
        Ok(())
    }
}

impl FromStr for TimeOffsets {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text.as_bytes())
    }
}
