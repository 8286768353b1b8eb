//! What `build` makes of a specification: everything that all spawns of a sandbox share.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use palisade_cgroup::{Cgroup, DeviceRules, Limits};
use palisade_creds::{
    Capability, CapabilitySet, Credentials, Gid, IdMap, Maps, PreparedIdentity, PreparedMaps, Setgroups, Uid,
};
use palisade_fsroot::{Mount, PreparedRoot};
use palisade_ns::{AnyNs, Hostname, Namespace, Namespaces, TimeOffsets, loopback_up};
use palisade_secfilter::landlock::Ruleset;
use palisade_secfilter::{Filter, Install, SeccompData, Syscall, presets};
use palisade_sys::{Program, Step};

use crate::caller::Caller;
use crate::confine::{self, PrivateProc};
use crate::enforced;
use crate::environment;
use crate::error::{Error, ErrorKind, Result};
use crate::lock::Lock;
use crate::namespaces::{Ipc, can_be_joined};
use crate::network::{Network, Wiring};
use crate::pod::Pod;
use crate::rlimit::Resource;
use crate::sandbox::{Calls, Lifetime, Spec, View};
use crate::view::{self, Split};

/// A specification that was validated, with all that can be resolved and compiled before a spawn.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) namespaces: Namespaces,
    /// Joined by the thread that clones.
    pub(crate) joins: Vec<AnyNs>,
    /// Joined by the stage.
    pub(crate) pod: Option<Pod>,
    pub(crate) time: Option<TimeOffsets>,
    pub(crate) view: Split,
    pub(crate) masks: Program,
    /// Locks the view against the payload's capabilities.
    pub(crate) lock: Option<Lock>,
    /// Owns the descriptors that the programs above know by number.
    pub(crate) root: Option<PreparedRoot>,
    pub(crate) hostname: Option<Program>,
    /// Brings the loopback up.
    pub(crate) network: Option<Program>,
    /// The directory that is /dev/shm, if others are to have it too.
    pub(crate) shm: Option<PathBuf>,
    /// What the host program does for it.
    pub(crate) wiring: Option<Wiring>,
    pub(crate) identity: Identity,
    pub(crate) maps: Option<PreparedMaps>,
    pub(crate) credentials: PreparedIdentity,
    /// What set-up needs, the payload's own included.
    pub(crate) setup_capabilities: CapabilitySet,
    pub(crate) private_proc: PrivateProc,
    /// The same for a program that enters later.
    pub(crate) entering_proc: PrivateProc,
    pub(crate) landlock: Option<Ruleset>,
    pub(crate) filter: Option<Program>,
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) limits: Vec<(Resource, u64, u64)>,
    pub(crate) cgroup: Option<(Limits, Option<Cgroup>)>,
    pub(crate) device_rules: Option<DeviceRules>,
    pub(crate) lifetime: Lifetime,
    /// The payload could do away with its parent-death signal, and no cgroup's guard would end it.
    pub(crate) guard: bool,
    /// Pid 1 is an init.
    pub(crate) init: bool,
    /// The view has a devpts of its own.
    pub(crate) terminals: bool,
    pub(crate) setup_timeout: Duration,
    pub(crate) sysctls: Vec<(String, String)>,
    /// An optional label that is not to be had here.
    pub(crate) label_missing: Option<String>,
    /// What the mount table has to say of the view.
    pub(crate) placed: enforced::View,
    /// Restrictions are read back.
    pub(crate) verify: bool,
}

impl Prepared {
    /// Whether the child waits until its parent has done its part: maps, a guard, a network.
    pub(crate) fn waits(&self) -> bool {
        self.maps.is_some() || self.guard || self.wiring.is_some()
    }
}

/// Who the payload is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) uid: Uid,
    pub(crate) gid: Gid,
    /// The ids are not the caller's own: they must be set.
    pub(crate) change: bool,
    /// Supplementary groups can be, and are, dropped.
    pub(crate) drop_groups: bool,
}

