//! The calls of labs that neither std nor nix has.
#![expect(unsafe_code, reason = "System V objects and extended attributes")]

use std::ffi::{CStr, CString, c_void};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

fn cvt(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The value of an extended attribute of at most 255 bytes.
pub(crate) fn attribute(path: &Path, name: &CStr) -> io::Result<Vec<u8>> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut value = vec![0u8; 255];
    // SAFETY: both texts end with a NUL, and the buffer has the length that is said.
    let len =
        unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    value.truncate(usize::try_from(cvt(len as i64)?).unwrap_or_default());
    Ok(value)
}

/// A System V shared memory segment: made if it is not there, removed when the last process of its namespace ends.
#[derive(Debug)]
pub(crate) struct Segment {
    id: i32,
    size: usize,
}

impl Segment {
    pub(crate) fn make(key: i32, size: usize) -> io::Result<Self> {
        // SAFETY: takes no address.
        let id = cvt(unsafe { libc::shmget(key, size, libc::IPC_CREAT | libc::IPC_EXCL | 0o666) }.into())?;
        Ok(Self { id: id as i32, size })
    }

    pub(crate) fn find(key: i32, size: usize) -> io::Result<Self> {
        // SAFETY: takes no address.
        let id = cvt(unsafe { libc::shmget(key, size, 0) }.into())?;
        Ok(Self { id: id as i32, size })
    }

    pub(crate) fn id(&self) -> i32 {
        self.id
    }

    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<()> {
        self.attached(|at| {
            let len = bytes.len().min(self.size);
            // SAFETY: the segment is mapped at `at` with at least `len` bytes; `bytes` is elsewhere.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at.cast(), len) };
        })
    }

    pub(crate) fn read(&self, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0u8; len.min(self.size)];
        // SAFETY: the segment is mapped at `at` with at least that many bytes; `bytes` is elsewhere.
        self.attached(|at| unsafe {
            std::ptr::copy_nonoverlapping(at.cast(), bytes.as_mut_ptr(), bytes.len());
        })?;
        Ok(bytes)
    }

    pub(crate) fn remove(self) -> io::Result<()> {
        // SAFETY: removing takes no buffer.
        cvt(unsafe { libc::shmctl(self.id, libc::IPC_RMID, std::ptr::null_mut()) }.into()).map(drop)
    }

    fn attached(&self, act: impl FnOnce(*mut c_void)) -> io::Result<()> {
        // SAFETY: the kernel chooses the place.
        let at = unsafe { libc::shmat(self.id, std::ptr::null(), 0) };
        if at as isize == -1 {
            return Err(io::Error::last_os_error());
        }
        act(at);
        // SAFETY: attached above, and nobody keeps the address.
        cvt(unsafe { libc::shmdt(at) }.into()).map(drop)
    }
}

/// A new System V semaphore and a message queue of this key.
pub(crate) fn semaphore_and_queue(key: i32) -> io::Result<(i32, i32)> {
    // SAFETY: takes no address.
    let semaphore = cvt(unsafe { libc::semget(key, 1, libc::IPC_CREAT | libc::IPC_EXCL | 0o666) }.into())?;
    // SAFETY: takes no address.
    let queue = cvt(unsafe { libc::msgget(key, libc::IPC_CREAT | libc::IPC_EXCL | 0o666) }.into())?;
    Ok((semaphore as i32, queue as i32))
}
