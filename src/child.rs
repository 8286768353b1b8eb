//! A running payload.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{ChildStderr, ChildStdin, ChildStdout};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use palisade_cgroup::{Cgroup, OwnedCgroup};
use palisade_procinfo::Process;
use palisade_sys::{Outcome, Step};

use crate::collector::Collector;
use crate::command::Command;
use crate::enforced::{Enforced, Subjects, Verifier};
use crate::enter::{Origin, Target};
use crate::error::{Error, ErrorKind, Result};
use crate::network::Connection;
use crate::newborn::{process_of, read_outcome};
use crate::output::collect;
use crate::plan::Supervision;
use crate::pty::Pty;
use crate::reaper;
use crate::sandbox::{Lifetime, Sandbox};
use crate::standing::Started;
use crate::status::{ExitCause, ExitStatus, ResourceUsage};
use crate::sys::{self, send_signal};

/// A payload that runs.
///
/// **Dropping it ends it**: the payload and its descendants are killed, and a thread of the library collects what is
/// left, so that a drop never blocks. That is the difference from [`std::process::Child`], whose drop leaves the
/// process running. [`Lifetime::Detached`] turns it off.
pub struct Child {
    /// The payload's standard input, if it is piped.
    pub stdin: Option<ChildStdin>,
    /// The payload's standard output, if it is piped.
    pub stdout: Option<ChildStdout>,
    /// The payload's standard error, if it is piped.
    pub stderr: Option<ChildStderr>,
    /// Our end of the payload's terminal, if it has one.
    pub pty: Option<Pty>,
    pid: u32,
    sandbox: Sandbox,
    /// That of the sandbox, which may be another child's.
    cgroup: Option<Cgroup>,
    /// Processes that the kernel had killed there for want of memory before this child was.
    killed_before: u64,
    /// Taken by drop only.
    live: Option<Live>,
    /// The process whose child it is: after a fork of the host program, the copy's drop is nobody's end.
    maker: u32,
    lifetime: Lifetime,
    deadline: Option<Instant>,
    output_limit: u64,
    status: Option<ExitStatus>,
    /// Why we killed it, if we did.
    killed_for: Option<ExitCause>,
}

/// What keeps a payload's process and cgroup.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) pidfd: Arc<OwnedFd>,
    pub(crate) cgroup: Option<OwnedCgroup>,
    /// Where an init leaves the payload's status.
    pub(crate) image: Option<OwnedFd>,
    /// The payload below an init, where it is known.
    pub(crate) workload: Option<Process>,
    /// The flags for entering its pid namespace, if that is its own: with its user namespace, if that is.
    pub(crate) pid_namespace: Option<i32>,
    pub(crate) network: Option<Connection>,
    /// Waits for it, if it entered a living sandbox; else that is for its child to do.
    pub(crate) collector: Option<Arc<Collector>>,
    /// What was read back, and how to read it again.
    pub(crate) verifier: Verifier,
}

impl Live {
    /// Kills the payload and whatever it started.
    pub(crate) fn kill_all(&self) -> Result<()> {
        let killed = self.cgroup.as_ref().map_or(Ok(()), |cgroup| cgroup.kill()).map_err(|error| {
            let errno = error.errno();
            Error::from_source(ErrorKind::Supervise, Step::Supervise, error, errno)
        });
        // In a pid namespace the payload is its init, whose end takes all others along. Both, whatever the one says.
        self.signal(libc::SIGKILL).and(killed)
    }

    /// The status of a payload that has ended, as `wait` encodes it; `ECHILD` if somebody else's wait has taken it.
    fn status(&self, pid: u32) -> io::Result<(i32, Option<ResourceUsage>)> {
        let waited = match &self.collector {
            Some(collector) => collector.get(pid).waited,
            None => sys::wait(&self.pidfd, true, false)?
                .map(|waited| (waited.status, Some(ResourceUsage::from_raw(waited.usage)))),
        };
        waited.ok_or_else(|| io::Error::from_raw_os_error(libc::ECHILD))
    }

    fn signal(&self, signal: i32) -> Result<()> {
        Self::signal_by(self.pidfd.as_fd(), signal)
    }

    pub(crate) fn signal_by(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
        match send_signal(pidfd, signal) {
            // It has ended: for a signal, that is as good as delivered.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            other => other.map_err(|error| {
                let call = format!("pidfd_send_signal(…, {signal}, NULL, 0)");
                let new = Error::call(Step::Supervise, call, &error);
                if is_signal(signal) { new } else { new.with_hint(SIGNALS) }
            }),
        }
    }
}

