//! Reading the kernel back: each row of what was asked, compared with what it says about the process.

use std::cell::OnceCell;
use std::sync::Arc;

use palisade_cgroup::Cgroup;
use palisade_creds::{Maps, Setgroups, ThreadCapabilities};
use palisade_ns::{Namespace, Ns, kind};
use palisade_procinfo as procinfo;
use palisade_procinfo::{NamespaceId, NamespaceKind, ProcRoot, Process, SeccompMode, Status};
use palisade_sys::Step;

use super::ask::{Asked, Row, Want, on, show_groups, show_limit, show_sets};
use super::{Enforced, Moment, Restriction, State, mounts};
use crate::enter::Target;
use crate::error::{Error, ErrorKind, Result};
use crate::order::Session;
use crate::rlimit::Resource;

/// The checks of one payload, from its set-up to its end.
#[derive(Debug)]
pub(crate) struct Verifier {
    asked: Arc<Asked>,
    /// What the spawning thread itself was: what is shared is compared with it, and what is new must not be it.
    own: Own,
    /// Filters of the process before its own.
    filters: Option<u32>,
    pub(crate) report: Enforced,
}

#[derive(Debug, Default)]
struct Own {
    namespaces: OwnNamespaces,
    /// Those of the process whose sandbox was entered.
    entered: OwnNamespaces,
    groups: Option<Vec<u32>>,
}

/// Those of a spawner thread, which never changes them: read once.
#[derive(Clone, Debug, Default)]
pub(crate) struct OwnNamespaces(Arc<[(NamespaceKind, NamespaceId)]>);

/// The answer to one question: as asked, or what else; an error is no answer.
type Answer = Result<Option<String>, String>;

impl Verifier {
    /// Nothing is read, for `why`.
    pub(crate) fn unread(asked: &Arc<Asked>, why: &str) -> Self {
        let mut this = Self {
            asked: Arc::clone(asked),
            own: Own { groups: own_groups(), ..Own::default() },
            filters: None,
            report: Enforced { restrictions: Vec::new() },
        };
        let row = |row: &Row| {
            let state = match &row.want {
                Want::Missing(why) => State::Missing(why.clone()),
                Want::Untold(why) => State::Applied((*why).into()),
                _ => State::Applied(why.into()),
            };
            this.restriction(row, state)
        };
        this.report = Enforced { restrictions: asked.rows.iter().map(row).collect() };
        this
    }

    /// Reads everything that can be read while the process waits before its filter. Called on the thread that spawned
    /// it.
    ///
    /// # Errors
    /// The first answer that is not as asked.
    pub(crate) fn before_exec(
        asked: &Arc<Asked>,
        process: &Process,
        cgroup: Option<&Cgroup>,
        own: &OwnNamespaces,
        entered: Option<&Target>,
    ) -> Result<Self> {
        let mut this = Self {
            asked: Arc::clone(asked),
            own: Own {
                namespaces: own.clone(),
                groups: own_groups(),
                entered: entered.map(OwnNamespaces::entered).unwrap_or_default(),
            },
            filters: None,
            report: Enforced { restrictions: Vec::new() },
        };
        let read = Read::new(process, cgroup);
        this.filters = read.status().ok().and_then(|status| status.seccomp_filters);
        this.report = this.read(&read, Moment::BeforeExec);
        this.report.refuse()?;
        Ok(this)
    }

    /// Reads what is there only after the exec: the filter, and a label.
    ///
    /// # Errors
    /// It is not there.
    pub(crate) fn after_exec(&mut self, process: &Process) -> Result<()> {
        let read = Read::new(process, None);
        let asked = Arc::clone(&self.asked);
        let at_exec = |row: &Row| matches!(row.want, Want::Filter(_) | Want::Label(_));
        for (n, row) in asked.rows.iter().enumerate().filter(|(_, row)| at_exec(row)) {
            self.report.restrictions[n].state =
                state(self.ask(row, &read, Moment::AfterExec), Moment::AfterExec);
        }
        self.report.refuse()
    }

