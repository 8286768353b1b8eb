//! Labels of Linux security modules for the next exec: AppArmor profiles, SELinux contexts.

mod apparmor;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub use apparmor::ContainerProfile;

use palisade_sys::{Fd, OpenHow, Program, Slot, Step};

use crate::error::{Error, Repr};

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

/// A label that the next exec of a thread takes.
///
/// An inactive module or a profile that is not loaded is an error, unless [`optional`](ExecLabel::optional) was asked for:
/// never a silently unconfined program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecLabel {
    module: Module,
    optional: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Module {
    AppArmor(String),
    SeLinux(Context),
}

impl Module {
    fn name(&self) -> &'static str {
        match self {
            Module::AppArmor(_) => "apparmor",
            Module::SeLinux(_) => "selinux",
        }
    }
}

impl ExecLabel {
    /// An AppArmor profile by name, `unconfined` included.
    ///
    /// # Errors
    /// [`Label`](crate::ErrorKind::Label) for an empty name or one with control characters.
    pub fn apparmor(profile: &str) -> Result<Self, Error> {
        if profile.is_empty() || profile.len() > 1024 || profile.chars().any(char::is_control) {
            return Err(bad_label(profile, "a profile's name has 1 to 1024 characters and none of control"));
        }
        Ok(ExecLabel { module: Module::AppArmor(profile.to_owned()), optional: false })
    }

    /// An SELinux context. The loaded policy decides whether the transition is allowed.
    pub fn selinux(context: Context) -> Self {
        ExecLabel { module: Module::SeLinux(context), optional: false }
    }

    /// Where the module is not active or the profile not loaded, go on without.
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// Checks the label against the running system: `false` if it is optional and cannot be had.
    ///
    /// # Errors
    /// [`Label`](crate::ErrorKind::Label) if the module is not active, or the profile not loaded; [`File`](crate::ErrorKind::File)
    /// if securityfs cannot be read.
    pub fn check(&self) -> Result<bool, Error> {
        self.check_in(Path::new("/sys/kernel/security"))
    }

    fn check_in(&self, securityfs: &Path) -> Result<bool, Error> {
        let missing = |why: String| if self.optional { Ok(false) } else { Err(bad_label(self.text(), &why)) };
        let name = self.module.name();
        if !active_in(securityfs)?.iter().any(|module| module == name) {
            return missing(format!("{name} is not active (see /sys/kernel/security/lsm)"));
        }
        let Module::AppArmor(profile) = &self.module else { return Ok(true) };
        let list = securityfs.join("apparmor/profiles");
        match std::fs::read_to_string(&list) {
            Ok(list) if profile == "unconfined" || loaded(&list, profile) => Ok(true),
            Ok(_) => missing("this AppArmor profile is not loaded; load it with apparmor_parser".to_owned()),
            // Ordinary users may not read the list; the kernel refuses the write then.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(true),
            Err(error) => Err(file(list, &error)),
        }
    }

    /// Adds the opening of the thread's attribute file to `program`; `proc` is the root of a proc file system: best one
    /// that nobody else could mount anything on. Done while the thread still has the privileges to mount one.
    pub fn open(&self, program: &mut Program, proc: impl Into<Fd>) -> Slot {
        program.at(Step::Sysctls, self.text());
        let path = match self.module {
            Module::AppArmor(_) => c"thread-self/attr/apparmor/exec",
            Module::SeLinux(_) => c"thread-self/attr/exec",
        };
        program.openat2(proc, path, OpenHow { flags: libc::O_WRONLY, ..OpenHow::default() })
    }

    /// Adds the writing of the label to the file that [`open`](ExecLabel::open) opened. It comes after no_new_privs and
    /// before Landlock.
    pub fn write(&self, program: &mut Program, attribute: Slot) {
        program.at(Step::LsmLabel, self.text());
        let text = match &self.module {
            Module::AppArmor(profile) => format!("exec {profile}"),
            Module::SeLinux(context) => context.to_string(),
        };
        program.write_all(attribute, text.as_bytes());
        program.close(attribute);
    }

    /// Both, with the /proc of the thread that runs it; `None` if the label is optional and cannot be had.
    ///
    /// # Errors
    /// As [`check`](ExecLabel::check).
    pub fn prepare(&self) -> Result<Option<Program>, Error> {
        if !self.check()? {
            return Ok(None);
        }
        let mut program = Program::new();
        program.at(Step::Sysctls, "/proc");
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let proc = program.openat2(Fd::CWD, c"/proc", OpenHow { flags, ..OpenHow::default() });
        let attribute = self.open(&mut program, proc);
        self.write(&mut program, attribute);
        program.close(proc);
        Ok(Some(program))
    }

    /// Whether a process has this label, whose `/proc/PID/attr/current` has the text `current`.
    pub fn is_in(&self, current: impl AsRef<std::ffi::OsStr>) -> bool {
        let current = current.as_ref().to_string_lossy();
        let current = current.trim_end_matches(['\0', '\n']);
        match &self.module {
            Module::AppArmor(profile) => {
                current == profile || current.rsplit_once(" (").is_some_and(|(name, _)| name == profile)
            }
            Module::SeLinux(context) => current == context.to_string(),
        }
    }

    fn text(&self) -> String {
        match &self.module {
            Module::AppArmor(profile) => profile.clone(),
            Module::SeLinux(context) => context.to_string(),
        }
    }
}

/// The profile's name, or the context.
impl fmt::Display for ExecLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

/// The active security modules, in their order: /sys/kernel/security/lsm.
///
/// # Errors
/// [`File`](crate::ErrorKind::File) if securityfs is not mounted there.
pub fn active() -> Result<Vec<String>, Error> {
    active_in(Path::new("/sys/kernel/security"))
}

