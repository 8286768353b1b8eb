//! Namespaces that outlive their members: bound to a path.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::handle::{AnyNs, Ns};
use crate::namespace::Namespace;
use crate::sys;

impl AnyNs {
    /// Makes the empty file `path` and mounts the namespace on it, as `ip netns add` does below `/run/netns`: it lives
    /// until [`unpersist`], and [`AnyNs::open`] finds it. A pid namespace stays, but is of no use after its init ended.
    ///
    /// The mount is one of the caller's mount namespace; where the mount below `path` is shared, its peers get it too.
    /// A mount namespace can only be mounted in one that is older than itself, and not on a shared mount.
    /// Needs `CAP_SYS_ADMIN` in the user namespace that owns the caller's mount namespace. Since Linux 5.2.
    ///
    /// # Errors
    /// [`ErrorKind::System`] with `EEXIST` if there is such a file, with `ELOOP` or `EINVAL` for a mount namespace as above;
    /// [`ErrorKind::Permission`]. The file is removed again.
    pub fn persist(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let failed = |e: &std::io::Error, what: &str| Error::io(e, format!("{what} {}", path.display()));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(path);
        let file = file.map_err(|e| failed(&e, "create"))?;
        sys::bind(self.as_fd(), file.as_fd()).map_err(|e| {
            let mut error = failed(&e, &format!("mount {self} on"));
            if self.kind() == Namespace::Mount && matches!(e.raw_os_error(), Some(libc::ELOOP | libc::EINVAL))
            {
                error = error.hint_is("a mount namespace is mounted in an older one, on a private mount");
            }
            match std::fs::remove_file(path) {
                Ok(()) => error,
                Err(left) => failed(&left, &format!("{error}; then remove")),
            }
        })
    }
}

impl<K> Ns<K> {
    /// [`AnyNs::persist`].
    ///
    /// # Errors
    /// As there.
    pub fn persist(&self, path: impl AsRef<Path>) -> Result<()> {
        AnyNs::from(self).persist(path)
    }
}

/// Undoes [`AnyNs::persist`]: detaches the namespace that is mounted on `path`, which ends if nobody else uses it, and
/// removes the file.
///
/// # Errors
/// [`ErrorKind::NotANamespace`] if no namespace is mounted there: nothing is changed then. [`ErrorKind::Permission`].
/// [`ErrorKind::System`] with `EBUSY` if another mount was below the namespace's: that and the file stay.
pub fn unpersist(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let failed = |e: &std::io::Error, what: &str| Error::io(e, format!("{what} {}", path.display()));
    if !is_namespace(path).map_err(|e| failed(&e, "open"))? {
        let what = format!("no namespace is mounted on {}", path.display());
        return Err(Error::new(ErrorKind::NotANamespace, what));
    }
    let c_path = CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Error::new(ErrorKind::InvalidValue, format!("path {path:?} has a NUL byte")))?;
    sys::detach(&c_path).map_err(|e| failed(&e, "umount"))?;
    std::fs::remove_file(path).map_err(|e| failed(&e, "remove"))
}

fn is_namespace(path: &Path) -> std::io::Result<bool> {
    let file: File =
        OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path)?;
    sys::is_nsfs(file.as_fd())
}
