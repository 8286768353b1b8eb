//! A payload that was made by one process, to be started, entered, killed and cleaned up by others.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg, OFlag, openat, renameat};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::fstatfs;
use nix::unistd::{UnlinkatFlags, mkfifoat, unlinkat};
use palisade_cgroup::Cgroup;
use palisade_ns::{AnyNs, Namespace};
use palisade_procinfo::{ProcRoot, Stat};
use palisade_sys::{Fault, Outcome, Program, Step};

use crate::child::poll_time;
use crate::collector::ends_as;
use crate::command::Command;
use crate::error::{Error, ErrorKind, Result};
use crate::newborn::read_outcome;
use crate::sandbox::Sandbox;
use crate::status::ExitStatus;
use crate::sys;

mod record;

pub use record::fuzz;
use record::{MAX_LEN, Operation, ProcessId, Record};

/// Names in a state's directory: the record, the FIFO at which the payload waits, the stage's image.
const RECORD: &str = "state";
const GATE: &str = "start";
const IMAGE: &str = "image";

/// How long a started payload may take to its exec, and a killed one to its end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A payload that outlives the process which made it, by [`Command::create`]. Any process of the same user can
/// open it by its directory: to start it, enter it, kill it, clean up.
///
/// ```no_run
/// use palisade::{Lifetime, Sandbox, Detached};
///
/// let sandbox = Sandbox::builder().lifetime(Lifetime::Detached).build()?;
/// sandbox.command("/bin/sleep").arg("60").create("/run/engine/one")?;
///
/// // In another process, later.
/// let state = Detached::open("/run/engine/one")?;
/// state.start()?;
/// println!("{}", state.status()?);
/// state.cleanup()?;
/// # Ok::<(), palisade::Error>(())
/// ```
///
/// # Who it is
/// The record holds the boot, the pid namespace, and of the process the pid, the time of its start and (since Linux 6.9)
/// the inode of its pidfd. A process that got the number later is never taken for it: it has then ended.
///
/// # Whose it is
/// The directory has mode 700 and belongs to the user who made it; a directory, or a file in it, that somebody else owns
/// or may write is refused. Who can write to it can tell whoever opens it what to kill.
///
/// # What its status can be
/// How a payload ended is told by its parent's `wait`, and the parent of a payload whose maker is gone is the system's
/// init. So a [`Life::Ended`] has an exit status only
/// - with [`SandboxBuilder::init`](crate::SandboxBuilder::init), which leaves it in the state;
/// - since Linux 6.15, to whoever opened the state before the end.
pub struct Detached {
    path: PathBuf,
    dir: OwnedFd,
    record: Record,
    /// `None`: it had ended before, or was never there.
    pidfd: Option<OwnedFd>,
}

/// Where a payload of a [`Detached`] payload is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Life {
    /// It is being made.
    Making,
    /// It waits for its start.
    Paused,
    /// It runs.
    Running,
    /// It has ended, or its maker did before it was made. See [`Detached`] for when how is known.
    Ended(Option<ExitStatus>),
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Making => f.write_str("being made"),
            Self::Paused => f.write_str("paused"),
            Self::Running => f.write_str("running"),
            Self::Ended(None) => f.write_str("ended"),
            Self::Ended(Some(status)) => write!(f, "ended: {status}"),
        }
    }
}

fn failed(path: &Path, call: &str) -> impl Fn(io::Error) -> Error {
    let (path, call) = (path.to_string_lossy().into_owned(), call.to_owned());
    move |error| Error::call(Step::Pause, call.clone(), &error).with_object(path.clone())
}

fn refused(path: &Path, why: impl fmt::Display) -> Error {
    Error::new(ErrorKind::State, Step::Pause, why.to_string()).with_object(path.to_string_lossy())
}

/// The maker's side of a state.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    dir: OwnedFd,
    record: Record,
}

impl Store {
    /// Makes the directory, which must not be there, and in it the gate; gives the gate, for the payload to wait at.
    pub(crate) fn new(path: &Path) -> Result<(Self, OwnedFd)> {
        let record = Record {
            boot: boot_id()?,
            pid_namespace: pid_namespace()?,
            creator: identify(
                std::process::id(),
                sys::pidfd_of_self().map_err(failed(path, "pidfd_open"))?.as_fd(),
            )?,
            payload: None,
            cgroup: None,
            operations: Vec::new(),
        };
        let mut builder = std::fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        let path = std::path::absolute(path).map_err(failed(path, "getcwd"))?;
        builder.create(&path).map_err(failed(&path, "mkdir"))?;
        let store = Self { dir: open_dir(&path)?, path, record };
        // Opened for both, so that it neither waits for the other side nor ends with it.
        let gate = mkfifoat(&store.dir, GATE, Mode::S_IRUSR | Mode::S_IWUSR)
            .and_then(|()| {
                openat(&store.dir, GATE, OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW, Mode::empty())
            })
            .map_err(io::Error::from)
            .and_then(sys::above_stdio);
        match gate {
            Ok(gate) => Ok((store, gate)),
            Err(error) => {
                let error = failed(&store.path, "mkfifo")(error);
                store.discard();
                Err(error)
            }
        }
    }

