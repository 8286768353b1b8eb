//! Executables in memory: the stage, and the host program's own file. Each is one sealed memfd for all spawns of the
//! process.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::stat::fstat;
use palisade_sys::{STAGE, Step};

use crate::error::{Error, Result};
use crate::sys::sealed_program;

/// The memfd, and what identifies its inode.
#[derive(Debug)]
struct Sealed {
    file: Arc<OwnedFd>,
    inode: (u64, u64),
}

static STAGE_FILE: Mutex<Option<Sealed>> = Mutex::new(None);
static OWN_FILE: Mutex<Option<Sealed>> = Mutex::new(None);

/// The stage's executable.
pub(crate) fn stage() -> Result<Arc<OwnedFd>> {
    get(&STAGE_FILE, || sealed_program(c"palisade-stage", STAGE))
        .map_err(|error| Error::call(Step::Prepare, "memfd_create(\"palisade-stage\")", &error))
}

/// A copy of the file that the host program was executed from, also where that has since been replaced.
pub(crate) fn own_program() -> Result<Arc<OwnedFd>> {
    let copy = || sealed_program(c"palisade-own", &std::fs::read("/proc/self/exe")?);
    get(&OWN_FILE, copy).map_err(|error| Error::call(Step::Prepare, "copy /proc/self/exe to a memfd", &error))
}

/// The file in `place`, made at first use. A host program may close descriptors that it does not know (as daemons do),
/// and something else may then have the number: what is not our inode is given up, unclosed, and made anew.
fn get(
    place: &Mutex<Option<Sealed>>,
    make: impl FnOnce() -> io::Result<OwnedFd>,
) -> io::Result<Arc<OwnedFd>> {
    let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = &*place {
        if identity(known.file.as_fd()) == Some(known.inode) {
            return Ok(Arc::clone(&known.file));
        }
    }
    let file = Arc::new(make()?);
    let inode = identity(file.as_fd()).unwrap_or_default();
    if let Some(lost) = place.replace(Sealed { file: Arc::clone(&file), inode }) {
        // Its number belongs to somebody else now: closing it would close their file.
        std::mem::forget(lost);
    }
    Ok(file)
}

fn identity(fd: BorrowedFd<'_>) -> Option<(u64, u64)> {
    fstat(fd).ok().map(|stat| (stat.st_dev, stat.st_ino))
}
