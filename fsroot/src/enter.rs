//! Entering a root: `chroot`, `pivot_root`, or a whole prepared view.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use nix::unistd::{getegid, geteuid};
use palisade_sys::{Arg, Fd, OpenHow, Program, Step};

use crate::error::{Error, ErrorKind, Result};
use crate::plan::relative;
use crate::prepare::PreparedRoot;
use crate::source::{Source, c_path};

/// A directory as the new `/` of one process, nothing mounted in it. [`Root`](crate::Root) is the way to a confined
/// process; this is the system call by itself, for study and for programs that know what they want.
#[derive(Clone, Debug)]
pub struct Enter {
    dir: PathBuf,
    way: Way,
}

#[derive(Clone, Debug)]
enum Way {
    Chroot,
    Pivot { put_old: Option<PathBuf> },
}

impl Enter {
    /// `chroot(2)`: **no boundary**. It changes where paths begin and nothing else: a process with `CAP_SYS_CHROOT`
    /// walks out by a second `chroot`, and open directories lead out as ever.
    ///
    /// Needs `CAP_SYS_CHROOT`. See [chroot(2)](https://man7.org/linux/man-pages/man2/chroot.2.html).
    pub fn chroot(dir: impl AsRef<Path>) -> Self {
        Self { dir: dir.as_ref().to_owned(), way: Way::Chroot }
    }

    /// `pivot_root(2)`: the directory becomes the root mount of the mount namespace, and the old root is detached.
    ///
    /// Needs a mount namespace of its own and `CAP_SYS_ADMIN` over it.
    /// See [pivot_root(2)](https://man7.org/linux/man-pages/man2/pivot_root.2.html).
    pub fn pivot_root(dir: impl AsRef<Path>) -> Self {
        Self { dir: dir.as_ref().to_owned(), way: Way::Pivot { put_old: None } }
    }

    /// Keeps the old root, with everything in it, at an existing directory of the new one: for study, since it lays
    /// the host open. No effect on [`Enter::chroot`], which leaves the old root where it is.
    pub fn put_old(mut self, path: impl AsRef<Path>) -> Self {
        if let Way::Pivot { put_old } = &mut self.way {
            *put_old = Some(path.as_ref().to_owned());
        }
        self
    }

    /// Finds the directories, and those causes of `pivot_root`'s `EINVAL` that can be seen from here.
    ///
    /// # Errors
    /// A path that is no directory; a root that cannot be pivoted: a chroot, the initial ramfs.
    pub fn prepare(&self) -> Result<PreparedEnter> {
        let source = Source::find(&self.dir)?.need_dir("a root")?;
        let put_old = match &self.way {
            Way::Pivot { put_old: Some(path) } => {
                Source::find(&self.dir.join(relative(path)?))?.need_dir("the place of the old root")?;
                Some(c_path(&relative(path)?)?)
            }
            _ => None,
        };
        let pivot = matches!(self.way, Way::Pivot { .. });
        if pivot {
            // Without a table nothing can be seen, and the call itself will say.
            if let Some(cause) = mount_table()?.and_then(|table| obstacle_in(&table)) {
                return Err(Error::new(ErrorKind::Unsupported, cause).at("/"));
            }
        }
        Ok(PreparedEnter { source, pivot, put_old })
    }
}

/// A root to enter, found and identified.
#[derive(Clone, Debug)]
pub struct PreparedEnter {
    source: Source,
    pivot: bool,
    put_old: Option<CString>,
}

impl PreparedEnter {
    /// The system calls, for the process that is to enter: its working directory is the new `/` afterwards.
    ///
    /// In `std::process::Command::pre_exec` it has to be preceded by `unshare(CLONE_NEWNS)` for `pivot_root`.
    pub fn program(&self) -> Program {
        let mut p = Program::new();
        let object = self.source.path.to_string_lossy();
        if self.pivot {
            p.at(Step::Propagation, "/");
            p.mount_propagation(c"/", libc::MS_REC | libc::MS_PRIVATE);
            p.at(Step::PivotRoot, object);
            // A copy of the mount: the directory need not be a mount point, and is one only for us.
            let root = p.open_tree(&self.source.path, true);
            p.same_inode(root, self.source.identity);
            p.move_mount_to(root, c"/");
            p.fchdir(root);
            match &self.put_old {
                Some(place) => p.pivot_root(c".", place),
                None => {
                    p.pivot_root(c".", c".");
                    p.umount2(c".", libc::MNT_DETACH);
                }
            }
            p.chdir(c"/");
            p.close(root);
        } else {
            p.at(Step::PivotRoot, object);
            let how = OpenHow {
                flags: libc::O_PATH | libc::O_DIRECTORY,
                mode: 0,
                resolve: libc::RESOLVE_NO_MAGICLINKS,
            };
            let root = p.openat2(Fd::CWD, &self.source.path, how);
            p.same_inode(root, self.source.identity);
            p.fchdir(root);
            p.chroot(c".");
            p.chdir(c"/");
            p.close(root);
        }
        p
    }
}

