//! SELinux contexts.

use std::fmt;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::str::FromStr;

use super::bad_label;
use crate::error::Error;

/// An SELinux context: `user:role:type`, and a level where the policy has levels.
///
/// ```
/// # use palisade_secfilter::lsm::Context;
/// let context: Context = "system_u:system_r:container_t:s0:c1,c2".parse()?;
/// assert_eq!((context.kind(), context.level()), ("container_t", Some("s0:c1,c2")));
/// assert_eq!(context.to_string(), "system_u:system_r:container_t:s0:c1,c2");
/// # Ok::<(), palisade_secfilter::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Context {
    user: String,
    role: String,
    kind: String,
    level: Option<String>,
}

impl Context {
    /// The SELinux user.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The role.
    pub fn role(&self) -> &str {
        &self.role
    }

    /// The type.
    #[doc(alias = "type")]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The level or range of levels, with categories.
    pub fn level(&self) -> Option<&str> {
        self.level.as_deref()
    }
}

impl FromStr for Context {
    type Err = Error;

    /// # Errors
    /// [`Label`](crate::ErrorKind::Label) if a part is missing or has characters that no policy uses.
    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |why| bad_label(text, why);
        let mut parts = text.splitn(4, ':');
        let mut word = || {
            let word = parts.next().ok_or_else(|| bad("an SELinux context is user:role:type[:level]"))?;
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
            if word.is_empty() || !word.bytes().all(plain) {
                return Err(bad("user, role and type are words of letters, digits, `_`, `-` and `.`"));
            }
            Ok(word.to_owned())
        };
        let (user, role, kind) = (word()?, word()?, word()?);
        let level = parts.next().map(str::to_owned);
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-.,:".contains(&b);
        if level.as_ref().is_some_and(|level| level.is_empty() || !level.bytes().all(plain)) {
            return Err(bad("a level is like s0 or s0-s0:c1,c2"));
        }
        Ok(Context { user, role, kind, level })
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.user, self.role, self.kind)?;
        match &self.level {
            Some(level) => write!(f, ":{level}"),
            None => Ok(()),
        }
    }
}

impl Context {
    /// What SELinux policies for containers give a container's processes, with a pair of categories of its own: two
    /// containers with different pairs don't reach each other's files.
    ///
    /// `pair` is any number: the 523,776 pairs of 1024 categories are counted through.
    pub fn container(pair: u32) -> Self {
        let mut rest = pair % 523_776;
        let mut low = 0;
        while rest >= 1023 - low {
            rest -= 1023 - low;
            low += 1;
        }
        let level = Some(format!("s0:c{low},c{}", low + 1 + rest));
        Context { user: "system_u".into(), role: "system_r".into(), kind: "container_t".into(), level }
    }

    /// Whether the loaded policy knows it; `None` where selinuxfs is not there to ask, or not for this caller.
    pub(super) fn is_known_in(&self, selinuxfs: &Path) -> Option<bool> {
        // No creation: the file is the kernel's.
        let mut file = OpenOptions::new().read(true).write(true).open(selinuxfs.join("context")).ok()?;
        match file.write_all(self.to_string().as_bytes()) {
            Ok(()) => Some(true),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Some(false),
            Err(_) => None,
        }
    }

    /// Whether both mean the same: the kernel has its own order and ranges of categories.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let words = |it: &Self| [it.user.clone(), it.role.clone(), it.kind.clone()];
        words(self) == words(other)
            && match (&self.level, &other.level) {
                (Some(a), Some(b)) => a == b || (range(a).is_some() && range(a) == range(b)),
                (a, b) => a == b,
            }
    }

    /// With one part changed; `None` for [`LabelOption::Disable`].
    ///
    /// # Errors
    /// [`Label`](crate::ErrorKind::Label) if the part has characters that no policy uses.
    pub fn with(&self, option: &LabelOption) -> Result<Option<Self>, Error> {
        let mut new = self.clone();
        match option {
            LabelOption::Disable => return Ok(None),
            LabelOption::User(user) => new.user.clone_from(user),
            LabelOption::Role(role) => new.role.clone_from(role),
            LabelOption::Kind(kind) => new.kind.clone_from(kind),
            LabelOption::Level(level) => new.level = Some(level.clone()),
        }
        // A colon in a part would make others of it.
        match new.to_string().parse::<Self>() {
            Ok(read) if read == new => Ok(Some(new)),
            Ok(_) => Err(bad_label(option.to_string(), "user, role and type have no colon")),
            Err(error) => Err(error),
        }
    }
}

/// A change of a container's [`Context`], as engines spell it: `type:svirt_apache_t`, `disable`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LabelOption {
    /// `disable`: no label at all.
    Disable,
    /// `user:USER`.
    User(String),
    /// `role:ROLE`.
    Role(String),
    /// `type:TYPE`.
    Kind(String),
    /// `level:LEVEL`.
    Level(String),
}

impl FromStr for LabelOption {
    type Err = Error;

    /// # Errors
    /// [`Label`](crate::ErrorKind::Label) for another word, or a part that no context can have.
    fn from_str(text: &str) -> Result<Self, Error> {
        let option = match text.split_once(':') {
            None if text == "disable" => Self::Disable,
            Some(("user", user)) => Self::User(user.to_owned()),
            Some(("role", role)) => Self::Role(role.to_owned()),
            Some(("type", kind)) => Self::Kind(kind.to_owned()),
            Some(("level", level)) => Self::Level(level.to_owned()),
            _ => {
                return Err(bad_label(
                    text,
                    "a label option is disable, user:USER, role:ROLE, type:TYPE or level:LEVEL",
                ));
            }
        };
        Context::container(0).with(&option)?;
        Ok(option)
    }
}

