//! Where a Pod's volumes are to be, and setting them up.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, fchmod, mkdirat};
use palisade_creds::{Capability, Gid, Maps, PreparedMaps};
use palisade_sys::{FD_PASSED, Fd, Step};

use super::directory::{above, exchanged_by, inode_of, is_closed, open};
use super::model::{Volume, VolumeSource};
use super::ownership::{Ownership, failed, find, stat};
use super::place::{Place, PodVolumes};
use crate::caller::Caller;
use crate::error::{Error, Result};
use crate::k8s::PodSecurity;
use crate::newborn::run_mapped;

/// What stands for the volumes of a Pod on this node.
///
/// | volume | what it is here |
/// | --- | --- |
/// | `emptyDir` | a new directory in [`empty_dirs_in`](Self::empty_dirs_in) |
/// | `emptyDir` of medium `Memory` | a file system in memory, of `sizeLimit` or 64 MiB, in the one container that mounts it |
/// | `hostPath` | the path, if [`dangerously_allow_host_path`](Self::dangerously_allow_host_path) says so |
/// | any other: `persistentVolumeClaim`, `configMap`, `secret`, `csi` … | the directory that [`directory`](Self::directory) gives |
///
/// # Who owns what
/// Called with privileges, owners on disk are ids of the containers (id-mapped mounts): what user 1000 of a container
/// writes is 1000's, as on a node with user namespaces, and `fsGroup` is the group of that number on disk. So a
/// container's root can make a set-user-ID program of root's. (An ordinary caller's container makes one of the
/// caller's.) The directory of a volume that is written to, or given to `fsGroup`, must be out of others' reach: below one
/// that only its owner may enter (mode 700, without an access list).
///
/// # The way to it
/// The path of a directory has no link in it. It is opened once; what is mounted is that very directory, or nothing. With
/// privileges each directory above is root's or the caller's, and nobody else may write to it: in one like `/tmp`, whose
/// sticky bit keeps others' entries, the next is root's or the caller's.
///
/// For an ordinary caller ids are the host's: `fsGroup` is what the caller's delegated range makes of it. The root of an
/// `emptyDir` is given to any group of that range; other directories to groups that the caller is a member of.
#[derive(Clone, Debug, Default)]
#[must_use = "nothing is set up until `set_up`"]
pub struct Volumes {
    empty: Option<PathBuf>,
    directories: BTreeMap<String, PathBuf>,
    host: Vec<PathBuf>,
}

impl Volumes {
    /// Nothing stands for anything: enough for a Pod whose volumes are in memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// A directory of this Pod's alone, in which each `emptyDir` gets a directory of its name. What is there already is
    /// used, so that a Pod whose containers are started again finds its files; it is for the caller to remove it with the
    /// Pod.
    pub fn empty_dirs_in(mut self, directory: impl AsRef<Path>) -> Self {
        self.empty = Some(directory.as_ref().to_owned());
        self
    }

    /// The directory that stands for a volume, whatever its kind (but `hostPath`). Containers write to that of an
    /// `emptyDir`, and of a claim or other storage that is not `readOnly`; never to a `configMap`, `secret`,
    /// `downwardAPI`, `projected` or `image` volume.
    ///
    /// The path is canonical: a link on the way is an error of [`set_up`](Self::set_up), which names where it leads.
    pub fn directory(mut self, volume: impl Into<String>, directory: impl AsRef<Path>) -> Self {
        self.directories.insert(volume.into(), directory.as_ref().to_owned());
        self
    }

    /// Lets `hostPath` volumes show this path of the node and what is below it, found without leaving it. A container
    /// that may write there changes the node.
    #[doc(alias = "hostPath")]
    pub fn dangerously_allow_host_path(mut self, path: impl AsRef<Path>) -> Self {
        self.host.push(path.as_ref().to_owned());
        self
    }

