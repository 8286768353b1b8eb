//! Running a helper program and learning how it ended, whatever the host does with its children.
//!
//! An exec sets a process's exit signal back to `SIGCHLD`, so a helper that is the host's own child is lost to a host
//! that ignores `SIGCHLD`, and to one that reaps whatever it finds. So there is a process between: a child with exit
//! signal 0, which never executes anything, starts the helper, waits for it and keeps what came of it. No reaper that
//! does not ask for such children by `__WALL` sees it.
//!
//! Both children borrow this process's memory (`CLONE_VM`, `CLONE_VFORK`): a big host costs nothing, and they make
//! system calls only. The calling thread is held until the helper has ended or its time is over.
#![expect(unsafe_code, reason = "two children on borrowed memory")]

use std::ffi::{CStr, c_int, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::sys::{Errno, check, own};

/// A program to run, by descriptor, and what it gets.
pub(crate) struct Exec<'a> {
    pub(crate) program: BorrowedFd<'a>,
    pub(crate) argv: &'a [&'a CStr],
    pub(crate) envp: &'a [&'a CStr],
    /// Like the other descriptors 3 or above.
    pub(crate) stdin: BorrowedFd<'a>,
    pub(crate) output: BorrowedFd<'a>,
    /// When this is over the program is killed.
    pub(crate) timeout: Duration,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Exited(i32),
    Signaled(i32),
    /// It was killed when its time was over.
    TimedOut,
}

/// What the children read and write.
struct Shared {
    program: c_int,
    argv: *const *const libc::c_char,
    envp: *const *const libc::c_char,
    stdin: c_int,
    output: c_int,
    timeout: Duration,
    /// The end of the stack of the inner child.
    stack: *mut c_void,
    /// Why the program was not executed; 0 if it was.
    exec_errno: c_int,
    end: Result<End, Errno>,
}

/// Runs a program to its end.
pub(crate) fn run(exec: &Exec<'_>) -> Result<End, Errno> {
    let pointers = |strings: &[&CStr]| -> Vec<*const libc::c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(exec.argv), pointers(exec.envp));
    let mut stacks = [vec![0u128; 4096], vec![0u128; 4096]];
    let [outer, inner] = stacks.each_mut().map(|stack| stack.as_mut_ptr_range().end.cast::<c_void>());
    let mut shared = Shared {
        program: exec.program.as_raw_fd(),
        argv: argv.as_ptr(),
        envp: envp.as_ptr(),
        stdin: exec.stdin.as_raw_fd(),
        output: exec.output.as_raw_fd(),
        timeout: exec.timeout,
        stack: inner,
        exec_errno: 0,
        // A child that was killed leaves this.
        end: Err(libc::ECANCELED),
    };
    // Blocked for the children, too: no handler of the host may run on the borrowed memory.
    let before = set_signal_mask(u64::MAX)?;
    let cloned = clone(between, outer, &mut shared, 0);
    set_signal_mask(before)?;
    wait(&cloned?, None)?;
    // SAFETY: `shared` is alive, and both children are past their use of it.
    unsafe { (&raw const shared.end).read_volatile() }
}

/// The process between, which stays until the program has ended.
extern "C" fn between(shared: *mut c_void) -> c_int {
    // SAFETY: `run` keeps it alive and is held by CLONE_VFORK until this child has ended.
    let shared = unsafe { &mut *shared.cast::<Shared>() };
    // The host's handlers are not for the children, nor an ignored SIGCHLD. SIG_DFL is all zero in the kernel's struct.
    let default = [0u64; 4];
    for signal in 1..=64 {
        // SAFETY: 32 zero bytes are a valid struct of this call; KILL and STOP refuse, which is as good.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), 0usize, 8usize) };
    }
    let (stack, timeout) = (shared.stack, shared.timeout);
    let end = clone(execute, stack, shared, libc::SIGCHLD).and_then(|pidfd| wait(&pidfd, Some(timeout)));
    shared.end = match shared.exec_errno {
        0 => end,
        errno => Err(errno),
    };
    exit()
}

