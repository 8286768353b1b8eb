//! `user[:group]` resolved in the passwd and group files of a root: no name service, no link out of it, no waiting.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use crate::id::decimal;
use crate::user_spec::Who;
use crate::{Error, ErrorKind, Gid, Result, Uid, UserSpec, file};

/// What came of a [`UserSpec`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct User {
    /// Name of the matched line of passwd; `None` for a number without one.
    pub name: Option<OsString>,
    /// The user id.
    pub uid: Uid,
    /// The primary group: the group given, else that of the passwd line, else 0.
    pub gid: Gid,
    /// The groups that have the user as a member, in the order of the file; none where a group was given.
    pub groups: Vec<Gid>,
    /// For `HOME`: that of the passwd line, else `/`.
    pub home: PathBuf,
    /// For `SHELL`: that of the passwd line, if it has one.
    pub shell: Option<PathBuf>,
}

/// One line of passwd. What a short line leaves out, or has as no number, is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PasswdEntry<'a> {
    /// Number of the line, from 1.
    pub line: usize,
    /// Login name.
    pub name: &'a OsStr,
    /// User id.
    pub uid: Option<Uid>,
    /// Primary group.
    pub gid: Option<Gid>,
    /// Home directory.
    pub home: Option<&'a OsStr>,
    /// Login shell.
    pub shell: Option<&'a OsStr>,
}

/// One line of group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupEntry<'a> {
    /// Number of the line, from 1.
    pub line: usize,
    /// Name of the group.
    pub name: &'a OsStr,
    /// Group id.
    pub gid: Option<Gid>,
    members: &'a [u8],
}

impl<'a> GroupEntry<'a> {
    /// The names of its members.
    pub fn members(self) -> impl Iterator<Item = &'a OsStr> {
        self.members.split(|byte| *byte == b',').filter(|name| !name.is_empty()).map(OsStr::from_bytes)
    }
}

/// The texts of a passwd and a group file, with the rules by which container engines look things up in them.
/// See [passwd(5)](https://man7.org/linux/man-pages/man5/passwd.5.html) and
/// [group(5)](https://man7.org/linux/man-pages/man5/group.5.html).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserDb {
    passwd: Vec<u8>,
    group: Vec<u8>,
}

impl UserDb {
    /// Files longer than this (16 MiB, some 300,000 users) are refused.
    pub const MAX_FILE: u64 = 16 << 20;

    /// Groups that a user is a member of at most, which is the kernel's bound for setgroups(2).
    pub const MAX_GROUPS: usize = 65_536;

    /// The texts themselves; a missing file is an empty text.
    pub fn new(passwd: impl Into<Vec<u8>>, group: impl Into<Vec<u8>>) -> Self {
        Self { passwd: passwd.into(), group: group.into() }
    }

