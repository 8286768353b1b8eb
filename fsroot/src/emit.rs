//! The system calls of a prepared root.
//!
//! Everything is made detached and attached by descriptor. The new root is attached over the old "/", which a walk
//! from the process's root does not see: sources stay reachable by their paths until `pivot_root`.

use std::ffi::{CStr, CString};
use std::os::fd::AsRawFd;

use palisade_sys::{Fd, FsConfig, MountAttr, OpenHow, Program, Slot, Step};

use crate::entry::{At, Copied, Entry, Point, Tree, UpperPlan, Work};
use crate::flags::{MountFlags, Propagation};
use crate::mount::Tmpfs;
use crate::plan::tmpfs_options;
use crate::prepare::PreparedRoot;
use crate::source::Way;

/// How a place in somebody else's directory is found: links of that directory lead nowhere outside of the mount.
const INSIDE: u64 = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS | libc::RESOLVE_NO_XDEV;
/// How the last component is found there: it is no link at all.
const LAST: u64 = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_XDEV;

/// Where the old root goes in the scratch file system; names of layers are shorter.
const OLD: &CStr = c"old";

pub(crate) struct Emit<'a> {
    root: &'a PreparedRoot,
    /// Where detached mounts were passed on, if they were.
    passed: Option<i32>,
    p: Program,
    scratch: Option<Slot>,
    /// How many names the scratch file system has.
    names: usize,
    /// Descriptor of each entry's mount while others need it.
    open: Vec<Option<Fd>>,
}

impl<'a> Emit<'a> {
    pub(crate) fn new(root: &'a PreparedRoot, passed: Option<i32>) -> Self {
        Self { root, passed, p: Program::new(), scratch: None, names: 0, open: Vec::new() }
    }

    /// The part of the privileged parent.
    pub(crate) fn sources(mut self) -> (Program, Vec<Slot>) {
        let slots = self.root.trees.iter().map(|tree| {
            let shown = tree.copied().map(|copied| copied.source.path.to_string_lossy());
            self.p.at(Step::Sources, shown.as_deref().unwrap_or("mqueue"));
            // The parent's mounts may be shared; the copy must not be, unless that is asked for.
            take(&mut self.p, tree, true)
        });
        let slots = slots.collect();
        (self.p, slots)
    }

    pub(crate) fn build(mut self) -> Program {
        let root = self.root;
        self.p.at(Step::Propagation, "/");
        let kind = if self.follows_host() { libc::MS_SLAVE } else { libc::MS_PRIVATE };
        self.p.mount_propagation(c"/", libc::MS_REC | kind);
        if root.needs_scratch() {
            self.scratch();
        }
        for entry in &root.entries {
            self.p.at(Step::Mounts, &entry.shown);
            let mount = self.entry(entry);
            self.open.push(mount);
        }
        for (entry, mount) in root.entries.iter().zip(std::mem::take(&mut self.open)).rev() {
            let Some(mount) = mount else { continue };
            self.p.at(Step::Mounts, &entry.shown);
            if entry.sealed {
                let attr = MountAttr { set: libc::MOUNT_ATTR_RDONLY, ..MountAttr::default() };
                self.p.mount_setattr(mount, false, attr);
            }
            match entry.at {
                At::Root => self.pivot(mount),
                _ => self.done_with(mount),
            }
        }
        if let (Some(first), 1..) = (self.passed, root.trees.len()) {
            self.p.close_range(first, first + root.trees.len() as i32 - 1);
        }
        self.p
    }

    /// Closes a mount that this program opened. Those that were passed to it are closed together.
    fn done_with(&mut self, mount: Fd) {
        if !mount.is_number() {
            self.p.close(mount);
        }
    }

    /// Whether the old mounts must go on receiving what happens on the host, for binds that follow it.
    fn follows_host(&self) -> bool {
        self.passed.is_none()
            && self
                .root
                .trees
                .iter()
                .any(|tree| tree.copied().is_some_and(|copied| copied.propagation == Propagation::Slave))
    }

    /// A file system for names: attached below the new root, and gone with the old one.
    fn scratch(&mut self) {
        let mut inodes = 3; // its root, the place of the old root, one to spare
        let mut pages = 1;
        for entry in &self.root.entries {
            match &entry.work {
                Work::Overlay { lower, .. } => inodes += lower.len() as u64 + 2,
                Work::File { contents, .. } => {
                    inodes += 1;
                    pages += contents.len() as u64 / 4096 + 1;
                }
                _ => {}
            }
        }
        self.p.at(Step::Mounts, "scratch file system");
        let tmpfs = Tmpfs::new("/").mode(0o700).size(pages * 4096).room_for(inodes);
        let mount =
            filesystem(&mut self.p, c"tmpfs", &tmpfs_options(&tmpfs), MountFlags::NOSUID | MountFlags::NODEV);
        self.p.move_mount_to(mount, c"/");
        self.scratch = Some(mount);
    }