    /// Sets up the volumes that containers of the Pod mount, and gives them to its `fsGroup` as a kubelet does: the group
    /// of each file and directory (links are not followed), read and write rights for it, and on directories the right to
    /// enter and the set-group-ID bit; where the volume is read-only, no right to write. With
    /// `fsGroupChangePolicy: OnRootMismatch` nothing of a volume is looked at whose root is as it should be; an
    /// `emptyDir` is always gone through. A `hostPath` is left as it is.
    ///
    /// A program that loses its set-user-ID bit when its group changes does not get it back, which a kubelet would give.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidSpec`](crate::ErrorKind::InvalidSpec) with the field of a volume that can't be here, and what
    /// to say for it; [`ErrorKind::Setup`](crate::ErrorKind::Setup) where a file can't be given to the group, with its
    /// path. Then parts of the volume may have been given to it.
    pub fn set_up(&self, pod: &PodSecurity) -> Result<PodVolumes> {
        let caller = Caller::current()?;
        let privileged = caller.keeps_owners();
        let invalid = |what: String| Error::invalid(format!("pod {:?}: {what}", pod.name));
        if let Some(name) = self.directories.keys().find(|name| pod.volume(name).is_none()) {
            return Err(invalid(format!("Volumes::directory: it has no volume {name:?}")));
        }
        let mut places = BTreeMap::new();
        for (index, volume) in pod.volumes.iter().enumerate() {
            let field = format!("spec.volumes[{index}].{}", volume.source.kind());
            let mounts = || pod.containers.iter().flat_map(|container| &container.volume_mounts);
            let uses: Vec<_> = mounts().filter(|mount| mount.name == volume.name).collect();
            if uses.is_empty() {
                continue;
            }
            let sought = self.place(volume, uses.len(), fs_group(pod));
            let place = match sought.map_err(|what| invalid(format!("{field}{what}")))? {
                Sought::Found(place) => place,
                Sought::Directory { path, read_only } => {
                    let written = !read_only && uses.iter().any(|mount| !mount.read_only);
                    let root = self
                        .open(volume, &path, written || fs_group(pod).is_some(), privileged)?
                        .map_err(|what| invalid(format!("{field}: {}: {what}", path.display())))?;
                    let inode = inode_of(&stat(&root, &path)?);
                    self.give(pod, volume, root, &path, read_only, privileged)?;
                    Place::Directory { path, inode, read_only }
                }
            };
            places.insert(volume.name.clone(), place);
        }
        Ok(PodVolumes { pod: pod.name.clone(), places })
    }

