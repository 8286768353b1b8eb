//! A child before its payload: cloned, given its ids, watched, and killed unless it is taken.

use std::cell::OnceCell;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use palisade_creds::PreparedMaps;
use palisade_ns::Namespace;
use palisade_procinfo::{ProcRoot, Process};
use palisade_sys::{FD_CONTROL, Fd, HEADER_LEN, Image, Outcome, Program, Step};

use crate::child::readable;
use crate::error::{Error, ErrorKind, Result};
use crate::prologue::Prologue;
use crate::spawner::{self, Bench, Thread};
use crate::stage;
use crate::standing::LAST_GRACE;
use crate::stdio::Stdio;
use crate::sys::{self, adopt, clone_child, send_signal, shared_image};

/// A child that has not executed the payload yet: unless it is taken, it is killed and waited for.
#[derive(Debug)]
pub(crate) struct Newborn {
    pub(crate) pid: u32,
    /// `None` only while it is taken or dropped.
    pub(crate) pidfd: Option<OwnedFd>,
    /// Its directory in /proc, once it was needed.
    process: OnceCell<Result<Process, String>>,
    /// The process that will execute the payload, if it is an init of that.
    workload: Option<Result<Process, String>>,
    watch: Arc<Watch>,
}

impl Newborn {
    /// Clones it; on return it has executed the stage, or ended.
    pub(crate) fn clone(
        flags: u64,
        cgroup: Option<BorrowedFd<'_>>,
        watch: Arc<Watch>,
        bench: &mut Bench,
        prologue: &mut Image,
    ) -> io::Result<Self> {
        let pid = clone_child(flags, cgroup, &watch.pidfd, &mut bench.stack, prologue).inspect_err(|_| {
            // The kernel may have stored a number before it failed; it means nothing, or soon something else.
            watch.close();
        })?;
        let pidfd = adopt(watch.pidfd.load(Ordering::SeqCst));
        Ok(Self { pid, pidfd: Some(pidfd), process: OnceCell::new(), workload: None, watch })
    }

    /// It, in /proc; or why it is not to be had there.
    pub(crate) fn process(&self) -> Result<&Process, &str> {
        let open = || match &self.pidfd {
            Some(pidfd) => process_of(self.pid, pidfd.as_fd()),
            None => Err("it was handed over".into()),
        };
        self.process.get_or_init(open).as_ref().map_err(String::as_str)
    }

    /// It is an init, and `pid` the process below it that will execute the payload.
    pub(crate) fn leads(&mut self, pid: u32) {
        let open = || {
            let process =
                ProcRoot::host().and_then(|root| root.process(pid)).map_err(|error| error.to_string())?;
            // The number may be somebody else's by now, but not as a child of this one.
            match process.status() {
                Ok(status) if status.ppid == self.pid => Ok(process),
                _ => Err("it has ended".to_owned()),
            }
        };
        self.workload = Some(open());
    }

    /// The process that will execute the payload, in /proc: itself, unless it is an init.
    pub(crate) fn payload(&self) -> Result<&Process, &str> {
        match &self.workload {
            Some(workload) => workload.as_ref().map_err(String::as_str),
            None => self.process(),
        }
    }

    pub(crate) fn take_workload(&mut self) -> Option<Process> {
        self.workload.take().and_then(Result::ok)
    }

    pub(crate) fn give_maps(&self, maps: &PreparedMaps) -> Result<()> {
        let process = self.process().map_err(|why| {
            Error::new(ErrorKind::Setup, Step::IdMaps, format!("open /proc/{}: {why}", self.pid))
                .with_hint("the host program needs its /proc, of its own pid namespace, to map ids")
        })?;
        maps.apply(process.as_dir()).map_err(|error| {
            let errno = error.errno();
            Error::from_source(ErrorKind::Setup, Step::IdMaps, error, errno)
        })
    }