    /// Reads everything again.
    pub(crate) fn later(&self, process: &Process, cgroup: Option<&Cgroup>) -> Enforced {
        self.read(&Read::new(process, cgroup), Moment::Later)
    }

    fn read(&self, read: &Read<'_>, moment: Moment) -> Enforced {
        let restrictions = self.asked.rows.iter().map(|row| {
            let state = match &row.want {
                Want::Missing(why) => State::Missing(why.clone()),
                Want::Filter(_) | Want::Label(_) if moment == Moment::BeforeExec => {
                    State::Applied("it is read after the exec".into())
                }
                _ => state(self.ask(row, read, moment), moment),
            };
            self.restriction(row, state)
        });
        Enforced { restrictions: restrictions.collect() }
    }

    fn restriction(&self, row: &Row, state: State) -> Restriction {
        let asked = match (&row.want, &self.own.groups) {
            (Want::Groups(None), Some(own)) => {
                format!("kept, since they can't be dropped without privilege: {}", show_groups(Some(own)))
                    .into()
            }
            _ => Arc::clone(&row.asked),
        };
        Restriction { subject: row.subject.clone(), asked, state }
    }

    fn ask(&self, row: &Row, read: &Read<'_>, moment: Moment) -> Answer {
        let differs = |same: bool, found: &dyn Fn() -> String| Ok((!same).then(found));
        match &row.want {
            Want::NewNamespace(kind) => namespace(read, self.own.namespaces.get(*kind), true),
            Want::SharedNamespace(kind) => namespace(read, self.own.namespaces.get(*kind), false),
            Want::EnteredNamespace(kind) => namespace(read, self.own.entered.get(*kind), false),
            Want::JoinedNamespace(kind, inode) => {
                let Some(link) = NamespaceKind::ALL.into_iter().find(|link| link.name() == kind.name())
                else {
                    return Err("this kernel does not show it".into());
                };
                let seen = read.process.namespace(link).map_err(|error| error.to_string())?.inode;
                differs(seen == *inode, &|| seen.to_string())
            }
            Want::Clocks(wanted) => {
                let seen = read.process.timens_offsets().map_err(|error| error.to_string())?;
                let nanos = |clock: procinfo::TimeOffset| {
                    i128::from(clock.seconds) * 1_000_000_000 + i128::from(clock.nanoseconds)
                };
                let wanted = [wanted.monotonic_offset(), wanted.boottime_offset()].map(|clock| {
                    let nanos = clock.magnitude().as_nanos() as i128;
                    if clock.is_back() { -nanos } else { nanos }
                });
                let seen = [nanos(seen.monotonic), nanos(seen.boottime)];
                differs(seen == wanted, &|| format!("monotonic {} ns boottime {} ns", seen[0], seen[1]))
            }
            Want::Label(label) => {
                let seen = read.process.attr("current").map_err(|error| error.to_string())?;
                let own = own_label();
                match (label.is_in(&seen), own) {
                    (true, _) => Ok(None),
                    (false, Some(own)) if own == seen => {
                        Ok(Some(format!("the host program's: {}", seen.to_string_lossy())))
                    }
                    // A policy may lead on, from the label to another one.
                    (false, _) => Err(format!("it is {} by now", seen.to_string_lossy())),
                }
            }
            Want::Maps(maps) => same_maps(read.process, maps),
            Want::Ids(uid, gid) => {
                let status = read.status()?;
                let ids = |ids: procinfo::Ids| [ids.real, ids.effective, ids.saved];
                let same = ids(status.uid) == *uid
                    && ids(status.gid) == *gid
                    && status.uid.fs == uid[1]
                    && status.gid.fs == gid[1];
                differs(same, &|| format!("to the host {:?}:{:?}", ids(status.uid), ids(status.gid)))
            }
            Want::Groups(groups) => {
                let Some(wanted) = groups.as_ref().or(self.own.groups.as_ref()) else {
                    return Err("the host program's own groups could not be read".into());
                };
                let seen = &read.status()?.groups;
                differs(seen == wanted, &|| show_groups(Some(seen)))
            }
            Want::Capabilities(wanted) => {
                let seen = sets_of(read.status()?);
                differs(seen == *wanted, &|| show_sets(&seen))
            }
            Want::NoNewPrivs(wanted) => {
                let seen = read.status()?.no_new_privs;
                differs(seen == *wanted, &|| on(seen).into())
            }
            Want::Filter(wanted) => self.filter(read.status()?, *wanted),
            Want::Mounts => Ok(mounts::difference(&self.asked.view, read.mounts()?, read.process)),
            Want::Masks => mounts::unmasked(&self.asked.view, read.mounts()?, read.process),
            Want::Lock => {
                let Some((_, own)) = self.own.namespaces.get(Namespace::User) else {
                    return Err("the host program's own could not be read".into());
                };
                let theirs =
                    Ns::<kind::User>::of_process(read.process.pid()).map_err(|error| error.to_string())?;
                let above = theirs.parent().map_err(|error| error.to_string())?;
                let locked = above.is_some_and(|above| above.id().ino != own.inode);
                differs(locked, &|| "its user namespace is right below the host program's".into())
            }
            Want::Limit(resource, soft, hard) => {
                let limits = read.limits()?;
                let Some(seen) = limits.get(kernel_name(*resource)) else {
                    return Err("this kernel does not show it".into());
                };
                let [seen_soft, seen_hard] =
                    [seen.soft, seen.hard].map(|value| value.unwrap_or(Resource::INFINITY));
                differs((seen_soft, seen_hard) == (*soft, *hard), &|| {
                    format!("{} {}", show_limit(seen_soft), show_limit(seen_hard))
                })
            }
            Want::Nice(wanted) => {
                let seen = read.process.stat().map_err(|error| error.to_string())?.nice;
                differs(seen == *wanted, &|| seen.to_string())
            }
            Want::Affinity(wanted) => {
                let seen = &read.status()?.cpus_allowed;
                let within = seen.iter().cloned().flatten().all(|cpu| wanted.contains(&(cpu as usize)));
                differs(within && !seen.is_empty(), &|| format!("CPUs {seen:?}"))
            }
            Want::OomScoreAdj(wanted) => {
                let seen = read.process.oom_score_adj().map_err(|error| error.to_string())?;
                differs(seen == *wanted, &|| seen.to_string())
            }
            Want::Cgroup => {
                let procs = read.cgroup()?.procs().map_err(|error| error.to_string())?;
                differs(procs.contains(&read.process.pid()), &|| format!("its cgroup holds {procs:?}"))
            }
            // Written and read back by the cgroup crate before the process was born in it.
            Want::CgroupFile if moment == Moment::BeforeExec => Ok(None),
            Want::CgroupFile => {
                let file = row.subject.to_string();
                let text = std::fs::read_to_string(read.cgroup()?.path().join(file));
                let text = text.map_err(|error| error.to_string())?;
                differs(text.trim_end() == &*row.asked, &|| text.trim_end().to_owned())
            }
            Want::Descriptors(_) if moment != Moment::BeforeExec => {
                Err("what it opened itself can't be told from what it was given".into())
            }
            Want::Descriptors(wanted) => descriptors(read.process, wanted),
            Want::Session(session) => {
                let status = read.status()?;
                let pid = read.process.pid();
                let pid = Some(&pid);
                let (same, what) = match session {
                    Session::New => (status.ns_sid.first() == pid, &status.ns_sid),
                    Session::NewGroup => (status.ns_pgid.first() == pid, &status.ns_pgid),
                    Session::Inherit => (status.ns_sid.first() != pid, &status.ns_sid),
                };
                differs(same, &|| format!("that of process {what:?}"))
            }
            Want::Umask(wanted) => {
                let Some(seen) = read.status()?.umask else {
                    return Err("this kernel does not show it".into());
                };
                differs(seen == *wanted, &|| format!("{seen:04o}"))
            }
            Want::Untold(why) => Err((*why).into()),
            Want::Missing(why) => Ok(Some(why.clone())),
        }
    }