pub(crate) const SIGNALS: &str = "signals have the numbers 1 to 64";

pub(crate) fn is_signal(number: i32) -> bool {
    (1..=64).contains(&number)
}

/// What a payload wrote, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output, as far as it was captured.
    pub stdout: Vec<u8>,
    /// Its standard error, as far as it was captured.
    pub stderr: Vec<u8>,
}

impl Child {
    pub(crate) fn new(mut started: Started, supervision: Supervision) -> Self {
        let Supervision { sandbox, lifetime, timeout, output_limit, target } = supervision;
        let [stdin, stdout, stderr] = started.streams.each_mut().map(Option::take);
        let live = started.live.take();
        let own = live.as_ref().and_then(|live| live.cgroup.as_deref().cloned());
        let entered = target.and_then(Target::into_cgroup);
        let killed_before = entered.as_ref().map_or(0, killed_for_memory);
        Self {
            stdin: stdin.map(Into::into),
            stdout: stdout.map(Into::into),
            stderr: stderr.map(Into::into),
            pty: started.terminal.take().map(Pty::new),
            pid: started.pid,
            sandbox,
            cgroup: own.or(entered),
            killed_before,
            live,
            maker: std::process::id(),
            lifetime,
            // A time that no clock reaches is no time.
            deadline: timeout.and_then(|limit| Instant::now().checked_add(limit)),
            output_limit,
            status: None,
            killed_for: None,
        }
    }

    pub(crate) fn live(&self) -> &Live {
        self.live.as_ref().expect("only drop takes it")
    }

    /// When the time-out comes, if it is still to come.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline.filter(|_| self.killed_for.is_none())
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn output_limit(&self) -> u64 {
        self.output_limit
    }

    pub(crate) fn has_status(&self) -> bool {
        self.status.is_some()
    }

    /// The payload's pid in the host program's pid namespace; that of its init, if it has one. For signals use [`signal`](Self::signal), which can't hit
    /// another process after this one has ended.
    pub fn id(&self) -> u32 {
        self.pid
    }

    /// The id maps of its user namespace, if it has one.
    pub(crate) fn maps(&self) -> Option<palisade_creds::Maps> {
        self.sandbox.prepared.maps.as_ref().map(|prepared| prepared.maps().clone())
    }

    pub(crate) fn prepared(&self) -> &crate::prepare::Prepared {
        &self.sandbox.prepared
    }

    /// The directory of the host that is its `/dev/shm`, if it is one.
    pub(crate) fn shm(&self) -> Option<&Path> {
        self.sandbox.prepared.shm.as_deref()
    }

