//! What was asked to confine a payload, and what the kernel says about it.

use std::fmt;
use std::sync::Arc;

use palisade_ns::Namespace;

use crate::rlimit::Resource;

mod answer;
mod ask;
mod mounts;
mod read;
mod verify;

pub(crate) use answer::Answer;
#[cfg(feature = "net")]
pub(crate) use answer::Unread;
pub(crate) use ask::{Asked, Phase, View};
pub(crate) use read::{Own, OwnNamespaces, Subjects};
pub(crate) use verify::Verifier;

/// A report on each restriction of one payload: what was asked, and what became of it.
///
/// The answers are the kernel's own, read from outside, by the host program, before the payload runs: namespaces, id maps
/// and the view as soon as they are final, the rest while the set-up stands still, right before it would install its
/// filter and execute the payload. A difference from what was asked kills the set-up and is the error of `spawn`
/// ([`ErrorKind::NotEnforced`](crate::ErrorKind::NotEnforced)), and so is a question that fails where the kernel would have
/// told. So in a report that [`Child::enforced`](crate::Child::enforced) gives nothing differs. The filter is read right
/// after the exec: a process can't lose one again.
///
/// [`Child::verify`](crate::Child::verify) reads everything once more, at a time of the caller's choice.
///
/// ```no_run
/// let child = palisade::Sandbox::new()?.command("/bin/sleep").arg("1").spawn()?;
/// print!("{}", child.enforced());
/// # Ok::<(), palisade::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Enforced {
    restrictions: Vec<Restriction>,
}

/// One restriction: what was asked, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Restriction {
    subject: Subject,
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_text"))]
    asked: Arc<str>,
    state: State,
}

/// What a [`Restriction`] is about. `Display` prints the kernel's own word for it, where there is one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Subject {
    /// A namespace of its own, one of others that it joined, or one that is shared with the host program.
    Namespace(Namespace),
    /// The offsets of its clocks.
    Clocks,
    /// The maps of its user namespace.
    IdMaps,
    /// User and group.
    User,
    /// Supplementary groups.
    Groups,
    /// The five capability sets.
    Capabilities,
    /// That no exec can give it privileges.
    NoNewPrivs,
    /// The system call filter.
    Seccomp,
    /// Landlock rules.
    Landlock,
    /// The label of a security module.
    Label,
    /// Its session keyring: that of the host program is out of reach.
    Keyring,
    /// The host name in its namespace.
    HostName,
    /// Its way out: the interfaces and addresses in its network namespace.
    Network,
    /// Which connections may leave it.
    Egress,
    /// What keeps it to its own addresses on a bridge, and the ports that lead to it.
    Port,
    /// A kernel parameter of its namespaces.
    Sysctl(String),
    /// What it sees mounted, and how.
    Mounts,
    /// Hidden and read-only paths.
    Masks,
    /// That capabilities over its namespaces give no power over its mounts: they are owned one user namespace up.
    MountLock,
    /// A bind that is left out where its source does not exist.
    OptionalMount,
    /// A resource limit.
    Limit(Resource),
    /// Its nice value.
    Nice,
    /// Its scheduling policy.
    Scheduler,
    /// Its execution domain.
    Personality,
    /// The CPUs that it may run on.
    Affinity,
    /// How likely it is killed for want of memory.
    OomScoreAdj,
    /// A cgroup of its own.
    Cgroup,
    /// A control file of its cgroup.
    CgroupFile(String),
    /// Which devices its cgroup may use.
    Devices,
    /// The descriptors that it begins with.
    Descriptors,
    /// Its session and process group.
    Session,
    /// The terminal that controls it.
    Terminal,
    /// The first process of its pid namespace, which is not itself.
    Init,
    /// Its umask.
    Umask,
    /// That it ends with the host program.
    Lifetime,
    /// That it is killed when its time is over.
    Timeout,
}

