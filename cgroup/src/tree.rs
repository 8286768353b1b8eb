//! Delegation and controllers: where this process may make groups, and what they get.

use std::ffi::OsStr;

use nix::errno::Errno;

use crate::cgroup::{Cgroup, Kind};
use crate::controller::{Controller, Controllers};
use crate::dir::check_name;
use crate::error::{DELEGATE_HINT, Error, ErrorKind, READ_ONLY_HINT, Result};
use crate::hierarchy::{held_by_v1, read_proc};
use crate::sys;

const VACATE_HINT: &str = "move them into a leaf first (Cgroup::vacate)";

impl Cgroup {
    /// The group below which this process may make groups of its own.
    ///
    /// - Where systemd marked a group at or above the caller's as delegated (`Delegate=yes`), that subtree counts.
    ///   On a system run by systemd nothing else does, not even for root: systemd may undo what others do to its groups.
    /// - Elsewhere it is whatever the caller may write to: the group above its own, if no process sits right in it (a
    ///   directory handed over with the caller in a leaf of it), else its own.
    ///
    /// If the result is the caller's own group, controllers can be enabled in it only after [`Cgroup::vacate`], since
    /// no process may sit in a group that hands controllers on. The root of the hierarchy is exempt from that.
    ///
    /// # Errors
    /// [`NotDelegated`](ErrorKind::NotDelegated) with the remedy; and as [`Cgroup::own`].
    pub fn delegated() -> Result<Cgroup> {
        let own = Cgroup::own()?;
        let marked = own.marked_delegated()?;
        let systemd = std::path::Path::new("/run/systemd/system").is_dir();
        let refused = |hint: &'static str| {
            Err(Error::new(ErrorKind::NotDelegated, "this process sits in no delegated cgroup")
                .at(own.path())
                .hint(hint))
        };
        if systemd && !marked {
            return refused(DELEGATE_HINT);
        }
        if let Some(above) = own.parent()? {
            let inside = !systemd || above.marked_delegated()?;
            if inside
                && above.writable().is_ok()
                && above.kind()? != Kind::Threaded
                && above.procs()?.is_empty()
            {
                return Ok(above);
            }
        }
        match own.writable() {
            Ok(()) => Ok(own),
            Err(Errno::EROFS) => refused(READ_ONLY_HINT),
            Err(_) => refused(DELEGATE_HINT),
        }
    }

    /// Whether this group or one above it carries systemd's mark.
    fn marked_delegated(&self) -> Result<bool> {
        let mut at = Some(self.clone());
        while let Some(group) = at {
            let fd = std::os::fd::AsFd::as_fd(&group);
            // Only root can read the first; older systemd writes no other.
            if sys::xattr_is_one(fd, c"trusted.delegate") || sys::xattr_is_one(fd, c"user.delegate") {
                return Ok(true);
            }
            at = group.parent()?;
        }
        Ok(false)
    }

    fn writable(&self) -> Result<(), Errno> {
        [".", "cgroup.procs", "cgroup.subtree_control"].iter().try_for_each(|f| self.dir.writable(f))
    }

    /// Hands controllers on to the groups below this one, enabling them in the groups above first where they lack.
    /// What is enabled already is left alone.
    ///
    /// # Errors
    /// Each names the group at fault and the controller:
    /// [`ControllerMissing`](ErrorKind::ControllerMissing) where the hierarchy does not have it (a v1 hierarchy may
    /// hold it), [`NotDelegated`](ErrorKind::NotDelegated) where the caller may not enable it, [`Busy`](ErrorKind::Busy)
    /// where processes sit right in the group (see [`Cgroup::vacate`]).
    #[doc(alias = "cgroup.subtree_control")]
    pub fn enable(&self, controllers: &Controllers) -> Result<()> {
        if controllers.is_empty() {
            return Ok(());
        }
        let lacking = controllers.without(&self.subtree_control()?);
        if lacking.is_empty() {
            return Ok(());
        }
        if self.kind()? == Kind::Domain && !self.procs()?.is_empty() {
            // For cpu, cpuset and pids the kernel would not refuse, but make this a threaded domain: no process could
            // enter the groups below.
            return Err(self.occupied(&lacking));
        }
        let not_offered = lacking.without(&self.controllers()?);
        if !not_offered.is_empty() {
            match self.parent()? {
                Some(above) if self.kind()? != Kind::Root => above.enable(&not_offered)?,
                _ => return Err(self.not_in_hierarchy(not_offered.iter().next())),
            }
        }
        // One by one, so that an error is about one controller.
        for c in lacking.iter() {
            let value = format!("+{c}");
            self.dir
                .try_write("cgroup.subtree_control", &value)
                .map_err(|errno| self.cannot_enable(c, value, errno))?;
        }
        Ok(())
    }

    fn occupied(&self, lacking: &Controllers) -> Error {
        let e = Error::new(ErrorKind::Busy, "processes sit right in a group that is to hand controllers on");
        e.for_controller(lacking.iter().next().map_or("", Controller::name)).at(self.path()).hint(VACATE_HINT)
    }

    fn cannot_enable(&self, c: &Controller, value: String, errno: i32) -> Error {
        let e = self.dir.explain("enable for the groups below", "cgroup.subtree_control", errno);
        let e = e.at(self.path()).for_controller(c.name()).value(value);
        match errno {
            libc::EBUSY => e.hint(VACATE_HINT),
            libc::ENOENT => {
                e.kinded(ErrorKind::ControllerMissing).hint("this group does not have the controller")
            }
            libc::EOPNOTSUPP => {
                e.kinded(ErrorKind::Busy).hint("the group is threaded: only cpu, cpuset, pids, perf_event")
            }
            _ => e,
        }
    }

    fn not_in_hierarchy(&self, c: Option<&Controller>) -> Error {
        let name = c.map_or("", Controller::name);
        let v1 = read_proc("/proc/self/cgroup").is_ok_and(|text| held_by_v1(&text, name));
        let hint = if v1 {
            "cgroup v1 holds this controller here (hybrid layout): boot with systemd.unified_cgroup_hierarchy=1 or \
             cgroup_no_v1=all; without it this crate can create, kill, freeze, watch and filter devices, not limit"
        } else {
            "the root group that this process sees does not offer it: enable it further up, outside of this container, \
             or use a kernel that has it"
        };
        Error::new(ErrorKind::ControllerMissing, "the controller is not available")
            .for_controller(name)
            .at(self.path())
            .hint(hint)
    }

    /// Who is to blame that groups below this one lack a controller: the highest group that has it and does not hand
    /// it on, or the root if it is nowhere.
    pub(crate) fn lacks(&self, c: &Controller) -> Option<Error> {
        let mut at = self.clone();
        loop {
            if at.controllers().ok()?.contains(c) {
                let e = Error::new(
                    ErrorKind::ControllerMissing,
                    "the controller is not enabled for the groups below",
                );
                return Some(
                    e.for_controller(c.name())
                        .at(at.path())
                        .hint("Cgroup::enable does it, given the right to"),
                );
            }
            match at.parent().ok()? {
                Some(above) => at = above,
                None => return Some(at.not_in_hierarchy(Some(c))),
            }
        }
    }

    /// Moves every process that sits right in this group into a group of this name below it, made if need be, so
    /// that controllers can be enabled here. The usual first step of a program that was started alone in a delegated
    /// scope; the caller moves too if it is inside. Where there is nothing to do nothing is done: nobody inside, or the
    /// root of the hierarchy, which may hold processes.
    ///
    /// # Errors
    /// [`Busy`](ErrorKind::Busy) if processes keep appearing or cannot be seen from the caller's pid namespace; and as
    /// [`Cgroup::add_process`].
    pub fn vacate(&self, leaf: impl AsRef<OsStr>) -> Result<()> {
        const ROUNDS: usize = 100;
        let name = leaf.as_ref();
        check_name(name)?;
        if self.kind()? == Kind::Root || self.procs()?.is_empty() {
            return Ok(());
        }
        match self.dir.mkdir(name) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(e) => return Err(Error::os("create group", &self.path().join(name), e as i32)),
        }
        let leaf = self.child(name)?;
        for _ in 0..ROUNDS {
            let inside = self.procs()?;
            if inside.is_empty() {
                return Ok(());
            }
            for pid in inside.into_iter().filter(|p| *p != 0) {
                match leaf.add_process(pid) {
                    Err(e) if e.errno() == Some(libc::ESRCH) => {}
                    other => other?,
                }
            }
        }
        Err(Error::new(ErrorKind::Busy, "processes that could not be moved stay in the group")
            .at(self.path())
            .hint("they keep forking, or live in a pid namespace outside of the caller's"))
    }
}
