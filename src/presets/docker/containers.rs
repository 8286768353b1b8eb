//! Namespaces of other containers: `--ipc`, `--pid`, `--network` and `--userns container:NAME`.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use palisade_creds::Maps;
use palisade_ns::{AnyNs, Namespace};

use super::options::Mode;
use super::run::Docker;
use crate::child::Child;
use crate::namespaces::Ipc;
use crate::pod::{Descent, Pod};
use crate::prepare::Conflicts;
use crate::sandbox::SandboxBuilder;

/// A running container, as far as others join it.
#[derive(Clone, Debug)]
pub(super) struct Container {
    pidfd: Arc<OwnedFd>,
    /// The user namespace that it was given: the process may be in another by now.
    descent: Descent,
    /// `None`: it has the host's users.
    maps: Option<Maps>,
    /// The directory that is its /dev/shm, if others can be given that.
    shm: Option<PathBuf>,
}

impl Container {
    pub(super) fn of(child: &Child) -> Result<Self, String> {
        let pidfd = child.pidfd().try_clone_to_owned().map_err(|error| error.to_string())?;
        let descent = Descent::of(child).map_err(|error| error.to_string())?;
        Ok(Self { pidfd: Arc::new(pidfd), descent, maps: child.maps(), shm: child.shm().map(Path::to_owned) })
    }

    /// A namespace of its. The user namespace is the one that it was given; that others belong to that one is compared
    /// where they are put together, and here where the host's users are its.
    fn namespace(&self, kind: Namespace) -> Result<AnyNs, String> {
        let found = AnyNs::of_pidfd(&*self.pidfd, kind).map_err(|error| error.to_string())?;
        let user = match (kind, &self.maps) {
            (Namespace::User, _) => Some(found.clone()),
            (_, Some(_)) => return Ok(found),
            (_, None) => found.owner().map_err(|error| error.to_string())?.map(AnyNs::from),
        };
        let user = user.ok_or_else(|| format!("{found}: its user namespace is none of the caller's"))?;
        self.descent.check(&user).map_err(|error| error.to_string())?;
        Ok(found)
    }
}

/// What a container does not make for itself.
#[derive(Default)]
pub(super) struct Joined {
    /// Namespaces of containers with a user namespace, which is joined too: its ids are those of all.
    pub(super) pod: Option<Pod>,
    /// Namespaces of containers that have the host's users.
    direct: Vec<AnyNs>,
    /// What is /dev/shm, if it is not its own.
    shm: Option<PathBuf>,
}

/// What is to be joined, if the containers are there and have users that fit.
pub(super) fn joined(docker: &Docker, conflicts: &mut Conflicts) -> Joined {
    let mut joined = Joined::default();
    let options = [
        ("userns", &docker.userns, Namespace::User),
        ("ipc", &docker.ipc, Namespace::Ipc),
        ("pid", &docker.pid, Namespace::Pid),
        ("network", &docker.network, Namespace::Net),
    ];
    let mut of_pod = Vec::new();
    let mut owner: Option<&Container> = None;
    for (option, mode, kind) in options {
        let Mode::Container(name) = mode else { continue };
        let what = format!("--{option} {mode}");
        let Some(container) = docker.containers.iter().rev().find(|(known, _)| known == name) else {
            conflicts.add(format!(
                "{what}: no container is known by this name: give the running one to Docker::container"
            ));
            continue;
        };
        let container = &container.1;
        let Some(namespace) = conflicts.check(&what, container.namespace(kind)) else {
            continue;
        };
        match (&container.maps, docker.host_users) {
            (Some(_), false) => {
                if owner.is_none() && kind != Namespace::User {
                    let user = container.namespace(Namespace::User);
                    of_pod.extend(conflicts.check(&what, user));
                }
                owner = owner.or(Some(container));
                of_pod.push(namespace);
            }
            (None, true) if kind != Namespace::User => joined.direct.push(namespace),
            (None, true) => conflicts.add(format!("{what}: it has the host's users, as this container has")),
            (None, false) => conflicts.add(format!(
                "{what}: it has the host's users, and no other has power over its namespaces: take \
                 dangerously_use_host_users"
            )),
            (Some(_), true) => conflicts.add(format!(
                "{what}: it has a user namespace, whose ids are those of all that join it: leave out \
                 dangerously_use_host_users"
            )),
        }
        if kind == Namespace::Ipc {
            joined.shm.clone_from(&container.shm);
            if container.shm.is_none() {
                conflicts.add(format!(
                    "{what}: non-shareable IPC (hint: use IpcMode:shareable for the donor container, and \
                     Docker::shm_directory)"
                ));
            }
        }
    }
    if let Some(maps) = owner.and_then(|container| container.maps.clone()) {
        if docker.maps.is_some() {
            conflicts.add("id_maps: the ids are those of the container whose namespaces are joined");
        }
        let pod = conflicts.check("containers of one user namespace", Pod::of_namespaces(of_pod, maps));
        joined.pod = pod.map(|pod| match joined.shm.take() {
            Some(shm) => pod.shm(shm),
            None => pod,
        });
    }
    joined
}

