//! The raw calls of the parent side.
#![expect(unsafe_code, reason = "this file holds the crate's raw calls")]

use std::ffi::{CStr, c_int, c_long, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use std::os::unix::process::CommandExt;
use std::process::Command;

use palisade_sys::{Fault, Image};

use crate::{Gid, Ids, Uid};

/// An errno.
pub(crate) type Errno = i32;

/// `EPERM: Operation not permitted`.
pub(crate) fn errno_text(errno: Errno) -> String {
    nix::errno::Errno::from_raw(errno).to_string()
}

fn last_errno() -> Errno {
    nix::errno::Errno::last_raw()
}

/// `result` of a libc call, or its errno.
fn check(result: c_long) -> Result<c_long, Errno> {
    if result < 0 { Err(last_errno()) } else { Ok(result) }
}

/// The calling thread's effective user id; `None` never comes from a kernel.
pub(crate) fn geteuid() -> Option<Uid> {
    // SAFETY: takes nothing, changes nothing, cannot fail.
    Uid::new(unsafe { libc::geteuid() })
}

/// The calling thread's effective group id.
pub(crate) fn getegid() -> Option<Gid> {
    // SAFETY: takes nothing, changes nothing, cannot fail.
    Gid::new(unsafe { libc::getegid() })
}

/// The calling thread's user ids.
pub(crate) fn getresuid() -> Result<Ids<Uid>, Errno> {
    let [mut real, mut effective, mut saved] = [0; 3];
    // SAFETY: three live ids to write to.
    check(unsafe { libc::getresuid(&raw mut real, &raw mut effective, &raw mut saved) }.into())?;
    let id = |raw| Uid::new(raw).ok_or(libc::EINVAL);
    Ok(Ids { real: id(real)?, effective: id(effective)?, saved: id(saved)? })
}

/// The calling thread's group ids.
pub(crate) fn getresgid() -> Result<Ids<Gid>, Errno> {
    let [mut real, mut effective, mut saved] = [0; 3];
    // SAFETY: three live ids to write to.
    check(unsafe { libc::getresgid(&raw mut real, &raw mut effective, &raw mut saved) }.into())?;
    let id = |raw| Gid::new(raw).ok_or(libc::EINVAL);
    Ok(Ids { real: id(real)?, effective: id(effective)?, saved: id(saved)? })
}

/// The calling thread's supplementary groups, ascending.
pub(crate) fn getgroups() -> Result<Vec<Gid>, Errno> {
    // The kernel's bound is 65536 groups.
    let mut raw = vec![0u32; 65_536];
    let room = c_int::try_from(raw.len()).unwrap_or(c_int::MAX);
    // SAFETY: the array has as many places as the call is told.
    let count = check(unsafe { libc::syscall(libc::SYS_getgroups, room, raw.as_mut_ptr()) })?;
    raw.truncate(usize::try_from(count).unwrap_or_default());
    raw.into_iter().map(|raw| Gid::new(raw).ok_or(libc::EINVAL)).collect()
}

/// The value of an extended attribute of at most 64 bytes, which is more than `security.capability` takes.
pub(crate) fn fgetxattr(file: BorrowedFd<'_>, name: &CStr) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0u8; 64];
    // SAFETY: a live C string, and an array as long as the call is told.
    let length =
        unsafe { libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    value.truncate(usize::try_from(check(length as c_long)?).unwrap_or_default());
    Ok(value)
}

/// Runs a program of credential changes in the calling thread.
pub(crate) fn run(image: &mut Image) -> Result<(), Fault> {
    // SAFETY: this crate's programs change the credentials of the thread and touch no memory but the image's own;
    // the callers of the public functions want just that.
    unsafe { image.run() }
}

/// Runs the image in the child of the command, right before its exec.
pub(crate) fn before_exec(command: &mut Command, mut image: Image) -> &mut Command {
    let hook = move || {
        // SAFETY: it runs in the forked child, on its own copy of the image.
        unsafe { image.run() }.map_err(|fault| std::io::Error::from_raw_os_error(fault.errno))
    };
    // SAFETY: the interpreter allocates nothing and takes no lock, and an error of a bare errno needs neither.
    unsafe { command.pre_exec(hook) }
}

/// Groups, gid and uid of every thread, by libc's calls, which go round the threads.
pub(crate) fn set_ids_of_process(
    ids: Option<(Uid, Gid)>,
    groups: Option<&[Gid]>,
) -> Result<(), (Errno, &'static str)> {
    if let Some(groups) = groups {
        let groups: Vec<u32> = groups.iter().map(|gid| gid.as_raw()).collect();
        // SAFETY: the array has as many ids as the call is told.
        check(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) }.into())
            .map_err(|errno| (errno, "setgroups"))?;
    }
    if let Some((uid, gid)) = ids {
        let (uid, gid) = (uid.as_raw(), gid.as_raw());
        // SAFETY: numbers only.
        check(unsafe { libc::setresgid(gid, gid, gid) }.into()).map_err(|errno| (errno, "setresgid"))?;
        // SAFETY: numbers only.
        check(unsafe { libc::setresuid(uid, uid, uid) }.into()).map_err(|errno| (errno, "setresuid"))?;
    }
    Ok(())
}

