//! What a sandbox is: the specification, and what `build` makes of it.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use palisade_cgroup::{Cgroup, DeviceRules, Limits};
use palisade_creds::{CapabilitySet, Maps, ThreadCapabilities};
use palisade_fsroot::{Bind, Dev, HostView, Masks, Mount, Proc, Propagation, Root, Tmpfs};
use palisade_ns::{AnyNs, Namespace, Namespaces, TimeOffsets};
use palisade_secfilter::landlock::Landlock;
use palisade_secfilter::lsm::ExecLabel;
use palisade_secfilter::{Filter, Policy};

use crate::command::Command;
use crate::enter::{Origin, Target};
use crate::error::Result;
use crate::namespaces::Ipc;
use crate::network::Network;
use crate::pod::Pod;
use crate::prepare::Prepared;
use crate::rlimit::Resource;

/// A validated, immutable specification, from which any number of programs can be started, from any thread.
///
/// ```no_run
/// let sandbox = palisade::Sandbox::new()?;
/// let out = sandbox.command("/bin/echo").arg("hi").output()?;
/// assert!(out.status.success());
/// assert_eq!(out.stdout, b"hi\n");
/// # Ok::<(), palisade::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Sandbox {
    pub(crate) prepared: Arc<Prepared>,
}

impl Sandbox {
    /// The secure default: the host's programs read-only and nothing else of it, no network but loopback, no
    /// capability, no new privileges, an allow-list of system calls. Works for root and for ordinary users.
    ///
    /// See [`SandboxBuilder`] for each part and how to change it.
    ///
    /// # Errors
    /// What this host lacks for it, with a hint.
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }

    /// The secure default as a builder: every setter changes one part.
    pub fn builder() -> SandboxBuilder {
        SandboxBuilder::default()
    }

    /// What its Landlock rules enforce, if it has any: all that was asked, unless the rules are best effort.
    pub fn landlock(&self) -> Option<&palisade_secfilter::landlock::Enforced> {
        self.prepared.landlock.as_ref().map(palisade_secfilter::landlock::Ruleset::enforced)
    }

    /// A program to run inside. A name without `/` is looked up in the payload's `PATH`, inside the sandbox.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        Command::new(self.clone(), None, program.as_ref())
    }

    /// A further program in the living sandbox of a process that is not a [`Child`](crate::Child) of this program: one
    /// that another process or another tool started. (For a child there is [`Child::exec`](crate::Child::exec).)
    ///
    /// The program enters all namespaces of the process in which it differs from the host program, and its cgroup. View,
    /// host name and network are the ones that are there; user, capabilities, no_new_privs, filter, limits and
    /// environment are this sandbox's, which therefore must describe the process: the namespaces that it has of its own,
    /// and [`user`](SandboxBuilder::user) and [`id_maps`](SandboxBuilder::id_maps) in its user namespace. It must
    /// give nothing that the process has not: no capability beyond its bounding set, and no_new_privs where it has that.
    /// A `spawn` compares all of it, and is an [`InvalidSpec`](crate::ErrorKind::InvalidSpec) where it does not fit.
    ///
    /// The process needs the caller's ptrace access: the same user and no more capabilities, or power over its user
    /// namespace. A v1 cgroup is not entered. Since Linux 5.8.
    ///
    /// ```no_run
    /// use palisade::{Sandbox, ns::pidfd_open};
    ///
    /// let ps = Sandbox::new()?.exec_in(pidfd_open(4711)?, "/bin/ps").output()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "nsenter")]
    pub fn exec_in(&self, pidfd: OwnedFd, program: impl AsRef<OsStr>) -> Command {
        let target = Target { pidfd: Arc::new(pidfd), origin: Origin::Foreign };
        Command::new(self.clone(), Some(target), program.as_ref())
    }
}

/// How a payload's life depends on the host program's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Lifetime {
    /// It ends with the host program at the latest, and when its [`Child`](crate::Child) is dropped.
    #[default]
    Host,
    /// It goes on when the host program ends or drops the child: for engines, which keep their own account of it.
    Detached,
}

/// What stands at `/`.
#[derive(Clone, Debug)]
pub(crate) enum View {
    /// The view of the host, completed with the payload's user and host name by `build`.
    Host(HostView),
    Own(Root),
    /// What the host program sees.
    Shared,
}

/// What a seccomp filter is made of.
#[derive(Clone, Debug)]
pub(crate) enum Calls {
    Default,
    Policy(Policy),
    Filter(Filter),
    Unfiltered,
}

