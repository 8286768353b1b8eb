//! The one raw call of unpacking.
#![expect(unsafe_code, reason = "setting extended attributes has no safe form in nix or std")]

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::error::{Error, Result};

/// `fsetxattr`.
pub(super) fn set_attribute(file: BorrowedFd<'_>, name: &CStr, value: &[u8]) -> Result<()> {
    // SAFETY: the name ends with NUL, and the kernel reads `value.len()` bytes of the value.
    let result =
        unsafe { libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if result == 0 {
        return Ok(());
    }
    let what = format!("attribute {}", name.to_string_lossy());
    Err(Error::io(&std::io::Error::last_os_error(), what))
}
