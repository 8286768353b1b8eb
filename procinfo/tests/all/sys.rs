#![expect(unsafe_code, reason = "pidfd_open has no wrapper in nix or std")]

use std::os::fd::{FromRawFd, OwnedFd};

/// pidfd_open(2).
pub(crate) fn pidfd_open(pid: u32) -> OwnedFd {
    // SAFETY: pidfd_open takes two integers and touches no memory.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    assert!(fd >= 0, "pidfd_open: {}", std::io::Error::last_os_error());
    let fd = i32::try_from(fd).expect("a descriptor");
    // SAFETY: the call has just made this descriptor and nothing else owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