impl fmt::Display for LabelOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disable => f.write_str("disable"),
            Self::User(user) => write!(f, "user:{user}"),
            Self::Role(role) => write!(f, "role:{role}"),
            Self::Kind(kind) => write!(f, "type:{kind}"),
            Self::Level(level) => write!(f, "level:{level}"),
        }
    }
}

/// A sensitivity, and its categories as ranges that neither touch nor overlap.
type Level<'a> = (&'a str, Vec<(u16, u16)>);

/// Both ends of a range of levels; `None` for names of categories that are no numbers, whose order only the policy knows.
fn range(text: &str) -> Option<[Level<'_>; 2]> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    Some([level(low)?, level(high)?])
}

fn level(text: &str) -> Option<Level<'_>> {
    let (sensitivity, categories) = text.split_once(':').map_or((text, None), |(s, c)| (s, Some(c)));
    let number = |name: &str| name.strip_prefix('c')?.parse::<u16>().ok();
    let mut given = Vec::new();
    for part in categories.into_iter().flat_map(|categories| categories.split(',')) {
        let (first, last) = part.split_once('.').unwrap_or((part, part));
        given.push((number(first)?, number(last)?));
    }
    given.sort_unstable();
    let mut merged: Vec<(u16, u16)> = Vec::new();
    for (first, last) in given.into_iter().filter(|(first, last)| first <= last) {
        match merged.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    Some((sensitivity, merged))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn contexts_round_trip() {
        for text in
            ["a:b:c", "u:r:t:s0", "system_u:system_r:container_t:s0-s0:c0.c1023", "u:r:t-2.x:s0:c1,c2"]
        {
            assert_eq!(text.parse::<Context>().unwrap().to_string(), text);
        }
        for text in ["", "a", "a:b", "a::c", "a:b:c:", "a:b:c d", "a:b:c\n", "a:b:c:s0\0", "é:b:c"] {
            assert_eq!(text.parse::<Context>().unwrap_err().kind(), ErrorKind::Label, "{text:?}");
        }
    }

    #[test]
    fn containers_have_pairs_of_their_own() {
        let level = |pair| Context::container(pair).level().unwrap().to_owned();
        assert_eq!(
            (level(0), level(1022), level(1023)),
            ("s0:c0,c1".into(), "s0:c0,c1023".into(), "s0:c1,c2".into())
        );
        assert_eq!((level(523_775), level(523_776)), ("s0:c1022,c1023".into(), level(0)));
        let pairs: std::collections::HashSet<String> = (0..523_776).step_by(97).map(level).collect();
        assert_eq!(pairs.len(), 5400);
    }

    #[test]
    fn label_options_change_one_part() {
        let base = Context::container(0);
        let with = |text: &str| base.with(&text.parse().unwrap()).unwrap().map(|context| context.to_string());
        assert_eq!(with("type:svirt_apache_t").as_deref(), Some("system_u:system_r:svirt_apache_t:s0:c0,c1"));
        assert_eq!(with("level:s0:c100,c200").as_deref(), Some("system_u:system_r:container_t:s0:c100,c200"));
        assert_eq!(with("disable"), None);
        for text in ["", "type", "type:", "type:a b", "user:a:b", "level:", "colour:red", "Disable"] {
            assert_eq!(text.parse::<LabelOption>().unwrap_err().kind(), ErrorKind::Label, "{text:?}");
        }
    }

    /// A selinuxfs made of files; what a policy says is asked in tests/vm_selinux.rs.
    #[test]
    fn without_selinuxfs_nobody_knows_a_context() {
        let dir = tempfile::tempdir().unwrap();
        let context = Context::container(0);
        assert_eq!(context.is_known_in(dir.path()), None);
        assert!(!dir.path().join("context").exists());
        std::fs::write(dir.path().join("context"), "").unwrap();
        assert_eq!(context.is_known_in(dir.path()), Some(true));
        assert_eq!(std::fs::read_to_string(dir.path().join("context")).unwrap(), context.to_string());
    }

    #[test]
    fn the_same_level_has_several_spellings() {
        let same = |a: &str, b: &str| {
            let of = |level: &str| format!("u:r:t:{level}").parse::<Context>().unwrap();
            of(a).is_same(&of(b))
        };
        for (a, b) in [
            ("s0", "s0"),
            ("s0", "s0-s0"),
            ("s0:c2,c1", "s0:c1,c2"),
            ("s0:c0,c1,c2", "s0:c0.c2"),
            ("s0:x,y", "s0:x,y"),
            ("s0:c0.c3,c2.c7,c8", "s0:c0.c8"),
        ] {
            assert!(same(a, b) && same(b, a), "{a} {b}");
        }
        for (a, b) in [
            ("s0", "s1"),
            ("s0", "s0:c0"),
            ("s0:c0.c2", "s0:c0,c2"),
            ("s0:c1", "s0-s0:c1"),
            ("s0:x,y", "s0:y,x"),
        ] {
            assert!(!same(a, b) && !same(b, a), "{a} {b}");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn any_level_is_the_same_as_itself_and_survived(level in "[s0-9c.,:-]{1,40}", other in "[s0-9c.,:-]{1,40}") {
            let of = |level: &str| format!("u:r:t:{level}").parse::<Context>().unwrap();
            proptest::prop_assert!(of(&level).is_same(&of(&level)));
            proptest::prop_assert_eq!(of(&level).is_same(&of(&other)), of(&other).is_same(&of(&level)));
        }
    }
}
