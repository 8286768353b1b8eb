//! The raw calls that tests of the engine need.
#![expect(unsafe_code, reason = "tests install handlers, allocators and odd descriptor tables")]
#![expect(dead_code, reason = "each test binary uses a part of it")]

use nix::sys::signal::{SigHandler, Signal};

pub(crate) fn set_handler(signal: Signal, handler: SigHandler) {
    // SAFETY: ignoring, defaulting, or a handler that does nothing.
    unsafe { nix::sys::signal::signal(signal, handler) }.expect("a signal that can be handled");
}

pub(crate) fn close(fd: i32) {
    // SAFETY: the test owns the number: a standard stream of its own process.
    unsafe { libc::close(fd) };
}

pub(crate) fn prctl(option: i32) -> i32 {
    // SAFETY: only options without an address.
    unsafe { libc::prctl(option, 0, 0, 0, 0) }
}

/// Makes a terminal the controlling one of the session that the caller leads.
pub(crate) fn take_terminal(terminal: &impl std::os::fd::AsRawFd) {
    // SAFETY: takes no address.
    assert_eq!(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) }, 0, "TIOCSCTTY");
}

pub(crate) fn kill(pid: u32, signal: i32) -> i32 {
    // SAFETY: takes no address; the pid is of a child of the test.
    unsafe { libc::kill(pid as i32, signal) }
}

/// `waitpid(-1)` as a host program's own reaper makes it.
pub(crate) fn reap_any() -> i32 {
    // SAFETY: a null status is allowed.
    unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) }
}

/// Forks a child that runs `body` and exits.
pub(crate) fn fork(body: impl FnOnce()) -> u32 {
    // SAFETY: the child runs what the test gives it and ends; the tests that use this do it before they make threads.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork");
    if pid == 0 {
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        // SAFETY: ends the child without the parent's clean-up.
        unsafe { libc::_exit(i32::from(ran.is_err())) }
    }
    pid as u32
}

pub(crate) fn reap(pid: u32) {
    // SAFETY: a null status is allowed.
    unsafe { libc::waitpid(pid as i32, std::ptr::null_mut(), 0) };
}

/// Changes the calling thread's ids, and takes its groups away.
pub(crate) fn become_user(id: u32) {
    // SAFETY: an empty list needs no address.
    assert_eq!(unsafe { libc::setgroups(0, std::ptr::null()) }, 0);
    // SAFETY: takes no address.
    assert_eq!(unsafe { libc::setresgid(id, id, id) }, 0);
    // SAFETY: takes no address.
    assert_eq!(unsafe { libc::setresuid(id, id, id) }, 0);
}

pub(crate) fn vm_read(pid: u32, address: u64, len: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0u8; len];
    let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: len };
    let remote = libc::iovec { iov_base: address as *mut _, iov_len: len };
    // SAFETY: the local buffer is `len` bytes; the remote address is the other process's affair.
    let read = unsafe { libc::process_vm_readv(pid as i32, &raw const local, 1, &raw const remote, 1, 0) };
    (read == len as isize).then_some(bytes)
}

/// Attaches, reads a word, and lets go.
pub(crate) fn ptrace_peek(pid: u32, address: u64) -> Option<i64> {
    let pid = pid as i32;
    // SAFETY: no address of ours.
    if unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) } != 0 {
        return None;
    }
    // SAFETY: no address of ours.
    unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, pid, 0, 0) };
    // SAFETY: a null status is allowed.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL) };
    // SAFETY: the address is the other process's.
    let word = unsafe { libc::ptrace(libc::PTRACE_PEEKDATA, pid, address, 0) };
    // SAFETY: no address of ours.
    unsafe { libc::ptrace(libc::PTRACE_DETACH, pid, 0, 0) };
    (word != -1).then_some(word)
}

/// Whether a pipe has something to read, or its other end is closed.
pub(crate) fn readable(pipe: &impl std::os::fd::AsFd) -> bool {
    use nix::poll::{PollFd, PollFlags, poll};
    let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, 0u8).is_ok_and(|n| n > 0)
}

/// Joins a new session keyring and puts a key into it; its number.
pub(crate) fn plant_key() -> Option<i64> {
    // SAFETY: no name; takes no other address.
    let joined = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, 0) };
    if joined < 0 {
        return None;
    }
    let (kind, name, value) = (c"user", c"palisade-canary", b"secret");
    // SAFETY: two C strings and six bytes, alive during the call. -3 is the session keyring.
    let key =
        unsafe { libc::syscall(libc::SYS_add_key, kind.as_ptr(), name.as_ptr(), value.as_ptr(), 6, -3) };
    (key > 0).then_some(key)
}
