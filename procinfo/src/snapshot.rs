use std::collections::HashMap;
use std::ffi::OsString;

use crate::{
    Cgroups, CommandLine, Error, ErrorKind, Namespaces, ProcRoot, Process, Stat, Status, Uptime,
    process::Buffer,
};

/// All processes that a proc mount shows, read in one pass.
///
/// The kernel has no way to stop them all, so this is not one instant: each process is read as a whole (through one
/// descriptor, so never mixed with a later one of the same number), one after the other, by ascending pid.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// The processes by ascending pid.
    pub processes: Vec<ProcessEntry>,
    /// How many ended while they were looked at.
    pub vanished: usize,
    /// Those of which this reader may see no more than the number (`hidepid=1`), or that could not be read.
    pub unreadable: Vec<(u32, Error)>,
    /// When it was begun; an error on mounts with `subset=pid`.
    pub uptime: Result<Uptime, Error>,
}

/// One process.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ProcessEntry {
    /// In the mount's pid namespace.
    pub pid: u32,
    /// Times, terminal, memory, scheduling.
    pub stat: Stat,
    /// Ids, capabilities, seccomp, nested pids.
    pub status: Status,
    /// Its arguments.
    pub cmdline: CommandLine,
    /// If asked for.
    pub namespaces: Option<Namespaces>,
    /// If asked for.
    pub cgroups: Option<Result<Cgroups, Error>>,
    /// If asked for: its threads other than the first, with their names, by ascending id.
    pub threads: Vec<(u32, OsString)>,
}

/// Which parts a [`Snapshot`] reads beside `stat`, `status` and `cmdline`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    namespaces: bool,
    cgroups: bool,
    threads: bool,
}

impl Parts {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// `ns/*`, for [`NamespaceTable`](crate::NamespaceTable).
    pub fn namespaces(mut self, yes: bool) -> Self {
        self.namespaces = yes;
        self
    }

    /// `cgroup`.
    pub fn cgroups(mut self, yes: bool) -> Self {
        self.cgroups = yes;
        self
    }

    /// `task/*/comm`, for a [`Tree`](crate::Tree) with threads.
    pub fn threads(mut self, yes: bool) -> Self {
        self.threads = yes;
        self
    }
}

impl Snapshot {
    /// Looks at every process.
    ///
    /// # Errors
    /// Only if the list of processes cannot be read. A process that cannot is counted or listed instead.
    pub fn take(root: &ProcRoot, parts: Parts) -> Result<Self, Error> {
        let uptime = root.uptime();
        let pids = root.pids()?;
        let mut snapshot =
            Self { processes: Vec::with_capacity(pids.len()), vanished: 0, unreadable: Vec::new(), uptime };
        let mut buffer = Buffer::default();
        for pid in pids {
            match entry(root, pid, parts, &mut buffer) {
                Ok(entry) => snapshot.processes.push(entry),
                Err(e) if e.kind() == ErrorKind::Gone => snapshot.vanished += 1,
                Err(e) => snapshot.unreadable.push((pid, e)),
            }
        }
        Ok(snapshot)
    }

    /// The process with this number.
    pub fn get(&self, pid: u32) -> Option<&ProcessEntry> {
        let at = self.processes.binary_search_by_key(&pid, |p| p.pid).ok()?;
        self.processes.get(at)
    }

    /// How many processes refused something that was asked for: those that show only their number, and those whose
    /// namespaces this reader may not see.
    pub fn denied(&self) -> usize {
        let denied = |e: &Error| e.kind() == ErrorKind::Denied;
        let hidden = self.unreadable.iter().filter(|(_, e)| denied(e)).count();
        let partly = self.processes.iter().filter(|p| {
            let namespaces =
                p.namespaces.as_ref().is_some_and(|n| n.iter().any(|(_, id)| id.is_err_and(denied)));
            namespaces || matches!(&p.cgroups, Some(Err(e)) if denied(e))
        });
        hidden + partly.count()
    }

    /// The processes below `pid`, itself first, parents before children.
    pub fn descendants(&self, pid: u32) -> Vec<&ProcessEntry> {
        let mut children: HashMap<u32, Vec<&ProcessEntry>> = HashMap::new();
        for p in &self.processes {
            children.entry(p.stat.ppid).or_default().push(p);
        }
        let mut found: Vec<&ProcessEntry> = self.get(pid).into_iter().collect();
        let mut next = 0;
        while let Some(p) = found.get(next) {
            // Taken out, so that no loop of parents (pids given again while we looked) can go round.
            found.extend(children.remove(&p.pid).unwrap_or_default().into_iter().filter(|c| c.pid != pid));
            next += 1;
        }
        found
    }
}

fn entry(root: &ProcRoot, pid: u32, parts: Parts, buffer: &mut Buffer) -> Result<ProcessEntry, Error> {
    let process = Process::open(root, pid)?;
    Ok(ProcessEntry {
        pid,
        stat: process.parse_with(buffer, "stat", Stat::parse)?,
        status: process.parse_with(buffer, "status", Status::parse)?,
        cmdline: process.parse_with(buffer, "cmdline", |t| Ok(CommandLine::parse(t)))?,
        namespaces: parts.namespaces.then(|| process.namespaces()),
        cgroups: parts.cgroups.then(|| process.parse_with(buffer, "cgroup", Cgroups::parse)),
        threads: if parts.threads { threads(&process)? } else { Vec::new() },
    })
}

/// A thread that ends meanwhile is left out.
fn threads(process: &Process) -> Result<Vec<(u32, OsString)>, Error> {
    let mut threads = Vec::new();
    for tid in process.threads()?.into_iter().filter(|tid| *tid != process.pid()) {
        match process.thread(tid).and_then(|t| t.comm()) {
            Ok(comm) => threads.push((tid, comm)),
            Err(e) if matches!(e.kind(), ErrorKind::Gone | ErrorKind::Absent) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(threads)
}
