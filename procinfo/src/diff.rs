use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::strings::printable;
use crate::{Mount, Mounts, NamespaceKind, ProcessEntry, Snapshot};

/// What changed between two snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotDiff {
    /// In the second only, by ascending pid. A number that was given again is in both lists.
    pub started: Vec<Named>,
    /// In the first only.
    pub ended: Vec<Named>,
    /// In both, but not the same.
    pub changed: Vec<(Named, Vec<Change>)>,
}

/// A process that a difference speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Named {
    /// Its number.
    pub pid: u32,
    /// Its name, control characters escaped.
    pub name: String,
}

/// What about a process is not as it was. What changes by itself (times, memory, running or sleeping) is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// It has another name or other arguments: usually, it has executed another program.
    Program,
    /// It has another parent.
    Parent,
    /// User, group or supplementary group ids.
    Ids,
    /// One of the five capability sets.
    Capabilities,
    /// no_new_privs was set.
    NoNewPrivs,
    /// Seccomp mode or number of filters.
    Seccomp,
    /// It was stopped, continued, traced, or is a zombie now.
    State,
    /// It is in another namespace (or its children will be).
    Namespace(NamespaceKind),
    /// It is in another cgroup.
    Cgroup,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program => f.write_str("program"),
            Self::Parent => f.write_str("parent"),
            Self::Ids => f.write_str("ids"),
            Self::Capabilities => f.write_str("capabilities"),
            Self::NoNewPrivs => f.write_str("no_new_privs"),
            Self::Seccomp => f.write_str("seccomp"),
            Self::State => f.write_str("state"),
            Self::Namespace(kind) => write!(f, "{kind} namespace"),
            Self::Cgroup => f.write_str("cgroup"),
        }
    }
}

impl Snapshot {
    /// What is different in `later`. A process is known by number and start time together.
    pub fn difference(&self, later: &Self) -> SnapshotDiff {
        let by_identity = |s: &Self| -> BTreeMap<(u32, Duration), usize> {
            s.processes.iter().enumerate().map(|(i, p)| ((p.pid, p.stat.start_time), i)).collect()
        };
        let (before, after) = (by_identity(self), by_identity(later));
        let mut diff = SnapshotDiff::default();
        for (id, i) in &before {
            let Some(old) = self.processes.get(*i) else { continue };
            match after.get(id).and_then(|i| later.processes.get(*i)) {
                None => diff.ended.push(Named::of(old)),
                Some(new) => {
                    let changes = changes(old, new);
                    if !changes.is_empty() {
                        diff.changed.push((Named::of(new), changes));
                    }
                }
            }
        }
        let new = after.iter().filter(|(id, _)| !before.contains_key(id));
        diff.started = new.filter_map(|(_, i)| later.processes.get(*i)).map(Named::of).collect();
        diff
    }
}

impl Named {
    fn of(p: &ProcessEntry) -> Self {
        Self { pid: p.pid, name: printable(&p.stat.comm) }
    }
}

fn changes(a: &ProcessEntry, b: &ProcessEntry) -> Vec<Change> {
    use crate::State::{Stopped, Traced, Zombie};
    let (s, t) = (&a.status, &b.status);
    let at_rest = |p: &ProcessEntry| Some(p.stat.state).filter(|s| matches!(s, Stopped | Traced | Zombie));
    let mut all = Vec::new();
    let mut check = |same: bool, change: Change| {
        if !same {
            all.push(change);
        }
    };
    check(a.stat.comm == b.stat.comm && a.cmdline == b.cmdline, Change::Program);
    check(s.ppid == t.ppid, Change::Parent);
    check((s.uid, s.gid, &s.groups) == (t.uid, t.gid, &t.groups), Change::Ids);
    check(s.capabilities == t.capabilities, Change::Capabilities);
    check(s.no_new_privs == t.no_new_privs, Change::NoNewPrivs);
    check((s.seccomp, s.seccomp_filters) == (t.seccomp, t.seccomp_filters), Change::Seccomp);
    check(at_rest(a) == at_rest(b), Change::State);
    if let (Some(x), Some(y)) = (&a.namespaces, &b.namespaces) {
        for kind in x.differing(y).0 {
            check(false, Change::Namespace(kind));
        }
    }
    if let (Some(Ok(x)), Some(Ok(y))) = (&a.cgroups, &b.cgroups) {
        check(x == y, Change::Cgroup);
    }
    all
}

impl SnapshotDiff {
    /// Whether nothing is different.
    pub fn is_empty(&self) -> bool {
        self.started.is_empty() && self.ended.is_empty() && self.changed.is_empty()
    }
}

/// `+` started, `-` ended, `~` changed, a line each.
impl fmt::Display for SnapshotDiff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines: Vec<String> = Vec::new();
        lines.extend(self.started.iter().map(|p| format!("+ {} {}", p.pid, p.name)));
        lines.extend(self.ended.iter().map(|p| format!("- {} {}", p.pid, p.name)));
        lines.extend(self.changed.iter().map(|(p, changes)| {
            let changes: Vec<String> = changes.iter().map(Change::to_string).collect();
            format!("~ {} {}: {}", p.pid, p.name, changes.join(", "))
        }));
        f.write_str(&lines.join("\n"))
    }
}

impl Mounts {
    /// The mounts that are in `later` and not here, and those that are here and not in `later`: what a clean-up must
    /// leave empty. A mount is the same if its line is.
    pub fn difference<'a>(&'a self, later: &'a Self) -> (Vec<&'a Mount>, Vec<&'a Mount>) {
        let only = |a: &'a Self, b: &'a Self| {
            let known: std::collections::HashSet<&Mount> = b.mounts.iter().collect();
            a.mounts.iter().filter(|m| !known.contains(m)).collect()
        };
        (only(later, self), only(self, later))
    }
}
