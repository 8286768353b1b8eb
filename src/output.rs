//! Collecting what a payload writes, both streams at once.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, poll};

use crate::child::poll_time;
use crate::status::ExitCause;

/// What was collected, and why it stopped before the end, if it did.
#[derive(Debug)]
pub(crate) struct Collected {
    pub(crate) bytes: [Vec<u8>; 2],
    pub(crate) stopped: Option<ExitCause>,
    /// Streams that had not ended. Who stops before the end kills the payload while they are open: closing them first
    /// would end it by SIGPIPE.
    pub(crate) open: [Option<File>; 2],
}

/// Bytes read at once: the default size of a pipe.
pub(crate) const CHUNK: usize = 64 << 10;

/// Reads `streams` until both end, the process behind `pidfd` has ended and they are empty, one has given more than
/// `limit` bytes, or `deadline` is over.
pub(crate) fn collect(
    streams: [Option<OwnedFd>; 2],
    pidfd: BorrowedFd<'_>,
    limit: u64,
    deadline: Option<Instant>,
) -> io::Result<Collected> {
    let mut streams = streams.map(|stream| stream.map(File::from));
    for stream in streams.iter().flatten() {
        fcntl(stream, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    }
    let (mut collected, mut stopped) = ([Vec::new(), Vec::new()], None);
    let mut chunk = vec![0; CHUNK];
    'all: while streams.iter().any(Option::is_some) {
        let over = deadline.is_some_and(|deadline| deadline <= Instant::now());
        if over {
            stopped = Some(ExitCause::TimedOut);
            break;
        }
        let ended = wait_for_any(&streams, pidfd, deadline)?;
        for (stream, bytes) in streams.iter_mut().zip(&mut collected) {
            while let Some(open) = stream {
                match open.read(&mut chunk) {
                    Ok(0) => *stream = None,
                    Ok(n) => bytes.extend_from_slice(&chunk[..n]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    // A terminal that nobody holds open any more.
                    Err(error) if error.raw_os_error() == Some(libc::EIO) => *stream = None,
                    Err(error) => return Err(error),
                }
                if bytes.len() as u64 > limit {
                    bytes.truncate(limit as usize);
                    stopped = Some(ExitCause::OutputLimit);
                    break 'all;
                }
            }
        }
        if ended {
            // What it wrote was in the pipes before it ended, and has just been read.
            break;
        }
    }
    Ok(Collected { bytes: collected, stopped, open: streams })
}

/// Whether the process had ended before the streams are read next.
fn wait_for_any(
    streams: &[Option<File>; 2],
    pidfd: BorrowedFd<'_>,
    until: Option<Instant>,
) -> io::Result<bool> {
    let mut fds = vec![PollFd::new(pidfd, PollFlags::POLLIN)];
    fds.extend(streams.iter().flatten().map(|stream| PollFd::new(stream.as_fd(), PollFlags::POLLIN)));
    match poll(&mut fds, poll_time(until)) {
        Ok(_) => Ok(fds[0].any() == Some(true)),
        Err(nix::errno::Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}
