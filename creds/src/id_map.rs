//! Id maps: what a user namespace's ids are outside of it.

use std::fmt;
use std::str::FromStr;

use crate::id::{Id, decimal};
use crate::{Error, ErrorKind, Result};

/// One line of a map: `count` ids from `inside` on are the ids from `outside` on in the parent user namespace.
///
/// Never empty, and never reaching `u32::MAX`, so every id that it names exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdRange {
    inside: u32,
    outside: u32,
    count: u32,
}

impl IdRange {
    /// `count` ids from `inside` on, which are the ids from `outside` on in the parent.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidMap`] if `count` is 0 or one of the two sides would reach 4294967295.
    pub fn new(inside: u32, outside: u32, count: u32) -> Result<Self> {
        let wrong = |why| {
            Error::new(ErrorKind::InvalidMap, format!("id map line '{inside} {outside} {count}' {why}"))
        };
        if count == 0 {
            return Err(wrong("maps no id"));
        }
        // The last id of a side is first + count - 1 and may be u32::MAX - 1 at most.
        if inside.checked_add(count).is_none() {
            return Err(wrong("runs over the last id, 4294967294, inside"));
        }
        if outside.checked_add(count).is_none() {
            return Err(wrong("runs over the last id, 4294967294, outside"));
        }
        Ok(Self { inside, outside, count })
    }

    /// The first id inside the namespace.
    pub const fn inside(self) -> u32 {
        self.inside
    }

    /// The first id in the parent namespace.
    pub const fn outside(self) -> u32 {
        self.outside
    }

    /// The number of ids, at least 1.
    pub const fn count(self) -> u32 {
        self.count
    }

    fn swapped(self) -> Self {
        Self { inside: self.outside, outside: self.inside, count: self.count }
    }

    /// The part of `self` and `parent` that meet, as one range from the inside of `self` to the outside of `parent`.
    fn through(self, parent: Self) -> Option<Self> {
        let first = self.outside.max(parent.inside);
        let end = (self.outside + self.count).min(parent.inside + parent.count);
        let count = end.checked_sub(first).filter(|count| *count > 0)?;
        Some(Self {
            inside: self.inside + (first - self.outside),
            outside: parent.outside + (first - parent.inside),
            count,
        })
    }
}

impl fmt::Display for IdRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.inside, self.outside, self.count)
    }
}

/// One line in the kernel's syntax: three decimal numbers with white space between them.
impl FromStr for IdRange {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut fields = text.split_ascii_whitespace();
        let mut number = || fields.next().and_then(|field| decimal(field.as_bytes()));
        let (inside, outside, count) = (number(), number(), number());
        match (inside, outside, count, fields.next()) {
            (Some(inside), Some(outside), Some(count), None) => Self::new(inside, outside, count),
            _ => Err(Error::new(
                ErrorKind::Syntax,
                format!("id map line {text:?} is not three numbers 'inside outside count'"),
            )),
        }
    }
}

/// A whole map (`/proc/PID/uid_map` or `gid_map`), checked against every rule that the kernel has for its form:
/// 1 to 340 lines, below 4096 bytes, no id twice on either side.
///
/// The same type serves users and groups. What [`fmt::Display`] prints is what the kernel is given to read, and
/// [`FromStr`] reads what the kernel shows. See [user_namespaces(7)](https://man7.org/linux/man-pages/man7/user_namespaces.7.html).
///
/// ```
/// use palisade_creds::{IdMap, Uid};
///
/// let map: IdMap = "0 1000 1\n1 100000 65536".parse()?;
/// assert_eq!(map.to_outside(Uid::ROOT), Uid::new(1000));
/// assert_eq!(map.to_inside(Uid::new(100_000).unwrap()), Uid::new(1));
/// assert_eq!(map.to_outside(Uid::new(65_537).unwrap()), None);
/// # Ok::<(), palisade_creds::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[doc(alias = "uid_map")]
#[doc(alias = "gid_map")]
pub struct IdMap(Vec<IdRange>);

impl IdMap {
    /// Lines that the kernel takes at most (5 before Linux 4.15).
    pub const MAX_LINES: usize = 340;
    /// The kernel refuses a write as long as a page; the smallest page of any architecture is taken.
    pub const MAX_BYTES: usize = 4095;