const DEFAULT_OPEN_FILES: u64 = 1024;
const DEFAULT_PROCESSES: u64 = 4096;

/// Collects what is wrong, so that all of it is reported at once.
#[derive(Default)]
pub(crate) struct Conflicts(Vec<String>);

impl Conflicts {
    pub(crate) fn add(&mut self, conflict: impl Into<String>) {
        self.0.push(conflict.into());
    }

    pub(crate) fn check<T, E: std::fmt::Display>(&mut self, what: &str, value: Result<T, E>) -> Option<T> {
        value.map_err(|error| self.add(format!("{what}: {error}"))).ok()
    }

    pub(crate) fn finish(self) -> Result<()> {
        match &*self.0 {
            [] => Ok(()),
            [one] => Err(Error::invalid(one.clone())),
            many => Err(Error::invalid(format!("{} conflicts:\n  - {}", many.len(), many.join("\n  - ")))),
        }
    }
}

impl Prepared {
    pub(crate) fn new(mut spec: Spec) -> Result<Self> {
        let mut conflicts = Conflicts::default();
        take_maps_of_pod(&mut spec, &mut conflicts);
        let caller = Caller::current()?;
        let new = |kind| spec.namespaces.contains(kind);

        let hostname = conflicts.check("hostname", Hostname::new(spec.hostname.as_encoded_bytes()));
        let user = spec.user.map(|(uid, gid)| (Uid::new(uid), Gid::new(gid)));
        let user = match user {
            Some((Some(uid), Some(gid))) => Some((uid, gid)),
            Some(_) => {
                conflicts.add(format!("user: {} is no id; the kernel reads it as \"none\"", u32::MAX));
                None
            }
            None => None,
        };
        let identity = choose_identity(&spec, &caller, user, &mut conflicts);
        check_namespaces(&spec, &caller, &mut conflicts);
        check_limits(&spec, &caller, &mut conflicts);
        environment::check(&spec, &mut conflicts);
        let network = spec.network.iter().flat_map(|network| network.conflicts(&spec));
        network.for_each(|wrong| conflicts.add(wrong));
        let filter = compile(&spec, &mut conflicts);
        confine::check(&spec, caller.privileged, &mut conflicts);
        let [private_proc, entering_proc] = confine::private_proc(&spec, &mut conflicts);
        let supported = conflicts.check("capabilities", CapabilitySet::supported());
        if let Some(supported) = supported {
            let asked = spec.capability_sets.map_or(spec.capabilities, |sets| sets.bounding | sets.permitted);
            conflicts.check("capabilities", asked.check_available(supported));
        }
        conflicts.finish()?;
        let (Some(hostname), Some((maps, identity))) = (hostname, identity) else {
            return Err(Error::invalid("a conflict without words"));
        };
        let credentials = credentials(&spec, &identity, maps.as_ref(), caller.privileged)?;

        let maps = maps.map(|maps| maps.prepare()).transpose().map_err(|error| {
            let errno = error.errno();
            Error::from_source(ErrorKind::Setup, Step::IdMaps, error, errno)
        })?;
        // A caller with privileges over the host may bind what its child, as somebody else, could not even look up.
        let by_parent = caller.privileged && new(Namespace::User) && identity.change;
        let (root, view) = view::prepare(&spec, maps.as_ref(), &identity, by_parent)?;

        let mut setup = credentials.needs() | spec.capabilities;
        if caller.privileged || new(Namespace::User) {
            setup = setup.with(Capability::SysAdmin).with(Capability::Setpcap);
        }
        if let Some(root) = &root {
            setup = setup | CapabilitySet::from_bits(root.capabilities_needed());
        }
        let loopback = spec.network.as_ref().map_or_else(|| new(Namespace::Net), Network::has_loopback);
        if loopback {
            setup = setup.with(Capability::NetAdmin);
        }
        if new(Namespace::Time) {
            setup = setup.with(Capability::SysTime);
        }
        if identity.change && maps.is_some() {
            // The first identity, before files are made.
            setup = setup.with(Capability::Setuid).with(Capability::Setgid);
        }

        let wiring = spec.network.as_ref().map(Network::wiring).transpose()?.flatten();
        // What its exec or a set-user-ID program could give it: no exec gives more, nor leaves what it had.
        let reach = credentials.after().capabilities.bounding;
        let lock = maps
            .as_ref()
            .filter(|_| reach.contains(Capability::SysAdmin))
            .map(|maps| Lock::new(&spec, root.as_ref(), maps.maps(), identity, wiring.is_some()));
        let shares_pids = spec.pod.as_ref().is_some_and(|pod| pod.shares(Namespace::Pid));
        if lock.is_some() && shares_pids {
            return Err(Error::invalid(
                "pod: a member that has or may gain CAP_SYS_ADMIN can't share its pid namespace: while its view is locked, \
                 other members could look into its set-up",
            ));
        }
        if lock.is_some() {
            setup = Lock::CAPABILITIES.into_iter().fold(setup, CapabilitySet::with);
        }

        let guard =
            spec.lifetime == Lifetime::Host && spec.cgroup.is_none() && may_outlive(&spec, filter.as_ref());
        let limits = with_default_limits(&spec, new(Namespace::User))?;
        Ok(Self {
            namespaces: spec.namespaces,
            time: new(Namespace::Time).then_some(spec.time),
            joins: spec.joins.clone(),
            pod: spec.pod.clone(),
            shm: match &spec.ipc {
                Ipc::Shareable(shm) | Ipc::Of(_, shm) => Some(shm.clone()),
                _ => None,
            },
            view,
            terminals: root.as_ref().is_some_and(PreparedRoot::has_terminals),
            init: spec.init,
            masks: root.as_ref().map(PreparedRoot::masks).unwrap_or_default(),
            lock,
            placed: root.as_ref().map(enforced::View::of).unwrap_or_default(),
            verify: spec.verify,
            root,
            hostname: new(Namespace::Uts).then(|| hostname.program()),
            network: loopback.then(loopback_up),
            wiring,
            identity,
            maps,
            credentials,
            setup_capabilities: setup,
            label_missing: match (&spec.label, &private_proc.label) {
                (Some(label), None) => Some(label.to_string()),
                _ => None,
            },
            sysctls: spec.sysctls.clone(),
            private_proc,
            entering_proc,
            landlock: confine::landlock(&spec)?,
            filter: filter.as_ref().map(|filter| Install::new(filter).keep_privileges().prepare()),
            env: environment::base(&spec),
            limits,
            cgroup: spec.cgroup,
            device_rules: spec.device_rules,
            lifetime: spec.lifetime,
            guard,
            setup_timeout: spec.setup_timeout,
        })
    }
}