    /// The pidfd: readable when the payload has ended, for an event loop of one's own.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.live().pidfd.as_fd()
    }

    /// The sandbox's own cgroup, if it was given one: its statistics and events.
    pub fn cgroup(&self) -> Option<&Cgroup> {
        self.cgroup.as_ref()
    }

    /// A further program in this living sandbox: in all its namespaces (and so its root and its pids), its cgroup, under
    /// its user, with its capabilities, no_new_privs, filter, limits and environment. It has the surface of every
    /// other [`Command`].
    ///
    /// What is restricted from inside (capabilities, no_new_privs, the filter) is done anew, as it was for this payload:
    /// the restrictions are equal, not the same objects. What the payload added to its own later is not there.
    ///
    /// Nothing of the host is within reach of what runs in there already: not the host program's memory or
    /// descriptors, nor those of the process that enters, of which they see that it exists. They can stop it or end it
    /// by a signal if its user is theirs; then `spawn` is an error.
    ///
    /// The program's [`Child`] is one of its own: waited for, killed and dropped apart from this one. Killing it kills
    /// that process; what that has started stays in the sandbox, whose end is the end of all.
    ///
    /// # Errors
    /// Of `spawn`: [`ErrorKind::Gone`] if the payload has ended, or ends meanwhile.
    #[doc(alias = "nsenter")]
    pub fn exec(&self, program: impl AsRef<OsStr>) -> Command {
        let origin = Origin::Ours(self.cgroup.clone());
        let target = Target { pidfd: Arc::clone(&self.live().pidfd), origin };
        Command::new(self.sandbox.clone(), Some(target), program.as_ref())
    }

    /// What was asked to confine the payload, and what the kernel said about each when it was started.
    pub fn enforced(&self) -> &Enforced {
        &self.live().verifier.report
    }

    /// Reads the kernel back now. The payload may have changed things meanwhile, as far as it may: dropped what it
    /// had, lowered a limit, added a filter, with capabilities more than that. So a difference is no error here, and it
    /// is for the caller to judge.
    ///
    /// # Errors
    /// The payload has ended, or the host program has no /proc of its pid namespace.
    pub fn verify(&self) -> Result<Enforced> {
        let unreadable = |why: String| {
            Error::new(ErrorKind::Supervise, Step::Supervise, format!("the payload can't be read: {why}"))
        };
        let live = self.live();
        let own = std::cell::OnceCell::new();
        let process = match &live.workload {
            _ if self.status.is_some() => Err("it has ended".to_owned()),
            Some(workload) if workload.exists() => Ok(workload),
            Some(_) => Err("it has ended".to_owned()),
            None if live.image.is_some() => {
                Err("its init knows it, but SandboxBuilder::verify is off".into())
            }
            None => process_of(self.pid, self.pidfd()).map(|process| own.get_or_init(|| process)),
        };
        let process = process.map_err(unreadable)?;
        let (cgroup, network) = (self.cgroup(), live.network.as_ref());
        Ok(live.verifier.later(Subjects { process, cloned: self.pid, cgroup, network }))
    }

    /// Its place on a bridge, if [`Network::bridge`](crate::Network::bridge) gave it one: addresses, published ports.
    /// Behind the feature `net`.
    #[cfg(feature = "net")]
    pub fn port(&self) -> Option<&palisade_net::Port> {
        self.live().network.as_ref().and_then(Connection::port)
    }

    /// Sends a signal to the payload. A payload that is pid 1 of its namespace gets only signals that it has a handler
    /// for, and SIGKILL and SIGSTOP; an [`init`](crate::SandboxBuilder::init) passes on all but these two.
    ///
    /// # Errors
    /// `EINVAL` if there is no such signal, `EPERM` if the payload changed to another user.
    pub fn signal(&self, signal: i32) -> Result<()> {
        if self.status.is_some() { Ok(()) } else { self.live().signal(signal) }
    }

    /// Kills the payload and all that it started (as far as a pid namespace or a cgroup of its own holds them).
    ///
    /// # Errors
    /// As [`signal`](Self::signal).
    pub fn kill(&mut self) -> Result<()> {
        if self.status.is_some() { Ok(()) } else { self.kill_for(ExitCause::Signaled(libc::SIGKILL)) }
    }

    /// Waits until the payload has ended, closing its standard input first. Waits for at most
    /// [`Command::timeout`](crate::Command::timeout), then kills it.
    ///
    /// # Errors
    /// [`ErrorKind::StatusTaken`] where a `wait` of the host program's own has taken the status, on a kernel before 6.15.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        drop(self.stdin.take());
        loop {
            if let Some(status) = self.wait_until(self.deadline())? {
                return Ok(status);
            }
            self.kill_for(ExitCause::TimedOut)?;
        }
    }

    /// The status if the payload has ended; does not wait.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        self.wait_timeout(Duration::ZERO)
    }

    /// Waits for at most `limit`; `None` if the payload still runs then. A time-out of the command that ends earlier is
    /// kept.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let until = Instant::now().checked_add(limit);
        let deadline = self.deadline();
        let first = match (until, deadline) {
            (Some(until), Some(deadline)) => Some(until.min(deadline)),
            (until, deadline) => until.or(deadline),
        };
        if let Some(status) = self.wait_until(first)? {
            return Ok(Some(status));
        }
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            self.kill_for(ExitCause::TimedOut)?;
            return self.wait_until(until);
        }
        Ok(None)
    }

    /// Waits for the end and collects what the piped streams give, both at once, up to the command's
    /// [`output_limit`](crate::Command::output_limit) each. What a terminal shows counts as standard output.
    ///
    /// A descendant that outlives the payload and holds a stream open (possible without a pid namespace only) does not
    /// delay it: what is there when the payload has ended is collected.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_with_output(mut self) -> Result<Output> {
        drop(self.stdin.take());
        let stdout = self.stdout.take().map(OwnedFd::from);
        let stdout = stdout.or_else(|| self.pty.take().map(OwnedFd::from));
        let streams = [stdout, self.stderr.take().map(OwnedFd::from)];
        let collected = collect(streams, self.pidfd(), self.output_limit, self.deadline)
            .map_err(|error| Error::call(Step::Supervise, "poll or read", &error))?;
        if let Some(cause) = collected.stopped {
            self.kill_for(cause)?;
        }
        drop(collected.open);
        let status = self.wait()?;
        let [stdout, stderr] = collected.bytes;
        Ok(Output { status, stdout, stderr })
    }

    pub(crate) fn kill_for(&mut self, cause: ExitCause) -> Result<()> {
        self.killed_for.get_or_insert(cause);
        self.live().kill_all()
    }

    /// The status, if it comes before `until` (`None`: whenever it comes).
    fn wait_until(&mut self, until: Option<Instant>) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            let live = self.live();
            let failed = |call: &str, error: io::Error| Error::call(Step::Supervise, call.to_owned(), &error);
            if !readable(live.pidfd.as_fd(), until).map_err(|error| failed("poll", error))? {
                return Ok(None);
            }
            let (raw, usage) = match live.status(self.pid) {
                Ok(waited) => waited,
                // The host program's own wait, or its ignored SIGCHLD, was faster. (An exec makes every child one
                // that they see.) Newer kernels keep the status with the pidfd.
                Err(error) if error.raw_os_error() == Some(libc::ECHILD) => {
                    let kept = sys::kept_status(&live.pidfd).ok_or_else(|| {
                        Error::new(
                            ErrorKind::StatusTaken,
                            Step::Supervise,
                            "the status was taken by another wait",
                        )
                        .with_hint(
                            "wait for own pids instead of -1, and don't ignore SIGCHLD; or use Linux 6.15",
                        )
                    })?;
                    (kept, None)
                }
                Err(error) => return Err(failed("waitid(P_PIDFD, …, WEXITED|__WALL)", error)),
            };
            let raw = self.live().image.as_ref().map_or(Ok(raw), |image| {
                // An init that was killed left no status but its own.
                read_outcome(image).map(|left| if let Outcome::Ended(status) = left { status } else { raw })
            })?;
            self.status = Some(ExitStatus { raw, cause: self.cause(raw), usage });
        }
        Ok(self.status)
    }

    fn cause(&self, raw: i32) -> ExitCause {
        let cause = ExitStatus::cause_of(raw);
        if cause != ExitCause::Signaled(libc::SIGKILL) {
            return cause;
        }
        let out_of_memory =
            || self.cgroup().is_some_and(|cgroup| killed_for_memory(cgroup) > self.killed_before);
        match self.killed_for {
            Some(cause) => cause,
            None if out_of_memory() => ExitCause::OutOfMemory,
            None => cause,
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let Some(live) = self.live.take() else { return };
        if self.maker != std::process::id() {
            return; // an OwnedCgroup looks at its own maker
        }
        match (self.lifetime, self.status) {
            (_, Some(_)) if live.cgroup.is_none() => {}
            (Lifetime::Detached, _) => reaper::leave(live),
            (Lifetime::Host, status) => reaper::end(live, status.is_some()),
        }
    }
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child").field("id", &self.pid).field("status", &self.status).finish_non_exhaustive()
    }
}

fn killed_for_memory(cgroup: &Cgroup) -> u64 {
    cgroup.memory_events().map_or(0, |events| events.oom_kill)
}

/// Polls a descriptor until it can be read (a pidfd: its process has ended) or `until` is over.
pub(crate) fn readable(descriptor: BorrowedFd<'_>, until: Option<Instant>) -> io::Result<bool> {
    loop {
        let mut fds = [PollFd::new(descriptor, PollFlags::POLLIN)];
        match poll(&mut fds, poll_time(until)) {
            Ok(0) if until.is_some_and(|until| until <= Instant::now()) => return Ok(false),
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Time until `until` for poll, rounded up; at most what poll takes, so a caller looks at the clock again.
pub(crate) fn poll_time(until: Option<Instant>) -> PollTimeout {
    let Some(until) = until else { return PollTimeout::NONE };
    let left = until.saturating_duration_since(Instant::now());
    let millis = left.as_nanos().div_ceil(1_000_000);
    PollTimeout::try_from(millis.min(i32::MAX as u128) as i32).unwrap_or(PollTimeout::MAX)
}