    /// One entry; gives its descriptor if it has to stay open.
    fn entry(&mut self, entry: &Entry) -> Option<Fd> {
        let mount = match &entry.work {
            Work::Tree(index) => self.tree(*index),
            Work::Filesystem { name, options, flags } => {
                filesystem(&mut self.p, name, options, *flags).into()
            }
            Work::Overlay { lower, upper, trusted, flags } => {
                self.overlay(lower, upper, *trusted, *flags).into()
            }
            Work::File { contents, mode, owner } => match &entry.at {
                At::Found { .. } => self.file_mount(contents, *mode, *owner).into(),
                at => {
                    self.file(at, contents, *mode, *owner);
                    return None;
                }
            },
            Work::Symlink(text) => {
                self.in_directory(&entry.at, |p, dir, name| p.symlinkat(text, dir, name));
                return None;
            }
            Work::Directory { mode, owner } => {
                self.directory(&entry.at, *mode, *owner);
                return None;
            }
        };
        self.attach(mount, &entry.at);
        if entry.holds || entry.sealed {
            return Some(mount);
        }
        self.done_with(mount);
        None
    }

    fn holder(&self, index: usize) -> Fd {
        self.open[index].expect("the planner marks every holder")
    }

    /// Attaches a detached mount, its mount point made before if that is to be.
    fn attach(&mut self, mount: Fd, at: &At) {
        match at {
            At::Root => match self.scratch {
                Some(scratch) => self.p.move_mount(mount, scratch),
                None => self.p.move_mount_to(mount, c"/"),
            },
            At::On(holder) => self.p.move_mount(mount, self.holder(*holder)),
            At::Made { holder, path, make } => {
                let holder = self.holder(*holder);
                match make {
                    Some(Point::Directory) => self.p.mkdirat(holder, path, 0o755),
                    Some(Point::File) => self.p.mknodat(holder, path, libc::S_IFREG | 0o444, (0, 0)),
                    None => {}
                }
                self.p.move_mount_at(mount, holder, path);
            }
            At::Found { make, .. } => self.in_directory(at, |p, dir, name| {
                match make {
                    Some(Point::Directory) => p.mkdirat(dir, name, 0o755),
                    Some(Point::File) => p.mknodat(dir, name, libc::S_IFREG | 0o444, (0, 0)),
                    None => {}
                }
                if make.is_some() {
                    p.tolerate(&[libc::EEXIST]);
                }
                let how = OpenHow { flags: libc::O_PATH, mode: 0, resolve: LAST };
                let point = p.openat2(dir, name, how);
                p.move_mount(mount, point);
                p.close(point);
            }),
        }
    }

    /// Does something to a name in its directory: the one that the program made, or the one that is found.
    fn in_directory(&mut self, at: &At, act: impl FnOnce(&mut Program, Fd, &CStr)) {
        match at {
            At::Made { holder, path, .. } => {
                let holder = self.holder(*holder);
                act(&mut self.p, holder, path);
            }
            At::Found { holder, parents, name, make } => {
                let holder = self.holder(*holder);
                let Some(path) = join(parents) else { return act(&mut self.p, holder, name) };
                let how = OpenHow { flags: libc::O_PATH | libc::O_DIRECTORY, mode: 0, resolve: INSIDE };
                if make.is_some() {
                    for depth in 0..parents.len() {
                        let above = join(&parents[..depth]).map(|above| self.p.openat2(holder, &above, how));
                        let dir = above.map_or(holder, Fd::from);
                        self.p.mkdirat(dir, &parents[depth], 0o755);
                        self.p.tolerate(&[libc::EEXIST]);
                        above.into_iter().for_each(|above| self.p.close(above));
                    }
                }
                let dir = self.p.openat2(holder, &path, how);
                act(&mut self.p, dir.into(), name);
                self.p.close(dir);
            }
            At::Root | At::On(_) => unreachable!("only mounts are placed there"),
        }
    }

    /// A mount copied from the host.
    fn tree(&mut self, index: usize) -> Fd {
        match self.passed {
            Some(first) => Fd::number(first + index as i32),
            None => {
                let private = self.follows_host();
                take(&mut self.p, &self.root.trees[index], private).into()
            }
        }
    }

