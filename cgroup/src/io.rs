//! `io`: limits, weights and latency targets by block device; `io.stat`.

use std::fmt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use crate::controller::FileName;
use crate::error::{Error, Result};
use crate::keyed::utf8;
use crate::limits::{Check, Limits};
use crate::value::{Limit, Weight, number};

/// A block device by its numbers, `MAJOR:MINOR`. The `io` controller wants whole disks, not partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceNumber {
    /// The driver's number, 12 bits.
    pub major: u32,
    /// The device's number within it, 20 bits.
    pub minor: u32,
}

impl DeviceNumber {
    /// The numbers of a block device node such as `/dev/vda`.
    ///
    /// # Errors
    /// [`System`](crate::ErrorKind::System) if it cannot be looked at, [`InvalidValue`](crate::ErrorKind::InvalidValue)
    /// if it is no block device.
    pub fn of_node(path: impl AsRef<Path>) -> Result<DeviceNumber> {
        let path = path.as_ref();
        let meta = std::fs::metadata(path).map_err(|e| Error::io("stat", path, &e))?;
        if !meta.file_type().is_block_device() {
            return Err(Error::invalid(
                "block device",
                path.as_os_str().as_encoded_bytes(),
                "a node such as /dev/vda",
            ));
        }
        let rdev = meta.rdev();
        Ok(DeviceNumber { major: libc::major(rdev), minor: libc::minor(rdev) })
    }
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl FromStr for DeviceNumber {
    type Err = Error;

    fn from_str(s: &str) -> Result<DeviceNumber> {
        let one = |t: &str, bits: u32| {
            number(t.as_bytes()).and_then(|n| u32::try_from(n).ok()).filter(|n| n >> bits == 0)
        };
        s.split_once(':')
            .and_then(|(a, b)| Some(DeviceNumber { major: one(a, 12)?, minor: one(b, 20)? }))
            .ok_or_else(|| Error::invalid("device", s.as_bytes(), "MAJOR:MINOR, 12 and 20 bits, as in 8:16"))
    }
}

/// The most that a group may do with one device, each second: one line of `io.max` without its device.
#[doc(alias = "io.max")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IoMax {
    /// Bytes read.
    pub rbps: Limit<u64>,
    /// Bytes written.
    pub wbps: Limit<u64>,
    /// Read operations.
    pub riops: Limit<u64>,
    /// Write operations.
    pub wiops: Limit<u64>,
}

impl Default for IoMax {
    fn default() -> IoMax {
        IoMax { rbps: Limit::Max, wbps: Limit::Max, riops: Limit::Max, wiops: Limit::Max }
    }
}

impl fmt::Display for IoMax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rbps={} wbps={} riops={} wiops={}", self.rbps, self.wbps, self.riops, self.wiops)
    }
}

impl FromStr for IoMax {
    type Err = Error;

    fn from_str(s: &str) -> Result<IoMax> {
        let bad =
            || Error::invalid("io.max", s.as_bytes(), "rbps= wbps= riops= wiops=, each max or more than 0");
        let mut max = IoMax::default();
        for word in s.split_ascii_whitespace() {
            let (key, value) = word.split_once('=').ok_or_else(bad)?;
            let value = match value {
                "max" => Limit::Max,
                n => Limit::At(number(n.as_bytes()).filter(|n| *n > 0).ok_or_else(bad)?),
            };
            match key {
                "rbps" => max.rbps = value,
                "wbps" => max.wbps = value,
                "riops" => max.riops = value,
                "wiops" => max.wiops = value,
                _ => return Err(bad()),
            }
        }
        Ok(max)
    }
}

/// Settings of the `io` controller.
impl Limits {
    /// Bytes and operations each second on one device: `io.max`. Buffered writes count when they are written back.
    #[doc(alias = "io.max")]
    #[must_use]
    pub fn io_max(self, device: DeviceNumber, max: IoMax) -> Limits {
        let none = format!("{device} {}", IoMax::default());
        let value = format!("{device} {max}");
        self.line(FileName::of("io.max"), device.to_string(), value, none, Check::LineUnlessDefault)
    }

    /// The share of contended devices: `io.weight`. It has an effect where the io.cost controller or BFQ runs.
    #[doc(alias = "io.weight")]
    #[must_use]
    pub fn io_weight(self, weight: Weight) -> Limits {
        let value = format!("default {weight}");
        self.line(FileName::of("io.weight"), "default".into(), value, "default 100".into(), Check::Line)
    }

    /// The share of one device: `io.weight`.
    #[doc(alias = "io.weight")]
    #[must_use]
    pub fn io_weight_of(self, device: DeviceNumber, weight: Weight) -> Limits {
        let reset = format!("{device} default");
        self.line(
            FileName::of("io.weight"),
            device.to_string(),
            format!("{device} {weight}"),
            reset,
            Check::Line,
        )
    }

