//! The raw calls of this crate.
#![expect(unsafe_code, reason = "the one file of this crate that calls the kernel past std and nix")]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The size of a page in bytes.
pub(crate) fn page_size() -> u64 {
    // SAFETY: sysconf reads no memory of ours.
    let n = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(n).unwrap_or(4096)
}

/// Makes every child that `command` spawns write `0` to `procs`, an open `cgroup.procs`, before it executes.
pub(crate) fn enter_before_exec(command: &mut Command, procs: File) {
    let enter = move || (&procs).write(b"0").map(drop);
    // SAFETY: the closure does one write(2) from static memory: nothing that is unsafe after fork in a program with
    // threads (no allocation, no lock).
    unsafe { command.pre_exec(enter) };
}

/// Whether the directory has an extended attribute of this name with the value `1`.
pub(crate) fn xattr_is_one(fd: BorrowedFd<'_>, name: &std::ffi::CStr) -> bool {
    let mut value = [0u8; 8];
    // SAFETY: the name is a C string, the buffer is ours and its length is given.
    let n = unsafe { libc::fgetxattr(fd.as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    usize::try_from(n).is_ok_and(|n| value.get(..n) == Some(b"1"))
}

/// pidfd_open(2).
pub(crate) fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    owned(fd)
}

/// pidfd_send_signal(2) with SIGKILL.
pub(crate) fn pidfd_kill(pidfd: BorrowedFd<'_>) -> io::Result<()> {
    let none: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: a null siginfo is allowed and means one as kill(2) sends.
    let r = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), libc::SIGKILL, none, 0) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    match i32::try_from(fd) {
        // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