    /// A process never loses a filter, and may add some.
    fn filter(&self, status: &Status, wanted: bool) -> Answer {
        // 3: the kernel has killed it for what its filter refused.
        let on = matches!(status.seccomp, Some(SeccompMode::Filter | SeccompMode::Other(3)));
        // Linux 5.9 and later count them.
        let more = match (status.seccomp_filters, self.filters) {
            (Some(now), Some(before)) => now > before,
            _ => on,
        };
        let same = !wanted || (on && more);
        Ok((!same).then(|| "no filter beyond the host program's own".into()))
    }
}

/// Another namespace than `known`, or the same.
fn namespace(read: &Read<'_>, known: Option<(NamespaceKind, NamespaceId)>, other: bool) -> Answer {
    let Some((link, known)) = known else {
        return Err("what it is to be compared with could not be read".into());
    };
    let seen = read.process.namespace(link).map_err(|error| error.to_string())?;
    Ok(match (seen == known, other) {
        (true, true) => Some("the host program's".into()),
        (false, false) => Some(format!("another one: {}", seen.inode)),
        _ => None,
    })
}

impl Enforced {
    /// Fails closed: what differs is an error.
    fn refuse(&self) -> Result<()> {
        let Some(Restriction { subject, asked, state: State::Differs { found, .. } }) =
            self.first_difference()
        else {
            return Ok(());
        };
        let what = format!("asked was \"{asked}\", but the kernel says: {found}");
        Err(Error::new(ErrorKind::NotEnforced, Step::Verification, what)
            .with_object(subject.to_string())
            .with_hint(
                "a kernel, security module or filter that answers calls without doing them; nothing runs",
            ))
    }
}

