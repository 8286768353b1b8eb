use std::ffi::OsString;
use std::fmt;
use std::ops::Range;
use std::os::unix::ffi::OsStringExt;

use crate::bytes::{At, lines, split_at};
use crate::{Device, Error};

/// `/proc/PID/maps`: the mappings of a process in ascending order, see
/// [proc_pid_maps(5)](https://man7.org/linux/man-pages/man5/proc_pid_maps.5.html). Needs ptrace read access.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Maps {
    /// One for each line. Empty for a process without memory.
    pub mappings: Vec<Mapping>,
}

/// One mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mapping {
    /// From the first address to the first after it.
    pub address: Range<u64>,
    /// `rwxs` or `p`.
    pub permissions: Permissions,
    /// Where in the file it begins, in bytes.
    pub offset: u64,
    /// The file's device.
    pub device: Device,
    /// The file's inode, 0 for none.
    pub inode: u64,
    /// The file's path, or `[heap]`, `[stack]`, `[vdso]`, `[anon:name]`; empty for anonymous memory. The kernel
    /// appends ` (deleted)` to the path of a removed file, and writes a newline as `\012` without escaping the
    /// backslash: a path that holds those four characters cannot be told from one with a newline.
    pub name: OsString,
}

/// What may be done with a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Permissions {
    /// `r`
    pub read: bool,
    /// `w`
    pub write: bool,
    /// `x`
    pub execute: bool,
    /// `s`: writes reach the file; otherwise `p`, private.
    pub shared: bool,
}

impl Maps {
    /// Reads the text of a `maps` file.
    ///
    /// # Errors
    /// [`Malformed`](crate::ErrorKind::Malformed) with the line and field.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        Ok(Self { mappings: lines("maps", text).map(|(at, l)| mapping(at, l)).collect::<Result<_, _>>()? })
    }
}

fn mapping(at: At, line: &[u8]) -> Result<Mapping, Error> {
    let mut f = line.splitn(6, |c| *c == b' ');
    let address = at.next("address", &mut f)?;
    let (start, end) = split_at(address, b'-').ok_or_else(|| at.bad("address", address))?;
    let permissions = at.next("permissions", &mut f)?;
    let permissions = Permissions::parse(permissions).ok_or_else(|| at.bad("permissions", permissions))?;
    let offset = at.hex("offset", at.next("offset", &mut f)?)?;
    let device = at.next("device", &mut f)?;
    let (major, minor) = split_at(device, b':').ok_or_else(|| at.bad("device", device))?;
    let part = |b| at.hex("device", b).and_then(|n| u32::try_from(n).map_err(|_| at.bad("device", b)));
    Ok(Mapping {
        address: at.hex("address", start)?..at.hex("address", end)?,
        permissions,
        offset,
        device: Device { major: part(major)?, minor: part(minor)? },
        inode: at.num("inode", at.next("inode", &mut f)?)?,
        name: newlines(f.next().unwrap_or_default().trim_ascii_start()),
    })
}

fn newlines(mut name: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(name.len());
    while let Some((first, rest)) = name.split_first() {
        name = match name.strip_prefix(b"\\012") {
            Some(after) => {
                out.push(b'\n');
                after
            }
            None => {
                out.push(*first);
                rest
            }
        };
    }
    OsString::from_vec(out)
}

impl Permissions {
    fn parse(b: &[u8]) -> Option<Self> {
        let [r, w, x, s] = b else { return None };
        let flag = |c: &u8, yes| match *c {
            b'-' => Some(false),
            c if c == yes => Some(true),
            _ => None,
        };
        let shared = match s {
            b's' => true,
            b'p' => false,
            _ => return None,
        };
        Some(Self { read: flag(r, b'r')?, write: flag(w, b'w')?, execute: flag(x, b'x')?, shared })
    }
}

impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = |on, yes| if on { yes } else { '-' };
        let shared = if self.shared { 's' } else { 'p' };
        write!(f, "{}{}{}{shared}", c(self.read, 'r'), c(self.write, 'w'), c(self.execute, 'x'))
    }
}