/// All that a builder was told.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) namespaces: Namespaces,
    pub(crate) time: TimeOffsets,
    /// Namespaces of others, which are joined.
    pub(crate) joins: Vec<AnyNs>,
    pub(crate) ipc: Ipc,
    pub(crate) pod: Option<Pod>,
    pub(crate) root: View,
    pub(crate) mounts: Vec<Mount>,
    /// `None`: a loopback in a new network namespace, the host's network otherwise.
    pub(crate) network: Option<Network>,
    /// Further devices of the host, in every `/dev`.
    pub(crate) devices: Vec<PathBuf>,
    /// In place of what the root brings.
    pub(crate) masks: Option<Masks>,
    pub(crate) hidden: Vec<PathBuf>,
    pub(crate) protected: Vec<PathBuf>,
    pub(crate) propagation: Option<Propagation>,
    pub(crate) hostname: OsString,
    pub(crate) user: Option<(u32, u32)>,
    /// `None`: none where they can be dropped.
    pub(crate) groups: Option<Vec<u32>>,
    pub(crate) maps: Option<Maps>,
    pub(crate) id_mapped_root: bool,
    pub(crate) host_root: bool,
    pub(crate) capabilities: CapabilitySet,
    /// In place of what `capabilities` makes of them.
    pub(crate) capability_sets: Option<ThreadCapabilities>,
    pub(crate) privilege_escalation: bool,
    pub(crate) calls: Calls,
    pub(crate) landlock: Option<Landlock>,
    pub(crate) label: Option<ExecLabel>,
    pub(crate) sysctls: Vec<(String, String)>,
    pub(crate) inherit_env: bool,
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) limits: Vec<(Resource, u64, u64)>,
    pub(crate) cgroup: Option<(Limits, Option<Cgroup>)>,
    pub(crate) device_rules: Option<DeviceRules>,
    pub(crate) lifetime: Lifetime,
    pub(crate) init: bool,
    pub(crate) setup_timeout: Duration,
    pub(crate) verify: bool,
}

/// Says what a payload may see, use and do. It starts as the secure default; each setter changes one part, and
/// [`build`](Self::build) reports every conflict at once.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct SandboxBuilder {
    pub(crate) spec: Spec,
}

impl Default for SandboxBuilder {
    fn default() -> Self {
        let spec = Spec {
            namespaces: Namespaces::ALL.without(Namespace::Time),
            time: TimeOffsets::ZERO,
            joins: Vec::new(),
            ipc: Ipc::Private,
            pod: None,
            root: View::Host(HostView::new()),
            mounts: Vec::new(),
            network: None,
            devices: Vec::new(),
            masks: None,
            hidden: Vec::new(),
            protected: Vec::new(),
            propagation: None,
            hostname: "sandbox".into(),
            user: None,
            groups: None,
            maps: None,
            id_mapped_root: false,
            host_root: false,
            capabilities: CapabilitySet::EMPTY,
            capability_sets: None,
            privilege_escalation: false,
            calls: Calls::Default,
            landlock: None,
            label: None,
            sysctls: Vec::new(),
            inherit_env: false,
            env: Vec::new(),
            limits: Vec::new(),
            cgroup: None,
            device_rules: None,
            lifetime: Lifetime::Host,
            init: false,
            setup_timeout: Duration::from_secs(30),
            verify: true,
        };
        Self { spec }
    }
}

/// # What it sees
impl SandboxBuilder {
    /// The root file system, in place of the view of the host.
    pub fn root(mut self, root: impl Into<Root>) -> Self {
        self.spec.root = View::Own(root.into());
        self
    }

    /// A directory of the host as the root, read-only: a busybox or Debian tree, say, with a `/proc`, a `/dev` and a
    /// `/tmp` mounted on the directories of these names, which it must have. Short for
    /// `root(Root::dir(path).mount(Proc::new("/proc")).mount(Dev::new("/dev")).tmpfs("/tmp").masks(Masks::docker()))`.
    pub fn rootfs(self, path: impl AsRef<Path>) -> Self {
        let root = Root::dir(path).mount(Proc::new("/proc")).mount(Dev::new("/dev")).tmpfs("/tmp");
        self.root(root.masks(Masks::docker()))
    }

