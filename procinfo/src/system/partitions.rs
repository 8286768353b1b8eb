use std::ffi::OsString;

use crate::bytes::{At, lines, os, words};
use crate::{Device, Error};

/// `/proc/partitions`, see [proc_partitions(5)](https://man7.org/linux/man-pages/man5/proc_partitions.5.html).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Partitions {
    /// One for each line; none in a machine without disks.
    pub partitions: Vec<Partition>,
}

/// A block device or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Partition {
    /// Its number.
    pub device: Device,
    /// In bytes, rounded down to a KiB.
    pub size: u64,
    /// As in `/dev`.
    pub name: OsString,
}

impl Partitions {
    /// Reads the text of `partitions`: a heading, an empty line, then a line each.
    ///
    /// # Errors
    /// [`Malformed`](crate::ErrorKind::Malformed) with the line and field.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let one = |(at, line): (At, &[u8])| {
            let mut w = words(line);
            let device = Device {
                major: at.num("major", at.next("major", &mut w)?)?,
                minor: at.num("minor", at.next("minor", &mut w)?)?,
            };
            let blocks: u64 = at.num("#blocks", at.next("#blocks", &mut w)?)?;
            let size = blocks.checked_mul(1024).ok_or_else(|| at.bad("#blocks", line))?;
            Ok(Partition { device, size, name: os(at.next("name", &mut w)?) })
        };
        let rows = lines("partitions", text).skip(1).filter(|(_, line)| !line.is_empty());
        Ok(Self { partitions: rows.map(one).collect::<Result<_, _>>()? })
    }
}
