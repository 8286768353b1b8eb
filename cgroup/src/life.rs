//! Freeze, thaw, kill, wait until empty, remove.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::cgroup::Cgroup;
use crate::dir::Dir;
use crate::error::{Error, ErrorKind, Result};
use crate::events::Events;
use crate::sys;

impl Cgroup {
    /// Stops every process in the group and below, and waits until all are stopped. New ones stop too. A frozen process
    /// can still be killed, moved and debugged.
    ///
    /// # Errors
    /// [`TimedOut`](ErrorKind::TimedOut) if a process does not stop in time (one in an uninterruptible wait, such as a
    /// `vfork(2)` parent); the group stays asked to freeze.
    #[doc(alias = "cgroup.freeze")]
    pub fn freeze(&self, timeout: Duration) -> Result<()> {
        self.set_frozen(true, timeout)
    }

    /// Lets the processes run on, and waits until the group is no longer frozen.
    ///
    /// # Errors
    /// [`TimedOut`](ErrorKind::TimedOut) if a group above is frozen, which keeps this one frozen too.
    #[doc(alias = "cgroup.freeze")]
    pub fn thaw(&self, timeout: Duration) -> Result<()> {
        self.set_frozen(false, timeout)
    }

    fn set_frozen(&self, frozen: bool, timeout: Duration) -> Result<()> {
        let mut watch = self.watch::<Events>()?;
        self.dir.write("cgroup.freeze", if frozen { "1" } else { "0" })?;
        let what = if frozen { "the group did not freeze in time" } else { "the group did not thaw in time" };
        match watch.wait_until(timeout, |e| e.frozen == frozen) {
            Err(e) if e.kind() == ErrorKind::TimedOut => {
                Err(Error::new(ErrorKind::TimedOut, what).at(self.path()))
            }
            other => other.map(drop),
        }
    }

    /// Sends SIGKILL to every process in the group and below, forks in flight included: `cgroup.kill` (5.14). On older
    /// kernels the group is frozen and each process killed by its pidfd until none is left.
    ///
    /// # Errors
    /// [`CallerInside`](ErrorKind::CallerInside) rather than killing the calling process; `EOPNOTSUPP` in a threaded
    /// group, whose domain is to be killed instead.
    #[doc(alias = "cgroup.kill")]
    pub fn kill(&self) -> Result<()> {
        // Where /proc does not tell, killing a confined tree matters more than this courtesy to the caller.
        if self.contains_caller().unwrap_or(false) {
            return Err(Error::new(ErrorKind::CallerInside, "would kill the calling process").at(self.path()));
        }
        match self.dir.write("cgroup.kill", "1") {
            Err(e) if e.kind() == ErrorKind::Unsupported => self.kill_each(),
            other => other,
        }
    }

    /// The way before 5.14. Processes that fork while they are listed are found by listing until nobody is left.
    pub(crate) fn kill_each(&self) -> Result<()> {
        const ROUNDS: usize = 100;
        for _ in 0..ROUNDS {
            // Frozen processes do not fork. One that does not freeze in time is killed all the same.
            match self.freeze(Duration::from_millis(100)) {
                Err(e) if e.kind() != ErrorKind::TimedOut => return Err(e),
                _ => {}
            }
            let killed = self.kill_listed();
            // A group that thaws only when its processes are dead is no error; one that stays populated is, below.
            self.dir.write("cgroup.freeze", "0")?;
            killed?;
            match self.wait_empty(Duration::from_millis(50)) {
                Err(e) if e.kind() == ErrorKind::TimedOut => {}
                other => return other,
            }
        }
        Err(Error::new(ErrorKind::Busy, "processes survive being killed one by one").at(self.path()))
    }

    fn kill_listed(&self) -> Result<()> {
        let mut groups = vec![self.clone()];
        while let Some(group) = groups.pop() {
            for pid in group.procs()?.into_iter().filter(|p| *p != 0) {
                let Ok(pidfd) = sys::pidfd_open(pid) else { continue };
                // The number may have passed to another process before the pidfd was opened; not after.
                if group.procs()?.contains(&pid) {
                    match sys::pidfd_kill(pidfd.as_fd()) {
                        Err(e) if e.raw_os_error() != Some(libc::ESRCH) => {
                            return Err(Error::io("kill", group.path(), &e).value(pid.to_string()));
                        }
                        _ => {}
                    }
                }
            }
            groups.extend(group.children()?);
        }
        Ok(())
    }

    /// Waits until no live process is left in the group and below. Zombies do not count.
    ///
    /// # Errors
    /// [`TimedOut`](ErrorKind::TimedOut); [`Gone`](ErrorKind::Gone) if the group is removed meanwhile.
    pub fn wait_empty(&self, timeout: Duration) -> Result<()> {
        match self.watch::<Events>()?.wait_until(timeout, |e| !e.populated) {
            Err(e) if e.kind() == ErrorKind::TimedOut => {
                Err(Error::new(ErrorKind::TimedOut, "processes are still inside").at(self.path()))
            }
            other => other.map(drop),
        }
    }

