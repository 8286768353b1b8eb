//! User notification: a supervisor answers calls in the filter's place.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use crate::bpf::SeccompData;
use crate::error::{Error, Repr};
use crate::sys::{self, Notif, NotifAddfd, NotifId, NotifResp};
use crate::syscall::Syscall;

/// The supervisor's end of a filter with [`Action::UserNotif`](crate::Action::UserNotif): receives the calls, answers
/// them.
///
/// It is a descriptor: readable while a call waits, so that it fits into any event loop (`AsFd`; wait for input, then
/// [`receive`](Listener::receive)); dropping the last copy makes all such calls fail with ENOSYS.
///
/// **It is no permission system.** What a pointer points to can be changed by another thread of the program after
/// it was looked at, so [`Response::Continue`] must never stand for "checked and allowed": deny in the filter, or do the
/// work in the supervisor and return its result (or its descriptor).
///
/// ```
/// use palisade_secfilter::{Action, Install, Policy, Response, Rule};
///
/// let policy = Policy::new(Action::Allow).rule(Rule::new(["getppid"], Action::UserNotif));
/// let filter = policy.compile()?;
/// let (send, receive) = std::sync::mpsc::channel();
/// let confined = std::thread::spawn(move || {
///     send.send(Install::new(&filter).apply_with_listener()).unwrap();
///     std::os::unix::process::parent_id()
/// });
/// let listener = receive.recv()??;
/// let call = listener.receive()?.expect("the thread is alive");
/// listener.respond(&call, Response::Return(4242))?;
/// assert_eq!(confined.join().unwrap(), 4242);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Linux 5.0. See [seccomp_unotify(2)](https://man7.org/linux/man-pages/man2/seccomp_unotify.2.html).
#[derive(Debug)]
pub struct Listener(OwnedFd);

/// One call that waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notification {
    id: u64,
    pid: u32,
    data: SeccompData,
}

/// The supervisor's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Response {
    /// The call is not made and returns this.
    Return(i64),
    /// The call is not made and fails with this errno.
    Errno(u16),
    /// The kernel makes the call, with whatever the memory holds by then: for watching, never for allowing. Linux 5.5.
    Continue,
}

const FLAG_CONTINUE: u32 = 1;
const ADDFD_FLAG_SETFD: u32 = 1;
const ADDFD_FLAG_SEND: u32 = 2;

impl Notification {
    /// The kernel's cookie for it, unique for this listener.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The thread that called, as a thread id of the supervisor's pid namespace (0: not visible there).
    /// A number that may be given to another thread as soon as this one ends: use it, then ask
    /// [`Listener::is_valid`].
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Number, architecture, arguments.
    pub fn data(&self) -> &SeccompData {
        &self.data
    }

    /// The call, if it came through the native ABI.
    pub fn syscall(&self) -> Syscall {
        Syscall::new(self.data.nr)
    }
}

impl Listener {
    /// Waits for the next call; `None` when no process is left that could make one.
    ///
    /// # Errors
    /// [`Os`](crate::ErrorKind::Os).
    pub fn receive(&self) -> Result<Option<Notification>, Error> {
        loop {
            if let Received::Call(call) = self.next(-1)? {
                return Ok(Some(call));
            } else if self.is_abandoned()? {
                return Ok(None);
            }
        }
    }

