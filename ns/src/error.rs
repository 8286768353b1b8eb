//! What went wrong, with the object, the errno and a remedy where one is known.

use std::fmt;
use std::io;

use palisade_sys::Explained;

/// Result of a fallible operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What kind of failure an [`Error`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A text does not have the form of what it should be.
    Syntax,
    /// A name or number outside the range of its type.
    InvalidValue,
    /// Two parts of a request contradict each other.
    Conflict,
    /// The process has several threads, and the call would change one of them or is refused by the kernel.
    MultiThreaded,
    /// A descriptor or path is not a namespace at all.
    NotANamespace,
    /// A namespace of another kind than the type says.
    WrongKind,
    /// Namespaces that should be shared do not belong to the same user namespace, so one id map cannot serve them.
    OwnerMismatch,
    /// The running kernel does not have the kind of namespace or the call.
    Unsupported,
    /// No proc file system is mounted on `/proc`, or it does not show the process.
    NoProc,
    /// The process has ended, or the pid namespace has lost its init.
    Gone,
    /// A limit on namespaces is reached: their number or the depth of their nesting.
    Limit,
    /// The caller lacks a privilege.
    Permission,
    /// Another failure of a system call; [`Error::errno`] has its number.
    System,
}

/// Why something could not be done.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    what: String,
    errno: Option<i32>,
    hint: Option<&'static str>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, what: what.into(), errno: None, hint: None }))
    }

    /// A failed system call.
    pub(crate) fn os(errno: i32, what: impl Into<String>) -> Self {
        let kind = match errno {
            libc::EPERM | libc::EACCES => ErrorKind::Permission,
            libc::ENOSYS | libc::ENOTTY => ErrorKind::Unsupported,
            libc::ESRCH => ErrorKind::Gone,
            libc::ENOSPC | libc::EUSERS => ErrorKind::Limit,
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

    /// A fault of a program that ran.
    pub(crate) fn fault(fault: &Explained) -> Self {
        let object = fault.object.as_ref().map(|object| format!(" ({object})")).unwrap_or_default();
        Self::os(fault.errno, format!("{}{object}: {}", fault.step, fault.call))
    }

    pub(crate) fn kind_is(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    pub(crate) fn hint_is(mut self, hint: &'static str) -> Self {
        self.0.hint = Some(hint);
        self
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The kernel's error number, where a system call failed.
    pub fn errno(&self) -> Option<i32> {
        self.0.errno
    }

    /// What would help, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        self.0.hint
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.what)?;
        if let Some(errno) = self.0.errno {
            write!(f, ": {}", io::Error::from_raw_os_error(errno))?;
        }
        if let Some(hint) = self.0.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("errno", &self.0.errno)
            .field("message", &self.to_string())
            .finish()
    }
}

impl std::error::Error for Error {}

impl From<Error> for io::Error {
    /// The errno itself where there is one, so that callers can match on it.
    fn from(error: Error) -> Self {
        match error.errno() {
            Some(errno) => Self::from_raw_os_error(errno),
            None => Self::other(error),
        }
    }
}
