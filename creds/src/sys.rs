//! The raw calls that are not part of a program: reading, setting for all threads, and the entries to the interpreter.
#![expect(unsafe_code, reason = "this file holds the crate's raw calls")]

use std::ffi::{CStr, c_int, c_long};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

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
pub(crate) fn check(result: c_long) -> Result<c_long, Errno> {
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

/// Whether the exec of this program gave it power: set-user-ID, set-group-ID or file capabilities.
pub(crate) fn is_secure() -> bool {
    // SAFETY: takes a number, changes nothing.
    (unsafe { libc::getauxval(libc::AT_SECURE) }) != 0
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

/// As a careless host does it.
#[cfg(test)]
pub(crate) fn ignore_sigchld() {
    // SAFETY: no handler of Rust is set; the process of the test is its own.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// As a careless host does it.
#[cfg(test)]
pub(crate) fn reap_any() {
    // SAFETY: a null status is allowed.
    unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) };
}
