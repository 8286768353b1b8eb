//! What is read of a process, each file once, and what it is compared with.

use std::cell::OnceCell;
use std::sync::Arc;

use palisade_cgroup::Cgroup;
use palisade_ns::Namespace;
use palisade_procinfo as procinfo;
use palisade_procinfo::{NamespaceId, NamespaceKind, ProcRoot, Process, Status};

use super::Subject;
use super::answer::{Answer, Unread};
use super::verify::not_enforced;
use crate::enter::Target;
use crate::error::Result;
use crate::network::Connection;
use crate::sys::own_groups;

/// Who and what is asked about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subjects<'a> {
    /// The process that executes the payload.
    pub(crate) process: &'a Process,
    /// The process that was cloned: that one, or its init.
    pub(crate) cloned: u32,
    pub(crate) cgroup: Option<&'a Cgroup>,
    pub(crate) network: Option<&'a Connection>,
}

pub(super) struct Read<'a> {
    pub(super) of: Subjects<'a>,
    status: OnceCell<std::result::Result<Status, Unread>>,
    stat: OnceCell<std::result::Result<procinfo::Stat, Unread>>,
    limits: OnceCell<std::result::Result<procinfo::Limits, Unread>>,
    mounts: OnceCell<std::result::Result<procinfo::Mounts, Unread>>,
    network: OnceCell<Vec<(Subject, Answer)>>,
}

type Got<'a, T> = std::result::Result<&'a T, Unread>;

impl<'a> Read<'a> {
    pub(super) fn new(of: Subjects<'a>) -> Self {
        Self {
            of,
            status: OnceCell::new(),
            stat: OnceCell::new(),
            limits: OnceCell::new(),
            mounts: OnceCell::new(),
            network: OnceCell::new(),
        }
    }

    pub(super) fn status(&self) -> Got<'_, Status> {
        once(&self.status, || self.of.process.status())
    }

    pub(super) fn stat(&self) -> Got<'_, procinfo::Stat> {
        once(&self.stat, || self.of.process.stat())
    }

    pub(super) fn limits(&self) -> Got<'_, procinfo::Limits> {
        once(&self.limits, || self.of.process.limits())
    }

    pub(super) fn mounts(&self) -> Got<'_, procinfo::Mounts> {
        once(&self.mounts, || self.of.process.mountinfo())
    }

    /// The answer about one subject of its network.
    pub(super) fn network(&self, subject: &Subject) -> Answer {
        let Some(connection) = self.of.network else {
            return Err(Unread::Untold("its network is not at hand".into()));
        };
        let answers = self.network.get_or_init(|| connection.differences(self.of.process));
        let answer = answers.iter().find(|(about, _)| about == subject).map(|(_, answer)| answer.clone());
        answer.unwrap_or_else(|| Err(Unread::Failed("its network knows nothing of it".into())))
    }

    pub(super) fn cgroup(&self) -> std::result::Result<&'a Cgroup, Unread> {
        self.of.cgroup.ok_or_else(|| Unread::Untold("its cgroup is not at hand".into()))
    }
}

fn once<T>(
    cell: &OnceCell<std::result::Result<T, Unread>>,
    read: impl FnOnce() -> std::result::Result<T, procinfo::Error>,
) -> Got<'_, T> {
    cell.get_or_init(|| read().map_err(Unread::from)).as_ref().map_err(Clone::clone)
}

/// What is compared with.
#[derive(Debug, Default)]
pub(crate) struct Own {
    pub(super) namespaces: OwnNamespaces,
    /// Those of the process whose sandbox was entered.
    pub(super) entered: OwnNamespaces,
    pub(super) groups: Option<Vec<u32>>,
}

impl Own {
    /// Of the calling thread, whose namespaces are these.
    ///
    /// # Errors
    /// The process whose sandbox was entered can't be read.
    pub(crate) fn new(namespaces: &OwnNamespaces, entered: Option<&Target>) -> Result<Self> {
        let entered = entered.map(OwnNamespaces::entered).transpose()?.unwrap_or_default();
        Ok(Self { namespaces: namespaces.clone(), entered, ..Self::groups_only() })
    }

    pub(super) fn groups_only() -> Self {
        Self { groups: own_groups().ok(), ..Self::default() }
    }
}

/// Those of a spawner thread, which never changes them: read once.
#[derive(Clone, Debug, Default)]
pub(crate) struct OwnNamespaces(Arc<[(NamespaceKind, NamespaceId)]>);

impl OwnNamespaces {
    /// Those of the calling thread.
    ///
    /// # Errors
    /// The host program's /proc can't be read.
    pub(crate) fn read() -> Result<Self> {
        let tid = nix::unistd::gettid().as_raw() as u32;
        let thread = || ProcRoot::host()?.process(std::process::id())?.thread(tid);
        Self::of(thread(), "the host program's own namespaces")
    }

    fn entered(target: &Target) -> Result<Self> {
        let process = ProcRoot::host().and_then(|root| root.process_of_pidfd(&target.pidfd));
        let found = Self::of(process, "the namespaces of the living sandbox")?;
        // A zombie has none to show, which must not be taken for a kernel that shows none.
        if target.has_ended() {
            return Err(not_enforced("the sandbox that was entered has ended".into()));
        }
        Ok(found)
    }

    /// Kinds that the kernel does not have, or does not show to this reader, are left out.
    fn of(process: std::result::Result<Process, procinfo::Error>, what: &str) -> Result<Self> {
        let failed = |error: procinfo::Error| {
            let new =
                not_enforced(format!("{what} can't be read, with which the payload's are compared: {error}"));
            new.with_hint("SandboxBuilder::verify(false) goes on without reading back")
        };
        let process = process.map_err(failed)?;
        let mut found = Vec::new();
        for link in NamespaceKind::ALL.into_iter().filter(|link| link.target() == *link) {
            match process.namespace(link) {
                Ok(id) => found.push((link, id)),
                Err(error) => match Unread::from(error.clone()) {
                    Unread::Untold(_) => {}
                    Unread::Failed(_) | Unread::Gone(_) => return Err(failed(error)),
                },
            }
        }
        Ok(Self(found.into()))
    }

    pub(super) fn get(&self, kind: Namespace) -> Option<(NamespaceKind, NamespaceId)> {
        self.0.iter().find(|(link, _)| link.name() == kind.name()).copied()
    }
}
