//! A blocking netlink socket: requests, dumps and netfilter batches, each with the kernel's own words on failure.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};

use crate::error::{Error, Result};
use crate::netlink::{Message, Status, split};
use crate::sys;

const NETLINK_CAP_ACK: i32 = 10;
const NETLINK_EXT_ACK: i32 = 11;
const SOL_NETLINK: i32 = 270;
/// The kernel never puts more than 32 KiB into one datagram of a dump.
const RECEIVE: usize = 64 * 1024;

/// One socket, bound to the namespace in which it was opened for as long as it lives.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    /// The number of the last request; the lock also keeps requests of two threads apart.
    last: Mutex<u32>,
}

/// One message of an answer, with its payload.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) kind: u16,
    pub(crate) body: Vec<u8>,
}

/// What the kernel refused of a batch.
#[derive(Debug)]
pub(crate) struct Refused<'a> {
    /// Which message; `None` for the frame around them.
    pub(crate) index: Option<usize>,
    /// The message as it was sent, and all after it.
    pub(crate) message: &'a [u8],
    pub(crate) errno: i32,
    pub(crate) note: Option<String>,
    /// Where in the message the attribute begins that the kernel did not like, if it says.
    pub(crate) offset: Option<usize>,
}

impl Answer {
    pub(crate) fn parts(&self, fixed: usize) -> Result<(&[u8], crate::netlink::Attrs<'_>)> {
        crate::netlink::Reply { kind: self.kind, flags: 0, seq: 0, body: &self.body }.parts(fixed)
    }
}

