use std::time::Duration;

use crate::Error;
use crate::bytes::{At, lines, words};

/// One of `/proc/pressure/*`, or a cgroup's `*.pressure`: for how much of the time tasks waited, see
/// [the kernel's page](https://docs.kernel.org/accounting/psi.html).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Pressure {
    /// At least one task waited; absent for `irq`.
    pub some: Option<PressureLine>,
    /// All tasks that were not idle waited; absent for `cpu` before Linux 5.13.
    pub full: Option<PressureLine>,
}

/// One line.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct PressureLine {
    /// Percent of the last ten seconds.
    pub avg10: f64,
    /// Percent of the last minute.
    pub avg60: f64,
    /// Percent of the last five minutes.
    pub avg300: f64,
    /// Since boot.
    pub total: Duration,
}

/// Which resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PressureOf {
    /// `cpu`
    Cpu,
    /// `memory`
    Memory,
    /// `io`
    Io,
    /// `irq` (Linux 6.1, `CONFIG_IRQ_TIME_ACCOUNTING`)
    Irq,
}

impl PressureOf {
    /// The name of the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Io => "io",
            Self::Irq => "irq",
        }
    }
}

impl Pressure {
    /// Reads the text of a pressure file.
    ///
    /// # Errors
    /// [`Malformed`](crate::ErrorKind::Malformed) with the line and field.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let mut pressure = Self::default();
        for (at, line) in lines("pressure", text) {
            let mut w = words(line);
            let slot = match at.next("line", &mut w)? {
                b"some" => &mut pressure.some,
                b"full" => &mut pressure.full,
                other => return Err(at.bad("line", other)),
            };
            *slot = Some(PressureLine {
                avg10: percent(at, "avg10", b"avg10=", &mut w)?,
                avg60: percent(at, "avg60", b"avg60=", &mut w)?,
                avg300: percent(at, "avg300", b"avg300=", &mut w)?,
                total: Duration::from_micros(at.num("total", value(at, "total", b"total=", &mut w)?)?),
            });
        }
        Ok(pressure)
    }
}

fn percent<'a>(
    at: At,
    field: &'static str,
    key: &[u8],
    words: &mut impl Iterator<Item = &'a [u8]>,
) -> Result<f64, Error> {
    at.decimal(field, value(at, field, key, words)?)
}

fn value<'a>(
    at: At,
    field: &'static str,
    key: &[u8],
    words: &mut impl Iterator<Item = &'a [u8]>,
) -> Result<&'a [u8], Error> {
    let word = at.next(field, words)?;
    word.strip_prefix(key).ok_or_else(|| at.bad(field, word))
}