    pub(crate) fn set_oom_score_adj(&self, adjustment: i32) -> Result<()> {
        let failed = |error: io::Error| {
            Error::call(
                Step::Limits,
                format!("write {adjustment} to /proc/{}/oom_score_adj", self.pid),
                &error,
            )
            .with_object("oom_score_adj")
        };
        let process = self.process().map_err(|why| failed(io::Error::other(why.to_owned())))?;
        let path = format!("/proc/self/fd/{}/oom_score_adj", process.as_dir().as_raw_fd());
        std::fs::write(path, adjustment.to_string()).map_err(failed)
    }

    /// From now on it is the process of `pidfd`, which it has left behind; it has ended itself.
    pub(crate) fn succeed(&mut self, pid: u32, pidfd: OwnedFd) {
        let state = self.watch.state();
        self.watch.pidfd.store(pidfd.as_raw_fd(), Ordering::SeqCst);
        if *state == WatchState::Expired {
            drop(send_signal(&pidfd, libc::SIGKILL));
        }
        drop(state);
        self.pid = pid;
        self.process = OnceCell::new();
        if let Some(ended) = self.pidfd.replace(pidfd) {
            // ECHILD: somebody else's wait was faster.
            drop(sys::wait(&ended, true, false));
        }
    }

    /// The same child under a new watch, unless the time of the old one is over: then it is killed and waited for here.
    pub(crate) fn renew(mut self) -> Option<Self> {
        if !self.watch.close() {
            return None;
        }
        let watch = Watch::default();
        watch.pidfd.store(self.pidfd.as_ref()?.as_raw_fd(), Ordering::SeqCst);
        self.watch = Arc::new(watch);
        Some(self)
    }

    pub(crate) fn watch(&self) -> Arc<Watch> {
        Arc::clone(&self.watch)
    }

    /// Hands it over, unless its time is over: then it is killed and waited for here.
    pub(crate) fn take(mut self) -> Option<(u32, OwnedFd)> {
        let in_time = self.watch.close();
        let pidfd = if in_time { self.pidfd.take() } else { None };
        pidfd.map(|pidfd| (self.pid, pidfd))
    }
}

impl Drop for Newborn {
    fn drop(&mut self) {
        self.watch.close();
        let Some(pidfd) = self.pidfd.take() else { return };
        // ESRCH: it has ended already. Then it is waited for; a killed set-up ends at once, and if the host program's
        // own `wait` or an ignored SIGCHLD has taken it (ECHILD), nothing is left to do.
        drop(send_signal(&pidfd, libc::SIGKILL));
        if readable(pidfd.as_fd(), Some(Instant::now() + LAST_GRACE)).unwrap_or(true) {
            drop(sys::wait(&pidfd, true, false));
        } else {
            // It hangs in the kernel, where no signal reaches: somebody else waits for that.
            drop(spawner::start(Thread::Any, move |_| {
                drop(sys::wait(&pidfd, true, false));
                Ok(())
            }));
        }
    }
}

/// What the calling thread and the spawner thread share: who may kill the child through its pidfd.
#[derive(Debug)]
pub(crate) struct Watch {
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
    fn state(&self) -> MutexGuard<'_, WatchState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time is over: kills the child if there is one. To be called again until the set-up has ended: the child may
    /// not have been there yet.
    pub(crate) fn expire(&self) {
        let mut state = self.state();
        if *state != WatchState::Closed {
            *state = WatchState::Expired;
            let fd = self.pidfd.load(Ordering::SeqCst);
            if fd >= 0 {
                // ESRCH: it has ended by itself just now.
                drop(sys::send_signal_to(fd, libc::SIGKILL));
            }
        }
    }