    /// The image in the directory, so that whoever starts the payload sees what becomes of it.
    pub(crate) fn image(&self, bytes: &[u8]) -> Result<OwnedFd> {
        let file = self.write(IMAGE, bytes)?;
        sys::above_stdio(file.into()).map_err(failed(&self.path, "fcntl(F_DUPFD_CLOEXEC)"))
    }

    /// The first record: enough to clean up, should the maker end.
    pub(crate) fn begin(&self, cgroup: Option<&Cgroup>) -> Result<()> {
        let cgroup = cgroup.map(known).transpose()?;
        self.save(&Record { cgroup, ..self.record.clone() })
    }

    /// The whole record. `stage` is the program that waits.
    pub(crate) fn complete(
        &self,
        pid: u32,
        pidfd: BorrowedFd<'_>,
        cgroup: Option<&Cgroup>,
        stage: &Program,
    ) -> Result<()> {
        let later = stage.steps().position(|step| step > Step::Pause).unwrap_or(stage.len());
        let operations = (later..stage.len()).map(|index| {
            let said = stage.explain(Fault { index: index as u32, errno: 0, bit: 0 });
            let (step, object) = (said.step.name().to_owned(), said.object.unwrap_or_default());
            Operation { index: index as u32, step, object, call: said.call }
        });
        let record = Record {
            payload: Some(identify(pid, pidfd)?),
            cgroup: cgroup.map(known).transpose()?,
            operations: operations.collect(),
            ..self.record.clone()
        };
        self.save(&record)
    }

    /// All or nothing of it is there, whenever the maker ends.
    fn save(&self, record: &Record) -> Result<()> {
        const NEW: &str = "state.new";
        let text = record.to_string();
        if text.len() > MAX_LEN {
            return Err(refused(&self.path, "the arguments are too long to be written down"));
        }
        let file = self.write(NEW, text.as_bytes())?;
        file.sync_all().map_err(failed(&self.path, "fsync"))?;
        renameat(&self.dir, NEW, &self.dir, RECORD)
            .map_err(|errno| failed(&self.path, "rename")(errno.into()))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<File> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let opened = openat(&self.dir, name, flags, Mode::S_IRUSR | Mode::S_IWUSR);
        let opened = opened.map_err(|errno| failed(&self.path, "openat")(errno.into()))?;
        let mut file = File::from(opened);
        file.write_all(bytes).map_err(failed(&self.path, "write"))?;
        Ok(file)
    }

    /// After a failure. What can't be removed is in the maker's own directory, and says by itself that it is over.
    pub(crate) fn discard(&self) {
        drop(remove(&self.dir, &self.path));
    }
}

