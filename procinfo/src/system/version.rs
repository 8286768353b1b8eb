use std::ffi::OsString;
use std::fmt;

use crate::Error;
use crate::bytes::{At, dec, os, trim, words};
use crate::strings::printable;

/// `/proc/version`, see [proc_version(5)](https://man7.org/linux/man-pages/man5/proc_version.5.html).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KernelVersion {
    /// The first three numbers of the release; one that it lacks, or that is no number, is 0.
    pub numbers: (u32, u32, u32),
    /// The release as uname(2) has it: `6.12.9-amd64`, `6.1.0-rc3+`, whatever the builder said.
    pub release: OsString,
    /// The whole line.
    pub text: OsString,
}

impl KernelVersion {
    /// Reads the text of `version`.
    ///
    /// # Errors
    /// [`Malformed`](crate::ErrorKind::Malformed) if it does not begin with `Linux version` and a release.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let at = At { file: "version", line: 1 };
        let mut w = words(trim(text));
        if (w.next(), w.next()) != (Some(b"Linux"), Some(b"version")) {
            return Err(at.bad("name", text));
        }
        let release = at.next("release", &mut w)?;
        let mut numbers = release.split(|c| *c == b'.').map(|part| {
            let digits = part.iter().position(|c| !c.is_ascii_digit()).unwrap_or(part.len());
            part.get(..digits).and_then(dec).and_then(|n| u32::try_from(n).ok()).unwrap_or(0)
        });
        let mut next = || numbers.next().unwrap_or(0);
        Ok(Self { numbers: (next(), next(), next()), release: os(release), text: os(trim(text)) })
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.release))
    }
}
