//! What the tests need of the kernel besides this crate.
#![expect(unsafe_code, reason = "raw calls of the tests")]

use std::mem::MaybeUninit;
use std::time::Duration;

use palisade_sys::{Fault, Program};

pub(crate) fn run(program: &Program) -> Result<(), Fault> {
    // SAFETY: the tests run it in a child of their own, or it concerns namespaces of their own only.
    unsafe { program.image().run() }
}

pub(crate) fn clock(id: libc::clockid_t) -> Duration {
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: the place is as large as what clock_gettime(2) writes.
    assert_eq!(unsafe { libc::clock_gettime(id, time.as_mut_ptr()) }, 0);
    // SAFETY: integers: zeros and what the call wrote.
    let time = unsafe { time.assume_init() };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

pub(crate) fn set_dumpable(dumpable: bool) {
    // SAFETY: takes numbers.
    let result = unsafe { libc::prctl(libc::PR_SET_DUMPABLE, libc::c_ulong::from(dumpable)) };
    assert_eq!(result, 0);
}

/// A new user namespace in which the caller is root.
pub(crate) fn enter_mapped_user() {
    let (uid, gid) = ids();
    palisade_ns::unshare(palisade_ns::Namespace::User).unwrap();
    write_maps(std::process::id(), uid, gid).unwrap();
}

/// One id each, which is as much as an ordinary user may: 0 inside.
pub(crate) fn write_maps(pid: u32, uid: u32, gid: u32) -> std::io::Result<()> {
    std::fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
    std::fs::write(format!("/proc/{pid}/uid_map"), format!("0 {uid} 1"))?;
    std::fs::write(format!("/proc/{pid}/gid_map"), format!("0 {gid} 1"))
}

pub(crate) fn ids() -> (u32, u32) {
    // SAFETY: takes nothing, changes nothing.
    let uid = unsafe { libc::geteuid() };
    // SAFETY: as above.
    (uid, unsafe { libc::getegid() })
}

pub(crate) fn thread_id() -> u32 {
    // SAFETY: takes nothing, changes nothing.
    unsafe { libc::gettid() as u32 }
}

pub(crate) fn ignore_sigchld() {
    // SAFETY: no handler is installed.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// In a mount namespace of the test's own: nothing gets out, and a tmpfs is on `dir`.
pub(crate) fn private_tmpfs(dir: &std::path::Path) {
    use std::os::unix::ffi::OsStrExt as _;
    let dir = std::ffi::CString::new(dir.as_os_str().as_bytes()).unwrap();
    let null = std::ptr::null();
    // SAFETY: a C string and nulls.
    let private =
        unsafe { libc::mount(null, c"/".as_ptr(), null, libc::MS_REC | libc::MS_PRIVATE, null.cast()) };
    assert_eq!(private, 0, "{}", std::io::Error::last_os_error());
    let tmpfs = c"tmpfs".as_ptr();
    // SAFETY: C strings that live over the call.
    let mounted = unsafe { libc::mount(tmpfs, dir.as_ptr(), tmpfs, 0, null.cast()) };
    assert_eq!(mounted, 0, "{}", std::io::Error::last_os_error());
}

/// Whether there is, or can be made, a System V message queue.
pub(crate) fn message_queue(key: i32, make: bool) -> bool {
    let flags = if make { libc::IPC_CREAT | libc::IPC_EXCL | 0o600 } else { 0 };
    // SAFETY: takes numbers.
    unsafe { libc::msgget(key, flags) >= 0 }
}

/// Whether there is, or can be made, a POSIX message queue.
pub(crate) fn posix_queue(name: &std::ffi::CStr, make: bool) -> bool {
    let flags = if make { libc::O_CREAT | libc::O_EXCL | libc::O_RDWR } else { libc::O_RDONLY };
    let attributes = std::ptr::null_mut::<libc::mq_attr>();
    // SAFETY: a C string; no attributes.
    unsafe { libc::mq_open(name.as_ptr(), flags, 0o600, attributes) >= 0 }
}

pub(crate) fn is_dumpable() -> bool {
    // SAFETY: takes a number, changes nothing.
    unsafe { libc::prctl(libc::PR_GET_DUMPABLE) == 1 }
}

/// The spawn of `command` fails with EDOM if its child can be traced by others before its exec.
pub(crate) fn fail_if_dumpable(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt as _;
    let check = || if is_dumpable() { Err(std::io::Error::from_raw_os_error(libc::EDOM)) } else { Ok(()) };
    // SAFETY: one system call, and an error that needs no memory.
    unsafe { command.pre_exec(check) };
}
