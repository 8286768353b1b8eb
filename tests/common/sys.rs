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

pub(crate) fn kill(pid: u32, signal: i32) -> i32 {
    // SAFETY: takes no address; the pid is of a child of the test.
    unsafe { libc::kill(pid as i32, signal) }
}

/// `waitpid(-1)` as a host program's own reaper makes it.
pub(crate) fn reap_any() -> i32 {
    // SAFETY: a null status is allowed.
    unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) }
}
