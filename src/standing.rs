//! A child that has all that the host program does for it: its way to the payload, and what came of that.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use palisade_cgroup::OwnedCgroup;
use palisade_sys::{Outcome, Step};

use crate::child::{Live, readable};
use crate::collector::{Collector, ends_as, last_stat};
use crate::control::{Word, go, hear, hear_the_end, unheard};
use crate::enforced::{Subjects, Verifier};
use crate::enter::Target;
use crate::error::{Error, ErrorKind, Result};
use crate::network::Connection;
use crate::newborn::{Newborn, read_outcome};
use crate::order::WORD_OF_PAUSE;
use crate::plan::Plan;
use crate::reaper;
use crate::spawner::{self, Thread};
use crate::sys;
use crate::tracing::{step, tell};

/// How long a killed set-up may take to go, before the thread that waits for it is left behind.
pub(crate) const LAST_GRACE: Duration = Duration::from_secs(10);

/// A process that has executed the payload.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) pid: u32,
    /// Taken by the `Child` that it becomes.
    pub(crate) live: Option<Live>,
    /// Our ends of the piped standard streams.
    pub(crate) streams: [Option<OwnedFd>; 3],
    /// Our end of its terminal.
    pub(crate) terminal: Option<OwnedFd>,
}

impl Drop for Started {
    /// Nobody waits for it any more.
    fn drop(&mut self) {
        if let Some(live) = self.live.take() {
            reaper::end(live, false);
        }
    }
}

/// A process that has everything it needs, and is on its own way to its payload or waits before it.
#[derive(Debug)]
pub(crate) struct Standing {
    // First: it is killed and waited for before its cgroup is removed.
    pub(crate) child: Newborn,
    pub(crate) control: UnixStream,
    pub(crate) image: OwnedFd,
    pub(crate) name: [u8; 15],
    pub(crate) cgroup: Option<OwnedCgroup>,
    pub(crate) network: Option<Connection>,
    pub(crate) streams: [Option<OwnedFd>; 3],
    pub(crate) terminal: Option<OwnedFd>,
    /// Waits for it, if it entered a living sandbox.
    pub(crate) collector: Option<Arc<Collector>>,
    pub(crate) verifier: Verifier,
    pub(crate) plan: Plan,
}

impl Standing {
    /// Waits until the child waits for its start.
    pub(crate) fn pause(mut self) -> Result<Self> {
        loop {
            match hear(&self.control).map_err(|error| unheard(&error))? {
                Some(Word { byte: WORD_OF_PAUSE, .. }) => break,
                Some(word) => {
                    self.terminal = self.terminal.take().or(word.descriptor.filter(|_| self.plan.terminal));
                }
                None => {
                    let ended = conclude(&self.plan, &self.image, &self.name, &self.child, None);
                    let error = ended.err().unwrap_or_else(timed_out);
                    return Err(explained(self.plan.target.clone(), error));
                }
            }
        }
        self.child = self.child.renew().ok_or_else(timed_out)?;
        Ok(self)
    }

    /// Lets a child that waits for it execute its payload. Not on the thread that made the child.
    pub(crate) fn start(self) -> Result<Started> {
        let until = Instant::now().checked_add(self.plan.setup_timeout);
        match go(&self.control, Step::Pause) {
            Ok(()) => self.executed(until),
            Err(error) => Err(explained(self.plan.target.clone(), error)),
        }
    }

    /// Writes a child that waits at its gate down, and leaves it to itself.
    pub(crate) fn leave(self) -> Result<()> {
        let (Some(store), Some(pidfd)) = (&self.plan.store, &self.child.pidfd) else {
            return Err(timed_out());
        };
        store.complete(self.child.pid, pidfd.as_fd(), self.cgroup.as_deref(), &self.plan.stage)?;
        go(&self.control, Step::Pause)?;
        let Self { child, cgroup, network, collector, verifier, .. } = self;
        let (_, pidfd) = child.take().ok_or_else(timed_out)?;
        reaper::leave(Live {
            pidfd: Arc::new(pidfd),
            cgroup,
            network,
            collector,
            image: None,
            pid_namespace: None,
            workload: None,
            verifier,
        });
        Ok(())
    }

    /// Waits until the payload is executed, at most `until` then. Not on the thread that made the child, which waits for
    /// what has entered a living sandbox.
    pub(crate) fn executed(mut self, until: Option<Instant>) -> Result<Started> {
        let (target, limit) = (self.plan.target.clone(), self.plan.setup_timeout);
        let watch = self.child.watch();
        let mut closed = step(Step::Exec, || self.hear_the_end(until));
        if let Ok(false) = closed {
            watch.expire();
            closed = self.hear_the_end(Some(Instant::now() + LAST_GRACE));
        }
        let late = watch.expired();
        let result = match closed {
            Ok(true) => self.concluded(),
            Ok(false) => {
                // It hangs in the kernel, where no signal reaches. Somebody else waits for that.
                let left = spawner::start(Thread::Any, move |_| {
                    drop(self);
                    Ok(())
                });
                return Err(left.err().unwrap_or_else(|| over(limit, Step::Stage)));
            }
            Err(error) => Err(unheard(&error)),
        };
        match result {
            Err(error) if late => Err(over(limit, error.step())),
            result => result.map_err(|error| explained(target, error)),
        }
    }

    /// Whether the socket has closed, which it does when the payload is executed, or when the child ends.
    fn hear_the_end(&mut self, until: Option<Instant>) -> io::Result<bool> {
        hear_the_end(&self.control, until, |word| {
            self.terminal = self.terminal.take().or(word.descriptor.filter(|_| self.plan.terminal));
        })
    }

