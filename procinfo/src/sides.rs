use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use nix::sched::{CloneFlags, setns};

use crate::strings::printable;
use crate::{Error, ErrorKind, IdMap, Ids, NamespaceKind, Namespaces, ProcRoot, Process, Status};

/// One process as the reader sees it and as it sees itself.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Sides {
    /// Its name.
    pub name: OsString,
    /// Its pid in each nested pid namespace: the proc mount's first, its own last.
    pub pids: Vec<u32>,
    /// Its user ids in the reader's numbering, and in its own user namespace's.
    pub uids: Mapped,
    /// Its group ids likewise.
    pub gids: Mapped,
    /// Its place in the cgroup v2 hierarchy: from the root of the reader's cgroup namespace, and from its own's.
    pub cgroup: (Result<PathBuf, Error>, Result<PathBuf, Error>),
    /// The kinds of namespace in which it is elsewhere than the reader.
    pub differing: Vec<NamespaceKind>,
    /// The kinds of which that is not known.
    pub unknown: Vec<NamespaceKind>,
}

/// Ids on both sides of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mapped {
    /// In the reader's numbering.
    pub host: Ids,
    /// In the process's: real, effective, saved, file system; `None` for one that has no number there. As a whole
    /// `None` if it may not be seen whether the process is in the reader's user namespace: its map is then to be read
    /// in one of two ways.
    pub inside: Option<[Option<u32>; 4]>,
}

impl Sides {
    /// Looks at a process from both sides.
    ///
    /// For the path of its cgroup as it sees it, a thread of its own enters that cgroup namespace for one read: the
    /// calling thread and its namespaces are left alone. That needs `CAP_SYS_ADMIN` in the reader's user namespace and
    /// in the one that owns the cgroup namespace.
    ///
    /// # Errors
    /// Of reading its `status`, `uid_map`, `gid_map`, or the reader's own namespaces.
    pub fn of(root: &ProcRoot, process: &Process) -> Result<Self, Error> {
        let status = process.status()?;
        let mine = root.myself()?.namespaces();
        let theirs = process.namespaces();
        let (differing, unknown) = mine.differing(&theirs);
        let relation = if unknown.contains(&NamespaceKind::User) {
            Relation::Unknown
        } else if differing.contains(&NamespaceKind::User) {
            Relation::Other
        } else {
            Relation::Same
        };
        let host = process.cgroup().and_then(|c| unified(process, c.unified().map(PathBuf::from)));
        Ok(Self {
            pids: pids(&status),
            uids: Mapped::new(status.uid, relation, &process.uid_map()?),
            gids: Mapped::new(status.gid, relation, &process.gid_map()?),
            cgroup: (host.clone(), inside_cgroup(process, &mine, &theirs, host)),
            name: status.name,
            differing,
            unknown,
        })
    }
}

fn pids(status: &Status) -> Vec<u32> {
    if status.ns_tgid.is_empty() { vec![status.tgid] } else { status.ns_tgid.clone() }
}

fn unified(process: &Process, path: Option<PathBuf>) -> Result<PathBuf, Error> {
    path.ok_or_else(|| {
        Error::call(
            ErrorKind::Absent,
            "read",
            process.object("cgroup (no 0:: line)"),
            nix::errno::Errno::ENOENT,
        )
    })
}

/// Whether a process is in the reader's user namespace.
#[derive(Clone, Copy)]
enum Relation {
    Same,
    Other,
    Unknown,
}

impl Mapped {
    /// The outside column of a map is in the reader's numbering, and so are the ids of `status`: unless the process is
    /// in the reader's own user namespace, where the ids are the same and the map is about the parent's.
    fn new(host: Ids, relation: Relation, map: &IdMap) -> Self {
        let ids = [host.real, host.effective, host.saved, host.fs];
        let inside = match relation {
            Relation::Same => Some(ids.map(Some)),
            Relation::Other => Some(ids.map(|id| map.to_inside(id))),
            Relation::Unknown => None,
        };
        Self { host, inside }
    }
}

fn inside_cgroup(
    process: &Process,
    mine: &Namespaces,
    theirs: &Namespaces,
    host: Result<PathBuf, Error>,
) -> Result<PathBuf, Error> {
    let their = theirs.get(NamespaceKind::Cgroup).map_err(Clone::clone)?;
    if mine.get(NamespaceKind::Cgroup).map_err(Clone::clone)? == their {
        return host;
    }
    let namespace = process.open_namespace(NamespaceKind::Cgroup)?;
    // The kernel prints the path for the namespace of the thread that reads. This one ends right after.
    let read = || {
        setns(namespace, CloneFlags::CLONE_NEWCGROUP)
            .map_err(|e| Error::call(crate::error::kind_of(e), "setns", process.object("ns/cgroup"), e))?;
        process.cgroup().and_then(|c| unified(process, c.unified().map(PathBuf::from)))
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, read).map_err(|e| {
            let errno = nix::errno::Errno::from_raw(e.raw_os_error().unwrap_or(libc::EAGAIN));
            Error::call(ErrorKind::System, "clone", process.object("ns/cgroup"), errno)
        })?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

impl fmt::Display for Sides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = |ids: &Mapped| {
            let inside = match ids.inside {
                Some([_, Some(effective), ..]) => effective.to_string(),
                Some(_) => "(unmapped)".to_owned(),
                None => "(unknown)".to_owned(),
            };
            (ids.host.effective.to_string(), inside)
        };
        let path = |p: &Result<PathBuf, Error>| match p {
            Ok(path) => printable(path.as_os_str()),
            Err(e) => format!("({e})"),
        };
        let pid = |p: Option<&u32>| p.map(u32::to_string).unwrap_or_default();
        let (uid, gid) = (ids(&self.uids), ids(&self.gids));
        let rows = [
            ("pid", pid(self.pids.first()), pid(self.pids.last())),
            ("uid", uid.0, uid.1),
            ("gid", gid.0, gid.1),
            ("cgroup", path(&self.cgroup.0), path(&self.cgroup.1)),
        ];
        write!(f, "{:<8} {:<28} inside", printable(&self.name), "host")?;
        for (what, host, inside) in rows {
            write!(f, "\n{what:<8} {host:<28} {inside}")?;
        }
        let list = |kinds: &[NamespaceKind]| kinds.iter().map(|k| k.name()).collect::<Vec<_>>().join(" ");
        write!(
            f,
            "\nits own: {}",
            if self.differing.is_empty() { "-".into() } else { list(&self.differing) }
        )?;
        if !self.unknown.is_empty() {
            write!(f, "\nnot known: {}", list(&self.unknown))?;
        }
        Ok(())
    }
}
