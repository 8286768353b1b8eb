//! One spawn, on a spawner thread: from a plan to a process that executes the payload.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::socket::{MsgFlags, send};
use palisade_creds::PreparedMaps;
use palisade_sys::{FD_CONTROL, Fd, HEADER_LEN, Image, Outcome, Program, STAGE_COMM, Step};

use crate::error::{Error, ErrorKind, Result};
use crate::plan::Plan;
use crate::prologue::Prologue;
use crate::spawner::{self, Bench};
use crate::stage::StageFile;
use crate::stdio::{Opened, Stdio};
use crate::sys::{self, adopt, clone_child, run_here, send_signal, shared_image};

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

/// What the calling thread and the spawner thread share: who may kill the child through its pidfd.
#[derive(Debug)]
struct Watch {
    /// Stored by the kernel before the clone waits for the child.
    pidfd: AtomicI32,
    state: Mutex<WatchState>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WatchState {
    /// The descriptor, once stored, is the child's.
    Open,
    /// The set-up is over: the number may mean something else.
    Closed,
    Expired,
}

impl Default for Watch {
    fn default() -> Self {
        Self { pidfd: AtomicI32::new(-1), state: Mutex::new(WatchState::Open) }
    }
}

impl Watch {
    fn state(&self) -> std::sync::MutexGuard<'_, WatchState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time is over: kills the child if there is one.
    fn expire(&self) {
        let mut state = self.state();
        if *state == WatchState::Open {
            *state = WatchState::Expired;
            let fd = self.pidfd.load(Ordering::SeqCst);
            if fd >= 0 {
                // ESRCH: it has ended by itself just now.
                drop(sys::send_signal_to(fd, libc::SIGKILL));
            }
        }
    }

    fn expired(&self) -> bool {
        *self.state() == WatchState::Expired
    }

    /// The set-up is over; `false` if the time was over before.
    fn close(&self) -> bool {
        let mut state = self.state();
        let in_time = *state == WatchState::Open;
        *state = WatchState::Closed;
        in_time
    }
}

/// A child that has not executed the payload yet: unless it is taken, it is killed and waited for.
struct Newborn<'a> {
    pid: u32,
    pidfd: Option<OwnedFd>,
    watch: &'a Watch,
}

impl<'a> Newborn<'a> {
    /// Clones it; on return it has executed the stage, or ended.
    fn clone(
        flags: u64,
        cgroup: Option<BorrowedFd<'_>>,
        watch: &'a Watch,
        bench: &mut Bench,
        prologue: &mut Image,
    ) -> io::Result<Self> {
        let pid = clone_child(flags, cgroup, &watch.pidfd, &mut bench.stack, prologue)?;
        Ok(Self { pid, pidfd: Some(adopt(watch.pidfd.load(Ordering::SeqCst))), watch })
    }

    fn give_maps(&self, maps: &PreparedMaps) -> Result<()> {
        let dir = proc_dir(self.pid).map_err(|error| {
            Error::call(Step::IdMaps, format!("open /proc/{}", self.pid), &error)
                .with_hint("the host program needs its /proc, of its own pid namespace, to map ids")
        })?;
        maps.apply(dir.as_fd()).map_err(|error| {
            let errno = error.errno();
            Error::from_source(ErrorKind::Setup, Step::IdMaps, error, errno)
        })
    }

    fn take(mut self) -> (u32, OwnedFd) {
        self.watch.close();
        (self.pid, self.pidfd.take().expect("taken once"))
    }
}

impl Drop for Newborn<'_> {
    fn drop(&mut self) {
        self.watch.close();
        let Some(pidfd) = self.pidfd.take() else { return };
        // ESRCH: it has ended already. Then it is waited for; a killed set-up ends at once, and if the host program's
        // own `wait` or an ignored SIGCHLD has taken it (ECHILD), nothing is left to do.
        drop(send_signal(&pidfd, libc::SIGKILL));
        drop(sys::wait(&pidfd, true, false));
    }
}

