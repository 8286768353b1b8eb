//! Process ids in pid namespaces.

use std::os::fd::AsFd as _;

use crate::error::{Error, ErrorKind, Result};
use crate::handle::{Ns, kind};
use crate::sys;

impl Ns<kind::Pid> {
    /// The caller's number of the process that is `pid` in this namespace.
    ///
    /// Asks the kernel (Linux 6.11), or else looks through `/proc`, where a process may come and go meanwhile.
    ///
    /// # Errors
    /// [`ErrorKind::Gone`] if there is none, or none with a number in the caller's pid namespace.
    #[doc(alias = "NS_GET_PID_FROM_PIDNS")]
    pub fn pid_to_caller(&self, pid: u32) -> Result<u32> {
        let translated = sys::ns_pid(self.as_fd(), sys::nsfs::PID_TO_CALLER, pid);
        self.or_from_proc(translated, pid, |ids| (ids.in_namespace == Some(pid)).then_some(ids.caller))
    }

    /// The number in this namespace of the process that is `pid` to the caller.
    ///
    /// As [`Ns::pid_to_caller`].
    ///
    /// # Errors
    /// [`ErrorKind::Gone`] if there is no such process, or it is not in this namespace or one below it.
    #[doc(alias = "NS_GET_PID_IN_PIDNS")]
    pub fn pid_from_caller(&self, pid: u32) -> Result<u32> {
        let translated = sys::ns_pid(self.as_fd(), sys::nsfs::PID_FROM_CALLER, pid);
        self.or_from_proc(translated, pid, |ids| if ids.caller == pid { ids.in_namespace } else { None })
    }

    /// The caller's number of its pid 1, at whose end all of its processes are killed.
    ///
    /// # Errors
    /// [`ErrorKind::Gone`] if it has ended, or has no number in the caller's pid namespace.
    pub fn init(&self) -> Result<u32> {
        self.pid_to_caller(1)
    }

    fn or_from_proc(
        &self,
        translated: std::io::Result<u32>,
        pid: u32,
        found: impl Fn(&Ids) -> Option<u32>,
    ) -> Result<u32> {
        let gone =
            || Error::new(ErrorKind::Gone, format!("{self} and the caller's do not both know process {pid}"));
        match translated {
            // A thread or process without a number there is 0.
            Ok(0) => Err(gone()),
            Ok(pid) => Ok(pid),
            Err(e) => match e.raw_os_error() {
                Some(libc::ESRCH) => Err(gone()),
                Some(libc::ENOTTY) => self.ids()?.iter().find_map(found).ok_or_else(gone),
                _ => Err(Error::io(&e, format!("translating process {pid} of {self}"))),
            },
        }
    }

    /// All processes that the caller sees, with their numbers in this namespace.
    fn ids(&self) -> Result<Vec<Ids>> {
        let depth = self.depth()?;
        let proc =
            std::fs::read_dir("/proc").map_err(|e| Error::io(&e, "read /proc").kind_is(ErrorKind::NoProc))?;
        let pids = proc.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        // Processes that end while we look are left out.
        Ok(pids.filter_map(|pid| self.ids_of(pid, depth)).collect())
    }

    fn ids_of(&self, pid: u32, depth: usize) -> Option<Ids> {
        let status = std::fs::read(format!("/proc/{pid}/status")).ok()?;
        let numbers = ns_pids(&status);
        let mut namespace = Some(Self::of_process(pid).ok()?);
        // The last number is that in the process's own namespace; the one `depth` below ours is this.
        while let Some(at) = namespace {
            if at == *self {
                return Some(Ids { caller: pid, in_namespace: numbers.get(depth).copied() });
            }
            namespace = at.parent().ok()?;
        }
        Some(Ids { caller: pid, in_namespace: None })
    }

    /// How many levels below the pid namespace of the caller it is.
    fn depth(&self) -> Result<usize> {
        let caller = Self::current()?;
        let mut depth = 0;
        let mut at = self.clone();
        while at != caller {
            at = at.parent()?.ok_or_else(|| {
                Error::new(ErrorKind::Gone, format!("{self} is not the caller's pid namespace or below it"))
            })?;
            depth += 1;
        }
        Ok(depth)
    }
}

struct Ids {
    caller: u32,
    in_namespace: Option<u32>,
}

/// The `NSpid:` line of a status file: a process's numbers, from the reader's pid namespace down to its own.
fn ns_pids(status: &[u8]) -> Vec<u32> {
    let line = status.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(b"NSpid:"));
    let text = line.and_then(|line| std::str::from_utf8(line).ok()).unwrap_or_default();
    text.split_ascii_whitespace().filter_map(|n| n.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ns_pids_are_read() {
        assert_eq!(ns_pids(b"Name:\tx\nNSpid:\t30300\t3\nNSpgid:\t1\n"), [30300, 3]);
        assert_eq!(ns_pids(b"Name:\tNSpid: 5\n"), [] as [u32; 0]);
        assert_eq!(ns_pids(b""), [] as [u32; 0]);
    }

    /// The way of old kernels says the same as the kernel's own translation.
    #[test]
    fn looking_through_proc_agrees_with_the_kernel() {
        let own = Ns::<kind::Pid>::current().unwrap();
        let ids = own.ids().unwrap();
        let me = ids.iter().find(|ids| ids.caller == std::process::id()).unwrap();
        assert_eq!(me.in_namespace, Some(std::process::id()));
        for ids in ids {
            if let Some(inside) = ids.in_namespace {
                assert_eq!(inside, ids.caller);
            }
        }
    }

    #[test]
    fn a_child_namespace_is_read_both_ways() {
        if !palisade_testkit::can_unshare_user() {
            palisade_testkit::skip!("no user namespaces here", needs = "userns");
        }
        palisade_testkit::in_child(|| {
            use crate::namespace::Namespace;
            crate::unshare(Namespace::User | Namespace::Pid).unwrap();
            let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
            let inside = Ns::<kind::Pid>::for_children().unwrap();
            let by_proc = inside.ids().unwrap();
            let found = by_proc.iter().find(|ids| ids.in_namespace == Some(1)).map(|ids| ids.caller);
            assert_eq!(found, Some(child.id()));
            assert_eq!(inside.init().unwrap(), child.id());
            assert_eq!(inside.pid_from_caller(child.id()).unwrap(), 1);
            assert_eq!(inside.pid_to_caller(2).unwrap_err().kind(), ErrorKind::Gone);
            assert_eq!(inside.pid_from_caller(std::process::id()).unwrap_err().kind(), ErrorKind::Gone);
            child.kill().unwrap();
            child.wait().unwrap();
            assert_eq!(inside.init().unwrap_err().kind(), ErrorKind::Gone);
        });
    }
}