impl Prepared {
    /// Namespaces of others.
    pub(crate) fn joined(&self) -> impl Iterator<Item = &AnyNs> {
        self.joins.iter().chain(self.pod.iter().flat_map(Pod::namespaces))
    }

    /// The kinds of namespaces that the clone makes. The others are made by the stage: a time namespace takes no member
    /// before its offsets are written, and what locks the view comes after that.
    pub(crate) fn early(&self) -> Namespaces {
        let late = self.lock.as_ref().map_or(Namespaces::EMPTY, |lock| lock.late);
        self.namespaces.difference(late).without(Namespace::Time)
    }
}

/// A member of a pod is in its user namespace: as the one user that it has, or root of several.
fn take_maps_of_pod(spec: &mut Spec, conflicts: &mut Conflicts) {
    let Some(pod) = &spec.pod else { return };
    let twice = spec.namespaces.intersection(pod.kinds()).without(Namespace::User);
    for kind in twice.iter() {
        conflicts.add(format!("pod: a new {kind} namespace, and the pod's: leave {kind} out of namespaces"));
    }
    for namespace in spec.joins.iter().filter(|joined| pod.kinds().contains(joined.kind())) {
        conflicts.add(format!("pod: {namespace} is joined, and the pod's of that kind"));
    }
    if !spec.namespaces.contains(Namespace::User) || spec.maps.is_some() {
        conflicts.add("pod: all members are in its user namespace and have its id maps: give neither");
    }
    if spec.namespaces.contains(Namespace::Time) {
        conflicts.add("pod: a member can't have clocks of its own");
    }
    spec.maps = Some(pod.maps.clone());
    let single = pod.maps.uid().as_single::<Uid>().zip(pod.maps.gid().as_single::<Gid>());
    if let (None, Some(((uid, _), (gid, _)))) = (spec.user, single) {
        spec.user = Some((uid.as_raw(), gid.as_raw()));
    }
}

