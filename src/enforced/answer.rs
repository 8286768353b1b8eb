//! One question to the kernel, and its answer.

use palisade_creds::{Maps, Setgroups, ThreadCapabilities};
use palisade_ns::{Namespace, Ns, kind};
use palisade_procinfo as procinfo;
use palisade_procinfo::{NamespaceId, NamespaceKind, ProcRoot, Process, SeccompMode, Status};

use super::ask::{Row, Want, on, show_groups, show_limit, show_sets};
use super::read::Read;
use super::verify::Verifier;
use super::{Moment, mounts};
use crate::order::Session;
use crate::rlimit::Resource;
use crate::scheduling::Personality;

/// As asked, or what else.
pub(crate) type Answer = Result<Option<String>, Unread>;

/// Why there is no answer.
#[derive(Clone, Debug)]
pub(crate) enum Unread {
    /// The kernel tells it to nobody, or not to this reader, or has no such thing.
    Untold(String),
    /// It could have been told: a question that failed. Before the payload runs that is an error.
    Failed(String),
    /// The process has ended.
    Gone(String),
}

impl From<procinfo::Error> for Unread {
    fn from(error: procinfo::Error) -> Self {
        match error.kind() {
            procinfo::ErrorKind::Denied | procinfo::ErrorKind::Absent => Self::Untold(error.to_string()),
            procinfo::ErrorKind::Gone => Self::Gone(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl Unread {
    pub(super) fn call(what: &str, errno: Option<i32>) -> Self {
        let text = format!("{what}: {}", errno.map_or_else(|| "failed".into(), crate::sys::describe));
        match errno {
            Some(libc::EACCES | libc::EPERM) => Self::Untold(text),
            _ => Self::Failed(text),
        }
    }
}

impl From<palisade_ns::Error> for Unread {
    fn from(error: palisade_ns::Error) -> Self {
        Self::call(&error.to_string(), error.errno())
    }
}

impl From<palisade_cgroup::Error> for Unread {
    fn from(error: palisade_cgroup::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl Verifier {
    pub(super) fn ask(&self, row: &Row, read: &Read<'_>, moment: Moment) -> Answer {
        let untold = |why: &str| Err(Unread::Untold(why.into()));
        let differs = |same: bool, found: &dyn Fn() -> String| Ok((!same).then(found));
        match &row.want {
            Want::NewNamespace(kind) => namespace(read, self.own.namespaces.get(*kind), true),
            Want::SharedNamespace(kind) => namespace(read, self.own.namespaces.get(*kind), false),
            Want::EnteredNamespace(kind) => namespace(read, self.own.entered.get(*kind), false),
            Want::JoinedNamespace(kind, inode) => {
                let Some(link) = NamespaceKind::ALL.into_iter().find(|link| link.name() == kind.name())
                else {
                    return untold("this kernel does not show it");
                };
                let seen = read.of.process.namespace(link)?.inode;
                differs(seen == *inode, &|| seen.to_string())
            }
            Want::Clocks(wanted) => {
                let seen = read.of.process.timens_offsets()?;
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
                let seen = read.of.process.attr("current")?;
                let own = own_label();
                match (label.is_in(&seen), own) {
                    (true, _) => Ok(None),
                    (false, Some(own)) if own == seen => {
                        Ok(Some(format!("the host program's: {}", seen.to_string_lossy())))
                    }
                    // A policy may lead on, from the label to another one.
                    (false, _) => Err(Unread::Untold(format!("it is {} by now", seen.to_string_lossy()))),
                }
            }
            Want::Maps(maps) => same_maps(read.of.process, maps),
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
                    return Err(Unread::Failed("the host program's own groups could not be read".into()));
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
            Want::Mounts => Ok(mounts::difference(&self.asked.view, read.mounts()?, read.of.process)),
            Want::Masks => mounts::unmasked(&self.asked.view, read.mounts()?, read.of.process),
            Want::Lock => {
                let Some((_, own)) = self.own.namespaces.get(Namespace::User) else {
                    return untold("the host program's own is not shown to it");
                };
                let theirs = Ns::<kind::User>::of_process(read.of.process.pid())?;
                let above = theirs.parent()?;
                let locked = above.is_some_and(|above| above.id().ino != own.inode);
                differs(locked, &|| "its user namespace is right below the host program's".into())
            }
            Want::Limit(resource, soft, hard) => {
                let limits = read.limits()?;
                let Some(seen) = limits.get(kernel_name(*resource)) else {
                    return untold("this kernel does not show it");
                };
                let [seen_soft, seen_hard] =
                    [seen.soft, seen.hard].map(|value| value.unwrap_or(Resource::INFINITY));
                differs((seen_soft, seen_hard) == (*soft, *hard), &|| {
                    format!("{} {}", show_limit(seen_soft), show_limit(seen_hard))
                })
            }
            Want::Nice(wanted) => {
                let seen = read.stat()?.nice;
                differs(seen == *wanted, &|| seen.to_string())
            }
            Want::Affinity(wanted) => {
                let seen = &read.status()?.cpus_allowed;
                let within = seen.iter().cloned().flatten().all(|cpu| wanted.contains(&(cpu as usize)));
                differs(within && !seen.is_empty(), &|| format!("CPUs {seen:?}"))
            }
            Want::Scheduler(wanted) => {
                let seen = wanted.difference(read.of.process.pid());
                let seen = seen.map_err(|error| Unread::call("sched_getattr", error.raw_os_error()))?;
                // It was this process's if this process is still there.
                if read.of.process.exists() { Ok(seen) } else { Err(Unread::Gone("it has ended".into())) }
            }
            Want::Personality(wanted) => {
                let seen = read.of.process.personality()?;
                let seen_as = Personality::from_bits(seen);
                differs(seen_as == *wanted, &|| format!("{seen_as} ({seen:#x})"))
            }
            Want::OomScoreAdj(wanted) => {
                let seen = read.of.process.oom_score_adj()?;
                differs(seen == *wanted, &|| seen.to_string())
            }
            Want::Cgroup => {
                let procs = read.cgroup()?.procs()?;
                differs(procs.contains(&read.of.process.pid()), &|| format!("its cgroup holds {procs:?}"))
            }
            // Written and read back by the cgroup crate before the process was born in it.
            Want::CgroupFile if moment == Moment::BeforeExec => Ok(None),
            Want::CgroupFile => {
                let file = row.subject.to_string();
                let text = std::fs::read_to_string(read.cgroup()?.path().join(&file));
                let text =
                    text.map_err(|error| Unread::call(&format!("read {file}"), error.raw_os_error()))?;
                differs(text.trim_end() == &*row.asked, &|| text.trim_end().to_owned())
            }
            Want::Devices(rules) => {
                let seen = read.cgroup()?.device_programs()?;
                let same = matches!(&seen[..], [one] if one.program == rules.compile());
                differs(same, &|| format!("{} programs, and not that one alone", seen.len()))
            }
            Want::Network => read.network(&row.subject),
            Want::Init => init(read),
            Want::Terminal => {
                // The major numbers of the slaves of devpts.
                let seen = read.stat()?.tty;
                let one = seen.is_some_and(|tty| (136..=143).contains(&tty.major));
                differs(one, &|| {
                    seen.map_or("none".into(), |tty| format!("device {}:{}", tty.major, tty.minor))
                })
            }
            Want::Descriptors(_) if moment != Moment::BeforeExec => {
                untold("what it opened itself can't be told from what it was given")
            }
            Want::Descriptors(wanted) => descriptors(read.of.process, wanted),
            Want::Session(session) => {
                let status = read.status()?;
                let pid = read.of.process.pid();
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
                    return untold("this kernel does not show it");
                };
                differs(seen == *wanted, &|| format!("{seen:04o}"))
            }
            Want::Untold(why) => untold(why),
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

/// Its parent is the first process of its pid namespace, and it is not.
fn init(read: &Read<'_>) -> Answer {
    let status = read.status()?;
    let cloned = ProcRoot::host()?.process(read.of.cloned)?.status()?;
    let first = cloned.ns_pid.last() == Some(&1) && cloned.ns_pid.len() == status.ns_pid.len();
    let below = status.ppid == read.of.cloned && status.ns_pid.last() != Some(&1);
    Ok((!(first && below)).then(|| {
        format!(
            "process {:?}, child of {}; {} is {:?}",
            status.ns_pid, status.ppid, read.of.cloned, cloned.ns_pid
        )
    }))
}

/// Another namespace than `known`, or the same.
fn namespace(read: &Read<'_>, known: Option<(NamespaceKind, NamespaceId)>, other: bool) -> Answer {
    let Some((link, known)) = known else {
        return Err(Unread::Untold("what it is to be compared with is not shown to the host program".into()));
    };
    let seen = read.of.process.namespace(link)?;
    Ok(match (seen == known, other) {
        (true, true) => Some("the host program's".into()),
        (false, false) => Some(format!("another one: {}", seen.inode)),
        _ => None,
    })
}

/// That of the calling thread.
fn own_label() -> Option<std::ffi::OsString> {
    ProcRoot::host().ok()?.myself().ok()?.attr("current").ok()
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
    let (uid, gid) = (process.uid_map()?, process.gid_map()?);
    let setgroups = process.setgroups()?;
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
    let open = process.descriptor_numbers()?;
    if let Some(missing) = wanted.iter().find(|fd| !open.contains(fd)) {
        return Ok(Some(format!("{missing} is not open")));
    }
    for &fd in open.iter().filter(|fd| !wanted.contains(fd)) {
        if process.fdinfo(fd)?.flags & libc::O_CLOEXEC as u32 == 0 {
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
