//! The system calls of masked and read-only paths.

use std::ffi::CString;

use palisade_sys::{Fd, FsConfig, MountAttr, OpenHow, Program, Slot, Step};

use crate::flags::MountFlags;
use crate::prepare::PreparedRoot;

/// A path to hide.
#[derive(Clone, Debug)]
pub(crate) struct Hidden {
    pub(crate) path: CString,
    pub(crate) kind: Kind,
}

/// What stands at a path, as far as it is known before the view is built. A wrong guess is an error of the run, or costs
/// some calls; it never leaves the path open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// The first of them takes the mask itself, the others copies of it.
    Directory,
    File,
    Unknown,
}

/// What covers hidden paths.
struct Cover {
    /// An empty directory, detached until it covers the first one.
    empty: Option<Slot>,
    attached: bool,
    /// `/dev/null` of the view.
    null: Slot,
    /// Copies of it are read-only, `nosuid` and `noexec` as they are.
    inert: bool,
}

/// Masked and read-only paths of a view that stands.
pub(crate) fn masks_program(root: &PreparedRoot) -> Program {
    let mut p = Program::new();
    if !root.hidden.is_empty() {
        hide_all(&mut p, root);
    }
    for path in &root.read_only {
        p.at(Step::Masks, path.to_string_lossy());
        let over = p.forward();
        let found = p.openat2(Fd::CWD, path, quiet());
        p.jump_on(&[libc::ENOENT], over);
        let copy = p.clone_tree(found, true);
        let attr = MountAttr { set: libc::MOUNT_ATTR_RDONLY, ..MountAttr::default() };
        p.mount_setattr(copy, true, attr);
        p.move_mount(copy, found);
        p.close(copy);
        p.close(found);
        p.land(over);
    }
    p
}

fn hide_all(p: &mut Program, root: &PreparedRoot) {
    p.at(Step::Masks, "");
    let any = |kind| root.hidden.iter().any(|hidden| hidden.kind == kind);
    // A mount that is never attached is expensive to close: it waits for all processors. So none is made on the mere
    // chance that the kernel has one more directory than it had.
    let empty = (any(Kind::Directory) || root.hides_unknown).then(|| empty_directory(p));
    let null = p.openat2(Fd::CWD, c"/dev/null", quiet());
    p.same_device(null, 1, 3);
    let mut cover = Cover { empty, attached: false, null, inert: root.null_is_inert() };
    for hidden in &root.hidden {
        p.at(Step::Masks, hidden.path.to_string_lossy());
        cover.hide(p, hidden);
    }
    p.at(Step::Masks, "");
    p.close(null);
    empty.into_iter().for_each(|empty| p.close(empty));
}

/// A read-only file system with room for nothing, detached.
fn empty_directory(p: &mut Program) -> Slot {
    let context = p.fsopen(c"tmpfs");
    for (key, value) in [(c"size", c"4096"), (c"nr_inodes", c"1"), (c"mode", c"555")] {
        p.fsconfig(context, FsConfig::String(key, value));
    }
    p.fsconfig(context, FsConfig::Create);
    let inert = MountFlags::READ_ONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let empty = p.fsmount(context, inert.bits());
    p.close(context);
    empty
}

fn quiet() -> OpenHow {
    let resolve = libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS;
    OpenHow { flags: libc::O_PATH, mode: 0, resolve }
}

impl Cover {
    fn hide(&mut self, p: &mut Program, hidden: &Hidden) {
        let over = p.forward();
        let target = p.openat2(Fd::CWD, &hidden.path, quiet());
        p.jump_on(&[libc::ENOENT], over);
        match hidden.kind {
            Kind::Directory => self.directory(p, target),
            Kind::File => self.file(p, target),
            Kind::Unknown => {
                let (file, done) = (p.forward(), p.forward());
                let how = OpenHow { flags: libc::O_PATH | libc::O_DIRECTORY, ..quiet() };
                let directory = p.openat2(Fd::CWD, &hidden.path, how);
                p.jump_on(&[libc::ENOTDIR], file);
                self.directory(p, directory);
                p.close(directory);
                p.getpid();
                p.branch(done);
                p.land(file);
                self.file(p, target);
                p.land(done);
            }
        }
        p.close(target);
        p.land(over);
    }

    fn directory(&mut self, p: &mut Program, target: Slot) {
        let Some(empty) = self.empty else {
            let own = empty_directory(p);
            p.move_mount(own, target);
            return p.close(own);
        };
        if !std::mem::replace(&mut self.attached, true) {
            return p.move_mount(empty, target);
        }
        // Where the first one was not there, the mask is not attached yet, and can't be copied before Linux 6.15.
        let (itself, done) = (p.forward(), p.forward());
        let copy = p.clone_tree(empty, false);
        p.jump_on(&[libc::EINVAL], itself);
        p.move_mount(copy, target);
        p.close(copy);
        p.getpid();
        p.branch(done);
        p.land(itself);
        p.move_mount(empty, target);
        p.land(done);
    }

    fn file(&self, p: &mut Program, target: Slot) {
        let copy = p.clone_tree(self.null, false);
        if !self.inert {
            let inert = MountFlags::READ_ONLY | MountFlags::NOSUID | MountFlags::NOEXEC;
            p.mount_setattr(copy, false, MountAttr { set: inert.bits(), ..MountAttr::default() });
        }
        p.move_mount(copy, target);
        p.close(copy);
    }
}