/// What was read of a process, each file once.
struct Read<'a> {
    process: &'a Process,
    cgroup: Option<&'a Cgroup>,
    status: OnceCell<Result<Status, String>>,
    limits: OnceCell<Result<procinfo::Limits, String>>,
    mounts: OnceCell<Result<procinfo::Mounts, String>>,
}

impl<'a> Read<'a> {
    fn new(process: &'a Process, cgroup: Option<&'a Cgroup>) -> Self {
        Self { process, cgroup, status: OnceCell::new(), limits: OnceCell::new(), mounts: OnceCell::new() }
    }

    fn status(&self) -> Result<&Status, String> {
        once(&self.status, || self.process.status())
    }

    fn limits(&self) -> Result<&procinfo::Limits, String> {
        once(&self.limits, || self.process.limits())
    }

    fn mounts(&self) -> Result<&procinfo::Mounts, String> {
        once(&self.mounts, || self.process.mountinfo())
    }

    fn cgroup(&self) -> Result<&Cgroup, String> {
        self.cgroup.ok_or_else(|| "its cgroup is not at hand".into())
    }
}

fn once<T>(
    cell: &OnceCell<Result<T, String>>,
    read: impl FnOnce() -> Result<T, procinfo::Error>,
) -> Result<&T, String> {
    cell.get_or_init(|| read().map_err(|error| error.to_string())).as_ref().map_err(Clone::clone)
}

fn state(answer: Answer, moment: Moment) -> State {
    match answer {
        Ok(None) => State::Verified(moment),
        Ok(Some(found)) => State::Differs { found, moment },
        Err(why) => State::Applied(why),
    }
}

impl OwnNamespaces {
    /// Those of the calling thread; where it can't read them, none.
    pub(crate) fn read() -> Self {
        let tid = nix::unistd::gettid().as_raw() as u32;
        let thread = || ProcRoot::host()?.process(std::process::id())?.thread(tid);
        thread().as_ref().map(Self::of).unwrap_or_default()
    }

    fn entered(target: &Target) -> Self {
        let process = || ProcRoot::host()?.process_of_pidfd(&target.pidfd);
        process().as_ref().map(Self::of).unwrap_or_default()
    }

    fn of(process: &Process) -> Self {
        let links = NamespaceKind::ALL.into_iter().filter(|link| link.target() == *link);
        Self(links.filter_map(|link| Some((link, process.namespace(link).ok()?))).collect())
    }

    fn get(&self, kind: Namespace) -> Option<(NamespaceKind, NamespaceId)> {
        self.0.iter().find(|(link, _)| link.name() == kind.name()).copied()
    }
}