impl PreparedRoot {
    /// Everything for a process that has no namespaces of its own yet, masks included: what
    /// `std::process::Command::pre_exec` needs.
    ///
    /// Root gets a new mount namespace, another caller a new user namespace too, in which it keeps its ids. The pid
    /// namespace stays the caller's, so `/proc` shows the host's processes to root, and is `EPERM` for others: their
    /// view needs [`HostView::proc`](crate::HostView::proc)`(None)`. That, and capabilities, are what `palisade` has more.
    pub fn enter_program(&self) -> Program {
        let mut p = Program::new();
        p.at(Step::Clone, "mount namespace");
        let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
        if uid == 0 {
            p.unshare(libc::CLONE_NEWNS);
        } else {
            p.unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS);
            p.at(Step::IdMaps, "/proc/self");
            for (path, text) in [
                (c"/proc/self/setgroups", "deny".to_owned()),
                (c"/proc/self/gid_map", format!("{gid} {gid} 1")),
                (c"/proc/self/uid_map", format!("{uid} {uid} 1")),
            ] {
                let how = OpenHow { flags: libc::O_WRONLY, ..OpenHow::default() };
                let file = p.openat2(Fd::CWD, path, how);
                p.write_all(file, text.as_bytes());
                p.close(file);
            }
        }
        p.at(Step::Baseline, "umask");
        let umask = p.umask(Arg::from(0));
        p.append(&self.program());
        p.append(&self.masks());
        p.at(Step::Baseline, "umask");
        p.umask(umask);
        p
    }
}

/// This process's mount table; none without a `/proc`.
fn mount_table() -> Result<Option<Vec<u8>>> {
    match std::fs::read("/proc/self/mountinfo") {
        Ok(table) => Ok(Some(table)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(&error, "the mount table can't be read").at("/proc/self/mountinfo")),
    }
}

/// Why `pivot_root` cannot work in a mount namespace with this table, if that can be seen there.
fn obstacle_in(table: &[u8]) -> Option<&'static str> {
    let mut lines = table.split(|&byte| byte == b'\n');
    let Some(root) = lines.rfind(|line| line.split(|&b| b == b' ').nth(4) == Some(b"/")) else {
        return Some(NO_MOUNT);
    };
    let mut after = root.split(|&b| b == b' ').skip_while(|&field| field != b"-").skip(1);
    (after.next() == Some(b"rootfs"))
        .then_some("the root is the kernel's initial ramfs, which can't be moved: boot from a root file system, or mount one and switch to it")
}

