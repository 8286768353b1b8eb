//! The error of this crate.

use std::fmt;

use crate::{Capability, sys};

/// Result of a fallible operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What kind of failure an [`Error`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A text does not have the form of what it should be.
    Syntax,
    /// A number is no user or group id: `u32::MAX` is the kernel's "no id", and `user[:group]` stops at 2147483647.
    InvalidId,
    /// An id map breaks a rule of the kernel: empty, overlap, wrap, too many lines.
    InvalidMap,
    /// An id has no mapping in the user namespace where it would be used.
    Unmapped,
    /// An id or a range is not delegated to the caller in `/etc/subuid` or `/etc/subgid`.
    NotDelegated,
    /// Too few free or delegated ids are left.
    Exhausted,
    /// The name of a user is not in the passwd file.
    UnknownUser,
    /// The name of a group is not in the group file.
    UnknownGroup,
    /// The matching line of passwd or group lacks an id, or has one that is no id.
    BadEntry,
    /// No capability has this name or number.
    UnknownCapability,
    /// The capability exists, but this kernel or this process has not got it to give.
    CapabilityUnavailable,
    /// Two parts of a request contradict each other, or the order of the kernel forbids it.
    Conflict,
    /// A file is larger than this crate reads.
    TooLarge,
    /// A file is not of the expected type, or does not lie where it should.
    NotTrusted,
    /// `newuidmap` or `newgidmap` is missing.
    HelperMissing,
    /// `newuidmap` or `newgidmap` refused or failed.
    HelperFailed,
    /// The credentials of a thread are not what was asked for.
    NotApplied,
    /// The caller lacks a privilege.
    Permission,
    /// Another failure of a system call; [`Error::errno`] has its number.
    System,
}

/// Why something could not be done: the object, the value, the errno if the kernel refused, and a remedy where one is known.
#[derive(Clone)]
pub struct Error(Box<Repr>);

#[derive(Clone)]
struct Repr {
    kind: ErrorKind,
    what: String,
    errno: Option<i32>,
    hint: Option<&'static str>,
    capability: Option<Capability>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self(Box::new(Repr { kind, what: what.into(), errno: None, hint: None, capability: None }))
    }

    /// A failed system call: `EPERM` and `EACCES` are [`ErrorKind::Permission`], the rest [`ErrorKind::System`].
    pub(crate) fn os(errno: i32, what: impl Into<String>) -> Self {
        let kind = match errno {
            libc::EPERM | libc::EACCES => ErrorKind::Permission,
            _ => ErrorKind::System,
        };
        Self::new(kind, what).errno_is(errno)
    }

    /// [`Error::os`] with the calling thread's errno as std saw it.
    pub(crate) fn io(error: &std::io::Error, what: impl Into<String>) -> Self {
        match error.raw_os_error() {
            Some(errno) => Self::os(errno, what),
            None => Self::new(ErrorKind::System, format!("{}: {error}", what.into())),
        }
    }

    pub(crate) fn errno_is(mut self, errno: i32) -> Self {
        self.0.errno = Some(errno);
        self
    }

    pub(crate) fn hint_is(mut self, hint: &'static str) -> Self {
        self.0.hint = Some(hint);
        self
    }

    pub(crate) fn capability_is(mut self, capability: Capability) -> Self {
        self.0.capability = Some(capability);
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

    /// The capability that the failure is about, if it is about one.
    pub fn capability(&self) -> Option<Capability> {
        self.0.capability
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.what)?;
        if let Some(errno) = self.0.errno {
            write!(f, ": {}", sys::errno_text(errno))?;
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
