//! One spawn, on a spawner thread: from a plan to a process that executes the payload.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, send};
use palisade_cgroup::{Cgroup, OwnedCgroup};
use palisade_sys::{Outcome, Step};

use crate::child::{Live, readable};
use crate::collector::{Collector, Watched, is_exiting, last_stat};
use crate::enforced::{Own, OwnNamespaces, Phase, Subjects, Verifier};
use crate::enter::{Target, Way, follow};
use crate::error::{Error, ErrorKind, Result};
use crate::guard;
use crate::namespaces::joined;
use crate::network::Connection;
use crate::newborn::{Newborn, Watch, control_sockets, read_outcome};
use crate::order::{WORD_OF_PAUSE, WORD_OF_VERIFICATION, WORD_OF_VIEW};
use crate::plan::Plan;
use crate::reaper;
use crate::spawner::{self, Bench, Thread};
use crate::stage;
use crate::stdio::Opened;
use crate::sys::{self, adopt, run_here, shared_image};
use crate::tracing::{Spawn, step, tell};

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

/// How long a killed set-up may take to go, before the thread that waits for it is left behind.
const LAST_GRACE: Duration = Duration::from_secs(10);

/// Runs a plan on a spawner thread and waits until its payload is executed, at most for the plan's set-up time.
pub(crate) fn launch(plan: Plan) -> Result<Started> {
    let (limit, which) = (plan.setup_timeout, plan.thread());
    let until = Instant::now().checked_add(limit);
    let spawn = Spawn::of(plan.program());
    let inside = spawn.clone();
    let standing = supervise(limit, which, move |bench, watch| inside.within(|| stand(plan, bench, watch)));
    // The exec wakes the caller itself: a thread between the two would only cost its own waking.
    let started = standing.and_then(|standing| spawn.within(|| standing.executed(until)));
    spawn.ends(&started, |started| started.pid);
    started
}

/// Runs a plan until its child waits for its start.
pub(crate) fn launch_paused(plan: Plan) -> Result<Standing> {
    let (limit, which) = (plan.setup_timeout, plan.thread());
    let spawn = Spawn::of(plan.program());
    let inside = spawn.clone();
    let standing =
        supervise(limit, which, move |bench, watch| inside.within(|| stand(plan, bench, watch)?.pause()));
    spawn.ends(&standing, |standing| standing.child.pid);
    standing
}

/// Does some work of a set-up on a spawner thread, at most for a time.
fn supervise<T: Send + 'static>(
    limit: Duration,
    which: Thread,
    work: impl FnOnce(&mut Bench, &Arc<Watch>) -> Result<T> + Send + 'static,
) -> Result<T> {
    let watch = Arc::<Watch>::default();
    let seen = Arc::clone(&watch);
    let result = spawner::start(which, move |bench| work(bench, &seen))?;
    match result.recv_timeout(limit) {
        Ok(done) => done,
        Err(RecvTimeoutError::Disconnected) => Err(spawner::panicked()),
        Err(RecvTimeoutError::Timeout) => {
            let step = match wait_for_the_late(&watch, &result) {
                // It was ready at the last moment, and was not killed.
                Some(Ok(started)) => return Ok(started),
                Some(Err(error)) => error.step(),
                None => Step::Prepare,
            };
            Err(over(limit, step))
        }
    }
}

/// The time for set-up is over.
fn over(limit: Duration, step: Step) -> Error {
    let new = Error::new(ErrorKind::SetupTimeout, step, format!("set-up did not end within {limit:?}"));
    new.with_hint(
        "a path on a dead network mount, a frozen cgroup or an overloaded machine; \
         SandboxBuilder::setup_timeout sets the time",
    )
}

