//! From items to single steps: which mount holds a target, what has to be made there, which sources are needed.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use std::os::fd::OwnedFd;

use crate::cover::Kind;
use crate::entry::{At, Copied, Entry, Point, Tree, UpperPlan, Work};
use crate::error::{Error, ErrorKind, Result};
use crate::flags::MountFlags;
use crate::mount::{Bind, Mount, Tmpfs};
use crate::overlay::{Layers, Upper};
use crate::root::{Base, Root};
use crate::source::{Source, c_path, inside};

/// The most layers that overlayfs takes.
const MAX_LAYERS: usize = 500;

/// What is known about the directory tree inside one mount.
enum Area {
    /// Made by this program: everything in it is known.
    Own(BTreeMap<PathBuf, Node>),
    /// Somebody else's directories; mount points can be made in it if it is an overlay's upper layer.
    Foreign { creates: bool },
    /// No directory at all.
    File,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Node {
    Directory,
    File,
    Link,
}

struct Holder {
    entry: usize,
    target: PathBuf,
    area: Area,
}

#[derive(Default)]
pub(crate) struct Planner {
    pub(crate) entries: Vec<Entry>,
    pub(crate) trees: Vec<Tree>,
    /// Sources of optional binds that do not exist.
    pub(crate) left_out: Vec<PathBuf>,
    holders: Vec<Holder>,
    /// The directory that is the root, if it is one, to follow its links in.
    directory: Option<OwnedFd>,
    /// Whether the item at hand may stand behind a link of that directory.
    follow: bool,
}

impl Planner {
    pub(crate) fn new(root: &Root) -> Result<Self> {
        let mut planner = Self::default();
        planner.root(root)?;
        if let Base::Host(view) = &root.base {
            for mut part in view.parts()? {
                if let Mount::Bind(bind) = &mut part {
                    bind.flags -= (MountFlags::NOSUID | MountFlags::NODEV) - root.flags;
                }
                planner.item(&part)?;
            }
            // What the view of the host has only where the host has it was not asked for by the caller.
            planner.left_out.clear();
        }
        for item in &root.mounts {
            planner.item(item)?;
        }
        planner.limit_root(root);
        Ok(planner)
    }

    fn root(&mut self, root: &Root) -> Result<()> {
        let mut sealed = false;
        let (work, area) = match &root.base {
            Base::Host(_) | Base::Memory => {
                sealed = !root.writable;
                let tmpfs = Tmpfs::new("/").mode(0o755).size(root.size).inodes(root.inodes);
                let flags = root.flags;
                let work = Work::Filesystem { name: c"tmpfs", options: tmpfs_options(&tmpfs), flags };
                (work, Area::Own(BTreeMap::new()))
            }
            Base::Directory(path) => {
                let mut bind = Bind::new(path, "/");
                bind.flags = root.flags;
                bind.userns.clone_from(&root.userns);
                if !root.writable {
                    bind = bind.with(MountFlags::READ_ONLY);
                }
                let (source, directory) = Source::open(path)?;
                self.directory = Some(directory);
                (Work::Tree(self.tree(&bind, source.need_dir("a root")?)), Area::Foreign { creates: false })
            }
            Base::Overlay(layers) => {
                let mut layers = layers.clone();
                layers.flags -= (MountFlags::NOSUID | MountFlags::NODEV) - root.flags;
                // Mount points are made in it before it becomes read-only.
                sealed = layers.is_sealed();
                if sealed {
                    layers.flags -= MountFlags::READ_ONLY;
                }
                let work = self.overlay(&layers, root.userns.as_ref())?;
                (work, Area::Foreign { creates: layers.is_writable() })
            }
        };
        self.holders.push(Holder { entry: 0, target: PathBuf::new(), area });
        self.entries.push(Entry {
            shown: "/".into(),
            place: PathBuf::new(),
            at: At::Root,
            work,
            holds: true,
            sealed,
        });
        Ok(())
    }