/// That of the calling thread.
fn own_label() -> Option<std::ffi::OsString> {
    ProcRoot::host().ok()?.myself().ok()?.attr("current").ok()
}

/// Those of the calling thread, ascending as the kernel keeps them.
fn own_groups() -> Option<Vec<u32>> {
    Some(nix::unistd::getgroups().ok()?.into_iter().map(nix::unistd::Gid::as_raw).collect())
}

fn sets_of(status: &Status) -> ThreadCapabilities {
    let set = palisade_creds::CapabilitySet::from_bits;
    let seen = &status.capabilities;
    ThreadCapabilities {
        effective: set(seen.effective),
        permitted: set(seen.permitted),
        inheritable: set(seen.inheritable),
        bounding: set(seen.bounding),
        ambient: set(seen.ambient),
    }
}

fn same_maps(process: &Process, wanted: &Maps) -> Answer {
    let failed = |error: procinfo::Error| error.to_string();
    let (uid, gid) = (process.uid_map().map_err(failed)?, process.gid_map().map_err(failed)?);
    let setgroups = process.setgroups().map_err(failed)?;
    // Of many ranges the kernel may keep another order.
    let sorted = |ranges: &mut dyn Iterator<Item = [u32; 3]>| {
        let mut ranges: Vec<_> = ranges.collect();
        ranges.sort_unstable();
        ranges
    };
    let as_wanted = |seen: &procinfo::IdMap, wanted: &palisade_creds::IdMap| {
        let wanted = wanted.ranges().iter().map(|range| [range.inside(), range.outside(), range.count()]);
        let seen = seen.ranges.iter().map(|range| [range.inside, range.outside, range.count]);
        sorted(&mut { wanted }) == sorted(&mut { seen })
    };
    let denied = setgroups == procinfo::Setgroups::Deny;
    let same = as_wanted(&uid, wanted.uid())
        && as_wanted(&gid, wanted.gid())
        && denied == (wanted.setgroups() == Setgroups::Deny);
    let show = |map: &procinfo::IdMap| {
        let range = |range: &procinfo::IdRange| format!("{} {} {}", range.inside, range.outside, range.count);
        map.ranges.iter().map(range).collect::<Vec<_>>().join(", ")
    };
    Ok((!same).then(|| {
        format!("uid {}; gid {}; setgroups {}", show(&uid), show(&gid), if denied { "deny" } else { "allow" })
    }))
}

/// All but the wanted ones must end with the exec.
fn descriptors(process: &Process, wanted: &[u32]) -> Answer {
    let failed = |error: procinfo::Error| error.to_string();
    let open = process.descriptor_numbers().map_err(failed)?;
    if let Some(missing) = wanted.iter().find(|fd| !open.contains(fd)) {
        return Ok(Some(format!("{missing} is not open")));
    }
    for &fd in open.iter().filter(|fd| !wanted.contains(fd)) {
        if process.fdinfo(fd).map_err(failed)?.flags & libc::O_CLOEXEC as u32 == 0 {
            return Ok(Some(format!("{fd} would stay open")));
        }
    }
    Ok(None)
}

fn kernel_name(resource: Resource) -> procinfo::Resource {
    match resource {
        Resource::Cpu => procinfo::Resource::Cpu,
        Resource::FileSize => procinfo::Resource::FileSize,
        Resource::Data => procinfo::Resource::Data,
        Resource::Stack => procinfo::Resource::Stack,
        Resource::Core => procinfo::Resource::Core,
        Resource::Processes => procinfo::Resource::Processes,
        Resource::OpenFiles => procinfo::Resource::OpenFiles,
        Resource::LockedMemory => procinfo::Resource::LockedMemory,
        Resource::AddressSpace => procinfo::Resource::AddressSpace,
        Resource::PendingSignals => procinfo::Resource::PendingSignals,
        Resource::MessageQueues => procinfo::Resource::MessageQueues,
        Resource::Nice => procinfo::Resource::Nice,
        Resource::RealtimePriority => procinfo::Resource::RealtimePriority,
        Resource::RealtimeTime => procinfo::Resource::RealtimeTimeout,
    }
}
