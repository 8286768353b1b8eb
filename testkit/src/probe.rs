//! What this machine and this user can do.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::{child, sys};

/// Whether the effective uid is 0.
#[must_use]
pub fn is_root() -> bool {
    sys::geteuid() == 0
}

/// Whether this process may make a user namespace. Tried in a child, nothing stays.
#[must_use]
pub fn can_unshare_user() -> bool {
    child::try_in_child(|| {
        if sys::unshare_user().is_err() {
            std::process::exit(1);
        }
    })
    .status
    .success()
}

/// A cgroup v2 directory in which this test may make (and must remove) children of its own, if there is one.
///
/// It has no process of its own. Controllers in it are enabled for its children; a test that needs some reads
/// its `cgroup.subtree_control`.
#[must_use]
pub fn cgroup_dir() -> Option<PathBuf> {
    std::env::var_os("PALISADE_TEST_CGROUP").filter(|dir| !dir.is_empty()).map(PathBuf::from)
}

/// A temporary directory, mode 755 so that a child with other ids can enter it. Removed on drop.
///
/// # Panics
///
/// If it cannot be made.
#[must_use]
#[track_caller]
pub fn temp_dir() -> TempDir {
    match tempfile::Builder::new().prefix("palisade-").permissions(Permissions::from_mode(0o755)).tempdir() {
        Ok(dir) => dir,
        Err(error) => panic!("no temporary directory: {error}"),
    }
}
