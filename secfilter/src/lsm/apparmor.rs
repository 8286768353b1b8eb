//! An AppArmor profile for containers, as text for apparmor_parser.

use std::fmt;
use std::io::Write as _;
use std::process::{Command, Stdio};

use super::{ExecLabel, bad_label};
use crate::error::{Error, Repr};

/// A profile for a container's processes, with what engines confine by default: files, capabilities and networks are
/// left to others; mounting, writing to the kernel's own files below /proc and /sys, and signals and ptrace across the
/// profile's border are refused.
///
/// `Display` prints the profile. Its rules need nothing else from /etc/apparmor.d.
///
/// ```
/// use palisade_secfilter::lsm::ContainerProfile;
///
/// let profile = ContainerProfile::new("job-42")?;
/// assert!(profile.to_string().contains("deny mount"));
/// // As root: profile.load()?;
/// let label = profile.label();
/// # drop(label);
/// # Ok::<(), palisade_secfilter::Error>(())
/// ```
///
/// See [apparmor.d(5)](https://manpages.debian.org/bookworm/apparmor/apparmor.d.5.en.html).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerProfile {
    name: String,
    mounts: bool,
    extra: Vec<String>,
}

impl ContainerProfile {
    /// A profile of this name: letters, digits and `_.-`, at most 128.
    ///
    /// # Errors
    /// [`Label`](crate::ErrorKind::Label) for another name.
    pub fn new(name: &str) -> Result<Self, Error> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
        if name.is_empty() || name.len() > 128 || !name.bytes().all(plain) || name == "unconfined" {
            return Err(bad_label(name, "a profile's name is 1 to 128 letters, digits, `_`, `-` and `.`"));
        }
        Ok(Self { name: name.to_owned(), mounts: false, extra: Vec::new() })
    }

    /// Leaves mounting alone, for containers with CAP_SYS_ADMIN over a user namespace of their own.
    pub fn allow_mounts(mut self) -> Self {
        self.mounts = true;
        self
    }

    /// Refuses writing to a path and all below it.
    ///
    /// # Errors
    /// [`Label`](crate::ErrorKind::Label) for a path that is not absolute or has characters with a meaning in profiles.
    pub fn deny_writes(mut self, path: &str) -> Result<Self, Error> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-/".contains(&b);
        if !path.starts_with('/') || !path.bytes().all(plain) {
            return Err(bad_label(path, "an absolute path of letters, digits, `_`, `-`, `.` and `/`"));
        }
        let path = path.trim_end_matches('/');
        self.extra.push(format!("deny {path}{{,/**}} wlk,"));
        Ok(self)
    }

    /// The profile's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The label of a program that is to run under it.
    pub fn label(&self) -> ExecLabel {
        ExecLabel { module: super::Module::AppArmor(self.name.clone()), optional: false }
    }

    /// Gives it to the kernel, in place of an older one of its name, by the program `apparmor_parser`. Needs root.
    ///
    /// # Errors
    /// [`Label`](crate::ErrorKind::Label) with the parser's words, or if the parser is not there.
    pub fn load(&self) -> Result<(), Error> {
        self.parser("--replace")
    }

    /// Takes it away from the kernel again: what runs under it goes on unconfined.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn unload(&self) -> Result<(), Error> {
        self.parser("--remove")
    }

    fn parser(&self, action: &str) -> Result<(), Error> {
        let missing = |error: std::io::Error| {
            let why = format!("apparmor_parser can't be run ({error}); it is in the package apparmor");
            Error::from(Repr::Label { label: self.name.clone(), why })
        };
        let mut parser = Command::new("apparmor_parser");
        // No cache on disk: the profile is this program's.
        parser.args([action, "--skip-cache"]).env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
        parser.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut running = parser.spawn().map_err(missing)?;
        if let Some(mut stdin) = running.stdin.take() {
            // A parser that does not want to read says why.
            drop(stdin.write_all(self.to_string().as_bytes()));
        }
        let out = running.wait_with_output().map_err(missing)?;
        if out.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).trim().to_owned();
        Err(bad_label(&self.name, &format!("apparmor_parser {action}: {said}")))
    }
}

impl fmt::Display for ContainerProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        writeln!(f, "profile {name} flags=(attach_disconnected,mediate_deleted) {{")?;
        let mount = if self.mounts { "mount, umount, pivot_root," } else { "deny mount, umount," };
        let rules = [
            "file, network, capability,",
            mount,
            // Below /proc only the directories of processes are written to.
            "deny /proc/[^0-9]** wlk,",
            "deny /proc/kcore r,",
            // Below /sys only cgroups; their own permissions decide.
            "deny /sys/[^f]** wlk,",
            "deny /sys/f[^s]** wlk,",
            "deny /sys/fs/[^c]** wlk,",
            "deny /sys/{firmware,kernel/security,devices/virtual/powercap}/** r,",
        ];
        for rule in rules.into_iter().chain(self.extra.iter().map(String::as_str)) {
            writeln!(f, "  {rule}")?;
        }
        // From outside it can be ended, and looked at by nobody; inside all is as usual.
        writeln!(f, "  signal receive peer=unconfined,")?;
        writeln!(f, "  signal peer={name},\n  ptrace peer={name},\n  unix,\n}}")
    }
}