impl Detached {
    /// Opens the state in a directory.
    ///
    /// # Errors
    /// [`ErrorKind::State`] if it is none, if somebody else owns it or may write to it, and in another pid namespace than
    /// its maker's; the errno of what could not be opened.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = std::path::absolute(path.as_ref()).map_err(failed(path.as_ref(), "getcwd"))?;
        let dir = open_dir(&path)?;
        let mut bytes = Vec::new();
        let file = own_file(&path, &dir, RECORD, OFlag::O_RDONLY)?;
        file.take(MAX_LEN as u64 + 1).read_to_end(&mut bytes).map_err(failed(&path, "read"))?;
        let record = Record::parse(&bytes).map_err(|why| refused(&path, format!("no state: {why}")))?;
        let pidfd = if record.boot != boot_id()? {
            None
        } else if record.pid_namespace != pid_namespace()? {
            return Err(refused(&path, "it was made in another pid namespace"));
        } else {
            record.payload.map_or(Ok(None), find)?
        };
        Ok(Self { path, dir, record, pidfd })
    }

    /// The pid of the payload, in the pid namespace of its maker; `None` before it is made. Only for show: it may
    /// be another process's by now.
    pub fn id(&self) -> Option<u32> {
        self.record.payload.map(|payload| payload.pid)
    }

    /// The pidfd of the payload, for an event loop or other tools; `None` if it had ended when the state was opened.
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(AsFd::as_fd)
    }

    /// The sandbox's own cgroup, if it was given one and has it still.
    pub fn cgroup(&self) -> Option<Cgroup> {
        self.own_cgroup().ok().flatten()
    }

    /// The one that was recorded, and no other that has its path by now.
    fn own_cgroup(&self) -> Result<Option<Cgroup>> {
        let Some((path, id)) = &self.record.cgroup else { return Ok(None) };
        if self.record.boot != boot_id()? {
            return Ok(None);
        }
        match Cgroup::open(path) {
            Ok(cgroup) => Ok((cgroup.id().map_err(of_cgroup)? == *id).then_some(cgroup)),
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(of_cgroup(error)),
        }
    }

    /// Where it is in its life.
    ///
    /// # Errors
    /// What of the state could not be read.
    pub fn status(&self) -> Result<Life> {
        if self.record.payload.is_none() {
            let making = self.record.boot == boot_id()? && find(self.record.creator)?.is_some();
            return Ok(if making { Life::Making } else { Life::Ended(None) });
        }
        // Before the image: what ends in between has left there what it had to say.
        let ended = self.has_ended(Some(Instant::now()))?;
        let outcome = self.outcome()?;
        let status = match (ended, outcome) {
            (false, Outcome::Running) => Life::Paused,
            (false, _) => Life::Running,
            (true, Outcome::Ended(raw)) => Life::Ended(Some(ExitStatus::from_wait(raw))),
            (true, _) => {
                let kept = self.pidfd.as_ref().and_then(sys::kept_status);
                Life::Ended(kept.map(ExitStatus::from_wait))
            }
        };
        Ok(status)
    }

    /// Waits until the payload has ended, for at most `limit`, and gives what [`status`](Self::status) is then.
    ///
    /// # Errors
    /// As there.
    pub fn wait_timeout(&self, limit: Duration) -> Result<Life> {
        self.has_ended(Instant::now().checked_add(limit))?;
        self.status()
    }

    /// Executes the payload, and returns when that is done.
    ///
    /// # Errors
    /// [`Exec`](ErrorKind::Exec) if it can't be executed: it has ended then. [`ErrorKind::State`] if it does not wait
    /// for its start: it was started before, has ended, or is not made yet. [`SetupTimeout`](ErrorKind::SetupTimeout) if
    /// the exec did not end within 30 seconds; it is killed.
    pub fn start(&self) -> Result<()> {
        // One at a time: of two that write to the gate, one would take the other's start for its own.
        let file = own_file(&self.path, &self.dir, RECORD, OFlag::O_RDONLY)?;
        let _lock = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| failed(&self.path, "flock")(errno.into()))?;
        match self.status()? {
            Life::Paused => {}
            other => return Err(refused(&self.path, format!("it does not wait for its start: {other}"))),
        }
        let gate = match own_file(&self.path, &self.dir, GATE, OFlag::O_WRONLY | OFlag::O_NONBLOCK) {
            // Nobody waits at it.
            Err(error) if error.errno() == Some(libc::ENXIO) => None,
            gate => Some(gate?),
        };
        let waiting = self.stat();
        if let Some(gate) = gate {
            // Written where we read ourselves: should it end just now, a write for nobody would be a SIGPIPE.
            let mut both = own_file(&self.path, &self.dir, GATE, OFlag::O_RDWR)?;
            both.write_all(&[1]).map_err(failed(&self.path, "write"))?;
            drop(both);
            // The other side is closed by the exec, or by the end.
            let until = Instant::now() + PATIENCE;
            let mut fds = [PollFd::new(gate.as_fd(), PollFlags::empty())];
            while poll(&mut fds, poll_time(Some(until))).is_ok_and(|count| count == 0)
                || fds[0].any() != Some(true)
            {
                if until <= Instant::now() {
                    self.kill()?;
                    let what = format!("the exec did not end within {PATIENCE:?}");
                    return Err(Error::new(ErrorKind::SetupTimeout, Step::Exec, what));
                }
            }
        }
        match self.outcome()? {
            Outcome::Failed(fault) => Err(self.explain(fault)),
            Outcome::Running | Outcome::NotStarted | Outcome::Lost(_) => Err(Error::new(
                ErrorKind::SetupKilled,
                Step::Pause,
                "the child did not come to its payload: it was killed from outside",
            )),
            Outcome::Executing if self.was_killed(waiting.as_ref())? => Err(Error::new(
                ErrorKind::SetupKilled,
                Step::Exec,
                "it was killed during its exec, or right after: by its filter, for want of memory, or from outside",
            )),
            _ => Ok(()),
        }
    }

    /// What the kernel says of the payload's process, unless that is gone.
    fn stat(&self) -> Option<Stat> {
        let root = ProcRoot::host().ok()?;
        root.process_of_pidfd(self.pidfd.as_ref()?).and_then(|process| process.stat()).ok()
    }

    /// Whether it was killed during its exec; `waiting` is what it was before. A process that is killed closes its
    /// descriptors some time before it has ended, under the name that it had.
    fn was_killed(&self, waiting: Option<&Stat>) -> Result<bool> {
        if let Some(now) = self.stat() {
            return Ok(waiting.is_some_and(|waiting| ends_as(&now, waiting.comm.as_bytes())));
        }
        let ended = self.has_ended(Some(Instant::now()))?;
        let status = self.pidfd.as_ref().filter(|_| ended).and_then(sys::kept_status);
        Ok(status.map(ExitStatus::from_wait).is_some_and(|status| status.signal().is_some()))
    }

    /// Sends a signal to the payload; one that has ended gets none. Before the start it is kept until then, SIGKILL
    /// excepted.
    ///
    /// # Errors
    /// `EINVAL` if there is no such signal, `EPERM` if the caller may not send it.
    pub fn signal(&self, signal: i32) -> Result<()> {
        match self.pidfd.as_ref().map_or(Ok(()), |pidfd| sys::send_signal(pidfd, signal)) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            sent => sent.map_err(failed(&self.path, "pidfd_send_signal")),
        }
    }

    /// Kills the payload and all that it started, as far as a pid namespace or a cgroup of its own holds them.
    ///
    /// # Errors
    /// As [`signal`](Self::signal).
    pub fn kill(&self) -> Result<()> {
        let group = match self.own_cgroup() {
            Ok(Some(cgroup)) => cgroup.kill().map_err(of_cgroup),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        self.signal(libc::SIGKILL).and(group)
    }

    /// A further program in this living sandbox, under the policy of `sandbox`, which describes it: see
    /// [`Sandbox::exec_in`].
    ///
    /// # Errors
    /// [`ErrorKind::Gone`] if the payload has ended.
    pub fn exec(&self, sandbox: &Sandbox, program: impl AsRef<OsStr>) -> Result<Command> {
        let gone = || Error::new(ErrorKind::Gone, Step::Join, "the sandbox has ended");
        let pidfd = self.pidfd.as_ref().ok_or_else(gone)?;
        let pidfd = pidfd.try_clone().map_err(failed(&self.path, "dup"))?;
        Ok(sandbox.exec_in(pidfd, program))
    }

    /// Kills what runs, waits for its end, and removes cgroup and directory.
    ///
    /// # Errors
    /// What could not be killed within 30 seconds, or not be removed: the state is there still.
    pub fn cleanup(self) -> Result<()> {
        if self.record.payload.is_none() {
            // It may have been made since this was read.
            let now = Self::open(&self.path)?;
            if now.record.payload.is_some() {
                return now.cleanup();
            }
        }
        if self.status()? == Life::Making {
            return Err(refused(&self.path, "it is being made"));
        }
        self.kill()?;
        if !self.has_ended(Some(Instant::now() + PATIENCE))? {
            return Err(refused(&self.path, format!("the payload was not gone {PATIENCE:?} after SIGKILL")));
        }
        if let Some(cgroup) = self.own_cgroup()? {
            cgroup.destroy(PATIENCE).map_err(of_cgroup)?;
        }
        remove(&self.dir, &self.path).map_err(failed(&self.path, "remove"))
    }

    fn has_ended(&self, until: Option<Instant>) -> Result<bool> {
        let Some(pidfd) = &self.pidfd else { return Ok(true) };
        crate::child::readable(pidfd.as_fd(), until).map_err(failed(&self.path, "poll"))
    }

    fn outcome(&self) -> Result<Outcome> {
        read_outcome(&own_file(&self.path, &self.dir, IMAGE, OFlag::O_RDONLY)?.into())
    }

    fn explain(&self, fault: Fault) -> Error {
        let known = self.record.operations.iter().find(|operation| operation.index == fault.index);
        let step = known.and_then(|known| Step::ALL.iter().find(|step| step.name() == known.step));
        let object = known.map(|known| known.object.clone()).filter(|object| !object.is_empty());
        let call = known.map_or_else(|| format!("operation {}", fault.index), |known| known.call.clone());
        Error::of_fault(step.copied().unwrap_or(Step::Stage), object, call, fault.errno)
    }
}