/// The child that becomes the program.
extern "C" fn execute(shared: *mut c_void) -> c_int {
    // SAFETY: `between` is held by CLONE_VFORK until this child has executed or ended.
    let shared = unsafe { &mut *shared.cast::<Shared>() };
    let result = [(shared.stdin, 0), (shared.output, 1), (shared.output, 2)]
        .into_iter()
        .try_for_each(|(from, to)| {
            // Never equal: the caller's descriptors lie above the standard three.
            // SAFETY: numbers only.
            check(unsafe { libc::syscall(libc::SYS_dup3, from, to, 0) }).map(drop)
        })
        .and_then(|()| {
            // Descriptors of the host that lack CLOEXEC are none of the helper's business.
            // SAFETY: numbers only; the program's descriptor stays usable until the exec.
            check(unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })
        })
        .and_then(|_| set_signal_mask(0))
        .and_then(|_| {
            let (empty, flags) = (c"".as_ptr(), libc::AT_EMPTY_PATH);
            let (program, argv, envp) = (shared.program, shared.argv, shared.envp);
            // SAFETY: argv and envp are null-ended arrays of live C strings; the path is the empty C string.
            check(unsafe { libc::syscall(libc::SYS_execveat, program, empty, argv, envp, flags) })
        });
    shared.exec_errno = result.err().unwrap_or(libc::ENOEXEC);
    exit()
}

/// A child on this process's memory and the given stack; it holds this thread until it executes or ends.
fn clone(
    body: extern "C" fn(*mut c_void) -> c_int,
    stack: *mut c_void,
    shared: &mut Shared,
    exit_signal: c_int,
) -> Result<OwnedFd, Errno> {
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | exit_signal;
    let mut pidfd: c_int = -1;
    // SAFETY: CLONE_VFORK holds this thread, so the stack and `shared` outlive the child's use of them; the bodies make
    // system calls only, and all signals are blocked; the fifth argument receives the pidfd.
    let result = unsafe { libc::clone(body, stack, flags, (&raw mut *shared).cast(), &raw mut pidfd) };
    check(result.into()).map(|_| own(pidfd))
}

/// Ends the calling child alone, running nothing of the host's.
fn exit() -> c_int {
    // SAFETY: a number.
    unsafe { libc::syscall(libc::SYS_exit_group, 0) };
    0
}

/// Sets the calling thread's signal mask and returns the one before.
fn set_signal_mask(mask: u64) -> Result<u64, Errno> {
    let mut before = 0u64;
    let (new, old) = (&raw const mask, &raw mut before);
    // SAFETY: both are live 8-byte masks, which is the size that the call is told.
    check(unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, new, old, 8usize) })
        .map(|_| before)
}

/// Waits for a child, of any exit signal, by raw calls; kills it when its time is over.
fn wait(pidfd: &OwnedFd, timeout: Option<Duration>) -> Result<End, Errno> {
    let fd = pidfd.as_raw_fd();
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let mut killed = false;
    while let Some(deadline) = deadline {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = c_int::try_from(left.as_millis() + 1).unwrap_or(c_int::MAX);
        let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: one live pollfd, and the count says one.
        match check(unsafe { libc::syscall(libc::SYS_poll, &raw mut poll, 1usize, left) }) {
            Ok(1..) => break,
            Ok(_) if Instant::now() >= deadline => {
                // SAFETY: numbers and a null siginfo, which the call allows.
                check(unsafe {
                    libc::syscall(libc::SYS_pidfd_send_signal, fd, libc::SIGKILL, 0usize, 0u32)
                })?;
                killed = true;
                break;
            }
            Ok(_) | Err(libc::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    loop {
        // SAFETY: an all-zero siginfo_t is a valid value.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let flags = libc::WEXITED | libc::__WALL;
        // SAFETY: `info` is live, and the usage is a null that the call allows.
        match check(unsafe {
            libc::syscall(libc::SYS_waitid, libc::P_PIDFD, fd, &raw mut info, flags, 0usize)
        }) {
            Ok(_) => {
                // SAFETY: waitid has filled the fields of an ended child.
                let status = unsafe { info.si_status() };
                return Ok(match info.si_code {
                    _ if killed => End::TimedOut,
                    libc::CLD_EXITED => End::Exited(status),
                    _ => End::Signaled(status),
                });
            }
            Err(libc::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
