//! `/etc/subuid` and `/etc/subgid`: the ids that a user may map into namespaces of their own.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::id::decimal;
use crate::{Error, ErrorKind, Result, Uid, file};

/// `count` ids from `start` on. Never empty, never reaching `u32::MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubRange {
    start: u32,
    count: u32,
}

impl SubRange {
    /// The ids that useradd(8) and Docker hand out on most systems: 100000 to 600100000.
    pub const CUSTOMARY: Self = Self { start: 100_000, count: 600_000_001 };

    /// `count` ids from `start` on.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidMap`] if `count` is 0 or the range would reach 4294967295.
    pub fn new(start: u32, count: u32) -> Result<Self> {
        if count == 0 || start.checked_add(count).is_none() {
            return Err(Error::new(
                ErrorKind::InvalidMap,
                format!(
                    "{count} ids from {start} on are no range of ids (at least one, none above 4294967294)"
                ),
            ));
        }
        Ok(Self { start, count })
    }

    /// The first id.
    pub const fn start(self) -> u32 {
        self.start
    }

    /// The number of ids, at least 1.
    pub const fn count(self) -> u32 {
        self.count
    }

    /// The first id after the range.
    const fn end(self) -> u32 {
        self.start + self.count
    }

    /// Whether all of `other` lies in this range.
    pub const fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end() <= self.end()
    }

    /// Whether the two share an id.
    pub const fn overlaps(self, other: Self) -> bool {
        self.start < other.end() && other.start < self.end()
    }

    /// The lowest `count` ids in a row that lie in `pool` and in none of `used`.
    ///
    /// With [`SubRange::CUSTOMARY`] as the pool and [`SubIds::all`] as the used ones it finds a new line for the file;
    /// with the ranges of a user as the pool, the ids of one more sandbox.
    ///
    /// # Errors
    /// [`ErrorKind::Exhausted`] if there is no such gap.
    pub fn allocate(pool: &[Self], used: &[Self], count: u32) -> Result<Self> {
        let mut used = used.to_vec();
        used.sort_unstable();
        let mut pool = pool.to_vec();
        pool.sort_unstable();
        for range in pool {
            let mut start = range.start;
            for taken in used.iter().filter(|taken| taken.overlaps(range)) {
                if taken.start.saturating_sub(start) >= count {
                    break;
                }
                start = start.max(taken.end());
            }
            if count > 0 && start < range.end() && range.end() - start >= count {
                return Self::new(start, count);
            }
        }
        Err(Error::new(ErrorKind::Exhausted, format!("no {count} free ids in a row"))
            .hint_is("add a line such as 'user:231072:65536' to /etc/subuid and /etc/subgid"))
    }
}

/// `start:count`, as the two files have it.
impl fmt::Display for SubRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.start, self.count)
    }
}

/// The lines of one of the two files.
///
/// Lines that are not `owner:start:count` are passed over, as the shadow tools do; [`skipped`](Self::skipped) tells which.
/// Ranges that a name service gives out (`subid:` in nsswitch.conf) are not read.
/// See [subuid(5)](https://man7.org/linux/man-pages/man5/subuid.5.html).
///
/// ```
/// use palisade_creds::{IdMap, SubIds, Uid};
///
/// let file = SubIds::parse(b"alice:231072:65536\n1001:300000:1000\nalice:500000:10\n");
/// let mine = file.of(Some("alice".as_ref()), Uid::new(1000).unwrap());
/// assert_eq!(IdMap::remapped(&mine)?.to_string(), "0 231072 65536\n65536 500000 10\n");
/// # Ok::<(), palisade_creds::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[doc(alias = "subuid")]
#[doc(alias = "subgid")]
pub struct SubIds {
    entries: Vec<(Vec<u8>, SubRange)>,
    skipped: Vec<usize>,
}

impl SubIds {
    /// Files longer than this are refused.
    pub const MAX_FILE: u64 = 1 << 20;

    /// Reads the text of a file. Never fails: what is no entry is passed over.
    pub fn parse(bytes: &[u8]) -> Self {
        let mut file = Self::default();
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            match entry(line) {
                Some(entry) => file.entries.push(entry),
                None if line.trim_ascii().is_empty() || line.starts_with(b"#") => {}
                None => file.skipped.push(index + 1),
            }
        }
        file
    }

    /// `/etc/subuid`; a missing file delegates nothing.
    ///
    /// # Errors
    /// [`ErrorKind::System`] and [`ErrorKind::Permission`] from reading, [`ErrorKind::TooLarge`],
    /// [`ErrorKind::NotTrusted`] if it is no regular file.
    pub fn of_users() -> Result<Self> {
        Self::read("/etc/subuid")
    }

    /// `/etc/subgid`; otherwise as [`of_users`](Self::of_users).
    ///
    /// # Errors
    /// As [`of_users`](Self::of_users).
    pub fn of_groups() -> Result<Self> {
        Self::read("/etc/subgid")
    }

    /// A file of this format elsewhere; a missing file delegates nothing.
    ///
    /// # Errors
    /// As [`of_users`](Self::of_users).
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        Ok(file::read_path(path.as_ref(), Self::MAX_FILE)?
            .map_or_else(Self::default, |text| Self::parse(&text)))
    }

    /// The ranges of one user, in the order of the file, whether a line names them by login name or by number.
    /// (In `/etc/subgid`, too, the owner is a *user*.)
    pub fn of(&self, name: Option<&OsStr>, uid: Uid) -> Vec<SubRange> {
        self.entries
            .iter()
            .filter(|(owner, _)| {
                name.is_some_and(|name| name.as_bytes() == owner) || decimal(owner) == Some(uid.as_raw())
            })
            .map(|(_, range)| *range)
            .collect()
    }

    /// The ranges of all owners, in the order of the file.
    pub fn all(&self) -> impl Iterator<Item = SubRange> + '_ {
        self.entries.iter().map(|(_, range)| *range)
    }

    /// The numbers, from 1, of the lines that are neither entry nor comment nor blank.
    pub fn skipped(&self) -> &[usize] {
        &self.skipped
    }
}

/// `owner:start:count` and nothing else.
fn entry(line: &[u8]) -> Option<(Vec<u8>, SubRange)> {
    let mut fields = line.split(|byte| *byte == b':');
    let owner = fields.next().filter(|owner| !owner.is_empty() && !owner.starts_with(b"#"))?;
    let (start, count) = (decimal(fields.next()?)?, decimal(fields.next()?)?);
    if fields.next().is_some() {
        return None;
    }
    Some((owner.to_vec(), SubRange::new(start, count).ok()?))
}
