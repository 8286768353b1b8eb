//! The mount table of a view, compared with what was asked.

use std::fs::File;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;
use palisade_fsroot::{MountFlags, Placed};
use palisade_procinfo::{Mount, Mounts, Process};

use super::answer::{Answer, Unread};
use super::ask::View;

/// The attributes that restrict. (The others, on access times, have several spellings.)
const RESTRICTING: &[MountFlags] = &[
    MountFlags::READ_ONLY,
    MountFlags::NOSUID,
    MountFlags::NODEV,
    MountFlags::NOEXEC,
    MountFlags::NOSYMFOLLOW,
];

/// What is not as asked, if anything: a mount that is missing, that was not asked for, or that allows more.
pub(super) fn difference(view: &View, mounts: &Mounts, process: &Process) -> Option<String> {
    let mut points: Vec<(&Path, &Placed)> = Vec::with_capacity(view.placed.len());
    for (n, placed) in view.placed.iter().enumerate() {
        if view.placed[n + 1..].iter().any(|later| later.path == placed.path) {
            continue; // covered
        }
        // Where a directory of the root became a link since it was prepared, the way there leads elsewhere inside.
        let found = match mounts.at(&placed.path) {
            Some(mount) => Some(mount),
            None => behind_links(process, &placed.path).and_then(|id| mounts.by_id(id)),
        };
        let Some(mount) = found else {
            return Some(format!("nothing is mounted on {}", placed.path.display()));
        };
        if let Some(kind) = placed.filesystem {
            if mount.fs_type != kind {
                return Some(format!("{} on {}", mount.fs_type.to_string_lossy(), placed.path.display()));
            }
        }
        points.push((&mount.mount_point, placed));
    }
    mounts.iter().find_map(|mount| {
        let nearest = points
            .iter()
            .filter(|(point, _)| mount.mount_point.starts_with(point))
            .max_by_key(|(point, _)| point.as_os_str().len());
        let Some((point, placed)) = nearest else {
            return Some(format!("{} is mounted outside of the root", mount.mount_point.display()));
        };
        let path = &mount.mount_point;
        let masked = view.masked.iter().any(|masked| path.starts_with(masked));
        let below = path != point;
        if below && !placed.recursive && !placed.follows && !masked {
            return Some(format!("{} was not asked for", path.display()));
        }
        // One that is covered can't be reached; what comes along from the host is the host's.
        let covered = mounts.at(path).is_some_and(|top| top.id != mount.id);
        if covered || (below && placed.follows) {
            return None;
        }
        if !placed.follows && !mount.propagation.is_private() {
            return Some(format!("{} is not private", path.display()));
        }
        let missing = if masked { None } else { lacks(mount, placed.flags) };
        missing.map(|flag| format!("{} is not {flag}", path.display()))
    })
}

/// A path that is there and should be hidden or read-only, if any.
pub(super) fn unmasked(view: &View, mounts: &Mounts, process: &Process) -> Answer {
    let mut root = None;
    for path in &view.masked {
        if let Some(mount) = mounts.at(path) {
            if lacks(mount, MountFlags::READ_ONLY).is_some() {
                return Ok(Some(format!("{} can be written to", path.display())));
            }
            continue;
        }
        let root = match &root {
            Some(root) => root,
            None => {
                let opened = open_root(process);
                root.insert(opened.map_err(|errno| Unread::call("open /proc/PID/root", Some(errno as i32)))?)
            }
        };
        let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(
            ResolveFlag::RESOLVE_IN_ROOT
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_MAGICLINKS,
        );
        match openat2(root, path, how) {
            Ok(_) => return Ok(Some(format!("{} is as it was", path.display()))),
            // Nothing is there, or behind a link, or nothing that this user could reach.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EACCES | Errno::EPERM) => {}
            Err(errno) => {
                return Err(Unread::Failed(format!("openat2({}): {}", path.display(), errno.desc())));
            }
        }
    }
    Ok(None)
}

fn lacks(mount: &Mount, wanted: MountFlags) -> Option<MountFlags> {
    let has = |flag: MountFlags| mount.has_option(&flag.to_string());
    RESTRICTING.iter().copied().find(|&flag| wanted.contains(flag) && !has(flag))
}

/// The id of the mount that a path of the process's root leads to, through links.
fn behind_links(process: &Process, path: &Path) -> Option<u64> {
    let root = open_root(process).ok()?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let place = openat2(&root, path, how).ok()?;
    let parent = openat2(&root, path.parent()?, how).ok()?;
    let (id, above) = (mount_id(&place)?, mount_id(&parent)?);
    (id != above).then_some(id)
}

fn mount_id(file: &impl std::os::fd::AsRawFd) -> Option<u64> {
    let text = std::fs::read(format!("/proc/thread-self/fdinfo/{}", file.as_raw_fd())).ok()?;
    palisade_procinfo::FdInfo::parse(&text).ok()?.mount_id
}

fn open_root(process: &Process) -> nix::Result<File> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    nix::fcntl::openat(process.as_dir(), "root", flags, Mode::empty()).map(File::from)
}
