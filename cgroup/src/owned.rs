//! Groups that this process makes, and takes away again.

use std::ffi::OsStr;
use std::hash::{BuildHasher, RandomState};
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;

use crate::cgroup::Cgroup;
use crate::dir::check_name;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::Limits;

/// A group made by this process, with its limits in force.
///
/// # What happens on drop
/// Everything inside is killed and the group removed, with all groups below it, waiting up to a second; what then still
/// stands stays behind, since a destructor cannot report. [`OwnedCgroup::remove`] does the same and says how it went;
/// [`OwnedCgroup::keep`] leaves the group to others. Nothing happens in a process forked from the one that made the group,
/// and nothing that would kill the calling process.
#[derive(Debug)]
pub struct OwnedCgroup {
    group: Cgroup,
    maker: u32,
}

/// How long [`OwnedCgroup::remove`] waits.
const REMOVE_TIME: Duration = Duration::from_secs(5);
/// How long a drop waits.
const DROP_TIME: Duration = Duration::from_secs(1);

impl Cgroup {
    /// Makes a group of this name below, enables the controllers that its limits need, writes the limits and verifies
    /// them: when it can be entered, they hold. On an error nothing is left behind, but for controllers enabled.
    ///
    /// # Errors
    /// [`InvalidName`](ErrorKind::InvalidName); [`Busy`](ErrorKind::Busy) if the name is taken; and as
    /// [`Cgroup::enable`] and [`Cgroup::apply`].
    pub fn create(&self, name: impl AsRef<OsStr>, limits: &Limits) -> Result<OwnedCgroup> {
        let name = name.as_ref();
        check_name(name)?;
        self.enable(&limits.controllers())?;
        self.make(name)
            .map_err(|e| {
                let error = Error::os("create group", &self.path().join(name), e as i32);
                match e {
                    Errno::EEXIST => error.kinded(ErrorKind::Busy).hint("the name is taken"),
                    Errno::EAGAIN => {
                        error.kinded(ErrorKind::Busy).hint("cgroup.max.depth or .descendants is reached")
                    }
                    Errno::ENOENT | Errno::ENODEV => error.kinded(ErrorKind::Gone),
                    _ => error,
                }
            })
            .and_then(|()| self.fill(name, limits))
    }

    /// As [`Cgroup::create`], with a name that nothing else has: `prefix-PID-NUMBER`.
    ///
    /// # Errors
    /// As [`Cgroup::create`].
    pub fn create_unique(&self, prefix: &str, limits: &Limits) -> Result<OwnedCgroup> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        const TRIES: usize = 16;
        let mut number = COUNT.fetch_add(1, Ordering::Relaxed);
        for _ in 1..TRIES {
            match self.create(format!("{prefix}-{}-{number:x}", std::process::id()), limits) {
                // Left behind by an earlier process of this number, or by one of another pid namespace.
                Err(e) if e.errno() == Some(libc::EEXIST) => number = RandomState::new().hash_one(number),
                other => return other,
            }
        }
        self.create(format!("{prefix}-{}-{number:x}", std::process::id()), limits)
    }

    fn make(&self, name: &OsStr) -> Result<(), Errno> {
        self.dir.mkdir(name)
    }

    /// Opens and limits a group that was just made, or takes it away again: nobody is inside, and removing needs no
    /// further descriptor, of which there may be none left.
    fn fill(&self, name: &OsStr, limits: &Limits) -> Result<OwnedCgroup> {
        let filled = self.child(name).and_then(|group| group.apply_fresh(limits).map(|()| group));
        match filled {
            Ok(group) => Ok(OwnedCgroup { group, maker: std::process::id() }),
            Err(e) => match self.dir.rmdir(name) {
                Ok(()) | Err(Errno::ENOENT) => Err(e),
                Err(why) => Err(e.undone(format!("the new group could not be removed again: {why}"))),
            },
        }
    }
}

impl OwnedCgroup {
    /// Kills everything inside and removes the group with all below it, waiting up to five seconds.
    ///
    /// # Errors
    /// As [`Cgroup::destroy`]. The group is not tried again on drop.
    pub fn remove(self) -> Result<()> {
        self.remove_within(REMOVE_TIME)
    }

    /// As [`OwnedCgroup::remove`], waiting up to `timeout`.
    ///
    /// # Errors
    /// As [`Cgroup::destroy`].
    pub fn remove_within(self, timeout: Duration) -> Result<()> {
        self.keep().destroy(timeout)
    }

    /// Gives up ownership: the group stays when the handle goes.
    pub fn keep(mut self) -> Cgroup {
        self.maker = 0;
        self.group.clone()
    }

    /// Moves the calling process into the group and gives up ownership: a process cannot remove the group it sits in.
    ///
    /// # Errors
    /// As [`Cgroup::enter`]; the group is removed then.
    pub fn enter_for_good(self) -> Result<Cgroup> {
        self.group.enter()?;
        Ok(self.keep())
    }
}

impl Deref for OwnedCgroup {
    type Target = Cgroup;

    fn deref(&self) -> &Cgroup {
        &self.group
    }
}

impl std::os::fd::AsFd for OwnedCgroup {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.group.as_fd()
    }
}

impl Drop for OwnedCgroup {
    fn drop(&mut self) {
        if self.maker == std::process::id() {
            // The documented limit of a drop: there is nobody to report to.
            drop(self.group.destroy(DROP_TIME));
        }
    }
}