/// What became of a restriction.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum State {
    /// The kernel was asked, and it is as it was asked for.
    Verified(Moment),
    /// The kernel took the call that makes it so. It was not read back, for this reason.
    Applied(String),
    /// The kernel says something else. Never in the report of a spawn: that is an error then.
    Differs {
        /// What it says.
        found: String,
        /// When it was read.
        moment: Moment,
    },
    /// It was asked as best effort, and is not in force, for this reason.
    Missing(String),
}

/// When the kernel was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Moment {
    /// Before the payload ran.
    BeforeExec,
    /// Right after it was executed: it may have run for some microseconds.
    AfterExec,
    /// Later, while it ran: it may have changed things itself, within its rights.
    Later,
}

impl Enforced {
    /// Each restriction, in the order in which a set-up makes them.
    pub fn restrictions(&self) -> &[Restriction] {
        &self.restrictions
    }

    /// The restriction about `subject`, if there is one.
    pub fn get(&self, subject: &Subject) -> Option<&Restriction> {
        self.restrictions.iter().find(|restriction| restriction.subject == *subject)
    }

    /// Whether no answer of the kernel differs from what was asked, and nothing asked as best effort is missing.
    /// What the kernel gives no answer about ([`State::Applied`]) counts as enforced: it took the call.
    pub fn is_whole(&self) -> bool {
        self.restrictions.iter().all(|r| matches!(r.state, State::Verified(_) | State::Applied(_)))
    }

    pub(crate) fn first_difference(&self) -> Option<&Restriction> {
        self.restrictions.iter().find(|r| matches!(r.state, State::Differs { .. }))
    }
}

impl Restriction {
    /// What it is about.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// What was asked, in words.
    pub fn asked(&self) -> &str {
        &self.asked
    }

    /// What became of it.
    pub fn state(&self) -> &State {
        &self.state
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Namespace(kind) => return f.pad(&format!("namespace {}", kind.name())),
            Self::Limit(resource) => return f.pad(&resource.to_string()),
            Self::CgroupFile(name) | Self::Sysctl(name) => return f.pad(name),
            Self::Clocks => "clocks",
            Self::Landlock => "Landlock",
            Self::Label => "label",
            Self::Devices => "devices",
            Self::IdMaps => "id maps",
            Self::User => "user",
            Self::Groups => "supplementary groups",
            Self::Capabilities => "capabilities",
            Self::NoNewPrivs => "no_new_privs",
            Self::Seccomp => "seccomp",
            Self::Mounts => "mounts",
            Self::Masks => "masks",
            Self::MountLock => "mount lock",
            Self::OptionalMount => "optional mount",
            Self::Keyring => "session keyring",
            Self::HostName => "host name",
            Self::Network => "network",
            Self::Egress => "egress",
            Self::Port => "port on the bridge",
            Self::Scheduler => "scheduler",
            Self::Personality => "personality",
            Self::Terminal => "terminal",
            Self::Init => "init",
            Self::Timeout => "timeout",
            Self::Nice => "nice",
            Self::Affinity => "affinity",
            Self::OomScoreAdj => "oom_score_adj",
            Self::Cgroup => "cgroup",
            Self::Descriptors => "descriptors",
            Self::Session => "session",
            Self::Umask => "umask",
            Self::Lifetime => "lifetime",
        };
        f.pad(name)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Subject {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(feature = "serde")]
fn as_text<S: serde::Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verified(moment) => write!(f, "verified {moment}"),
            Self::Applied(why) => write!(f, "applied, not read back: {why}"),
            Self::Differs { found, moment } => write!(f, "DIFFERS ({moment}): {found}"),
            Self::Missing(why) => write!(f, "MISSING: {why}"),
        }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BeforeExec => "before exec",
            Self::AfterExec => "after exec",
            Self::Later => "later",
        })
    }
}

/// A line for each restriction.
impl fmt::Display for Enforced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Restriction { subject, asked, state } in &self.restrictions {
            writeln!(f, "{subject:<20}  {asked:<44}  {state}")?;
        }
        Ok(())
    }
}
