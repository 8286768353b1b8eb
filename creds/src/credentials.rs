//! The credentials of a thread as one value: what the kernel decides by.

use std::fmt;
use std::os::fd::BorrowedFd;

use crate::id::{Id, decimal};
use crate::{
    CapabilitySet, Error, ErrorKind, Gid, IdMap, Maps, Result, Securebits, ThreadCapabilities, Uid, proc_dir,
    sys,
};

/// The three ids of a kind that a thread has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ids<I> {
    /// Who started it.
    pub real: I,
    /// Whom the kernel takes it for.
    pub effective: I,
    /// Whom it may become again.
    pub saved: I,
}

impl<I: Copy + PartialEq> Ids<I> {
    /// All three the same.
    pub const fn all(id: I) -> Self {
        Self { real: id, effective: id, saved: id }
    }

    pub(crate) fn any(self, id: I) -> bool {
        [self.real, self.effective, self.saved].contains(&id)
    }
}

impl<I: fmt::Display> fmt::Display for Ids<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.real, self.effective, self.saved)
    }
}

/// Ids, groups, capabilities, securebits and no_new_privs of a thread, with ids as its own user namespace has them.
/// See [credentials(7)](https://man7.org/linux/man-pages/man7/credentials.7.html).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User ids.
    pub uid: Ids<Uid>,
    /// Group ids.
    pub gid: Ids<Gid>,
    /// Supplementary groups, ascending as the kernel keeps them; `None` where they are not known.
    pub groups: Option<Vec<Gid>>,
    /// The five sets.
    pub capabilities: ThreadCapabilities,
    /// Securebits; `None` where they are not known, as /proc does not show them.
    pub securebits: Option<Securebits>,
    /// Whether no exec can give privileges any more.
    pub no_new_privs: bool,
}

impl Credentials {
    /// Those of the calling thread, by system calls alone (no /proc).
    ///
    /// # Errors
    /// [`ErrorKind::System`] if a filter refuses one of the calls that read them.
    pub fn current() -> Result<Self> {
        let failed = |call: &'static str| move |errno| Error::os(errno, call);
        let flag = |option, name| sys::prctl(option, 0, 0).map_err(failed(name));
        Ok(Self {
            uid: sys::getresuid().map_err(failed("getresuid"))?,
            gid: sys::getresgid().map_err(failed("getresgid"))?,
            groups: Some(sys::getgroups().map_err(failed("getgroups"))?),
            capabilities: ThreadCapabilities::current()?,
            securebits: Some(Securebits::from_bits_retain(
                u32::try_from(flag(libc::PR_GET_SECUREBITS, "prctl(PR_GET_SECUREBITS)")?).unwrap_or_default(),
            )),
            no_new_privs: flag(libc::PR_GET_NO_NEW_PRIVS, "prctl(PR_GET_NO_NEW_PRIVS)")? != 0,
        })
    }

    /// Those of the first process of a new user namespace once it has become this mapped user and group: every
    /// capability of the kernel, in all sets but the inheritable and ambient, none of the parent's securebits, and
    /// supplementary groups that are the parent's and so not known.
    ///
    /// # Errors
    /// As [`CapabilitySet::supported`].
    pub fn in_new_user_namespace(uid: Uid, gid: Gid) -> Result<Self> {
        let all = CapabilitySet::supported()?;
        Ok(Self {
            uid: Ids::all(uid),
            gid: Ids::all(gid),
            groups: None,
            capabilities: ThreadCapabilities {
                effective: all,
                permitted: all,
                bounding: all,
                ..ThreadCapabilities::default()
            },
            securebits: Some(Securebits::empty()),
            no_new_privs: false,
        })
    }