impl fmt::Debug for Detached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Detached").field("path", &self.path).field("id", &self.id()).finish_non_exhaustive()
    }
}

/// What the record says of a cgroup.
fn known(cgroup: &Cgroup) -> Result<(PathBuf, u64)> {
    Ok((cgroup.path().to_owned(), cgroup.id().map_err(of_cgroup)?))
}

fn of_cgroup(error: palisade_cgroup::Error) -> Error {
    let errno = error.errno();
    Error::from_source(ErrorKind::Supervise, Step::Supervise, error, errno)
}

fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(path).map_err(failed(path.as_ref(), "read"))?;
    Ok(text.trim().to_owned())
}

fn pid_namespace() -> Result<u64> {
    let own = AnyNs::current(Namespace::Pid).map_err(|error| {
        let errno = error.errno();
        Error::from_source(ErrorKind::Setup, Step::Pause, error, errno)
    })?;
    Ok(own.id().ino)
}

/// What tells the process of a pidfd from all others.
fn identify(pid: u32, pidfd: BorrowedFd<'_>) -> Result<ProcessId> {
    let stat = ProcRoot::host().and_then(|proc| proc.process_of_pidfd(pidfd)?.stat()).map_err(|error| {
        let gone = error.kind() == palisade_procinfo::ErrorKind::Gone;
        let errno = error.errno();
        let kind = if gone { ErrorKind::Gone } else { ErrorKind::Setup };
        Error::from_source(kind, Step::Pause, error, errno)
    })?;
    Ok(ProcessId { pid, start: stat.start_time, inode: pidfd_inode(pidfd) })
}