/// What an errno of a failed call means, as far as it is known: the hint that errors of this crate end with.
pub(crate) fn hint(call: &str, step: Step, errno: i32) -> Option<&'static str> {
    let name = call.split('(').next().unwrap_or(call);
    let new_api = ["open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "mount_setattr", "openat2"];
    Some(match (name, errno) {
        (name, libc::ENOSYS) if new_api.contains(&name) => {
            "this needs Linux 5.12, or a seccomp filter hides it: engines' default filters do for processes without CAP_SYS_ADMIN"
        }
        ("identity check", libc::ESTALE) if step == Step::Masks => {
            "/dev/null of this view is not the null device"
        }
        ("identity check", libc::ESTALE) => "another file stands there now than when the root was prepared",
        ("pivot_root", libc::EINVAL) => EXPLAIN_PIVOT,
        ("mount", libc::EINVAL) => NO_MOUNT,
        ("pivot_root", libc::EBUSY) => "the new root is the current one",
        ("open_tree", libc::EINVAL) => {
            "mounts lie below the source that this user namespace must not uncover: bind it recursively; or the mount is unbindable, or of another mount namespace"
        }
        ("openat2", libc::ELOOP) => "a symbolic link stands there: name the place that it leads to",
        ("openat2", libc::EXDEV) => {
            "the target leads out of the mount that it is in: by a symbolic link, or into a mount below the source"
        }
        ("openat2" | "mkdirat" | "mknodat", libc::ENOENT) if step == Step::Masks => {
            "masked files are covered by the view's /dev/null: add a Dev"
        }
        ("openat2" | "mkdirat" | "mknodat", libc::ENOENT) => {
            "the mount point does not exist: make it in the root's directory, or put that under an overlay"
        }
        ("move_mount", libc::EINVAL | libc::ENOTDIR) => {
            "a directory can't be mounted on a file, nor a file on a directory; or the process is in another mount namespace than its root"
        }
        ("fsmount" | "fsconfig", libc::EPERM) => {
            "a fresh proc or sysfs needs a pid or network namespace of the same user namespace, and one of its kind mounted already that is not masked: inside most containers there is none"
        }
        ("fsopen", libc::ENODEV) => "the kernel has no such file system",
        ("fsopen" | "open_tree" | "mount_setattr" | "mount", libc::EPERM) => {
            "CAP_SYS_ADMIN is needed in the user namespace that owns the mount namespace; a flag that this namespace inherited can't be taken off"
        }
        ("mount_setattr", libc::EINVAL) => {
            "the file system of the source can't be id-mapped by this kernel, or is already"
        }
        ("fsconfig", libc::EINVAL) => {
            "the kernel refused an option: a layer twice, upper and work on different file systems, or an older kernel"
        }
        ("write", libc::ENOSPC) | ("move_mount", libc::ENOSPC) => {
            "a limit is reached: of the file system, or of mounts in one namespace (/proc/sys/fs/mount-max)"
        }
        _ => return None,
    })
}

const NO_MOUNT: &str =
    "the root of this process is no mount point: it is in a chroot, and pivot_root needs a mount";

/// What is left of the causes below where the mount table shows that the current root is a mount that can be moved.
const SHARED: &str = "the current root can be moved, so the mount above it, or the new root, is shared: somebody made it \
                      so after this program made them private";

/// The causes of `pivot_root`'s `EINVAL` that are left when a root is built by this crate; the other two, a new root
/// that is no mount and a place for the old root outside of the new one, it rules out.
const EXPLAIN_PIVOT: &str = "one of: the current root is no mount point (a chroot); it is the initial ramfs; \
                             the mount above the current root, or the new root, is shared";

impl PreparedRoot {
    /// A fault of one of this root's programs as an error with its cause, where one is known.
    ///
    /// For `EINVAL` of `pivot_root` and of the propagation before it the mount table of the calling process says which of
    /// its causes it is: that process mostly is the child's parent, whose root the child has too.
    pub fn explain(&self, program: &Program, fault: palisade_sys::Fault) -> Error {
        explain(program, fault)
    }
}

impl PreparedEnter {
    /// A fault of the program as an error with its cause, where one is known.
    pub fn explain(&self, program: &Program, fault: palisade_sys::Fault) -> Error {
        explain(program, fault)
    }
}

fn explain(program: &Program, fault: palisade_sys::Fault) -> Error {
    let words = program.explain(fault);
    let mut cause = hint(&words.call, words.step, words.errno);
    let pivot = words.call.starts_with("pivot_root(");
    if words.errno == libc::EINVAL && (pivot || words.call.starts_with("mount(")) {
        if let Ok(Some(table)) = mount_table() {
            // What the table excludes leaves one cause of pivot_root's.
            cause = obstacle_in(&table).or(if pivot { Some(SHARED) } else { cause });
        }
    }
    let error = Error::os(words.errno, format!("{}: {}", words.step, words.call)).hint(cause);
    match words.object {
        Some(object) => error.at(object),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::obstacle_in;

    #[test]
    fn obstacles_of_pivot_root_are_seen_in_the_mount_table() {
        let ext4 =
            b"27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n22 27 0:21 / /proc rw - proc proc rw\n";
        assert_eq!(obstacle_in(ext4), None);
        let initramfs = b"1 1 0:2 / / rw - rootfs rootfs rw\n";
        assert!(obstacle_in(initramfs).is_some_and(|cause| cause.contains("initial ramfs")));
        // A file system mounted over the initial one can be moved.
        let switched = [&initramfs[..], ext4].concat();
        assert_eq!(obstacle_in(&switched), None);
        assert!(obstacle_in(b"22 27 0:21 / /proc rw - proc proc rw\n").is_some_and(|c| c.contains("chroot")));
        assert!(obstacle_in(b"").is_some());
        assert!(obstacle_in(b"- - -\n \n27 1 254:0 / /").is_none());
    }
}