    pub(crate) fn expired(&self) -> bool {
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

/// A process of the stage that is no payload's: it runs a program of ours and ends.
#[derive(Debug)]
pub(crate) struct Helper {
    pub(crate) control: UnixStream,
    image: OwnedFd,
    child: Newborn,
}

impl Helper {
    /// Starts one in new namespaces of `flags`; `passed` descriptors are at [`FD_PASSED`](palisade_sys::FD_PASSED) and up.
    pub(crate) fn start(
        program: &Program,
        passed: &[OwnedFd],
        flags: u64,
        bench: &mut Bench,
    ) -> Result<Self> {
        Self::start_with(program, passed, 0, flags, bench)
    }

    /// One without descriptors, but with these capabilities in its user namespace.
    pub(crate) fn with_capabilities(
        program: &Program,
        capabilities: u64,
        flags: u64,
        bench: &mut Bench,
    ) -> Result<Self> {
        Self::start_with(program, &[], capabilities, flags, bench)
    }

    /// Waits for its end, and says what it came to.
    fn done(self, program: &Program) -> Result<()> {
        let image = self.image.try_clone();
        let image = image.map_err(|error| Error::call(Step::Supervise, "fcntl(F_DUPFD_CLOEXEC)", &error))?;
        self.finish()?;
        match read_outcome(&image)? {
            Outcome::Done => Ok(()),
            Outcome::Failed(fault) => Err(Error::explained(program.explain(fault))),
            _ => Err(Error::new(ErrorKind::SetupKilled, Step::Supervise, "the helper was killed")),
        }
    }

    fn start_with(
        program: &Program,
        passed: &[OwnedFd],
        capabilities: u64,
        flags: u64,
        bench: &mut Bench,
    ) -> Result<Self> {
        let failed = |call: &'static str| move |error: io::Error| Error::call(Step::Prepare, call, &error);
        let stage = stage::stage()?;
        let (control, theirs) = control_sockets()?;
        let image = shared_image(&program.image().to_bytes()).map_err(failed("memfd_create"))?;
        let null = Stdio::null().open(0, &mut None).map_err(failed("open(\"/dev/null\")"))?;
        let standard = [null.child.number(); 3].into_iter();
        let own = [theirs.as_raw_fd(), image.as_raw_fd()];
        let numbers = passed.iter().map(AsRawFd::as_raw_fd);
        let prologue = Prologue::new(passed.len(), capabilities);
        let mut started = prologue.image(standard.chain(own).chain(numbers), stage.as_raw_fd());
        let child = Newborn::clone(flags, None, Arc::default(), bench, &mut started)
            .map_err(|error| Error::call(Step::Clone, "clone3", &error))?;
        match started.outcome() {
            Outcome::Failed(fault) => Err(Error::explained(prologue.program.explain(fault))),
            _ => Ok(Self { control, image, child }),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.pid
    }

    pub(crate) fn give_maps(&self, maps: &PreparedMaps) -> Result<()> {
        self.child.give_maps(maps)
    }

    /// Sends it a byte and waits for its answer of one.
    pub(crate) fn talk(&mut self) -> io::Result<()> {
        self.control.write_all(b"g")?;
        self.control.read_exact(&mut [0])
    }

    pub(crate) fn outcome(&self) -> Outcome {
        read_outcome(&self.image).unwrap_or(Outcome::NotStarted)
    }

    /// Waits for its end.
    pub(crate) fn finish(self) -> Result<()> {
        let Some((_, pidfd)) = self.child.take() else { return Ok(()) };
        match sys::wait(&pidfd, true, false) {
            Err(error) if error.raw_os_error() != Some(libc::ECHILD) => {
                Err(Error::call(Step::Prepare, "waitid", &error))
            }
            _ => Ok(()),
        }
    }
}

/// Runs a program in a helper to its end.
pub(crate) fn run_helper(program: &Program, passed: &[OwnedFd], bench: &mut Bench) -> Result<()> {
    Helper::start(program, passed, 0, bench)?.done(program)
}

/// Makes calls by the ids of a new user namespace with these maps, and by capabilities there. `calls` finds the file at
/// [`FD_PASSED`](palisade_sys::FD_PASSED).
#[cfg(feature = "k8s")]
pub(crate) fn run_mapped(
    maps: PreparedMaps,
    capabilities: u64,
    file: OwnedFd,
    calls: impl FnOnce(&mut Program),
) -> Result<()> {
    let mut p = Program::new();
    p.at(Step::IdMaps, "wait for the parent");
    let go = p.room(1);
    p.read_exact(Fd::number(FD_CONTROL), go);
    calls(&mut p);
    let ran = spawner::start(Thread::Any, move |bench| {
        let flags = libc::CLONE_NEWUSER as u64;
        let mut helper = Helper::start_with(&p, &[file], capabilities, flags, bench)?;
        helper.give_maps(&maps)?;
        // One that has ended says why.
        let _ = helper.control.write_all(b"g");
        helper.done(&p)
    })?;
    ran.recv().unwrap_or_else(|_| Err(spawner::panicked()))
}

/// A user namespace with these maps, held by its descriptor alone: for id-mapped mounts.
pub(crate) fn user_namespace(maps: PreparedMaps) -> Result<OwnedFd> {
    namespace_of_user(Namespace::User, Some(maps))
}

/// A namespace of this kind in a user namespace of its own, held by its descriptor alone.
pub(crate) fn namespace_of_user(kind: Namespace, maps: Option<PreparedMaps>) -> Result<OwnedFd> {
    let made = spawner::start(Thread::Any, move |bench| {
        let failed = |call: &'static str| move |error: io::Error| Error::call(Step::IdMaps, call, &error);
        // Its first process waits for a byte that never comes, until it is killed.
        let mut wait = Program::new();
        let byte = wait.room(1);
        wait.read_exact(Fd::number(FD_CONTROL), byte);
        let helper = Helper::start(&wait, &[], Namespace::User.bit() | kind.bit(), bench)?;
        if let Some(maps) = &maps {
            helper.child.give_maps(maps)?;
        }
        let path = format!("/proc/{}/ns/{}", helper.child.pid, kind.name());
        let file = std::fs::File::open(path).map_err(failed("open /proc/PID/ns"))?;
        sys::above_stdio(file.into()).map_err(failed("fcntl(F_DUPFD_CLOEXEC)"))
    })?;
    made.recv().unwrap_or_else(|_| Err(spawner::panicked()))
}

/// Our end of the control socket, and the stage's.
pub(crate) fn control_sockets() -> Result<(UnixStream, OwnedFd)> {
    let failed = |call: &'static str| move |error: io::Error| Error::call(Step::Prepare, call, &error);
    let (ours, theirs) = UnixStream::pair().map_err(failed("socketpair(AF_UNIX)"))?;
    // Who says a word is known by its pid, which in a pid namespace nobody else could tell.
    nix::sys::socket::setsockopt(&ours, nix::sys::socket::sockopt::PassCred, &true)
        .map_err(|errno| failed("setsockopt(SO_PASSCRED)")(errno.into()))?;
    let above =
        |stream: UnixStream| sys::above_stdio(stream.into()).map_err(failed("fcntl(F_DUPFD_CLOEXEC)"));
    Ok((above(ours)?.into(), above(theirs)?))
}

/// What the stage left in its image.
pub(crate) fn read_outcome(image: &OwnedFd) -> Result<Outcome> {
    let mut header = [0; HEADER_LEN];
    let read = nix::sys::uio::pread(image.as_fd(), &mut header, 0).map_err(io::Error::from);
    read.map_err(|error| Error::call(Step::Stage, "pread from the image", &error))?;
    Ok(Outcome::parse(&header))
}

/// A process in /proc by the number that the pidfd's process has, if this /proc is the one of our own pid namespace.
pub(crate) fn process_of(pid: u32, pidfd: BorrowedFd<'_>) -> Result<Process, String> {
    let own = std::fs::read_link("/proc/self").map_err(|error| format!("readlink /proc/self: {error}"))?;
    if own.to_str() != Some(std::process::id().to_string().as_str()) {
        return Err("/proc belongs to another pid namespace".into());
    }
    let process = ProcRoot::host().and_then(|root| root.process(pid)).map_err(|error| error.to_string())?;
    // As long as the process has not ended, the number is its own, and what was opened is it.
    if sys::has_ended(pidfd) { Err("it has ended".into()) } else { Ok(process) }
}
