//! Files that announce their changes: `cgroup.events`, `memory.events`, `pids.events`.

use std::fs::File;
use std::io::{Read, Seek};
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::cgroup::Cgroup;
use crate::error::{Error, ErrorKind, Result};
use crate::keyed::Flat;
use crate::memory::{MemoryEvents, SwapEvents};
use crate::pids::PidsEvents;

/// `cgroup.events`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Events {
    /// Whether a live process sits in the group or below it.
    pub populated: bool,
    /// Whether every process in it is frozen.
    pub frozen: bool,
}

impl Events {
    /// # Errors
    /// [`Parse`](ErrorKind::Parse) for what is not a `key value` file.
    pub fn parse(text: &[u8]) -> Result<Events> {
        let flat = Flat::parse("cgroup.events", text)?;
        // Without this key 'is it empty?' has no answer; guessing would remove or leak groups.
        let populated = flat.get("populated").ok_or_else(|| Error::parse("cgroup.events", text))?;
        Ok(Events { populated: populated != 0, frozen: flat.count("frozen") != 0 })
    }
}

mod sealed {
    pub trait Sealed {}
}

/// What a [`Watch`] can follow.
pub trait Watched: sealed::Sealed + Sized {
    #[doc(hidden)]
    const FILE: &'static str;
    #[doc(hidden)]
    fn parse(text: &[u8]) -> Result<Self>;
}

macro_rules! watched {
    ($($type:ty = $file:literal),*) => {$(
        impl sealed::Sealed for $type {}
        impl Watched for $type {
            const FILE: &'static str = $file;
            fn parse(text: &[u8]) -> Result<Self> {
                <$type>::parse(text)
            }
        }
    )*};
}
watched!(
    Events = "cgroup.events",
    MemoryEvents = "memory.events",
    SwapEvents = "memory.swap.events",
    PidsEvents = "pids.events"
);

/// An open event file. [`Watch::changed`] blocks; an async runtime waits for *priority* readiness of the descriptor
/// (`POLLPRI`, `EPOLLPRI`; tokio: `Interest::PRIORITY`) and then calls [`Watch::read`], which also re-arms it.
#[derive(Debug)]
pub struct Watch<T> {
    file: File,
    path: PathBuf,
    what: PhantomData<fn() -> T>,
}

impl<T: Watched> Watch<T> {
    fn open(group: &Cgroup) -> Result<Watch<T>> {
        let file = group.dir.file(T::FILE, OFlag::O_RDONLY);
        let file = file.map_err(|e| group.dir.explain("open", T::FILE, e as i32))?;
        let mut watch = Watch { file, path: group.file_path(T::FILE), what: PhantomData };
        // A change counts from the last read on.
        watch.read()?;
        Ok(watch)
    }

    /// The present state. Changes from here on are announced.
    ///
    /// # Errors
    /// [`Gone`](ErrorKind::Gone) once the group is removed.
    pub fn read(&mut self) -> Result<T> {
        let mut text = Vec::new();
        let read = self.file.rewind().and_then(|()| self.file.read_to_end(&mut text));
        read.map_err(|e| Error::io("read", &self.path, &e))?;
        T::parse(&text).map_err(|e| e.at(&self.path))
    }

    /// Waits until the file changes, and gives its new state; `None` when the time is over.
    ///
    /// # Errors
    /// [`Gone`](ErrorKind::Gone) once the group is removed.
    pub fn changed(&mut self, timeout: Duration) -> Result<Option<T>> {
        let deadline = Instant::now().checked_add(timeout);
        let changed = wait_priority(self.file.as_fd(), deadline)
            .map_err(|e| Error::os("poll", &self.path, e as i32))?;
        if changed.is_some() { self.read().map(Some) } else { Ok(None) }
    }

    /// Waits until `done` holds for the state, the present one included.
    ///
    /// # Errors
    /// [`TimedOut`](ErrorKind::TimedOut), [`Gone`](ErrorKind::Gone).
    pub fn wait_until(&mut self, timeout: Duration, mut done: impl FnMut(&T) -> bool) -> Result<T> {
        let deadline = Instant::now().checked_add(timeout);
        loop {
            let state = self.read()?;
            if done(&state) {
                return Ok(state);
            }
            let more = wait_priority(self.file.as_fd(), deadline)
                .map_err(|e| Error::os("poll", &self.path, e as i32))?;
            if more.is_none() {
                return Err(Error::new(ErrorKind::TimedOut, "the awaited state did not come").at(&self.path));
            }
        }
    }
}

impl<T> AsFd for Watch<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Cgroup {
    /// Opens an event file to wait for its changes: `group.watch::<MemoryEvents>()?`.
    ///
    /// # Errors
    /// [`ControllerMissing`](ErrorKind::ControllerMissing) without the controller, [`Gone`](ErrorKind::Gone).
    pub fn watch<T: Watched>(&self) -> Result<Watch<T>> {
        Watch::open(self)
    }

    /// Whether anything lives in the group, and whether it is frozen: `cgroup.events`.
    ///
    /// # Errors
    /// [`Gone`](ErrorKind::Gone); [`Unsupported`](ErrorKind::Unsupported) for the root of the hierarchy.
    #[doc(alias = "cgroup.events")]
    pub fn events(&self) -> Result<Events> {
        Events::parse(&self.dir.read("cgroup.events")?)
    }
}

/// Waits for priority data, which is how kernfs and PSI announce; `None` when the deadline has passed.
pub(crate) fn wait_priority(
    fd: BorrowedFd<'_>,
    deadline: Option<Instant>,
) -> Result<Option<PollFlags>, Errno> {
    loop {
        let timeout = match deadline {
            None => PollTimeout::NONE,
            Some(at) => {
                let left = at.saturating_duration_since(Instant::now());
                // Rounded up, so that the last fraction of a millisecond is not spent spinning.
                let ms = left.as_millis() + u128::from(left.subsec_nanos() % 1_000_000 != 0);
                PollTimeout::try_from(i32::try_from(ms).unwrap_or(i32::MAX)).unwrap_or(PollTimeout::MAX)
            }
        };
        let mut fds = [PollFd::new(fd, PollFlags::POLLPRI)];
        match poll(&mut fds, timeout) {
            Ok(0) if deadline.is_some_and(|at| at <= Instant::now()) => return Ok(None),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(Some(fds[0].revents().unwrap_or(PollFlags::POLLPRI))),
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_real_file() {
        let e = Events::parse(include_bytes!("../tests/fixtures/v2/cgroup.events")).expect("parses");
        assert_eq!(e, Events { populated: true, frozen: false });
        assert_eq!(Events::parse(b"frozen 1\n").expect_err("populated is needed").kind(), ErrorKind::Parse);
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_parser(b: Vec<u8>) {
            if let Ok(e) = Events::parse(&b) {
                prop_assert!(b.windows(9).any(|w| w == b"populated"), "{e:?}");
            }
        }
    }
}
