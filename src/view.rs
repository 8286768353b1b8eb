//! The view that a specification asks for, prepared: whose files, by whose rights.

use palisade_creds::{Gid, IdMap, Maps, PreparedMaps, Uid};
use palisade_fsroot::{Dev, Mount, PreparedRoot, Root};
use palisade_ns::Namespace;
use palisade_sys::{FD_PASSED, Program, Slot, Step};

use crate::error::{Error, ErrorKind, Result};
use crate::network::{Etc, Network};
use crate::newborn::user_namespace;
use crate::prepare::Identity;
use crate::sandbox::{Calls, Spec, View};

/// The programs that build the view.
#[derive(Debug)]
pub(crate) struct Split {
    /// Run by the host program: takes the detached trees, where the child will not have the rights to. Else empty.
    pub(crate) sources: Program,
    /// What it takes, in the order in which they are passed.
    pub(crate) trees: Vec<Slot>,
    /// Run by the child.
    pub(crate) build: Program,
}

/// The root, and the programs that build it. `by_parent`: the host program takes the sources.
pub(crate) fn prepare(
    spec: &Spec,
    maps: Option<&PreparedMaps>,
    identity: &Identity,
    by_parent: bool,
) -> Result<(Option<PreparedRoot>, Split)> {
    let mounts = if by_parent {
        let inside = maps.map(PreparedMaps::maps);
        spec.mounts.iter().map(|item| with_owner(spec, item, inside, identity)).collect::<Result<_>>()?
    } else {
        spec.mounts.clone()
    };
    let Some(root) = view(spec, mounts, identity) else {
        let split = Split { sources: Program::new(), trees: Vec::new(), build: shared_root(spec) };
        return Ok((None, split));
    };
    let root = prepare_root(root, spec, maps)?;
    let split = if by_parent {
        let (sources, trees, build) = root.split(FD_PASSED);
        Split { sources, trees, build }
    } else {
        Split { sources: Program::new(), trees: Vec::new(), build: root.program() }
    };
    Ok((Some(root), split))
}

/// The root to prepare: the view of the host knows the payload's user and name, and has a resolver where it has the
/// host's network.
fn view(spec: &Spec, mounts: Vec<Mount>, identity: &Identity) -> Option<Root> {
    let etc = || spec.network.as_ref().map(|network| network.etc(&spec.hostname.to_string_lossy()));
    let root = match &spec.root {
        View::Shared => return None,
        View::Own(root) => root.clone(),
        View::Host(view) => {
            let mut view = view.clone().user(identity.uid.as_raw(), identity.gid.as_raw());
            if let Some(name) = spec.hostname.to_str() {
                view = view.host_name(name);
            }
            let hosts = spec
                .network
                .as_ref()
                .map_or_else(|| !spec.namespaces.contains(Namespace::Net), Network::is_the_hosts);
            if hosts {
                view = view.resolv_conf();
            }
            etc().into_iter().fold(view, |view, etc| etc.into_view(view)).into()
        }
    };
    // In a root of one's own they cover the files that stand there.
    let names = match &spec.root {
        View::Own(_) => etc(),
        View::Host(_) | View::Shared => None,
    };
    let mounts = mounts.into_iter().chain(names.into_iter().flat_map(Etc::mounts));
    let mut root = mounts.fold(root, Root::mount).change_dev(|dev| {
        let dev = match &spec.pod {
            Some(pod) if pod.shares(Namespace::Ipc) => pod.dress(dev),
            _ => spec.ipc.dress(dev),
        };
        spec.devices.iter().fold(dev, Dev::device)
    });
    if let Some(masks) = &spec.masks {
        root = root.masks(masks.clone());
    }
    if let Some(propagation) = spec.propagation {
        root = root.propagation(propagation);
    }
    let root = spec.hidden.iter().fold(root, Root::hide);
    Some(spec.protected.iter().fold(root, Root::protect))
}

fn prepare_root(mut root: Root, spec: &Spec, maps: Option<&PreparedMaps>) -> Result<PreparedRoot> {
    if let (true, Some(maps)) = (spec.id_mapped_root, maps) {
        root = root.id_mapped(user_namespace(maps.clone())?);
    }
    root.prepare().map_err(|error| {
        let kind = match error.kind() {
            palisade_fsroot::ErrorKind::System => ErrorKind::Setup,
            _ => ErrorKind::InvalidSpec,
        };
        let errno = error.errno();
        Error::from_source(kind, Step::Prepare, error, errno)
    })
}

/// A mount table of its own, if it has one, must not give its changes to the host's.
fn shared_root(spec: &Spec) -> Program {
    let mut p = Program::new();
    if spec.namespaces.contains(Namespace::Mount) {
        p.at(Step::Propagation, "/");
        p.mount_propagation(c"/", libc::MS_REC | libc::MS_PRIVATE);
    }
    p
}

/// What a privileged caller binds writable belongs to somebody whom the payload's user namespace does not know, as a
/// rule. An id-mapped mount lets the payload stand for the source's owner, below that source only.
fn with_owner(spec: &Spec, item: &Mount, maps: Option<&Maps>, identity: &Identity) -> Result<Mount> {
    let (Mount::Bind(bind), Some(maps)) = (item, maps) else { return Ok(item.clone()) };
    if bind.is_read_only() || bind.is_id_mapped() {
        return Ok(item.clone());
    }
    let Ok((uid, gid)) = bind.owner() else {
        return Ok(item.clone()); // what is wrong with it is for the root to say
    };
    let owner = Uid::new(uid).zip(Gid::new(gid));
    let payload = maps.uid().to_outside(identity.uid).zip(maps.gid().to_outside(identity.gid));
    let (Some(owner), Some(payload)) = (owner, payload) else { return Ok(item.clone()) };
    if maps.uid().to_inside(owner.0).is_some() {
        return Ok(item.clone());
    }
    let roots = owner.0 == Uid::ROOT || owner.1 == Gid::ROOT;
    if roots && !spec.host_root && !matches!(spec.calls, Calls::Default) {
        return Err(Error::invalid(format!(
            "bind: {} belongs to root, for whom the payload stands there: with a filter of its own it could make \
             set-user-ID programs of root's; give the directory to another user, keep the default filter, or say \
             dangerously_allow_host_root",
            bind.source().display()
        )));
    }
    let failed = |error: palisade_creds::Error| {
        let errno = error.errno();
        Error::from_source(ErrorKind::Setup, Step::IdMaps, error, errno)
            .with_object(bind.source().to_string_lossy())
    };
    let maps = Maps::new(IdMap::single(owner.0, payload.0), IdMap::single(owner.1, payload.1));
    let namespace = user_namespace(maps.prepare().map_err(failed)?)?;
    Ok(bind.clone().id_mapped(namespace).into())
}
