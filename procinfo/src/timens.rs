use crate::Error;
use crate::bytes::{lines, words};

/// `/proc/PID/timens_offsets`: what the time namespace for the process's children adds to each clock (Linux 5.6), see
/// [time_namespaces(7)](https://man7.org/linux/man-pages/man7/time_namespaces.7.html).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TimeOffsets {
    /// `CLOCK_MONOTONIC`.
    pub monotonic: TimeOffset,
    /// `CLOCK_BOOTTIME`, which `/proc/uptime` and start times follow too.
    pub boottime: TimeOffset,
}

/// Seconds, which may be negative, and nanoseconds (0 to 999,999,999) that are always added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TimeOffset {
    /// Whole seconds.
    pub seconds: i64,
    /// And a part of one.
    pub nanoseconds: u32,
}

impl TimeOffsets {
    /// Reads the text of a `timens_offsets` file. Clocks can be named or numbered.
    ///
    /// # Errors
    /// [`Malformed`](crate::ErrorKind::Malformed) with the line and field, also if one of the two is missing.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let (mut monotonic, mut boottime) = (None, None);
        let mut end = crate::bytes::At { file: "timens_offsets", line: 1 };
        for (at, line) in lines("timens_offsets", text) {
            end = at;
            let mut w = words(line);
            let slot = match at.next("clock", &mut w)? {
                b"monotonic" | b"1" => &mut monotonic,
                b"boottime" | b"7" => &mut boottime,
                other => return Err(at.bad("clock", other)),
            };
            let seconds = at.int("seconds", at.next("seconds", &mut w)?)?;
            let nanoseconds = at.num("nanoseconds", at.next("nanoseconds", &mut w)?)?;
            if nanoseconds > 999_999_999 || w.next().is_some() {
                return Err(at.bad("nanoseconds", line));
            }
            *slot = Some(TimeOffset { seconds, nanoseconds });
        }
        Ok(Self {
            monotonic: end.required("monotonic", monotonic)?,
            boottime: end.required("boottime", boottime)?,
        })
    }
}