/// Gives the calling thread's no_new_privs to all threads: the kernel does so when a filter is synchronised.
pub(crate) fn synchronise_no_new_privs() -> Result<(), Errno> {
    // BPF_RET|BPF_K with SECCOMP_RET_ALLOW: a filter that refuses nothing.
    let mut allow = [libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW }];
    let filter = libc::sock_fprog { len: 1, filter: allow.as_mut_ptr() };
    // SAFETY: one live instruction, and the length says one.
    let result = check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_TSYNC,
            &raw const filter,
        )
    })?;
    // A positive answer is the thread that could not be synchronised.
    if result == 0 { Ok(()) } else { Err(libc::ECANCELED) }
}

/// Effective, permitted and inheritable capabilities of the calling thread.
pub(crate) fn capget() -> Result<[u64; 3], Errno> {
    // struct __user_cap_header_struct, version 3: two data structs of three words each.
    let mut header: [u32; 2] = [0x2008_0522, 0];
    let mut data = [[0u32; 3]; 2];
    // SAFETY: both pointers are to live arrays of the sizes that version 3 of the call reads and writes.
    check(unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), data.as_mut_ptr()) })?;
    let [low, high] = data;
    Ok([0, 1, 2].map(|set| u64::from(low[set]) | u64::from(high[set]) << 32))
}

/// prctl(2) with two numbers and no pointer.
pub(crate) fn prctl(option: c_int, arg2: u64, arg3: u64) -> Result<c_int, Errno> {
    // SAFETY: this crate calls it only with options whose arguments are numbers.
    let result = unsafe { libc::prctl(option, arg2, arg3, 0u64, 0u64) };
    check(result.into()).map(|_| result)
}

/// Takes over a descriptor that the kernel has just made for this crate (its number came back from the call).
pub(crate) fn own(fd: c_int) -> OwnedFd {
    // SAFETY: callers pass what a call of theirs returned that makes a descriptor, and keep no other handle to it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A program to run, by descriptor, and what it gets.
pub(crate) struct Exec<'a> {
    pub(crate) program: BorrowedFd<'a>,
    pub(crate) argv: &'a [&'a CStr],
    pub(crate) envp: &'a [&'a CStr],
    /// Like the other descriptors 3 or above.
    pub(crate) stdin: BorrowedFd<'a>,
    pub(crate) output: BorrowedFd<'a>,
}

/// What the child on the borrowed memory reads and writes.
struct ChildArgs {
    program: c_int,
    argv: *const *const libc::c_char,
    envp: *const *const libc::c_char,
    stdin: c_int,
    output: c_int,
    /// Left 0 by a child that executed.
    errno: c_int,
}

/// Starts a program with exit signal 0 (no `SIGCHLD`, invisible to reapers of the host) and returns its pidfd.
/// Outer error: no child. The child shares this process's memory until its exec, so a big host costs nothing.
pub(crate) fn spawn(exec: &Exec<'_>) -> Result<OwnedFd, Errno> {
    let pointers = |strings: &[&CStr]| -> Vec<*const libc::c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(exec.argv), pointers(exec.envp));
    let mut args = ChildArgs {
        program: exec.program.as_raw_fd(),
        argv: argv.as_ptr(),
        envp: envp.as_ptr(),
        stdin: exec.stdin.as_raw_fd(),
        output: exec.output.as_raw_fd(),
        errno: 0,
    };
    let mut stack = vec![0u128; 4096];
    let top = stack.as_mut_ptr_range().end.cast::<c_void>();
    let mut pidfd: c_int = -1;

    let all = u64::MAX;
    let mut before = 0u64;
    sigprocmask(&all, &mut before)?;
    // No errno but the clone's is looked at afterwards, and the mask goes back whatever it says.
    // SAFETY: CLONE_VFORK holds this thread until the child has executed or ended, so the stack, `args` and all that it
    // points to outlive the child's use; `child` makes system calls only; all signals are blocked, so no handler of
    // the host runs on the borrowed memory; the fifth argument receives the pidfd.
    let result = unsafe {
        libc::clone(
            child,
            top,
            libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD,
            (&raw mut args).cast(),
            &raw mut pidfd,
        )
    };
    let cloned = check(result.into());
    sigprocmask(&before, &mut 0)?;
    cloned?;
    let pidfd = own(pidfd);
    // SAFETY: `args` is alive and the child, which wrote to it, is past its use of it.
    match unsafe { (&raw const args.errno).read_volatile() } {
        0 => Ok(pidfd),
        errno => {
            wait(&pidfd, Duration::MAX)?;
            Err(errno)
        }
    }
}

