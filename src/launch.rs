//! One spawn, on a spawner thread: from a plan to a process that executes the payload.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use nix::sys::socket::{MsgFlags, send};
use palisade_sys::{Outcome, STAGE_COMM, Step};

use crate::error::{Error, ErrorKind, Result};
use crate::newborn::{Newborn, Watch, control_sockets, read_outcome};
use crate::plan::Plan;
use crate::spawner::{self, Bench};
use crate::stage::StageFile;
use crate::stdio::Opened;
use crate::sys::{self, adopt, run_here, shared_image};

/// A process that has executed the payload.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
    /// Our ends of the piped standard streams.
    pub(crate) streams: [Option<OwnedFd>; 3],
    pub(crate) cgroup: Option<palisade_cgroup::OwnedCgroup>,
}

/// How long a killed set-up may take to go, before the thread that waits for it is left behind.
const LAST_GRACE: Duration = Duration::from_secs(10);

/// Runs a plan on a spawner thread and waits until its payload is executed, at most for the plan's set-up time.
pub(crate) fn launch(plan: Plan) -> Result<Started> {
    let watch = Arc::new(Watch::default());
    let limit = plan.setup_timeout;
    let seen = Arc::clone(&watch);
    let result = spawner::start(move |bench| perform(&plan, bench, &seen))?;
    match result.recv_timeout(limit) {
        Ok(done) => done,
        Err(RecvTimeoutError::Disconnected) => Err(spawner::panicked()),
        Err(RecvTimeoutError::Timeout) => {
            watch.expire();
            let late = result.recv_timeout(LAST_GRACE);
            // Whatever came of it was killed; a child that was executed just now is dropped here, and goes.
            let step = match &late {
                Ok(Err(error)) => error.step(),
                _ => Step::Clone,
            };
            let new =
                Error::new(ErrorKind::SetupTimeout, step, format!("set-up did not end within {limit:?}"));
            Err(new.with_hint(
                "a path on a dead network mount, a frozen cgroup or an overloaded machine; \
                 SandboxBuilder::setup_timeout sets the time",
            ))
        }
    }
}

fn perform(plan: &Plan, bench: &mut Bench, watch: &Arc<Watch>) -> Result<Started> {
    bench.check_keyring()?;
    let stage = StageFile::get()?;
    let prepare = |call: &'static str| move |error: io::Error| Error::call(Step::Prepare, call, &error);

    let cgroup = plan.make_cgroup(bench)?;
    let trees = take_trees(plan)?;
    let [stdin, stdout, stderr] = open_streams(plan)?;
    let (control, theirs) = control_sockets()?;
    let image =
        shared_image(&plan.stage.image().to_bytes()).map_err(prepare("memfd_create(\"palisade-image\")"))?;

    let standard = [&stdin, &stdout, &stderr].map(|stream| stream.child.number());
    let passed = trees.iter().chain(plan.descriptors()).map(AsRawFd::as_raw_fd);
    let own = [theirs.as_raw_fd(), image.as_raw_fd()];
    let mut prologue = plan.prologue.image(standard.into_iter().chain(own).chain(passed), stage.number());

    let into = cgroup.as_ref().map(AsFd::as_fd);
    let child = Newborn::clone(plan.clone_flags, into, Arc::clone(watch), bench, &mut prologue)
        .map_err(|error| plan.clone_error(&error))?;
    drop(theirs);
    if watch.expired() {
        // Killed, or about to be, before it could be seen; the drop sees to it.
        return Err(Error::new(ErrorKind::SetupTimeout, Step::Stage, "killed"));
    }
    if let Outcome::Failed(fault) = prologue.outcome() {
        return Err(Error::explained(plan.prologue.program.explain(fault)));
    }

    if let Some(maps) = &plan.maps {
        if let Err(error) = child.give_maps(maps) {
            // A stage that failed or ended meanwhile says why in its image, which is the better answer.
            let ended =
                child.pidfd.as_ref().is_some_and(|fd| matches!(sys::wait(fd, false, true), Ok(Some(_))));
            return Err(if ended { conclude(plan, &image, &child).err().unwrap_or(error) } else { error });
        }
        // EPIPE: it has ended already; why is in the image.
        match send(control.as_raw_fd(), &[1], MsgFlags::MSG_NOSIGNAL) {
            Ok(_) | Err(nix::errno::Errno::EPIPE | nix::errno::Errno::ECONNRESET) => {}
            Err(errno) => return Err(Error::call(Step::IdMaps, "send to the stage", &errno.into())),
        }
    }

    // The socket closes when the payload is executed, or when the child ends.
    wait_for_end(control).map_err(|error| Error::call(Step::Stage, "read from the stage", &error))?;
    conclude(plan, &image, &child)?;
    let (pid, pidfd) = child.take();
    Ok(Started { pid, pidfd, streams: [stdin.parent, stdout.parent, stderr.parent], cgroup })
}

