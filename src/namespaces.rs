//! Namespaces that a sandbox does not make: those of others that it joins, and how `/dev` follows the ipc namespace.

use std::path::{Path, PathBuf};

use palisade_fsroot::Dev;
use palisade_ns::{AnyNs, Join, Namespace};
use palisade_sys::Step;

use crate::error::{Error, ErrorKind, Result};

/// Who shares System V objects, message queues and `/dev/shm` with the payload.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Ipc {
    /// Nobody: a namespace and a `/dev/shm` of its own.
    #[default]
    Private,
    /// Nobody, and there is no `/dev/shm`.
    WithoutShm,
    /// A namespace of its own, which others may join, and a directory of the host (in memory, best) as `/dev/shm`,
    /// which they can be given too.
    Shareable(PathBuf),
    /// The namespace of another sandbox, and the directory that is `/dev/shm` there. `/dev/mqueue` shows its queues: the
    /// host program mounts it, which has the power over that namespace that the payload has not.
    Of(AnyNs, PathBuf),
    /// The host program's: its namespace, `/dev/shm` and `/dev/mqueue`.
    Host,
}

impl Ipc {
    /// The same as [`Ipc::Shareable`].
    pub fn shareable(shm: impl AsRef<Path>) -> Self {
        Self::Shareable(shm.as_ref().to_owned())
    }

    /// The same as [`Ipc::Of`].
    pub fn of(namespace: impl Into<AnyNs>, shm: impl AsRef<Path>) -> Self {
        Self::Of(namespace.into(), shm.as_ref().to_owned())
    }

    /// The directory of the host that is `/dev/shm`.
    pub(crate) fn shm(&self) -> Option<PathBuf> {
        match self {
            Self::Private | Self::WithoutShm => None,
            Self::Shareable(shm) | Self::Of(_, shm) => Some(shm.clone()),
            Self::Host => Some("/dev/shm".into()),
        }
    }

    /// A `/dev` that fits.
    pub(crate) fn dress(&self, dev: Dev) -> Dev {
        match self {
            Self::Private => dev,
            Self::WithoutShm => dev.no_shm(),
            Self::Shareable(shm) => dev.shm_from(shm),
            Self::Of(_, shm) => dev.shm_from(shm).mqueue_by_parent(),
            Self::Host => dev.shm_from("/dev/shm").mqueue_from("/dev/mqueue"),
        }
    }
}

/// Whether a spawner thread can join a namespace of this kind for the moment of a clone.
pub(crate) fn can_be_joined(kind: Namespace) -> std::result::Result<(), &'static str> {
    match kind {
        Namespace::Mount => Err("the view is built in a new mount namespace: bind what is to be seen"),
        Namespace::User => Err("the ids would be those of others"),
        Namespace::Time => Err("only a program of one thread can join it"),
        _ => Ok(()),
    }
}

/// Does something in the namespaces `targets` and leaves them again: on a spawner thread, which clones a child there.
///
/// The thread joins rather than the child, since a child in a user namespace of its own has no power over namespaces
/// that are older than that.
pub(crate) fn joined<T>(targets: &[AnyNs], body: impl FnOnce() -> Result<T>) -> Result<T> {
    if targets.is_empty() {
        return body();
    }
    let home = targets.iter().map(|target| AnyNs::current(target.kind())).collect::<Result<Vec<_>, _>>();
    let home = home.map_err(failed)?;
    let entered = enter(targets);
    let result = entered.and_then(|()| body());
    if let Err(error) = enter(&home) {
        // A thread that is not where it belongs must never clone again; its end takes the child with it.
        panic!("a thread that spawns can't get back to its namespaces: {error}");
    }
    result
}

fn enter(namespaces: &[AnyNs]) -> Result<()> {
    let join = namespaces.iter().cloned().fold(Join::new(), Join::namespace);
    join.prepare().and_then(|join| join.run_in_thread()).map_err(failed)
}

fn failed(error: palisade_ns::Error) -> Error {
    let errno = error.errno();
    Error::from_source(ErrorKind::Setup, Step::Join, error, errno)
}