    /// A map of several ranges.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidMap`] if there is no range, if there are too many, or if two overlap on a side.
    pub fn new(ranges: impl IntoIterator<Item = IdRange>) -> Result<Self> {
        let ranges: Vec<IdRange> = ranges.into_iter().take(Self::MAX_LINES + 1).collect();
        if ranges.is_empty() {
            return Err(Error::new(ErrorKind::InvalidMap, "id map has no line"));
        }
        if ranges.len() > Self::MAX_LINES {
            return Err(Error::new(ErrorKind::InvalidMap, "id map has more than the kernel's 340 lines"));
        }
        no_overlap(&ranges, "inside", IdRange::inside)?;
        no_overlap(&ranges, "outside", IdRange::outside)?;
        let map = Self(ranges);
        let bytes = map.to_string().len();
        if bytes > Self::MAX_BYTES {
            return Err(Error::new(
                ErrorKind::InvalidMap,
                format!("id map takes {bytes} bytes to write; the kernel takes {}", Self::MAX_BYTES),
            ));
        }
        Ok(map)
    }

    /// One id inside that is one id outside: the only form that needs no privilege (with the caller's own id outside).
    pub fn single<I: Id>(inside: I, outside: I) -> Self {
        Self(vec![IdRange { inside: inside.as_raw(), outside: outside.as_raw(), count: 1 }])
    }

    /// One range.
    ///
    /// # Errors
    /// As [`IdRange::new`].
    pub fn range(inside: u32, outside: u32, count: u32) -> Result<Self> {
        Ok(Self(vec![IdRange::new(inside, outside, count)?]))
    }

    /// Every id as itself: the map of the initial user namespace.
    pub fn identity() -> Self {
        Self(vec![IdRange { inside: 0, outside: 0, count: u32::MAX }])
    }

    /// Docker's remapping: ids inside count up from 0 through all `ranges` of the outside, the second
    /// starting where the first ended.
    ///
    /// # Errors
    /// As [`IdMap::new`].
    #[doc(alias = "userns-remap")]
    pub fn remapped(ranges: &[crate::SubRange]) -> Result<Self> {
        Self::counted_from(0, ranges)
    }

    /// The rootless form: 0 inside is the caller's `own` id, and the ids from 1 on are the delegated `ranges` in turn.
    ///
    /// # Errors
    /// As [`IdMap::new`].
    pub fn rootless<I: Id>(own: I, ranges: &[crate::SubRange]) -> Result<Self> {
        let own = IdRange { inside: 0, outside: own.as_raw(), count: 1 };
        if ranges.is_empty() {
            return Self::new([own]);
        }
        Self::new([own].into_iter().chain(Self::counted_from(1, ranges)?.0))
    }

    fn counted_from(first: u32, ranges: &[crate::SubRange]) -> Result<Self> {
        let mut inside = first;
        let mut lines = Vec::with_capacity(ranges.len());
        for range in ranges {
            lines.push(IdRange::new(inside, range.start(), range.count())?);
            inside += range.count();
        }
        Self::new(lines)
    }

    /// The lines, in the order they were given.
    pub fn ranges(&self) -> &[IdRange] {
        &self.0
    }

    /// How many ids are mapped.
    pub fn len(&self) -> u32 {
        self.0.iter().map(|range| range.count).sum()
    }

    /// Never true: a map has at least one id. Here since [`len`](Self::len) is.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The id in the parent namespace of an `id` inside; `None` if it is unmapped.
    pub fn to_outside<I: Id>(&self, id: I) -> Option<I> {
        let raw = id.as_raw();
        self.0.iter().find_map(|range| {
            let offset = raw.checked_sub(range.inside).filter(|offset| *offset < range.count)?;
            I::from_raw(range.outside + offset)
        })
    }

    /// The id inside of an `id` of the parent namespace; `None` if it is unmapped (the kernel then shows 65534).
    pub fn to_inside<I: Id>(&self, id: I) -> Option<I> {
        let raw = id.as_raw();
        self.0.iter().find_map(|range| {
            let offset = raw.checked_sub(range.outside).filter(|offset| *offset < range.count)?;
            I::from_raw(range.inside + offset)
        })
    }

