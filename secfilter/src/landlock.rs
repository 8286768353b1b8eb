//! Landlock: restrictions on files, TCP ports and processes that a thread puts on itself.

use std::fs::{File, OpenOptions};
use std::ops::BitOr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Repr};
use crate::sys;

/// Rights on files below a path: the kernel's `LANDLOCK_ACCESS_FS_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct FsAccess(u64);

macro_rules! rights {
    ($($(#[$doc:meta])* $name:ident = $bit:literal;)*) => {
        $($(#[$doc])* pub const $name: FsAccess = FsAccess(1 << $bit);)*
    };
}

impl FsAccess {
    rights! {
        /// Execute a file.
        EXECUTE = 0;
        /// Open a file for writing.
        WRITE_FILE = 1;
        /// Open a file for reading.
        READ_FILE = 2;
        /// List a directory.
        READ_DIR = 3;
        /// Remove an empty directory, or rename one.
        REMOVE_DIR = 4;
        /// Unlink or rename a file.
        REMOVE_FILE = 5;
        /// Make a character device.
        MAKE_CHAR = 6;
        /// Make a directory.
        MAKE_DIR = 7;
        /// Make a regular file.
        MAKE_REG = 8;
        /// Make a socket.
        MAKE_SOCK = 9;
        /// Make a named pipe.
        MAKE_FIFO = 10;
        /// Make a block device.
        MAKE_BLOCK = 11;
        /// Make a symbolic link.
        MAKE_SYM = 12;
        /// Link or rename to another directory. ABI 2, Linux 5.19; before, always denied.
        REFER = 13;
        /// Truncate a file. ABI 3, Linux 6.2.
        TRUNCATE = 14;
        /// ioctl on a device that was opened after the restriction. ABI 5, Linux 6.10.
        IOCTL_DEV = 15;
    }

    /// All that this crate knows.
    pub const ALL: FsAccess = FsAccess(0xffff);
    /// Read files, list directories, execute.
    pub const READ: FsAccess = FsAccess(Self::READ_FILE.0 | Self::READ_DIR.0 | Self::EXECUTE.0);

    /// What is in both.
    pub const fn intersection(self, other: FsAccess) -> FsAccess {
        FsAccess(self.0 & other.0)
    }

    /// Whether it has all of `other`.
    pub const fn contains(self, other: FsAccess) -> bool {
        self.0 & other.0 == other.0
    }

    /// The rights that make sense for something other than a directory.
    const FILE: FsAccess = FsAccess(
        Self::EXECUTE.0 | Self::WRITE_FILE.0 | Self::READ_FILE.0 | Self::TRUNCATE.0 | Self::IOCTL_DEV.0,
    );
}

impl BitOr for FsAccess {
    type Output = FsAccess;

    fn bitor(self, other: FsAccess) -> FsAccess {
        FsAccess(self.0 | other.0)
    }
}

const BIND_TCP: u64 = 1;
const CONNECT_TCP: u64 = 1 << 1;
const SCOPE_ABSTRACT_UNIX_SOCKET: u64 = 1;
const SCOPE_SIGNAL: u64 = 1 << 1;

/// A Landlock ruleset to be: denies all file access, all TCP ports, connecting to abstract sockets and sending signals to
/// processes outside; rules open paths and ports.
///
/// It needs no privilege. What was opened before stays open, and metadata (stat, chmod, chown …), UDP and path sockets
/// are not covered.
///
/// **Fails closed**: where the running kernel cannot enforce something of this, [`prepare`](Landlock::prepare) is an error,
/// unless [`best_effort`](Landlock::best_effort) was asked for; then [`Ruleset::enforced`] says what is.
///
/// ```no_run
/// use palisade_secfilter::landlock::{FsAccess, Landlock};
///
/// let ruleset = Landlock::new()
///     .path("/usr", FsAccess::READ)
///     .path("/lib", FsAccess::READ)
///     .path("/lib64", FsAccess::READ)
///     .path("/tmp/work", FsAccess::ALL)
///     .connect_tcp(443)
///     .prepare()?;
/// let mut command = std::process::Command::new("/usr/bin/ls");
/// ruleset.confine(&mut command)?;
/// # Ok::<(), palisade_secfilter::Error>(())
/// ```
///
/// See [landlock(7)](https://man7.org/linux/man-pages/man7/landlock.7.html).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Landlock {
    net: bool,
    scopes: bool,
    best_effort: bool,
    paths: Vec<(PathBuf, FsAccess)>,
    ports: Vec<(u16, u64)>,
}

impl Default for Landlock {
    fn default() -> Self {
        Self::new()
    }
}

impl Landlock {
    /// Nothing is allowed.
    pub fn new() -> Self {
        Landlock { net: true, scopes: true, best_effort: false, paths: Vec::new(), ports: Vec::new() }
    }

    /// Allows `access` to what is at `path` and below. Rules add up. For a file the rights of directories are left out.
    pub fn path(mut self, path: impl AsRef<Path>, access: FsAccess) -> Self {
        self.paths.push((path.as_ref().to_owned(), access));
        self
    }

    /// Allows listening on a TCP port (0: one that the kernel picks). ABI 4, Linux 6.7.
    pub fn bind_tcp(mut self, port: u16) -> Self {
        self.ports.push((port, BIND_TCP));
        self
    }

    /// Allows connecting to a TCP port, of any address. ABI 4, Linux 6.7.
    pub fn connect_tcp(mut self, port: u16) -> Self {
        self.ports.push((port, CONNECT_TCP));
        self
    }

    /// Leaves all TCP ports open.
    pub fn any_tcp(mut self) -> Self {
        self.net = false;
        self
    }

    /// Leaves signals and abstract sockets alone. (Otherwise ABI 6, Linux 6.12.)
    pub fn any_process(mut self) -> Self {
        self.scopes = false;
        self
    }

    /// Takes what the running kernel can enforce; [`Ruleset::enforced`] lists what it cannot. Paths must exist all the
    /// same.
    pub fn best_effort(mut self) -> Self {
        self.best_effort = true;
        self
    }

    /// The Landlock version of the running kernel: 0 where it is missing or switched off.
    ///
    /// # Errors
    /// [`Os`](crate::ErrorKind::Os) if the kernel answers something that it should not.
    pub fn abi() -> Result<u32, Error> {
        match sys::landlock_abi() {
            Ok(abi) => Ok(abi),
            Err(libc::ENOSYS | libc::EOPNOTSUPP) => Ok(0),
            Err(errno) => Err(os("landlock_create_ruleset(LANDLOCK_CREATE_RULESET_VERSION)", errno)),
        }
    }

    /// Opens the paths and makes the ruleset; nothing is restricted yet.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if the kernel cannot enforce all of it (and best effort was not asked
    /// for); [`File`](crate::ErrorKind::File) for a path that cannot be opened.
    pub fn prepare(&self) -> Result<Ruleset, Error> {
        let abi = Self::abi()?;
        let mut missing = Vec::new();
        let mut need = |since: u32, what: &'static str| {
            if abi < since {
                missing.push(what);
            }
            abi >= since
        };
        let mut fs = FsAccess::default();
        for (since, what, rights) in FS_RIGHTS {
            if need(since, what) {
                fs = fs | rights;
            }
        }
        let net = self.net && need(4, "TCP ports");
        let scopes = self.scopes && need(6, "scopes for signals and abstract sockets");
        if let (Some(what), false) = (missing.first(), self.best_effort) {
            return Err(Repr::Landlock { what, abi }.into());
        }
        let enforced = Enforced { abi, fs, tcp: net, scopes, missing };
        // What rules name must exist even where it cannot be enforced.
        let mut opened = Vec::with_capacity(self.paths.len());
        for (path, access) in &self.paths {
            opened.push((open(path)?, *access));
        }
        if abi == 0 {
            return Ok(Ruleset { fd: None, enforced });
        }
        let attr = sys::RulesetAttr {
            handled_access_fs: fs.0,
            handled_access_net: if net { BIND_TCP | CONNECT_TCP } else { 0 },
            scoped: if scopes { SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL } else { 0 },
        };
        let fd = sys::landlock_create(&attr, abi).map_err(|errno| os("landlock_create_ruleset", errno))?;
        for ((file, is_dir), access) in &opened {
            let meaningful = if *is_dir { fs } else { fs.intersection(FsAccess::FILE) };
            let allowed = access.intersection(meaningful);
            if allowed != FsAccess::default() {
                sys::landlock_add_path(fd.as_fd(), allowed.0, file.as_raw_fd())
                    .map_err(|errno| os("landlock_add_rule(LANDLOCK_RULE_PATH_BENEATH)", errno))?;
            }
        }
        if net {
            for &(port, access) in &self.ports {
                sys::landlock_add_port(fd.as_fd(), access, port)
                    .map_err(|errno| os("landlock_add_rule(LANDLOCK_RULE_NET_PORT)", errno))?;
            }
        }
        Ok(Ruleset { fd: Some(fd), enforced })
    }
}

/// Which ABI brought which rights.
const FS_RIGHTS: [(u32, &str, FsAccess); 4] = [
    (1, "file access", FsAccess(0x1fff)),
    (2, "moving files between directories", FsAccess::REFER),
    (3, "truncating files", FsAccess::TRUNCATE),
    (5, "ioctl on devices", FsAccess::IOCTL_DEV),
];

/// Opens a path for a rule; whether it is a directory.
fn open(path: &Path) -> Result<(File, bool), Error> {
    let error = |error: std::io::Error| -> Error {
        Repr::File { path: path.to_owned(), errno: error.raw_os_error().unwrap_or(libc::EINVAL) }.into()
    };
    let file = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path).map_err(error)?;
    let is_dir = file.metadata().map_err(error)?.is_dir();
    Ok((file, is_dir))
}

fn os(call: &'static str, errno: i32) -> Error {
    Repr::Os { call, errno }.into()
}

/// What a [`Ruleset`] enforces.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Enforced {
    /// The kernel's Landlock version; 0: none, nothing is enforced.
    pub abi: u32,
    /// The rights on files that are denied where no rule allows them.
    pub fs: FsAccess,
    /// TCP ports are denied where no rule allows them.
    pub tcp: bool,
    /// Signals and abstract sockets do not reach outside.
    pub scopes: bool,
    /// What was asked and is not enforced: empty unless best effort was asked for.
    pub missing: Vec<&'static str>,
}

