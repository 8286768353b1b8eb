//! Handles of namespaces: a descriptor that keeps one alive, with its kind known at run time or in the type.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::hash::{Hash, Hasher};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::join::Join;
use crate::namespace::Namespace;
use crate::sys;

/// What identifies a namespace while it lives: two handles are of the same one if these are equal. After its end the
/// numbers are given to others, so compare only what a handle or a process keeps alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NsId {
    /// Device of the file system of namespaces, as `st_dev` has it.
    pub dev: u64,
    /// Inode number: the one in brackets in `/proc/PID/ns`.
    pub ino: u64,
}

/// The kinds as types, for [`Ns`].
pub mod kind {
    use super::sealed::Sealed;
    use crate::namespace::Namespace;

    /// A kind of namespace as a type.
    #[expect(private_bounds, reason = "sealed: there are as many kinds as the kernel has")]
    pub trait Kind: Sealed + 'static {
        /// The same as a value.
        const NAMESPACE: Namespace;
    }

    macro_rules! kinds {
        ($($name:ident),+) => {$(
            #[doc = concat!("[`Namespace::", stringify!($name), "`] as a type.")]
            #[derive(Clone, Copy, Debug)]
            pub enum $name {}
            impl Sealed for $name {}
            impl Kind for $name {
                const NAMESPACE: Namespace = Namespace::$name;
            }
        )+};
    }

    kinds!(Mount, Uts, Ipc, User, Pid, Net, Cgroup, Time);

    /// Kinds whose namespaces have a parent.
    #[expect(private_bounds, reason = "sealed")]
    pub trait Hierarchical: Kind + Sealed {}
    impl Hierarchical for User {}
    impl Hierarchical for Pid {}
}

mod sealed {
    pub(super) trait Sealed {}
}

use kind::{Hierarchical, Kind};

/// A handle of a namespace of whichever kind. It keeps the namespace alive; clones share the descriptor.
#[derive(Clone)]
pub struct AnyNs {
    fd: Arc<OwnedFd>,
    kind: Namespace,
    id: NsId,
}

/// Numbers of the requests on a pidfd, in the order of [`Namespace::ALL`].
const PIDFD_REQUEST: [u8; 8] = [3, 10, 2, 9, 5, 4, 1, 7];

const NEEDS_PTRACE: &str =
    "the caller needs ptrace access to the process: the same user and a superset of its capabilities";

impl AnyNs {
    /// The calling thread's own.
    ///
    /// # Errors
    /// [`ErrorKind::NoProc`] without `/proc`, [`ErrorKind::Unsupported`] if the kernel has not got the kind.
    pub fn current(kind: Namespace) -> Result<Self> {
        Self::proc("thread-self", kind, kind.name())
    }

    /// The one that the calling thread's next children will be in, for the kinds where that differs from
    /// [`AnyNs::current`]; the same as that for the others.
    ///
    /// # Errors
    /// As for [`AnyNs::current`]; [`ErrorKind::Gone`] for a new pid namespace that has no process yet.
    pub fn for_children(kind: Namespace) -> Result<Self> {
        Self::proc("thread-self", kind, kind.children_file().unwrap_or(kind.name()))
    }

    /// That of process `pid` (of its main thread). The number may already be of another process: prefer
    /// [`AnyNs::of_pidfd`] where that matters.
    ///
    /// # Errors
    /// [`ErrorKind::Gone`] if there is no such process; [`ErrorKind::Permission`] if the caller may not look into it
    /// (ptrace access, see ptrace(2)); else as for [`AnyNs::current`].
    pub fn of_process(pid: u32, kind: Namespace) -> Result<Self> {
        Self::proc(&pid.to_string(), kind, kind.name())
    }

    /// That of thread `tid` of process `pid`.
    ///
    /// # Errors
    /// As for [`AnyNs::of_process`].
    pub fn of_thread(pid: u32, tid: u32, kind: Namespace) -> Result<Self> {
        Self::proc(&format!("{pid}/task/{tid}"), kind, kind.name())
    }

    fn proc(process: &str, kind: Namespace, file: &str) -> Result<Self> {
        let path = format!("/proc/{process}/ns/{file}");
        let file = open(Path::new(&path)).map_err(|e| {
            let error = Error::io(&e, format!("open {path}"));
            match e.raw_os_error() {
                Some(libc::ENOENT) if !Path::new("/proc/self/ns").exists() => {
                    error.kind_is(ErrorKind::NoProc)
                }
                Some(libc::ENOENT) if kind.available().is_ok_and(|available| !available) => {
                    error.kind_is(ErrorKind::Unsupported)
                }
                Some(libc::ENOENT | libc::ESRCH) => error.kind_is(ErrorKind::Gone),
                Some(libc::EACCES | libc::EPERM) => error.hint_is(NEEDS_PTRACE),
                _ => error,
            }
        })?;
        Self::of_kind(file.into(), kind, &path)
    }

