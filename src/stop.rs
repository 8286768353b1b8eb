//! Ending a payload with all that it started: a signal, some time, then the end.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use palisade_cgroup::Cgroup;
use palisade_creds::{Capability, CapabilitySet};
use palisade_sys::{FD_PASSED, Fd, Program, Step};

use crate::child::{Child, Live, SIGNALS, is_signal, readable};
use crate::error::{Error, Result};
use crate::newborn::run_helper;
use crate::spawner::{self, Thread};
use crate::status::ExitStatus;
use crate::sys;

impl Child {
    /// Sends a signal to the payload and everything that it started.
    ///
    /// With a pid namespace of its own a helper process enters that and signals all of it at once. Without one, the
    /// members of its cgroup get the signal one by one; with neither, the payload alone.
    ///
    /// # Errors
    /// As [`signal`](Self::signal), and what starting a process may fail with.
    pub fn signal_tree(&self, signal: i32) -> Result<()> {
        if self.has_status() { Ok(()) } else { Tree::of(self.live())?.signal(signal) }
    }

    /// Asks the payload and everything that it started to end, by `signal` (SIGTERM, mostly), and kills what is left
    /// after `grace`. Returns when the payload has ended, however that was.
    ///
    /// The end of the payload is the end of its pid namespace: the kernel kills the others then, `grace` or not. Without
    /// one, the rest of its cgroup has what is left of `grace`. A payload that is pid 1 itself is not ended by a signal
    /// that it has no handler for, and so by the kill: [`init`](crate::SandboxBuilder::init) helps.
    ///
    /// # Errors
    /// As [`signal_tree`](Self::signal_tree) (all is killed and waited for then, too) and [`wait`](Self::wait).
    pub fn stop(&mut self, signal: i32, grace: Duration) -> Result<ExitStatus> {
        let until = Instant::now().checked_add(grace);
        let asked = self.signal_tree(signal);
        // Whatever fails, the kill comes.
        let waited = match asked.as_ref().map(|()| self.wait_timeout(grace)) {
            Ok(Ok(Some(_))) => self.live().rest().map_or(Ok(()), |cgroup| wait_until_empty(&cgroup, until)),
            Ok(Ok(None)) | Err(_) => Ok(()),
            Ok(Err(error)) => Err(error),
        };
        self.live().kill_all()?;
        let status = self.wait()?;
        waited.and(asked).map(|()| status)
    }
}

impl Live {
    /// The cgroup that may hold more than the payload's end has ended.
    pub(crate) fn rest(&self) -> Option<Cgroup> {
        self.cgroup.as_deref().filter(|_| self.pid_namespace.is_none()).cloned()
    }
}

/// Waits until a cgroup is empty, at most until a time.
pub(crate) fn wait_until_empty(cgroup: &Cgroup, until: Option<Instant>) -> Result<()> {
    let left = until.map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
    let watch = cgroup.watch::<palisade_cgroup::Events>();
    match watch.and_then(|mut watch| watch.wait_until(left, |events| !events.populated)) {
        // No errno: the time is over, and what is left is for the kill.
        Err(error) if error.errno().is_some() => Err(of_cgroup(error)),
        _ => Ok(()),
    }
}

/// What of a payload gets a signal: held by descriptors of its own, so that it can be sent from any thread.
#[derive(Debug)]
pub(crate) struct Tree {
    pidfd: OwnedFd,
    pid_namespace: Option<i32>,
    cgroup: Option<Cgroup>,
    init: bool,
}

impl Tree {
    pub(crate) fn of(live: &Live) -> Result<Self> {
        let pidfd = live.pidfd.try_clone();
        Ok(Self {
            pidfd: pidfd.map_err(|error| Error::call(Step::Supervise, "fcntl(F_DUPFD_CLOEXEC)", &error))?,
            pid_namespace: live.pid_namespace,
            cgroup: live.cgroup.as_deref().cloned(),
            init: live.image.is_some(),
        })
    }