/// The maps of the new user namespace, if there is one, and the identity inside.
fn choose_identity(
    spec: &Spec,
    caller: &Caller,
    user: Option<(Uid, Gid)>,
    conflicts: &mut Conflicts,
) -> Option<(Option<Maps>, Identity)> {
    if !spec.namespaces.contains(Namespace::User) {
        if spec.maps.is_some() {
            conflicts.add("id_maps: there is no new user namespace to give them to");
        }
        if !caller.privileged {
            let own = (caller.uid, caller.gid);
            if user.is_some_and(|user| user != own) {
                conflicts
                    .add("user: without privileges and without a user namespace, it is the caller's own");
            }
            return Some((None, Identity { uid: own.0, gid: own.1, change: false, drop_groups: false }));
        }
        let (uid, gid) = user.unwrap_or((Uid::NOBODY, Gid::NOBODY));
        if (uid == Uid::ROOT || gid == Gid::ROOT) && !spec.host_root {
            conflicts.add(
                "user: 0 without a user namespace is the host's root; give another id, or say so with \
                 dangerously_allow_host_root",
            );
        }
        return Some((None, Identity { uid, gid, change: true, drop_groups: true }));
    }
    let own = (caller.uid, caller.gid);
    let (maps, (uid, gid)) = match (&spec.maps, caller.privileged) {
        (Some(maps), _) => (maps.clone(), user.unwrap_or((Uid::ROOT, Gid::ROOT))),
        (None, privileged) if !privileged || !caller.has_nobody => {
            // Root of a user namespace that knows no other id is in the place of an ordinary user.
            let inside = user.unwrap_or(own);
            (Maps::single(inside, own), inside)
        }
        (None, _) => {
            let start = if caller.uid == Uid::ROOT { (Uid::NOBODY, Gid::NOBODY) } else { own };
            let inside = user.unwrap_or(start);
            let uid = if inside.0 == Uid::ROOT { Uid::NOBODY } else { inside.0 };
            let gid = if inside.1 == Gid::ROOT { Gid::NOBODY } else { inside.1 };
            (Maps::new(IdMap::single(inside.0, uid), IdMap::single(inside.1, gid)), inside)
        }
    };
    let (outside_uid, outside_gid) = (maps.uid().to_outside(uid), maps.gid().to_outside(gid));
    if outside_uid.is_none() || outside_gid.is_none() {
        conflicts
            .add(format!("user: {uid}:{gid} is not mapped by id_maps; kernel would refuse it with EINVAL"));
    }
    let holds_root = maps.uid().to_inside(Uid::ROOT).is_some() || maps.gid().to_inside(Gid::ROOT).is_some();
    if holds_root && caller.privileged && caller.has_nobody && !spec.host_root {
        conflicts.add(
            "id_maps: the host's id 0 is mapped, which makes root inside root of the host; map other ids, or say so \
             with dangerously_allow_host_root",
        );
    }
    let change = outside_uid != Some(caller.uid) || outside_gid != Some(caller.gid);
    // Denied for a single id of an ordinary caller: then the caller's groups stay.
    let drop_groups = maps.setgroups() == Setgroups::Allow;
    Some((Some(maps), Identity { uid, gid, change: change || drop_groups, drop_groups }))
}

