//! The loopback device of a new network namespace.

use palisade_sys::{Program, Step};

/// Brings `lo` up in the network namespace that the program runs in: a new one has it down and without an address;
/// with it the kernel adds 127.0.0.1/8 and ::1/128. Once more does no harm.
///
/// Three system calls: a socket, `SIOCSIFFLAGS`, close. Needs `CAP_NET_ADMIN` in the user namespace that owns the
/// network namespace (`EPERM` otherwise), and IPv4 in the kernel (`EAFNOSUPPORT`).
///
/// [netdevice(7)](https://man7.org/linux/man-pages/man7/netdevice.7.html)
pub fn loopback_up() -> Program {
    let mut p = Program::new();
    p.at(Step::Network, "lo");
    let socket = p.socket(libc::AF_INET, libc::SOCK_DGRAM, 0);
    // struct ifreq: the name in 16 bytes, then the flags. Flags that are not named here and that the kernel lets
    // be changed (IFF_MULTICAST, IFF_PROMISC …) are off for lo from the start.
    let mut request = [0; 40];
    request[..2].copy_from_slice(b"lo");
    request[16..18].copy_from_slice(&(libc::IFF_UP as u16).to_ne_bytes());
    let request = p.bytes(&request);
    p.ioctl(socket, libc::SIOCSIFFLAGS, request);
    p.close(socket);
    p
}

const _: () = assert!(size_of::<libc::ifreq>() == 40);