    pub(crate) fn signal(&self, signal: i32) -> Result<()> {
        if !is_signal(signal) {
            let error = io::Error::from_raw_os_error(libc::EINVAL);
            let new = Error::call(Step::Supervise, format!("kill(…, {signal})"), &error);
            return Err(new.with_hint(SIGNALS));
        }
        match (self.pid_namespace, &self.cgroup) {
            (Some(namespaces), _) => {
                self.signal_others(namespaces, signal)?;
                // An init would pass it on to the payload, which has had it with the others.
                if self.init { Ok(()) } else { self.signal_payload(signal) }
            }
            (None, Some(cgroup)) => signal_members(cgroup, signal),
            (None, None) => self.signal_payload(signal),
        }
    }

    fn signal_payload(&self, signal: i32) -> Result<()> {
        Live::signal_by(self.pidfd.as_fd(), signal)
    }

    /// All of the pid namespace but its pid 1, by one `kill(-1)` in there. The helper that makes it was executed outside,
    /// so nothing inside can attach to it, whatever capabilities it has there.
    fn signal_others(&self, namespaces: i32, signal: i32) -> Result<()> {
        let mut p = Program::new();
        p.at(Step::Supervise, format!("signal {signal} to the pid namespace"));
        p.close_on_exec_from(3);
        p.prctl(libc::PR_SET_DUMPABLE, [0; 4]);
        if namespaces & libc::CLONE_NEWUSER == 0 {
            // Then a capability of theirs reaches us in there: so we have their root, and nothing but what is needed.
            p.setns(Fd::number(FD_PASSED), namespaces | libc::CLONE_NEWNS);
            let kill = CapabilitySet::EMPTY.with(Capability::Kill).bits();
            p.capset(kill, kill, 0);
        } else {
            p.setns(Fd::number(FD_PASSED), namespaces);
        }
        p.close(Fd::number(FD_PASSED));
        let (parent, end) = (p.forward(), p.forward());
        let child = p.fork();
        p.branch(parent);
        p.kill(-1, signal);
        p.tolerate(&[libc::ESRCH]); // there is only pid 1
        p.getpid();
        p.branch(end);
        p.land(parent);
        let status = p.wait_for_child(child);
        // Its exit code. A signal: the end of the namespace was faster.
        p.check(status, 0xff00, 0, libc::EPERM);
        p.land(end);
        let pidfd = self.pidfd.try_clone();
        let pidfd = pidfd.map_err(|error| Error::call(Step::Supervise, "fcntl(F_DUPFD_CLOEXEC)", &error))?;
        let done = spawner::start(Thread::Any, move |bench| run_helper(&p, &[pidfd], bench))?;
        match done.recv().unwrap_or_else(|_| Err(spawner::panicked())) {
            // Pid 1 has ended, and the namespace with it.
            Err(_) if readable(self.pidfd.as_fd(), Some(Instant::now() + LAST_MOMENTS)).unwrap_or(false) => {
                Ok(())
            }
            other => other,
        }
    }
}

/// How long a pid namespace whose pid 1 is ending may take to be over.
const LAST_MOMENTS: Duration = Duration::from_millis(500);

/// Passes over the members of a cgroup until one finds nobody new: who forks faster is for the kill.
const PASSES: usize = 10;

fn signal_members(cgroup: &Cgroup, signal: i32) -> Result<()> {
    let mut told = BTreeSet::new();
    for _ in 0..PASSES {
        let mut groups = vec![cgroup.clone()];
        let mut more = false;
        while let Some(group) = groups.pop() {
            groups.extend(group.children().map_err(of_cgroup)?);
            for pid in group.procs().map_err(of_cgroup)? {
                if told.insert(pid) {
                    more = true;
                    signal_member(&group, pid, signal)?;
                }
            }
        }
        if !more {
            break;
        }
    }
    Ok(())
}

fn signal_member(group: &Cgroup, pid: u32, signal: i32) -> Result<()> {
    let failed = |error: &io::Error| Error::call(Step::Supervise, format!("pidfd_open({pid}, 0)"), error);
    let pidfd = match sys::pidfd_open(pid) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
        pidfd => pidfd.map_err(|error| failed(&error))?,
    };
    // Still a member after it was opened: the number was not somebody else's by then.
    if group.procs().map_err(of_cgroup)?.contains(&pid) {
        Live::signal_by(pidfd.as_fd(), signal)?;
    }
    Ok(())
}

fn of_cgroup(error: palisade_cgroup::Error) -> Error {
    let errno = error.errno();
    Error::from_source(crate::ErrorKind::Supervise, Step::Supervise, error, errno)
}