/// The change from what the stage is, once it has its first identity, to what the payload is to be.
fn credentials(
    spec: &Spec,
    identity: &Identity,
    maps: Option<&Maps>,
    privileged: bool,
) -> Result<PreparedIdentity> {
    let (uid, gid) = (identity.uid, identity.gid);
    let failed = |error: palisade_creds::Error| {
        let errno = error.errno();
        Error::from_source(ErrorKind::InvalidSpec, Step::Prepare, error, errno)
    };
    let mut who = match (maps, privileged) {
        // The bounding set takes CAP_SETPCAP to change.
        (None, false) => palisade_creds::Identity::unprivileged(),
        _ => palisade_creds::Identity::new(),
    };
    who = who
        .capability_sets(confine::capability_sets(spec, uid))
        .allow_privilege_escalation(spec.privilege_escalation);
    if identity.change {
        who = who.ids(uid, gid);
        if !identity.drop_groups {
            who = who.keep_groups();
        }
    }
    if let Some(groups) = &spec.groups {
        let groups: Result<Vec<Gid>, _> = groups.iter().map(|&gid| Gid::try_from(gid)).collect();
        who = who.groups(groups.map_err(failed)?);
    }
    let before = match maps {
        Some(_) => Credentials::in_new_user_namespace(uid, gid),
        None => Credentials::current(),
    };
    who.prepare_from(&before.map_err(failed)?, maps).map_err(failed)
}

/// Whether a payload can get rid of its parent-death signal: by asking, or by a change of its credentials.
fn may_outlive(spec: &Spec, filter: Option<&Filter>) -> bool {
    let Ok(prctl) = "prctl".parse::<Syscall>() else { return true };
    let clear = SeccompData::new(prctl, [libc::PR_SET_PDEATHSIG as u64, 0, 0, 0, 0, 0]);
    // One call of one architecture is no proof for a filter that is not ours.
    let own = !matches!(spec.calls, Calls::Default);
    let asks = own || filter.is_none_or(|filter| filter.evaluate(&clear).lets_through());
    let capable = !spec.capabilities.is_empty() || spec.capability_sets.is_some();
    asks || spec.privilege_escalation || capable
}

fn check_namespaces(spec: &Spec, caller: &Caller, conflicts: &mut Conflicts) {
    let new = |kind| spec.namespaces.contains(kind);
    if matches!(spec.root, View::Shared) {
        let lists = [&spec.hidden, &spec.protected, &spec.devices];
        let any = !spec.mounts.is_empty()
            || spec.masks.is_some()
            || spec.propagation.is_some()
            || spec.id_mapped_root;
        if any || lists.iter().any(|list| !list.is_empty()) {
            conflicts.add(
                "dangerously_share_root: nothing can be mounted or masked in what the host program sees",
            );
        }
    } else if !new(Namespace::Mount) {
        conflicts.add("namespaces: the view is built in a new mount namespace, which can't be shared");
    }
    for namespace in &spec.joins {
        let kind = namespace.kind();
        if let Err(why) = can_be_joined(kind) {
            conflicts.add(format!("join: {namespace}: {why}"));
        } else if new(kind) {
            conflicts.add(format!(
                "join: {namespace}, and a new {kind} namespace: leave {kind} out of namespaces"
            ));
        } else if !caller.privileged {
            conflicts.add(format!("join: {namespace}: takes CAP_SYS_ADMIN outside of a new user namespace"));
        }
    }
    let joins = |kind| spec.joins.iter().any(|namespace| namespace.kind() == kind);
    match &spec.ipc {
        Ipc::Host if new(Namespace::Ipc) || joins(Namespace::Ipc) => {
            conflicts.add("ipc: the host's /dev/shm goes with the host's ipc namespace: share it");
        }
        Ipc::Of(..) if !joins(Namespace::Ipc) => {
            conflicts.add("ipc: a later setter has taken back the joined namespace");
        }
        _ => {}
    }
    if spec.init && !new(Namespace::Pid) {
        conflicts.add("init: it is pid 1 of a pid namespace of its own, which there is none of");
    }
    if !new(Namespace::User) && !caller.privileged && !spec.namespaces.is_empty() {
        conflicts.add("namespaces: without privileges everything else needs a new user namespace");
    }
    let ends = new(Namespace::Pid)
        || joins(Namespace::Pid)
        || spec.pod.as_ref().is_some_and(|pod| pod.kinds().contains(Namespace::Pid));
    if !ends && spec.cgroup.is_none() && spec.lifetime == Lifetime::Host {
        conflicts.add(
            "namespaces: with neither a pid namespace nor a cgroup, descendants of the payload can't be ended for \
             sure: take one of them, or Lifetime::Detached",
        );
    }
    if spec.privilege_escalation && new(Namespace::User) && spec.maps.is_none() {
        conflicts.add(
            "allow_privilege_escalation: a single mapped id has nobody to escalate to: give id_maps with a range",
        );
    }
    if spec.setup_timeout.is_zero() {
        conflicts.add("setup_timeout: zero leaves no time for anything");
    }
}

