//! The terminal of a payload: the host program's end of it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use palisade_sys::{Fd, OpenHow, Program, Step};

use crate::sys;

/// The host program's end of a payload's terminal, [`pty(7)`](https://man7.org/linux/man-pages/man7/pty.7.html): what is
/// written is what is typed, what is read is what is shown.
///
/// The other end belongs to a devpts of the sandbox's own, is the controlling terminal of the payload's session, and its
/// standard streams. Dropping this one hangs up: the payload's session gets SIGHUP.
///
/// Reading gives the end of file when nothing inside holds the terminal open any more. For an event loop, take the
/// descriptor by [`AsFd`]; a copy for a second thread by [`try_clone`](Self::try_clone).
#[derive(Debug)]
pub struct Pty(File);

/// The size of a terminal, in characters; 24 by 80 by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PtySize {
    /// Lines.
    pub rows: u16,
    /// Characters a line.
    pub columns: u16,
}

impl PtySize {
    /// A size.
    pub fn new(rows: u16, columns: u16) -> Self {
        Self { rows, columns }
    }

    /// The size of the terminal that `terminal` is: that of the host program's own, say.
    ///
    /// # Errors
    /// `ENOTTY` if it is none.
    pub fn of(terminal: impl AsFd) -> io::Result<Self> {
        sys::window_size(terminal.as_fd()).map(|[rows, columns]| Self { rows, columns })
    }
}

impl Default for PtySize {
    fn default() -> Self {
        Self::new(24, 80)
    }
}

impl Pty {
    pub(crate) fn new(multiplexer: OwnedFd) -> Self {
        Self(multiplexer.into())
    }

    /// Changes the size. If it is another than before, the foreground process group inside gets SIGWINCH.
    ///
    /// # Errors
    /// None that is known of; the kernel may add some.
    pub fn resize(&self, size: PtySize) -> io::Result<()> {
        sys::set_window_size(self.0.as_fd(), [size.rows, size.columns])
    }

    /// The size now: programs inside can change it, too.
    ///
    /// # Errors
    /// None that is known of; the kernel may add some.
    pub fn size(&self) -> io::Result<PtySize> {
        PtySize::of(&self.0)
    }

    /// Another descriptor of the same end. Hanging up takes a drop of all of them.
    ///
    /// # Errors
    /// `EMFILE` if the host program has too many open.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }
}

/// The kernel's word for an end that nobody holds open on the other side is EIO.
fn end_of_file(read: io::Result<usize>) -> io::Result<usize> {
    match read {
        Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(0),
        other => other,
    }
}

impl Read for Pty {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buffer)
    }
}

impl Read for &Pty {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        end_of_file((&self.0).read(buffer))
    }
}

impl Write for Pty {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for &Pty {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Pty {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Pty {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl From<Pty> for OwnedFd {
    fn from(pty: Pty) -> Self {
        pty.0.into()
    }
}

/// The terminal that a command asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terminal {
    pub(crate) size: PtySize,
    /// The standard streams that are on it.
    pub(crate) streams: [bool; 3],
}

/// The multiplexer of the view's own devpts.
const MULTIPLEXER: &std::ffi::CStr = c"/dev/pts/ptmx";

impl Terminal {
    /// Makes it, gives its owner, sends the host program its end and puts the streams on the other. `owner` is set where
    /// the one who opens it is not who will use it.
    pub(crate) fn open(self, p: &mut Program, control: i32, owner: Option<u32>) {
        p.at(Step::Stdio, MULTIPLEXER.to_string_lossy());
        let flags = libc::O_RDWR | libc::O_NOCTTY;
        let resolve = libc::RESOLVE_NO_MAGICLINKS;
        let multiplexer = p.openat2(Fd::CWD, MULTIPLEXER, OpenHow { flags, resolve, ..OpenHow::default() });
        p.same_device(multiplexer, 5, 2);
        let unlocked = p.room(4);
        p.ioctl(multiplexer, libc::TIOCSPTLCK, unlocked);
        let PtySize { rows, columns } = self.size;
        let size = p.bytes(&[rows, columns, 0, 0].map(u16::to_le_bytes).concat());
        p.ioctl(multiplexer, libc::TIOCSWINSZ, size);
        // By the open multiplexer, not by a path: nobody can put another terminal in between.
        let peer = p.terminal_peer(multiplexer);
        if let Some(uid) = owner {
            p.fchown(peer, uid, u32::MAX);
        }
        p.send_descriptor(Fd::number(control), multiplexer);
        p.close(multiplexer);
        for stream in self.numbers() {
            p.dup3(peer, stream, false);
        }
        p.close(peer);
    }

    /// Makes it the controlling terminal of the session that the process leads.
    pub(crate) fn control(self, p: &mut Program) {
        if let Some(stream) = self.numbers().next() {
            p.ioctl_value(Fd::number(stream), libc::TIOCSCTTY, 0);
        }
    }

    fn numbers(self) -> impl Iterator<Item = i32> {
        (0..).zip(self.streams).filter(|(_, on)| *on).map(|(number, _)| number)
    }
}