    /// A root in memory that is read-only in the end needs just the room that its entries take.
    fn limit_root(&mut self, root: &Root) {
        let mut inodes = 1;
        let mut pages = 1;
        for entry in &self.entries {
            match (&entry.at, &entry.work) {
                (At::Made { holder: 0, .. }, Work::File { contents, .. }) => {
                    inodes += 1;
                    pages += contents.len() as u64 / 4096 + 1;
                }
                (At::Made { holder: 0, make: None, .. }, work) if work.is_mount() => {}
                (At::Made { holder: 0, .. }, _) => {
                    inodes += 1;
                    pages += 1; // a long link takes a page
                }
                _ => {}
            }
        }
        if let (false, Work::Filesystem { options, .. }) = (root.writable, &mut self.entries[0].work) {
            let tmpfs = Tmpfs::new("/").mode(0o755).size(pages * 4096).room_for(inodes);
            *options = tmpfs_options(&tmpfs);
        }
    }

    fn item(&mut self, item: &Mount) -> Result<()> {
        let target = item.target();
        // proc, sysfs and the like stand where they are said to or not at all: programs trust their places.
        self.follow = matches!(item, Mount::Bind(_) | Mount::Tmpfs(_) | Mount::Overlay(_) | Mount::File(_));
        let filesystem = |name, options, flags| Work::Filesystem { name, options, flags };
        match item {
            Mount::Bind(it) => self.bind(it),
            Mount::Tmpfs(it) => self.tmpfs(it),
            Mount::Proc(it) => {
                let mut options = Vec::new();
                if let Some(hidepid) = it.hidepid {
                    options.push((c"hidepid", Some(text(hidepid.name()))));
                }
                if it.subset_pid {
                    options.push((c"subset", Some(text("pid"))));
                }
                self.kernel(target, filesystem(c"proc", options, it.flags))
            }
            Mount::Sysfs(it) => self.kernel(target, filesystem(c"sysfs", Vec::new(), it.flags)),
            Mount::Mqueue(it) if it.by_parent => {
                self.trees.push(Tree::Queues(it.flags));
                self.kernel(target, Work::Tree(self.trees.len() - 1))
            }
            Mount::Mqueue(it) => self.kernel(target, filesystem(c"mqueue", Vec::new(), it.flags)),
            Mount::Cgroup2(it) => self.kernel(target, filesystem(c"cgroup2", Vec::new(), it.flags)),
            Mount::Devpts(it) => {
                let mut options = vec![
                    // "newinstance" is what every devpts is since Linux 4.7.
                    (c"ptmxmode", Some(text("666"))),
                    (c"mode", Some(text(format!("{:o}", it.mode)))),
                ];
                options.extend(it.gid.map(|gid| (c"gid", Some(text(gid.to_string())))));
                options.extend(it.max.map(|max| (c"max", Some(text(max.to_string())))));
                self.kernel(target, filesystem(c"devpts", options, it.flags))
            }
            Mount::Overlay(it) => {
                let work = self.overlay(&it.layers, None)?;
                let creates = it.layers.is_writable();
                self.place(target, work, Some(Area::Foreign { creates })).map(|_| ())
            }
            Mount::Dev(it) => {
                let relative = relative(target)?;
                let holder = &self.holders[self.holder_of(&relative)];
                let own = matches!(&holder.area, Area::Own(known) if !known.contains_key(&relative))
                    && holder.target != relative
                    && self.entries[holder.entry].sealed;
                for part in it.parts(own) {
                    match part {
                        // Its own file system, for the same reason as proc.
                        Mount::Tmpfs(tmpfs) if tmpfs.target == it.target => self.tmpfs(&tmpfs)?,
                        part => self.item(&part)?,
                    }
                }
                it.extra.iter().try_for_each(|(source, target)| self.device(source, &it.target.join(target)))
            }
            Mount::Symlink(it) => {
                let text = c_path(Path::new(&it.text))?;
                if text.is_empty() {
                    return Err(Error::new(ErrorKind::InvalidPath, "an empty link").at(target));
                }
                self.place(target, Work::Symlink(text), None).map(|_| ())
            }
            Mount::File(it) => {
                let (contents, mode, owner) = (it.contents.clone(), it.mode, it.owner);
                self.place(target, Work::File { contents, mode, owner }, None).map(|_| ())
            }
            Mount::Directory(it) => {
                let (mode, owner) = (it.mode, it.owner);
                self.place(target, Work::Directory { mode, owner }, None).map(|_| ())
            }
        }
    }

