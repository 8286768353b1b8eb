//! What the kernel does with a call: the value that a filter returns.

use std::fmt;

const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0x0000_0000;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const USER_NOTIF: u32 = 0x7fc0_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;

/// What happens to a system call.
///
/// Ordered as the kernel weighs several filters: of all their answers the smallest counts, so that
/// `KillProcess < … < Allow`. See [seccomp(2)](https://man7.org/linux/man-pages/man2/seccomp.2.html).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Action {
    /// The whole process dies of SIGSYS. Linux 4.14.
    KillProcess,
    /// The calling thread dies; the others go on, with whatever locks it held. Prefer [`Action::KillProcess`].
    KillThread,
    /// SIGSYS is sent to the thread; its handler finds the call in `siginfo_t` and this word in `si_errno`.
    Trap(u16),
    /// The call is not made and fails with this number, 0 to 4095 (0 makes it return 0 as if it had succeeded).
    Errno(u16),
    /// A supervisor decides, through a [`Listener`](crate::Listener). Linux 5.0.
    UserNotif,
    /// A ptrace tracer decides and finds this word in its event message; without one the call fails with ENOSYS.
    Trace(u16),
    /// The call is made and logged (where the sysctl `kernel.seccomp.actions_logged` lists `log`). Linux 4.14.
    Log,
    /// The call is made.
    Allow,
}

impl Action {
    /// [`Action::Errno`] with EPERM, the usual refusal.
    pub const EPERM: Action = Action::Errno(libc::EPERM as u16);
    /// [`Action::Errno`] with ENOSYS: programs take it for an older kernel and use what they did before.
    pub const ENOSYS: Action = Action::Errno(libc::ENOSYS as u16);

    /// The filter's return value.
    pub const fn to_ret(self) -> u32 {
        match self {
            Action::KillProcess => KILL_PROCESS,
            Action::KillThread => KILL_THREAD,
            Action::Trap(data) => TRAP | data as u32,
            Action::Errno(errno) => ERRNO | errno as u32,
            Action::UserNotif => USER_NOTIF,
            Action::Trace(data) => TRACE | data as u32,
            Action::Log => LOG,
            Action::Allow => ALLOW,
        }
    }

    /// What the kernel makes of a filter's return value: total, since it takes an unknown action for
    /// [`Action::KillProcess`].
    pub const fn from_ret(ret: u32) -> Self {
        let data = (ret & 0xffff) as u16;
        match ret & 0xffff_0000 {
            KILL_THREAD => Action::KillThread,
            TRAP => Action::Trap(data),
            ERRNO => Action::Errno(if data > MAX_ERRNO { MAX_ERRNO } else { data }),
            USER_NOTIF => Action::UserNotif,
            TRACE => Action::Trace(data),
            LOG => Action::Log,
            ALLOW => Action::Allow,
            _ => Action::KillProcess,
        }
    }

    /// Whether the kernel makes the call without asking anybody.
    pub const fn lets_through(self) -> bool {
        matches!(self, Action::Allow | Action::Log)
    }
}

/// The kernel caps the errno of a filter at this value.
pub(crate) const MAX_ERRNO: u16 = 4095;

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::KillProcess => f.write_str("KILL_PROCESS"),
            Action::KillThread => f.write_str("KILL_THREAD"),
            Action::Trap(0) => f.write_str("TRAP"),
            Action::Trap(data) => write!(f, "TRAP({data})"),
            Action::Errno(errno) => match errno_name(*errno) {
                Some(name) => write!(f, "ERRNO({name})"),
                None => write!(f, "ERRNO({errno})"),
            },
            Action::UserNotif => f.write_str("USER_NOTIF"),
            Action::Trace(data) => write!(f, "TRACE({data})"),
            Action::Log => f.write_str("LOG"),
            Action::Allow => f.write_str("ALLOW"),
        }
    }
}

/// Names of the errors that filters return.
pub(crate) fn errno_name(errno: u16) -> Option<&'static str> {
    Some(match i32::from(errno) {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::EBADF => "EBADF",
        libc::EAGAIN => "EAGAIN",
        libc::ENOMEM => "ENOMEM",
        libc::EACCES => "EACCES",
        libc::EFAULT => "EFAULT",
        libc::EBUSY => "EBUSY",
        libc::EINVAL => "EINVAL",
        libc::ENOSYS => "ENOSYS",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        libc::EAFNOSUPPORT => "EAFNOSUPPORT",
        libc::ESRCH => "ESRCH",
        libc::ENOTTY => "ENOTTY",
        libc::EROFS => "EROFS",
        libc::ECANCELED => "ECANCELED",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn return_values_round_trip() {
        for action in [
            Action::KillProcess,
            Action::KillThread,
            Action::Trap(7),
            Action::EPERM,
            Action::Errno(0),
            Action::UserNotif,
            Action::Trace(9),
            Action::Log,
            Action::Allow,
        ] {
            assert_eq!(Action::from_ret(action.to_ret()), action);
        }
    }

    #[test]
    fn unknown_values_kill_and_errno_is_capped_as_in_the_kernel() {
        assert_eq!(Action::from_ret(0x1234_0000), Action::KillProcess);
        assert_eq!(Action::from_ret(ERRNO | 0xffff), Action::Errno(4095));
    }

    #[test]
    fn order_is_the_kernels_precedence() {
        assert!(Action::KillProcess < Action::KillThread && Action::Errno(1) < Action::UserNotif);
        assert!(Action::Trap(0) < Action::Errno(0) && Action::Log < Action::Allow);
    }
}
