//! The stage's executable: one sealed memfd for all spawns of the process.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::stat::fstat;
use palisade_sys::{STAGE, Step};

use crate::error::{Error, Result};
use crate::sys::sealed_program;

/// The memfd, and what identifies its inode.
#[derive(Debug)]
pub(crate) struct StageFile {
    fd: OwnedFd,
    inode: (u64, u64),
}

static FILE: Mutex<Option<Arc<StageFile>>> = Mutex::new(None);

impl StageFile {
    /// The file, made at first use. A host program may close descriptors that it does not know (as daemons do), and
    /// something else may then have the number: what is not our inode is given up, unclosed, and made anew.
    pub(crate) fn get() -> Result<Arc<Self>> {
        let mut file = FILE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*file {
            if identity(known.fd.as_fd()) == Some(known.inode) {
                return Ok(Arc::clone(known));
            }
        }
        let fd = sealed_program(c"palisade-stage", STAGE)
            .map_err(|error| Error::call(Step::Prepare, "memfd_create(\"palisade-stage\")", &error))?;
        let inode = identity(fd.as_fd()).unwrap_or_default();
        let new = Arc::new(Self { fd, inode });
        if let Some(lost) = file.replace(Arc::clone(&new)) {
            // Its number belongs to somebody else now: closing it would close their file.
            std::mem::forget(lost);
        }
        Ok(new)
    }

    pub(crate) fn number(&self) -> i32 {
        self.fd.as_raw_fd()
    }
}

fn identity(fd: BorrowedFd<'_>) -> Option<(u64, u64)> {
    fstat(fd).ok().map(|stat| (stat.st_dev, stat.st_ino))
}
