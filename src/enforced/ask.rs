//! What was asked of the kernel for one payload: a row for each restriction, made when a spawn is planned.

use std::sync::Arc;
use std::time::Duration;

use palisade_cgroup::DeviceRules;
use palisade_creds::{Credentials, Maps, PreparedMaps, Setgroups, ThreadCapabilities};
use palisade_fsroot::{Placed, PreparedRoot};
use palisade_ns::{Namespace, TimeOffsets};
use palisade_secfilter::landlock::Ruleset;
use palisade_secfilter::lsm::ExecLabel;

use super::Subject;
use crate::network::Wiring;
use crate::order::{Payload, Session, Site};
use crate::prepare::Prepared;
use crate::rlimit::Resource;
use crate::sandbox::Lifetime;
use crate::scheduling::{Personality, Scheduler};

/// All that was asked.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(super) rows: Vec<Row>,
    pub(super) view: View,
    /// The clone makes or joins all namespaces but that of clocks, and their maps stay.
    born_in_place: bool,
}

/// From when on an answer stays what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The process was cloned and has its id maps.
    Born,
    /// Its view stands.
    View,
    /// It waits before its filter.
    End,
}

#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) subject: Subject,
    pub(super) asked: Arc<str>,
    pub(super) want: Want,
}

/// The answer that the kernel has to give.
#[derive(Clone, Debug)]
pub(super) enum Want {
    NewNamespace(Namespace),
    /// The one with this inode.
    JoinedNamespace(Namespace, u64),
    SharedNamespace(Namespace),
    /// That of the process whose sandbox was entered.
    EnteredNamespace(Namespace),
    Clocks(TimeOffsets),
    Label(ExecLabel),
    Maps(Maps),
    /// Real, effective and saved id as the host program sees them: of the user, of the group.
    Ids([u32; 3], [u32; 3]),
    /// As the host program sees them; `None`: the host program's own.
    Groups(Option<Vec<u32>>),
    Capabilities(ThreadCapabilities),
    NoNewPrivs(bool),
    /// That there is one more filter than the host program has, or not.
    Filter(bool),
    Mounts,
    Masks,
    /// Its user namespace is not right below the host program's.
    Lock,
    Limit(Resource, u64, u64),
    Nice(i32),
    Scheduler(Scheduler),
    Personality(Personality),
    /// No CPU but these.
    Affinity(Vec<usize>),
    OomScoreAdj(i32),
    Cgroup,
    CgroupFile,
    /// One program, compiled from these.
    Devices(DeviceRules),
    /// What the connection knows.
    Network,
    Init,
    Terminal,
    /// Those that the payload gets.
    Descriptors(Vec<u32>),
    Session(Session),
    Umask(u32),
    /// The kernel tells nobody, or only the process itself.
    Untold(&'static str),
    /// Best effort, and not there.
    Missing(String),
}

/// What the mount table has to say.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub(super) placed: Vec<Placed>,
    /// Hidden and read-only paths.
    pub(super) masked: Vec<std::path::PathBuf>,
    left_out: Vec<std::path::PathBuf>,
}

impl View {
    pub(crate) fn of(root: &PreparedRoot) -> Self {
        Self {
            placed: root.placed(),
            masked: root.hidden().chain(root.read_only()).map(Into::into).collect(),
            left_out: root.left_out().to_vec(),
        }
    }
}

impl Asked {
    /// What each row is about, and what was asked, in words.
    #[cfg(feature = "serde")]
    pub(crate) fn rows(&self) -> impl Iterator<Item = (&Subject, &str)> {
        self.rows.iter().map(|row| (&row.subject, &*row.asked))
    }

    pub(super) fn phase(&self, want: &Want) -> Phase {
        match want {
            Want::NewNamespace(Namespace::Time) | Want::SharedNamespace(Namespace::Time) => Phase::End,
            Want::NewNamespace(_) | Want::SharedNamespace(_) | Want::JoinedNamespace(..) | Want::Maps(_)
                if self.born_in_place =>
            {
                Phase::Born
            }
            Want::Mounts | Want::Masks => Phase::View,
            _ => Phase::End,
        }
    }