/// Why there is no socket: opening one takes no privilege.
pub(crate) fn unopened(protocol: i32, errno: i32) -> Error {
    if protocol == libc::NETLINK_ROUTE {
        return Error::system("socket(AF_NETLINK, NETLINK_ROUTE)", errno);
    }
    let what = "socket(AF_NETLINK, NETLINK_NETFILTER)";
    match errno {
        libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::EPERM | libc::EACCES => {
            let fix = "modprobe nfnetlink, or run one with CONFIG_NETFILTER_NETLINK; an outer container's or service's \
                       filter may also hide it";
            Error::lacking(what, errno, "nfnetlink, which rules for packets go through", fix)
        }
        _ => Error::system(what, errno),
    }
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open(protocol: i32) -> Result<Self> {
        use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
        let by_name = if protocol == libc::NETLINK_ROUTE {
            SockProtocol::NetlinkRoute
        } else {
            SockProtocol::NetlinkNetFilter
        };
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, by_name)
            .map_err(|e| unopened(protocol, e as i32))?;
        Self::adopt(fd)
    }

    /// Takes a socket that was opened elsewhere.
    pub(crate) fn adopt(fd: OwnedFd) -> Result<Self> {
        for option in [NETLINK_CAP_ACK, NETLINK_EXT_ACK] {
            sys::set_option(fd.as_fd(), SOL_NETLINK, option, 1)
                .map_err(|e| Error::system("setsockopt(SOL_NETLINK)", e.raw_os_error().unwrap_or(0)))?;
        }
        Ok(Self { fd, last: Mutex::new(0) })
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    fn lock(&self) -> MutexGuard<'_, u32> {
        // A panic between two requests leaves nothing half done: the number only grows.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, what: &str, bytes: &[u8]) -> Result<()> {
        loop {
            match send(self.fd.as_raw_fd(), bytes, MsgFlags::empty()) {
                Ok(sent) if sent == bytes.len() => return Ok(()),
                Ok(_) => return Err(Error::system(what, libc::EMSGSIZE)),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(Error::system(what, e as i32)),
            }
        }
    }

    fn receive(&self, what: &str, buf: &mut [u8], flags: MsgFlags) -> Result<Option<usize>> {
        loop {
            match recv(self.fd.as_raw_fd(), buf, flags | MsgFlags::MSG_TRUNC) {
                Ok(len) if len <= buf.len() => return Ok(Some(len)),
                Ok(_) => return Err(Error::malformed(format_args!("{what}: answer longer than 64 KiB"))),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(e) => return Err(Error::system(what, e as i32)),
            }
        }
    }

    /// Asks, and waits for the acknowledgement; what the kernel says before it is returned.
    pub(crate) fn ask(&self, what: &str, mut message: Message) -> Result<Vec<Answer>> {
        message.add_flags(libc::NLM_F_ACK);
        self.exchange(what, message)
    }

    /// Asks for all objects of a kind. Asked again while the kernel says that the list changed meanwhile.
    pub(crate) fn dump(&self, what: &str, mut message: Message) -> Result<Vec<Answer>> {
        message.add_flags(libc::NLM_F_DUMP);
        for _ in 0..16 {
            match self.exchange(what, message.clone()) {
                Err(e) if e.errno() == Some(libc::EINTR) => {}
                other => return other,
            }
        }
        Err(Error::system(format_args!("{what}: the list kept changing"), libc::EINTR))
    }

    fn exchange(&self, what: &str, message: Message) -> Result<Vec<Answer>> {
        let mut last = self.lock();
        *last = last.wrapping_add(1);
        let seq = *last;
        self.send(what, &message.finish(seq)?)?;
        let mut buf = vec![0; RECEIVE];
        let mut answers = Vec::new();
        let mut interrupted = false;
        loop {
            let len = self.receive(what, &mut buf, MsgFlags::empty())?.unwrap_or(0);
            for reply in split(&buf[..len])? {
                // An earlier request may have been given up half-read.
                if reply.seq != seq {
                    continue;
                }
                interrupted |= i32::from(reply.flags) & libc::NLM_F_DUMP_INTR != 0;
                match i32::from(reply.kind) {
                    libc::NLMSG_ERROR | libc::NLMSG_DONE => {
                        let Status { errno, note, .. } = reply.status()?;
                        return match errno {
                            0 if interrupted => Err(Error::system(what, libc::EINTR)),
                            0 => Ok(answers),
                            _ => Err(Error::kernel(what, errno, note)),
                        };
                    }
                    libc::NLMSG_NOOP => {}
                    _ => answers.push(Answer { kind: reply.kind, body: reply.body.to_vec() }),
                }
            }
        }
    }

    /// Sends netfilter messages as one transaction: all of them or none.
    ///
    /// `refused` makes an error of the first message that the kernel refused.
    pub(crate) fn batch(
        &self,
        what: &str,
        messages: Vec<Message>,
        refused: impl Fn(Refused<'_>) -> Error,
    ) -> Result<()> {
        let Some(count) = u32::try_from(messages.len()).ok().filter(|n| *n > 0) else { return Ok(()) };
        let mut last = self.lock();
        let first = last.wrapping_add(1);
        *last = first.wrapping_add(count + 1);
        // struct nfgenmsg: family, version, resource id (the subsystem) in network order.
        let frame = [0, 0, 0, libc::NFNL_SUBSYS_NFTABLES as u8];
        let mut bytes = Message::new(libc::NFNL_MSG_BATCH_BEGIN as u16, 0).fixed(&frame).finish(first)?;
        // Where each message begins, the frame's two among them.
        let mut starts = vec![0];
        for (index, mut message) in (1..=count).zip(messages) {
            // One acknowledgement is enough: the kernel commits before it delivers any.
            if index == count {
                message.add_flags(libc::NLM_F_ACK);
            }
            starts.push(bytes.len());
            bytes.extend(message.finish(first.wrapping_add(index))?);
        }
        starts.push(bytes.len());
        bytes.extend(Message::new(libc::NFNL_MSG_BATCH_END as u16, 0).fixed(&frame).finish(*last)?);
        // A batch is one datagram. FORCE needs CAP_NET_ADMIN over the socket's namespace, which the batch needs anyway;
        // where it is refused the ordinary limit holds and `send` says EMSGSIZE.
        let size = i32::try_from(bytes.len() + 4096).unwrap_or(i32::MAX);
        let forced = sys::set_option(self.fd.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, size);
        if let Err(e) = forced {
            sys::set_option(self.fd.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, size).map_err(|_| {
                Error::system(format_args!("{what}: send buffer"), e.raw_os_error().unwrap_or(0))
            })?;
        }
        self.send(what, &bytes)?;
        // The kernel works synchronously: every answer is queued by now.
        let mut buf = vec![0; RECEIVE];
        let mut acknowledged = false;
        let mut error: Option<Error> = None;
        while let Some(len) = self.receive(what, &mut buf, MsgFlags::MSG_DONTWAIT)? {
            for reply in split(&buf[..len])? {
                let index = reply.seq.wrapping_sub(first);
                if index > count + 1 || i32::from(reply.kind) != libc::NLMSG_ERROR {
                    continue;
                }
                let Status { errno, note, offset } = reply.status()?;
                match errno {
                    0 => acknowledged |= index == count,
                    _ if error.is_none() => {
                        let message = starts.get(index as usize).and_then(|start| bytes.get(*start..));
                        let index = index.checked_sub(1).filter(|n| *n < count).map(|n| n as usize);
                        let message = message.unwrap_or_default();
                        error = Some(refused(Refused { index, message, errno, note, offset }));
                    }
                    _ => {}
                }
            }
        }
        match error {
            Some(error) => Err(error),
            None if acknowledged => Ok(()),
            None => Err(Error::malformed(format_args!("{what}: no acknowledgement"))),
        }
    }
}