/// A ruleset that the kernel has taken, ready to be put into force, any number of times.
#[derive(Debug)]
pub struct Ruleset {
    fd: Option<OwnedFd>,
    enforced: Enforced,
}

impl Ruleset {
    /// What it enforces.
    pub fn enforced(&self) -> &Enforced {
        &self.enforced
    }

    /// Restricts the calling thread and what it starts, for good; sets no_new_privs, which Landlock needs.
    ///
    /// # Errors
    /// [`Os`](crate::ErrorKind::Os); E2BIG for the 17th layer.
    pub fn apply(&self) -> Result<(), Error> {
        match &self.fd {
            Some(fd) => {
                sys::landlock_restrict(fd.as_fd()).map_err(|errno| os("landlock_restrict_self", errno))
            }
            None => Ok(()),
        }
    }

    /// Restricts `command`'s child right before exec. The program itself must be in reach: allow its path, its loader and
    /// its libraries.
    ///
    /// # Errors
    /// [`Os`](crate::ErrorKind::Os) if the descriptor cannot be copied. Failures in the child are errors of
    /// `Command::spawn`.
    pub fn confine(&self, command: &mut Command) -> Result<(), Error> {
        if let Some(fd) = &self.fd {
            let copy = fd
                .try_clone()
                .map_err(|error| os("fcntl(F_DUPFD_CLOEXEC)", error.raw_os_error().unwrap_or(0)))?;
            sys::restrict_before_exec(command, copy);
        }
        Ok(())
    }
}
