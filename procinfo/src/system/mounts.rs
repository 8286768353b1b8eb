use std::ffi::OsString;
use std::path::PathBuf;

use crate::Error;
use crate::bytes::{At, lines, unescape_octal};

/// `/proc/mounts` and `/proc/PID/mounts`: mounts in the format of
/// [fstab(5)](https://man7.org/linux/man-pages/man5/fstab.5.html).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountTable {
    /// One for each line.
    pub entries: Vec<MountTableEntry>,
}

/// One line, its octal escapes undone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MountTableEntry {
    /// What was mounted; may be empty.
    pub source: OsString,
    /// Where.
    pub mount_point: PathBuf,
    /// Its type.
    pub fs_type: OsString,
    /// Options of the mount and of the file system in one list.
    pub options: OsString,
}

impl MountTable {
    /// Reads the text of a `mounts` file. The source may be empty, and then the line begins with a blank.
    ///
    /// # Errors
    /// [`Malformed`](crate::ErrorKind::Malformed) with the line and field.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let one = |(at, line): (At, &[u8])| {
            let mut f = line.split(|c| *c == b' ');
            let source = unescape_octal(at.next("source", &mut f)?);
            let mount_point = PathBuf::from(unescape_octal(at.next("mount point", &mut f)?));
            let fs_type = unescape_octal(at.next("type", &mut f)?);
            // The options are all up to the two numbers that end the line: some file systems do not escape blanks.
            let rest: Vec<&[u8]> = f.collect();
            let [options @ .., _dump, _pass] = rest.as_slice() else { return Err(at.bad("options", line)) };
            if options.is_empty() {
                return Err(at.bad("options", line));
            }
            Ok(MountTableEntry {
                source,
                mount_point,
                fs_type,
                options: unescape_octal(&options.join(&b' ')),
            })
        };
        Ok(Self { entries: lines("mounts", text).map(one).collect::<Result<_, _>>()? })
    }
}
