//! User namespaces: who owns them, how deep they are, and how to have no more of them.

use std::os::fd::AsFd as _;

use palisade_sys::{Fd, OpenHow, Program, Step};

use crate::error::{Error, ErrorKind, Result};
use crate::handle::{Ns, kind};
use crate::namespace::Namespace;
use crate::sys;

impl Ns<kind::User> {
    /// The uid that made it and has all capabilities in it from outside, as a number of the caller's user namespace
    /// (the overflow uid, 65534, where it has none there). Since Linux 4.11.
    ///
    /// # Errors
    /// None is known.
    #[doc(alias = "NS_GET_OWNER_UID")]
    pub fn owner_uid(&self) -> Result<u32> {
        sys::ns_owner_uid(self.as_fd()).map_err(|e| Error::io(&e, format!("asking {self} for its owner")))
    }

    /// How many levels it is below the caller's user namespace: 0 for that itself; `None` if it is not below it. The
    /// kernel nests them 32 deep below the first one.
    ///
    /// # Errors
    /// As for [`Ns::current`].
    pub fn depth_below_caller(&self) -> Result<Option<usize>> {
        let caller = Self::current()?;
        let mut depth = 0;
        let mut at = Some(self.clone());
        while let Some(namespace) = at {
            if namespace == caller {
                return Ok(Some(depth));
            }
            at = namespace.parent()?;
            depth += 1;
        }
        Ok(None)
    }
}

impl Namespace {
    fn limit_file(self) -> String {
        format!("/proc/sys/user/max_{}_namespaces", self.name())
    }

    /// How many namespaces of this kind one user may have made in the caller's user namespace and those below it:
    /// `user.max_*_namespaces`. Outer user namespaces have limits of their own. 0 means that none can be made.
    ///
    /// # Errors
    /// [`ErrorKind::NoProc`] without `/proc`, [`ErrorKind::Unsupported`] if the kernel has not got the kind.
    #[doc(alias = "max_user_namespaces")]
    pub fn limit(self) -> Result<u32> {
        let path = self.limit_file();
        let text = std::fs::read_to_string(&path).map_err(|e| {
            let kind = if std::path::Path::new("/proc/sys/user").exists() {
                ErrorKind::Unsupported
            } else {
                ErrorKind::NoProc
            };
            Error::io(&e, format!("read {path}")).kind_is(kind)
        })?;
        let invalid = || Error::new(ErrorKind::Syntax, format!("{path} is {text:?}, not a number"));
        text.trim().parse().map_err(|_| invalid())
    }

    /// Sets [`Namespace::limit`] of the user namespace that the program runs in. Those that exist stay, and count.
    ///
    /// To leave a program without further user namespaces, for good: run this with 1 in a new user namespace, make
    /// a second one in it, drop what capabilities remain in the first, and then run [`no_more_user_namespaces`]. Whoever holds
    /// `CAP_SYS_RESOURCE` in a user namespace can raise its limit; in the second, nobody reaches that of the first.
    ///
    /// Needs `CAP_SYS_RESOURCE` in the user namespace (`EACCES` or `EPERM`), and `/proc/sys` writable.
    ///
    /// [namespaces(7)](https://man7.org/linux/man-pages/man7/namespaces.7.html)
    pub fn limit_program(self, limit: u32) -> Program {
        let path = self.limit_file();
        let mut p = Program::new();
        p.at(Step::Sysctls, &path);
        let path = std::ffi::CString::new(path).unwrap_or_default();
        let file = p.openat2(Fd::CWD, &path, OpenHow { flags: libc::O_WRONLY, ..OpenHow::default() });
        p.write_all(file, limit.to_string().as_bytes());
        p.close(file);
        p
    }
}

/// Tries to make a user namespace, and fails (with `ENOTRECOVERABLE`) if that works: the proof that what forbids it
/// holds. One call where it does. The payload must not run after a failure: the process is in a new user namespace then.
pub fn no_more_user_namespaces() -> Program {
    let mut p = Program::new();
    p.at(Step::LockMounts, "a further user namespace could be made");
    p.unshare(libc::CLONE_NEWUSER);
    let refused = p.forward();
    p.jump_on(&[libc::ENOSPC, libc::EUSERS, libc::EPERM, libc::EACCES], refused);
    p.fail(libc::ENOTRECOVERABLE);
    p.land(refused);
    p
}
