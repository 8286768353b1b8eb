//! One spawn, on a spawner thread: from a plan to a process that executes the payload.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use palisade_cgroup::Cgroup;
use palisade_sys::{Outcome, Step};

use crate::collector::Watched;
use crate::control::{Word, go, hear, unheard};
use crate::enforced::{Own, OwnNamespaces, Phase, Subjects, Verifier};
use crate::enter::{Way, follow};
use crate::error::{Error, ErrorKind, Result};
use crate::guard;
use crate::namespaces::joined;
use crate::network::Connection;
use crate::newborn::{Newborn, Watch, control_sockets};
use crate::order::{WORD_OF_VERIFICATION, WORD_OF_VIEW};
use crate::plan::Plan;
use crate::spawner::{self, Bench, Thread};
use crate::stage;
use crate::standing::{LAST_GRACE, Standing, Started, conclude, over, timed_out};
use crate::stdio::Opened;
use crate::sys::{self, adopt, run_here, shared_image};
use crate::tracing::{Spawn, step};

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

/// Whether a process ends within the time that an exit may take.
fn ends_soon(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, 200u8).is_ok_and(|count| count > 0)
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
