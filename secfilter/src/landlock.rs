//! Landlock: restrictions on files, TCP ports and processes that a thread puts on itself.

use std::ffi::CString;
use std::fmt;
use std::ops::BitOr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use palisade_sys::{Fault, Fd, OpenHow, Program, Slot, Step};

use crate::error::{Error, Repr};
use crate::sys;

/// Rights on files below a path: the kernel's `LANDLOCK_ACCESS_FS_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct FsAccess(u64);

macro_rules! rights {
    ($($(#[$doc:meta])* $name:ident = $bit:literal;)*) => {
        $($(#[$doc])* pub const $name: FsAccess = FsAccess(1 << $bit);)*

        const NAMES: &[(FsAccess, &str)] = &[$((FsAccess(1 << $bit), stringify!($name))),*];
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

/// The kernel's names without their prefix, with `|` between them.
impl fmt::Display for FsAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = FsAccess::NAMES.iter().filter(|(right, _)| self.contains(*right)).map(|(_, name)| *name);
        f.write_str(&names.collect::<Vec<_>>().join("|"))
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
/// ruleset.confine(&mut command);
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

    /// Allows `access` to what is at `path` and below; links on the way are followed, magic ones of /proc are not. Rules
    /// add up. For a file the rights of directories are left out.
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

    /// Takes what the running kernel can enforce; [`Ruleset::enforced`] lists what it cannot. Where it enforces
    /// anything, paths must exist all the same.
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

    /// Decides what the running kernel will enforce, and turns it into system calls; nothing is restricted yet.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if the kernel cannot enforce all of it (and best effort was not asked
    /// for); [`File`](crate::ErrorKind::File) for a path with a NUL byte.
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
        let tcp = self.net && need(4, "TCP ports");
        let scopes = self.scopes && need(6, "scopes for signals and abstract sockets");
        if let (Some(what), false) = (missing.first(), self.best_effort) {
            return Err(Repr::Landlock { what, abi }.into());
        }
        let enforced = Enforced { abi, fs, tcp, scopes, missing };
        let program = self.program(&enforced)?;
        Ok(Ruleset { program, enforced })
    }

    fn program(&self, enforced: &Enforced) -> Result<Program, Error> {
        let mut p = Program::new();
        if enforced.abi == 0 {
            return Ok(p);
        }
        p.at(Step::Landlock, "");
        let attr = [
            enforced.fs.0,
            if enforced.tcp { BIND_TCP | CONNECT_TCP } else { 0 },
            if enforced.scopes { SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL } else { 0 },
        ];
        let known = match enforced.abi {
            ..4 => 1,
            4 | 5 => 2,
            _ => 3,
        };
        let ruleset = p.landlock_create_ruleset(&attr[..known]);
        for (path, access) in &self.paths {
            let nul = |_| Error::from(Repr::File { path: path.clone(), errno: libc::EINVAL });
            let c_path = CString::new(path.as_os_str().as_bytes()).map_err(nul)?;
            p.at(Step::Landlock, path.to_string_lossy());
            allow(&mut p, ruleset, &c_path, access.intersection(enforced.fs));
        }
        if enforced.tcp {
            for &(port, access) in &self.ports {
                p.at(Step::Landlock, format!("TCP port {port}"));
                p.landlock_add_port(ruleset, access, port);
            }
        }
        p.at(Step::Landlock, "");
        p.landlock_restrict_self(ruleset);
        p.close(ruleset);
        Ok(p)
    }
}

/// A rule for a path, as it is when the program runs: the kernel takes rights of directories for directories only.
fn allow(p: &mut Program, ruleset: Slot, path: &CString, access: FsAccess) {
    let how = OpenHow { flags: libc::O_PATH, resolve: libc::RESOLVE_NO_MAGICLINKS, ..OpenHow::default() };
    let rule = |p: &mut Program, file: Slot, access: FsAccess| {
        // A rule that allows nothing is refused, and says nothing.
        if access != FsAccess::default() {
            p.landlock_add_path(ruleset, access.0, file);
        }
        p.close(file);
    };
    let (no_directory, over) = (p.forward(), p.forward());
    let directory = p.openat2(Fd::CWD, path, OpenHow { flags: how.flags | libc::O_DIRECTORY, ..how });
    p.jump_on(&[libc::ENOTDIR], no_directory);
    rule(p, directory, access);
    p.getpid();
    p.branch(over);
    p.land(no_directory);
    let file = p.openat2(Fd::CWD, path, how);
    rule(p, file, access.intersection(FsAccess::FILE));
    p.land(over);
}

/// Which ABI brought which rights.
const FS_RIGHTS: [(u32, &str, FsAccess); 4] = [
    (1, "file access", FsAccess(0x1fff)),
    (2, "moving files between directories", FsAccess::REFER),
    (3, "truncating files", FsAccess::TRUNCATE),
    (5, "ioctl on devices", FsAccess::IOCTL_DEV),
];

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

/// A ruleset ready to be put into force, any number of times.
#[derive(Clone, Debug)]
pub struct Ruleset {
    program: Program,
    enforced: Enforced,
}

impl Ruleset {
    /// What it enforces.
    pub fn enforced(&self) -> &Enforced {
        &self.enforced
    }

    /// The system calls that put it into force: paths are opened by whoever runs them, at that time. They need
    /// no_new_privs or CAP_SYS_ADMIN, and belong after the last mount, which Landlock forbids.
    pub fn program(&self) -> &Program {
        &self.program
    }

    fn with_no_new_privs(&self) -> Program {
        let mut p = Program::new();
        if !self.program.is_empty() {
            p.at(Step::NoNewPrivs, "");
            p.prctl(libc::PR_SET_NO_NEW_PRIVS, [1, 0, 0, 0]);
            p.append(&self.program);
        }
        p
    }

    /// Restricts the calling thread and what it starts, for good; sets no_new_privs, which Landlock needs.
    ///
    /// # Errors
    /// [`File`](crate::ErrorKind::File) for a path of a rule that cannot be opened: then nothing is restricted.
    /// [`Os`](crate::ErrorKind::Os) otherwise; E2BIG for the 17th layer.
    pub fn apply(&self) -> Result<(), Error> {
        let program = self.with_no_new_privs();
        let mut image = program.image();
        sys::run(&mut image).map_err(|fault| {
            // The ruleset of a run that failed is nobody's.
            program.open_descriptors(&image).into_iter().for_each(|fd| drop(sys::adopt(fd as u64)));
            explain(&program, fault)
        })
    }

    /// Restricts `command`'s child right before exec. The program itself must be in reach: allow its path, its loader and
    /// its libraries.
    ///
    /// Failures in the child, a path that cannot be opened included, are errors of `Command::spawn`.
    pub fn confine(&self, command: &mut Command) {
        sys::before_exec(command, self.with_no_new_privs().image());
    }
}

fn explain(program: &Program, fault: Fault) -> Error {
    let explained = program.explain(fault);
    match explained.object {
        Some(path) if explained.call.starts_with("openat2") => {
            Repr::File { path: path.into(), errno: fault.errno }.into()
        }
        _ if explained.call.starts_with("landlock_restrict_self") => {
            os("landlock_restrict_self", fault.errno)
        }
        _ if explained.call.starts_with("landlock_add_rule") => os("landlock_add_rule", fault.errno),
        _ => os("landlock_create_ruleset", fault.errno),
    }
}
