//! Container profiles: Docker's JSON format and the seccomp section of an OCI configuration.

mod docker;
mod entry;
#[cfg(feature = "profiles")]
mod json;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::action::Action;
use crate::arch::Arch;
use crate::condition::Condition;
use crate::error::{Error, Repr};
use crate::filter::Filter;
use crate::install::Install;
use crate::policy::{Policy, Rule};
use crate::sys;
use crate::syscall;
use entry::Entry;

/// A container profile as it was written: entries that hold for some capabilities, architectures and kernels.
/// [`policy`](Profile::policy) resolves it for one [`Host`].
///
/// ```
/// use palisade_secfilter::{Action, Host, Profile};
///
/// // Docker's default, for a container with no capability.
/// let policy = Profile::docker_default().policy(&Host::running()?)?;
/// let filter = policy.compile()?;
/// assert_eq!(filter.verdict("mount".parse()?).always(), Some(Action::EPERM));
/// # Ok::<(), palisade_secfilter::Error>(())
/// ```
///
/// How entries are read, where the formats leave it open, follows runc and libseccomp:
///
/// - names that this architecture does not have are passed over;
/// - the arguments of an entry must all hold, unless one index is there twice: then any one will do;
/// - an entry without arguments decides its calls, whatever others say about some arguments; of several entries with
///   arguments the first that matches;
/// - calls that are newer than the newest that the profile names get ENOSYS, unless the default lets calls through.
///
/// The x32 ABI is always refused, also where the profile lists it. An entry for another architecture's calls counts if
/// the profile lists [`Arch::X86`] beside x86_64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    default: Option<Action>,
    /// `SCMP_ARCH_*` words that apply to this machine.
    architectures: Vec<String>,
    entries: Vec<Entry>,
    flags: Vec<Flag>,
    listener_path: Option<PathBuf>,
    listener_metadata: Option<String>,
}

/// `SECCOMP_FILTER_FLAG_*` of an OCI configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "profiles"), expect(dead_code, reason = "only JSON profiles have flags"))]
enum Flag {
    Tsync,
    Log,
    SpecAllow,
    WaitKillableRecv,
}

/// What a profile's conditions are about: kernel and capabilities of the container to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    kernel: KernelVersion,
    capabilities: u64,
}

impl Host {
    /// A host with this kernel, for a container without capabilities.
    pub fn new(kernel: KernelVersion) -> Self {
        Host { kernel, capabilities: 0 }
    }

    /// The running kernel, for a container without capabilities.
    ///
    /// # Errors
    /// [`Profile`](crate::ErrorKind::Profile) if uname(2) gives no version that can be read.
    pub fn running() -> Result<Self, Error> {
        sys::kernel_release().parse().map(Host::new)
    }

    /// The container's bounding set: bit n is capability n, as in `CapBnd` of /proc/PID/status.
    pub fn capabilities(mut self, bounding: u64) -> Self {
        self.capabilities = bounding;
        self
    }
}

/// A kernel version's first two numbers: `"6.18"`, or all of `uname -r`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KernelVersion {
    /// 6 of 6.18.
    pub major: u32,
    /// 18 of 6.18.
    pub minor: u32,
}

impl FromStr for KernelVersion {
    type Err = Error;