    /// Kills everything inside, waits until it is dead, and removes the group with all groups below it. A group that is
    /// gone already is fine, so this can be called again after a crash.
    ///
    /// # Errors
    /// [`CallerInside`](ErrorKind::CallerInside); [`TimedOut`](ErrorKind::TimedOut) or [`Busy`](ErrorKind::Busy) when the
    /// time is over: a process in an uninterruptible wait, or somebody who keeps filling the group.
    pub fn destroy(&self, timeout: Duration) -> Result<()> {
        let (Some(parent), Some(name)) =
            (gone_is_none(self.dir.parent())?.flatten(), self.path().file_name())
        else {
            return if self.dir.has("cgroup.procs") {
                Err(Error::new(ErrorKind::Busy, "the root of a hierarchy cannot be removed").at(self.path()))
            } else {
                Ok(())
            };
        };
        // Mostly everybody is gone already.
        match parent.rmdir(name) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::EBUSY | Errno::ENOTEMPTY) => {}
            Err(e) => return Err(Error::os("remove group", self.path(), e as i32)),
        }
        self.destroy_by_force(&parent, timeout)
    }

    fn destroy_by_force(&self, parent: &Dir, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout.min(Duration::from_secs(3600));
        let mut pause = Duration::from_micros(100);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let emptied = self.kill().and_then(|()| self.wait_empty(left));
            if gone_is_none(emptied)?.is_none() || remove_tree(parent, &self.dir)? {
                return Ok(());
            }
            // A dying process leaves `populated` a moment before it lets go of the directory.
            if left.is_zero() {
                return Err(Error::new(ErrorKind::Busy, "the group cannot be removed").at(self.path()));
            }
            sleep(pause.min(left));
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }
}

fn gone_is_none<T>(r: Result<T>) -> Result<Option<T>> {
    match r {
        Ok(v) => Ok(Some(v)),
        Err(e) if e.kind() == ErrorKind::Gone => Ok(None),
        Err(e) => Err(e),
    }
}

/// Removes the groups below `top`, then `top` itself; `false` if something was busy. Needs two descriptors whatever the
/// depth: a payload with a delegated group can make it deep.
fn remove_tree(parent: &Dir, top: &Dir) -> Result<bool> {
    let name = |d: &Dir| d.path().file_name().map(OsString::from).unwrap_or_default();
    let mut clean = true;
    let mut at = top.clone();
    // For each level below `parent`: the groups still to be removed there.
    let mut levels = vec![at.children()?];
    loop {
        match levels.last_mut().and_then(Vec::pop) {
            Some(child) => match at.rmdir(&child) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(Errno::EBUSY | Errno::ENOTEMPTY) => {
                    let Some(below) = gone_is_none(at.child(&child))? else { continue };
                    levels.push(below.children()?);
                    at = below;
                }
                Err(e) => return Err(Error::os("remove group", &at.path().join(child), e as i32)),
            },
            None => {
                levels.pop();
                let up = if levels.is_empty() {
                    parent.clone()
                } else {
                    at.parent()?.unwrap_or_else(|| parent.clone())
                };
                match up.rmdir(&name(&at)) {
                    Ok(()) | Err(Errno::ENOENT) => {}
                    Err(Errno::EBUSY | Errno::ENOTEMPTY) => clean = false,
                    Err(e) => return Err(Error::os("remove group", at.path(), e as i32)),
                }
                if levels.is_empty() {
                    return Ok(clean);
                }
                at = up;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;
    use std::process::Command;

    /// The fallback of kernels before 5.14, which every later kernel would never take.
    #[test]
    fn processes_are_killed_one_by_one_where_there_is_no_cgroup_kill() {
        let home =
            Cgroup::delegated().and_then(|d| d.create_unique("palisade-test-kill-each", &Limits::new()));
        let home = match home {
            Ok(home) => home,
            Err(e) => palisade_testkit::skip!(e, needs = "cgroup2"),
        };
        let below = home.create("below", &Limits::new()).expect("created");
        let mut shells = Vec::new();
        for group in [&home, &below] {
            let mut c = Command::new("/bin/sh");
            c.arg("-c").arg("while :; do (:); sleep 1000 & sleep 0.01; done");
            group.confine(&mut c).expect("may enter");
            shells.push(c.spawn().expect("starts"));
        }
        sleep(Duration::from_millis(50));
        home.kill_each().expect("all dead");
        assert!(!home.events().expect("readable").populated);
        for mut s in shells {
            assert!(!s.wait().expect("reaped").success());
        }
        home.remove().expect("removed");
    }
}