    pub(crate) fn new(sandbox: &Prepared, payload: &Payload, site: Site, timeout: Option<Duration>) -> Self {
        let mut rows = Vec::new();
        let mut row = |subject, asked: String, want| rows.push(Row { subject, asked: asked.into(), want });

        for kind in Namespace::ALL {
            let joined = sandbox.joined().find(|joined| joined.kind() == kind).map(|joined| joined.id().ino);
            let (asked, want) = match joined {
                _ if site == Site::Living => ("the living sandbox's".into(), Want::EnteredNamespace(kind)),
                Some(inode) => (format!("{inode}, of others"), Want::JoinedNamespace(kind, inode)),
                None if sandbox.namespaces.contains(kind) => ("a new one".into(), Want::NewNamespace(kind)),
                None => ("the host program's".into(), Want::SharedNamespace(kind)),
            };
            row(Subject::Namespace(kind), asked, want);
        }
        // What is a namespace's is not made anew for a further program in it.
        let new = site != Site::Living;
        if let Some(offsets) = sandbox.time.filter(|_| new) {
            let asked =
                format!("monotonic {} boottime {}", offsets.monotonic_offset(), offsets.boottime_offset());
            row(Subject::Clocks, asked, Want::Clocks(offsets));
        }
        let maps = sandbox.maps.as_ref().map(PreparedMaps::maps);
        if let Some(maps) = maps.filter(|_| new) {
            row(Subject::IdMaps, show_maps(maps), Want::Maps(maps.clone()));
        }
        let inside = sandbox.credentials.after();
        let outside = maps.map_or_else(|| Ok(inside.clone()), |maps| inside.outside(maps));
        let ids = format!("{}:{}", sandbox.identity.uid, sandbox.identity.gid);
        match &outside {
            Ok(outside) => {
                let (uid, gid) = ids_of(outside);
                row(Subject::User, format!("{ids} (to the host {}:{})", uid[1], gid[1]), Want::Ids(uid, gid));
            }
            Err(_) => row(Subject::User, ids, Want::Untold("an id that the user namespace does not map")),
        }
        let groups = outside.ok().and_then(|outside| outside.groups);
        let groups: Option<Vec<u32>> =
            groups.map(|groups| groups.into_iter().map(palisade_creds::Gid::as_raw).collect());
        row(Subject::Groups, show_groups(groups.as_deref()), Want::Groups(groups));
        row(Subject::Capabilities, show_sets(&inside.capabilities), Want::Capabilities(inside.capabilities));
        row(Subject::NoNewPrivs, on(inside.no_new_privs).into(), Want::NoNewPrivs(inside.no_new_privs));
        let filter = sandbox.filter.as_ref().and_then(|filter| filter.object(filter.len().checked_sub(1)?));
        let filter = filter.map(str::to_owned);
        row(
            Subject::Seccomp,
            filter.clone().unwrap_or_else(|| "no filter".into()),
            Want::Filter(filter.is_some()),
        );

        if let Some(rules) = sandbox.landlock.as_ref().map(Ruleset::enforced) {
            let untold = "the kernel tells a process's Landlock rules to nobody";
            if rules.abi > 0 {
                row(Subject::Landlock, format!("rules, by ABI {}", rules.abi), Want::Untold(untold));
            }
            for missing in &rules.missing {
                let why = format!("the kernel's Landlock ABI is {}", rules.abi);
                row(Subject::Landlock, format!("rules on {missing}"), Want::Missing(why));
            }
        }
        if let Some((label, _)) = &sandbox.private_proc.label {
            row(Subject::Label, label.to_string(), Want::Label(label.clone()));
        }
        if let Some(label) = &sandbox.label_missing {
            row(
                Subject::Label,
                label.clone(),
                Want::Missing("its module is not active, or it is not loaded".into()),
            );
        }
        let empty = "one of the library's own, without keys of the host program; its payloads share it";
        row(
            Subject::Keyring,
            empty.into(),
            Want::Untold("the kernel tells a process's keyrings to itself alone"),
        );
        if let Some(name) = sandbox.hostname.as_ref().filter(|_| new) {
            let name = name.object(0).unwrap_or_default();
            row(
                Subject::HostName,
                name.into(),
                Want::Untold("the kernel tells it only inside of the namespace"),
            );
        }
        for (subject, asked) in sandbox.wiring.iter().filter(|_| new).flat_map(Wiring::asked) {
            row(subject, asked, Want::Network);
        }
        for (name, value) in sandbox.sysctls.iter().filter(|_| new) {
            let untold = "the kernel tells it only inside of the namespace";
            row(Subject::Sysctl(name.clone()), value.clone(), Want::Untold(untold));
        }

        if new {
            view_rows(&sandbox.placed, &mut row);
        }
        if new && sandbox.lock.is_some() {
            row(
                Subject::MountLock,
                "a second user namespace, below the one of the mounts".into(),
                Want::Lock,
            );
        }

        let limits: Vec<_> = sandbox.limits.iter().chain(&payload.limits).collect();
        for (n, &&(resource, soft, hard)) in limits.iter().enumerate() {
            if !limits[n + 1..].iter().any(|(later, ..)| *later == resource) {
                let asked = format!("{} {}", show_limit(soft), show_limit(hard));
                row(Subject::Limit(resource), asked, Want::Limit(resource, soft, hard));
            }
        }
        if let Some(nice) = payload.scheduling.nice {
            row(Subject::Nice, nice.to_string(), Want::Nice(nice));
        }
        if let Some(scheduler) = payload.scheduling.scheduler {
            row(Subject::Scheduler, scheduler.to_string(), Want::Scheduler(scheduler));
        }
        if let Some(personality) = payload.scheduling.personality {
            row(Subject::Personality, personality.to_string(), Want::Personality(personality));
        }
        if let Some(cpus) = &payload.scheduling.affinity {
            let list = cpus.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            row(
                Subject::Affinity,
                format!("CPUs {list}, as far as they are there"),
                Want::Affinity(cpus.clone()),
            );
        }
        if let Some(adjustment) = payload.oom_score_adj {
            row(Subject::OomScoreAdj, adjustment.to_string(), Want::OomScoreAdj(adjustment));
        }
        if let Some((limits, _)) = &sandbox.cgroup {
            row(Subject::Cgroup, "a leaf of its own, which it was born in".into(), Want::Cgroup);
            for (file, value) in limits.iter().filter(|_| new) {
                row(Subject::CgroupFile(file.into()), value.into(), Want::CgroupFile);
            }
        }

        if let Some(rules) = sandbox.device_rules.as_ref().filter(|_| new) {
            row(Subject::Devices, "a program of its cgroup".into(), Want::Devices(rules.clone()));
        }

        let mut descriptors: Vec<u32> = vec![0, 1, 2];
        descriptors.extend(payload.descriptors.iter().filter_map(|&fd| u32::try_from(fd).ok()));
        let list = descriptors.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        row(Subject::Descriptors, list, Want::Descriptors(descriptors));
        let session = match payload.session {
            Session::New => "a new session",
            Session::NewGroup => "a new process group",
            Session::Inherit => "the host program's session and group",
        };
        row(Subject::Session, session.into(), Want::Session(payload.session));
        if payload.terminal.is_some() {
            row(Subject::Terminal, "one of its own".into(), Want::Terminal);
        }
        if sandbox.init && new {
            row(Subject::Init, "a process of the library, its parent".into(), Want::Init);
        }
        if let Some(mask) = payload.umask {
            row(Subject::Umask, format!("{mask:04o}"), Want::Umask(mask));
        }
        let means = match (sandbox.lifetime, sandbox.cgroup.is_some(), sandbox.guard) {
            (Lifetime::Detached, ..) => "may outlive the host program",
            (_, true, _) => "parent-death signal, and a guard of its cgroup",
            (_, _, true) => "parent-death signal, and a guard",
            _ => "parent-death signal, which its filter does not let it clear",
        };
        let untold = "the kernel tells a process's parent-death signal to nobody else";
        row(Subject::Lifetime, means.into(), Want::Untold(untold));
        if let Some(limit) = timeout {
            let untold = "the host program keeps the time, while it waits for the payload";
            row(Subject::Timeout, format!("{limit:?}"), Want::Untold(untold));
        }
        let born_in_place = site == Site::New && sandbox.lock.is_none();
        Self { rows, view: sandbox.placed.clone(), born_in_place }
    }
}

