//! Pressure stall information: reading it, and being woken by it.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::PollFlags;

use crate::cgroup::Cgroup;
use crate::error::{Error, ErrorKind, Result};
use crate::events::wait_priority;
use crate::keyed::{Nested, utf8};
use crate::value::number;

/// What tasks wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Resource {
    /// A CPU.
    Cpu,
    /// Memory: reclaim, refaults.
    Memory,
    /// Block devices.
    Io,
}

impl Resource {
    fn file(self) -> &'static str {
        match self {
            Resource::Cpu => "cpu.pressure",
            Resource::Memory => "memory.pressure",
            Resource::Io => "io.pressure",
        }
    }

    fn system_file(self) -> &'static Path {
        Path::new(match self {
            Resource::Cpu => "/proc/pressure/cpu",
            Resource::Memory => "/proc/pressure/memory",
            Resource::Io => "/proc/pressure/io",
        })
    }
}

/// How much of the time tasks were stalled.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Stall {
    /// Per cent of the last 10 seconds.
    pub avg10: f64,
    /// Per cent of the last minute.
    pub avg60: f64,
    /// Per cent of the last five minutes.
    pub avg300: f64,
    /// All stalls together.
    pub total: Duration,
}

/// A pressure file.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Pressure {
    /// At least one task waited.
    pub some: Stall,
    /// All tasks that were not idle waited. CPU pressure has it since 5.13.
    pub full: Option<Stall>,
}

impl Pressure {
    /// # Errors
    /// [`Parse`](ErrorKind::Parse) for what is not a pressure file.
    pub fn parse(text: &[u8]) -> Result<Pressure> {
        let lines = Nested::parse_all("pressure", utf8("pressure", text)?)?;
        let stall = |key: &str| lines.iter().find(|l| l.key == key).map(|l| Stall::of(l).ok_or(l));
        let bad = |_| Error::parse("pressure", text);
        let some = stall("some").ok_or_else(|| Error::parse("pressure", text))?.map_err(bad)?;
        Ok(Pressure { some, full: stall("full").transpose().map_err(bad)? })
    }

    /// The pressure of the whole system: `/proc/pressure`.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) where the kernel does not account pressure.
    pub fn of_system(resource: Resource) -> Result<Pressure> {
        let path = resource.system_file();
        Pressure::parse(&std::fs::read(path).map_err(|e| explain(Error::io("read", path, &e)))?)
    }
}

impl Stall {
    fn of(line: &Nested<'_>) -> Option<Stall> {
        let average = |key| line.get(key)?.parse::<f64>().ok().filter(|a| a.is_finite() && *a >= 0.0);
        Some(Stall {
            avg10: average("avg10")?,
            avg60: average("avg60")?,
            avg300: average("avg300")?,
            total: Duration::from_micros(number(line.get("total")?.as_bytes())?),
        })
    }
}

/// When to be woken: so much stall within so long a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Trigger {
    full: bool,
    stall: u64,
    window: u64,
}

const EXPECTED: &str =
    "some|full STALL WINDOW in microseconds: window 500 ms to 10 s, stall above 0, at most the window";

impl Trigger {
    /// When some task was stalled for `stall` within a `window`.
    ///
    /// # Errors
    /// [`InvalidValue`](ErrorKind::InvalidValue) for a window outside 500 ms to 10 s or a stall of 0 or above it.
    pub fn some(stall: Duration, window: Duration) -> Result<Trigger> {
        Trigger::new(false, stall, window)
    }

    /// When all tasks were stalled at once.
    ///
    /// # Errors
    /// As [`Trigger::some`].
    pub fn full(stall: Duration, window: Duration) -> Result<Trigger> {
        Trigger::new(true, stall, window)
    }

    fn new(full: bool, stall: Duration, window: Duration) -> Result<Trigger> {
        let us = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        let t = Trigger { full, stall: us(stall), window: us(window) };
        if (500_000..=10_000_000).contains(&t.window) && (1..=t.window).contains(&t.stall) {
            Ok(t)
        } else {
            Err(Error::invalid("pressure trigger", t.to_string().as_bytes(), EXPECTED))
        }
    }
}

/// The kernel's own form, `some 150000 1000000`.
impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", if self.full { "full" } else { "some" }, self.stall, self.window)
    }
}

impl FromStr for Trigger {
    type Err = Error;

    fn from_str(s: &str) -> Result<Trigger> {
        let bad = || Error::invalid("pressure trigger", s.as_bytes(), EXPECTED);
        let micros = |t: &str| number(t.as_bytes()).map(Duration::from_micros).ok_or_else(bad);
        let words: Vec<&str> = s.split(' ').collect();
        match words[..] {
            ["some", stall, window] => Trigger::some(micros(stall)?, micros(window)?),
            ["full", stall, window] => Trigger::full(micros(stall)?, micros(window)?),
            _ => Err(bad()),
        }
    }
}

/// An armed trigger: it fires at most once each window, and is gone when dropped. [`PressureWatch::wait`] blocks; an
/// async runtime waits for *priority* readiness of the descriptor (`EPOLLPRI`; tokio: `Interest::PRIORITY`), which is
/// the event itself: there is nothing to read.
#[derive(Debug)]
pub struct PressureWatch {
    file: File,
    path: PathBuf,
}

