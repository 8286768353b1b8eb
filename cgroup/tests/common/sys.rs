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

/// libc has it as an `i32`, in which it is zero.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// clone3(2) with CLONE_INTO_CGROUP: runs `child` in a copy of this process born in the group, and gives its exit code.
/// The raw call knows nothing of glibc's locks, which another test's thread may hold; so it is made in a proper fork.
pub(crate) fn clone_into(group: std::os::fd::BorrowedFd<'_>, child: impl FnOnce() -> i32) -> io::Result<i32> {
    use std::os::fd::AsRawFd;
    let args = CloneArgs {
        flags: CLONE_INTO_CGROUP,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: group.as_raw_fd() as u64,
        ..CloneArgs::default()
    };
    let args: *const CloneArgs = &args;
    in_copy(
        // SAFETY: glibc's fork leaves a copy that may allocate.
        unsafe { libc::fork() },
        || {
            // SAFETY: without CLONE_VM this is fork(2); the struct has the size that is passed.
            let pid = unsafe { libc::syscall(libc::SYS_clone3, args, size_of::<CloneArgs>()) };
            in_copy(pid as i32, child).unwrap_or(120)
        },
    )
}

/// What both sides of a fork do: the copy runs `child` and ends, the original waits for its exit code.
fn in_copy(pid: i32, child: impl FnOnce() -> i32) -> io::Result<i32> {
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    if pid == 0 {
        let code = child();
        // SAFETY: ends the copy without running the original's exit handlers.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: the child is ours and the status is a local.
    let waited = unsafe { libc::waitpid(pid, &mut status, 0) };
    assert_eq!(waited, pid);
    Ok(if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 121 })
}

/// A pipe filled to the brim: its buffers are memory of whoever wrote. Returns the bytes written; the pipe stays open.
pub(crate) fn full_pipe() -> io::Result<usize> {
    let mut fds = [0; 2];
    // SAFETY: the array has room for two descriptors.
    let r = unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_NONBLOCK) };
    if r < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor of ours; failing to enlarge it is fine.
    unsafe { libc::fcntl(fds[1], libc::F_SETPIPE_SZ, 1 << 20) };
    let page = [1u8; 65536];
    let mut total = 0;
    loop {
        // SAFETY: the buffer is ours and as long as said.
        let n = unsafe { libc::write(fds[1], page.as_ptr().cast(), page.len()) };
        match usize::try_from(n) {
            Ok(n) => total += n,
            Err(_) => return Ok(total),
        }
    }
}

/// Sets an extended attribute to `1`.
pub(crate) fn mark(path: &std::ffi::CStr, name: &std::ffi::CStr) -> bool {
    let value = b"1";
    // SAFETY: two C strings and a buffer of the length that is passed.
    let r = unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    r == 0
}

/// Runs `child` in a copy of this process that may open descriptors below `limit` only; its exit code.
pub(crate) fn with_descriptors(limit: u64, child: impl FnOnce() -> i32) -> i32 {
    let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
    let copy = in_copy(
        // SAFETY: glibc's fork leaves a copy that may allocate.
        unsafe { libc::fork() },
        || {
            // SAFETY: the struct is a local; only the copy is limited.
            let r = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
            if r == 0 { child() } else { 122 }
        },
    );
    copy.expect("forked")
}

/// Leaves `n` copies of the calling process behind that wait for a signal.
pub(crate) fn fork_idle(n: usize) -> io::Result<()> {
    for _ in 0..n {
        // SAFETY: the copy makes one system call after the other and never returns.
        let pid = unsafe { libc::fork() };
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        if pid == 0 {
            // SAFETY: the copy uses none of its descriptors, and std's pipe among them would keep `spawn` waiting.
            unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
            loop {
                // SAFETY: waits for a signal.
                unsafe { libc::pause() };
            }
        }
    }
    Ok(())
}

/// Gives the calling process a mount table of its own in which the directory is read-only.
pub(crate) fn make_read_only(path: &std::ffi::CStr) -> io::Result<()> {
    let none: *const libc::c_char = std::ptr::null();
    let mount = |source: *const libc::c_char, target: *const libc::c_char, flags| {
        // SAFETY: C strings or null, as mount(2) takes them, in a mount namespace of this process alone.
        match unsafe { libc::mount(source, target, none, flags, std::ptr::null()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: takes a number.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return Err(io::Error::last_os_error());
    }
    mount(none, c"/".as_ptr(), libc::MS_REC | libc::MS_PRIVATE)?;
    mount(path.as_ptr(), path.as_ptr(), libc::MS_BIND | libc::MS_REC)?;
    mount(none, path.as_ptr(), libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY)
}