    /// That of the process of a pidfd, whatever happens to its number meanwhile.
    ///
    /// Asks the pidfd itself (Linux 6.11), or else `/proc` with the number that the pidfd has before and after.
    ///
    /// # Errors
    /// [`ErrorKind::Gone`] if the process has ended; else as for [`AnyNs::of_process`].
    pub fn of_pidfd(pidfd: impl AsFd, kind: Namespace) -> Result<Self> {
        let pidfd = pidfd.as_fd();
        if !sys::is_pidfs(pidfd).map_err(|e| Error::io(&e, "looking at a pidfd"))? {
            return Self::of_pidfd_by_proc(pidfd, pid_of(pidfd)?, kind);
        }
        match sys::pidfd_namespace(pidfd, PIDFD_REQUEST[kind as usize]) {
            Ok(fd) => Self::of_kind(fd, kind, "the namespace of a pidfd"),
            Err(e) => match e.raw_os_error() {
                Some(libc::ENOTTY) => Self::of_pidfd_by_proc(pidfd, pid_of(pidfd)?, kind),
                errno => {
                    let error = Error::io(&e, format!("{kind} namespace of the process of a pidfd"));
                    Err(match errno {
                        Some(libc::EOPNOTSUPP) => error.kind_is(ErrorKind::Unsupported),
                        Some(libc::EPERM | libc::EACCES) => error.hint_is(NEEDS_PTRACE),
                        _ => error,
                    })
                }
            },
        }
    }

    fn of_pidfd_by_proc(pidfd: BorrowedFd<'_>, pid: u32, kind: Namespace) -> Result<Self> {
        let namespace = Self::of_process(pid, kind)?;
        // While the pidfd still has the number, nobody else got it: what was opened is of this process.
        pid_of(pidfd)?;
        Ok(namespace)
    }

    /// The one that is bound on `path`, or a link of `/proc/PID/ns`.
    ///
    /// # Errors
    /// [`ErrorKind::NotANamespace`] if it is another file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = open(path).map_err(|e| Error::io(&e, format!("open {}", path.display())))?;
        Self::new(file.into(), &path.display().to_string())
    }

    /// That of a descriptor.
    ///
    /// # Errors
    /// [`ErrorKind::NotANamespace`] if it is of another file.
    pub fn from_fd(fd: OwnedFd) -> Result<Self> {
        Self::new(fd, "the descriptor")
    }

    fn new(fd: OwnedFd, name: &str) -> Result<Self> {
        let failed = |e: io::Error| Error::io(&e, format!("{name}: looking at the namespace"));
        if !sys::is_nsfs(fd.as_fd()).map_err(failed)? {
            return Err(Error::new(ErrorKind::NotANamespace, format!("{name} is not a namespace")));
        }
        let flag = sys::ns_type(fd.as_fd()).map_err(failed)?;
        let unknown =
            || Error::new(ErrorKind::Unsupported, format!("{name} is of the unknown kind {flag:#x}"));
        let kind = Namespace::of_flag(flag).ok_or_else(unknown)?;
        let file = File::from(fd);
        let stat = file.metadata().map_err(failed)?;
        Ok(Self { fd: Arc::new(file.into()), kind, id: NsId { dev: stat.dev(), ino: stat.ino() } })
    }

    fn of_kind(fd: OwnedFd, kind: Namespace, name: &str) -> Result<Self> {
        let namespace = Self::new(fd, name)?;
        if namespace.kind == kind {
            return Ok(namespace);
        }
        let what = format!("{name} is a {} namespace, not a {kind} namespace", namespace.kind);
        Err(Error::new(ErrorKind::WrongKind, what))
    }

    /// Its kind.
    pub fn kind(&self) -> Namespace {
        self.kind
    }

    /// Its identity.
    pub fn id(&self) -> NsId {
        self.id
    }

    /// The user namespace that owns it: capabilities in that one give power over this one. `None` where that is
    /// outside the caller's view: not the caller's own user namespace nor one below it. For a user namespace, its
    /// parent. Since Linux 4.9. [ioctl_nsfs(2)](https://man7.org/linux/man-pages/man2/ioctl_nsfs.2.html)
    ///
    /// # Errors
    /// None is known.
    #[doc(alias = "NS_GET_USERNS")]
    pub fn owner(&self) -> Result<Option<Ns<kind::User>>> {
        self.relative(sys::nsfs::USERNS, Namespace::User).map(|found| found.map(Ns::wrap))
    }

    fn relative(&self, request: libc::Ioctl, kind: Namespace) -> Result<Option<Self>> {
        match sys::ns_relative(self.as_fd(), request) {
            Ok(fd) => Self::of_kind(fd, kind, "a relative of the namespace").map(Some),
            Err(e) if e.raw_os_error() == Some(libc::EPERM) => Ok(None),
            Err(e) => Err(Error::io(&e, format!("asking {self} for its relatives"))),
        }
    }

    pub(crate) fn parent(&self) -> Result<Option<Self>> {
        self.relative(sys::nsfs::PARENT, self.kind)
    }

    pub(crate) fn shared_fd(&self) -> Arc<OwnedFd> {
        self.fd.clone()
    }
}