    /// # Errors
    /// [`Profile`](crate::ErrorKind::Profile) if it does not begin with two numbers and a dot between them.
    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || invalid("", format!("`{}` is no kernel version like 4.8", printable(text)));
        let (major, rest) = text.split_once('.').ok_or_else(bad)?;
        let minor = &rest[..rest.bytes().take_while(u8::is_ascii_digit).count()];
        let number = |digits: &str| {
            let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            plain.then(|| digits.parse().ok()).flatten()
        };
        match (number(major), number(minor)) {
            (Some(major), Some(minor)) => Ok(KernelVersion { major, minor }),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Profile {
    /// Docker's default profile: moby/profiles `seccomp/default.json`, commit cd3bed8.
    pub fn docker_default() -> Self {
        Profile {
            default: Some(Action::EPERM),
            architectures: docker::ARCHITECTURES.iter().map(|&name| name.to_owned()).collect(),
            entries: docker::entries(),
            flags: Vec::new(),
            listener_path: None,
            listener_metadata: None,
        }
    }

    /// Where [`docker_default`](Profile::docker_default) comes from.
    pub const DOCKER_DEFAULT_SOURCE: &str = docker::SOURCE;

    /// Whether it says nothing at all: no default action and no entry. Engines take that for "no filter".
    pub fn is_unconfined(&self) -> bool {
        self.default.is_none() && self.entries.is_empty()
    }

    /// Where an OCI configuration wants the listener sent for `SCMP_ACT_NOTIFY`.
    pub fn listener_path(&self) -> Option<&Path> {
        self.listener_path.as_deref()
    }

    /// What it wants sent along.
    pub fn listener_metadata(&self) -> Option<&str> {
        self.listener_metadata.as_deref()
    }

    /// `filter`, to be installed with the flags of an OCI configuration.
    pub fn install(&self, filter: &Filter) -> Install {
        self.flags.iter().fold(Install::new(filter), |install, flag| match flag {
            Flag::Tsync => install.all_threads(),
            Flag::Log => install.log(),
            Flag::SpecAllow => install.allow_speculation(),
            Flag::WaitKillableRecv => install.wait_killable(),
        })
    }

    /// The policy for `host`. An unconfined profile gives one that allows everything (of the listed architectures).
    ///
    /// # Errors
    /// [`Profile`](crate::ErrorKind::Profile) for entries without a default action, and for an unknown capability or
    /// architecture word in a condition: it could not be told whether the entry counts.
    pub fn policy(&self, host: &Host) -> Result<Policy, Error> {
        let default = match self.default {
            Some(default) => default,
            None if self.entries.is_empty() => Action::Allow,
            None => return Err(invalid("", "it has syscalls but no defaultAction")),
        };
        let open = matches!(default, Action::Allow | Action::Log | Action::Trace(_));
        let mut policy = Policy::new(default).unknown(if open { default } else { Action::ENOSYS });
        if self.architectures.iter().any(|name| name == Arch::X86.scmp_name()) {
            policy = policy.also(Arch::X86);
        }
        let mut entries = Vec::new();
        for (index, entry) in self.entries.iter().enumerate() {
            if entry.applies(host).map_err(|what| invalid(&format!("syscalls[{index}]"), what))? {
                entries.push(entry);
            }
        }
        let rules = resolve(&entries, default);
        if !open {
            let names = entries.iter().flat_map(|entry| &entry.names);
            let newest = names.filter_map(|name| syscall::number_on(Arch::NATIVE, name)).max();
            if let Some(newest) = newest {
                let newer: Vec<&str> = syscall::known(Arch::NATIVE)
                    .filter(|&nr| nr > newest)
                    .filter_map(|nr| syscall::name_on(Arch::NATIVE, nr))
                    .collect();
                policy = policy.rule(Rule::new(newer, Action::ENOSYS));
            }
        }
        for (names, conditions, action) in rules {
            let rule = Rule::new(names, action).optional();
            policy = policy.rule(conditions.into_iter().fold(rule, Rule::when));
        }
        Ok(policy)
    }
}

/// Entries as ordered rules of a policy, with libseccomp's precedence worked in.
fn resolve<'a>(entries: &[&'a Entry], default: Action) -> Vec<(Vec<&'a str>, Vec<Condition>, Action)> {
    let mut rules: Vec<(Vec<&str>, Vec<Condition>, Action)> = Vec::new();
    for entry in entries {
        // A rule that says what the default says is left out, as runc does.
        if entry.action == default {
            continue;
        }
        for conditions in &entry.rules {
            // What is always true is no condition; what is never true makes no rule.
            if conditions.iter().any(|condition| condition.constant() == Some(false)) {
                continue;
            }
            let conditions = conditions.iter().filter(|c| c.constant().is_none()).copied().collect();
            rules.push((entry.names.iter().map(String::as_str).collect(), conditions, entry.action));
        }
    }
    // The first rule without a condition decides its calls.
    let mut decided: HashMap<&str, usize> = HashMap::new();
    for (index, (names, conditions, _)) in rules.iter().enumerate() {
        if conditions.is_empty() {
            for name in names {
                decided.entry(name).or_insert(index);
            }
        }
    }
    for (index, (names, ..)) in rules.iter_mut().enumerate() {
        names.retain(|name| decided.get(name).is_none_or(|&by| by == index));
    }
    // Of rules with the same conditions the first counts.
    let mut seen: HashMap<(&str, Vec<Condition>), ()> = HashMap::new();
    for (names, conditions, _) in &mut rules {
        conditions.sort_unstable();
        conditions.dedup();
        names.retain(|name| seen.insert((name, conditions.clone()), ()).is_none());
    }
    rules.retain(|(names, ..)| !names.is_empty());
    rules
}

fn invalid(at: &str, what: impl Into<String>) -> Error {
    Repr::Profile { at: at.to_owned(), what: what.into() }.into()
}

/// A word of a profile, short and without control characters, for an error message.
fn printable(word: &str) -> String {
    word.chars().take(64).collect::<String>().escape_debug().to_string()
}

/// Checks `SCMP_ARCH_*` words.
#[cfg_attr(not(feature = "profiles"), expect(dead_code, reason = "only JSON profiles have them"))]
fn check_architecture(at: &str, name: &str) -> Result<(), Error> {
    if entry::KNOWN_ARCHITECTURES.iter().any(|(scmp, _)| *scmp == name) {
        Ok(())
    } else {
        Err(invalid(at, format!("unknown architecture `{}`", printable(name))))
    }
}
