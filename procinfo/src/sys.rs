//! The raw calls that nix has no wrapper for.
#![expect(unsafe_code, reason = "statx(2), the namespace ioctls and localtime_r(3) have no safe wrapper")]

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::SystemTime;

use nix::errno::Errno;

/// The part of statx(2) that this crate looks at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meta {
    pub(crate) mode: u32,
    pub(crate) links: u32,
    pub(crate) inode: u64,
    /// As `st_dev` and `st_rdev` of std.
    pub(crate) dev: u64,
    pub(crate) rdev: (u32, u32),
}

/// statx(2) of `path` below `dir`, symbolic and magic links followed if asked.
///
/// With `AT_STATX_DONT_SYNC`: the target of a link in `/proc/PID/fd` may be a file of a FUSE server that belongs to
/// the very process being looked at, and would never answer. With this flag the kernel answers from what it has.
pub(crate) fn statx(dir: BorrowedFd<'_>, path: &CStr, follow: bool) -> Result<Meta, Errno> {
    let flags = libc::AT_STATX_DONT_SYNC
        | libc::AT_NO_AUTOMOUNT
        | if path.is_empty() { libc::AT_EMPTY_PATH } else { 0 }
        | if follow { 0 } else { libc::AT_SYMLINK_NOFOLLOW };
    let mut out = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: `path` ends in NUL and `out` has room for one struct statx, all that the kernel writes.
    let done = unsafe {
        libc::statx(dir.as_raw_fd(), path.as_ptr(), flags, libc::STATX_BASIC_STATS, out.as_mut_ptr())
    };
    Errno::result(done)?;
    // SAFETY: it was zeroed, all zeroes are a valid struct statx, and the kernel has filled it in.
    let s = unsafe { out.assume_init() };
    Ok(Meta {
        mode: u32::from(s.stx_mode),
        links: s.stx_nlink,
        inode: s.stx_ino,
        dev: libc::makedev(s.stx_dev_major, s.stx_dev_minor),
        rdev: (s.stx_rdev_major, s.stx_rdev_minor),
    })
}

// <linux/nsfs.h>: _IO(0xb7, 1), _IO(0xb7, 2), _IO(0xb7, 4); the same number on every architecture that Linux has
// with the generic ioctl encoding (x86, arm64, riscv).
const NS_GET_USERNS: libc::c_ulong = 0xb701;
const NS_GET_PARENT: libc::c_ulong = 0xb702;
const NS_GET_OWNER_UID: libc::c_ulong = 0xb704;

/// The user namespace that owns the namespace `ns`.
pub(crate) fn ns_owner(ns: impl AsFd) -> Result<OwnedFd, Errno> {
    ns_related(ns.as_fd(), NS_GET_USERNS)
}

/// The parent of a user or pid namespace.
pub(crate) fn ns_parent(ns: impl AsFd) -> Result<OwnedFd, Errno> {
    ns_related(ns.as_fd(), NS_GET_PARENT)
}

fn ns_related(ns: BorrowedFd<'_>, request: libc::c_ulong) -> Result<OwnedFd, Errno> {
    // SAFETY: these two requests take no argument and write no memory.
    let fd = unsafe { libc::ioctl(ns.as_raw_fd(), request as libc::Ioctl) };
    let fd = Errno::result(fd)?;
    // SAFETY: the kernel has just made this descriptor for us and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The user id, in the reader's numbering, that made the user namespace `ns`.
pub(crate) fn ns_owner_uid(ns: impl AsFd) -> Result<u32, Errno> {
    let mut uid: libc::uid_t = 0;
    // SAFETY: this request writes one uid_t to the address given, which `uid` has room for.
    let done = unsafe { libc::ioctl(ns.as_fd().as_raw_fd(), NS_GET_OWNER_UID as libc::Ioctl, &raw mut uid) };
    Errno::result(done).map(|_| uid)
}

/// A point in time in the local time zone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalTime {
    pub(crate) year: i64,
    /// Of the year.
    pub(crate) day: i32,
    month: i32,
    pub(crate) month_day: i32,
    pub(crate) hour: i32,
    pub(crate) minute: i32,
}

impl LocalTime {
    pub(crate) fn month_name(self) -> &'static str {
        const NAMES: [&str; 12] =
            ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        usize::try_from(self.month).ok().and_then(|m| NAMES.get(m)).unwrap_or(&"???")
    }
}

/// localtime_r(3). `None` before 1970 and beyond what the calendar holds.
pub(crate) fn local_time(time: SystemTime) -> Option<LocalTime> {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    let seconds = libc::time_t::try_from(seconds).ok()?;
    let mut out = MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are to live objects of the types that it takes; it writes one struct tm.
    let done = unsafe { libc::localtime_r(&raw const seconds, out.as_mut_ptr()) };
    if done.is_null() {
        return None;
    }
    // SAFETY: it was zeroed, a null tm_zone is valid for a raw pointer, and localtime_r has filled it in.
    let tm = unsafe { out.assume_init() };
    Some(LocalTime {
        year: i64::from(tm.tm_year) + 1900,
        day: tm.tm_yday,
        month: tm.tm_mon,
        month_day: tm.tm_mday,
        hour: tm.tm_hour,
        minute: tm.tm_min,
    })
}
