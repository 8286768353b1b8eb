//! Reading files that others may have prepared: regular ones only, up to a bound, and never waiting on a FIFO.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

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
