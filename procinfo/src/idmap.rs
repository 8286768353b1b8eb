use crate::Error;
use crate::bytes::{lines, trim, words};

/// `/proc/PID/uid_map`, `gid_map` or `projid_map`: which ids of a user namespace are which ids outside, see
/// [user_namespaces(7)](https://man7.org/linux/man-pages/man7/user_namespaces.7.html).
///
/// The outside column is in the numbering of the reader's user namespace; for a process of that same namespace, of
/// its parent. So `0 0 4294967295` does not say that a process is in the initial user namespace: a namespace with an
/// identity map reads the same. Compare [`Namespaces`](crate::Namespaces) for that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdMap {
    /// One for each line; empty before the map is written.
    pub ranges: Vec<IdRange>,
}

/// One line of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IdRange {
    /// The first id inside.
    pub inside: u32,
    /// What it is outside.
    pub outside: u32,
    /// How many in a row.
    pub count: u32,
}

impl IdMap {
    /// Reads the text of a map file.
    ///
    /// # Errors
    /// [`Malformed`](crate::ErrorKind::Malformed) with the line and field.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let range = |(at, line): (crate::bytes::At, &[u8])| {
            let mut w = words(line);
            let range = IdRange {
                inside: at.num("inside id", at.next("inside id", &mut w)?)?,
                outside: at.num("outside id", at.next("outside id", &mut w)?)?,
                count: at.num("count", at.next("count", &mut w)?)?,
            };
            if w.next().is_some() { Err(at.bad("line", line)) } else { Ok(range) }
        };
        Ok(Self { ranges: lines("id map", text).map(range).collect::<Result<_, _>>()? })
    }

    /// What the id `inside` is outside, if it is mapped.
    pub fn to_outside(&self, inside: u32) -> Option<u32> {
        self.ranges.iter().find_map(|r| {
            let offset = inside.checked_sub(r.inside).filter(|o| *o < r.count)?;
            r.outside.checked_add(offset)
        })
    }

    /// What the id `outside` is inside, if it is mapped.
    pub fn to_inside(&self, outside: u32) -> Option<u32> {
        self.ranges.iter().find_map(|r| {
            let offset = outside.checked_sub(r.outside).filter(|o| *o < r.count)?;
            r.inside.checked_add(offset)
        })
    }
}

/// `/proc/PID/setgroups`: whether setgroups(2) may be called in the user namespace (Linux 3.19).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Setgroups {
    /// It may, given the capability.
    Allow,
    /// Never: the price of writing a gid map without privilege.
    Deny,
}

impl Setgroups {
    /// Reads the text of a `setgroups` file.
    ///
    /// # Errors
    /// [`Malformed`](crate::ErrorKind::Malformed) for anything but the two words.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        match trim(text) {
            b"allow" => Ok(Self::Allow),
            b"deny" => Ok(Self::Deny),
            other => Err(Error::malformed("setgroups", 1, "word", other)),
        }
    }
}
