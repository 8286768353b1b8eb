//! What is said over the control socket, whose other end the stage has until it executes the payload.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, send};
use palisade_sys::Step;

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