    /// Those that the text of a `/proc/PID/status` shows (ids are then those of the reader's user namespace).
    ///
    /// # Errors
    /// [`ErrorKind::Syntax`] if a line is missing or is not what the kernel writes.
    pub fn from_status(status: &[u8]) -> Result<Self> {
        let bad = |key: &str| Error::new(ErrorKind::Syntax, format!("status has no good line '{key}:'"));
        let words = |key: &str| {
            let mut lines = status.split(|byte| *byte == b'\n');
            let line = lines.find_map(|line| line.strip_prefix(key.as_bytes())?.strip_prefix(b":"));
            line.map(|line| line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()))
                .ok_or_else(|| bad(key))
        };
        fn ids<'a, I: Id>(words: impl Iterator<Item = &'a [u8]>) -> Option<Vec<I>> {
            words.map(|word| decimal(word).and_then(I::from_raw)).collect()
        }
        fn three<I: Id>(ids: Option<Vec<I>>) -> Option<Ids<I>> {
            let [real, effective, saved, _fs] = ids?.try_into().ok()?;
            Some(Ids { real, effective, saved })
        }
        Ok(Self {
            uid: three(ids(words("Uid")?)).ok_or_else(|| bad("Uid"))?,
            gid: three(ids(words("Gid")?)).ok_or_else(|| bad("Gid"))?,
            groups: Some(ids(words("Groups")?).ok_or_else(|| bad("Groups"))?),
            capabilities: ThreadCapabilities::from_status(status)?,
            securebits: None,
            no_new_privs: match words("NoNewPrivs")?.collect::<Vec<_>>().as_slice() {
                [b"0"] => false,
                [b"1"] => true,
                _ => return Err(bad("NoNewPrivs")),
            },
        })
    }

    /// Those of a process, by its directory in /proc (ids are then those of the caller's user namespace): how to look
    /// from outside at what a child became.
    ///
    /// # Errors
    /// [`ErrorKind::NotTrusted`] if the directory is not of procfs or something is mounted over the file;
    /// [`ErrorKind::System`] if the process has ended; [`ErrorKind::Syntax`].
    pub fn of(pid_dir: BorrowedFd<'_>) -> Result<Self> {
        Self::from_status(&proc_dir::read(pid_dir, "status")?)
    }

    /// The same credentials as the parent user namespace sees them.
    ///
    /// # Errors
    /// [`ErrorKind::Unmapped`] for an id that the maps have not got.
    pub fn outside(&self, maps: &Maps) -> Result<Self> {
        fn ids<I: Id>(ids: Ids<I>, map: &IdMap) -> Result<Ids<I>> {
            let one = |id| outside(id, map);
            Ok(Ids { real: one(ids.real)?, effective: one(ids.effective)?, saved: one(ids.saved)? })
        }
        fn outside<I: Id>(id: I, map: &IdMap) -> Result<I> {
            map.to_outside(id).ok_or_else(|| {
                Error::new(ErrorKind::Unmapped, format!("id {id} has no mapping in the user namespace"))
            })
        }
        let groups = |groups: &Vec<Gid>| {
            let mut groups =
                groups.iter().map(|gid| outside(*gid, maps.gid())).collect::<Result<Vec<_>>>()?;
            groups.sort_unstable();
            Ok(groups)
        };
        Ok(Self {
            uid: ids(self.uid, maps.uid())?,
            gid: ids(self.gid, maps.gid())?,
            groups: self.groups.as_ref().map(groups).transpose()?,
            ..self.clone()
        })
    }

    /// Compares what a thread has with what it should have; groups and securebits only where both are known.
    ///
    /// # Errors
    /// [`ErrorKind::NotApplied`], naming the first difference.
    pub fn check(&self, wanted: &Self) -> Result<()> {
        fn same<T: PartialEq>(name: &str, seen: &T, wanted: &T, show: impl Fn(&T) -> String) -> Result<()> {
            if seen == wanted {
                return Ok(());
            }
            let (seen, wanted) = (show(seen), show(wanted));
            Err(Error::new(ErrorKind::NotApplied, format!("{name} is '{seen}' and should be '{wanted}'")))
        }
        let groups = |groups: &Vec<Gid>| groups.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let mask = |set: &CapabilitySet| format!("{set:x}");
        same("Uid", &self.uid, &wanted.uid, ToString::to_string)?;
        same("Gid", &self.gid, &wanted.gid, ToString::to_string)?;
        if let (Some(seen), Some(wanted)) = (&self.groups, &wanted.groups) {
            same("Groups", seen, wanted, groups)?;
        }
        same("CapInh", &self.capabilities.inheritable, &wanted.capabilities.inheritable, mask)?;
        same("CapPrm", &self.capabilities.permitted, &wanted.capabilities.permitted, mask)?;
        same("CapEff", &self.capabilities.effective, &wanted.capabilities.effective, mask)?;
        same("CapBnd", &self.capabilities.bounding, &wanted.capabilities.bounding, mask)?;
        same("CapAmb", &self.capabilities.ambient, &wanted.capabilities.ambient, mask)?;
        same("NoNewPrivs", &self.no_new_privs, &wanted.no_new_privs, ToString::to_string)?;
        match (self.securebits, wanted.securebits) {
            (Some(seen), Some(wanted)) => same("securebits", &seen, &wanted, ToString::to_string),
            _ => Ok(()),
        }
    }
}
