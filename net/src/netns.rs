//! A handle to one network namespace.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

use crate::error::{Error, Result};
use crate::socket::{self, Socket};
use crate::sys;

/// A network namespace, held by a descriptor, with the two netlink sockets through which everything in it is done. On a
/// kernel without nfnetlink there are links, addresses and routes; what takes nftables or conntrack is
/// [`Unsupported`](crate::ErrorKind::Unsupported).
///
/// The calling thread never changes its namespace: sockets belong to the namespace in which they were opened, and a helper
/// thread opens them. With the last descriptor and the last process inside, the namespace and all that is in it vanish,
/// so dropping the handle cleans up, and so does the death of the process by any signal.
#[derive(Debug)]
#[doc(alias = "network_namespaces")]
pub struct Netns {
    fd: OwnedFd,
    pub(crate) route: Socket,
    /// A kernel without nfnetlink has links all the same: who asks for rules gets the error.
    netfilter: Result<Socket>,
}

impl Netns {
    /// Makes a fresh namespace: nothing in it but `lo`, which is down.
    ///
    /// Needs `CAP_SYS_ADMIN` in the caller's user namespace.
    /// See [network_namespaces(7)](https://man7.org/linux/man-pages/man7/network_namespaces.7.html).
    ///
    /// # Errors
    /// [`Permission`](crate::ErrorKind::Permission) without that capability; `ENOSPC` at the limit of
    /// `user.max_net_namespaces`.
    pub fn create() -> Result<Self> {
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .map_err(|e| Error::system("unshare(CLONE_NEWNET)", e as i32))?;
            Self::current()
        })?
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// [`Permission`](crate::ErrorKind::Permission) without `CAP_NET_ADMIN` in the user namespace that owns it.
    pub fn current() -> Result<Self> {
        Self::adopt(Socket::open(libc::NETLINK_ROUTE)?, Socket::open(libc::NETLINK_NETFILTER))
    }

    /// The namespace that `namespace` refers to: an open `/proc/PID/ns/net`, or a file on which one is mounted.
    ///
    /// A caller without `CAP_SYS_ADMIN` in its own user namespace can still open a namespace that belongs to a user
    /// namespace which it made: a short-lived child then joins both and hands the sockets back.
    ///
    /// # Errors
    /// [`Permission`](crate::ErrorKind::Permission) if the caller has no power over the namespace; `EINVAL` if the
    /// descriptor is not a network namespace.
    pub fn open(namespace: impl AsFd) -> Result<Self> {
        let fd = namespace.as_fd();
        match on_thread(|| {
            join(fd)?;
            Self::current()
        })? {
            Err(e) if e.errno() == Some(libc::EPERM) => {
                let failed = |e: io::Error| {
                    Error::system("opening a network namespace", e.raw_os_error().unwrap_or(libc::EPERM))
                };
                let user = sys::owner_of_namespace(fd).map_err(failed)?;
                let (route, netfilter) = sys::sockets_inside(user.as_fd(), fd).map_err(failed)?;
                let netfilter = netfilter.map_err(|errno| socket::unopened(libc::NETLINK_NETFILTER, errno));
                Self::adopt(Socket::adopt(route)?, netfilter.and_then(Socket::adopt))
            }
            result => result,
        }
    }

    /// The namespace in which two sockets were opened, say by a sandbox's own set-up: `NETLINK_ROUTE` and
    /// `NETLINK_NETFILTER`.
    ///
    /// # Errors
    /// The sockets are of different namespaces, are no netlink sockets, or the caller has no `CAP_NET_ADMIN` over them.
    pub fn from_sockets(route: OwnedFd, netfilter: OwnedFd) -> Result<Self> {
        Self::adopt(Socket::adopt(route)?, Ok(Socket::adopt(netfilter)?))
    }

    fn adopt(route: Socket, netfilter: Result<Socket>) -> Result<Self> {
        let namespace = |socket: &Socket| {
            sys::namespace_of_socket(socket.fd().as_fd())
                .map_err(|e| Error::system("ioctl(SIOCGSKNS)", e.raw_os_error().unwrap_or(0)))
        };
        let fd = namespace(&route)?;
        if let Ok(netfilter) = &netfilter {
            if inode(&fd)? != inode(&namespace(netfilter)?)? {
                return Err(Error::invalid(
                    "the two netlink sockets",
                    "both must be of one network namespace",
                ));
            }
        }
        Ok(Self { fd, route, netfilter })
    }

    /// The way to nftables and conntrack.
    ///
    /// # Errors
    /// The kernel has none.
    pub(crate) fn netfilter(&self) -> Result<&Socket> {
        self.netfilter.as_ref().map_err(Clone::clone)
    }

    /// The inode of the namespace, the number in `/proc/PID/ns/net`: equal for two handles of one namespace.
    ///
    /// # Errors
    /// fstat(2) failed, which it does not on an open descriptor.
    pub fn inode(&self) -> Result<u64> {
        inode(&self.fd)
    }

    /// Runs `work` on a helper thread inside the namespace, to open sockets there or to read `/proc/thread-self/net`.
    ///
    /// # Errors
    /// [`Permission`](crate::ErrorKind::Permission) without `CAP_SYS_ADMIN` in the caller's own user namespace. A panic
    /// of `work` goes on in the caller.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        on_thread(|| {
            join(self.fd.as_fd())?;
            Ok(work())
        })?
    }

    /// Writes a sysctl below `net.`, like `net.ipv4.ip_forward`, of this namespace.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) for a name outside `net.`; otherwise as [`run`](Self::run), or what the
    /// write said ([`NotFound`](crate::ErrorKind::NotFound) for a sysctl that this kernel or namespace lacks).
    #[doc(alias = "ip_forward")]
    pub fn set_sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = sysctl_path(name)?;
        // No creation: the name must be one of the kernel's.
        self.run(|| {
            std::fs::OpenOptions::new()
                .write(true)
                .open(&path)
                .and_then(|mut f| io::Write::write_all(&mut f, value.as_bytes()))
        })?
        .map_err(|e| {
            Error::system(format_args!("sysctl {name} = {value:?}"), e.raw_os_error().unwrap_or(libc::EIO))
        })
    }

    /// Reads a sysctl below `net.` of this namespace, without the newline.
    ///
    /// # Errors
    /// As [`set_sysctl`](Self::set_sysctl).
    pub fn sysctl(&self, name: &str) -> Result<String> {
        let path = sysctl_path(name)?;
        self.run(|| std::fs::read_to_string(&path))?
            .map(|text| text.trim_end().to_owned())
            .map_err(|e| Error::system(format_args!("sysctl {name}"), e.raw_os_error().unwrap_or(libc::EIO)))
    }

    /// Turns on forwarding of both families, and turns off what a router of untrusted neighbours must not do:
    /// believing router advertisements, sending and believing redirects, and routing 127.0.0.0/8 from outside.
    ///
    /// # Errors
    /// As [`set_sysctl`](Self::set_sysctl). IPv6 being absent from the kernel is no error.
    #[doc(alias = "ip_forward")]
    pub fn enable_forwarding(&self) -> Result<()> {
        for (name, value) in [
            ("net.ipv4.conf.all.route_localnet", "0"),
            ("net.ipv4.conf.all.accept_redirects", "0"),
            ("net.ipv4.conf.default.accept_redirects", "0"),
            ("net.ipv4.conf.all.send_redirects", "0"),
            ("net.ipv4.conf.default.send_redirects", "0"),
            ("net.ipv4.ip_forward", "1"),
        ] {
            self.set_sysctl(name, value)?;
        }
        for (name, value) in [
            ("net.ipv6.conf.all.accept_ra", "0"),
            ("net.ipv6.conf.default.accept_ra", "0"),
            ("net.ipv6.conf.all.accept_redirects", "0"),
            ("net.ipv6.conf.default.accept_redirects", "0"),
            ("net.ipv6.conf.all.forwarding", "1"),
        ] {
            match self.set_sysctl(name, value) {
                Err(e) if e.kind() == crate::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        Ok(())
    }
}

impl Netns {
    /// Shows traffic between ports of a bridge to the IPv4 and IPv6 filters too, not only to those of the bridge family
    /// (`br_netfilter`).
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) where the kernel's `br_netfilter` module is not loaded: then only
    /// routed traffic is filtered, and the caller must not rely on it.
    #[doc(alias = "br_netfilter")]
    #[doc(alias = "bridge-nf-call-iptables")]
    pub fn filter_bridged(&self) -> Result<()> {
        for name in ["net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables"] {
            self.set_sysctl(name, "1").map_err(|e| match e.kind() {
                crate::ErrorKind::NotFound => Error::kernel(
                    format_args!("sysctl {name}"),
                    libc::EOPNOTSUPP,
                    Some("load the kernel module br_netfilter, or route between the pods".into()),
                ),
                _ => e,
            })?;
        }
        Ok(())
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn sysctl_path(name: &str) -> Result<std::path::PathBuf> {
    // Interface names may hold a dot, so the kernel's own spelling with slashes is accepted too.
    let path = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    let fine = path.strip_prefix("net/").is_some_and(|rest| {
        rest.split('/').all(|part| {
            !part.is_empty() && part != "." && part != ".." && part.bytes().all(|b| b.is_ascii_graphic())
        })
    });
    if !fine {
        return Err(Error::invalid(
            format_args!("sysctl {name:?}"),
            "a name below net., like net.ipv4.ip_forward",
        ));
    }
    Ok(std::path::Path::new("/proc/sys").join(path))
}

fn inode(fd: &OwnedFd) -> Result<u64> {
    let stat = nix::sys::stat::fstat(fd).map_err(|e| Error::system("fstat(network namespace)", e as i32))?;
    Ok(stat.st_ino)
}

fn join(fd: BorrowedFd<'_>) -> Result<()> {
    setns(fd, CloneFlags::CLONE_NEWNET).map_err(|e| Error::system("setns(CLONE_NEWNET)", e as i32))
}

/// Runs `work` on a thread of its own, which ends afterwards: whatever namespace it joined goes with it.
fn on_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    thread::scope(|scope| {
        let handle =
            thread::Builder::new().name("palisade-net".into()).spawn_scoped(scope, work).map_err(|e| {
                Error::system("starting a helper thread", e.raw_os_error().unwrap_or(libc::EAGAIN))
            })?;
        match handle.join() {
            Ok(value) => Ok(value),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
