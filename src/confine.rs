//! What confines a payload beside its view: groups, capability sets, Landlock, labels, kernel parameters, devices.

use std::ffi::CString;

use palisade_cgroup::DeviceRules;
use palisade_creds::{Capability, CapabilitySet, ThreadCapabilities, Uid};
use palisade_ns::Namespace;
use palisade_secfilter::landlock::{Landlock, Ruleset};
use palisade_secfilter::lsm::ExecLabel;
use palisade_sys::{FsConfig, OpenHow, Program, Slot, Step};

use crate::error::{Error, ErrorKind, Result};
use crate::prepare::Conflicts;
use crate::sandbox::{Calls, SandboxBuilder, Spec};

/// # More of who it is
impl SandboxBuilder {
    /// Exactly these supplementary groups, as numbers inside. By default there are none, where they can be dropped: an
    /// ordinary caller without id ranges keeps its own, and this is an error then.
    pub fn groups(mut self, groups: impl IntoIterator<Item = u32>) -> Self {
        self.spec.groups = Some(groups.into_iter().collect());
        self
    }

    /// The five sets of capabilities that the payload's exec starts from, one by one, in place of
    /// [`capabilities`](Self::capabilities). What they are after it goes by the kernel's rules: user 0 gets what is in
    /// the bounding set, others keep what is ambient.
    pub fn capability_sets(mut self, sets: ThreadCapabilities) -> Self {
        self.spec.capability_sets = Some(sets);
        self
    }

    /// The owners that the root file system has on disk are ids *inside*: an image's root is the payload's root, and
    /// what the payload makes is stored under its ids inside. By an id-mapped mount: for callers with privileges, on file
    /// systems that take one (Linux 5.12; tmpfs 6.3; layers of an overlay 5.19).
    pub fn id_mapped_root(mut self, mapped: bool) -> Self {
        self.spec.id_mapped_root = mapped;
        self
    }
}

/// # More of what it may ask of the kernel
impl SandboxBuilder {
    /// Landlock rules, for paths of the new root as the payload's user reaches them. The program, its loader and its
    /// libraries must be in reach.
    ///
    /// What the running kernel cannot enforce is an error of [`build`](Self::build), unless the rules are
    /// [`best_effort`](Landlock::best_effort): then [`Sandbox::landlock`](crate::Sandbox::landlock) says what is enforced.
    pub fn landlock(mut self, rules: Landlock) -> Self {
        self.spec.landlock = Some(rules);
        self
    }

    /// A label of a security module for the payload: an AppArmor profile, an SELinux context. A module that is not
    /// active, or a profile that is not loaded, is an error of [`build`](Self::build) unless the label is optional.
    pub fn exec_label(mut self, label: ExecLabel) -> Self {
        self.spec.label = Some(label);
        self
    }

    /// Sets a kernel parameter, `net.ipv4.ip_forward` say, of a namespace that the sandbox has for itself. Others
    /// would be the host's, and are refused. The value is as the file in /proc/sys takes it.
    ///
    /// See [sysctl](https://docs.kernel.org/admin-guide/sysctl/index.html).
    pub fn sysctl(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let name = name.into();
        self.spec.sysctls.retain(|(known, _)| *known != name);
        self.spec.sysctls.push((name, value.into()));
        self
    }

    /// Which devices the payload may make and open, whatever nodes there are: a program of its cgroup, which
    /// [`cgroup`](Self::cgroup) asks for. Needs `CAP_BPF` and `CAP_NET_ADMIN`, or
    /// `CAP_SYS_ADMIN`, on the host.
    pub fn device_rules(mut self, rules: DeviceRules) -> Self {
        self.spec.device_rules = Some(rules);
        self
    }
}

/// The five sets that the payload's exec starts from.
pub(crate) fn capability_sets(spec: &Spec, uid: Uid) -> ThreadCapabilities {
    let set = spec.capabilities;
    let mut sets = spec.capability_sets.unwrap_or(ThreadCapabilities {
        bounding: set,
        permitted: set,
        effective: set,
        inheritable: CapabilitySet::EMPTY,
        // Under an id that is not 0, exec keeps only what is ambient.
        ambient: if uid == Uid::ROOT { CapabilitySet::EMPTY } else { set },
    });
    if spec.privilege_escalation && (spec.landlock.is_some() || !matches!(spec.calls, Calls::Unfiltered)) {
        // Without no_new_privs, filter and Landlock take CAP_SYS_ADMIN when they are put into force, last of all. The
        // exec that follows drops it: what it leaves comes from the bounding, inheritable and ambient sets alone.
        sets.permitted = sets.permitted.with(Capability::SysAdmin);
        sets.effective = sets.effective.with(Capability::SysAdmin);
    }
    sets
}

/// What is written through a /proc that nobody else has: kernel parameters now, a label later.
#[derive(Debug, Default)]
pub(crate) struct PrivateProc {
    pub(crate) program: Program,
    /// The label, and the descriptor of where it is to be written.
    pub(crate) label: Option<(ExecLabel, Slot)>,
}

/// A label, and the descriptor of where it is to be written.
pub(crate) type Label<'a> = Option<(&'a ExecLabel, Slot)>;

