//! The raw calls of this crate.
#![expect(unsafe_code, reason = "this file holds the crate's raw calls")]

use std::ffi::{CStr, c_int, c_long};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use palisade_sys::{Fault, Image};

use crate::error::{Error, Result};

/// `statfs.f_type` of namespace files.
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// Requests of nsfs: see [ioctl_nsfs(2)](https://man7.org/linux/man-pages/man2/ioctl_nsfs.2.html).
pub(crate) mod nsfs {
    pub(crate) use libc::{
        NS_GET_OWNER_UID as OWNER_UID, NS_GET_PARENT as PARENT, NS_GET_PID_FROM_PIDNS as PID_TO_CALLER,
        NS_GET_PID_IN_PIDNS as PID_FROM_CALLER, NS_GET_USERNS as USERNS,
    };
}

fn check(result: c_long) -> io::Result<c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A descriptor that the kernel has just made for us.
fn own(result: c_long) -> io::Result<OwnedFd> {
    let fd = check(result)? as c_int;
    // SAFETY: the kernel has just returned this descriptor, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) struct Uname {
    pub(crate) nodename: Vec<u8>,
    pub(crate) domainname: Vec<u8>,
}

pub(crate) fn uname() -> Result<Uname> {
    let mut names = MaybeUninit::<libc::utsname>::zeroed();
    // SAFETY: the place is as large as what uname(2) writes.
    let result = unsafe { libc::uname(names.as_mut_ptr()) };
    check(result.into()).map_err(|e| Error::io(&e, "uname"))?;
    // SAFETY: the struct is all bytes: zeros and what uname wrote.
    let names = unsafe { names.assume_init() };
    let text = |field: &[libc::c_char]| field.iter().map(|&c| c as u8).take_while(|&b| b != 0).collect();
    Ok(Uname { nodename: text(&names.nodename), domainname: text(&names.domainname) })
}

/// Whether the file is one of nsfs, so that its ioctls mean what we think.
pub(crate) fn is_nsfs(file: BorrowedFd<'_>) -> io::Result<bool> {
    let mut stat = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the place is as large as what fstatfs(2) writes.
    let result = unsafe { libc::fstatfs(file.as_raw_fd(), stat.as_mut_ptr()) };
    check(result.into())?;
    // SAFETY: the struct is integers: zeros and what fstatfs wrote.
    let stat = unsafe { stat.assume_init() };
    Ok(stat.f_type as u64 == NSFS_MAGIC)
}

/// The `CLONE_NEW*` value of a file of nsfs.
pub(crate) fn ns_type(namespace: BorrowedFd<'_>) -> io::Result<c_int> {
    // SAFETY: this request takes no argument.
    let result = unsafe { libc::ioctl(namespace.as_raw_fd(), libc::NS_GET_NSTYPE) };
    check(result.into()).map(|flag| flag as c_int)
}

/// `NS_GET_USERNS` or `NS_GET_PARENT`.
pub(crate) fn ns_relative(namespace: BorrowedFd<'_>, request: libc::Ioctl) -> io::Result<OwnedFd> {
    debug_assert!(matches!(request, nsfs::USERNS | nsfs::PARENT));
    // SAFETY: these two requests take no argument and return a new close-on-exec descriptor.
    let result = unsafe { libc::ioctl(namespace.as_raw_fd(), request) };
    own(result.into())
}

/// `NS_GET_OWNER_UID`.
pub(crate) fn ns_owner_uid(namespace: BorrowedFd<'_>) -> io::Result<u32> {
    let mut uid: libc::uid_t = 0;
    // SAFETY: the request writes one uid_t to the place, which lives over the call.
    let result = unsafe { libc::ioctl(namespace.as_raw_fd(), nsfs::OWNER_UID, &raw mut uid) };
    check(result.into())?;
    Ok(uid)
}

/// One of the requests that translate process ids.
pub(crate) fn ns_pid(namespace: BorrowedFd<'_>, request: libc::Ioctl, pid: u32) -> io::Result<u32> {
    debug_assert!(matches!(request, nsfs::PID_TO_CALLER | nsfs::PID_FROM_CALLER));
    // SAFETY: the argument of these requests is a number, not an address.
    let result = unsafe { libc::ioctl(namespace.as_raw_fd(), request, libc::c_ulong::from(pid)) };
    check(result.into()).map(|pid| pid as u32)
}

pub(crate) fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers, returns a new close-on-exec descriptor.
    own(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// `PIDFD_GET_*_NAMESPACE`, number `n`; since Linux 6.11, `ENOTTY` before.
pub(crate) fn pidfd_namespace(pidfd: BorrowedFd<'_>, n: u8) -> io::Result<OwnedFd> {
    const PIDFS_IOCTL_MAGIC: u32 = 0xff;
    let request = libc::_IO(PIDFS_IOCTL_MAGIC, n.into());
    // SAFETY: these requests take no pointer and return a new close-on-exec descriptor. (On a file that is no pidfd
    // the number means nothing to the kernel's other file systems; devices are excluded by the caller's check.)
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), request, 0) };
    own(result.into())
}

/// Whether the calling process has one thread only. Changes nothing: the kernel is asked to give this thread a
/// thread group of its own, which it grants only where there is nothing to do.
pub(crate) fn is_single_threaded() -> io::Result<bool> {
    // SAFETY: unsharing the thread group does nothing if it succeeds, and nothing if it fails.
    let result = unsafe { libc::unshare(libc::CLONE_THREAD) };
    match check(result.into()) {
        Ok(_) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Runs a program that changes namespaces, and names in them, of the calling thread only.
pub(crate) fn run(image: &mut Image) -> std::result::Result<(), Fault> {
    // SAFETY: only programs of this crate get here. They open files of /proc, close what they opened, and change the
    // thread's namespaces and what is in them: no memory, no descriptor of the caller.
    unsafe { image.run() }
}

/// Has the child of `command` run a fresh copy of `image` between fork and exec. `keep` lives as long as the command.
pub(crate) fn pre_exec<T: Send + Sync + 'static>(command: &mut Command, image: Image, keep: T) {
    let (mut image, mut used) = (image, false);
    let run = move || {
        let _alive = &keep;
        // Each forked child has its own copy of this closure. Only exec without fork can come here twice, after a
        // failure: the image has been run and half of its work is done.
        if std::mem::replace(&mut used, true) {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        run(&mut image).map_err(|fault| io::Error::from_raw_os_error(fault.errno))
    };
    // SAFETY: the closure makes system calls only: no allocation (an io::Error of an errno needs none), no lock.
    unsafe { command.pre_exec(run) };
}

/// Attaches the namespace on the regular file `target`: a bind mount made by descriptors.
pub(crate) fn bind(namespace: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let empty: &CStr = c"";
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as u32;
    // SAFETY: the path is a C string that lives over the call.
    let copy =
        own(unsafe { libc::syscall(libc::SYS_open_tree, namespace.as_raw_fd(), empty.as_ptr(), flags) })?;
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    let (from, to) = (copy.as_raw_fd(), target.as_raw_fd());
    // SAFETY: both paths are C strings that live over the call.
    let moved =
        unsafe { libc::syscall(libc::SYS_move_mount, from, empty.as_ptr(), to, empty.as_ptr(), flags) };
    check(moved).map(drop)
}

/// Detaches the mount on top of `path`, which is not followed if it is a symbolic link.
pub(crate) fn detach(path: &CStr) -> io::Result<()> {
    // SAFETY: the path is a C string that lives over the call.
    let result = unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) };
    check(result.into()).map(drop)
}