    fn overlay(&mut self, lower: &[usize], upper: &UpperPlan, trusted: bool, flags: MountFlags) -> Slot {
        let scratch = self.scratch.expect("overlays need the scratch file system");
        // The kernel takes layers by path only before 6.13. Mounted under names of our own making they are the very
        // directories that were compared, whatever characters their paths have.
        self.p.fchdir(scratch);
        let mut names = Vec::new();
        for &tree in lower {
            names.push(self.layer(scratch, tree));
        }
        let place = match upper {
            UpperPlan::None => None,
            UpperPlan::Tree(tree) => Some(self.layer(scratch, *tree)),
            UpperPlan::Memory { size, inodes, mode, owner } => {
                let tmpfs = Tmpfs::new("/").mode(0o755).size(*size).inodes(*inodes);
                let mount = filesystem(
                    &mut self.p,
                    c"tmpfs",
                    &tmpfs_options(&tmpfs),
                    MountFlags::NOSUID | MountFlags::NODEV,
                );
                self.p.mkdirat(mount, c"work", 0o755);
                self.p.mkdirat(mount, c"upper", *mode);
                if let Some((uid, gid)) = *owner {
                    let how = OpenHow { flags: libc::O_PATH | libc::O_DIRECTORY, mode: 0, resolve: LAST };
                    let upper = self.p.openat2(mount, c"upper", how);
                    self.p.fchown(upper, uid, gid);
                    self.p.close(upper);
                }
                Some(self.named(scratch, mount.into()))
            }
        };
        let p = &mut self.p;
        let context = p.fsopen(c"overlay");
        // One string is taken by every kernel, but is 255 bytes long at most.
        let joined = names.iter().map(|name| name.to_string_lossy()).collect::<Vec<_>>().join(":");
        if joined.len() < 256 {
            let joined = CString::new(joined).expect("names are made of letters");
            p.fsconfig(context, FsConfig::String(c"lowerdir", &joined));
        } else {
            for name in &names {
                p.fsconfig(context, FsConfig::String(c"lowerdir+", name));
            }
        }
        if let Some(place) = place {
            for (key, part) in [(c"upperdir", "upper"), (c"workdir", "work")] {
                let path =
                    CString::new([place.as_bytes(), b"/", part.as_bytes()].concat()).expect("as above");
                p.fsconfig(context, FsConfig::String(key, &path));
            }
        }
        if !trusted {
            p.fsconfig(context, FsConfig::Flag(c"userxattr"));
        }
        p.fsconfig(context, FsConfig::Create);
        let mount = p.fsmount(context, flags.bits());
        p.close(context);
        mount
    }

    /// Attaches a layer under a short name of the scratch file system.
    fn layer(&mut self, scratch: Slot, tree: usize) -> CString {
        let mount = self.tree(tree);
        self.named(scratch, mount)
    }

    fn named(&mut self, scratch: Slot, mount: Fd) -> CString {
        let name = short_name(self.names);
        self.names += 1;
        self.p.mkdirat(scratch, &name, 0o700);
        self.p.move_mount_at(mount, scratch, &name);
        self.done_with(mount);
        name
    }

    fn file(&mut self, at: &At, contents: &[u8], mode: u32, owner: Option<(u32, u32)>) {
        self.in_directory(at, |p, dir, name| {
            let file = write_file(p, dir, name, contents, mode, owner);
            p.close(file);
        });
    }

    /// A file in the scratch file system, as a detached read-only mount.
    fn file_mount(&mut self, contents: &[u8], mode: u32, owner: Option<(u32, u32)>) -> Slot {
        let scratch = self.scratch.expect("files over others need the scratch file system");
        let name = short_name(self.names);
        self.names += 1;
        let p = &mut self.p;
        let file = write_file(p, scratch.into(), &name, contents, mode, owner);
        let mount = p.clone_tree(file, false);
        let flags = MountFlags::READ_ONLY | MountFlags::NOSUID | MountFlags::NODEV;
        p.mount_setattr(mount, false, MountAttr { set: flags.bits(), ..MountAttr::default() });
        p.close(file);
        mount
    }

    fn directory(&mut self, at: &At, mode: u32, owner: Option<(u32, u32)>) {
        self.in_directory(at, |p, dir, name| {
            p.mkdirat(dir, name, mode);
            if let Some((uid, gid)) = owner {
                let how = OpenHow { flags: libc::O_PATH | libc::O_DIRECTORY, mode: 0, resolve: LAST };
                let made = p.openat2(dir, name, how);
                p.fchown(made, uid, gid);
                p.close(made);
            }
        });
    }

