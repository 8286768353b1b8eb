//! Labels of Linux security modules for the next exec: AppArmor profiles, SELinux contexts.

mod apparmor;
mod context;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

pub use apparmor::ContainerProfile;
pub use context::{Context, LabelOption};

use palisade_sys::{Fd, OpenHow, Program, Slot, Step};

use crate::error::{Error, Repr};
use crate::sys;

/// A label that the next exec of a thread takes.
///
/// An inactive module, a profile that is not loaded or a context that the policy does not know is an error, unless [`optional`](ExecLabel::optional) was asked for:
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

    /// An SELinux context. The loaded policy decides whether the transition is allowed; where it is not, the exec fails
    /// (`EACCES`, with no_new_privs `EPERM`). A permissive SELinux allows everything: its state is in
    /// [/sys/fs/selinux/enforce](https://docs.kernel.org/admin-guide/LSM/SELinux.html), and in a preflight of the umbrella crate.
    pub fn selinux(context: Context) -> Self {
        ExecLabel { module: Module::SeLinux(context), optional: false }
    }

    /// Where the module is not active, the profile not loaded or the context unknown, go on without.
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// Checks the label against the running system: `false` if it is optional and cannot be had.
    ///
    /// # Errors
    /// [`Label`](crate::ErrorKind::Label) if the module is not active, the profile not loaded or the context not one of the
    /// policy's; [`File`](crate::ErrorKind::File) if securityfs cannot be read.
    pub fn check(&self) -> Result<bool, Error> {
        self.check_in(Path::new("/sys"))
    }

    fn check_in(&self, sys: &Path) -> Result<bool, Error> {
        let securityfs = &sys.join("kernel/security");
        let missing = |why: String| if self.optional { Ok(false) } else { Err(bad_label(self.text(), &why)) };
        let name = self.module.name();
        if !active_in(securityfs)?.iter().any(|module| module == name) {
            return missing(format!("{name} is not active (see /sys/kernel/security/lsm)"));
        }
        let profile = match &self.module {
            Module::AppArmor(profile) => profile,
            Module::SeLinux(context) => {
                return match context.is_known_in(&sys.join("fs/selinux")) {
                    Some(false) => missing("the loaded SELinux policy does not know this context".to_owned()),
                    // Nobody to ask: the kernel refuses the write then.
                    Some(true) | None => Ok(true),
                };
            }
        };
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

    /// Has the program that `command` executes take the label; `false` if it is optional and cannot be had. What the kernel
    /// says to it in the child is the error of the command's `spawn`.
    ///
    /// Call it before a filter or Landlock confines the same command, which might refuse to open /proc.
    ///
    /// ```no_run
    /// use palisade_secfilter::lsm::{Context, ExecLabel};
    ///
    /// let mut command = std::process::Command::new("/usr/bin/server");
    /// ExecLabel::selinux(Context::container(7)).confine(&mut command)?;
    /// command.spawn()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`check`](ExecLabel::check).
    pub fn confine(&self, command: &mut Command) -> Result<bool, Error> {
        let program = self.prepare()?;
        let there = program.is_some();
        if let Some(program) = program {
            sys::before_exec(command, program.image());
        }
        Ok(there)
    }

    /// Whether a process has this label, whose `/proc/PID/attr/current` has the text `current`.
    pub fn is_in(&self, current: impl AsRef<std::ffi::OsStr>) -> bool {
        let current = current.as_ref().to_string_lossy();
        let current = current.trim_end_matches(['\0', '\n']);
        match &self.module {
            Module::AppArmor(profile) => {
                current == profile || current.rsplit_once(" (").is_some_and(|(name, _)| name == profile)
            }
            Module::SeLinux(context) => current.parse().is_ok_and(|current| context.is_same(&current)),
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
        // The kernel's spelling of the same level.
        let context = ExecLabel::selinux("u:r:t:s0-s0:c7,c2,c1,c0".parse().unwrap());
        assert!(context.is_in("u:r:t:s0-s0:c0.c2,c7\0") && !context.is_in("u:r:t:s0-s0:c0.c7\0"));
    }

    /// A80: a securityfs made of files, as the kernel's looks.
    #[test]
    fn a80_an_absent_module_or_profile_is_an_error_unless_optional() {
        let dir = tempfile::tempdir().unwrap();
        let with = |lsm: &str, profiles: Option<&str>| {
            let securityfs = dir.path().join("kernel/security");
            std::fs::create_dir_all(securityfs.join("apparmor")).unwrap();
            std::fs::write(securityfs.join("lsm"), lsm).unwrap();
            let list = securityfs.join("apparmor/profiles");
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
            sys::run(&mut program.image()).unwrap();
            assert_eq!(std::fs::read_to_string(attributes.join(path)).unwrap(), expected);
        }
    }
}
