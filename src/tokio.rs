//! Children for programs that run on tokio: the surface of [`crate::Child`], whose waits are futures. Behind the
//! feature `tokio`.
//!
//! ```no_run
//! # async fn run() -> palisade::Result<()> {
//! let sandbox = palisade::Sandbox::new()?;
//! let out = sandbox.command("/bin/echo").arg("hi").output_async().await?;
//! assert_eq!(out.stdout, b"hi\n");
//! # Ok(()) }
//! ```
//!
//! The end of a payload is an event of its pidfd, so nothing here needs a handler for SIGCHLD, a thread for each child,
//! or a `wait` that could take another child's status; `tokio::process` in the same program is not disturbed. A spawn,
//! which takes the host program's side about a millisecond, happens on the runtime's blocking threads.
//!
//! All of it needs a runtime with its I/O driver on, and its timer where there are time-outs: as with tokio's own
//! types, there is a panic where they are off.

use std::fs::File;
use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use ::tokio::io::unix::AsyncFd;
use ::tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use ::tokio::task::spawn_blocking;
use ::tokio::time::{Sleep, sleep_until, timeout_at};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use palisade_sys::Step;

use crate::child::Output;
use crate::command::Command;
use crate::error::{Error, ErrorKind, Result};
use crate::output::CHUNK;
use crate::plan::Plan;
use crate::pty::Pty;
use crate::status::{ExitCause, ExitStatus};
use crate::stop::{Tree, wait_until_empty};
use crate::sys::{OwnsDescriptor, register};

impl Command {
    /// [`spawn`](Self::spawn), for tokio. If the future is dropped before it is ready, the payload is killed as soon as
    /// it has begun. Behind the feature `tokio`.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn).
    pub async fn spawn_async(&self) -> Result<Child> {
        start(self.plan()?).await
    }

    /// [`status`](Self::status), for tokio. If the future is dropped, the payload is killed. Behind the feature `tokio`.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub async fn status_async(&self) -> Result<ExitStatus> {
        self.spawn_async().await?.wait().await
    }

    /// [`output`](Self::output), for tokio. If the future is dropped, the payload is killed. Behind the feature `tokio`.
    ///
    /// # Errors
    /// As [`output`](Self::output).
    pub async fn output_async(&self) -> Result<Output> {
        start(self.plan_for_output()?).await?.wait_with_output().await
    }
}

async fn start(plan: Plan) -> Result<Child> {
    let child = blocking(move || plan.spawn()).await?;
    Child::new(child)
}

/// Runs what blocks for a moment on a thread of the runtime that is there for that.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let lost = |error| {
        Error::new(
            ErrorKind::Supervise,
            Step::Supervise,
            format!("a blocking thread of the runtime: {error}"),
        )
    };
    spawn_blocking(work).await.map_err(lost)?
}

/// A payload that runs, in a program that runs on tokio.
///
/// **Dropping it ends it**, as with [`crate::Child`]: the payload and its descendants are killed, and a thread of the
/// library collects what is left, whether or not the runtime still runs. `Lifetime::Detached` turns that off.
#[derive(Debug)]
pub struct Child {
    /// The payload's standard input, if it is piped. Dropping it is the payload's end of file.
    pub stdin: Option<Stream<File>>,
    /// The payload's standard output, if it is piped.
    pub stdout: Option<Stream<File>>,
    /// The payload's standard error, if it is piped.
    pub stderr: Option<Stream<File>>,
    /// Our end of the payload's terminal, if it has one.
    pub pty: Option<Stream<Pty>>,
    // Before the child: its registration ends while the descriptor is open.
    pidfd: AsyncFd<OwnedFd>,
    child: crate::Child,
}

