//! A payload that has everything but its start.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};

use palisade_cgroup::Cgroup;

use crate::child::Child;
use crate::enforced::Enforced;
use crate::error::{Error, Result};
use crate::launch::launch_paused;
use crate::plan::{Plan, Supervision};
use crate::standing::Standing;

/// A payload that stands before its first instruction: made by
/// [`Command::spawn_paused`](crate::Command::spawn_paused).
///
/// Everything is done but the filter and the exec, and has been verified: its process has the payload's namespaces, view,
/// user, limits and cgroup, and no descriptor of the host but the declared ones and the one on which it waits. What takes
/// time is over; [`start`](Self::start) sends a byte. Signals that come meanwhile are kept until then (SIGKILL is not).
///
/// **Dropping it ends it**, whatever its [`Lifetime`](crate::Lifetime): nothing has run yet. A payload that is to be
/// started by another process is made by [`Command::create`](crate::Command::create).
///
/// ```no_run
/// let sandbox = palisade::Sandbox::new()?;
/// let paused = sandbox.command("/bin/true").spawn_paused()?;
/// println!("{} waits", paused.id());
/// assert!(paused.start()?.wait()?.success());
/// # Ok::<(), palisade::Error>(())
/// ```
#[must_use = "dropping it ends it"]
pub struct Paused {
    /// Taken by its start or drop only.
    standing: Option<(Standing, Supervision)>,
    /// The process whose child it is: after a fork of the host program, the copy's drop is nobody's end.
    maker: u32,
}

impl Paused {
    pub(crate) fn new(plan: Plan) -> Result<Self> {
        let supervision = plan.supervision();
        let standing = launch_paused(plan)?;
        Ok(Self { standing: Some((standing, supervision)), maker: std::process::id() })
    }

    fn standing(&self) -> &Standing {
        &self.standing.as_ref().expect("only start and drop take it").0
    }

    /// The process's pid in the host program's pid namespace.
    pub fn id(&self) -> u32 {
        self.standing().child.pid
    }

    /// The pidfd: readable when the process has ended, which before its start is by a signal from outside only.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.standing().child.pidfd.as_ref().expect("a child that nobody took").as_fd()
    }

    /// The sandbox's own cgroup, if it was given one.
    pub fn cgroup(&self) -> Option<&Cgroup> {
        self.standing().cgroup.as_deref()
    }

    /// What was asked to confine the payload, and what the kernel says about it, as far as it is read before the start:
    /// [`Child::enforced`] has the rest.
    pub fn enforced(&self) -> &Enforced {
        &self.standing().verifier.report
    }

    /// Executes the payload. Its [`timeout`](crate::Command::timeout) counts from here.
    ///
    /// # Errors
    /// [`Exec`](crate::ErrorKind::Exec) if the program can't be executed, [`SetupKilled`](crate::ErrorKind::SetupKilled)
    /// if the process has ended meanwhile; else as [`Command::spawn`](crate::Command::spawn).
    pub fn start(mut self) -> Result<Child> {
        let Some((standing, supervision)) = self.standing.take() else {
            return Err(Error::invalid("it was started before"));
        };
        Ok(Child::new(standing.start()?, supervision))
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        if self.maker != std::process::id() {
            std::mem::forget(self.standing.take());
        }
    }
}

impl fmt::Debug for Paused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.standing.as_ref().map(|(standing, _)| standing.child.pid);
        f.debug_struct("Paused").field("id", &id).finish_non_exhaustive()
    }
}
