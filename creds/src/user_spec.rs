//! `user[:group]` as a text.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::str::FromStr;

use crate::id::decimal;
use crate::{Error, ErrorKind, Gid, Result, Uid};

/// Who a program shall be, as container engines spell it: `user`, `user:group`, each a name or a number, or nothing
/// for user 0.
///
/// What reads as an integer is a number and never looked up as a name. [`FromStr`] and [`Display`](fmt::Display)
/// keep the text.
///
/// ```
/// use palisade_creds::{Gid, UserDb, UserSpec};
///
/// let files = UserDb::new("alice:x:1000:1000::/home/alice:/bin/sh\n", "audio:x:29:alice\n");
/// let alice = files.resolve(&"alice".parse::<UserSpec>()?)?;
/// assert_eq!((alice.uid.as_raw(), alice.home.to_str()), (1000, Some("/home/alice")));
/// assert_eq!(alice.groups, [Gid::new(29).unwrap()]);
/// # Ok::<(), palisade_creds::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct UserSpec {
    pub(crate) user: Who,
    pub(crate) group: Who,
}

/// One half of a specification.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) enum Who {
    #[default]
    Unset,
    Number(u32),
    Name(Vec<u8>),
}

impl UserSpec {
    /// Reads a specification; the kernel takes any bytes as a name, so this does.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidId`] if a number is not in 0 to 2147483647.
    pub fn new(spec: impl AsRef<OsStr>) -> Result<Self> {
        let spec = spec.as_ref().as_bytes();
        let mut halves = spec.splitn(2, |byte| *byte == b':');
        let mut half = || Who::parse(halves.next().unwrap_or_default());
        Ok(Self { user: half()?, group: half()? })
    }

    /// The user's number, if it is given as one: then it is known without looking anything up.
    pub fn uid(&self) -> Option<Uid> {
        if let Who::Number(number) = self.user { Uid::new(number) } else { None }
    }

    /// The user's name, if it is given as one.
    pub fn user_name(&self) -> Option<&OsStr> {
        if let Who::Name(name) = &self.user { Some(OsStr::from_bytes(name)) } else { None }
    }
}

impl FromStr for UserSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::new(text)
    }
}

impl From<Uid> for UserSpec {
    fn from(uid: Uid) -> Self {
        Self { user: Who::Number(uid.as_raw()), group: Who::Unset }
    }
}

impl From<(Uid, Gid)> for UserSpec {
    fn from((uid, gid): (Uid, Gid)) -> Self {
        Self { user: Who::Number(uid.as_raw()), group: Who::Number(gid.as_raw()) }
    }
}

impl fmt::Display for UserSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.user)?;
        if self.group == Who::Unset { Ok(()) } else { write!(f, ":{}", self.group) }
    }
}

impl Who {
    pub(crate) fn parse(text: &[u8]) -> Result<Self> {
        let (negative, digits) = match text {
            [b'-', digits @ ..] => (true, digits),
            [b'+', digits @ ..] => (false, digits),
            digits => (false, digits),
        };
        if text.is_empty() {
            return Ok(Self::Unset);
        }
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return Ok(Self::Name(text.to_vec()));
        }
        let number = decimal(digits).filter(|number| *number <= 0x7fff_ffff && !(negative && *number != 0));
        number.map(Self::Number).ok_or_else(|| {
            let text = String::from_utf8_lossy(text);
            Error::new(ErrorKind::InvalidId, format!("{text}: uids and gids must be in range 0-2147483647"))
        })
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unset => Ok(()),
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => f.write_str(&String::from_utf8_lossy(name)),
        }
    }
}