fn open(path: &Path) -> io::Result<File> {
    // Namespaces ignore both flags. What else the path may name neither blocks nor becomes our terminal.
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
}

/// The number of the process of a pidfd.
fn pid_of(pidfd: BorrowedFd<'_>) -> Result<u32> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let info =
        std::fs::read(&path).map_err(|e| Error::io(&e, format!("read {path}")).kind_is(ErrorKind::NoProc))?;
    let line = info.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(b"Pid:"));
    let pid = line.and_then(|pid| std::str::from_utf8(pid).ok()).map(|pid| pid.trim().parse::<i64>());
    match pid {
        Some(Ok(pid @ 1..)) => Ok(pid as u32),
        Some(Ok(0)) => Err(Error::new(
            ErrorKind::NoProc,
            "the process of the pidfd is not in the caller's pid namespace",
        )),
        Some(Ok(_)) => Err(Error::new(ErrorKind::Gone, "the process of the pidfd has ended")),
        _ => Err(Error::new(ErrorKind::InvalidValue, "the descriptor is not a pidfd")),
    }
}

impl AsFd for AnyNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl PartialEq for AnyNs {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for AnyNs {}

impl Hash for AnyNs {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl fmt::Display for AnyNs {
    /// As the links of `/proc/PID/ns` read: `net:[4026531840]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:[{}]", self.kind, self.id.ino)
    }
}

impl fmt::Debug for AnyNs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AnyNs({self})")
    }
}

/// A handle of a namespace of kind `K`: `Ns<kind::Net>`. It keeps the namespace alive; clones share the descriptor;
/// equal are handles of the same namespace.
///
/// ```
/// use palisade_ns::{Ns, kind};
///
/// let net = Ns::<kind::Net>::current()?;
/// assert_eq!(net, Ns::of_process(std::process::id())?);
/// println!("{net}, owned by {:?}", net.owner()?); // net:[4026531840], owned by …
/// # Ok::<(), palisade_ns::Error>(())
/// ```
///
/// What another kind has not got does not compile: only user and pid namespaces have parents, only user namespaces uids.
///
/// ```compile_fail
/// # use palisade_ns::{Ns, kind};
/// Ns::<kind::Net>::current().unwrap().parent();
/// ```
/// ```compile_fail
/// # use palisade_ns::{Ns, kind};
/// let user: Ns<kind::User> = Ns::<kind::Net>::current().unwrap();
/// ```
pub struct Ns<K> {
    any: AnyNs,
    kind: PhantomData<fn() -> K>,
}

impl<K: Kind> Ns<K> {
    fn wrap(any: AnyNs) -> Self {
        Self { any, kind: PhantomData }
    }

    /// [`AnyNs::current`] of this kind.
    ///
    /// # Errors
    /// As there.
    pub fn current() -> Result<Self> {
        AnyNs::current(K::NAMESPACE).map(Self::wrap)
    }

    /// [`AnyNs::for_children`] of this kind.
    ///
    /// # Errors
    /// As there.
    pub fn for_children() -> Result<Self> {
        AnyNs::for_children(K::NAMESPACE).map(Self::wrap)
    }

    /// [`AnyNs::of_process`] of this kind.
    ///
    /// # Errors
    /// As there.
    pub fn of_process(pid: u32) -> Result<Self> {
        AnyNs::of_process(pid, K::NAMESPACE).map(Self::wrap)
    }

    /// [`AnyNs::of_thread`] of this kind.
    ///
    /// # Errors
    /// As there.
    pub fn of_thread(pid: u32, tid: u32) -> Result<Self> {
        AnyNs::of_thread(pid, tid, K::NAMESPACE).map(Self::wrap)
    }

