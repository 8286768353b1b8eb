//! The raw calls that have no safe wrapper.

#![expect(unsafe_code, reason = "the raw calls live here")]

use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// `SIOCGSKNS`, `NS_GET_USERNS`: not in libc for every target.
const SIOCGSKNS: libc::c_ulong = 0x894C;
const NS_GET_USERNS: libc::c_ulong = 0xb701;

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// setsockopt(2) with an integer.
pub(crate) fn set_option(socket: BorrowedFd<'_>, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the pointer and length describe the live local `value`, which the kernel only reads.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    })
    .map(drop)
}

/// An ioctl without argument that answers with a new descriptor.
fn descriptor_ioctl(fd: BorrowedFd<'_>, request: libc::c_ulong) -> io::Result<OwnedFd> {
    // SAFETY: both requests that come here take no argument, so the kernel touches no memory of ours.
    let new = check(unsafe { libc::ioctl(fd.as_raw_fd(), request) })?;
    // SAFETY: the kernel made `new` for this call and nothing else owns it; it sets CLOEXEC itself.
    Ok(unsafe { OwnedFd::from_raw_fd(new) })
}

/// The network namespace of a socket (Linux 4.10, needs `CAP_NET_ADMIN` over it).
pub(crate) fn namespace_of_socket(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    descriptor_ioctl(socket, SIOCGSKNS)
}

/// The user namespace that owns a namespace (Linux 4.9).
pub(crate) fn owner_of_namespace(namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    descriptor_ioctl(namespace, NS_GET_USERNS)
}

/// An `ifreq` for an interface. Names are at most 15 bytes; what is longer is cut, and then names nothing.
fn ifreq(name: &str) -> libc::ifreq {
    // SAFETY: `ifreq` is plain old data for which all zero bytes are a valid value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

/// The index of an interface in the socket's namespace (`SIOCGIFINDEX`). Unlike a netlink request it waits for no lock.
pub(crate) fn interface_index(socket: BorrowedFd<'_>, name: &str) -> io::Result<u32> {
    let mut request = ifreq(name);
    // SAFETY: `SIOCGIFINDEX` reads and writes one `ifreq`, which lives until the call returns.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFINDEX as _, &raw mut request) })?;
    // SAFETY: the kernel has just written this member of the union.
    let index = unsafe { request.ifr_ifru.ifru_ifindex };
    Ok(index as u32)
}

/// Makes an open `/dev/net/tun` the tap interface `name` (`TUNSETIFF`, Ethernet frames without the 4-byte header).
pub(crate) fn attach_tap(tun: &File, name: &str) -> io::Result<()> {
    let mut request = ifreq(name);
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: `TUNSETIFF` reads and writes one `ifreq`, which lives until the call returns.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) }).map(drop)
}

/// The two netlink protocols that a namespace handle needs.
pub(crate) const PROTOCOLS: [i32; 2] = [libc::NETLINK_ROUTE, libc::NETLINK_NETFILTER];

/// What the helper process sends beside the errno of each protocol (0 is success): the sockets.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// The route socket, and the netfilter socket or the errno of a kernel without it.
pub(crate) type Sockets = (OwnedFd, Result<OwnedFd, i32>);

/// Opens netlink sockets inside a namespace of another user namespace.
///
/// Joining a user namespace is refused to a process with threads, so a short-lived child of one thread does it and hands
/// the sockets back. The child has no exit signal: handlers and reapers of the host never see it.
pub(crate) fn sockets_inside(user: BorrowedFd<'_>, net: BorrowedFd<'_>) -> io::Result<Sockets> {
    let mut pair = [0; 2];
    // SAFETY: socketpair fills exactly the two integers of `pair`.
    check(unsafe {
        libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, pair.as_mut_ptr())
    })?;
    // SAFETY: socketpair made this descriptor for us alone.
    let ours = unsafe { OwnedFd::from_raw_fd(pair[0]) };
    // SAFETY: as above, the other end.
    let theirs = unsafe { OwnedFd::from_raw_fd(pair[1]) };
    let (user, net, end) = (user.as_raw_fd(), net.as_raw_fd(), theirs.as_raw_fd());
    // SAFETY: flags 0 make this fork(2) without an exit signal; the child runs only `helper`, which makes raw calls, takes
    // no lock, allocates nothing and never returns.
    let pid = unsafe { libc::syscall(libc::SYS_clone, 0, 0, 0, 0, 0) };
    match pid {
        -1 => return Err(io::Error::last_os_error()),
        0 => helper(user, net, end),
        _ => drop(theirs),
    }
    let received = receive_sockets(ours.as_fd());
    loop {
        // SAFETY: waits for the child made above, which nothing else can reap; a null status is allowed.
        let waited = unsafe { libc::waitpid(pid as libc::pid_t, std::ptr::null_mut(), libc::__WALL) };
        if waited >= 0 || io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            break;
        }
    }
    received
}