    /// Leaves the old root. `pivot_root(".", ".")` stacks it on the new one, from where it is detached: no directory
    /// of the new root is needed for it.
    fn pivot(&mut self, root: Fd) {
        let p = &mut self.p;
        p.at(Step::PivotRoot, "/");
        if let Some(scratch) = self.scratch {
            // It stands on the old root, and the new one on it. With the old root below a directory of it the two are
            // detached at once: each time costs as much as all processors take to notice.
            p.mkdirat(scratch, OLD, 0o700);
            p.fchdir(scratch);
            p.pivot_root(c".", OLD);
            p.close(scratch);
        }
        p.fchdir(root);
        p.pivot_root(c".", c".");
        p.umount2(c".", libc::MNT_DETACH);
        p.chdir(c"/");
        if self.root.propagation != Propagation::Private {
            p.mount_propagation(c"/", libc::MS_REC | self.root.propagation.bits());
        }
        self.done_with(root);
    }
}

/// Gets a mount for this process or its child.
fn take(p: &mut Program, tree: &Tree, private: bool) -> Slot {
    match tree {
        Tree::Copy(copied) => copy(p, copied, private),
        Tree::Queues(flags) => filesystem(p, c"mqueue", &[], *flags),
    }
}

/// A new file system as a detached mount.
fn filesystem(
    p: &mut Program,
    name: &CStr,
    options: &[(&'static CStr, Option<CString>)],
    flags: MountFlags,
) -> Slot {
    let context = p.fsopen(name);
    for (key, value) in options {
        match value {
            Some(value) => p.fsconfig(context, FsConfig::String(key, value)),
            None => p.fsconfig(context, FsConfig::Flag(key)),
        }
    }
    p.fsconfig(context, FsConfig::Create);
    let mount = p.fsmount(context, flags.bits());
    p.close(context);
    mount
}

/// Copies a mount of the host: what is attached later is just what is compared here.
fn copy(p: &mut Program, tree: &Copied, private: bool) -> Slot {
    let mount = match &tree.source.way {
        None => p.open_tree(&tree.source.path, tree.recursive),
        Some(way) => walk(p, way, tree.recursive),
    };
    if tree.device {
        p.same_device(mount, tree.source.device.0, tree.source.device.1);
    } else {
        p.same_inode(mount, tree.source.identity);
    }
    let mut attr = MountAttr { set: tree.flags.bits(), clear: tree.flags.clears(), ..MountAttr::default() };
    if private || tree.propagation != Propagation::Private {
        attr.propagation = tree.propagation.bits();
    }
    if let Some(userns) = &tree.userns {
        attr.set |= libc::MOUNT_ATTR_IDMAP;
        attr.userns = Some(Fd::number(userns.as_raw_fd()));
    }
    p.mount_setattr(mount, tree.recursive, attr);
    mount
}

/// Copies what is found at the end of a walk in two parts.
fn walk(p: &mut Program, way: &Way, recursive: bool) -> Slot {
    let flags = libc::O_PATH | if way.below.is_some() { libc::O_DIRECTORY } else { 0 };
    let directory = p.openat2(Fd::CWD, &way.directory, OpenHow { flags, mode: 0, resolve: way.resolve });
    p.same_inode(directory, way.identity);
    let Some(below) = &way.below else {
        let mount = p.clone_tree(directory, recursive);
        p.close(directory);
        return mount;
    };
    let resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS;
    let file = p.openat2(directory, below, OpenHow { flags: libc::O_PATH, mode: 0, resolve });
    p.close(directory);
    let mount = p.clone_tree(file, recursive);
    p.close(file);
    mount
}

/// Makes a file that was not there before; gives its open descriptor.
fn write_file(
    p: &mut Program,
    dir: Fd,
    name: &CStr,
    contents: &[u8],
    mode: u32,
    owner: Option<(u32, u32)>,
) -> Slot {
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
    let file = p.openat2(dir, name, OpenHow { flags, mode, resolve: libc::RESOLVE_NO_SYMLINKS });
    if !contents.is_empty() {
        p.write_all(file, contents);
    }
    if let Some((uid, gid)) = owner {
        p.fchown(file, uid, gid);
        if mode & 0o6000 != 0 {
            p.fchmod(file, mode); // the change of owner took these bits away
        }
    }
    file
}

/// Name number `n` in the scratch file system: one or two bytes.
fn short_name(n: usize) -> CString {
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    let (high, low) = (n / LETTERS.len(), n % LETTERS.len());
    let mut name = Vec::new();
    if let Some(letter) = high.checked_sub(1).and_then(|high| LETTERS.get(high)) {
        name.push(*letter);
    }
    name.push(LETTERS[low]);
    CString::new(name).expect("letters have no NUL")
}

/// Components as one path, or none of none.
fn join(parts: &[CString]) -> Option<CString> {
    let parts: Vec<_> = parts.iter().map(AsRef::as_ref).map(CStr::to_bytes).collect();
    (!parts.is_empty()).then(|| CString::new(parts.join(&b'/')).expect("components have no NUL"))
}
