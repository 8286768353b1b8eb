//! Who calls.

use palisade_creds::{Capability, CapabilitySet, Gid, Maps, ThreadCapabilities, Uid};
use palisade_sys::Step;

use crate::error::{Error, ErrorKind, Result};

/// The calling thread's identity, as far as it decides what is possible.
pub(crate) struct Caller {
    pub(crate) uid: Uid,
    pub(crate) gid: Gid,
    pub(crate) privileged: bool,
    /// The most that a child in the caller's user namespace can be given.
    pub(crate) bounding: CapabilitySet,
    /// Hard limits may be raised by a child that stays in the caller's user namespace.
    pub(crate) may_raise_limits: bool,
    /// Nobody (65534) exists in its user namespace; in one with a single id, or a few, it does not.
    pub(crate) has_nobody: bool,
}

impl Caller {
    pub(crate) fn current() -> Result<Self> {
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let capabilities = ThreadCapabilities::current().map_err(|error| {
            let errno = error.errno();
            Error::from_source(ErrorKind::Setup, Step::Prepare, error, errno)
        })?;
        let needed = [Capability::SysAdmin, Capability::Setuid, Capability::Setgid];
        let privileged = needed.into_iter().all(|c| capabilities.effective.contains(c));
        let ids = Uid::new(uid).zip(Gid::new(gid));
        let (uid, gid) = ids.ok_or_else(|| Error::invalid("the calling thread has no id"))?;
        let maps = Maps::current().ok().flatten();
        let has_nobody = maps.is_none_or(|maps| {
            maps.uid().to_outside(Uid::NOBODY).is_some() && maps.gid().to_outside(Gid::NOBODY).is_some()
        });
        let may_raise_limits = capabilities.effective.contains(Capability::SysResource);
        let bounding = capabilities.bounding & capabilities.permitted;
        Ok(Self { uid, gid, privileged, bounding, may_raise_limits, has_nobody })
    }

    /// It gives containers ids of their own, and keeps the owners of files by id-mapped mounts. In a user namespace with a
    /// few ids there are none to give: there root does as an ordinary user does.
    pub(crate) fn keeps_owners(&self) -> bool {
        self.privileged && self.has_nobody
    }
}