    /// What came of it, once the socket has closed.
    fn concluded(self) -> Result<Started> {
        let Self {
            mut child,
            image,
            name,
            cgroup,
            network,
            streams,
            terminal,
            collector,
            mut verifier,
            plan,
            ..
        } = self;
        tell(&plan.stage, &plan.marks, &image);
        conclude(&plan, &image, &name, &child, collector.as_deref())?;
        if plan.verify {
            let (cloned, cgroup) = (child.pid, cgroup.as_deref());
            let subjects = |process| Subjects { process, cloned, cgroup, network: network.as_ref() };
            child.payload().map_or(Ok(()), |process| verifier.after_exec(subjects(process)))?;
        }
        if plan.terminal && terminal.is_none() {
            let new = Error::new(ErrorKind::Setup, Step::Stdio, "the stage sent no terminal");
            return Err(new.with_hint("the host program has no descriptor left (RLIMIT_NOFILE)"));
        }
        let workload = child.take_workload();
        let (pid, pidfd) = child.take().ok_or_else(timed_out)?;
        let live = Live {
            pidfd: Arc::new(pidfd),
            cgroup,
            network,
            collector,
            image: plan.init.then_some(image),
            pid_namespace: plan.pid_namespace,
            workload,
            verifier,
        };
        Ok(Started { pid, live: Some(live), streams, terminal })
    }
}

/// The time for set-up is over.
pub(crate) fn over(limit: Duration, step: Step) -> Error {
    let new = Error::new(ErrorKind::SetupTimeout, step, format!("set-up did not end within {limit:?}"));
    new.with_hint(
        "a path on a dead network mount, a frozen cgroup, an overloaded machine, or a process that was forked meanwhile \
         and executes nothing; SandboxBuilder::setup_timeout sets the time",
    )
}

pub(crate) fn explained(target: Option<Target>, error: Error) -> Error {
    match target {
        Some(target) => target.explain(error),
        None => error,
    }
}

/// For the spawner thread's side: the caller makes its own, with the time.
pub(crate) fn timed_out() -> Error {
    Error::new(ErrorKind::SetupTimeout, Step::Stage, "killed, since the time for set-up was over")
}

/// Decides from what the stage left in its image whether the payload was executed. `collector`: who waits for the child,
/// if that is not the caller.
pub(crate) fn conclude(
    plan: &Plan,
    image: &OwnedFd,
    name: &[u8; 15],
    child: &Newborn,
    collector: Option<&Collector>,
) -> Result<()> {
    let outcome = read_outcome(image)?;
    match outcome {
        Outcome::Failed(fault) => return Err(plan.stage_error(fault)),
        Outcome::Executed | Outcome::Ended(_) => return Ok(()),
        // Below an init, only that knows.
        Outcome::Executing if !plan.init && !died_as_stage(child, name, collector)? => return Ok(()),
        _ => {}
    }
    let begun = matches!(outcome, Outcome::Executing | Outcome::Lost(_));
    let step = if begun { Step::Exec } else { Step::Stage };
    let ended = |pidfd: &OwnedFd| {
        // It ends soon; what hangs in the kernel is not waited for here.
        let ended = readable(pidfd.as_fd(), Some(Instant::now() + LAST_GRACE)).unwrap_or(false);
        let waited = if ended { sys::wait(pidfd, false, true).ok().flatten() } else { None };
        waited.map(|waited| waited.status).or_else(|| sys::kept_status(pidfd))
    };
    let status = match (outcome, collector, &child.pidfd) {
        (Outcome::Lost(status), ..) => Some(status),
        (_, Some(collector), _) => collector.get(child.pid).waited.map(|(status, _)| status),
        (_, None, pidfd) => pidfd.as_ref().and_then(ended),
    };
    let how = status.map_or("it ended".into(), |status| ExitStatus::from_raw(status).to_string());
    let what = format!("the child did not come to its payload: {how}");
    let hint = match status.map(|status| status & 0x7f) {
        Some(libc::SIGSYS) => "the seccomp filter kills execve: allow it",
        Some(libc::SIGKILL) if plan.cgroup.is_some() => {
            "killed from outside, or the cgroup's memory.max is too small even to begin"
        }
        _ => "killed from outside, by the kernel for want of memory, or by a limit",
    };
    Err(Error::new(ErrorKind::SetupKilled, step, what).with_hint(hint))
}

/// Whether the child was killed before its payload's image replaced the stage's: a process keeps the name that its last
/// exec gave it, as a zombie too, and the name that the stage gave itself is one that no payload knows.
///
/// Whether it has ended would be too late a question: a process that is killed closes its descriptors some time before.
///
/// Somebody else's `wait` may have taken it meanwhile, or an ignored SIGCHLD: then the kernel's note of how it ended decides,
/// and what died by a signal counts as killed. Before Linux 6.15 there is none.
fn died_as_stage(child: &Newborn, name: &[u8; 15], collector: Option<&Collector>) -> Result<bool> {
    let unread = |error| Error::call(Step::Exec, "read /proc/PID/stat", &error);
    if let Some(stat) = last_stat(child.pid).map_err(unread)? {
        return Ok(ends_as(&stat, name));
    }
    let signaled = |status: i32| status & 0x7f != 0;
    Ok(match collector {
        Some(collector) => {
            let collected = collector.get(child.pid);
            collected.as_stage && collected.waited.is_some_and(|(status, _)| signaled(status))
        }
        None => child.pidfd.as_ref().and_then(sys::kept_status).is_some_and(signaled),
    })
}