/// Before Linux 6.9 all pidfds are of one inode.
fn pidfd_inode(pidfd: BorrowedFd<'_>) -> Option<u64> {
    const PID_FS_MAGIC: i64 = 0x5049_4446;
    let kind = fstatfs(pidfd).ok()?.filesystem_type();
    (kind.0 == PID_FS_MAGIC).then(|| fstat(pidfd).ok().map(|stat| stat.st_ino)).flatten()
}

/// A pidfd of just this process, if it is there still.
fn find(wanted: ProcessId) -> Result<Option<OwnedFd>> {
    let pidfd = match sys::pidfd_open(wanted.pid) {
        // EINVAL: the number is of a thread of somebody else's now.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EINVAL | libc::ENOENT)) => {
            return Ok(None);
        }
        opened => {
            opened.map_err(|error| Error::call(Step::Pause, format!("pidfd_open({})", wanted.pid), &error))?
        }
    };
    match identify(wanted.pid, pidfd.as_fd()) {
        Ok(found) => Ok((found == wanted).then_some(pidfd)),
        Err(error) if error.kind() == ErrorKind::Gone => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens a state's directory, if nobody else can change what is in it.
fn open_dir(path: &Path) -> Result<OwnedFd> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let dir =
        nix::fcntl::open(path, flags, Mode::empty()).map_err(|errno| failed(path, "open")(errno.into()))?;
    let dir = File::from(sys::above_stdio(dir).map_err(failed(path, "fcntl(F_DUPFD_CLOEXEC)"))?);
    check_owner(path, &dir, "the directory")?;
    Ok(dir.into())
}

/// Opens one of its files, on the same condition.
fn own_file(path: &Path, dir: &OwnedFd, name: &str, flags: OFlag) -> Result<File> {
    let opened = openat(dir, name, flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty());
    let file = File::from(opened.map_err(|errno| failed(path, &format!("open {name:?}"))(errno.into()))?);
    let kind = check_owner(path, &file, name)?;
    let right = if name == GATE { kind.is_fifo() } else { kind.is_file() };
    if right { Ok(file) } else { Err(refused(path, format!("{name:?} is another kind of file"))) }
}

fn check_owner(path: &Path, file: &File, name: &str) -> Result<std::fs::FileType> {
    let stat = file.metadata().map_err(failed(path, "fstat"))?;
    let own = nix::unistd::geteuid().as_raw();
    if stat.uid() != own {
        return Err(refused(path, format!("{name} belongs to user {}, not to {own}", stat.uid())));
    }
    if stat.mode() & 0o077 != 0 {
        return Err(refused(path, format!("{name} has mode {:o}: others may use it", stat.mode() & 0o7777)));
    }
    Ok(stat.file_type())
}

/// Removes what a state is made of, the record last: until then it can be opened.
fn remove(dir: &OwnedFd, path: &Path) -> io::Result<()> {
    for name in [IMAGE, GATE, "state.new", RECORD] {
        match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(nix::errno::Errno::ENOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    std::fs::remove_dir(path)
}
