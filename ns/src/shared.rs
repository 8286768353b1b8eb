//! Namespaces that several sandboxes share, as the containers of a pod do.

use std::fmt;
use std::io;
use std::os::fd::AsFd;

use crate::apply::explain;
use crate::error::{Error, ErrorKind, Result};
use crate::handle::{AnyNs, Ns, kind};
use crate::join::Join;
use crate::namespace::{Namespace, Namespaces};
use crate::sys;
use crate::unshare::Unshare;

/// A set of namespaces, one of a kind, for several sandboxes to join: a pod.
///
/// **The id-map rule.** One user namespace owns all of them, and it is part of the set. Joining a namespace needs
/// capabilities in its owner, so a member that made a user namespace of its own could not join; and an id that means one
/// user in one member and another in the next would make shared files and queues a trap. So members join the set's user
/// namespace first and have its one id map; a set with another owner is refused when it is made.
#[derive(Clone, Debug)]
#[doc(alias = "pod")]
pub struct Shared {
    user: Ns<kind::User>,
    namespaces: Vec<AnyNs>,
}

impl Shared {
    /// The set of these namespaces. A user namespace among them must be the owner of the others; it need not be there.
    ///
    /// # Errors
    /// [`ErrorKind::OwnerMismatch`] if not all belong to one user namespace, or to one that the caller cannot see;
    /// [`ErrorKind::Conflict`] if there are two of one kind, or none.
    pub fn new(namespaces: impl IntoIterator<Item = AnyNs>) -> Result<Self> {
        let (mut owner, mut members) = (None, Vec::<AnyNs>::new());
        for namespace in namespaces {
            if let Some(same) = members.iter().find(|other| other.kind() == namespace.kind()) {
                let what = format!("{same} and {namespace} cannot both be shared: they are of one kind");
                return Err(Error::new(ErrorKind::Conflict, what));
            }
            members.push(namespace);
        }
        for namespace in &members {
            let its_owner = match namespace.kind() {
                Namespace::User => Some(namespace.clone().try_into()?),
                _ => namespace.owner()?,
            };
            let unseen = || {
                let what =
                    format!("{namespace} belongs to a user namespace that is not the caller's or below it");
                Error::new(ErrorKind::OwnerMismatch, what)
            };
            let its_owner: Ns<kind::User> = its_owner.ok_or_else(unseen)?;
            match &owner {
                None => owner = Some(its_owner),
                Some(owner) if *owner == its_owner => {}
                Some(owner) => {
                    let what = format!("{namespace} belongs to {its_owner}, others of the set to {owner}");
                    return Err(Error::new(ErrorKind::OwnerMismatch, what).hint_is(
                        "make all namespaces of the set under one user namespace: it has the id map of all",
                    ));
                }
            }
        }
        let user = owner.ok_or_else(|| Error::new(ErrorKind::Conflict, "a shared set of no namespaces"))?;
        members.retain(|namespace| namespace.kind() != Namespace::User);
        Ok(Self { user, namespaces: members })
    }

    /// The namespaces of these kinds of a process that keeps them: the first sandbox of the pod. With a pid namespace
    /// among them, the set is of use only while that one's init lives.
    ///
    /// # Errors
    /// As for [`Shared::new`] and [`AnyNs::of_pidfd`].
    pub fn of_process(pidfd: impl AsFd, kinds: Namespaces) -> Result<Self> {
        let namespaces: Result<Vec<_>> = kinds.iter().map(|kind| AnyNs::of_pidfd(&pidfd, kind)).collect();
        Self::new(namespaces?)
    }

    /// Makes the namespaces of `new`, with what it sets in them, without a process in them: the handles keep them.
    ///
    /// A child of this process makes them and ends. If a user namespace is among them, `write_maps` is called with
    /// the child's pid to write its id maps; otherwise it is not called.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if a pid namespace is among them: it needs a process that stays, see
    /// [`Shared::of_process`]. As for [`Prepared::run`](crate::Prepared::run). An error of `write_maps` is passed on.
    pub fn create(new: &Unshare, write_maps: impl FnOnce(u32) -> io::Result<()>) -> Result<Self> {
        let kinds = new.kinds();
        if kinds.contains(Namespace::Pid) {
            let what = "a pid namespace lives by its first process and cannot be made without one";
            return Err(
                Error::new(ErrorKind::Conflict, what).hint_is("share that of a process: Shared::of_process")
            );
        }
        let prepared = new.prepare()?;
        let failed = |e: io::Error| Error::io(&e, "making namespaces in a child");
        let mut holder = sys::hold(&mut prepared.program().image()).map_err(failed)?;
        let pid = match holder.started().map_err(failed)? {
            Ok(pid) => pid,
            Err(fault) => return Err(explain(&prepared.program().explain(fault))),
        };
        let namespaces: Result<Vec<_>> = kinds.iter().map(|kind| AnyNs::of_process(pid, kind)).collect();
        let shared = Self::new(namespaces?)?;
        if kinds.contains(Namespace::User) {
            write_maps(pid).map_err(|e| Error::io(&e, "writing the id maps of a new user namespace"))?;
        }
        holder.end().map_err(failed)?;
        Ok(shared)
    }

    /// The user namespace that owns them, whose id map all members have.
    pub fn user(&self) -> &Ns<kind::User> {
        &self.user
    }

    /// Those that are shared, the user namespace not among them.
    pub fn namespaces(&self) -> &[AnyNs] {
        &self.namespaces
    }

    /// The kinds that are shared, without the user namespace.
    pub fn kinds(&self) -> Namespaces {
        self.namespaces.iter().map(AnyNs::kind).collect()
    }

    /// What a member joins that has new namespaces of the kinds `own` to itself: the set's user namespace (if it is not
    /// the one of the caller) and everything shared.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if `own` has a kind that is shared; [`ErrorKind::OwnerMismatch`] if it has a user namespace.
    pub fn member(&self, own: Namespaces) -> Result<Join> {
        if own.contains(Namespace::User) {
            let what = format!(
                "a member of a shared set cannot have its own user namespace: all have the ids of {}",
                self.user
            );
            return Err(Error::new(ErrorKind::OwnerMismatch, what));
        }
        let twice = own.intersection(self.kinds());
        if !twice.is_empty() {
            let what = format!("a member cannot both share and have its own {twice}");
            return Err(Error::new(ErrorKind::Conflict, what));
        }
        let join = Join::new().namespace(&self.user);
        Ok(self.namespaces.iter().fold(join, Join::namespace))
    }
}

impl fmt::Display for Shared {
    /// The owner and the namespaces: `user:[4026532290] uts:[4026532291]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.user.fmt(f)?;
        self.namespaces.iter().try_for_each(|namespace| write!(f, " {namespace}"))
    }
}