    /// No view of its own: the payload sees what the host program sees and may do there whatever its user may, every
    /// file of an ordinary caller's included. For what needs limits, a filter or Landlock but no file system of its own,
    /// and where user namespaces are not to be had: together with `namespaces(Namespaces::EMPTY)` (and, since nothing
    /// then ends descendants for sure, a cgroup or [`Lifetime::Detached`]) it takes no privilege at all.
    ///
    /// With a new mount namespace, which is the default, the mount table is a private copy. `/proc` is the host's in any
    /// case.
    pub fn dangerously_share_root(mut self) -> Self {
        self.spec.root = View::Shared;
        self
    }

    /// Changes the view of the host: its home, its `/tmp`, whether it has a `/proc`.
    pub fn host_view(mut self, change: impl FnOnce(HostView) -> HostView) -> Self {
        let view = match self.spec.root {
            View::Host(view) => view,
            View::Own(_) | View::Shared => HostView::new(),
        };
        self.spec.root = View::Host(change(view));
        self
    }

    /// Adds to the view, after what the root brings. Items are made in call order.
    pub fn mount(mut self, item: impl Into<Mount>) -> Self {
        self.spec.mounts.push(item.into());
        self
    }

    /// Shows a file or directory of the host read-only, with all that is mounted below it.
    pub fn bind_ro(self, source: impl AsRef<Path>, target: impl AsRef<Path>) -> Self {
        self.mount(Bind::read_only(source, target))
    }

    /// Shows a file or directory of the host so that it can be changed, as far as the payload's user may.
    pub fn bind(self, source: impl AsRef<Path>, target: impl AsRef<Path>) -> Self {
        self.mount(Bind::new(source, target))
    }

    /// An empty directory in memory, with the default limits of [`palisade_fsroot::Tmpfs`].
    pub fn tmpfs(self, target: impl AsRef<Path>) -> Self {
        self.mount(Tmpfs::new(target))
    }

    /// Adds a character device of the host (`/dev/fuse`, `/dev/net/tun`) to each `/dev` of the view, with the host's
    /// permissions of the node.
    pub fn device(mut self, path: impl AsRef<Path>) -> Self {
        self.spec.devices.push(path.as_ref().to_owned());
        self
    }

    /// What is hidden or read-only of the kernel's file systems, in place of what the root brings: [`Masks::docker`]
    /// for the view of the host and for [`rootfs`](Self::rootfs), nothing for a [`Root`] that does not say so.
    ///
    /// A payload with `CAP_SYS_ADMIN` cannot take them off: it is in a user namespace below the one that owns them.
    pub fn masks(mut self, masks: Masks) -> Self {
        self.spec.masks = Some(masks);
        self
    }

    /// Hides a path of the view, too: a directory looks empty, a file reads as empty. One that does not exist is passed
    /// over.
    pub fn hide(mut self, path: impl AsRef<Path>) -> Self {
        self.spec.hidden.push(path.as_ref().to_owned());
        self
    }

    /// Makes a path of the view read-only, too, with everything mounted below it. One that does not exist is passed over.
    pub fn protect(mut self, path: impl AsRef<Path>) -> Self {
        self.spec.protected.push(path.as_ref().to_owned());
        self
    }

    /// How mounts below the finished root spread into mount namespaces that the payload makes; private unless given.
    pub fn propagation(mut self, propagation: Propagation) -> Self {
        self.spec.propagation = Some(propagation);
        self
    }

    /// The namespaces that are new; all but time by default. A kind that is left out is shared with the host
    /// program.
    pub fn namespaces(mut self, namespaces: impl Into<Namespaces>) -> Self {
        self.spec.namespaces = namespaces.into();
        self
    }

    /// Shares a namespace with the host program: `share(Namespace::Net)` gives the payload the host's network.
    pub fn share(mut self, kind: Namespace) -> Self {
        self.spec.namespaces = self.spec.namespaces.without(kind);
        self
    }

    /// The network: none, a loopback, the host's, another sandbox's, a place on a bridge, a user-mode one. Behind the
    /// feature `net`.
    #[cfg(feature = "net")]
    pub fn network(mut self, network: Network) -> Self {
        let namespaces = self.spec.namespaces.without(Namespace::Net);
        self.spec.namespaces = if network.is_new() { namespaces.with(Namespace::Net) } else { namespaces };
        self.spec.joins.retain(|known| known.kind() != Namespace::Net);
        self.spec.joins.extend(network.joined().cloned());
        self.spec.network = Some(network);
        self
    }