    fn tmpfs(&mut self, it: &Tmpfs) -> Result<()> {
        let work = Work::Filesystem { name: c"tmpfs", options: tmpfs_options(it), flags: it.flags };
        let entry = self.place(&it.target, work, Some(Area::Own(BTreeMap::new())))?;
        self.entries[entry].sealed = it.sealed;
        Ok(())
    }

    fn kernel(&mut self, target: &Path, work: Work) -> Result<()> {
        self.place(target, work, Some(Area::Foreign { creates: false })).map(|_| ())
    }

    fn bind(&mut self, bind: &Bind) -> Result<()> {
        let source = match Source::of_bind(bind) {
            Err(error) if bind.optional && error.kind() == ErrorKind::NotFound => {
                self.left_out.push(bind.source.clone());
                return Ok(());
            }
            found => found?.0,
        };
        if let Some(number) = bind.device {
            if !source.is(libc::S_IFCHR) || source.device != number {
                let (major, minor) = number;
                let what =
                    format!("this has to be the character device {major}:{minor}, and is something else");
                return Err(Error::new(ErrorKind::WrongType, what).at(&bind.source));
            }
        }
        let area = if source.is_dir() { Area::Foreign { creates: false } } else { Area::File };
        let tree = self.tree(bind, source);
        self.place(&bind.target, Work::Tree(tree), Some(area)).map(|_| ())
    }

    /// A device of the host. A character device is known by its number, a block device by its node.
    fn device(&mut self, path: &Path, target: &Path) -> Result<()> {
        let source = Source::find(path)?;
        let character = source.is(libc::S_IFCHR);
        if !character && !source.is(libc::S_IFBLK) {
            return Err(Error::new(ErrorKind::WrongType, "this is no character or block device").at(path));
        }
        let mut bind = Bind::device("", target.to_owned(), source.device);
        bind.source = path.to_owned();
        bind.device = bind.device.filter(|_| character);
        let tree = self.tree(&bind, source);
        self.place(target, Work::Tree(tree), Some(Area::File)).map(|_| ())
    }

    fn tree(&mut self, bind: &Bind, source: Source) -> usize {
        self.trees.push(Tree::Copy(Copied {
            source,
            recursive: bind.recursive,
            device: bind.device.is_some(),
            flags: bind.flags,
            propagation: bind.propagation,
            userns: bind.userns.clone(),
        }));
        self.trees.len() - 1
    }

    fn overlay(&mut self, layers: &Layers, userns: Option<&Arc<OwnedFd>>) -> Result<Work> {
        if layers.lower.len() > MAX_LAYERS {
            let what = format!("{} layers, but overlayfs takes {MAX_LAYERS}", layers.lower.len());
            return Err(Error::new(ErrorKind::Limit, what));
        }
        if matches!(layers.upper, Upper::None) && layers.lower.len() < 2 {
            return Err(Error::new(ErrorKind::Conflict, "an overlay of one layer that can't be written")
                .at(&layers.lower[0])
                .hint("give it an upper layer or a second one, or bind the directory"));
        }
        let mut layer = |path: &Path, what| -> Result<usize> {
            let source = Source::find(path)?.need_dir(what)?;
            let bind = Bind { userns: userns.cloned(), ..Bind::new(path, "/").not_recursive() };
            Ok(self.tree(&bind, source))
        };
        let lower = layers.lower.iter().map(|path| layer(path, "a layer")).collect::<Result<_>>()?;
        let upper = match &layers.upper {
            Upper::None => UpperPlan::None,
            Upper::Memory { size, inodes } => {
                // The overlay's root looks like the upper layer's.
                let mode = std::fs::metadata(&layers.lower[0]).map_or(0o755, |meta| meta.mode() & 0o1777);
                UpperPlan::Memory { size: *size, inodes: *inodes, mode, owner: layers.owner }
            }
            Upper::Directory(path) => {
                let tree = layer(path, "an upper layer's place")?;
                for part in ["upper", "work"] {
                    Source::find(&path.join(part))
                        .and_then(|source| source.need_dir("this part of an upper layer"))
                        .map_err(|error| error.hint("make two directories in it, upper and work"))?;
                }
                UpperPlan::Tree(tree)
            }
        };
        Ok(Work::Overlay { lower, upper, trusted: layers.trusted, flags: layers.flags })
    }

