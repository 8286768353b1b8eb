#![expect(unsafe_code, reason = "tests run programs in processes of their own and adopt descriptors")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use palisade_sys::{Fault, Image};

pub(crate) fn run(image: &mut Image) -> Result<(), Fault> {
    // SAFETY: run in a child process of the test, which exists to be changed by it.
    unsafe { image.run() }
}

pub(crate) fn adopt(slot: u64) -> OwnedFd {
    // SAFETY: the slot holds a descriptor that the program just opened; nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(slot as i32) }
}

pub(crate) fn dup2(from: i32, to: i32) {
    // SAFETY: takes no address; `to` is a number that the test chose and owns.
    let result = unsafe { libc::dup2(from, to) };
    assert_eq!(result, to, "dup2: {}", io::Error::last_os_error());
}

pub(crate) fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: namespaces only, of a single-threaded child.
    if unsafe { libc::unshare(flags) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

pub(crate) fn umask(mask: u32) {
    // SAFETY: takes no address.
    unsafe { libc::umask(mask) };
}

pub(crate) fn ids() -> (u32, u32) {
    // SAFETY: takes nothing.
    let uid = unsafe { libc::geteuid() };
    // SAFETY: takes nothing.
    (uid, unsafe { libc::getegid() })
}