    /// [`AnyNs::of_pidfd`] of this kind.
    ///
    /// # Errors
    /// As there.
    pub fn of_pidfd(pidfd: impl AsFd) -> Result<Self> {
        AnyNs::of_pidfd(pidfd, K::NAMESPACE).map(Self::wrap)
    }

    /// [`AnyNs::open`], of this kind only.
    ///
    /// # Errors
    /// As there; [`ErrorKind::WrongKind`] if it is a namespace of another kind.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        AnyNs::open(path)?.try_into()
    }

    /// [`AnyNs::from_fd`], of this kind only.
    ///
    /// # Errors
    /// As there; [`ErrorKind::WrongKind`] if it is a namespace of another kind.
    pub fn from_fd(fd: OwnedFd) -> Result<Self> {
        AnyNs::from_fd(fd)?.try_into()
    }

    /// Its identity.
    pub fn id(&self) -> NsId {
        self.any.id
    }

    /// [`AnyNs::owner`].
    ///
    /// # Errors
    /// As there.
    pub fn owner(&self) -> Result<Option<Ns<kind::User>>> {
        self.any.owner()
    }

    /// Brings the calling thread into it: [`Join`] with this namespace alone, and with its rules.
    ///
    /// # Errors
    /// As for [`PreparedJoin::run_in_thread`](crate::PreparedJoin::run_in_thread).
    #[doc(alias = "setns")]
    pub fn join_in_thread(&self) -> Result<()> {
        Join::new().namespace(self).prepare()?.run_in_thread()
    }

    /// The same without the kind in its type.
    pub fn as_any(&self) -> &AnyNs {
        &self.any
    }
}

impl<K: Hierarchical> Ns<K> {
    /// The namespace in which it was made; `None` for the first one, and where the parent is outside the caller's
    /// view. Since Linux 4.9.
    ///
    /// # Errors
    /// None is known.
    #[doc(alias = "NS_GET_PARENT")]
    pub fn parent(&self) -> Result<Option<Self>> {
        Ok(self.any.parent()?.map(Self::wrap))
    }
}

impl<K: Kind> TryFrom<AnyNs> for Ns<K> {
    type Error = Error;

    fn try_from(any: AnyNs) -> Result<Self> {
        if any.kind == K::NAMESPACE {
            return Ok(Self::wrap(any));
        }
        Err(Error::new(ErrorKind::WrongKind, format!("{any} is not a {} namespace", K::NAMESPACE)))
    }
}

impl<K> From<Ns<K>> for AnyNs {
    fn from(namespace: Ns<K>) -> Self {
        namespace.any
    }
}

impl<K> From<&Ns<K>> for AnyNs {
    fn from(namespace: &Ns<K>) -> Self {
        namespace.any.clone()
    }
}

impl From<&Self> for AnyNs {
    fn from(namespace: &Self) -> Self {
        namespace.clone()
    }
}

// Derived ones would ask the marker types for the same.
impl<K> Clone for Ns<K> {
    fn clone(&self) -> Self {
        Self { any: self.any.clone(), kind: PhantomData }
    }
}

impl<K> AsFd for Ns<K> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.any.as_fd()
    }
}

impl<K> PartialEq for Ns<K> {
    fn eq(&self, other: &Self) -> bool {
        self.any == other.any
    }
}

impl<K> Eq for Ns<K> {}

impl<K> Hash for Ns<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.any.hash(state);
    }
}

impl<K> fmt::Display for Ns<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.any.fmt(f)
    }
}

impl<K> fmt::Debug for Ns<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ns({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The way of kernels before 6.11 finds the same.
    #[test]
    fn a_pidfd_by_proc() {
        let pidfd = crate::pidfd_open(std::process::id()).unwrap();
        let pid = pid_of(pidfd.as_fd()).unwrap();
        assert_eq!(pid, std::process::id());
        for kind in Namespace::ALL {
            let namespace = AnyNs::of_pidfd_by_proc(pidfd.as_fd(), pid, kind).unwrap();
            assert_eq!(namespace, AnyNs::current(kind).unwrap());
        }
    }

    /// A number that went to another process is noticed: the pidfd's own has ended.
    #[test]
    fn a_pidfd_by_proc_of_an_ended_process() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pidfd = crate::pidfd_open(child.id()).unwrap();
        child.wait().unwrap();
        let reused = std::process::id();
        let error = AnyNs::of_pidfd_by_proc(pidfd.as_fd(), reused, Namespace::Net).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Gone);
    }
}
