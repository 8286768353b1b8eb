use std::time::Duration;

use crate::Error;
use crate::bytes::{At, split_at, words};

/// `/proc/uptime`, see [proc_uptime(5)](https://man7.org/linux/man-pages/man5/proc_uptime.5.html).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Uptime {
    /// Since boot, with time asleep; follows the boottime offset of the reader's time namespace.
    pub up: Duration,
    /// Idle time, summed over all processors.
    pub idle: Duration,
}

impl Uptime {
    /// Reads the text of `uptime`.
    ///
    /// # Errors
    /// [`Malformed`](crate::ErrorKind::Malformed) with the field.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let at = At { file: "uptime", line: 1 };
        let mut w = words(text.trim_ascii_end());
        Ok(Self { up: seconds(at, "up", &mut w)?, idle: seconds(at, "idle", &mut w)? })
    }
}

/// `123.45`: seconds and hundredths.
fn seconds<'a>(
    at: At,
    field: &'static str,
    words: &mut impl Iterator<Item = &'a [u8]>,
) -> Result<Duration, Error> {
    let word = at.next(field, words)?;
    let (whole, hundredths) = split_at(word, b'.').ok_or_else(|| at.bad(field, word))?;
    if hundredths.len() != 2 {
        return Err(at.bad(field, word));
    }
    let part: u64 = at.num(field, hundredths)?;
    Ok(Duration::from_secs(at.num(field, whole)?).saturating_add(Duration::from_millis(part * 10)))
}

/// `/proc/loadavg`, see [proc_loadavg(5)](https://man7.org/linux/man-pages/man5/proc_loadavg.5.html).
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct LoadAverage {
    /// Tasks running, ready or in uninterruptible sleep: a decaying average over one minute.
    pub one: f64,
    /// Over five minutes.
    pub five: f64,
    /// Over fifteen minutes.
    pub fifteen: f64,
    /// Tasks running or ready now.
    pub running: u32,
    /// All tasks (threads).
    pub total: u32,
    /// The pid given last, in the pid namespace of the proc mount.
    pub last_pid: u32,
}

impl LoadAverage {
    /// Reads the text of `loadavg`.
    ///
    /// # Errors
    /// [`Malformed`](crate::ErrorKind::Malformed) with the field.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let at = At { file: "loadavg", line: 1 };
        let mut w = words(text.trim_ascii_end());
        let (one, five, fifteen) = (
            at.decimal("one", at.next("one", &mut w)?)?,
            at.decimal("five", at.next("five", &mut w)?)?,
            at.decimal("fifteen", at.next("fifteen", &mut w)?)?,
        );
        let tasks = at.next("tasks", &mut w)?;
        let (running, total) = split_at(tasks, b'/').ok_or_else(|| at.bad("tasks", tasks))?;
        Ok(Self {
            one,
            five,
            fifteen,
            running: at.num("running", running)?,
            total: at.num("total", total)?,
            last_pid: at.num("last pid", at.next("last pid", &mut w)?)?,
        })
    }
}
