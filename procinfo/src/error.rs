use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;

/// Why something under `/proc` could not be read.
///
/// It is a plain value (`Clone`), so that a reader of many files can keep the ones that were refused beside the ones
/// that were answered. [`kind`](Error::kind) says what to do about it, the message names the object and the call.
#[derive(Clone, Debug, thiserror::Error)]
#[error(transparent)]
pub struct Error(Box<Repr>);

/// What kind of failure an [`Error`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The process (or thread) has ended and was reaped. Another process may have its number by now; this handle
    /// never shows that one.
    Gone,
    /// The kernel refuses it to this reader. Most files beyond `stat` and `status` need the same user ids and a
    /// dumpable target, or `CAP_SYS_PTRACE` over the target's user namespace (ptrace(2), "access mode checking").
    Denied,
    /// The object is there, but it has nothing of this sort: a kernel thread has no `exe`, a zombie no `mountinfo`,
    /// a kernel built without an option lacks the file.
    Absent,
    /// The contents are not what the kernel documents. The message has the file, the line, the field and an excerpt.
    Malformed,
    /// The contents are larger than this crate is willing to hold (64 MiB a file).
    TooLarge,
    /// A directory that was given as a mounted proc file system is something else.
    NotProc,
    /// Another file system is mounted over this file of a process, so what it says is not the kernel's word.
    Overmounted,
    /// Any other failed system call; see [`Error::errno`].
    System,
}

#[derive(Clone, Debug, thiserror::Error)]
enum Repr {
    #[error("{call}({object}): {}{}", .errno.desc(), hint(*.kind))]
    Call { kind: ErrorKind, call: &'static str, object: String, errno: Errno },
    #[error(
        "{}line {line}, field {field}: {found:?} is not what the kernel documents",
        prefix(.object, .file)
    )]
    Malformed { object: Option<String>, file: &'static str, line: u32, field: &'static str, found: String },
    #[error("{object}: more than {limit} bytes")]
    TooLarge { object: String, limit: usize },
    #[error("{object}: not a proc file system; mount one there, or use ProcRoot::captured for a saved tree")]
    NotProc { object: String },
}

fn prefix(object: &Option<String>, file: &str) -> String {
    object.as_ref().map_or_else(|| format!("{file}: "), |o| format!("{o}: "))
}

fn hint(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Gone => " (the process has ended)",
        ErrorKind::Denied => {
            " (needs the target's user ids and a dumpable target, or CAP_SYS_PTRACE over it)"
        }
        ErrorKind::Absent => " (the process lives, but has no such thing here)",
        ErrorKind::Overmounted => " (something is mounted over this file)",
        _ => "",
    }
}

impl Error {
    /// The category, for code that decides by it.
    pub fn kind(&self) -> ErrorKind {
        match &*self.0 {
            Repr::Call { kind, .. } => *kind,
            Repr::Malformed { .. } => ErrorKind::Malformed,
            Repr::TooLarge { .. } => ErrorKind::TooLarge,
            Repr::NotProc { .. } => ErrorKind::NotProc,
        }
    }

    /// The errno of the system call that failed, if one did.
    pub fn errno(&self) -> Option<i32> {
        match &*self.0 {
            Repr::Call { errno, .. } => Some(*errno as i32),
            _ => None,
        }
    }

    pub(crate) fn call(kind: ErrorKind, call: &'static str, object: String, errno: Errno) -> Self {
        Self(Box::new(Repr::Call { kind, call, object, errno }))
    }

    pub(crate) fn too_large(object: String, limit: usize) -> Self {
        Self(Box::new(Repr::TooLarge { object, limit }))
    }

    pub(crate) fn not_proc(object: String) -> Self {
        Self(Box::new(Repr::NotProc { object }))
    }

    pub(crate) fn malformed(file: &'static str, line: u32, field: &'static str, found: &[u8]) -> Self {
        let shown = &found[..found.len().min(80)];
        let found = OsStr::from_bytes(shown).to_string_lossy().into_owned();
        Self(Box::new(Repr::Malformed { object: None, file, line, field, found }))
    }

    /// A parser knows the sort of file only; its caller adds whose file it was.
    pub(crate) fn of(mut self, whose: impl FnOnce() -> String) -> Self {
        if let Repr::Malformed { object, .. } = &mut *self.0 {
            *object = Some(whose());
        }
        self
    }
}

/// How an errno of a system-wide file reads: there is no process that could have ended.
pub(crate) fn kind_of(errno: Errno) -> ErrorKind {
    match errno {
        Errno::EACCES | Errno::EPERM => ErrorKind::Denied,
        Errno::ENOENT | Errno::EOPNOTSUPP => ErrorKind::Absent,
        Errno::ESRCH => ErrorKind::Gone,
        Errno::EXDEV => ErrorKind::Overmounted,
        _ => ErrorKind::System,
    }
}
