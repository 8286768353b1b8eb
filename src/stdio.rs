//! The standard streams of a payload.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use nix::fcntl::OFlag;

use crate::sys::{above_stdio, is_open};

/// What a payload's standard stream is connected to: as [`std::process::Stdio`], and usable for more than one spawn.
#[derive(Clone, Debug)]
pub struct Stdio(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Inherit,
    Null,
    Piped,
    /// The payload's own terminal, which the stage puts there.
    Terminal,
    Fd(Arc<OwnedFd>),
}

impl Stdio {
    /// The host program's own stream; /dev/null if that is closed.
    pub fn inherit() -> Self {
        Self(Kind::Inherit)
    }

    /// /dev/null of the host.
    pub fn null() -> Self {
        Self(Kind::Null)
    }

    /// A pipe, whose other end is a stream of [`Child`](crate::Child).
    pub fn piped() -> Self {
        Self(Kind::Piped)
    }

    pub(crate) fn terminal() -> Self {
        Self(Kind::Terminal)
    }

    pub(crate) fn is_terminal(&self) -> bool {
        matches!(self.0, Kind::Terminal)
    }

    pub(crate) fn is_piped(&self) -> bool {
        matches!(self.0, Kind::Piped)
    }

    /// Opens what stream number `stream` needs: the child's side, and ours if it is a pipe. Streams of one payload share
    /// one `null`.
    pub(crate) fn open(&self, stream: i32, null: &mut Option<Arc<OwnedFd>>) -> io::Result<Opened> {
        let child = match &self.0 {
            Kind::Inherit if is_open(stream) => Side::Number(stream),
            Kind::Inherit | Kind::Null | Kind::Terminal => {
                let opened = null.take().map_or_else(open_null, Ok)?;
                Side::Shared(Arc::clone(null.insert(opened)))
            }
            Kind::Fd(fd) => Side::Shared(Arc::clone(fd)),
            Kind::Piped => {
                let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
                let (read, write) = (above_stdio(read)?, above_stdio(write)?);
                let (theirs, ours) = if stream == 0 { (read, write) } else { (write, read) };
                return Ok(Opened { child: Side::Owned(theirs), parent: Some(ours) });
            }
        };
        Ok(Opened { child, parent: None })
    }
}

fn open_null() -> io::Result<Arc<OwnedFd>> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    above_stdio(null.into()).map(Arc::new)
}

impl From<OwnedFd> for Stdio {
    fn from(fd: OwnedFd) -> Self {
        Self(Kind::Fd(Arc::new(fd)))
    }
}

impl From<File> for Stdio {
    fn from(file: File) -> Self {
        OwnedFd::from(file).into()
    }
}

impl From<std::process::ChildStdout> for Stdio {
    fn from(stream: std::process::ChildStdout) -> Self {
        OwnedFd::from(stream).into()
    }
}

impl From<std::process::ChildStderr> for Stdio {
    fn from(stream: std::process::ChildStderr) -> Self {
        OwnedFd::from(stream).into()
    }
}

impl From<std::process::ChildStdin> for Stdio {
    fn from(stream: std::process::ChildStdin) -> Self {
        OwnedFd::from(stream).into()
    }
}

/// One stream of one spawn.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) child: Side,
    pub(crate) parent: Option<OwnedFd>,
}

/// A descriptor of ours that the child gets a copy of.
#[derive(Debug)]
pub(crate) enum Side {
    /// A standard stream of the host program.
    Number(i32),
    Owned(OwnedFd),
    Shared(Arc<OwnedFd>),
}

impl Side {
    pub(crate) fn number(&self) -> i32 {
        match self {
            Self::Number(fd) => *fd,
            Self::Owned(fd) => fd.as_raw_fd(),
            Self::Shared(fd) => fd.as_raw_fd(),
        }
    }
}
