//! The error of this crate.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::action::Action;
use crate::arch::Arch;
use crate::bpf::MAX_INSNS;

/// What went wrong, in a sentence that names the object, the value and, where one is known, the fix.
#[derive(Debug)]
pub struct Error(Box<Repr>);

/// What kind of failure an [`Error`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A name that the system-call table does not have, in a rule that is not optional.
    UnknownSyscall,
    /// A rule that cannot mean what it says: a bad argument index or errno, a comparison that is always or never
    /// true, a rule that is never reached.
    BadRule,
    /// The compiled program has more instructions than the kernel takes (4096).
    TooLarge,
    /// A profile that is not valid: bad JSON, an unknown action, operator or architecture, a bad combination.
    Profile,
    /// The policy would stop the program itself: execve is not allowed.
    ForbidsExec,
    /// Neither no_new_privs nor CAP_SYS_ADMIN.
    Privilege,
    /// This kernel does not have what was asked.
    Unsupported,
    /// Another thread could not take the filter: [`Error::thread`] names it.
    Thread,
    /// The call that a notification was about is gone: it was interrupted, or its thread died.
    Gone,
    /// A label of a security module that is malformed or cannot be had.
    Label,
    /// A file cannot be opened or read: a path of a rule, securityfs.
    File,
    /// Another system error: see [`Error::errno`].
    Os,
}

#[derive(Debug)]
pub(crate) enum Repr {
    UnknownSyscall { name: String, arch: Arch, hint: String },
    BadIndex { call: String, index: u8 },
    BadErrno { call: String, errno: u16 },
    Constant { call: String, condition: String, always: bool },
    Unreachable { call: String, rule: usize, by: usize },
    NativeOnly { call: String, arch: Arch },
    TooLarge { needed: usize },
    TooManyRules { conditions: usize },
    Profile { at: String, what: String },
    ForbidsExec { call: &'static str, action: Action },
    Privilege,
    Unsupported { what: &'static str, errno: i32 },
    Thread { tid: Option<u32> },
    Gone { call: &'static str },
    Landlock { what: &'static str, abi: u32 },
    Label { label: String, why: String },
    File { path: PathBuf, errno: i32 },
    Os { call: &'static str, errno: i32 },
}

impl Error {
    /// The kind, to match on.
    pub fn kind(&self) -> ErrorKind {
        match *self.0 {
            Repr::UnknownSyscall { .. } => ErrorKind::UnknownSyscall,
            Repr::BadIndex { .. }
            | Repr::BadErrno { .. }
            | Repr::Constant { .. }
            | Repr::Unreachable { .. }
            | Repr::NativeOnly { .. } => ErrorKind::BadRule,
            Repr::TooLarge { .. } | Repr::TooManyRules { .. } => ErrorKind::TooLarge,
            Repr::Profile { .. } => ErrorKind::Profile,
            Repr::ForbidsExec { .. } => ErrorKind::ForbidsExec,
            Repr::Privilege => ErrorKind::Privilege,
            Repr::Unsupported { .. } | Repr::Landlock { .. } => ErrorKind::Unsupported,
            Repr::Label { .. } => ErrorKind::Label,
            Repr::File { .. } => ErrorKind::File,
            Repr::Thread { .. } => ErrorKind::Thread,
            Repr::Gone { .. } => ErrorKind::Gone,
            Repr::Os { .. } => ErrorKind::Os,
        }
    }

    /// The errno of the system call that failed, if one did.
    pub fn errno(&self) -> Option<i32> {
        match *self.0 {
            Repr::Os { errno, .. } | Repr::Unsupported { errno, .. } | Repr::File { errno, .. } => {
                Some(errno)
            }
            Repr::Privilege => Some(libc::EACCES),
            Repr::Gone { .. } => Some(libc::ENOENT),
            _ => None,
        }
    }

    /// The thread that could not take the filter ([`ErrorKind::Thread`]).
    pub fn thread(&self) -> Option<u32> {
        match *self.0 {
            Repr::Thread { tid } => tid,
            _ => None,
        }
    }
}

impl From<Repr> for Error {
    fn from(repr: Repr) -> Self {
        Error(Box::new(repr))
    }
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Repr::UnknownSyscall { name, arch, hint } => write!(f, "no system call `{name}` on {arch}{hint}"),
            Repr::BadIndex { call, index } => {
                write!(f, "rule for {call}: argument {index} does not exist (0 to 5 do)")
            }
            Repr::BadErrno { call, errno } => {
                write!(f, "rule for {call}: errno {errno} is above the kernel's highest, 4095")
            }
            Repr::Constant { call, condition, always } => {
                let word = if *always { "always" } else { "never" };
                write!(f, "rule for {call}: `{condition}` is {word} true; look at the mask and the value")
            }
            Repr::Unreachable { call, rule, by } => write!(
                f,
                "rule {rule} for {call} is never reached: rule {by} decides all of its calls; \
                 put it before that one, or use Policy::set to replace"
            ),
            Repr::NativeOnly { call, arch } => write!(
                f,
                "rule for {call}: a number means another call on {arch}; name the call, or leave {arch} out"
            ),
            Repr::TooLarge { needed } => write!(
                f,
                "the filter needs {needed} instructions, the kernel takes {MAX_INSNS}; use fewer argument conditions"
            ),
            Repr::TooManyRules { conditions } => write!(
                f,
                "one system call has rules with {conditions} conditions, more than {MAX_INSNS} instructions can hold"
            ),
            Repr::Profile { at, what } if at.is_empty() => write!(f, "seccomp profile: {what}"),
            Repr::Profile { at, what } => write!(f, "seccomp profile, {at}: {what}"),
            Repr::ForbidsExec { call, action } => write!(
                f,
                "the filter answers {call} with {action}, so no program could be started under it; allow {call}"
            ),
            Repr::Privilege => f.write_str(
                "installing a filter needs no_new_privs or CAP_SYS_ADMIN in the thread's user namespace; \
                 leave out keep_privileges(), or install before the capability is dropped",
            ),
            Repr::Unsupported { what, errno } => {
                write!(f, "this kernel does not support {what}: {}", io::Error::from_raw_os_error(*errno))
            }
            Repr::Thread { tid } => {
                f.write_str("another thread")?;
                if let Some(tid) = tid {
                    write!(f, " ({tid})")?;
                }
                f.write_str(
                    " could not take the filter: it has a filter that the calling thread does not have",
                )
            }
            Repr::Gone { call } => {
                write!(f, "{call}: the notified call is gone (interrupted, answered, or its thread died)")
            }
            Repr::Landlock { what, abi: 0 } => write!(
                f,
                "Landlock cannot enforce: {what}; this kernel has no Landlock or it is not among its lsm= (see \
                 /sys/kernel/security/lsm)"
            ),
            Repr::Landlock { what, abi } => {
                write!(f, "Landlock cannot enforce: {what}; this kernel has its ABI {abi} only")
            }
            Repr::Label { label, why } => write!(f, "label `{label}`: {why}"),
            Repr::File { path, errno } => {
                write!(f, "{}: {}", path.display(), io::Error::from_raw_os_error(*errno))
            }
            Repr::Os { call, errno } => write!(f, "{call}: {}", io::Error::from_raw_os_error(*errno)),
        }
    }
}