impl PrivateProc {
    /// Adds its part to a set-up.
    pub(crate) fn run(&self, p: &mut Program) -> Label<'_> {
        let part = p.append(&self.program);
        self.label.as_ref().map(|(label, file)| (label, part.slot(*file)))
    }
}

/// The parameters of namespaces: prefixes of names, and whose they are.
const NAMESPACED: &[(&str, Namespace)] = &[
    ("net/", Namespace::Net),
    ("fs/mqueue/", Namespace::Ipc),
    ("kernel/msg", Namespace::Ipc),
    ("kernel/sem", Namespace::Ipc),
    ("kernel/shm", Namespace::Ipc),
];

/// A parameter's name as a path below /proc/sys: `net.ipv4.conf.eth0/1.forwarding` is `net/ipv4/conf/eth0.1/forwarding`,
/// and what begins with a slash-separated word is a path already.
fn sysctl_path(name: &str) -> Option<String> {
    let path: String = match name.find(['.', '/']).map(|at| &name[at..=at]) {
        Some("/") => name.to_owned(),
        _ => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect(),
    };
    let fine = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
    path.split('/').all(fine).then_some(path)
}

/// The private /proc's part of a set-up, and of an entry into the living sandbox, whose parameters are set.
pub(crate) fn private_proc(spec: &Spec, conflicts: &mut Conflicts) -> [PrivateProc; 2] {
    let mut wanted = Vec::new();
    for (name, value) in &spec.sysctls {
        let path = sysctl_path(name);
        let kind =
            path.as_deref().and_then(|path| NAMESPACED.iter().find(|(prefix, _)| path.starts_with(prefix)));
        match (path, kind) {
            (Some(path), Some((_, kind))) if spec.namespaces.contains(*kind) => wanted.push((name, path, value)),
            (Some(_), Some((_, kind))) => conflicts.add(format!(
                "sysctl: {name} belongs to the {kind} namespace, which is shared with the host: it would change the host"
            )),
            _ => conflicts.add(format!(
                "sysctl: {name} is no parameter of a namespace (net.*, fs.mqueue.*, kernel.msg*, kernel.sem, \
                 kernel.shm*): it would change the host"
            )),
        }
    }
    let label =
        spec.label.as_ref().filter(|label| conflicts.check("exec_label", label.check()) == Some(true));
    [write_through_proc(wanted, label), write_through_proc(Vec::new(), label)]
}

/// `wanted`: parameters, as they are called, their paths and values.
fn write_through_proc(wanted: Vec<(&String, String, &String)>, label: Option<&ExecLabel>) -> PrivateProc {
    let mut done = PrivateProc::default();
    if wanted.is_empty() && label.is_none() {
        return done;
    }
    let p = &mut done.program;
    p.at(Step::Sysctls, "a /proc of its own");
    let context = p.fsopen(c"proc");
    p.fsconfig(context, FsConfig::Create);
    let proc = p.fsmount(context, libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC);
    p.close(context);
    for (name, path, value) in wanted {
        p.at(Step::Sysctls, name);
        let Ok(path) = CString::new(format!("sys/{path}")) else { continue }; // it has no NUL: see sysctl_path
        let resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_XDEV;
        let file = p.openat2(proc, &path, OpenHow { flags: libc::O_WRONLY, resolve, ..OpenHow::default() });
        p.write_all(file, value.as_bytes());
        p.close(file);
    }
    if let Some(label) = label {
        done.label = Some((label.clone(), label.open(p, proc)));
    }
    p.close(proc);
    done
}

/// The rules as the running kernel will enforce them.
pub(crate) fn landlock(spec: &Spec) -> Result<Option<Ruleset>> {
    spec.landlock.as_ref().map(Landlock::prepare).transpose().map_err(|error| {
        let errno = error.errno();
        Error::from_source(ErrorKind::Setup, Step::Landlock, error, errno)
    })
}

/// What cannot be without something else.
pub(crate) fn check(spec: &Spec, privileged: bool, conflicts: &mut Conflicts) {
    if spec.device_rules.is_some() && spec.cgroup.is_none() {
        conflicts.add("device_rules: they are a cgroup's: ask for one with cgroup(Limits::new())");
    }
    if spec.id_mapped_root && !(privileged && spec.namespaces.contains(Namespace::User)) {
        conflicts.add("id_mapped_root: it takes a caller with privileges over the host and a user namespace");
    }
}

#[cfg(test)]
mod tests {
    use super::sysctl_path;

    #[test]
    fn names_of_parameters_are_paths() {
        for (name, path) in [
            ("net.ipv4.ip_forward", Some("net/ipv4/ip_forward")),
            ("net.ipv4.conf.eth0/1.forwarding", Some("net/ipv4/conf/eth0.1/forwarding")),
            ("net/ipv4/conf/eth0.1/forwarding", Some("net/ipv4/conf/eth0.1/forwarding")),
            ("kernel.shmmax", Some("kernel/shmmax")),
            ("net....kernel.core_pattern", None),
            ("net.//.kernel.core_pattern", None),
            ("net/../kernel/core_pattern", None),
            ("", None),
            (".", None),
            ("net.a\0", None),
        ] {
            assert_eq!(sysctl_path(name).as_deref(), path, "{name:?}");
        }
    }
}
