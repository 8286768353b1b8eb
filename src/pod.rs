//! Namespaces that several sandboxes share: a pod.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use palisade_creds::{Capability, Gid, Maps, PreparedMaps, Uid};
use palisade_fsroot::Dev;
use palisade_ns::{AnyNs, Namespace, Namespaces, NsId, Shared, loopback_up};
use palisade_sys::{FD_CONTROL, FD_PASSED, Fd, Program, Step};

use crate::caller::Caller;
use crate::child::Child;
use crate::enter::{Entry, inside};
use crate::error::{Error, ErrorKind, Result};
use crate::newborn::Helper;
use crate::order::Payload;
use crate::prepare::Prepared;
use crate::spawner::{self, Thread};

/// Namespaces that sandboxes share, and the user namespace that owns them, as the containers of a pod do.
///
/// One user namespace for all is the rule: joining another namespace takes capabilities in its owner, and what is shared
/// has owners, whose numbers must mean the same to each member. Members have their own view, processes (unless the pod
/// has a pid namespace), filter, limits and capabilities. With an ipc namespace they have its queues at `/dev/mqueue`, and
/// [`/dev/shm`](Self::shm) in common if the pod is given one.
///
/// ```no_run
/// use palisade::{Pod, Sandbox, ns::Namespace};
///
/// let pod = Pod::new(Namespace::Net | Namespace::Ipc)?;
/// let server = Sandbox::builder().pod(&pod).build()?.command("server").spawn()?;
/// let probe = Sandbox::builder().pod(&pod).build()?.command("probe").output()?; // the same loopback
/// # Ok::<(), palisade::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Pod {
    /// The user namespace first: it is joined first.
    pub(crate) namespaces: Vec<AnyNs>,
    pub(crate) maps: Maps,
    /// The directory that is `/dev/shm` of each member.
    pub(crate) shm: Option<PathBuf>,
}

impl Pod {
    /// New namespaces of these kinds (ipc, uts, net, cgroup), loopback up in a network, with the id maps that a sandbox
    /// of the caller's has by default. They live as long as the pod or a member does.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidSpec`] for other kinds; what the host does not allow.
    pub fn new(kinds: impl Into<Namespaces>) -> Result<Self> {
        let caller = Caller::current()?;
        let own = (caller.uid, caller.gid);
        let maps = if !caller.privileged || !caller.has_nobody {
            Maps::single(own, own)
        } else {
            let who = if caller.uid == Uid::ROOT { (Uid::NOBODY, Gid::NOBODY) } else { own };
            Maps::new(
                palisade_creds::IdMap::single(who.0, who.0),
                palisade_creds::IdMap::single(who.1, who.1),
            )
        };
        Self::with_maps(kinds, maps)
    }

    /// The same with other id maps, which all members have.
    ///
    /// # Errors
    /// As [`Pod::new`].
    pub fn with_maps(kinds: impl Into<Namespaces>, maps: Maps) -> Result<Self> {
        let kinds = kinds.into().without(Namespace::User);
        for kind in kinds.iter() {
            match kind {
                Namespace::Ipc | Namespace::Uts | Namespace::Net | Namespace::Cgroup => {}
                Namespace::Pid => {
                    return Err(Error::invalid(
                        "pod: a pid namespace lives by its first process: share a sandbox's by Pod::of",
                    ));
                }
                kind => {
                    return Err(Error::invalid(format!("pod: a {kind} namespace can't be shared in one")));
                }
            }
        }
        let prepared = maps.prepare().map_err(|error| {
            let errno = error.errno();
            Error::from_source(ErrorKind::Setup, Step::IdMaps, error, errno)
        })?;
        let made = spawner::start(Thread::Any, move |bench| make(kinds, &prepared, bench))?;
        let shared = made.recv().unwrap_or_else(|_| Err(spawner::panicked()))?;
        Ok(Self::from_shared(&shared, maps))
    }

    pub(crate) fn shares(&self, kind: Namespace) -> bool {
        self.namespaces.iter().any(|namespace| namespace.kind() == kind)
    }

    /// Those of these kinds of a running sandbox, whose user namespace they belong to. With its pid namespace, members
    /// see its processes, and end when its first one does. With its ipc namespace they have its `/dev/shm`, if that is
    /// [a directory](crate::Ipc::Shareable).
    ///
    /// # Errors
    /// [`ErrorKind::InvalidSpec`] if it has no user namespace of its own, or shares one of these kinds with the host; or if
    /// its payload has gone on to a user namespace that it made itself, in which numbers are what the payload says.
    pub fn of(child: &Child, kinds: impl Into<Namespaces>) -> Result<Self> {
        let kinds = kinds.into().without(Namespace::User);
        if kinds.contains(Namespace::Mount) || kinds.contains(Namespace::Time) {
            return Err(Error::invalid("pod: each member has its own view and clocks"));
        }
        let Some(maps) = child.maps() else {
            return Err(Error::invalid("pod: the sandbox has no user namespace of its own, and no id maps"));
        };
        let shared = Shared::of_process(child.pidfd(), kinds.with(Namespace::User)).map_err(of_ns)?;
        Descent::of(child)?.check(&AnyNs::from(shared.user()))?;
        let pod = Self::from_shared(&shared, maps);
        Ok(match child.shm().filter(|_| pod.shares(Namespace::Ipc)) {
            Some(directory) => pod.shm(directory),
            None => pod,
        })
    }

    /// Those of several sandboxes, all of one user namespace with these maps.
    pub(crate) fn of_namespaces(namespaces: Vec<AnyNs>, maps: Maps) -> Result<Self> {
        Ok(Self::from_shared(&Shared::new(namespaces).map_err(of_ns)?, maps))
    }

