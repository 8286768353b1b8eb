use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use crate::strings::printable;
use crate::sys::{ns_owner, ns_owner_uid, ns_parent, statx};
use crate::{Error, NamespaceId, NamespaceKind, ProcRoot, Process, ProcessEntry, Snapshot, UserNames};

/// The namespaces that have members among the processes of a snapshot: the view of lsns(8).
///
/// Namespaces without a member (held by a mount or a descriptor only) are not among them, nor are those of processes
/// that this reader may not look into: [`denied`](NamespaceTable::denied) counts these.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NamespaceTable {
    /// By namespace inode.
    pub rows: Vec<NamespaceRow>,
    /// Processes whose namespaces this reader may not see.
    pub denied: usize,
}

/// A namespace.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NamespaceRow {
    /// What kind it is.
    pub kind: NamespaceKind,
    /// Which one.
    pub id: NamespaceId,
    /// Its members by ascending pid.
    pub members: Vec<u32>,
    /// The effective user id of its first member.
    pub uid: u32,
    /// The command of its first member.
    pub command: String,
    /// The user namespace that owns it (of a user namespace: its parent). Refused where that lies outside of the
    /// reader's own user namespace.
    pub owner: Result<NamespaceId, Error>,
    /// Of user and pid namespaces, the one that they were made in; refused likewise.
    pub parent: Option<Result<NamespaceId, Error>>,
    /// Of user namespaces, the user that made it.
    pub owner_uid: Option<Result<u32, Error>>,
}

impl NamespaceTable {
    /// The kinds that lsns(8) shows: where a process is, not where its next child will be.
    const KINDS: [NamespaceKind; 8] = [
        NamespaceKind::Cgroup,
        NamespaceKind::Ipc,
        NamespaceKind::Mnt,
        NamespaceKind::Net,
        NamespaceKind::Pid,
        NamespaceKind::Time,
        NamespaceKind::User,
        NamespaceKind::Uts,
    ];

    /// Groups the processes of a snapshot, which must have been taken with
    /// [`Parts::namespaces`](crate::Parts::namespaces), and asks `root`'s processes who owns each namespace.
    pub fn new(root: &ProcRoot, snapshot: &Snapshot) -> Self {
        let mut members: BTreeMap<(NamespaceId, NamespaceKind), Vec<&ProcessEntry>> = BTreeMap::new();
        let mut denied = 0;
        for p in &snapshot.processes {
            let Some(namespaces) = &p.namespaces else { continue };
            let mut refused = false;
            for kind in Self::KINDS {
                match namespaces.get(kind) {
                    Ok(id) => members.entry((id, kind)).or_default().push(p),
                    Err(e) => refused |= e.kind() == crate::ErrorKind::Denied,
                }
            }
            denied += usize::from(refused);
        }
        let rows = members.into_iter().filter_map(|((id, kind), members)| row(root, kind, id, &members));
        Self { rows: rows.collect(), denied }
    }

    /// The namespaces that one process is in.
    pub fn of(&self, pid: u32) -> impl Iterator<Item = &NamespaceRow> {
        self.rows.iter().filter(move |r| r.members.binary_search(&pid).is_ok())
    }
}

fn row(
    root: &ProcRoot,
    kind: NamespaceKind,
    id: NamespaceId,
    members: &[&ProcessEntry],
) -> Option<NamespaceRow> {
    let first = members.first()?;
    let command =
        if first.cmdline.is_empty() { printable(&first.stat.comm) } else { first.cmdline.to_string() };
    let handle = open(root, kind, id, members);
    let related = |call, ask: fn(&OwnedFd) -> Result<OwnedFd, Errno>| {
        let handle = handle.as_ref().map_err(Clone::clone)?;
        let other = ask(handle).and_then(|fd| statx(fd.as_fd(), c"", false));
        let other = other.map_err(|e| Error::call(crate::error::kind_of(e), call, name(kind, id), e))?;
        Ok(NamespaceId { device: other.dev, inode: other.inode })
    };
    let nested = matches!(kind, NamespaceKind::User | NamespaceKind::Pid);
    let owner_uid = || {
        let handle = handle.as_ref().map_err(Clone::clone)?;
        ns_owner_uid(handle)
            .map_err(|e| Error::call(crate::error::kind_of(e), "NS_GET_OWNER_UID", name(kind, id), e))
    };
    Some(NamespaceRow {
        kind,
        id,
        members: members.iter().map(|p| p.pid).collect(),
        uid: first.status.uid.effective,
        command,
        owner: related("NS_GET_USERNS", |fd| ns_owner(fd)),
        parent: nested.then(|| related("NS_GET_PARENT", |fd| ns_parent(fd))),
        owner_uid: (kind == NamespaceKind::User).then(owner_uid),
    })
}

fn name(kind: NamespaceKind, id: NamespaceId) -> String {
    format!("{kind}:[{}]", id.inode)
}

/// A handle from the first member that is still in it: since the snapshot one may have ended or moved on.
fn open(
    root: &ProcRoot,
    kind: NamespaceKind,
    id: NamespaceId,
    members: &[&ProcessEntry],
) -> Result<OwnedFd, Error> {
    let mut error = Error::call(crate::ErrorKind::Gone, "openat", name(kind, id), Errno::ESRCH);
    for p in members {
        let opened = Process::open(root, p.pid).and_then(|process| process.open_namespace(kind));
        match opened {
            Ok(fd) => {
                let same =
                    statx(fd.as_fd(), c"", false).is_ok_and(|m| (m.dev, m.inode) == (id.device, id.inode));
                if same {
                    return Ok(fd);
                }
            }
            Err(e) => error = e,
        }
    }
    Err(error)
}

impl NamespaceTable {
    /// As a table, with users by these names.
    pub fn with_users<'a>(&'a self, users: &'a UserNames) -> impl fmt::Display + 'a {
        Shown { table: self, users }
    }
}

impl fmt::Display for NamespaceTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Shown { table: self, users: &UserNames::numeric() }.fmt(f)
    }
}

struct Shown<'a> {
    table: &'a NamespaceTable,
    users: &'a UserNames,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("        NS TYPE   NPROCS     PID USER            OWNER COMMAND")?;
        for r in &self.table.rows {
            let pid = r.members.first().copied().unwrap_or_default();
            let owner = r.owner.as_ref().map_or_else(|_| "-".to_owned(), |o| o.inode.to_string());
            let user = self.users.name(r.uid);
            write!(
                f,
                "\n{:>10} {:<6} {:>6} {pid:>7} {user:<10} {owner:>10} {}",
                r.id.inode,
                r.kind,
                r.members.len(),
                r.command
            )?;
        }
        if self.table.denied > 0 {
            write!(f, "\n({} processes may not be looked into)", self.table.denied)?;
        }
        Ok(())
    }
}
