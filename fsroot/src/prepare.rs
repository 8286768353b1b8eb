//! A root, ready to be built.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use palisade_sys::{Program, Slot};

use crate::cover::{Hidden, Kind, masks_program};
use crate::emit::Emit;
use crate::entry::{Copied, Entry, Tree, UpperPlan, Work};
use crate::error::{Error, ErrorKind, Result};
use crate::flags::{MountFlags, Propagation};
use crate::plan::{Planner, relative};
use crate::root::Root;
use crate::source::c_path;

/// Items of a view, and masks over it: each takes up to 14 of the 65,536 calls that a program can have.
const MAX_ITEMS: usize = 4500;

/// A root whose sources are found and whose steps are decided: paths and identities, no descriptors.
///
/// Two forms of the same steps: [`PreparedRoot::program`] for a process that can reach the sources itself, and
/// [`PreparedRoot::split`] for one that can't. [`PreparedRoot::masks`] comes later, after host name and sysctls.
///
/// All of them expect umask 0, a new mount namespace, and the privileges of
/// [`PreparedRoot::capabilities_needed`] over it.
#[derive(Clone, Debug)]
pub struct PreparedRoot {
    pub(crate) entries: Vec<Entry>,
    pub(crate) trees: Vec<Tree>,
    pub(crate) propagation: Propagation,
    pub(crate) hidden: Vec<Hidden>,
    /// Of hidden paths that stand in somebody else's directories it is not known what they are.
    pub(crate) hides_unknown: bool,
    pub(crate) read_only: Vec<CString>,
    pub(crate) left_out: Vec<PathBuf>,
}

impl PreparedRoot {
    pub(crate) fn new(root: &Root) -> Result<Self> {
        let planner = Planner::new(root)?;
        let possible = |paths: &[PathBuf]| -> Result<Vec<PathBuf>> {
            let relative = paths.iter().map(|path| relative(path)).collect::<Result<Vec<_>>>()?;
            Ok(relative.into_iter().filter(|path| planner.can_exist(path)).collect())
        };
        let absolute = |path: &PathBuf| c_path(&Path::new("/").join(path));
        let read_only = possible(&root.masks.read_only)?.iter().map(absolute).collect::<Result<Vec<_>>>()?;
        let mut hidden = Vec::new();
        let mut hides_unknown = false;
        for path in possible(&root.masks.all_hidden())? {
            let (kind, kernels) = planner.kind(&path);
            hides_unknown |= kind == Kind::Unknown && !kernels;
            hidden.push(Hidden { path: absolute(&path)?, kind });
        }
        hidden.sort_by_key(|hidden| hidden.kind);
        let Planner { entries, trees, left_out, .. } = planner;
        let items = entries.len().max(hidden.len() + read_only.len());
        if items > MAX_ITEMS {
            return Err(Error::new(
                ErrorKind::Limit,
                format!("{items} items, but a view has at most {MAX_ITEMS}"),
            ));
        }
        Ok(Self { entries, trees, propagation: root.propagation, hidden, hides_unknown, read_only, left_out })
    }

    /// All steps for one process in its new mount namespace: propagation, mounts, `pivot_root`.
    ///
    /// Sources are opened there and compared with what was found: `ESTALE` is another file at the same path. In the
    /// end the working directory is the new `/`, the old root is detached, and no descriptor is left open.
    pub fn program(&self) -> Program {
        Emit::new(self, None).build()
    }

    /// The same in two parts, for a child that may not reach the sources: the first one is run by the privileged
    /// parent in its own mount namespace, and leaves a detached mount in each of the slots. The child finds the mount
    /// of slot `i` at descriptor `first_fd + i`, and closes it.
    pub fn split(&self, first_fd: i32) -> (Program, Vec<Slot>, Program) {
        let (sources, slots) = Emit::new(self, None).sources();
        (sources, slots, Emit::new(self, Some(first_fd)).build())
    }

    /// Hidden and read-only paths, over the file systems that are mounted now. Paths that do not exist are passed over.
    ///
    /// A directory is covered by an empty one, the same for all of them; a file by `/dev/null`, which has to be in the
    /// view. Run after everything that has to write below them.
    pub fn masks(&self) -> Program {
        masks_program(self)
    }

    /// The capabilities that the steps need in the user namespace that owns the mount namespace, bit n for capability
    /// n: `CAP_SYS_ADMIN`; with owners given also `CAP_CHOWN`, `CAP_DAC_OVERRIDE` and `CAP_FOWNER`. So with an overlay
    /// that can be written, and `CAP_FSETID` and `CAP_SETFCAP` too: what its maker may do, it does for as long as it
    /// lives, to keep owners, modes and capabilities of what is copied up.
    ///
    /// See [capabilities(7)](https://man7.org/linux/man-pages/man7/capabilities.7.html).
    pub fn capabilities_needed(&self) -> u64 {
        const CHOWN: u64 = 1 << 0;
        const DAC_OVERRIDE: u64 = 1 << 1;
        const FOWNER: u64 = 1 << 3;
        const FSETID: u64 = 1 << 4;
        const SYS_ADMIN: u64 = 1 << 21;
        const SETFCAP: u64 = 1 << 31;
        let owned = |entry: &Entry| {
            matches!(entry.work, Work::File { owner: Some(_), .. } | Work::Directory { owner: Some(_), .. })
        };
        let copies_up = |entry: &Entry| match &entry.work {
            Work::Overlay { upper, .. } => !matches!(upper, UpperPlan::None),
            _ => false,
        };
        let mut needed = SYS_ADMIN;
        if self.entries.iter().any(owned) {
            needed |= CHOWN | DAC_OVERRIDE | FOWNER;
        }
        if self.entries.iter().any(copies_up) {
            needed |= CHOWN | DAC_OVERRIDE | FOWNER | FSETID | SETFCAP;
        }
        needed
    }

    /// Whether `/dev/pts` of the view is a devpts of its own, for terminals that no other view has.
    pub fn has_terminals(&self) -> bool {
        let covers =
            |entry: &&Entry| entry.work.is_mount() && Path::new("/dev/pts").starts_with(&entry.shown);
        let last = self.entries.iter().rev().find(covers);
        last.is_some_and(|entry| entry.work.is_filesystem("devpts"))
    }

    /// Whether a file system of this name (`sysfs`, `mqueue`) is mounted in it.
    pub fn mounts_filesystem(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| entry.work.is_filesystem(name))
    }

    /// Whether `/dev/null` is the device of a [`Dev`](crate::Dev), which is bound read-only, `nosuid` and `noexec`.
    pub(crate) fn null_is_inert(&self) -> bool {
        let null = Path::new("dev/null");
        let covers = |entry: &&Entry| entry.work.is_mount() && null.starts_with(&entry.place);
        let Some(entry) = self.entries.iter().rev().find(covers) else { return false };
        let Work::Tree(index) = entry.work else { return false };
        let inert = MountFlags::READ_ONLY | MountFlags::NOSUID | MountFlags::NOEXEC;
        let is = |tree: &Copied| tree.device && tree.source.device == (1, 3) && tree.flags.contains(inert);
        entry.place == null && self.trees[index].copied().is_some_and(is)
    }

    /// Whether a scratch file system is needed: for overlays, whose layers get short names in it, and for files that
    /// are mounted over others.
    pub(crate) fn needs_scratch(&self) -> bool {
        let needs = |entry: &Entry| matches!(entry.work, Work::Overlay { .. }) || entry.is_mounted_file();
        self.entries.iter().any(needs)
    }
}
