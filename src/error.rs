//! What can go wrong, in words that say what to do about it.

use std::fmt;
use std::io;

use palisade_sys::{Explained, Step};

/// A `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a sandbox could not be built, or a program in it not be started or waited for.
///
/// It is always about Palisade's own work: how the payload ended is an [`ExitStatus`](crate::ExitStatus), never an
/// `Error`. [`kind`](Self::kind) is for code; `Display` is for people: step, object, call, errno, and a hint where one
/// is known.
#[derive(Debug)]
pub struct Error(Box<Inner>);

/// What kind of failure an [`Error`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The specification contradicts itself or holds a bad value: nothing was tried.
    InvalidSpec,
    /// A step of the set-up failed; the payload did not run.
    Setup,
    /// The set-up did not end within its time; it was killed, the payload did not run.
    SetupTimeout,
    /// The child was killed during set-up (out of memory, a signal from elsewhere); the payload did not run.
    SetupKilled,
    /// The kernel took the calls that restrict the payload, but says that it is not as it was asked for. The payload was
    /// killed before it ran, or, where only its filter is missing, right when it began.
    NotEnforced,
    /// The payload itself could not be executed: not found, not executable, no interpreter.
    Exec,
    /// The living sandbox that a program was to enter has ended; the program did not run.
    Gone,
    /// The state of a [`Detached`](crate::Detached) payload is none, is not the caller's own, or is not in the state that is needed.
    State,
    /// Waiting for, signalling or reading from a running child failed.
    Supervise,
    /// The status was collected by another `wait` of the host program, and this kernel does not keep it (needs 6.15).
    StatusTaken,
}

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    step: Step,
    object: Option<String>,
    /// The failed call with its arguments, or what was wrong.
    what: String,
    errno: Option<i32>,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, step: Step, what: impl Into<String>) -> Self {
        let inner =
            Inner { kind, step, object: None, what: what.into(), errno: None, hint: None, source: None };
        Self(Box::new(inner))
    }

    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidSpec, Step::Prepare, what)
    }

    /// A call of the host program's side that failed.
    pub(crate) fn call(step: Step, call: impl Into<String>, error: &io::Error) -> Self {
        let kind = if step == Step::Supervise { ErrorKind::Supervise } else { ErrorKind::Setup };
        let mut new = Self::new(kind, step, call);
        new.0.errno = error.raw_os_error();
        if new.0.errno.is_none() {
            new.0.what = format!("{}: {error}", new.0.what);
        }
        new.with_hint_of_errno()
    }

    /// A fault of a program, in words.
    pub(crate) fn explained(explained: Explained) -> Self {
        Self::of_fault(explained.step, explained.object, explained.call, explained.errno)
    }

    pub(crate) fn of_fault(step: Step, object: Option<String>, call: String, errno: i32) -> Self {
        let kind = match step {
            Step::Exec => ErrorKind::Exec,
            Step::Supervise => ErrorKind::Supervise,
            _ => ErrorKind::Setup,
        };
        let mut new = Self::new(kind, step, call);
        new.0.object = object;
        new.0.errno = Some(errno);
        new.with_hint_of_errno()
    }

    /// An error of one of the crates below.
    pub(crate) fn from_source(
        kind: ErrorKind,
        step: Step,
        error: impl std::error::Error + Send + Sync + 'static,
        errno: Option<i32>,
    ) -> Self {
        let mut new = Self::new(kind, step, error.to_string());
        new.0.source = Some(Box::new(error));
        new.0.errno = errno;
        if errno == Some(libc::ENOSYS) { new.with_hint_of_errno() } else { new }
    }

    pub(crate) fn with_object(mut self, object: impl Into<String>) -> Self {
        self.0.object = Some(object.into());
        self
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Makes the end of the message, which says what to do, its hint.
    #[cfg(feature = "net")]
    pub(crate) fn with_hint_at_the_end(mut self, hint: &str) -> Self {
        if let Some(rest) = self.0.what.strip_suffix(hint) {
            self.0.what = rest.trim_end_matches([':', ' ']).to_owned();
        }
        self.with_hint(hint)
    }

    fn with_hint_of_errno(mut self) -> Self {
        if let Some(hint) = self.0.errno.and_then(|errno| hint_for(self.0.step, errno)) {
            self.0.hint = Some(hint.to_owned());
        }
        self
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The step of the spawn that failed.
    pub fn step(&self) -> Step {
        self.0.step
    }

    /// What the step concerned: a path, a controller, a capability.
    pub fn object(&self) -> Option<&str> {
        self.0.object.as_deref()
    }

    /// The kernel's errno, where a call failed.
    pub fn errno(&self) -> Option<i32> {
        self.0.errno
    }

    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, step, object, what, errno, hint, source } = &*self.0;
        match kind {
            ErrorKind::InvalidSpec => f.write_str("invalid specification: ")?,
            _ => match object {
                Some(object) => write!(f, "{step} ({object}): ")?,
                None => write!(f, "{step}: ")?,
            },
        }
        f.write_str(what)?;
        if let (Some(errno), None) = (errno, source) {
            write!(f, ": {}", io::Error::from_raw_os_error(*errno))?;
        }
        match hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = error.errno().map_or(io::ErrorKind::Other, |errno| Self::from_raw_os_error(errno).kind());
        Self::new(kind, error)
    }
}