impl Joined {
    /// Ipc modes first: the pod then takes back what is new and its own.
    pub(super) fn add_to(&self, docker: &Docker, mut new: SandboxBuilder) -> SandboxBuilder {
        let ipc = self.direct.iter().find(|namespace| namespace.kind() == Namespace::Ipc);
        let others = self.direct.iter().filter(|namespace| namespace.kind() != Namespace::Ipc);
        new = match (&docker.ipc, &self.shm, ipc) {
            (Mode::Host, ..) => new.ipc(Ipc::Host),
            (Mode::None, ..) => new.ipc(Ipc::WithoutShm),
            (Mode::Named(_), ..) => match &docker.shm_directory {
                Some(shm) => new.ipc(Ipc::shareable(shm)),
                None => new, // a conflict
            },
            (Mode::Container(_), Some(shm), Some(ipc)) => new.ipc(Ipc::of(ipc.clone(), shm)),
            _ => new,
        };
        new = others.fold(new, |new, namespace| new.join(namespace.clone()));
        match &self.pod {
            Some(pod) => new.pod(pod),
            None => new,
        }
    }
}

/// # Other containers
impl Docker {
    /// Makes a running container known by a name, for `--ipc`, `--pid`, `--network` and `--userns container:NAME`. Of
    /// several of one name the last counts.
    ///
    /// **The id-map rule**: a container that joins another's namespaces is in that one's user namespace and has its ids,
    /// and so all containers that it joins must be in one. (One with the host's users is joined by one with the host's
    /// users.) With a shared pid namespace it ends when the other does.
    ///
    /// ```no_run
    /// use palisade::presets::docker::Docker;
    ///
    /// let server = Docker::new("/srv/images/web").build()?.command("server").spawn()?;
    /// let probe = Docker::new("/srv/images/busybox").container("web", &server).network("container:web").build()?;
    /// let out = probe.command("wget").args(["-qO-", "http://127.0.0.1:8080"]).output()?;
    /// # Ok::<(), palisade::Error>(())
    /// ```
    pub fn container(mut self, name: impl Into<String>, running: &Child) -> Self {
        let name = name.into();
        match Container::of(running) {
            Ok(container) => self.containers.push((name, container)),
            Err(error) => self.wrong.push(format!("container {name:?}: {error}")),
        }
        self
    }

    /// `--userns`: `container:NAME`. Without a word the user namespace is its own; Docker's default, `host`, is
    /// [`dangerously_use_host_users`](Self::dangerously_use_host_users).
    pub fn userns(mut self, mode: impl AsRef<str>) -> Self {
        self.userns = self.read("userns", mode.as_ref()).unwrap_or_default();
        self
    }

    /// The directory of the host (in memory and of mode 1777, best) that is `/dev/shm` of a container whose
    /// [`ipc`](Self::ipc) is `shareable`, and of those that join it.
    pub fn shm_directory(mut self, directory: impl AsRef<Path>) -> Self {
        self.shm_directory = Some(directory.as_ref().to_owned());
        self
    }
}

/// Modes that an option does not have, or not without more.
pub(super) fn check(docker: &Docker, conflicts: &mut Conflicts) {
    let modes = [
        ("ipc", &docker.ipc, "private, none, shareable, host, container:NAME"),
        ("pid", &docker.pid, "private, host, container:NAME"),
        ("uts", &docker.uts, "private, host"),
        (
            "network",
            &docker.network,
            "none, host, container:NAME; others by SandboxBuilder::network of builder()",
        ),
        ("cgroupns", &docker.cgroupns, "private, host"),
        ("userns", &docker.userns, "private, container:NAME; host by dangerously_use_host_users"),
    ];
    for (option, mode, known) in modes {
        let fine = match mode {
            Mode::Private => true,
            Mode::Host => option != "userns",
            Mode::None => matches!(option, "ipc" | "network"),
            Mode::Container(_) => !matches!(option, "uts" | "cgroupns"),
            Mode::Named(name) => option == "ipc" && name == "shareable",
        };
        if !fine {
            conflicts.add(format!("--{option} {mode}: it is one of {known}"));
        }
    }
    let shareable = matches!(docker.ipc, Mode::Named(_));
    if shareable && docker.shm_directory.is_none() {
        conflicts
            .add(format!("--ipc {}: its /dev/shm is a directory: give one by shm_directory", docker.ipc));
    }
    if !shareable && docker.shm_directory.is_some() {
        conflicts.add("shm_directory: it goes with --ipc shareable");
    }
    if docker.shm_size.is_some() && matches!(docker.ipc, Mode::Named(_) | Mode::Container(_)) {
        conflicts.add(format!("--shm-size: with --ipc {} /dev/shm is a directory of the host", docker.ipc));
    }
    if docker.hostname.is_some() && matches!(docker.network, Mode::Container(_)) {
        conflicts.add("--hostname: conflicting options: hostname and the network mode");
    }
}

/// Whether a container has a network of its own.
pub(super) fn own_network(docker: &Docker) -> bool {
    !matches!(docker.network, Mode::Host | Mode::Container(_))
}
