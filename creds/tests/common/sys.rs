//! Raw calls that tests need and the library has no business with.
#![expect(unsafe_code, reason = "tests prepare states and files by raw calls")]

use std::ffi::{CStr, CString};
use std::io::{Error, Result};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

fn check(result: i64) -> Result<i64> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}

/// Sets `security.capability` of a file.
pub(crate) fn set_file_capabilities(path: &Path, value: &[u8]) -> Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let name = c"security.capability";
    // SAFETY: two live C strings and a live array with its length.
    let result =
        unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    check(result.into()).map(drop)
}

/// Adds a key to the session keyring of the calling thread.
pub(crate) fn add_session_key(name: &CStr, secret: &[u8]) -> Result<i64> {
    let session = -3;
    // SAFETY: live C strings and a live array with its length.
    check(unsafe {
        libc::syscall(
            libc::SYS_add_key,
            c"user".as_ptr(),
            name.as_ptr(),
            secret.as_ptr(),
            secret.len(),
            session,
        )
    })
}

/// Looks for a key in the session keyring of the calling thread.
pub(crate) fn find_session_key(name: &CStr) -> Result<i64> {
    let session = -3;
    // SAFETY: live C strings.
    check(unsafe {
        libc::syscall(libc::SYS_keyctl, libc::KEYCTL_SEARCH, session, c"user".as_ptr(), name.as_ptr(), 0)
    })
}

/// From now on this call, with this first argument if one is given, is `EPERM` in this thread. Takes CAP_SYS_ADMIN.
pub(crate) fn refuse(call: i64, first: Option<u32>) -> Result<()> {
    let op = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut filter = [
        op(0x20, 0, 0, 0), // the call's number
        op(0x15, 0, 3, call as u32),
        op(0x20, 0, 0, 16), // low half of its first argument
        op(0x15, 0, u8::from(first.is_some()), first.unwrap_or_default()),
        op(0x06, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        op(0x06, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: live instructions with their number.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    check(result).map(drop)
}

/// The keepcaps flag of the calling thread.
pub(crate) fn keepcaps() -> i32 {
    // SAFETY: numbers only.
    unsafe { libc::prctl(libc::PR_GET_KEEPCAPS) }
}

/// Sets the keepcaps flag of the calling thread.
pub(crate) fn set_keepcaps() {
    // SAFETY: numbers only.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) }, 0);
}

/// Whether the process is dumpable.
pub(crate) fn dumpable() -> i32 {
    // SAFETY: numbers only.
    unsafe { libc::prctl(libc::PR_GET_DUMPABLE) }
}

/// Runs a program in the child of a command.
pub(crate) fn before_exec(command: &mut std::process::Command, mut image: palisade_sys::Image) {
    let hook = move || {
        // SAFETY: in the forked child, on its own copy of the image.
        unsafe { image.run() }.map_err(|fault| Error::from_raw_os_error(fault.errno))
    };
    // SAFETY: the interpreter allocates nothing and takes no lock.
    unsafe { std::os::unix::process::CommandExt::pre_exec(command, hook) };
}