/// What is known of an errno at a step.
fn hint_for(step: Step, errno: i32) -> Option<&'static str> {
    let hint = match (step, errno) {
        (Step::Clone, libc::EPERM) => {
            "new user namespaces are not allowed here: check sysctl kernel.unprivileged_userns_clone (Debian), \
             kernel.apparmor_restrict_unprivileged_userns (Ubuntu), or the container engine's seccomp profile"
        }
        (Step::Clone, libc::ENOSPC) => {
            "a limit on namespaces is reached: sysctl user.max_user_namespaces and its like, or 32 nested levels"
        }
        (Step::Clone, libc::EUSERS) => "user namespaces are nested as deep as the kernel allows (32 levels)",
        (Step::Clone, libc::EAGAIN) => "the limit on processes is reached (RLIMIT_NPROC or pids.max)",
        (Step::Clone, libc::EBUSY) => {
            "the cgroup has controllers enabled for its children, so no process may live in it: use a leaf below it"
        }
        (Step::Sources, libc::EINVAL) => {
            "the source's file system takes no id-mapped mounts (or not with this kernel): bind it read-only, or give \
             the payload a user who may write there"
        }
        (Step::Stage, libc::EACCES | libc::EPERM) => {
            "executing a memfd is refused: check sysctl vm.memfd_noexec (must be 0 or 1) and the security module's log"
        }
        (Step::Stage, libc::ENOMEM) => "the cgroup's memory.max is too small to execute anything in",
        (Step::Propagation, libc::EPERM) => {
            "mounting is refused although the namespace is ours: a security module or a seccomp filter of an outer \
             container forbids it (Ubuntu: kernel.apparmor_restrict_unprivileged_userns)"
        }
        (Step::Mounts, libc::EPERM) => {
            "a fresh /proc needs a pid namespace of its own, and a host /proc that nothing is mounted over (inside most \
             containers something is): HostView::proc(None) does without; other mounts may be refused by a security module"
        }
        (Step::Mounts, libc::ENOENT) => {
            "the place to mount on does not exist, in a tree that is not changed for it: make it there, or choose a target \
             that the view makes itself (below /, /tmp or a tmpfs)"
        }
        (Step::PivotRoot, libc::EINVAL) => {
            "the current root is no mount point, or the machine runs from an initramfs (rootfs), which can't be pivoted"
        }
        (Step::Limits, libc::EPERM | libc::EACCES) => {
            "more than the host program has takes CAP_SYS_RESOURCE (limits, oom_score_adj) or CAP_SYS_NICE (nice, scheduler) \
             outside of any user namespace; nice and real-time priority also go as far as RLIMIT_NICE and RLIMIT_RTPRIO of \
             the host program"
        }
        (Step::Limits, libc::EINVAL) => {
            "affinity: none of the CPUs exists and is allowed by the cgroup's cpuset"
        }
        (Step::Stdio, libc::ENOENT | libc::ESTALE) => {
            "a terminal needs a devpts of the view's own at /dev/pts: Dev::new(\"/dev\") makes one"
        }
        (Step::Stdio, libc::ENOSPC) => {
            "a limit on terminals is reached: sysctl kernel.pty.max, or Devpts::max"
        }
        (Step::Exec, libc::ENOENT) => {
            "not found inside the sandbox: the program, its ELF interpreter or its #! interpreter is not in the view; \
             add it with bind_ro(path, path)"
        }
        (Step::Exec, libc::EACCES) => {
            "not executable inside the sandbox: mode bits, a noexec mount, or a directory"
        }
        (Step::LsmLabel, libc::EINVAL) => "the loaded policy does not know this label",
        (Step::LsmLabel, libc::EACCES) => {
            "the loaded policy does not let the host program choose this label (SELinux: process setexec; AppArmor: \
             change_profile)"
        }
        (Step::Exec, libc::ENOEXEC) => {
            "neither an ELF file of this machine nor a script with a #! line (no shell is tried instead)"
        }
        (Step::WorkingDirectory, libc::ENOENT) => "current_dir names a directory inside the sandbox's view",
        (Step::Seccomp, libc::EACCES) => {
            "a filter needs no_new_privs, or CAP_SYS_ADMIN at the moment when it is installed"
        }
        (Step::Pause, libc::EEXIST) => {
            "each payload that is written down has a directory of its own, which is made for it: name one that does not \
             exist, or clean this one up (Detached::cleanup)"
        }
        (Step::Pause, libc::ENOENT) => {
            "nothing is written down there (Command::create does that), or the directory above it does not exist"
        }
        (_, libc::ENOSYS) => {
            "the kernel has not got this call (Palisade needs Linux 5.15), or a filter hides it: default filters of older \
             container engines do; there is no other way that would be taken instead"
        }
        _ => return None,
    };
    Some(hint)
}
