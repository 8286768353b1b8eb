use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use crate::strings::printable;
use crate::{
    Cgroups, Descriptor, Error, FileIdentity, IdMap, Limits, Mounts, Namespaces, Process, Setgroups, Status,
};

/// What really confines a process: the kernel's own answers, gathered in one value, to be compared with what was asked.
///
/// Every part is a `Result`, so that a part that is denied or missing stays visible as such and is never taken for
/// "nothing there". The parts are read one after the other; they belong together if the process does not change
/// meanwhile (it waits before its exec, or is stopped).
///
/// Privilege: `namespaces`, `descriptors`, `root`, `cwd` and `exe` need ptrace read access: the same user ids and a
/// dumpable target, or `CAP_SYS_PTRACE` over its user namespace. The rest is open to every reader that sees the process.
///
/// ```
/// use palisade_procinfo::{NamespaceKind, ProcRoot};
///
/// let has = ProcRoot::host()?.process(std::process::id())?.confinement();
/// let status = has.status?;
/// println!("uid {}, {:?} filters", status.uid.effective, status.seccomp_filters);
/// println!("net {:?}", has.namespaces.get(NamespaceKind::Net));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Confinement {
    /// Its number in the pid namespace of the proc mount.
    pub pid: u32,
    /// Ids, groups, capabilities, no_new_privs, seccomp mode and number of filters, pids in nested namespaces, umask.
    pub status: Result<Status, Error>,
    /// Each kind by itself.
    pub namespaces: Namespaces,
    /// Of its user namespace.
    pub uid_map: Result<IdMap, Error>,
    /// Of its user namespace.
    pub gid_map: Result<IdMap, Error>,
    /// Of its user namespace.
    pub setgroups: Result<Setgroups, Error>,
    /// What it sees mounted.
    pub mounts: Result<Mounts, Error>,
    /// Its resource limits.
    pub limits: Result<Limits, Error>,
    /// Its open descriptors.
    pub descriptors: Result<Vec<Descriptor>, Error>,
    /// Its place in each cgroup hierarchy.
    pub cgroups: Result<Cgroups, Error>,
    /// Its root directory by device and inode.
    pub root: Result<FileIdentity, Error>,
    /// Its working directory, from its own root.
    pub cwd: Result<PathBuf, Error>,
    /// The program it runs, as the reader sees it.
    pub exe: Result<PathBuf, Error>,
    /// Its security label (AppArmor, SELinux, Smack).
    pub label: Result<OsString, Error>,
    /// `oom_score_adj`, -1000 to 1000.
    pub oom_score_adj: Result<i32, Error>,
}

impl Confinement {
    /// Reads all of it.
    pub fn of(process: &Process) -> Self {
        Self {
            pid: process.pid(),
            status: process.status(),
            namespaces: process.namespaces(),
            uid_map: process.uid_map(),
            gid_map: process.gid_map(),
            setgroups: process.setgroups(),
            mounts: process.mountinfo(),
            limits: process.limits(),
            descriptors: process.descriptors(),
            cgroups: process.cgroup(),
            root: process.root_identity(),
            cwd: process.cwd(),
            exe: process.exe(),
            label: process.attr("current"),
            oom_score_adj: process.oom_score_adj(),
        }
    }
}

/// What it may do and where it is, a line each; a part that could not be read says why.
impl fmt::Display for Confinement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.status {
            Err(e) => write!(f, "status: {e}")?,
            Ok(s) => {
                let seccomp = s.seccomp.map_or_else(|| "not in this kernel".to_owned(), |m| m.to_string());
                let filters = s.seccomp_filters.map_or_else(String::new, |n| format!(" ({n} filters)"));
                writeln!(f, "{} {}", self.pid, printable(&s.name))?;
                writeln!(f, "uid {} gid {} groups {:?}", s.uid.effective, s.gid.effective, s.groups)?;
                writeln!(f, "{}", s.capabilities)?;
                write!(f, "no_new_privs {}, seccomp {seccomp}{filters}", s.no_new_privs)?;
            }
        }
        for (kind, id) in self.namespaces.iter() {
            match id {
                Ok(id) => write!(f, "\n{kind}:[{}]", id.inode)?,
                Err(e) => write!(f, "\n{kind}: {e}")?,
            }
        }
        let counted = [
            ("mounts", self.mounts.as_ref().map(|m| m.mounts.len())),
            ("descriptors", self.descriptors.as_ref().map(Vec::len)),
        ];
        for (what, count) in counted {
            match count {
                Ok(n) => write!(f, "\n{n} {what}")?,
                Err(e) => write!(f, "\n{what}: {e}")?,
            }
        }
        Ok(())
    }
}