fn active_in(securityfs: &Path) -> Result<Vec<String>, Error> {
    let path = securityfs.join("lsm");
    let text = std::fs::read_to_string(&path).map_err(|error| file(path, &error))?;
    Ok(text.trim_end().split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

/// Whether the kernel's list (`NAME (MODE)` a line) has this profile. A name may hold spaces and parentheses.
fn loaded(list: &str, profile: &str) -> bool {
    list.lines().any(|line| line.rsplit_once(" (").is_some_and(|(name, _)| name == profile))
}

fn bad_label(label: impl AsRef<str>, why: &str) -> Error {
    let label = label.as_ref().chars().take(128).collect::<String>().escape_debug().to_string();
    Repr::Label { label, why: why.to_owned() }.into()
}

fn file(path: PathBuf, error: &io::Error) -> Error {
    Repr::File { path, errno: error.raw_os_error().unwrap_or(libc::EIO) }.into()
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

    #[test]
    fn a_profile_is_text_without_surprises() {
        let profile = ContainerProfile::new("job-1.a_b").unwrap().deny_writes("/srv/data/").unwrap();
        let text = profile.to_string();
        assert!(
            text.contains("\n  deny /srv/data{,/**} wlk,\n") && text.contains("signal peer=job-1.a_b"),
            "{text}"
        );
        assert_eq!(text.matches('{').count(), text.matches('}').count());
        for name in ["", "a b", "a{b", "a\"", "unconfined", "a/b", "a\nb"] {
            assert_eq!(ContainerProfile::new(name).unwrap_err().kind(), ErrorKind::Label, "{name:?}");
        }
        for path in ["srv", "/a b", "/a*", "/a,", "/a\n"] {
            assert!(ContainerProfile::new("x").unwrap().deny_writes(path).is_err(), "{path:?}");
        }
    }

    #[test]
    fn a_label_is_recognised_in_attr_current() {
        let profile = ExecLabel::apparmor("my profile (odd)").unwrap();
        assert!(
            profile.is_in("my profile (odd) (enforce)\n") && profile.is_in("my profile (odd) (complain)")
        );
        assert!(!profile.is_in("my profile") && !profile.is_in("unconfined"));
        assert!(ExecLabel::apparmor("unconfined").unwrap().is_in("unconfined\n"));
        let context = ExecLabel::selinux("u:r:t:s0".parse().unwrap());
        assert!(context.is_in("u:r:t:s0\0") && !context.is_in("u:r:t:s0:c1") && !context.is_in(""));
    }

    /// A80: a securityfs made of files, as the kernel's looks.
    #[test]
    fn a80_an_absent_module_or_profile_is_an_error_unless_optional() {
        let dir = tempfile::tempdir().unwrap();
        let with = |lsm: &str, profiles: Option<&str>| {
            std::fs::write(dir.path().join("lsm"), lsm).unwrap();
            std::fs::create_dir_all(dir.path().join("apparmor")).unwrap();
            let list = dir.path().join("apparmor/profiles");
            match profiles {
                Some(text) => std::fs::write(list, text).unwrap(),
                None => drop(std::fs::remove_file(list)),
            }
        };
        let label = ExecLabel::apparmor("my profile").unwrap();
        let check = |label: &ExecLabel| label.check_in(dir.path()).map_err(|error| error.kind());
        assert_eq!(check(&label), Err(ErrorKind::File), "no securityfs");
        with("lockdown,capability,landlock,bpf", None);
        assert_eq!(check(&label), Err(ErrorKind::Label));
        assert_eq!(check(&label.clone().optional()), Ok(false));
        assert_eq!(check(&ExecLabel::selinux("u:r:t".parse().unwrap())), Err(ErrorKind::Label));
        with("capability,apparmor", Some("my profile2 (enforce)\nunconfined_my profile (complain)\n"));
        assert_eq!(check(&label), Err(ErrorKind::Label));
        assert_eq!(check(&ExecLabel::apparmor("unconfined").unwrap()), Ok(true));
        with("capability,apparmor", Some("other (enforce)\nmy profile (enforce)\n"));
        assert_eq!(check(&label), Ok(true));
        with("capability,apparmor", None);
        assert_eq!(check(&label), Err(ErrorKind::File), "a list that is not there is not an empty one");
        with("capability,selinux", None);
        assert_eq!(check(&ExecLabel::selinux("u:r:t".parse().unwrap())), Ok(true));
        for name in ["", "a\nb", "a\0"] {
            assert_eq!(ExecLabel::apparmor(name).unwrap_err().kind(), ErrorKind::Label);
        }
    }

    /// The program writes what the kernel's files want, in a proc made of files.
    #[test]
    fn the_program_writes_the_label() {
        let dir = tempfile::tempdir().unwrap();
        let attributes = dir.path().join("thread-self/attr");
        std::fs::create_dir_all(attributes.join("apparmor")).unwrap();
        for (label, path, expected) in [
            (ExecLabel::apparmor("my profile").unwrap(), "apparmor/exec", "exec my profile"),
            (ExecLabel::selinux("u:r:t:s0".parse().unwrap()), "exec", "u:r:t:s0"),
        ] {
            std::fs::write(attributes.join(path), "").unwrap();
            let proc = std::fs::File::open(dir.path()).unwrap();
            let mut program = Program::new();
            let slot = label.open(&mut program, Fd::number(std::os::fd::AsRawFd::as_raw_fd(&proc)));
            label.write(&mut program, slot);
            crate::sys::run(&mut program.image()).unwrap();
            assert_eq!(std::fs::read_to_string(attributes.join(path)).unwrap(), expected);
        }
    }
}
