//! The raw calls of the tests.
#![expect(unsafe_code, reason = "what std and nix offer only for whole processes, or not at all")]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Gives up root in the calling thread alone, which is to end soon.
pub(crate) fn become_nobody_in_this_thread() {
    // SAFETY: the raw call takes three numbers; it changes the ids of this thread, which owns nothing of others.
    let r = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
    assert_eq!(r, 0);
}

/// Runs a check in the child, inside whatever `confine` put it in.
pub(crate) fn before_exec(command: &mut Command, f: impl FnMut() -> io::Result<()> + Send + Sync + 'static) {
    // SAFETY: the checks allocate, which glibc allows in a child of a threaded program, and take no lock of ours.
    unsafe { command.pre_exec(f) };
}
