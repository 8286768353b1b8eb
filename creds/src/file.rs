//! Reading files that others may have prepared: regular ones only, up to a bound, and never waiting on a FIFO.

use std::ffi::CStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use crate::{Error, ErrorKind, Result};

/// The contents of a file by path; `None` if there is none.
pub(crate) fn read_path(path: &Path, max: u64) -> Result<Option<Vec<u8>>> {
    let name = path.display().to_string();
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    match std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => read_fd(file, &name, max).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(&error, format!("open {name}"))),
    }
}

/// The contents of an open file, from its beginning if it has not been read from yet.
pub(crate) fn read_fd(fd: impl AsFd, name: &str, max: u64) -> Result<Vec<u8>> {
    let failed = |error: &std::io::Error| Error::io(error, format!("read {name}"));
    let file = File::from(fd.as_fd().try_clone_to_owned().map_err(|error| failed(&error))?);
    let metadata = file.metadata().map_err(|error| failed(&error))?;
    if !metadata.is_file() {
        return Err(Error::new(ErrorKind::NotTrusted, format!("{name} is not a regular file")));
    }
    // A sparse file tells its size before a byte is read; one that grows meanwhile meets the bound below.
    let too_large = || Error::new(ErrorKind::TooLarge, format!("{name} is larger than {max} bytes"));
    if metadata.len() > max {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes).map_err(|error| failed(&error))?;
    if bytes.len() as u64 > max {
        return Err(too_large());
    }
    Ok(bytes)
}

/// Opens a regular file below a root without letting a link lead out of it; `None` if there is none.
///
/// What is there is looked at first and opened second, since opening a device can already do something.
pub(crate) fn open_in(root: BorrowedFd<'_>, path: &CStr) -> Result<Option<File>> {
    let name = path.to_string_lossy();
    let open = |flags: OFlag| {
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        openat2(root, path, OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve)).map(File::from)
    };
    let failed = |errno: Errno| Error::os(errno as i32, format!("open {name} in the root"));
    let identity = |file: &File| {
        let metadata =
            file.metadata().map_err(|error| Error::io(&error, format!("look at {name} in the root")))?;
        Ok((metadata.dev(), metadata.ino(), metadata.is_file()))
    };
    let seen = match open(OFlag::O_PATH) {
        Ok(file) => identity(&file)?,
        Err(Errno::ENOENT) => return Ok(None),
        Err(errno) => return Err(failed(errno)),
    };
    let not_trusted = |why| Error::new(ErrorKind::NotTrusted, format!("{name} in the root {why}"));
    if !seen.2 {
        return Err(not_trusted("is not a regular file"));
    }
    let file = open(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY).map_err(failed)?;
    if identity(&file)? != seen {
        return Err(not_trusted("was replaced while it was opened"));
    }
    Ok(Some(file))
}