    /// Joins a namespace of somebody else (ipc, uts, net, pid or cgroup), in place of a new one of that kind.
    ///
    /// Needs `CAP_SYS_ADMIN` over that namespace. The payload has no power over it, whatever capabilities it has in a
    /// user namespace of its own: `/proc` of a pid namespace and `/sys` of a network namespace can be mounted only where the
    /// user namespace is the one that owns it. The queues of an ipc namespace the host program can mount for it:
    /// [`Mqueue::by_parent`](palisade_fsroot::Mqueue::by_parent), and [`Ipc::Of`] by itself.
    ///
    /// What the payload leaves running in a joined pid namespace ends with that namespace, not with the payload.
    pub fn join(mut self, namespace: impl Into<AnyNs>) -> Self {
        let namespace = namespace.into();
        self.spec.namespaces = self.spec.namespaces.without(namespace.kind());
        self.spec.joins.retain(|known| known.kind() != namespace.kind());
        self.spec.joins.push(namespace);
        self
    }

    /// Makes it a member of a pod: it joins the pod's namespaces, its user namespace among them, and has others of its own.
    pub fn pod(mut self, pod: &Pod) -> Self {
        self.spec.namespaces = self.spec.namespaces.difference(pod.kinds()).with(Namespace::User);
        self.spec.pod = Some(pod.clone());
        self
    }

    /// Who shares System V objects, message queues and `/dev/shm` with the payload; nobody by default.
    pub fn ipc(mut self, ipc: Ipc) -> Self {
        self.spec.joins.retain(|known| known.kind() != Namespace::Ipc);
        self.spec.namespaces = match ipc {
            Ipc::Host | Ipc::Of(..) => self.spec.namespaces.without(Namespace::Ipc),
            _ => self.spec.namespaces.with(Namespace::Ipc),
        };
        if let Ipc::Of(namespace, _) = &ipc {
            self.spec.joins.push(namespace.clone());
        }
        self.spec.ipc = ipc;
        self
    }

    /// A new time namespace whose clocks since boot are ahead or behind. The time of day is the same everywhere.
    pub fn time_offsets(mut self, offsets: TimeOffsets) -> Self {
        self.spec.namespaces = self.spec.namespaces.with(Namespace::Time);
        self.spec.time = offsets;
        self
    }

    /// The host name inside (at most 64 bytes); `sandbox` by default.
    pub fn hostname(mut self, name: impl AsRef<OsStr>) -> Self {
        self.spec.hostname = name.as_ref().to_owned();
        self
    }
}

/// # Who it is
impl SandboxBuilder {
    /// User and group inside. For an ordinary caller they stand for the caller's own; for root they are the same
    /// numbers outside, except that 0 inside is 65534 (nobody) outside.
    ///
    /// By default an ordinary caller keeps its own numbers, and root becomes 65534.
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        self.spec.user = Some((uid, gid));
        self
    }

    /// The maps of the user namespace, where one id is not enough. Ranges of an ordinary caller go through newuidmap
    /// and newgidmap. The payload is [`user`](Self::user) inside, 0 by default.
    pub fn id_maps(mut self, maps: Maps) -> Self {
        self.spec.maps = Some(maps);
        self
    }

    /// Lets the payload be user 0 *of the host*, where the caller is that: without a user namespace of its own, or
    /// with a map that holds the host's 0. What is mounted, every file of root's, and every capability that is kept
    /// are then within its reach.
    pub fn dangerously_allow_host_root(mut self) -> Self {
        self.spec.host_root = true;
        self
    }

    /// The capabilities that the payload has, in its user namespace; none by default.
    pub fn capabilities(mut self, capabilities: CapabilitySet) -> Self {
        (self.spec.capabilities, self.spec.capability_sets) = (capabilities, None);
        self
    }

    /// Leaves no_new_privs off, so that set-user-ID programs and file capabilities of an own root file system work
    /// (where its mounts are without `nosuid`: [`Root::without`]): as Docker's default has it. Off by default.
    pub fn allow_privilege_escalation(mut self, allow: bool) -> Self {
        self.spec.privilege_escalation = allow;
        self
    }
}

/// # What it may ask of the kernel
impl SandboxBuilder {
    /// A policy of system calls in place of the default one.
    pub fn seccomp(mut self, policy: Policy) -> Self {
        self.spec.calls = Calls::Policy(policy);
        self
    }