fn check_limits(spec: &Spec, caller: &Caller, conflicts: &mut Conflicts) {
    for &(resource, soft, hard) in &spec.limits {
        if soft > hard {
            conflicts.add(format!("rlimit: {resource}: soft {soft} is above hard {hard}"));
        }
        match resource.current() {
            Ok((_, now)) if hard > now && (!caller.may_raise_limits || spec.namespaces.contains(Namespace::User)) => conflicts.add(format!(
                "rlimit: {resource}: hard {hard} is above the host program's own {now}, which takes CAP_SYS_RESOURCE \
                 outside of any user namespace"
            )),
            _ => {}
        }
    }
}

/// Whether the payload may make files that are there for others of the host.
fn writes_to_host(spec: &Spec) -> bool {
    let root = match &spec.root {
        View::Shared => true,
        View::Own(root) => root.writes_to_host(),
        View::Host(_) => false,
    };
    let shm = matches!(spec.ipc, Ipc::Host | Ipc::Shareable(..) | Ipc::Of(..));
    root || shm || spec.mounts.iter().any(Mount::writes_to_host)
}

fn compile(spec: &Spec, conflicts: &mut Conflicts) -> Option<Filter> {
    let filter = match &spec.calls {
        Calls::Unfiltered => return None,
        // What is written to the host is there for others of it, who must not run it as its owner.
        Calls::Default if writes_to_host(spec) => {
            conflicts.check("seccomp", presets::payload_without_set_id().compile())?
        }
        Calls::Default => conflicts.check("seccomp", presets::payload().compile())?,
        Calls::Policy(policy) => conflicts.check("seccomp", policy.compile())?,
        Calls::Filter(filter) => filter.clone(),
    };
    conflicts.check("seccomp", filter.permits_exec())?;
    Some(filter)
}

/// The asked limits, and the default ones where none was asked. A default never exceeds what the host program has.
fn with_default_limits(spec: &Spec, user_namespace: bool) -> Result<Vec<(Resource, u64, u64)>> {
    let mut limits = spec.limits.clone();
    let mut defaults = vec![(Resource::Core, 0), (Resource::OpenFiles, DEFAULT_OPEN_FILES)];
    if user_namespace {
        // Counted per user and user namespace, so only what runs inside counts.
        defaults.push((Resource::Processes, DEFAULT_PROCESSES));
    }
    for (resource, most) in defaults {
        if limits.iter().any(|(known, ..)| *known == resource) {
            continue;
        }
        let (_, hard) = resource.current().map_err(|error| {
            Error::call(Step::Limits, "getrlimit", &error).with_object(resource.to_string())
        })?;
        let limit = most.min(hard);
        limits.push((resource, limit, limit));
    }
    Ok(limits)
}