    /// As [`receive`](Listener::receive), but gives up after `timeout`: then also `None`;
    /// [`is_abandoned`](Listener::is_abandoned) tells the two apart. Milliseconds count.
    ///
    /// # Errors
    /// [`Os`](crate::ErrorKind::Os).
    pub fn receive_timeout(&self, timeout: Duration) -> Result<Option<Notification>, Error> {
        let end = Instant::now() + timeout;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let millis = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
            match self.next(millis)? {
                Received::Call(call) => return Ok(Some(call)),
                Received::Nobody => return Ok(None),
                Received::Nothing if left.is_zero() => return Ok(None),
                Received::Nothing => {}
            }
        }
    }

    /// Whether no process uses the filter any more.
    ///
    /// # Errors
    /// [`Os`](crate::ErrorKind::Os).
    pub fn is_abandoned(&self) -> Result<bool, Error> {
        let events = sys::poll_in(self.0.as_fd(), 0).map_err(|errno| os("poll", errno))?;
        Ok(events & libc::POLLIN == 0 && events & libc::POLLHUP != 0)
    }

    fn next(&self, timeout: i32) -> Result<Received, Error> {
        // The kernel's receive alone would wait for ever when the last process is gone (before Linux 6.11).
        let events = match sys::poll_in(self.0.as_fd(), timeout) {
            Ok(events) => events,
            Err(libc::EINTR) => return Ok(Received::Nothing),
            Err(errno) => return Err(os("poll", errno)),
        };
        if events & libc::POLLIN == 0 {
            return Ok(if events == 0 { Received::Nothing } else { Received::Nobody });
        }
        // The kernel wants zeros.
        let data = SeccompData { nr: 0, arch: 0, instruction_pointer: 0, args: [0; 6] };
        let mut notif = Notif { id: 0, pid: 0, flags: 0, data };
        match sys::ioctl(self.0.as_fd(), &mut notif) {
            Ok(_) => Ok(Received::Call(Notification { id: notif.id, pid: notif.pid, data: notif.data })),
            // The caller was killed or interrupted between the two.
            Err(libc::EINTR | libc::ENOENT) => Ok(Received::Nothing),
            Err(errno) => Err(os("ioctl(SECCOMP_IOCTL_NOTIF_RECV)", errno)),
        }
    }

    /// Whether the call still waits, so that what was found through its [`pid`](Notification::pid) since is about it.
    ///
    /// # Errors
    /// [`Os`](crate::ErrorKind::Os).
    pub fn is_valid(&self, call: &Notification) -> Result<bool, Error> {
        match sys::ioctl(self.0.as_fd(), &mut NotifId(call.id)) {
            Ok(_) => Ok(true),
            Err(libc::ENOENT) => Ok(false),
            Err(errno) => Err(os("ioctl(SECCOMP_IOCTL_NOTIF_ID_VALID)", errno)),
        }
    }

    /// Answers a call.
    ///
    /// # Errors
    /// [`Gone`](crate::ErrorKind::Gone) if it waits no more (it was interrupted by a signal, or answered before);
    /// [`BadRule`](crate::ErrorKind::BadRule) for an errno of 0 or above 4095.
    pub fn respond(&self, call: &Notification, response: Response) -> Result<(), Error> {
        let mut answer = NotifResp { id: call.id, val: 0, error: 0, flags: 0 };
        match response {
            Response::Return(value) => answer.val = value,
            Response::Errno(errno @ 1..=4095) => answer.error = -i32::from(errno),
            Response::Errno(errno) => {
                return Err(Repr::BadErrno { call: call.syscall().to_string(), errno }.into());
            }
            Response::Continue => answer.flags = FLAG_CONTINUE,
        }
        self.send("ioctl(SECCOMP_IOCTL_NOTIF_SEND)", &mut answer).map(drop)
    }

    /// Puts a copy of `fd` into the calling process and returns its number there: the lowest free one, or `at`, replacing
    /// what is there. The call still waits. Linux 5.9.
    ///
    /// # Errors
    /// [`Gone`](crate::ErrorKind::Gone); [`Os`](crate::ErrorKind::Os), EMFILE if the process has no room.
    pub fn add_fd(
        &self,
        call: &Notification,
        fd: impl AsFd,
        at: Option<RawFd>,
        cloexec: bool,
    ) -> Result<RawFd, Error> {
        let flags = if at.is_some() { ADDFD_FLAG_SETFD } else { 0 };
        self.inject(call, fd.as_fd(), flags, at.unwrap_or(0), cloexec)
    }

    /// Puts a copy of `fd` into the calling process and answers the call with its number, in one step, so that an
    /// interrupted call leaves no descriptor behind. Linux 5.14.
    ///
    /// # Errors
    /// As [`add_fd`](Listener::add_fd).
    pub fn respond_with_fd(&self, call: &Notification, fd: impl AsFd, cloexec: bool) -> Result<RawFd, Error> {
        self.inject(call, fd.as_fd(), ADDFD_FLAG_SEND, 0, cloexec)
    }

    fn inject(
        &self,
        call: &Notification,
        fd: BorrowedFd<'_>,
        flags: u32,
        at: RawFd,
        cloexec: bool,
    ) -> Result<RawFd, Error> {
        let mut argument = NotifAddfd {
            id: call.id,
            flags,
            srcfd: fd.as_raw_fd() as u32,
            newfd: at as u32,
            newfd_flags: if cloexec { libc::O_CLOEXEC as u32 } else { 0 },
        };
        self.send("ioctl(SECCOMP_IOCTL_NOTIF_ADDFD)", &mut argument)
    }

    fn send<A: sys::Argument>(&self, name: &'static str, argument: &mut A) -> Result<i32, Error> {
        loop {
            return match sys::ioctl(self.0.as_fd(), argument) {
                Ok(result) => Ok(result),
                Err(libc::EINTR) => continue,
                Err(libc::ENOENT | libc::EINPROGRESS) => Err(Repr::Gone { call: name }.into()),
                Err(errno) => Err(os(name, errno)),
            };
        }
    }

    /// Reads the caller's memory at `address`, as much of `buffer` as is mapped, and makes sure that it was the caller's:
    /// the call is checked to be waiting after /proc/PID/mem was opened and again after it was read.
    /// The other threads of the program may change it at any time.
    ///
    /// Needs the rights of ptrace over the process. (An own child that is not set-user-id will do.)
    ///
    /// # Errors
    /// [`Gone`](crate::ErrorKind::Gone); [`Os`](crate::ErrorKind::Os), EIO for an address that is not mapped.
    pub fn read_memory(&self, call: &Notification, address: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        const NAME: &str = "read of /proc/PID/mem";
        let io = |error: std::io::Error| os(NAME, error.raw_os_error().unwrap_or(libc::EIO));
        let opened = File::open(format!("/proc/{}/mem", call.pid));
        if !self.is_valid(call)? {
            return Err(Repr::Gone { call: NAME }.into());
        }
        let read = opened.and_then(|memory| memory.read_at(buffer, address));
        if !self.is_valid(call)? {
            return Err(Repr::Gone { call: NAME }.into());
        }
        read.map_err(io)
    }
}

enum Received {
    Call(Notification),
    /// Time-out or interruption.
    Nothing,
    /// No process uses the filter any more.
    Nobody,
}

fn os(call: &'static str, errno: i32) -> Error {
    Repr::Os { call, errno }.into()
}

impl From<OwnedFd> for Listener {
    /// Takes a descriptor that came from `SECCOMP_FILTER_FLAG_NEW_LISTENER`, over a socket perhaps.
    fn from(fd: OwnedFd) -> Self {
        Listener(fd)
    }
}

impl From<Listener> for OwnedFd {
    fn from(listener: Listener) -> Self {
        listener.0
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