/// Kills the set-up, again and again since it may only be on its way to a child, and gives what comes of it. `None`: it
/// hangs where no signal reaches, on the host program's side or in the kernel.
fn wait_for_the_late<T>(watch: &Watch, result: &Receiver<Result<T>>) -> Option<Result<T>> {
    let until = Instant::now() + LAST_GRACE;
    while Instant::now() < until {
        watch.expire();
        match result.recv_timeout(Duration::from_millis(50)) {
            Ok(done) => return Some(done),
            Err(RecvTimeoutError::Disconnected) => return Some(Err(spawner::panicked())),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
    None
}

/// A process that has everything it needs, and is on its own way to its payload or waits before it.
#[derive(Debug)]
pub(crate) struct Standing {
    // First: it is killed and waited for before its cgroup is removed.
    pub(crate) child: Newborn,
    control: UnixStream,
    image: OwnedFd,
    name: [u8; 15],
    pub(crate) cgroup: Option<OwnedCgroup>,
    network: Option<Connection>,
    streams: [Option<OwnedFd>; 3],
    terminal: Option<OwnedFd>,
    /// Waits for it, if it entered a living sandbox.
    collector: Option<Arc<Collector>>,
    pub(crate) verifier: Verifier,
    pub(crate) plan: Plan,
}

/// Carries a plan out as far as the host program's side has anything to do.
fn stand(plan: Plan, bench: &mut Bench, watch: &Arc<Watch>) -> Result<Standing> {
    match plan.target.clone() {
        None => perform(plan, None, bench, watch),
        Some(target) => {
            let way = target.look(plan.sandbox())?;
            perform(plan, Some(&way), bench, watch).map_err(|error| target.explain(error))
        }
    }
}

fn perform(plan: Plan, way: Option<&Way>, bench: &mut Bench, watch: &Arc<Watch>) -> Result<Standing> {
    let stage = stage::stage()?;
    let prepare = |call: &'static str| move |error: io::Error| Error::call(Step::Prepare, call, &error);

    let cgroup = step(Step::Cgroup, || plan.make_cgroup(bench))?;
    // Where the child will be: queues are those of the ipc namespace.
    let trees = step(Step::Sources, || joined(&plan.joins, || take_trees(&plan)))?;
    let [stdin, stdout, stderr] = open_streams(&plan)?;
    let (control, theirs) = control_sockets()?;
    let (image, name) = plan.stage_image(way);
    let image = image.to_bytes();
    let image = match &plan.store {
        Some(store) => {
            store.begin(cgroup.as_deref())?;
            store.image(&image)?
        }
        None => shared_image(&image).map_err(prepare("memfd_create(\"palisade-image\")"))?,
    };

    let standard = [&stdin, &stdout, &stderr].map(|stream| stream.child.number());
    let target = plan.target.iter().map(|target| &*target.pidfd);
    let declared = target.chain(plan.descriptors()).map(AsRawFd::as_raw_fd);
    let passed = trees.iter().map(AsRawFd::as_raw_fd).chain(plan.pod()).chain(declared);
    let own = [theirs.as_raw_fd(), image.as_raw_fd()];
    let mut prologue = plan.prologue.image(standard.into_iter().chain(own).chain(passed), stage.as_raw_fd());

    let entered = way.and_then(|way| way.cgroup.as_ref()).map(AsFd::as_fd);
    let into = cgroup.as_ref().map(AsFd::as_fd).or(entered);
    let mut child = step(Step::Clone, || {
        joined(&plan.joins, || {
            Newborn::clone(plan.clone_flags, into, Arc::clone(watch), bench, &mut prologue)
                .map_err(|error| plan.clone_error(&error))
        })
    })?;
    drop(theirs);
    if watch.expired() {
        return Err(timed_out()); // the drop kills it
    }
    if let Outcome::Failed(fault) = prologue.outcome() {
        return Err(Error::explained(plan.prologue.program.explain(fault)));
    }

    let mut collector = None;
    if let Some(position) = plan.position_of_pid() {
        let followed = follow(&mut child, &image, position, &control)
            .map_err(|error| Error::call(Step::Join, "wait for the process that entered", &error))?;
        if !followed {
            return Err(conclude(&plan, &image, &name, &child, None).err().unwrap_or_else(timed_out));
        }
        let watched = Watched { pid: child.pid, name, collector: Arc::default() };
        collector = Some(Arc::clone(&watched.collector));
        bench.watched = Some(watched);
    }
    let maps = plan.maps.as_ref().map_or(Ok(()), |maps| step(Step::IdMaps, || child.give_maps(maps)));
    let given = maps
        .and_then(|()| plan.oom_score_adj.map_or(Ok(()), |adjustment| child.set_oom_score_adj(adjustment)));
    if let Err(error) = given {
        // A stage that failed or ended meanwhile says why in its image, which is the better answer. It may be on its
        // way out still.
        let ended = child.pidfd.as_ref().is_some_and(ends_soon);
        return Err(if ended {
            conclude(&plan, &image, &name, &child, None).err().unwrap_or(error)
        } else {
            error
        });
    }
    if plan.guard {
        let watch_over = |pidfd: &OwnedFd| guard::watch_over(pidfd.as_fd(), bench);
        step(Step::ParentDeath, || child.pidfd.as_ref().map_or(Ok(()), watch_over))?;
    }
    let network = plan.wiring.as_ref().map(|wiring| wiring.connect(&child, bench)).transpose()?;
    if plan.waits {
        go(&control, Step::IdMaps)?;
    }
    let streams = [stdin.parent, stdout.parent, stderr.parent];
    let group = cgroup.as_deref().or(way.and_then(|way| way.cgroup.as_ref()));
    let mut terminal = None;
    let verifier = step(Step::Verification, || {
        verify(&plan, &mut child, &control, &mut terminal, (group, network.as_ref()), bench)
    })?;
    Ok(Standing {
        child,
        control,
        image,
        name,
        cgroup,
        network,
        streams,
        terminal,
        collector,
        verifier,
        plan,
    })
}

/// Reads back what became of the restrictions: what is final early while the stage goes on, the rest while it waits
/// for that.
fn verify(
    plan: &Plan,
    child: &mut Newborn,
    control: &UnixStream,
    terminal: &mut Option<OwnedFd>,
    (cgroup, network): (Option<&Cgroup>, Option<&Connection>),
    bench: &Bench,
) -> Result<Verifier> {
    if !plan.verify {
        return Ok(Verifier::unread(&plan.asked, "SandboxBuilder::verify is off"));
    }
    let own = match bench.own_namespaces.get() {
        Some(own) => own,
        None => {
            let read = OwnNamespaces::read()?;
            bench.own_namespaces.get_or_init(|| read)
        }
    };
    let own = Own::new(own, plan.target.as_ref())?;
    let mut verifier = Verifier::new(&plan.asked, own);
    let cloned = child.pid;
    // Where its directory in /proc can't be had, that is said at the end.
    let mut look = |child: &Newborn, phase| {
        if let Ok(process) = child.process() {
            verifier.look(phase, Subjects { process, cloned, cgroup, network });
        }
    };
    look(child, Phase::Born);
    let sender = loop {
        match hear(control).map_err(|error| unheard(&error))? {
            Some(Word { byte: WORD_OF_VERIFICATION, sender, .. }) => break sender,
            Some(Word { byte: WORD_OF_VIEW, .. }) => look(child, Phase::View),
            Some(word) => *terminal = terminal.take().or(word.descriptor.filter(|_| plan.terminal)),
            None => return Ok(Verifier::unread(&plan.asked, "it has ended")),
        }
    };
    if let (true, Some(workload)) = (plan.init, sender) {
        child.leads(workload);
    }
    let read = match child.payload() {
        Ok(process) => verifier.before_exec(Subjects { process, cloned, cgroup, network }),
        Err(why) => {
            let error = Error::new(ErrorKind::NotEnforced, Step::Verification, why);
            Err(error.with_hint("SandboxBuilder::verify(false) goes on without reading back"))
        }
    };
    if let Err(error) = read {
        // A process on its way out has given up much already. That it came to its payload is found to be false later.
        if !child.pidfd.as_ref().is_some_and(ends_soon) {
            return Err(error);
        }
        verifier = Verifier::unread(&plan.asked, "it has ended");
    }
    go(control, Step::Verification)?;
    Ok(verifier)
}

fn unheard(error: &io::Error) -> Error {
    Error::call(Step::Stage, "recvmsg from the stage", error)
}

/// Sends the stage the byte that it waits for.
fn go(control: &UnixStream, step: Step) -> Result<()> {
    match send(control.as_raw_fd(), &[1], MsgFlags::MSG_NOSIGNAL) {
        // EPIPE: it has ended already; why is in the image.
        Ok(_) | Err(nix::errno::Errno::EPIPE | nix::errno::Errno::ECONNRESET) => Ok(()),
        Err(errno) => Err(Error::call(step, "send to the stage", &errno.into())),
    }
}

impl Standing {
    /// Waits until the child waits for its start.
    fn pause(mut self) -> Result<Self> {
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
        while readable(self.control.as_fd(), until)? {
            let Some(word) = hear(&self.control)? else { return Ok(true) };
            // A payload that attached to its init could send more.
            self.terminal = self.terminal.take().or(word.descriptor.filter(|_| self.plan.terminal));
        }
        Ok(false)
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

fn explained(target: Option<Target>, error: Error) -> Error {
    match target {
        Some(target) => target.explain(error),
        None => error,
    }
}

/// Whether a process ends within the time that an exit may take.
fn ends_soon(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, 200u8).is_ok_and(|count| count > 0)
}

/// For the spawner thread's side: the caller makes its own, with the time.
fn timed_out() -> Error {
    Error::new(ErrorKind::SetupTimeout, Step::Stage, "killed, since the time for set-up was over")
}

/// The detached copies of mounts that a privileged host program takes for its child.
fn take_trees(plan: &Plan) -> Result<Vec<OwnedFd>> {
    let mut image = plan.sources.image();
    let outcome = run_here(&mut image);
    // What was opened is owned first, so that nothing stays open whatever happened; what is no tree closes here.
    let mut opened: Vec<(i32, OwnedFd)> =
        plan.sources.open_descriptors(&image).into_iter().map(|fd| (fd, adopt(fd))).collect();
    outcome.map_err(|fault| plan.source_error(fault))?;
    let mut take = |slot| {
        let number = image.slot(slot) as i32;
        let at = opened.iter().position(|(fd, _)| *fd == number).expect("a tree's slot holds a descriptor");
        sys::above_stdio(opened.swap_remove(at).1)
    };
    let trees: io::Result<_> = plan.source_slots.iter().map(|&slot| take(slot)).collect();
    trees.map_err(|error| Error::call(Step::Sources, "fcntl(F_DUPFD_CLOEXEC)", &error))
}

fn open_streams(plan: &Plan) -> Result<[Opened; 3]> {
    let mut null = None;
    let mut open = |n: usize| {
        plan.stdio[n].open(n as i32, &mut null).map_err(|error| {
            Error::call(Step::Stdio, "open", &error).with_object(["stdin", "stdout", "stderr"][n])
        })
    };
    Ok([open(0)?, open(1)?, open(2)?])
}

/// A byte of the stage's, and what came with it.
pub(crate) struct Word {
    byte: u8,
    /// The pid of the process that said it, here.
    pub(crate) sender: Option<u32>,
    descriptor: Option<OwnedFd>,
}

/// Waits until the stage says a word, which it does when it waits for us or sends something; `None` when the socket has
/// closed.
pub(crate) fn hear(control: &UnixStream) -> io::Result<Option<Word>> {
    loop {
        match hear_once(control) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The child ended with the go byte unread.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            other => return other,
        }
    }
}

fn hear_once(control: &UnixStream) -> io::Result<Option<Word>> {
    let (mut byte, mut space) = ([0], nix::cmsg_space!([i32; 1], UnixCredentials));
    let mut into = [io::IoSliceMut::new(&mut byte)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(control.as_raw_fd(), &mut into, Some(&mut space), flags)?;
    let (mut sender, mut received) = (None, Vec::new());
    for part in message.cmsgs()? {
        match part {
            ControlMessageOwned::ScmRights(numbers) => received.extend(numbers.into_iter().map(adopt)),
            ControlMessageOwned::ScmCredentials(who) => sender = u32::try_from(who.pid()).ok(),
            _ => {}
        }
    }
    if message.bytes == 0 {
        return Ok(None);
    }
    let descriptor = received.pop().map(sys::above_stdio).transpose()?;
    Ok(Some(Word { byte: byte[0], sender, descriptor }))
}

/// Decides from what the stage left in its image whether the payload was executed. `collector`: who waits for the child,
/// if that is not the caller.
fn conclude(
    plan: &Plan,
    image: &OwnedFd,
    name: &[u8; 15],
    child: &Newborn,
    collector: Option<&Collector>,
) -> Result<()> {
    match read_outcome(image)? {
        Outcome::Failed(fault) => Err(plan.stage_error(fault)),
        Outcome::Executed | Outcome::Ended(_) => Ok(()),
        // Below an init, only that knows.
        Outcome::Executing if !plan.init && !died_as_stage(child, name, collector) => Ok(()),
        outcome => {
            let begun = matches!(outcome, Outcome::Executing | Outcome::Lost(_));
            let step = if begun { Step::Exec } else { Step::Stage };
            let status = match (outcome, collector, &child.pidfd) {
                (Outcome::Lost(status), ..) => Some(status),
                (_, Some(collector), _) => collector.get(child.pid).waited.map(|(status, _)| status),
                (_, None, Some(pidfd)) => {
                    sys::wait(pidfd, true, true).ok().flatten().map(|waited| waited.status)
                }
                (_, None, None) => None,
            };
            let how = status.map_or("it ended".into(), |status| ExitStatus::from_raw(status).to_string());
            let new = Error::new(
                ErrorKind::SetupKilled,
                step,
                format!("the child did not come to its payload: {how}"),
            );
            let hint = match status.map(|status| status & 0x7f) {
                Some(libc::SIGSYS) => "the seccomp filter kills execve: allow it",
                Some(libc::SIGKILL) if plan.cgroup.is_some() => {
                    "killed from outside, or the cgroup's memory.max is too small even to begin"
                }
                _ => "killed from outside, by the kernel for want of memory, or by a limit",
            };
            Err(new.with_hint(hint))
        }
    }
}

/// Whether the child was killed before its payload's image replaced the stage's: a process keeps the name that its last
/// exec gave it, as a zombie too, and the name that the stage gave itself is one that no payload knows.
///
/// Whether it has ended would be too late a question: a process that is killed closes its descriptors some time before.
fn died_as_stage(child: &Newborn, name: &[u8; 15], collector: Option<&Collector>) -> bool {
    let collected = || {
        let collected = collector?.get(child.pid);
        Some(collected.as_stage && collected.waited.is_some_and(|(status, _)| status & 0x7f != 0))
    };
    match last_stat(child.pid) {
        Some(stat) => is_exiting(&stat) && stat.comm.as_bytes() == name,
        None => collected().unwrap_or(false),
    }
}