    /// Reads open files, `None` for a missing one. Open them with `O_NONBLOCK`, or an open of a FIFO waits.
    ///
    /// # Errors
    /// [`ErrorKind::NotTrusted`] for what is no regular file, [`ErrorKind::TooLarge`], [`ErrorKind::System`].
    pub fn from_files(passwd: Option<BorrowedFd<'_>>, group: Option<BorrowedFd<'_>>) -> Result<Self> {
        let read = |fd: Option<BorrowedFd<'_>>, name| match fd {
            Some(fd) => file::read_fd(fd, name, Self::MAX_FILE),
            None => Ok(Vec::new()),
        };
        Ok(Self { passwd: read(passwd, "/etc/passwd")?, group: read(group, "/etc/group")? })
    }

    /// Reads `/etc/passwd` and `/etc/group` of the root directory `root`, where links are followed as within that
    /// root. Linux 5.6.
    ///
    /// # Errors
    /// As [`from_files`](Self::from_files).
    pub fn open_in(root: impl AsFd) -> Result<Self> {
        let root = root.as_fd();
        let passwd = file::open_in(root, c"etc/passwd")?;
        let group = file::open_in(root, c"etc/group")?;
        Self::from_files(passwd.as_ref().map(AsFd::as_fd), group.as_ref().map(AsFd::as_fd))
    }

    /// The lines of passwd in order; blank ones are none.
    pub fn users(&self) -> impl Iterator<Item = PasswdEntry<'_>> {
        lines(&self.passwd).map(|(line, text)| {
            let mut fields = text.split(|byte| *byte == b':');
            let mut field = || fields.next();
            let (name, _password) = (field().unwrap_or_default(), field());
            let (uid, gid, _comment) = (field(), field(), field());
            PasswdEntry {
                line,
                name: OsStr::from_bytes(name),
                uid: uid.and_then(decimal).and_then(Uid::new),
                gid: gid.and_then(decimal).and_then(Gid::new),
                home: field().filter(|home| !home.is_empty()).map(OsStr::from_bytes),
                shell: field().filter(|shell| !shell.is_empty()).map(OsStr::from_bytes),
            }
        })
    }

    /// The lines of group in order; blank ones and those that begin with `#` are none.
    pub fn groups(&self) -> impl Iterator<Item = GroupEntry<'_>> {
        lines(&self.group).filter(|(_, text)| !text.starts_with(b"#")).map(|(line, text)| {
            let mut fields = text.split(|byte| *byte == b':');
            let mut field = || fields.next();
            let (name, _password) = (field().unwrap_or_default(), field());
            GroupEntry {
                line,
                name: OsStr::from_bytes(name),
                gid: field().and_then(decimal).and_then(Gid::new),
                members: field().unwrap_or_default(),
            }
        })
    }

    /// Looks up who a program shall be. The first line that matches counts.
    ///
    /// A number that passwd does not have is taken as it is, with group 0 and home `/`, as container engines do; give
    /// a group where 0 is not wanted. A line that matches and has no valid ids is an error, never user 0.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownUser`], [`ErrorKind::UnknownGroup`], [`ErrorKind::BadEntry`].
    pub fn resolve(&self, spec: &UserSpec) -> Result<User> {
        let entry = match &spec.user {
            Who::Unset => self.users().find(|user| user.uid == Some(Uid::ROOT)),
            Who::Number(number) => self.users().find(|user| user.uid.map(Uid::as_raw) == Some(*number)),
            Who::Name(name) => {
                Some(self.users().find(|user| user.name.as_bytes() == name).ok_or_else(|| {
                    let name = String::from_utf8_lossy(name);
                    Error::new(
                        ErrorKind::UnknownUser,
                        format!("unable to find user {name}: no matching entries in passwd file"),
                    )
                })?)
            }
        };
        let mut user = match entry {
            Some(entry) => self.from_entry(&entry)?,
            None => {
                let uid =
                    if let Who::Number(number) = spec.user { Uid::try_from(number)? } else { Uid::ROOT };
                User { name: None, uid, gid: Gid::ROOT, groups: Vec::new(), home: "/".into(), shell: None }
            }
        };
        if spec.group == Who::Unset {
            if let Some(name) = &user.name {
                user.groups = self.memberships(name)?;
            }
        } else {
            user.gid = self.find_group(&spec.group)?;
        }
        Ok(user)
    }

    /// Looks up one group by name or number, as for an engine's `--group-add`.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownGroup`] for a name that is not in the file, [`ErrorKind::BadEntry`], [`ErrorKind::InvalidId`].
    pub fn group(&self, name: impl AsRef<OsStr>) -> Result<Gid> {
        self.find_group(&Who::parse(name.as_ref().as_bytes())?)
    }

    #[expect(clippy::wrong_self_convention, reason = "it makes a user from an entry of these files")]
    fn from_entry(&self, entry: &PasswdEntry<'_>) -> Result<User> {
        let bad = |what: &str| {
            let (line, name) = (entry.line, entry.name.to_string_lossy());
            Error::new(ErrorKind::BadEntry, format!("passwd line {line} (user {name}) has no valid {what}"))
        };
        let texts = [Some(entry.name), entry.home, entry.shell];
        if texts.into_iter().flatten().any(|text| text.as_bytes().contains(&0)) {
            return Err(bad("text: it holds a NUL byte"));
        }
        Ok(User {
            name: Some(entry.name.to_owned()),
            uid: entry.uid.ok_or_else(|| bad("user id"))?,
            gid: entry.gid.ok_or_else(|| bad("group id"))?,
            groups: Vec::new(),
            home: entry.home.map_or_else(|| "/".into(), PathBuf::from),
            shell: entry.shell.map(PathBuf::from),
        })
    }

    fn find_group(&self, group: &Who) -> Result<Gid> {
        match group {
            Who::Number(number) => Gid::try_from(*number),
            Who::Unset | Who::Name(_) => {
                let name = if let Who::Name(name) = group { name.as_slice() } else { b"" };
                let entry = self.groups().find(|entry| entry.name.as_bytes() == name && !name.is_empty());
                let Some(entry) = entry else {
                    let name = String::from_utf8_lossy(name);
                    return Err(Error::new(
                        ErrorKind::UnknownGroup,
                        format!("unable to find group {name}: no matching entries in group file"),
                    ));
                };
                group_id(&entry)
            }
        }
    }

    fn memberships(&self, name: &OsStr) -> Result<Vec<Gid>> {
        let mut found = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for entry in self.groups().filter(|entry| entry.members().any(|member| member == name)) {
            let gid = group_id(&entry)?;
            if seen.insert(gid) {
                found.push(gid);
            }
            if found.len() > Self::MAX_GROUPS {
                return Err(Error::new(
                    ErrorKind::TooLarge,
                    "the user is a member of more than 65536 groups",
                ));
            }
        }
        Ok(found)
    }
}

fn group_id(entry: &GroupEntry<'_>) -> Result<Gid> {
    entry.gid.ok_or_else(|| {
        let (line, name) = (entry.line, entry.name.to_string_lossy());
        Error::new(ErrorKind::BadEntry, format!("group line {line} (group {name}) has no valid group id"))
    })
}

/// The lines that are not blank, trimmed, with their numbers.
fn lines(text: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    text.split(|byte| *byte == b'\n')
        .enumerate()
        .map(|(index, line)| (index + 1, line.trim_ascii()))
        .filter(|(_, line)| !line.is_empty())
}

/// The login name of a user of this system, if /etc/passwd has one.
pub(crate) fn login_name(uid: Uid) -> Result<Option<OsString>> {
    let passwd = file::read_path("/etc/passwd".as_ref(), UserDb::MAX_FILE)?.unwrap_or_default();
    let files = UserDb::new(passwd, []);
    let name = files.users().find(|user| user.uid == Some(uid)).map(|user| user.name.as_bytes().to_vec());
    Ok(name.map(OsString::from_vec))
}
