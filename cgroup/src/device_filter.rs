//! Device programs on a group: attach, swap, query, remove.

use std::os::fd::{AsFd, OwnedFd};

use crate::cgroup::Cgroup;
use crate::device::DeviceRules;
use crate::device_program::DeviceProgram;
use crate::error::{Error, ErrorKind, Result};
use crate::sys;

/// A device program that is attached to a group.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AttachedProgram {
    /// The kernel's number of the program.
    pub id: u32,
    /// Its instructions as the kernel has them.
    pub program: DeviceProgram,
}

impl Cgroup {
    /// Puts device rules in force for this group and all below, in place of what this group had. The kernel asks the
    /// programs of every group up to the root and wants a yes from each, so a group below can narrow but not widen.
    ///
    /// The swap is atomic: every open sees the old rules or the new ones. (Where several programs were attached, the new
    /// one comes first and the old ones go then: between, both are in force.) Devices that are open stay open.
    ///
    /// Needs `CAP_BPF` and `CAP_NET_ADMIN` (or `CAP_SYS_ADMIN`) in the initial user namespace. Works on every v2
    /// hierarchy, beside v1 too.
    ///
    /// # Errors
    /// [`NotDelegated`](ErrorKind::NotDelegated) without these capabilities, or where a group above attached a program
    /// that forbids others below; [`Refused`](ErrorKind::Refused) by the verifier.
    pub fn set_devices(&self, rules: &DeviceRules) -> Result<()> {
        let program = rules.compile();
        let new = sys::bpf_load(&program.insns).map_err(|e| self.bpf_error("load device program", &e))?;
        let old = self.attached()?;
        let attach = |replace: Option<&OwnedFd>| {
            sys::bpf_attach(self.as_fd(), new.as_fd(), replace.map(AsFd::as_fd))
                .map_err(|e| self.bpf_error("attach device program", &e))
        };
        match &old[..] {
            [(_, only)] => attach(Some(only))?,
            several => {
                attach(None)?;
                self.detach(several)?;
            }
        }
        let id = sys::bpf_info(new.as_fd()).map_err(|e| self.bpf_error("query device program", &e))?.0;
        match self.attached()?.as_slice() {
            [(one, _)] if *one == id => Ok(()),
            _ => {
                Err(Error::new(ErrorKind::NotVerified, "somebody else changed the device programs meanwhile")
                    .at(self.path()))
            }
        }
    }

    /// Takes this group's own device rules away; those of groups above stay in force.
    ///
    /// # Errors
    /// As [`Cgroup::set_devices`].
    pub fn clear_devices(&self) -> Result<()> {
        self.detach(&self.attached()?)
    }

    /// The device programs of this group, without those of the groups above.
    ///
    /// # Errors
    /// [`NotDelegated`](ErrorKind::NotDelegated) without the capabilities of [`Cgroup::set_devices`].
    pub fn device_programs(&self) -> Result<Vec<AttachedProgram>> {
        let one = |(id, fd): (u32, OwnedFd)| {
            let (_, insns) =
                sys::bpf_info(fd.as_fd()).map_err(|e| self.bpf_error("read device program", &e))?;
            Ok(AttachedProgram { id, program: DeviceProgram { insns } })
        };
        self.attached()?.into_iter().map(one).collect()
    }

    fn attached(&self) -> Result<Vec<(u32, OwnedFd)>> {
        let ids = sys::bpf_query(self.as_fd()).map_err(|e| self.bpf_error("query device programs", &e))?;
        let mut open = Vec::with_capacity(ids.len());
        for id in ids {
            match sys::bpf_fd_by_id(id) {
                Ok(fd) => open.push((id, fd)),
                // Detached by somebody else since.
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
                Err(e) => return Err(self.bpf_error("open device program", &e)),
            }
        }
        Ok(open)
    }

    fn detach(&self, programs: &[(u32, OwnedFd)]) -> Result<()> {
        for (_, fd) in programs {
            match sys::bpf_detach(self.as_fd(), fd.as_fd()) {
                Err(e) if e.raw_os_error() != Some(libc::ENOENT) => {
                    return Err(self.bpf_error("detach device program", &e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn bpf_error(&self, what: &'static str, e: &std::io::Error) -> Error {
        let error = Error::io(what, self.path(), e);
        match e.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => error.hint(
                "device rules need CAP_BPF and CAP_NET_ADMIN (or CAP_SYS_ADMIN) in the initial user namespace; \
                 without them leave the nodes out of /dev instead",
            ),
            Some(libc::ENOSYS) => error.kinded(ErrorKind::Unsupported).hint("this kernel, or a filter, has no bpf(2)"),
            _ => error,
        }
    }
}