    /// The latency that the group shall get from a device; siblings with laxer targets are slowed for it:
    /// `io.latency`. Zero ends it.
    #[doc(alias = "io.latency")]
    #[must_use]
    pub fn io_latency(self, device: DeviceNumber, target: Duration) -> Limits {
        let reset = format!("{device} target=0");
        let value = format!("{device} target={}", target.as_micros());
        self.line(FileName::of("io.latency"), device.to_string(), value, reset, Check::LineUnlessDefault)
    }
}

/// What a group did with one device: a line of `io.stat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct IoStat {
    /// Bytes read.
    pub rbytes: u64,
    /// Bytes written.
    pub wbytes: u64,
    /// Read operations.
    pub rios: u64,
    /// Write operations.
    pub wios: u64,
    /// Bytes discarded.
    pub dbytes: u64,
    /// Discard operations.
    pub dios: u64,
}

impl IoStat {
    /// All lines. Keys that are not numbers, as some io policies add, are passed over.
    ///
    /// # Errors
    /// [`Parse`](crate::ErrorKind::Parse) for a line without a device.
    pub fn parse(text: &[u8]) -> Result<Vec<(DeviceNumber, IoStat)>> {
        let mut all = Vec::new();
        for line in utf8("io.stat", text)?.lines() {
            let mut device = None;
            let mut stat = IoStat::default();
            for word in line.split_ascii_whitespace() {
                match word.split_once('=') {
                    // Some kernels print a device without numbers and no line break: the last device is the line's.
                    None => {
                        device = Some(word.parse().map_err(|_| Error::parse("io.stat", line.as_bytes()))?);
                    }
                    Some((key, value)) => {
                        let Some(value) = number(value.as_bytes()) else { continue };
                        match key {
                            "rbytes" => stat.rbytes = value,
                            "wbytes" => stat.wbytes = value,
                            "rios" => stat.rios = value,
                            "wios" => stat.wios = value,
                            "dbytes" => stat.dbytes = value,
                            "dios" => stat.dios = value,
                            _ => {}
                        }
                    }
                }
            }
            match device {
                Some(device) => all.push((device, stat)),
                None if line.trim().is_empty() => {}
                None => return Err(Error::parse("io.stat", line.as_bytes())),
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_of_io_max() {
        let max: IoMax = "rbps=2097152 wiops=120".parse().expect("a subset");
        assert_eq!(max.to_string(), "rbps=2097152 wbps=max riops=max wiops=120");
        for bad in ["rbps=0", "rbps", "xbps=1", "rbps=-1"] {
            assert!(bad.parse::<IoMax>().is_err(), "{bad}");
        }
        let disk: DeviceNumber = "8:16".parse().expect("a device");
        let limits =
            Limits::new().io_max(disk, max).io_max(DeviceNumber { major: 8, minor: 0 }, IoMax::default());
        assert_eq!(limits.iter().count(), 2);
        for bad in ["8", "8:", "4096:0", "0:1048576", "a:b", "8:16 "] {
            assert!(bad.parse::<DeviceNumber>().is_err(), "{bad}");
        }
        assert!(DeviceNumber::of_node("/dev/null").is_err());
    }

    #[test]
    fn real_io_stat_lines() {
        let text = b"254:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n8:0 8:16 rbytes=1 cost.usage=7 x=a\n7:0 \n";
        let all = IoStat::parse(text).expect("parses");
        assert_eq!(all.len(), 3);
        assert_eq!((all[0].1.wbytes, all[0].1.wios), (8192, 2));
        assert_eq!(all[1], (DeviceNumber { major: 8, minor: 16 }, IoStat { rbytes: 1, ..IoStat::default() }));
        assert!(IoStat::parse(b"rbytes=1\n").is_err());
        assert!(IoStat::parse(b"disk rbytes=1\n").is_err());
    }

    proptest! {
        #[test]
        fn io_max_round_trips(r in 1u64.., w in 1u64..) {
            let max = IoMax { rbps: r.into(), wiops: w.into(), ..IoMax::default() };
            prop_assert_eq!(max.to_string().parse::<IoMax>().expect("own spelling"), max);
        }

        #[test]
        fn no_text_breaks_the_parsers(s in "\\PC*", b: Vec<u8>) {
            let seen = (s.parse::<IoMax>(), IoStat::parse(&b));
            if let (Ok(max), _) = seen {
                prop_assert_eq!(max.to_string().parse::<IoMax>().expect("own spelling"), max);
            }
            if let Ok(d) = s.parse::<DeviceNumber>() {
                prop_assert_eq!(d.to_string().parse::<DeviceNumber>().expect("own spelling"), d);
            }
        }
    }
}