impl PressureWatch {
    /// Arms a trigger on the pressure of the whole system.
    ///
    /// # Errors
    /// As [`Cgroup::pressure_watch`].
    pub fn of_system(resource: Resource, trigger: Trigger) -> Result<PressureWatch> {
        let path = resource.system_file();
        let file = OpenOptions::new().read(true).write(true).open(path);
        PressureWatch::arm(
            file.map_err(|e| explain(Error::io("open", path, &e)))?,
            path.to_path_buf(),
            trigger,
        )
    }

    fn arm(mut file: File, path: PathBuf, trigger: Trigger) -> Result<PressureWatch> {
        let text = trigger.to_string();
        file.write_all(text.as_bytes()).map_err(|e| {
            let error = explain(Error::io("arm pressure trigger", &path, &e)).value(text.as_str());
            match e.raw_os_error() {
                Some(libc::EINVAL) => {
                    error.hint("without CAP_SYS_RESOURCE the window must be a multiple of 2 s")
                }
                _ => error,
            }
        })?;
        Ok(PressureWatch { file, path })
    }

    /// Waits until the trigger fires; `false` when the time is over first.
    ///
    /// # Errors
    /// [`Gone`](ErrorKind::Gone) once the group is removed.
    pub fn wait(&mut self, timeout: Duration) -> Result<bool> {
        let deadline = Instant::now().checked_add(timeout);
        let woken = wait_priority(self.file.as_fd(), deadline);
        match woken.map_err(|e| Error::os("poll", &self.path, e as i32))? {
            Some(flags) if flags.contains(PollFlags::POLLERR) => {
                Err(Error::new(ErrorKind::Gone, "the group of this trigger was removed").at(&self.path))
            }
            fired => Ok(fired.is_some()),
        }
    }
}

impl AsFd for PressureWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Cgroup {
    /// The pressure in this group and below: `cpu.pressure`, `memory.pressure`, `io.pressure`. It is there without the
    /// controllers too.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) where the kernel does not account pressure, or not for this group
    /// (`cgroup.pressure`); [`Gone`](ErrorKind::Gone).
    #[doc(alias = "memory.pressure")]
    pub fn pressure(&self, resource: Resource) -> Result<Pressure> {
        let text = self.dir.read(resource.file()).map_err(explain)?;
        Pressure::parse(&text).map_err(|e| e.at(&self.file_path(resource.file())))
    }

    /// Arms a trigger on the pressure in this group.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) as for [`Cgroup::pressure`]; [`Refused`](ErrorKind::Refused) for a window
    /// that is no multiple of 2 s without `CAP_SYS_RESOURCE` (before 6.5: any);
    /// [`NotDelegated`](ErrorKind::NotDelegated).
    pub fn pressure_watch(&self, resource: Resource, trigger: Trigger) -> Result<PressureWatch> {
        let name = resource.file();
        let file = self
            .dir
            .file(name, OFlag::O_RDWR)
            .map_err(|e| explain(self.dir.explain("open", name, e as i32)))?;
        PressureWatch::arm(file, self.file_path(name), trigger)
    }
}

fn explain(e: Error) -> Error {
    match e.errno() {
        Some(libc::EOPNOTSUPP | libc::ENOENT) if e.kind() != ErrorKind::Gone => e
            .kinded(ErrorKind::Unsupported)
            .hint("the kernel accounts no pressure: CONFIG_PSI, psi=1, cgroup.pressure"),
        _ => e,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_real_file() {
        let p = Pressure::parse(include_bytes!("../tests/fixtures/v2/cpu.pressure")).expect("parses");
        assert_eq!(p.some.total, Duration::from_micros(8864));
        let old =
            Pressure::parse(b"some avg10=1.50 avg60=0.10 avg300=0.00 total=7\n").expect("cpu before 5.13");
        assert_eq!((old.some.avg10, old.full), (1.5, None));
        for bad in [
            "",
            "full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
            "some avg10=nan avg60=0 avg300=0 total=0",
        ] {
            assert!(Pressure::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn triggers_keep_to_the_kernels_range() {
        let (s, w) = (Duration::from_millis(150), Duration::from_secs(1));
        let t = Trigger::some(s, w).expect("in range");
        assert_eq!(t.to_string(), "some 150000 1000000");
        assert_eq!("some 150000 1000000".parse::<Trigger>().expect("own spelling"), t);
        assert!(Trigger::full(s, Duration::from_millis(499)).is_err());
        assert!(Trigger::full(Duration::ZERO, w).is_err());
        assert!(Trigger::full(w + s, w).is_err());
        assert!("any 1 1000000".parse::<Trigger>().is_err());
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_parsers(s in "\\PC*", b: Vec<u8>) {
            let _seen = Pressure::parse(&b);
            if let Ok(t) = s.parse::<Trigger>() {
                prop_assert_eq!(t.to_string(), s);
            }
        }

        #[test]
        fn written_pressure_is_read(a in 0u32..10_000, total in 0u64..1 << 50) {
            let text = format!("some avg10={0}.{1:02} avg60=0.00 avg300=0.00 total={total}\n", a / 100, a % 100);
            let p = Pressure::parse(text.as_bytes()).expect("well formed");
            prop_assert!((p.some.avg10 - f64::from(a) / 100.0).abs() < 1e-9);
            prop_assert_eq!(p.some.total.as_micros(), u128::from(total));
        }
    }
}
