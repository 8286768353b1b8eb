//! What is said over the control socket, whose other end the stage has until it executes the payload.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, send};
use palisade_sys::Step;

use crate::child::readable;
use crate::error::{Error, Result};
use crate::sys::{self, adopt};

pub(crate) fn unheard(error: &io::Error) -> Error {
    Error::call(Step::Stage, "recvmsg from the stage", error)
}

/// Sends the stage the byte that it waits for.
pub(crate) fn go(control: &UnixStream, step: Step) -> Result<()> {
    match send(control.as_raw_fd(), &[1], MsgFlags::MSG_NOSIGNAL) {
        // EPIPE: it has ended already; why is in the image.
        Ok(_) | Err(nix::errno::Errno::EPIPE | nix::errno::Errno::ECONNRESET) => Ok(()),
        Err(errno) => Err(Error::call(step, "send to the stage", &errno.into())),
    }
}

/// A byte of the stage's, and what came with it.
pub(crate) struct Word {
    pub(crate) byte: u8,
    /// The pid of the process that said it, here.
    pub(crate) sender: Option<u32>,
    pub(crate) descriptor: Option<OwnedFd>,
}

/// Waits until the stage says a word, which it does when it waits for us or sends something; `None` when the socket has
/// closed.
pub(crate) fn hear(control: &UnixStream) -> io::Result<Option<Word>> {
    loop {
        match hear_once(control) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The child ended with the go byte unread.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            other => return other,
        }
    }
}

fn hear_once(control: &UnixStream) -> io::Result<Option<Word>> {
    let (mut byte, mut space) = ([0], nix::cmsg_space!([i32; 1], UnixCredentials));
    let mut into = [io::IoSliceMut::new(&mut byte)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(control.as_raw_fd(), &mut into, Some(&mut space), flags)?;
    let (mut sender, mut received) = (None, Vec::new());
    for part in message.cmsgs()? {
        match part {
            ControlMessageOwned::ScmRights(numbers) => received.extend(numbers.into_iter().map(adopt)),
            ControlMessageOwned::ScmCredentials(who) => sender = u32::try_from(who.pid()).ok(),
            _ => {}
        }
    }
    if message.bytes == 0 {
        return Ok(None);
    }
    let descriptor = received.pop().map(sys::above_stdio).transpose()?;
    Ok(Some(Word { byte: byte[0], sender, descriptor }))
}

/// Hears words until the socket has closed, or until a time: `false` then. A payload that attached to its init could say
/// words without end.
pub(crate) fn hear_the_end(
    control: &UnixStream,
    until: Option<Instant>,
    mut each: impl FnMut(Word),
) -> io::Result<bool> {
    while readable(control.as_fd(), until)? {
        let Some(word) = hear(control)? else { return Ok(true) };
        each(word);
        if until.is_some_and(|until| until <= Instant::now()) {
            break;
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use super::*;

    #[test]
    fn words_without_end_do_not_keep_a_spawn_past_its_time() {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
        let speaker = std::thread::spawn(move || while theirs.write_all(b"w").is_ok() {});
        let mut heard = 0;
        let closed = hear_the_end(&ours, Some(Instant::now() + Duration::from_millis(50)), |_| heard += 1);
        assert!(!closed.expect("it can be read") && heard > 0);
        drop(ours);
        speaker.join().expect("it ends with the socket");
    }

    #[test]
    fn a_socket_that_closes_is_heard() {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        drop(theirs);
        assert!(hear_the_end(&ours, None, |_| {}).expect("it can be read"));
    }
}