/// A user namespace with these maps, held by its descriptor alone: for id-mapped mounts.
pub(crate) fn user_namespace(maps: PreparedMaps) -> Result<OwnedFd> {
    let made = spawner::start(move |bench| {
        let failed = |call: &'static str| move |error: io::Error| Error::call(Step::IdMaps, call, &error);
        let stage = StageFile::get()?;
        // Its first process waits for a byte that never comes, until it is killed.
        let (control, theirs) = UnixStream::pair().map_err(failed("socketpair(AF_UNIX)"))?;
        let mut wait = Program::new();
        let byte = wait.room(1);
        wait.read_exact(Fd::number(FD_CONTROL), byte);
        let image = shared_image(&wait.image().to_bytes()).map_err(failed("memfd_create"))?;
        let prologue = Prologue::new(0, 0);
        let null = Stdio::null().open(0).map_err(failed("open(\"/dev/null\")"))?;
        let null = null.child.number();
        let descriptors = [null, null, null, theirs.as_raw_fd(), image.as_raw_fd()];
        let mut started = prologue.image(descriptors, stage.number());
        let watch = Watch::default();
        let flags = libc::CLONE_NEWUSER as u64;
        let child = Newborn::clone(flags, None, &watch, bench, &mut started)
            .map_err(failed("clone3(CLONE_NEWUSER)"))?;
        child.give_maps(&maps)?;
        let file = std::fs::File::open(format!("/proc/{}/ns/user", child.pid))
            .map_err(failed("open /proc/PID/ns/user"))?;
        drop(control);
        sys::above_stdio(file.into()).map_err(failed("fcntl(F_DUPFD_CLOEXEC)"))
    })?;
    made.recv().unwrap_or_else(|_| Err(spawner::panicked()))
}

fn perform(plan: &Plan, bench: &mut Bench, watch: &Watch) -> Result<Started> {
    bench.check_keyring()?;
    let stage = StageFile::get()?;
    let prepare = |call: &'static str| move |error: io::Error| Error::call(Step::Prepare, call, &error);

    let cgroup = plan.make_cgroup()?;
    let trees = take_trees(plan)?;
    let [stdin, stdout, stderr] = open_streams(plan)?;
    let (control, theirs) = UnixStream::pair().map_err(prepare("socketpair(AF_UNIX)"))?;
    let above =
        |stream: UnixStream| sys::above_stdio(stream.into()).map_err(prepare("fcntl(F_DUPFD_CLOEXEC)"));
    let (control, theirs) = (UnixStream::from(above(control)?), above(theirs)?);
    let image =
        shared_image(&plan.stage.image().to_bytes()).map_err(prepare("memfd_create(\"palisade-image\")"))?;

    let standard = [&stdin, &stdout, &stderr].map(|stream| stream.child.number());
    let passed = trees.iter().chain(plan.descriptors()).map(AsRawFd::as_raw_fd);
    let own = [theirs.as_raw_fd(), image.as_raw_fd()];
    let mut prologue = plan.prologue.image(standard.into_iter().chain(own).chain(passed), stage.number());

    let into = cgroup.as_ref().map(AsFd::as_fd);
    let child = Newborn::clone(plan.clone_flags, into, watch, bench, &mut prologue)
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
        child.give_maps(maps)?;
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

/// The child's directory in /proc, if that is the /proc of our own pid namespace.
fn proc_dir(pid: u32) -> io::Result<std::fs::File> {
    let own = std::fs::read_link("/proc/self")?;
    if own.to_str() != Some(std::process::id().to_string().as_str()) {
        return Err(io::Error::other("/proc belongs to another pid namespace"));
    }
    std::fs::File::open(format!("/proc/{pid}"))
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
fn conclude(plan: &Plan, image: &OwnedFd, child: &Newborn<'_>) -> Result<()> {
    let mut header = [0; HEADER_LEN];
    let read = nix::sys::uio::pread(image.as_fd(), &mut header, 0).map_err(io::Error::from);
    read.map_err(|error| Error::call(Step::Stage, "pread from the image", &error))?;
    match Outcome::parse(&header) {
        Outcome::Failed(fault) => Err(plan.stage_error(fault)),
        Outcome::Executing if !died_as_stage(child) => Ok(()),
        outcome => {
            let step = if outcome == Outcome::Executing { Step::Exec } else { Step::Stage };
            let status = child.pidfd.as_ref().and_then(|fd| sys::wait(fd, true, true).ok().flatten());
            let how = status.map_or("it ended".into(), |s| {
                format!(
                    "{}",
                    <std::process::ExitStatus as std::os::unix::process::ExitStatusExt>::from_raw(s.status)
                )
            });
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
fn died_as_stage(child: &Newborn<'_>) -> bool {
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