impl Child {
    /// Takes over a child, with those of its streams that were not taken.
    ///
    /// # Errors
    /// What the registration with the runtime's I/O driver fails with; the payload is killed then.
    pub fn new(mut child: crate::Child) -> Result<Self> {
        let failed = |error: io::Error| Error::call(Step::Supervise, "epoll_ctl", &error);
        let pipe = |fd: OwnedFd| stream(File::from(fd)).map_err(failed);
        let pidfd = child.pidfd().try_clone_to_owned().map_err(failed)?;
        Ok(Self {
            stdin: child.stdin.take().map(|stream| pipe(stream.into())).transpose()?,
            stdout: child.stdout.take().map(|stream| pipe(stream.into())).transpose()?,
            stderr: child.stderr.take().map(|stream| pipe(stream.into())).transpose()?,
            pty: child.pty.take().map(|pty| stream(pty).map_err(failed)).transpose()?,
            pidfd: register(pidfd).map_err(failed)?,
            child,
        })
    }

    /// The child as others see it, for all that does not wait: its pid, its cgroup, signals, what was enforced, further
    /// commands into its sandbox.
    pub fn get_ref(&self) -> &crate::Child {
        &self.child
    }

    /// As [`crate::Child::id`].
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// As [`crate::Child::signal`].
    ///
    /// # Errors
    /// As that.
    pub fn signal(&self, signal: i32) -> Result<()> {
        self.child.signal(signal)
    }

    /// As [`crate::Child::kill`].
    ///
    /// # Errors
    /// As that.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()
    }

    /// As [`crate::Child::try_wait`].
    ///
    /// # Errors
    /// As that.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits until the payload has ended, closing its standard input first. Waits for at most
    /// [`Command::timeout`], then kills it.
    ///
    /// Cancel safe: a future that is dropped loses nothing, and the next call gives the status. A time-out of the
    /// command's is kept by whoever waits.
    ///
    /// # Errors
    /// As [`crate::Child::wait`].
    pub async fn wait(&mut self) -> Result<ExitStatus> {
        drop(self.stdin.take());
        loop {
            // At its end this kills what is over its time.
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            let ended = self.pidfd.readable();
            let ended = match self.child.deadline() {
                Some(deadline) => timeout_at(deadline.into(), ended).await.ok().transpose(),
                None => ended.await.map(Some),
            };
            ended.map_err(|error| Error::call(Step::Supervise, "epoll_wait", &error))?;
        }
    }

    /// Waits for the end and collects what the piped streams give, as [`crate::Child::wait_with_output`]. If the future
    /// is dropped, the payload is killed.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub async fn wait_with_output(mut self) -> Result<Output> {
        drop(self.stdin.take());
        let failed = |error: io::Error| Error::call(Step::Supervise, "epoll_wait or read", &error);
        let shown = match self.pty.take() {
            Some(pty) => Some(pty.into_stream().map_err(failed)?),
            None => None,
        };
        let mut open = [self.stdout.take().or(shown), self.stderr.take()];
        let mut bytes = [Vec::new(), Vec::new()];
        let stopped = self.collect(&mut open, &mut bytes).await.map_err(failed)?;
        if let Some(cause) = stopped {
            // Before the streams close: that would end it by SIGPIPE.
            self.child.kill_for(cause)?;
        }
        drop(open);
        let status = self.wait().await?;
        let [stdout, stderr] = bytes;
        Ok(Output { status, stdout, stderr })
    }

    /// Reads until both streams end, the payload has ended and they are empty, or a limit is reached, which it says.
    async fn collect(
        &self,
        streams: &mut [Option<Stream<File>>; 2],
        bytes: &mut [Vec<u8>; 2],
    ) -> io::Result<Option<ExitCause>> {
        let limit = self.child.output_limit();
        let mut deadline = self.child.deadline().map(|deadline| Box::pin(sleep_until(deadline.into())));
        let mut chunk = vec![0; CHUNK];
        poll_fn(|cx| {
            if is_over(deadline.as_mut(), cx) {
                return Poll::Ready(Ok(Some(ExitCause::TimedOut)));
            }
            // Asked first: what was written before the end is read after it.
            let ended = self.pidfd.poll_read_ready(cx)?.is_ready();
            for (stream, bytes) in streams.iter_mut().zip(&mut *bytes) {
                while let Some(open) = stream {
                    match if ended { open.read_now(&mut chunk) } else { open.poll_chunk(cx, &mut chunk) } {
                        Poll::Ready(Ok(0)) => *stream = None,
                        Poll::Ready(Ok(n)) => bytes.extend_from_slice(&chunk[..n]),
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                        Poll::Pending => break,
                    }
                    if bytes.len() as u64 > limit {
                        bytes.truncate(limit as usize);
                        return Poll::Ready(Ok(Some(ExitCause::OutputLimit)));
                    }
                }
            }
            let done = ended || streams.iter().all(Option::is_none);
            if done { Poll::Ready(Ok(None)) } else { Poll::Pending }
        })
        .await
    }

    /// As [`crate::Child::signal_tree`].
    ///
    /// # Errors
    /// As that.
    pub async fn signal_tree(&self, signal: i32) -> Result<()> {
        if self.child.has_status() {
            return Ok(());
        }
        let tree = Tree::of(self.child.live())?;
        blocking(move || tree.signal(signal)).await
    }

    /// As [`crate::Child::stop`]. A future that is dropped leaves the payload with the signal, and without its end.
    ///
    /// # Errors
    /// As that.
    pub async fn stop(&mut self, signal: i32, grace: Duration) -> Result<ExitStatus> {
        let until = Instant::now().checked_add(grace);
        let asked = self.signal_tree(signal).await;
        let ended = match (&asked, until) {
            (Err(_), _) => None,
            (Ok(()), Some(until)) => timeout_at(until.into(), self.wait()).await.ok().transpose()?,
            (Ok(()), None) => Some(self.wait().await?),
        };
        if let (Some(_), Some(cgroup)) = (ended, self.child.live().rest()) {
            blocking(move || wait_until_empty(&cgroup, until)).await?;
        }
        self.child.live().kill_all()?;
        let status = self.wait().await?;
        asked.map(|()| status)
    }
}