    /// The id in the outermost namespace, going out through nested namespaces: `chain` lists their maps, innermost first.
    pub fn to_outside_through<'a, I: Id>(id: I, chain: impl IntoIterator<Item = &'a Self>) -> Option<I> {
        chain.into_iter().try_fold(id, |id, map| map.to_outside(id))
    }

    /// The id in the innermost namespace, going in through nested namespaces: `chain` lists their maps, *outermost* first.
    pub fn to_inside_through<'a, I: Id>(id: I, chain: impl IntoIterator<Item = &'a Self>) -> Option<I> {
        chain.into_iter().try_fold(id, |id, map| map.to_inside(id))
    }

    /// The map from the inside of `self` to the outside of `parent`; ids that `parent` does not map are left out.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidMap`] if nothing is left, or more pieces than a map can have.
    pub fn compose(&self, parent: &Self) -> Result<Self> {
        let pieces = self.0.iter().flat_map(|own| parent.0.iter().filter_map(|above| own.through(*above)));
        Self::new(pieces)
    }

    /// The map the other way round, as an id-mapped mount wants it at times.
    #[must_use]
    pub fn inverted(&self) -> Self {
        Self(self.0.iter().map(|range| range.swapped()).collect())
    }

    /// Checks that `self` can be written to a namespace whose parent has the map `parent`: the kernel wants each
    /// line's outside to lie within *one* line of the parent.
    ///
    /// # Errors
    /// [`ErrorKind::Unmapped`], naming the line.
    pub fn check_parent(&self, parent: &Self) -> Result<()> {
        let covered = |own: &&IdRange| {
            !parent.0.iter().any(|above| own.through(*above).is_some_and(|part| part.count == own.count))
        };
        match self.0.iter().find(covered) {
            None => Ok(()),
            Some(range) => Err(Error::new(
                ErrorKind::Unmapped,
                format!(
                    "id map line '{range}': its outside ids are not all in one range of the parent user namespace"
                ),
            )),
        }
    }

    /// Whether it is one line of one id.
    pub fn as_single<I: Id>(&self) -> Option<(I, I)> {
        match self.0.as_slice() {
            [IdRange { inside, outside, count: 1 }] => Some((I::from_raw(*inside)?, I::from_raw(*outside)?)),
            _ => None,
        }
    }

    /// Reads what `/proc/PID/uid_map` or `gid_map` shows; `None` for the empty file of a namespace without a map.
    ///
    /// # Errors
    /// As [`IdMap::new`], and [`ErrorKind::Syntax`].
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>> {
        if bytes.len() > 64 * 1024 {
            return Err(Error::new(ErrorKind::TooLarge, "id map is longer than 64 KiB"));
        }
        let text =
            std::str::from_utf8(bytes).map_err(|_| Error::new(ErrorKind::Syntax, "id map is not text"))?;
        if text.trim_ascii().is_empty() {
            return Ok(None);
        }
        // One line break at the end is the kernel's own; any other empty line is an error.
        let lines = text.strip_suffix('\n').unwrap_or(text).split('\n').map(str::parse);
        Self::new(lines.take(Self::MAX_LINES + 1).collect::<Result<Vec<IdRange>>>()?).map(Some)
    }
}

/// The overlap rule on one side; sorting keeps it cheap for 340 lines.
fn no_overlap(ranges: &[IdRange], side: &str, first: impl Fn(IdRange) -> u32) -> Result<()> {
    let mut sorted: Vec<&IdRange> = ranges.iter().collect();
    sorted.sort_by_key(|range| first(**range));
    for pair in sorted.windows(2) {
        if let [a, b] = pair {
            if first(**a) + a.count > first(**b) {
                return Err(Error::new(
                    ErrorKind::InvalidMap,
                    format!("id map lines '{a}' and '{b}' overlap {side}"),
                ));
            }
        }
    }
    Ok(())
}

/// What is written to `uid_map`: a line a range.
impl fmt::Display for IdMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|range| writeln!(f, "{range}"))
    }
}

impl FromStr for IdMap {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text.as_bytes())?.ok_or_else(|| Error::new(ErrorKind::InvalidMap, "id map has no line"))
    }
}