    /// A compiled filter in place of the default policy.
    pub fn seccomp_filter(mut self, filter: Filter) -> Self {
        self.spec.calls = Calls::Filter(filter);
        self
    }

    /// No filter at all: every call reaches the kernel. For studies, and where an outer filter is enough.
    pub fn dangerously_unfiltered(mut self) -> Self {
        self.spec.calls = Calls::Unfiltered;
        self
    }
}

/// # What it may use
impl SandboxBuilder {
    /// A cgroup of its own with these limits, below the caller's own delegated one. The payload is born in it. Where
    /// systemd owns the tree, a program gets a delegated one by `palisade::cgroup::systemd::TransientUnit::enter`
    /// (feature `systemd`).
    pub fn cgroup(mut self, limits: Limits) -> Self {
        let parent = self.spec.cgroup.take().and_then(|(_, parent)| parent);
        self.spec.cgroup = Some((limits, parent));
        self
    }

    /// The cgroup below which [`cgroup`](Self::cgroup) makes its own.
    pub fn cgroup_parent(mut self, parent: Cgroup) -> Self {
        let limits = self.spec.cgroup.take().map_or_else(Limits::new, |(limits, _)| limits);
        self.spec.cgroup = Some((limits, Some(parent)));
        self
    }

    /// A resource limit, soft and hard, in the resource's unit; [`Resource::INFINITY`] is none. By default CORE is 0,
    /// NOFILE at most 1024 and, with a user namespace, NPROC at most 4096.
    pub fn rlimit(mut self, resource: Resource, soft: u64, hard: u64) -> Self {
        self.spec.limits.retain(|(known, ..)| *known != resource);
        self.spec.limits.push((resource, soft, hard));
        self
    }

    /// Sets an environment variable for all commands of this sandbox.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.spec.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Passes the host program's whole environment on. By default only LANG, TERM and TZ are, beside a PATH and HOME
    /// that fit the sandbox.
    pub fn inherit_env(mut self, inherit: bool) -> Self {
        self.spec.inherit_env = inherit;
        self
    }

    /// How the payload's life depends on the host program's.
    pub fn lifetime(mut self, lifetime: Lifetime) -> Self {
        self.spec.lifetime = lifetime;
        self
    }

    /// Puts a small init in front of the payload, as pid 1: it waits for orphans, passes signals on to the payload, and
    /// ends when that ends, which ends everything else inside. The payload's status, a signal's too, is that of the
    /// [`Child`](crate::Child). Off by default.
    ///
    /// Without it the payload is pid 1 itself. Then it gets no signal but those that it has a handler for (and SIGKILL
    /// and SIGSTOP from outside): SIGTERM doesn't end it unless it handles that. What it has not started itself it has
    /// to wait for, or zombies stay as long as it lives. A shell that runs one program, or a server that starts none, can
    /// live with that; a shell of a user, a build, a supervisor want an init.
    ///
    /// The init has no capability, no descriptor, and a filter of seven calls; nothing inside without `CAP_SYS_PTRACE`
    /// can attach to it. It counts as one process towards `pids.max` and RLIMIT_NPROC. A stop signal from outside
    /// (SIGSTOP) stops it and not the payload: freeze the cgroup instead.
    pub fn init(mut self, init: bool) -> Self {
        self.spec.init = init;
        self
    }

    /// How long set-up may take, from `spawn` to the first instruction of the payload; 30 seconds by default. At the
    /// end of it everything is killed and `spawn` is an error. Where the host program's own side of it hangs and no
    /// signal reaches (a path on a dead network mount), `spawn` returns ten seconds later.
    pub fn setup_timeout(mut self, limit: Duration) -> Self {
        self.spec.setup_timeout = limit;
        self
    }

    /// Whether each spawn reads back from the kernel what it has made of the restrictions, before the payload runs; it
    /// does unless this is `false`. What differs is then an error of `spawn`. The set-up stands still meanwhile:
    /// [`Enforced`](crate::Enforced) says what is read, docs/performance.md what it costs.
    pub fn verify(mut self, verify: bool) -> Self {
        self.spec.verify = verify;
        self
    }

    /// Validates everything, resolves paths, compiles the filter.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidSpec`](crate::ErrorKind::InvalidSpec) with every conflict and bad value; otherwise what the
    /// host lacks, with a hint.
    pub fn build(self) -> Result<Sandbox> {
        Ok(Sandbox { prepared: Arc::new(Prepared::new(self.spec)?) })
    }
}