fn is_over(deadline: Option<&mut Pin<Box<Sleep>>>, cx: &mut Context<'_>) -> bool {
    deadline.is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready())
}

/// Our end of a payload's stream: of a pipe (`Stream<File>`), or of its terminal (`Stream<Pty>`).
#[derive(Debug)]
pub struct Stream<T: AsRawFd>(AsyncFd<T>);

fn stream<T: OwnsDescriptor + AsFd>(inner: T) -> io::Result<Stream<T>> {
    let flags = OFlag::from_bits_retain(fcntl(&inner, FcntlArg::F_GETFL)?);
    fcntl(&inner, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    register(inner).map(Stream)
}

impl<T: AsRawFd> Stream<T> {
    /// What it is: a [`Pty`] can be resized so.
    pub fn get_ref(&self) -> &T {
        self.0.get_ref()
    }
}

impl Stream<Pty> {
    fn into_stream(self) -> io::Result<Stream<File>> {
        stream(File::from(OwnedFd::from(self.0.into_inner())))
    }
}

impl Stream<File> {
    /// Reads when there is something to read.
    fn poll_chunk(&self, cx: &mut Context<'_>, chunk: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(cx))?;
            match self.read_now(chunk) {
                Poll::Pending => ready.clear_ready(),
                read @ Poll::Ready(_) => return read,
            }
        }
    }

    /// Reads what is there; a terminal that nobody holds open any more has ended.
    fn read_now(&self, chunk: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.get_ref().read(chunk) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::EIO) => return Poll::Ready(Ok(0)),
                read => return Poll::Ready(read),
            }
        }
    }
}

impl<T: AsRawFd + AsFd> AsFd for Stream<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.get_ref().as_fd()
    }
}

impl<T> AsyncRead for Stream<T>
where
    T: AsRawFd + AsFd + Unpin,
    for<'a> &'a T: Read,
{
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(cx))?;
            let place = buffer.initialize_unfilled();
            // An error here is "not now": then it waits again.
            if let Ok(read) = ready.try_io(|inner| inner.get_ref().read(place)) {
                return Poll::Ready(read.map(|count| buffer.advance(count)));
            }
        }
    }
}

impl<T> AsyncWrite for Stream<T>
where
    T: AsRawFd + AsFd + Unpin,
    for<'a> &'a T: Write,
{
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_write_ready(cx))?;
            if let Ok(written) = ready.try_io(|inner| inner.get_ref().write(bytes)) {
                return Poll::Ready(written);
            }
        }
    }

    /// Nothing is kept here.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Dropping closes it; a terminal has no other end of file than the character for that.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
