//! The error of this crate.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Result of a fallible operation of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure an [`Error`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A path has a form that is not accepted: a target that is not absolute or has `..`, a NUL byte.
    InvalidPath,
    /// A text or number outside the range of its type.
    InvalidValue,
    /// A source, a mount point or a directory of the root does not exist.
    NotFound,
    /// A file is not of the type that it should have: a directory where a file is wanted, another device number.
    WrongType,
    /// Two parts of the root contradict each other.
    Conflict,
    /// What stands at a path is not what stood there when the root was prepared.
    Changed,
    /// The caller lacks a privilege, or a security module or filter refuses.
    Permission,
    /// The kernel is older than the feature, or built without it, or a filter hides it.
    Unsupported,
    /// A limit is reached: of space, inodes, mounts, layers, entries.
    Limit,
    /// An archive or image breaks its format, or tries to get out of its directory.
    Archive,
    /// Another failure of a system call; [`Error::errno`] has its number.
    System,
}

/// Why something could not be done: what was attempted, on which path, the kernel's answer, and a remedy where one
/// is known.
#[derive(Clone)]
pub struct Error(Box<Repr>);

#[derive(Clone)]
struct Repr {
    kind: ErrorKind,
    what: String,
    path: Option<PathBuf>,
    errno: Option<i32>,
    hint: Option<&'static str>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self(Box::new(Repr { kind, what: what.into(), path: None, errno: None, hint: None }))
    }

    /// A failed system call; the kind follows from the errno.
    pub(crate) fn os(errno: i32, what: impl Into<String>) -> Self {
        let kind = match errno {
            libc::ENOENT => ErrorKind::NotFound,
            libc::ENOTDIR | libc::EISDIR => ErrorKind::WrongType,
            libc::ESTALE => ErrorKind::Changed,
            libc::EPERM | libc::EACCES | libc::EROFS => ErrorKind::Permission,
            libc::ENOSYS | libc::ENODEV | libc::EOPNOTSUPP => ErrorKind::Unsupported,
            libc::ENOSPC | libc::EDQUOT | libc::EMFILE | libc::ENFILE | libc::ENAMETOOLONG => {
                ErrorKind::Limit
            }
            _ => ErrorKind::System,
        };
        let mut error = Self::new(kind, what);
        error.0.errno = Some(errno);
        error
    }

    pub(crate) fn io(error: &io::Error, what: impl Into<String>) -> Self {
        match error.raw_os_error() {
            Some(errno) => Self::os(errno, what),
            None => Self::new(ErrorKind::System, format!("{}: {error}", what.into())),
        }
    }

    pub(crate) fn at(mut self, path: impl AsRef<Path>) -> Self {
        self.0.path = Some(path.as_ref().to_owned());
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<Option<&'static str>>) -> Self {
        self.0.hint = hint.into();
        self
    }

    /// Its class.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The kernel's errno, if a system call failed.
    pub fn errno(&self) -> Option<i32> {
        self.0.errno
    }

    /// What to do about it, where that is known.
    pub fn remedy(&self) -> Option<&str> {
        self.0.hint
    }

    /// The path that it concerns.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let repr = &self.0;
        if let Some(path) = &repr.path {
            write!(f, "{}: ", path.display())?;
        }
        f.write_str(&repr.what)?;
        if let Some(errno) = repr.errno {
            write!(f, ": {}", io::Error::from_raw_os_error(errno))?;
        }
        if let Some(hint) = repr.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({:?}, {self})", self.0.kind)
    }
}

impl std::error::Error for Error {}