/// The detached copies of mounts that a privileged host program takes for its child.
fn take_trees(plan: &Plan) -> Result<Vec<OwnedFd>> {
    let mut image = plan.sources.image();
    let outcome = run_here(&mut image);
    // What was opened is owned first, so that nothing stays open whatever happened; what is no tree closes here.
    let mut opened: Vec<(i32, OwnedFd)> =
        plan.sources.open_descriptors(&image).into_iter().map(|fd| (fd, adopt(fd))).collect();
    outcome.map_err(|fault| Error::explained(plan.sources.explain(fault)))?;
    let mut take = |slot| {
        let number = image.slot(slot) as i32;
        let at = opened.iter().position(|(fd, _)| *fd == number).expect("a tree's slot holds a descriptor");
        sys::above_stdio(opened.swap_remove(at).1)
    };
    let trees: io::Result<_> = plan.source_slots.iter().map(|&slot| take(slot)).collect();
    trees.map_err(|error| Error::call(Step::Sources, "fcntl(F_DUPFD_CLOEXEC)", &error))
}

fn open_streams(plan: &Plan) -> Result<[Opened; 3]> {
    let open = |n: usize| {
        plan.stdio[n].open(n as i32).map_err(|error| {
            Error::call(Step::Stdio, "open", &error).with_object(["stdin", "stdout", "stderr"][n])
        })
    };
    Ok([open(0)?, open(1)?, open(2)?])
}

fn wait_for_end(mut control: UnixStream) -> io::Result<()> {
    loop {
        match control.read(&mut [0; 8]) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The child ended with the go byte unread.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Decides from what the stage left in its image whether the payload was executed.
fn conclude(plan: &Plan, image: &OwnedFd, child: &Newborn) -> Result<()> {
    match read_outcome(image)? {
        Outcome::Failed(fault) => Err(plan.stage_error(fault)),
        Outcome::Executing if !died_as_stage(child) => Ok(()),
        outcome => {
            let step = if outcome == Outcome::Executing { Step::Exec } else { Step::Stage };
            let status = child.pidfd.as_ref().and_then(|fd| sys::wait(fd, true, true).ok().flatten());
            let how = status.map_or("it ended".into(), |s| ExitStatus::from_raw(s.status).to_string());
            let new = Error::new(
                ErrorKind::SetupKilled,
                step,
                format!("the child did not come to its payload: {how}"),
            );
            let hint = match status.map(|s| s.status & 0x7f) {
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

/// Whether the child ended before its payload's image replaced the stage's: a process keeps the name that its last
/// exec gave it, as a zombie too.
fn died_as_stage(child: &Newborn) -> bool {
    let Some(pidfd) = &child.pidfd else { return false };
    let ended = matches!(sys::wait(pidfd, false, true), Ok(Some(_)));
    if !ended {
        return false;
    }
    let name = STAGE_COMM.split(|&b| b == 0).next().unwrap_or_default();
    let stat = std::fs::read(format!("/proc/{}/stat", child.pid)).unwrap_or_default();
    stat.windows(name.len() + 2)
        .any(|w| w[0] == b'(' && &w[1..=name.len()] == name && w[name.len() + 1] == b')')
}