    /// Where a volume is, if it can be anywhere; what is wrong is said after its field.
    fn place(&self, volume: &Volume, uses: usize, group: Option<u32>) -> Result<Sought, String> {
        let given = self.directories.get(&volume.name);
        let directory = |path: &Path, read_only: bool| {
            let path = std::path::absolute(path).map_err(|error| format!(": {}: {error}", path.display()))?;
            Ok(Sought::Directory { path, read_only })
        };
        let by_name = |read_only: bool| match given {
            Some(path) => directory(path, read_only),
            None => Err(format!(
                ": nothing stands for {:?} here: give its directory by Volumes::directory",
                volume.name
            )),
        };
        match (&volume.source, given) {
            (VolumeSource::HostPath { path, r#type }, None) => {
                self.host_path(path, r#type).map(Sought::Found)
            }
            (VolumeSource::HostPath { .. }, Some(_)) => {
                Err(": it names its path itself: no Volumes::directory stands for it".to_owned())
            }
            (VolumeSource::PersistentVolumeClaim { read_only, .. }, _) => by_name(*read_only),
            (VolumeSource::Other { read_only, .. }, _) => by_name(*read_only),
            (VolumeSource::EmptyDir { .. }, Some(_)) => by_name(false),
            (VolumeSource::EmptyDir { medium, size_limit }, None) => match medium.as_str() {
                "Memory" if uses > 1 => Err(format!(
                    ".medium: Memory: it is mounted {uses} times, and in the memory of one container here: give a directory \
                     of a tmpfs by Volumes::directory"
                )),
                "Memory" => {
                    let size = size_limit.filter(|size| *size > 0);
                    Ok(Sought::Found(Place::Memory { size, group }))
                }
                "" if size_limit.is_some_and(|size| size > 0) => Err(
                    ".sizeLimit: a directory has no limit, and nobody evicts the Pod here: take medium Memory, or give a \
                     directory of a file system of that size by Volumes::directory"
                        .to_owned(),
                ),
                "" => match &self.empty {
                    Some(empty) => directory(&empty.join(&volume.name), false),
                    None => {
                        Err(": there is no place for it: give one by Volumes::empty_dirs_in".to_owned())
                    }
                },
                other => Err(format!(".medium: unknown storage medium {other:?}: it is empty or Memory")),
            },
        }
    }

    fn host_path(&self, path: &Path, kind: &str) -> Result<Place, String> {
        let shown = path.display();
        let within = |allowed: &&PathBuf| path.starts_with(allowed);
        // The narrowest: links are followed within it alone.
        let allowed = self.host.iter().filter(within).max_by_key(|allowed| allowed.components().count());
        let Some(allowed) = allowed.filter(|_| path.is_absolute()) else {
            return Err(format!(
                ".path: {shown}: paths of the node are shown where Volumes::dangerously_allow_host_path says so"
            ));
        };
        let below = path.strip_prefix(allowed).unwrap_or(Path::new("")).to_owned();
        let meta = std::fs::metadata(path).map_err(|error| format!(".path: {shown}: {error}"))?;
        let file = meta.file_type();
        use std::os::unix::fs::FileTypeExt;
        let (fits, what) = match kind {
            "Directory" | "DirectoryOrCreate" => (file.is_dir(), "directory"),
            "File" | "FileOrCreate" => (file.is_file(), "file"),
            "Socket" => (file.is_socket(), "socket"),
            "CharDevice" => (file.is_char_device(), "character device"),
            "BlockDevice" => (file.is_block_device(), "block device"),
            _ => (true, ""),
        };
        if !fits {
            return Err(format!(".type: {kind}: {shown} is no {what}"));
        }
        Ok(Place::Host { allowed: allowed.clone(), below })
    }

    /// Where a volume's directory is made, if it is not given.
    fn made(&self, volume: &Volume) -> Option<&PathBuf> {
        self.empty.as_ref().filter(|_| !self.directories.contains_key(&volume.name))
    }

    /// Opens the directory of a volume, for the last time by its path; makes it, if it is an `emptyDir`. What is wrong with
    /// where it is is said after its path.
    fn open(
        &self,
        volume: &Volume,
        path: &Path,
        lent: bool,
        privileged: bool,
    ) -> Result<Result<OwnedFd, String>> {
        let made = self.made(volume).is_some();
        let (root, around) = if made {
            (None, open(path.parent().unwrap_or(path))?)
        } else {
            let root = open(path)?;
            let around = above(&root, path)?;
            (Some(root), around)
        };
        if lent && !is_closed(&around, path)? {
            return Ok(Err(
                "what a container has there may be a set-user-ID program, or a secret of its group's: put it below a \
                 directory that only its owner may enter (mode 700, without an access list)"
                    .to_owned(),
            ));
        }
        let root = match root {
            Some(root) => root,
            None => empty_dir(&around, &volume.name, path)?,
        };
        match exchanged_by(&root, path)?.filter(|_| privileged) {
            None => Ok(Ok(root)),
            Some(who) => Ok(Err(format!(
                "{who}, so that another directory may come to stand there: put it below directories that are root's, \
                 and that nobody else may write to"
            ))),
        }
    }

    /// Gives a volume to the Pod's group.
    fn give(
        &self,
        pod: &PodSecurity,
        volume: &Volume,
        root: OwnedFd,
        path: &Path,
        read_only: bool,
        privileged: bool,
    ) -> Result<()> {
        let is_empty_dir = matches!(volume.source, VolumeSource::EmptyDir { .. });
        let made = self.made(volume);
        let Some(inside) = fs_group(pod) else { return Ok(()) };
        let group = Group::find(inside, privileged)?;
        let Some(gid) = group.ours else {
            if made.is_some() {
                return group.give_root(root, path);
            }
            return Err(group.foreign());
        };
        let ownership = Ownership { gid, read_only };
        let mismatch = pod.security_context.fs_group_change_policy.as_deref() == Some("OnRootMismatch");
        if mismatch && !is_empty_dir && ownership.holds(&stat(&root, path)?) {
            return Ok(());
        }
        ownership.give(root, path)
    }
}

/// Where a volume is, before its directory is opened.
enum Sought {
    Found(Place),
    Directory { path: PathBuf, read_only: bool },
}

/// A directory that everybody in the container may write to, of our own: no link that somebody put there, and nobody
/// else's.
fn empty_dir(directory: &OwnedFd, name: &str, path: &Path) -> Result<OwnedFd> {
    match mkdirat(directory, name, Mode::from_bits_truncate(0o700)) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(failed("mkdirat", &errno.into(), path)),
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    let root = find(directory, OsStr::new(name), flags, path)?;
    let root = root.ok_or_else(|| failed("openat2", &Errno::ENOENT.into(), path))?;
    let found = stat(&root, path)?;
    if found.st_uid != nix::unistd::geteuid().as_raw() {
        let (path, uid) = (path.display(), found.st_uid);
        return Err(Error::invalid(format!(
            "{path}: it is user {uid}'s: give Volumes::empty_dirs_in a directory of the Pod's alone"
        )));
    }
    if found.st_mode & 0o777 != 0o777 {
        let everybody = Mode::from_bits_truncate(0o777);
        fchmod(&root, everybody).map_err(|errno| failed("fchmod", &errno.into(), path))?;
    }
    Ok(root)
}

fn fs_group(pod: &PodSecurity) -> Option<u32> {
    pod.security_context.fs_group.and_then(|gid| u32::try_from(gid).ok())
}

/// `fsGroup`, as the host knows it.
struct Group {
    inside: u32,
    outside: u32,
    /// The same, if the caller may give its files to it.
    ours: Option<u32>,
    maps: Option<PreparedMaps>,
}

impl Group {
    fn find(inside: u32, privileged: bool) -> Result<Self> {
        if privileged {
            return Ok(Self { inside, outside: inside, ours: Some(inside), maps: None });
        }
        let Ok(maps) = Maps::rootless().and_then(|maps| maps.prepare()) else {
            let what = "no ids are delegated to the caller (/etc/subgid), and the container has one group";
            return Err(wrong(inside, what));
        };
        let outside = Gid::try_from(inside).ok().and_then(|gid| maps.maps().gid().to_outside(gid));
        let Some(outside) = outside.map(Gid::as_raw) else {
            let what = "it is not among the ids that are delegated to the caller (/etc/subgid)";
            return Err(wrong(inside, what));
        };
        let groups = nix::unistd::getgroups();
        let groups = groups.map_err(|errno| failed("getgroups", &errno.into(), Path::new("fsGroup")))?;
        let member = nix::unistd::getegid().as_raw() == outside
            || groups.iter().any(|group| group.as_raw() == outside);
        Ok(Self { inside, outside, ours: member.then_some(outside), maps: Some(maps) })
    }

    /// Gives the root of an `emptyDir` to a group of the delegated range, as somebody who has that range. What the
    /// container made in it has the group from there.
    fn give_root(self, root: OwnedFd, path: &Path) -> Result<()> {
        let ownership = Ownership { gid: self.outside, read_only: false };
        let (Some(maps), false) = (self.maps, ownership.holds(&stat(&root, path)?)) else { return Ok(()) };
        // The second keeps the set-group-ID bit of a group that the helper is no member of.
        let capabilities = 1 << Capability::Chown as u64 | 1 << Capability::Fsetid as u64;
        let object = path.display().to_string();
        run_mapped(maps, capabilities, root, move |p| {
            p.at(Step::IdMaps, object);
            p.fchown(Fd::number(FD_PASSED), u32::MAX, self.inside);
            p.fchmod(Fd::number(FD_PASSED), 0o2777);
        })
    }

    fn foreign(&self) -> Error {
        let outside = self.outside;
        wrong(
            self.inside,
            &format!(
                "it is group {outside} of the host, and the caller is no member: only root gives files to it"
            ),
        )
    }
}

fn wrong(gid: u32, what: &str) -> Error {
    Error::invalid(format!(
        "spec.securityContext.fsGroup: {gid}: {what}; an emptyDir takes any group that the container has"
    ))
}
