#![expect(unsafe_code, reason = "tests run programs in their own thread and adopt the descriptors")]

use std::os::fd::{FromRawFd, OwnedFd};

use palisade_sys::{Fault, Image};

pub(crate) fn run(image: &mut Image) -> Result<(), Fault> {
    // SAFETY: the programs of these tests open files, and set the umask or the directory of a test process.
    unsafe { image.run() }
}

pub(crate) fn adopt(slot: u64) -> OwnedFd {
    // SAFETY: the slot holds a descriptor that the program just opened; nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(slot as i32) }
}

pub(crate) fn umask(mask: u32) -> u32 {
    // SAFETY: takes no address.
    unsafe { libc::umask(mask) }
}

pub(crate) fn fd_flags(fd: i32) -> i32 {
    // SAFETY: takes no address.
    unsafe { libc::fcntl(fd, libc::F_GETFD) }
}
