//! What this machine and this caller can do, and what to change where they can't.

use std::fmt;

use palisade_cgroup::Mode;
use palisade_ns::Namespace;

mod confine;
mod groups;
mod kernel;
mod names;

/// What the running kernel, the system's settings and the calling process allow, found out by trying: nothing of it
/// stays, and nothing of the host is changed.
///
/// It takes some tens of milliseconds. `Display` prints a line for each finding, with a fix below where there is
/// something to fix; with the feature `serde` it serialises.
///
/// ```
/// let report = palisade::preflight();
/// if !report.is_ready() {
///     eprintln!("{report}");
/// }
/// ```
pub fn preflight() -> Preflight {
    let mut report = Preflight::default();
    kernel::look(&mut report);
    names::look(&mut report);
    confine::look(&mut report);
    groups::look(&mut report);
    // What all the others are for.
    report.findings.sort_by_key(|finding| finding.feature != Feature::SecureDefault);
    report
}

/// A report of [`preflight`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Preflight {
    /// The kernel's release, as uname(2) has it.
    pub release: String,
    /// Its version: major, minor, patch.
    pub version: (u32, u32, u32),
    /// The caller's effective user and group.
    pub user: (u32, u32),
    /// Whether the caller may do what needs root: CAP_SYS_ADMIN, CAP_SETUID and CAP_SETGID in its user namespace.
    pub privileged: bool,
    /// How cgroups are mounted; `None` where the mount table can't be read.
    #[cfg_attr(feature = "serde", serde(serialize_with = "mode_name"))]
    pub cgroup_mode: Option<Mode>,
    /// Controllers for a cgroup of the caller's own.
    pub controllers: Vec<String>,
    /// The Landlock ABI; 0 is none.
    pub landlock_abi: u32,
    /// Active security modules, in their order.
    pub security_modules: Vec<String>,
    /// What a filter can answer, in the kernel's words.
    pub seccomp_actions: Vec<String>,
    /// How many further user ids, and group ids, the caller may map: delegated in /etc/subuid and /etc/subgid. `None`
    /// for a privileged caller, who may map any.
    pub delegated_ids: Option<(u32, u32)>,
    /// Each feature, and what was found.
    pub findings: Vec<Finding>,
}

/// What was found out about one feature.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Finding {
    /// Which feature.
    pub feature: Feature,
    /// Whether it can be had.
    pub status: Status,
    /// What was seen: a version, a list, or the kernel's refusal.
    pub seen: String,
    /// What has to be changed for it, where that is known: a command, mostly.
    pub fix: Option<String>,
}

/// Something that a sandbox can be made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Feature {
    /// [`Sandbox::new`](crate::Sandbox::new), built, verified and started up to the payload's exec.
    SecureDefault,
    /// A kernel that is new enough.
    Kernel,
    /// The caller may make a namespace of this kind (in a user namespace of its own, if it is an ordinary user).
    Namespace(Namespace),
    /// Ranges of ids for user namespaces.
    IdRanges,
    /// A proc file system of a pid namespace's own.
    Proc,
    /// Overlays, in a user namespace.
    Overlay,
    /// pidfds, and the exit status that they keep.
    Pidfd,
    /// The mount API.
    MountApi,
    /// Executing a memfd, as the stage is.
    Memfd,
    /// System call filters.
    Seccomp,
    /// Landlock.
    Landlock,
    /// AppArmor.
    AppArmor,
    /// SELinux.
    Selinux,
    /// nftables, for networks.
    Nftables,
    /// A cgroup v2 hierarchy.
    Cgroup,
    /// A cgroup below which the caller may make its own.
    Delegation,
    /// A controller for that, by the kernel's name.
    Controller(String),
}

/// Whether something can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Status {
    /// It works.
    Available,
    /// A part of it works.
    Limited,
    /// It does not work.
    Missing,
    /// It could not be found out.
    Unknown,
}

impl Preflight {
    /// Whether the secure default works here: [`Sandbox::new`](crate::Sandbox::new) and a spawn.
    pub fn is_ready(&self) -> bool {
        self.is_available(&Feature::SecureDefault)
    }

    /// Whether a feature works.
    pub fn is_available(&self, feature: &Feature) -> bool {
        self.get(feature).is_some_and(|finding| finding.status == Status::Available)
    }

    /// What was found out about a feature.
    pub fn get(&self, feature: &Feature) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.feature == *feature)
    }

    fn available(&mut self, feature: Feature, seen: impl Into<String>) {
        self.push(feature, Status::Available, seen.into(), None);
    }

    fn missing(&mut self, feature: Feature, seen: impl Into<String>, fix: impl Into<String>) {
        self.push(feature, Status::Missing, seen.into(), Some(fix.into()));
    }

    fn push(&mut self, feature: Feature, status: Status, seen: String, fix: Option<String>) {
        self.findings.push(Finding { feature, status, seen, fix });
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Namespace(kind) => return f.pad(&format!("namespace {}", kind.name())),
            Self::Controller(name) => return f.pad(&format!("controller {name}")),
            Self::SecureDefault => "secure default",
            Self::Kernel => "kernel",
            Self::IdRanges => "id ranges",
            Self::Proc => "fresh /proc",
            Self::Overlay => "overlay",
            Self::Pidfd => "pidfd",
            Self::MountApi => "mount API",
            Self::Memfd => "executable memfd",
            Self::Seccomp => "seccomp",
            Self::Landlock => "Landlock",
            Self::AppArmor => "AppArmor",
            Self::Selinux => "SELinux",
            Self::Nftables => "nftables",
            Self::Cgroup => "cgroup v2",
            Self::Delegation => "cgroup delegation",
        };
        f.pad(name)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Feature {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(feature = "serde")]
fn mode_name<S: serde::Serializer>(mode: &Option<Mode>, serializer: S) -> Result<S::Ok, S::Error> {
    match mode {
        Some(mode) => serializer.serialize_str(groups::name_of(*mode)),
        None => serializer.serialize_none(),
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Available => "ok",
            Self::Limited => "limited",
            Self::Missing => "MISSING",
            Self::Unknown => "unknown",
        })
    }
}

/// A line for each finding, and its fix below.
impl fmt::Display for Preflight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before: &Option<String> = &None;
        for Finding { feature, status, seen, fix } in &self.findings {
            writeln!(f, "{feature:<20}  {status:<8}  {}", seen.replace('\n', " "))?;
            match fix {
                Some(_) if fix == before => writeln!(f, "{:32}fix: the same", "")?,
                Some(fix) => writeln!(f, "{:32}fix: {fix}", "")?,
                None => {}
            }
            before = fix;
        }
        Ok(())
    }
}