    /// The holder of a place: the mount that a walk to it ends in. Later mounts cover earlier ones, so it is the last
    /// one that stands on the way.
    fn holder_of(&self, relative: &Path) -> usize {
        self.holders.iter().rposition(|holder| relative.starts_with(&holder.target)).unwrap_or(0)
    }

    /// Whether there may be something at a path of the finished view: not in a directory all of whose contents are
    /// known.
    pub(crate) fn can_exist(&self, relative: &Path) -> bool {
        let holder = &self.holders[self.holder_of(relative)];
        match &holder.area {
            Area::Own(known) => {
                let inside = relative.strip_prefix(&holder.target).unwrap_or(relative);
                inside.as_os_str().is_empty()
                    || !self.entries[holder.entry].sealed
                    || known.contains_key(inside)
            }
            Area::Foreign { .. } | Area::File => true,
        }
    }

    /// What stands at a path of the finished view, and whether the kernel says so: what this host's `/proc` and `/sys`
    /// have a new one has, mostly.
    pub(crate) fn kind(&self, relative: &Path) -> (Kind, bool) {
        let holder = &self.holders[self.holder_of(relative)];
        let inside = relative.strip_prefix(&holder.target).unwrap_or(relative);
        let work = &self.entries[holder.entry].work;
        let host =
            [("proc", "/proc"), ("sysfs", "/sys")].into_iter().find(|(name, _)| work.is_filesystem(name));
        let kind = match (&holder.area, host) {
            (Area::File, _) => Kind::File,
            (_, _) if inside.as_os_str().is_empty() => Kind::Directory,
            (Area::Own(known), _) => match known.get(inside) {
                Some(Node::Directory) => Kind::Directory,
                Some(Node::File) => Kind::File,
                Some(Node::Link) | None => Kind::Unknown,
            },
            (Area::Foreign { .. }, Some((_, host))) => {
                match std::fs::symlink_metadata(Path::new(host).join(inside)) {
                    Ok(found) if found.is_dir() => Kind::Directory,
                    Ok(found) if found.is_file() => Kind::File,
                    _ => Kind::Unknown,
                }
            }
            (Area::Foreign { .. }, None) => Kind::Unknown,
        };
        (kind, host.is_some())
    }

    /// The place that a target leads to through links of the root's directory, as they are now; what they are when the
    /// root is built is checked then. Links into a mount of the view are not followed: an image must not move a volume
    /// over `/proc`.
    fn followed(&self, relative: PathBuf) -> PathBuf {
        match &self.directory {
            Some(directory) if self.follow && self.holder_of(&relative) == 0 => {
                let real = inside(directory, &relative).filter(|real| self.holder_of(real) == 0);
                real.unwrap_or(relative)
            }
            _ => relative,
        }
    }

