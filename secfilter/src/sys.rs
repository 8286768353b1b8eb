//! The raw calls of this crate.
#![expect(unsafe_code, reason = "system calls on descriptors and structures of this crate")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use palisade_sys::{Fault, Image};

/// Runs an installation in the calling thread.
pub(crate) fn run(image: &mut Image) -> Result<(), Fault> {
    // SAFETY: the programs of this crate call prctl(PR_SET_NO_NEW_PRIVS) and seccomp, which restrict the calling
    // thread (or all) as the caller asked, and write nothing.
    unsafe { image.run() }
}

/// Has the child of `command` run `image` before exec.
pub(crate) fn before_exec(command: &mut Command, image: Image) {
    let mut image = image;
    let hook = move || match run(&mut image) {
        Ok(()) => Ok(()),
        Err(fault) => Err(io::Error::from_raw_os_error(fault.errno)),
    };
    // SAFETY: the hook runs the interpreter, which allocates nothing and takes no lock, and makes an error from a
    // number.
    unsafe { command.pre_exec(hook) };
}

/// Takes a descriptor that a call of this crate just returned.
pub(crate) fn adopt(fd: u64) -> OwnedFd {
    // SAFETY: the kernel made it for the caller a moment ago; nobody else knows the number.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

/// Structures that the ioctls of a listener read and write: whole numbers only, no padding, any bytes are valid.
///
/// # Safety
/// `Self` is `repr(C)`, made of integers without padding, and as large as the kernel's structure for `REQUEST`.
pub(crate) unsafe trait Argument {
    const REQUEST: libc::c_ulong;
}

/// `struct seccomp_notif`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Notif {
    pub(crate) id: u64,
    pub(crate) pid: u32,
    pub(crate) flags: u32,
    pub(crate) data: crate::bpf::SeccompData,
}

/// `struct seccomp_notif_resp`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct NotifResp {
    pub(crate) id: u64,
    pub(crate) val: i64,
    pub(crate) error: i32,
    pub(crate) flags: u32,
}

/// `struct seccomp_notif_addfd`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct NotifAddfd {
    pub(crate) id: u64,
    pub(crate) flags: u32,
    pub(crate) srcfd: u32,
    pub(crate) newfd: u32,
    pub(crate) newfd_flags: u32,
}

/// An id alone.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct NotifId(pub(crate) u64);

const _: () = assert!(
    size_of::<Notif>() == 80
        && size_of::<NotifResp>() == 24
        && size_of::<NotifAddfd>() == 24
        && size_of::<crate::bpf::SeccompData>() == 64
        && size_of::<crate::bpf::Insn>() == 8
);

// SAFETY: 80 bytes of integers, as SECCOMP_IOCTL_NOTIF_RECV says in its number.
unsafe impl Argument for Notif {
    const REQUEST: libc::c_ulong = 0xc050_2100;
}
// SAFETY: 24 bytes of integers, as SECCOMP_IOCTL_NOTIF_SEND says in its number.
unsafe impl Argument for NotifResp {
    const REQUEST: libc::c_ulong = 0xc018_2101;
}
// SAFETY: 8 bytes, as SECCOMP_IOCTL_NOTIF_ID_VALID says in its number.
unsafe impl Argument for NotifId {
    const REQUEST: libc::c_ulong = 0x4008_2102;
}
// SAFETY: 24 bytes of integers, as SECCOMP_IOCTL_NOTIF_ADDFD says in its number.
unsafe impl Argument for NotifAddfd {
    const REQUEST: libc::c_ulong = 0x4018_2103;
}

/// One ioctl of a listener; the result, or errno.
pub(crate) fn ioctl<A: Argument>(fd: BorrowedFd<'_>, argument: &mut A) -> Result<i32, i32> {
    // SAFETY: the structure is the one that the request reads and writes (see `Argument`), and is borrowed for the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), A::REQUEST, std::ptr::from_mut(argument)) };
    if result < 0 { Err(errno()) } else { Ok(result) }
}

/// `poll` of one descriptor for input: its `revents`, 0 at the time-out (milliseconds, -1 for none).
pub(crate) fn poll_in(fd: BorrowedFd<'_>, timeout: i32) -> Result<i16, i32> {
    let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, borrowed for the call.
    let result = unsafe { libc::poll(&raw mut entry, 1, timeout) };
    if result < 0 { Err(errno()) } else { Ok(entry.revents) }
}

/// The kernel's Landlock version.
pub(crate) fn landlock_abi() -> Result<u32, i32> {
    const VERSION: u32 = 1;
    // SAFETY: with this flag the call wants a null pointer and no length.
    let result =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u64>(), 0usize, VERSION) };
    u32::try_from(result).map_err(|_| errno())
}

/// The calling thread's id.
pub(crate) fn gettid() -> i32 {
    // SAFETY: takes no address.
    unsafe { libc::gettid() }
}

/// `uname -r`.
pub(crate) fn kernel_release() -> String {
    // SAFETY: arrays of bytes: zeros are valid.
    let mut name: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: one structure, borrowed for the call. It cannot fail otherwise; zeros are no version.
    unsafe { libc::uname(&raw mut name) };
    let bytes = name.release.iter().map(|&c| c as u8).take_while(|&b| b != 0).collect::<Vec<u8>>();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// errno of the call before.
fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}
