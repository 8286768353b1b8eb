//! The one error of this crate.

use std::fmt;

/// What went wrong, as a small value to match on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A name, number, address or text is not valid; nothing was asked of the kernel.
    Invalid,
    /// Something of that name exists already (`EEXIST`).
    Exists,
    /// The link, table, chain, set, entry or parent does not exist (`ENOENT`, `ENODEV`).
    NotFound,
    /// The caller lacks `CAP_NET_ADMIN` or `CAP_SYS_ADMIN` over the namespace (`EPERM`, `EACCES`).
    Permission,
    /// The kernel was built without what was asked, its module is not there, or it is too old (`EOPNOTSUPP`,
    /// `EPROTONOSUPPORT`, and what nftables says to a part that it lacks). The message names the part and what brings it.
    Unsupported,
    /// The object is in use (`EBUSY`).
    Busy,
    /// The kernel's answer could not be read.
    Malformed,
    /// Any other errno.
    System,
}

/// Why a call into this crate failed: what was being done, the errno, and the kernel's own explanation if it gave one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error(Box<Inner>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Inner {
    kind: ErrorKind,
    what: String,
    detail: Option<String>,
    hint: Option<String>,
    errno: Option<i32>,
}

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The kind to match on.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The raw errno, where the kernel gave one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        self.0.errno
    }

    /// What to change on this machine, where that is known: the module to load, the kernel's option.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    fn new(kind: ErrorKind, what: String, detail: Option<String>, errno: Option<i32>) -> Self {
        Self(Box::new(Inner { kind, what, detail, hint: None, errno }))
    }

    /// `what` names the field and the value, `fix` what would be valid.
    pub(crate) fn invalid(what: impl fmt::Display, fix: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Invalid, what.to_string(), Some(fix.to_string()), None)
    }

    pub(crate) fn malformed(what: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Malformed, what.to_string(), Some("not as the kernel documents it".into()), None)
    }

    pub(crate) fn not_found(what: impl fmt::Display) -> Self {
        Self::new(ErrorKind::NotFound, what.to_string(), Some("no such object".into()), None)
    }

    pub(crate) fn system(what: impl fmt::Display, errno: i32) -> Self {
        Self::kernel(what, errno, None)
    }

    /// `note` is the text of the kernel's extended acknowledgement.
    pub(crate) fn kernel(what: impl fmt::Display, errno: i32, note: Option<String>) -> Self {
        let kind = match errno {
            libc::EEXIST => ErrorKind::Exists,
            libc::ENOENT | libc::ENODEV | libc::ESRCH | libc::ENXIO => ErrorKind::NotFound,
            libc::EPERM | libc::EACCES => ErrorKind::Permission,
            libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::ENOSYS => {
                ErrorKind::Unsupported
            }
            libc::EBUSY => ErrorKind::Busy,
            _ => ErrorKind::System,
        };
        Self::new(kind, what.to_string(), note, Some(errno))
    }

    /// A part of the kernel that is not there, whatever the kernel says to that: `ENOENT`, `EINVAL`, `EOPNOTSUPP`. `fix`
    /// names the module or option that brings it.
    pub(crate) fn lacking(what: impl fmt::Display, errno: i32, part: &str, fix: impl fmt::Display) -> Self {
        let detail = format!("the kernel has no {part}");
        let mut new = Self::new(ErrorKind::Unsupported, what.to_string(), Some(detail), Some(errno));
        new.0.hint = Some(fix.to_string());
        new
    }

    /// The same error, with the name of the object in front.
    pub(crate) fn context(mut self, what: impl fmt::Display) -> Self {
        self.0.what = format!("{what}: {}", self.0.what);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.what)?;
        if let Some(errno) = self.0.errno {
            write!(f, ": {}", std::io::Error::from_raw_os_error(errno))?;
        }
        match (&self.0.detail, self.0.kind, self.0.errno) {
            (Some(detail), _, _) => write!(f, ": {detail}")?,
            (None, ErrorKind::Permission, Some(_)) => f.write_str(
                ": the caller needs CAP_NET_ADMIN in the user namespace that owns this network namespace",
            )?,
            (None, ErrorKind::Unsupported, Some(_)) => {
                f.write_str(": this kernel was built without it or is too old for it")?;
            }
            _ => {}
        }
        self.0.hint.iter().try_for_each(|hint| write!(f, ": {hint}"))
    }
}

impl std::error::Error for Error {}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::Invalid => std::io::ErrorKind::InvalidInput,
            ErrorKind::Exists => std::io::ErrorKind::AlreadyExists,
            ErrorKind::NotFound => std::io::ErrorKind::NotFound,
            ErrorKind::Permission => std::io::ErrorKind::PermissionDenied,
            ErrorKind::Unsupported => std::io::ErrorKind::Unsupported,
            ErrorKind::Malformed => std::io::ErrorKind::InvalidData,
            ErrorKind::Busy | ErrorKind::System => std::io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}
