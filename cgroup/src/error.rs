//! What went wrong, with the file, the value and the fix.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The result of this crate's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The class of an [`Error`], for programs that decide by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No cgroup v2 hierarchy is mounted where this process can see it.
    Absent,
    /// Only cgroup v1 is mounted; this crate never limits through v1.
    V1Only,
    /// This process does not sit in a subtree that was delegated to it, or may not write to a group on the way.
    NotDelegated,
    /// A controller is not to be had in this group; [`Error::path`] is the group that lacks it.
    ControllerMissing,
    /// The kernel has no such file: it is older than the feature, or built without it.
    Unsupported,
    /// A name that the kernel or the rules of the tree do not allow.
    InvalidName,
    /// A text or number outside the range of its type.
    InvalidValue,
    /// The kernel refused a value that was written.
    Refused,
    /// A value was written without an error, but reads back as another one.
    NotVerified,
    /// A kernel file did not look as documented.
    Parse,
    /// Processes or groups inside forbid the operation.
    Busy,
    /// The group was removed by somebody else.
    Gone,
    /// The state that was waited for did not come in time.
    TimedOut,
    /// The calling process sits inside the group that was to be killed or removed.
    CallerInside,
    /// Any other failed system call.
    System,
}

/// An error of this crate: what was attempted on which file with which value, the kernel's answer and, where one
/// is known, the fix.
#[derive(thiserror::Error)]
#[error("{}", self.0)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    what: Cow<'static, str>,
    path: Option<PathBuf>,
    value: Option<String>,
    controller: Option<String>,
    errno: Option<i32>,
    hint: Option<Cow<'static, str>>,
    undo: Option<String>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, what: impl Into<Cow<'static, str>>) -> Error {
        Error(Box::new(Inner {
            kind,
            what: what.into(),
            path: None,
            value: None,
            controller: None,
            errno: None,
            hint: None,
            undo: None,
        }))
    }

    /// A failed system call on `path`; the kind follows from `errno` as far as that is unambiguous.
    pub(crate) fn os(what: impl Into<Cow<'static, str>>, path: &Path, errno: i32) -> Error {
        let kind = match errno {
            libc::EACCES | libc::EPERM | libc::EROFS => ErrorKind::NotDelegated,
            libc::EBUSY | libc::ENOTEMPTY => ErrorKind::Busy,
            libc::ENODEV => ErrorKind::Gone,
            libc::EINVAL | libc::ERANGE => ErrorKind::Refused,
            _ => ErrorKind::System,
        };
        let mut e = Error::new(kind, what).at(path);
        e.0.errno = Some(errno);
        if kind == ErrorKind::NotDelegated {
            e.0.hint = Some(if errno == libc::EROFS { READ_ONLY_HINT } else { DELEGATE_HINT }.into());
        }
        e
    }

    pub(crate) fn io(what: impl Into<Cow<'static, str>>, path: &Path, e: &io::Error) -> Error {
        Error::os(what, path, e.raw_os_error().unwrap_or(0))
    }

    pub(crate) fn invalid(what: &'static str, text: &[u8], expected: &'static str) -> Error {
        Error::new(ErrorKind::InvalidValue, what).value(lossy(text)).hint(expected)
    }

    pub(crate) fn parse(what: &'static str, text: &[u8]) -> Error {
        Error::new(ErrorKind::Parse, what).value(lossy(text))
    }

    pub(crate) fn at(mut self, path: &Path) -> Error {
        self.0.path = Some(path.to_path_buf());
        self
    }

    pub(crate) fn value(mut self, value: impl Into<String>) -> Error {
        self.0.value = Some(value.into());
        self
    }

    pub(crate) fn for_controller(mut self, controller: impl Into<String>) -> Error {
        self.0.controller = Some(controller.into());
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Error {
        self.0.hint = Some(hint.into());
        self
    }

    pub(crate) fn kinded(mut self, kind: ErrorKind) -> Error {
        self.0.kind = kind;
        self
    }

    pub(crate) fn undone(mut self, undo: String) -> Error {
        self.0.undo = Some(undo);
        self
    }

    /// The class of this error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The kernel's error number, where a system call failed.
    pub fn errno(&self) -> Option<i32> {
        self.0.errno
    }

    /// The file or group that the error is about. For [`ErrorKind::ControllerMissing`] it is the ancestor that
    /// lacks the controller.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// The value that was to be written or parsed.
    pub fn rejected(&self) -> Option<&str> {
        self.0.value.as_deref()
    }

    /// The controller that the error is about, by the kernel's name.
    pub fn controller(&self) -> Option<&str> {
        self.0.controller.as_deref()
    }

    /// What to do about it, where that is known.
    pub fn remedy(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// After a failed [`Cgroup::apply`](crate::Cgroup::apply): what became of the settings written before. After a
    /// failed [`Cgroup::create`](crate::Cgroup::create): why the new group is still there, should it be.
    pub fn undo(&self) -> Option<&str> {
        self.0.undo.as_deref()
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(c) = &self.controller {
            write!(f, " [controller {c}]")?;
        }
        if let Some(v) = &self.value {
            write!(f, " {v:?}")?;
        }
        if let Some(p) = &self.path {
            write!(f, ": {}", p.display())?;
        }
        if let Some(e) = self.errno {
            write!(f, ": {}", io::Error::from_raw_os_error(e))?;
        }
        if let Some(u) = &self.undo {
            write!(f, "; {u}")?;
        }
        if let Some(h) = &self.hint {
            write!(f, " ({h})")?;
        }
        Ok(())
    }
}

pub(crate) fn lossy(text: &[u8]) -> String {
    const SHOWN: usize = 120;
    String::from_utf8_lossy(&text[..text.len().min(SHOWN)]).into_owned()
}

pub(crate) const DELEGATE_HINT: &str = "run inside a delegated group: \
     `systemd-run --user --scope -p Delegate=yes COMMAND`, or have root hand over a directory of \
     /sys/fs/cgroup (chown it with its cgroup.procs, cgroup.threads and cgroup.subtree_control); \
     with the feature `systemd`, systemd::TransientUnit::enter asks for one";
pub(crate) const READ_ONLY_HINT: &str = "cgroup2 is mounted read-only here, as in most containers: start the container with a writable cgroup mount";