    /// Adds an entry, with the directories on the way to it where they can be made. `area` is what a mount holds.
    fn place(&mut self, target: &Path, work: Work, area: Option<Area>) -> Result<usize> {
        let relative = self.followed(relative(target)?);
        let conflict = |what: &str| Err(Error::new(ErrorKind::Conflict, what).at(target));
        if relative.as_os_str().is_empty() {
            return conflict("the root is not covered: say what it is when it is made");
        }
        let point = match (&work, &area) {
            (Work::File { .. }, _) | (_, Some(Area::File)) => Point::File,
            _ => Point::Directory,
        };
        let index = self.holder_of(&relative);
        let entry = self.holders[index].entry;
        let inside = relative.strip_prefix(&self.holders[index].target).unwrap_or(&relative).to_owned();
        let mut made = Vec::new();
        let at = match &mut self.holders[index].area {
            area if inside.as_os_str().is_empty() => {
                if !work.is_mount() {
                    return conflict("something is mounted there already");
                }
                if matches!(area, Area::File) != (point == Point::File) {
                    return conflict("a file can't cover a directory, nor a directory a file");
                }
                At::On(entry)
            }
            Area::File => return conflict("an item above it is a file"),
            Area::Own(known) => {
                for parent in inside.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()) {
                    match known.get(parent) {
                        Some(Node::Directory) => {}
                        Some(Node::File) => return conflict("an item above it is a file"),
                        Some(Node::Link) => {
                            return Err(Error::new(
                                ErrorKind::Conflict,
                                "it lies behind a symbolic link of the view",
                            )
                            .at(target)
                            .hint("name the place that the link leads to"));
                        }
                        None => made.push(parent.to_owned()),
                    }
                }
                made.reverse();
                known.extend(made.iter().map(|parent| (parent.clone(), Node::Directory)));
                let node = match (&work, point) {
                    (Work::Symlink(_), _) => Node::Link,
                    (_, Point::File) => Node::File,
                    (_, Point::Directory) => Node::Directory,
                };
                let before = known.insert(inside.clone(), node);
                if before.is_some_and(|before| before != node || !work.is_mount()) {
                    return conflict("an earlier item stands there");
                }
                let make = (work.is_mount() && before.is_none()).then_some(point);
                At::Made { holder: entry, path: c_path(&inside)?, make }
            }
            &mut Area::Foreign { creates } => {
                if !creates && matches!(work, Work::Symlink(_) | Work::Directory { .. }) {
                    return Err(Error::new(
                        ErrorKind::Conflict,
                        "it would be made in a directory that is not the view's own",
                    )
                    .at(target)
                    .hint("put an overlay with an upper layer there, or a tmpfs"));
                }
                let mut parts =
                    inside.iter().map(|part| c_path(Path::new(part))).collect::<Result<Vec<_>>>()?;
                let Some(name) = parts.pop() else { return conflict("no name") };
                let make =
                    (creates && !matches!(work, Work::Symlink(_) | Work::Directory { .. })).then_some(point);
                At::Found { holder: entry, parents: parts, name, make }
            }
        };
        self.entries[entry].holds = true;
        for parent in made {
            let place = self.holders[index].target.join(&parent);
            let shown = Path::new("/").join(&place).display().to_string();
            let at = At::Made { holder: entry, path: c_path(&parent)?, make: None };
            let work = Work::Directory { mode: 0o755, owner: None };
            self.entries.push(Entry { shown, place, at, work, holds: false, sealed: false });
        }
        self.entries.push(Entry {
            shown: target.display().to_string(),
            place: relative.clone(),
            at,
            work,
            holds: false,
            sealed: false,
        });
        let new = self.entries.len() - 1;
        if let Some(area) = area {
            self.holders.push(Holder { entry: new, target: relative, area });
        }
        Ok(new)
    }
}

fn text(text: impl Into<Vec<u8>>) -> CString {
    CString::new(text).expect("options are made of numbers and names")
}

/// Options of a tmpfs: always limited.
pub(crate) fn tmpfs_options(tmpfs: &Tmpfs) -> Vec<(&'static CStr, Option<CString>)> {
    let number = |n: u64| Some(text(n.to_string()));
    let mut options = vec![(c"size", number(tmpfs.size)), (c"nr_inodes", number(tmpfs.inodes))];
    if tmpfs.mode != 0o1777 {
        // 1777 is the kernel's default.
        options.push((c"mode", Some(text(format!("{:o}", tmpfs.mode)))));
    }
    if let Some((uid, gid)) = tmpfs.owner {
        options.push((c"uid", number(uid.into())));
        options.push((c"gid", number(gid.into())));
    }
    options
}

/// A target as a path relative to the root, without `.` and doubled slashes.
pub(crate) fn relative(target: &Path) -> Result<PathBuf> {
    let refuse = |what: &str| Err(Error::new(ErrorKind::InvalidPath, what).at(target));
    if !target.has_root() {
        return refuse("a target is an absolute path");
    }
    if target.as_os_str().len() >= libc::PATH_MAX as usize {
        return refuse("a path is shorter than 4096 bytes");
    }
    let mut relative = PathBuf::new();
    for component in target.components() {
        match component {
            Component::Normal(name) if name.as_bytes().contains(&0) => {
                return refuse("a path can't hold a NUL byte");
            }
            Component::Normal(name) => relative.push(name),
            Component::ParentDir => return refuse("a target has no '..'"),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(relative)
}