/// The child of [`spawn`]: raw system calls on the parent's memory.
extern "C" fn child(args: *mut c_void) -> c_int {
    let args = args.cast::<ChildArgs>();
    // SAFETY: `spawn` keeps it alive until this child has executed or ended.
    let args = unsafe { &mut *args };
    // Handlers of the host must not be met once signals are let in again; SIG_DFL is all zero in the kernel's struct.
    let default = [0u64; 4];
    for signal in 1..=64 {
        // SAFETY: 32 zero bytes are a valid struct of this call; KILL and STOP refuse, which is as good.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), 0usize, 8usize) };
    }
    let result = [(args.stdin, 0), (args.output, 1), (args.output, 2)]
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
        .and_then(|_| sigprocmask(&0, &mut 0))
        .and_then(|()| {
            let empty = c"".as_ptr();
            // SAFETY: argv and envp are null-ended arrays of live C strings; the path is the empty C string.
            check(unsafe {
                libc::syscall(
                    libc::SYS_execveat,
                    args.program,
                    empty,
                    args.argv,
                    args.envp,
                    libc::AT_EMPTY_PATH,
                )
            })
        });
    args.errno = result.err().unwrap_or(libc::ENOEXEC);
    // SAFETY: ends this process alone, running nothing of the host's.
    unsafe { libc::syscall(libc::SYS_exit_group, 127) };
    127
}

fn sigprocmask(new: &u64, old: &mut u64) -> Result<(), Errno> {
    // SAFETY: both are live 8-byte masks, which is the size that the call is told.
    check(unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const *new, &raw mut *old, 8usize)
    })
    .map(drop)
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Exited(i32),
    Signaled(i32),
}

/// Waits for a child of any exit signal; kills it when `timeout` is over and then answers `None`.
pub(crate) fn wait(pidfd: &OwnedFd, timeout: Duration) -> Result<Option<End>, Errno> {
    let deadline = Instant::now().checked_add(timeout);
    let mut in_time = true;
    loop {
        let left = deadline.map_or(-1, |deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            c_int::try_from(left.as_millis() + 1).unwrap_or(c_int::MAX)
        });
        let mut poll = libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one live pollfd, and the count says one.
        match check(unsafe { libc::poll(&raw mut poll, 1, left) }.into()) {
            Ok(1..) => break,
            Ok(_) if deadline.is_some_and(|deadline| Instant::now() >= deadline) => {
                in_time = false;
                // SAFETY: numbers and a null siginfo, which the call allows.
                check(unsafe {
                    libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), libc::SIGKILL, 0usize, 0u32)
                })?;
                break;
            }
            Ok(_) | Err(libc::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    loop {
        // SAFETY: an all-zero siginfo_t is a valid value.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        #[expect(clippy::cast_sign_loss, reason = "descriptors are not negative")]
        // SAFETY: `info` is live; the flags are those of waitid(2), with __WALL for a child of exit signal 0.
        let waited = check(
            unsafe {
                libc::waitid(
                    libc::P_PIDFD,
                    pidfd.as_raw_fd() as libc::id_t,
                    &raw mut info,
                    libc::WEXITED | libc::__WALL,
                )
            }
            .into(),
        );
        match waited {
            Ok(_) => {
                // SAFETY: waitid has filled the fields of an ended child.
                let status = unsafe { info.si_status() };
                let end = if info.si_code == libc::CLD_EXITED {
                    End::Exited(status)
                } else {
                    End::Signaled(status)
                };
                return Ok(in_time.then_some(end));
            }
            Err(libc::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