fn view_rows(view: &View, row: &mut impl FnMut(Subject, String, Want)) {
    if view.placed.is_empty() {
        let untold = "nothing of it is restricted";
        return row(Subject::Mounts, "the host program's root".into(), Want::Untold(untold));
    }
    row(Subject::Mounts, format!("{} and what they bring along", view.placed.len()), Want::Mounts);
    for source in &view.left_out {
        let why = "it does not exist".to_owned();
        row(Subject::OptionalMount, source.display().to_string(), Want::Missing(why));
    }
    if !view.masked.is_empty() {
        let asked = format!("{} hidden or read-only paths, where they exist", view.masked.len());
        row(Subject::Masks, asked, Want::Masks);
    }
}

fn ids_of(credentials: &Credentials) -> ([u32; 3], [u32; 3]) {
    let (uid, gid) = (&credentials.uid, &credentials.gid);
    (
        [uid.real, uid.effective, uid.saved].map(palisade_creds::Uid::as_raw),
        [gid.real, gid.effective, gid.saved].map(palisade_creds::Gid::as_raw),
    )
}

pub(super) fn on(flag: bool) -> &'static str {
    if flag { "on" } else { "off" }
}

fn show_maps(maps: &Maps) -> String {
    let ranges = |map: &palisade_creds::IdMap| {
        map.ranges().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    let setgroups = match maps.setgroups() {
        Setgroups::Allow => "allow",
        Setgroups::Deny => "deny",
    };
    format!("uid {}; gid {}; setgroups {setgroups}", ranges(maps.uid()), ranges(maps.gid()))
}

/// `None`: kept, and not known yet.
pub(super) fn show_groups(groups: Option<&[u32]>) -> String {
    match groups {
        None => "kept: they can't be dropped without privilege".into(),
        Some([]) => "none".into(),
        Some(groups) => groups.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
    }
}

pub(super) fn show_sets(sets: &ThreadCapabilities) -> String {
    let ThreadCapabilities { effective, permitted, inheritable, bounding, ambient } = sets;
    if [effective, permitted, inheritable, bounding, ambient].iter().all(|set| set.is_empty()) {
        return "none, nor ever to be had".into();
    }
    format!("eff {effective:x} prm {permitted:x} inh {inheritable:x} bnd {bounding:x} amb {ambient:x}")
}

pub(super) fn show_limit(value: u64) -> String {
    if value == Resource::INFINITY { "unlimited".into() } else { value.to_string() }
}