/// The child of [`sockets_inside`]: no allocation, no lock, no return.
fn helper(user: RawFd, net: RawFd, end: RawFd) -> ! {
    let mut sockets = [-1; 2];
    let mut errnos = [0; 2];
    let errno = || io::Error::last_os_error().raw_os_error().unwrap_or(libc::EPERM);
    // SAFETY: takes a descriptor number and a flag, no memory.
    let mut joined = unsafe { libc::setns(user, libc::CLONE_NEWUSER) } == 0;
    // SAFETY: as above.
    joined = joined && unsafe { libc::setns(net, libc::CLONE_NEWNET) } == 0;
    if !joined {
        errnos = [errno(); 2];
    }
    let mut count = 0;
    for (protocol, failed) in PROTOCOLS.into_iter().zip(&mut errnos).filter(|_| joined) {
        // SAFETY: takes three integers, no memory.
        let socket = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) };
        if socket < 0 {
            *failed = errno();
            break;
        }
        sockets[count] = socket;
        count += 1;
    }
    let mut control = Control([0; 64]);
    let mut part = libc::iovec { iov_base: (&raw mut errnos).cast(), iov_len: size_of_val(&errnos) };
    // SAFETY: `msghdr` is plain old data for which all zero bytes are a valid value.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if count > 0 {
        let bytes = size_of_val(&sockets[..count]) as u32;
        message.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: computes a number from a number.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(bytes) } as _;
        // SAFETY: the control buffer is aligned, 64 bytes long and lives on this stack.
        let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
        let filled = libc::cmsghdr {
            // SAFETY: computes a number from a number.
            cmsg_len: unsafe { libc::CMSG_LEN(bytes) } as _,
            cmsg_level: libc::SOL_SOCKET,
            cmsg_type: libc::SCM_RIGHTS,
        };
        // SAFETY: `header` points at the start of the 64-byte buffer, which has room for a header.
        unsafe { header.write(filled) };
        // SAFETY: computes an address inside the same buffer.
        let data = unsafe { libc::CMSG_DATA(header) };
        // SAFETY: the buffer has room for two integers behind the header; the length above says how many count.
        unsafe { data.cast::<[RawFd; 2]>().write_unaligned(sockets) };
    }
    // SAFETY: the message refers to locals that are alive.
    let sent = unsafe { libc::sendmsg(end, &raw const message, libc::MSG_NOSIGNAL) };
    // SAFETY: ends this child without running anything of the parent's.
    unsafe { libc::_exit(i32::from(sent < 0)) }
}

fn receive_sockets(end: BorrowedFd<'_>) -> io::Result<Sockets> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    let mut errnos = [0; 8];
    let mut space = nix::cmsg_space!([RawFd; 2]);
    let mut parts = [io::IoSliceMut::new(&mut errnos)];
    let message = recvmsg::<()>(end.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut sockets = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            for fd in fds {
                // SAFETY: the kernel installed these descriptors for this receive; nothing else owns them.
                sockets.push(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
    }
    let got = message.bytes;
    let [a, b, c, d, e, f, g, h] = errnos;
    let errnos = [i32::from_ne_bytes([a, b, c, d]), i32::from_ne_bytes([e, f, g, h])];
    let mut sockets = sockets.into_iter();
    match (sockets.next(), sockets.next(), errnos) {
        (Some(route), Some(netfilter), [0, 0]) => Ok((route, Ok(netfilter))),
        (Some(route), None, [0, errno]) if errno > 0 => Ok((route, Err(errno))),
        (None, None, [errno, _]) if errno > 0 && got == 8 => Err(io::Error::from_raw_os_error(errno)),
        _ => Err(io::Error::other("the helper process died")),
    }
}
