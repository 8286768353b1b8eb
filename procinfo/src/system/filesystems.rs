use std::ffi::OsString;

use crate::Error;
use crate::bytes::{lines, os, split_at};

/// `/proc/filesystems`, see
/// [proc_filesystems(5)](https://man7.org/linux/man-pages/man5/proc_filesystems.5.html).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileSystems {
    /// One for each line.
    pub types: Vec<FileSystem>,
}

/// A type of file system.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileSystem {
    /// As mount(2) takes it.
    pub name: OsString,
    /// Whether it lives on a block device; the others are marked `nodev`.
    pub needs_device: bool,
}

impl FileSystems {
    /// Reads the text of `filesystems`.
    ///
    /// # Errors
    /// [`Malformed`](crate::ErrorKind::Malformed) with the line and field.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let one = |(at, line): (crate::bytes::At, &[u8])| {
            let (mark, name) = split_at(line, b'\t').ok_or_else(|| at.bad("name", line))?;
            match mark {
                b"nodev" => Ok(FileSystem { name: os(name), needs_device: false }),
                b"" => Ok(FileSystem { name: os(name), needs_device: true }),
                other => Err(at.bad("mark", other)),
            }
        };
        Ok(Self { types: lines("filesystems", text).map(one).collect::<Result<_, _>>()? })
    }

    /// The type of this name.
    pub fn get(&self, name: &str) -> Option<&FileSystem> {
        self.types.iter().find(|t| t.name == name)
    }
}
