//! Small total readers of the kernel's text formats. Nothing here indexes past an end, overflows or panics.

use std::ffi::{OsStr, OsString};
use std::io::BufRead;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::Error;

/// Where in which file a parser stands, for its errors.
#[derive(Clone, Copy)]
pub(crate) struct At {
    pub(crate) file: &'static str,
    pub(crate) line: u32,
}

impl At {
    pub(crate) fn bad(self, field: &'static str, found: &[u8]) -> Error {
        Error::malformed(self.file, self.line, field, found)
    }

    pub(crate) fn num<T: TryFrom<u64>>(self, field: &'static str, b: &[u8]) -> Result<T, Error> {
        dec(b).and_then(|n| T::try_from(n).ok()).ok_or_else(|| self.bad(field, b))
    }

    pub(crate) fn int<T: TryFrom<i64>>(self, field: &'static str, b: &[u8]) -> Result<T, Error> {
        signed(b).and_then(|n| T::try_from(n).ok()).ok_or_else(|| self.bad(field, b))
    }

    pub(crate) fn hex(self, field: &'static str, b: &[u8]) -> Result<u64, Error> {
        radix::<16>(b).ok_or_else(|| self.bad(field, b))
    }

    pub(crate) fn octal(self, field: &'static str, b: &[u8]) -> Result<u32, Error> {
        radix::<8>(b).and_then(|n| n.try_into().ok()).ok_or_else(|| self.bad(field, b))
    }

    /// `123 kB` as bytes.
    pub(crate) fn kib(self, field: &'static str, b: &[u8]) -> Result<u64, Error> {
        let b = trim(b);
        b.strip_suffix(b" kB")
            .and_then(|n| dec(trim(n)))
            .and_then(|n| n.checked_mul(1024))
            .ok_or_else(|| self.bad(field, b))
    }

    /// `0` or `1`.
    pub(crate) fn flag(self, field: &'static str, b: &[u8]) -> Result<bool, Error> {
        match b {
            b"0" => Ok(false),
            b"1" => Ok(true),
            _ => Err(self.bad(field, b)),
        }
    }

    /// `12.34`: what load averages, pressure averages and uptimes are printed as.
    pub(crate) fn decimal(self, field: &'static str, b: &[u8]) -> Result<f64, Error> {
        let plain = b.len() <= 32
            && b.first().is_some_and(u8::is_ascii_digit)
            && b.last().is_some_and(u8::is_ascii_digit)
            && b.iter().all(|c| c.is_ascii_digit() || *c == b'.');
        let text = if plain { std::str::from_utf8(b).ok() } else { None };
        text.and_then(|s| s.parse().ok()).ok_or_else(|| self.bad(field, b))
    }

    /// The next field of a line, or the error that it ends before.
    pub(crate) fn next<'a>(
        self,
        field: &'static str,
        fields: &mut impl Iterator<Item = &'a [u8]>,
    ) -> Result<&'a [u8], Error> {
        fields.next().ok_or_else(|| self.bad(field, b""))
    }

    /// A field that must have been there by the end of the file.
    pub(crate) fn required<T>(self, field: &'static str, value: Option<T>) -> Result<T, Error> {
        value.ok_or_else(|| self.bad(field, b"(missing)"))
    }
}

/// The lines of a file with the position of each, counted from 1. A last line without its newline is one too.
pub(crate) fn lines<'a>(file: &'static str, mut rest: &'a [u8]) -> impl Iterator<Item = (At, &'a [u8])> {
    let mut line = 0u32;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (this, after) = split_at(rest, b'\n').unwrap_or((rest, b""));
        rest = after;
        line = line.saturating_add(1);
        Some((At { file, line }, this))
    })
}

/// Where a byte stands first. The one door to std's memchr, which is many times faster than looking byte by byte: half
/// of the time that a listing of all processes spends outside of the kernel is finding ends of lines.
fn find(b: &[u8], byte: u8) -> Option<usize> {
    let through = (&mut &*b).skip_until(byte).ok()?;
    through.checked_sub(1).filter(|at| b.get(*at) == Some(&byte))
}

/// The words of a line, between any number of blanks and tabs.
pub(crate) fn words(b: &[u8]) -> impl Iterator<Item = &[u8]> {
    b.split(|c| *c == b' ' || *c == b'\t').filter(|w| !w.is_empty())
}

pub(crate) fn trim(b: &[u8]) -> &[u8] {
    b.trim_ascii()
}

/// `key: value`, split at the first colon, blanks around the value removed.
pub(crate) fn key_value(b: &[u8]) -> Option<(&[u8], &[u8])> {
    split_at(b, b':').map(|(k, v)| (k, trim(v)))
}

pub(crate) fn split_at(b: &[u8], sep: u8) -> Option<(&[u8], &[u8])> {
    let at = find(b, sep)?;
    Some((b.get(..at)?, b.get(at + 1..)?))
}

/// Digits only: no sign, no blanks, no empty text, nothing above 2^64-1.
pub(crate) fn dec(b: &[u8]) -> Option<u64> {
    radix::<10>(b)
}

pub(crate) fn signed(b: &[u8]) -> Option<i64> {
    match b.strip_prefix(b"-") {
        Some(digits) => 0i64.checked_sub_unsigned(dec(digits)?),
        None => dec(b)?.try_into().ok(),
    }
}

fn radix<const RADIX: u32>(b: &[u8]) -> Option<u64> {
    if b.is_empty() {
        return None;
    }
    b.iter().try_fold(0u64, |n, c| {
        let digit = char::from(*c).to_digit(RADIX)?;
        n.checked_mul(u64::from(RADIX))?.checked_add(u64::from(digit))
    })
}

pub(crate) fn os(b: &[u8]) -> OsString {
    OsStr::from_bytes(b).to_owned()
}

/// `\ooo` to the byte it stands for, as in mountinfo, mounts and maps. A backslash that does not begin such an escape
/// stays what it is.
pub(crate) fn unescape_octal(b: &[u8]) -> OsString {
    if find(b, b'\\').is_none() {
        return os(b);
    }
    let mut out = Vec::with_capacity(b.len());
    let mut rest = b;
    while let Some((first, tail)) = rest.split_first() {
        let escaped = match (first, tail.get(..3)) {
            (b'\\', Some(digits)) => radix::<8>(digits).and_then(|n| u8::try_from(n).ok()),
            _ => None,
        };
        match escaped {
            Some(byte) => {
                out.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(out)
}

/// The `0-3,8,10-11` spelling of CPUs and memory nodes.
pub(crate) fn number_list(b: &[u8]) -> Option<Vec<std::ops::RangeInclusive<u32>>> {
    let b = trim(b);
    if b.is_empty() {
        return Some(Vec::new());
    }
    b.split(|c| *c == b',')
        .map(|part| {
            let (first, last) = split_at(part, b'-').unwrap_or((part, part));
            let (first, last) = (dec(first)?.try_into().ok()?, dec(last)?.try_into().ok()?);
            (first <= last).then_some(first..=last)
        })
        .collect()
}