    fn from_shared(shared: &Shared, maps: Maps) -> Self {
        let mut namespaces = vec![AnyNs::from(shared.user())];
        namespaces.extend(shared.namespaces().iter().cloned());
        Self { namespaces, maps, shm: None }
    }

    /// Members share POSIX shared memory too, whose objects are files: this directory of the host (in memory, best) is
    /// `/dev/shm` of each. Without it each member has its own. A pod with an ipc namespace only.
    pub fn shm(mut self, directory: impl AsRef<Path>) -> Self {
        self.shm = Some(directory.as_ref().to_owned());
        self
    }

    /// A member's `/dev`, where the pod has an ipc namespace: with its queues, over which the members' set-up has power.
    pub(crate) fn dress(&self, dev: Dev) -> Dev {
        let dev = dev.mqueue();
        self.shm.iter().fold(dev, Dev::shm_from)
    }

    /// Its namespaces, the user namespace first.
    pub fn namespaces(&self) -> &[AnyNs] {
        &self.namespaces
    }

    pub(crate) fn kinds(&self) -> Namespaces {
        self.namespaces.iter().map(AnyNs::kind).collect()
    }

    /// The stage's part: joins, makes what is the member's own, and goes on in a sibling, as is done to enter a living
    /// sandbox.
    pub(crate) fn join(&self, p: &mut Program, sandbox: &Prepared, payload: &Payload) -> Entry {
        // They were passed after the detached mounts.
        let first = FD_PASSED + sandbox.view.trees.len() as i32;
        for (namespace, number) in self.namespaces.iter().zip(first..) {
            p.at(Step::Join, namespace.to_string());
            p.setns(Fd::number(number), namespace.kind().bit() as i32);
            p.close(Fd::number(number));
        }
        let own = sandbox.early().without(Namespace::User);
        p.at(Step::Join, own.to_string());
        p.unshare(own.bits() as i32);
        Entry { kinds: None, pid: inside(p, sandbox, payload) }
    }

    /// Numbers of the descriptors that are passed to the stage.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = i32> {
        self.namespaces.iter().map(|namespace| namespace.as_fd().as_raw_fd())
    }
}

/// Where a sandbox's user namespace was made. Its process may have gone on to one of its own making, with the very same
/// maps; that one is always further below.
#[derive(Clone, Debug)]
pub(crate) struct Descent {
    /// The host program's user namespace, or the pod's.
    above: NsId,
    /// How many levels below it the sandbox's is.
    below: usize,
}

impl Descent {
    pub(crate) fn of(child: &Child) -> Result<Self> {
        let sandbox = child.prepared();
        let pod = sandbox.pod.as_ref().and_then(|pod| pod.namespaces.first());
        let above = match pod {
            Some(user) => user.id(),
            None => AnyNs::current(Namespace::User).map_err(of_ns)?.id(),
        };
        let own = pod.is_none() && sandbox.maps.is_some();
        Ok(Self { above, below: usize::from(own) + usize::from(sandbox.lock.is_some()) })
    }

    /// # Errors
    /// [`ErrorKind::InvalidSpec`] for another user namespace than the sandbox's.
    pub(crate) fn check(&self, user: &AnyNs) -> Result<()> {
        let mut above = user.clone();
        for _ in 0..self.below {
            match above.owner().map_err(of_ns)? {
                Some(next) => above = next.into(),
                None => return Err(Self::strange(user)),
            }
        }
        if above.id() == self.above { Ok(()) } else { Err(Self::strange(user)) }
    }

    fn strange(user: &AnyNs) -> Error {
        Error::invalid(format!(
            "{user}: it is not the user namespace that the sandbox was given: its payload has made it, so nobody joins it"
        ))
    }
}

impl fmt::Display for Pod {
    /// Its namespaces, as the links of `/proc/PID/ns` read.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.namespaces.iter().map(ToString::to_string).collect();
        f.write_str(&names.join(" "))
    }
}

/// Namespaces that no process is in any more.
fn make(kinds: Namespaces, maps: &PreparedMaps, bench: &mut spawner::Bench) -> Result<Shared> {
    let mut p = Program::new();
    p.at(Step::IdMaps, "wait for the parent");
    let go = p.room(1);
    p.read_exact(Fd::number(FD_CONTROL), go);
    let mut capabilities = 0;
    if kinds.contains(Namespace::Net) {
        capabilities = 1 << Capability::NetAdmin as u64;
        p.append(&loopback_up());
    }
    p.at(Step::Network, "");
    p.write_all(Fd::number(FD_CONTROL), b"d");
    p.read_exact(Fd::number(FD_CONTROL), go);
    let flags = kinds.with(Namespace::User).bits();
    let mut helper = Helper::with_capabilities(&p, capabilities, flags, bench)?;
    helper.give_maps(maps)?;
    if let Err(error) = helper.talk() {
        return Err(match helper.outcome() {
            palisade_sys::Outcome::Failed(fault) => Error::explained(p.explain(fault)),
            _ => Error::call(Step::Network, "wait for a helper", &error),
        });
    }
    let kinds = kinds.with(Namespace::User);
    let namespaces =
        kinds.iter().map(|kind| AnyNs::of_process(helper.pid(), kind)).collect::<Result<Vec<_>, _>>();
    namespaces.and_then(Shared::new).map_err(of_ns)
}

fn of_ns(error: palisade_ns::Error) -> Error {
    let kind = match error.kind() {
        palisade_ns::ErrorKind::OwnerMismatch | palisade_ns::ErrorKind::Conflict => ErrorKind::InvalidSpec,
        palisade_ns::ErrorKind::Gone => ErrorKind::Gone,
        _ => ErrorKind::Setup,
    };
    let errno = error.errno();
    Error::from_source(kind, Step::Join, error, errno)
}
