//! What execve(2) makes of a thread's credentials, as a pure function.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use crate::{
    CapabilitySet, Credentials, Error, ErrorKind, FileCapabilities, Gid, Ids, Result, Securebits, Uid,
};

/// What of an executable file the kernel goes by when it makes the new credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ExecFile {
    /// Its owner, if the set-user-ID bit is set.
    pub set_uid: Option<Uid>,
    /// Its group, if the set-group-ID bit and the group's execute bit are set.
    pub set_gid: Option<Gid>,
    /// Its file capabilities.
    pub capabilities: Option<FileCapabilities>,
    /// Whether its mount, or a mount in another user namespace, takes away all of the above.
    pub nosuid: bool,
}

impl ExecFile {
    /// An ordinary program: no bits, no capabilities.
    pub fn plain() -> Self {
        Self::default()
    }

    /// Reads them from an open file (not `O_PATH`).
    ///
    /// # Errors
    /// [`ErrorKind::System`] from fstat(2), fstatvfs(3), fgetxattr(2); [`ErrorKind::Syntax`] for a damaged attribute.
    pub fn of(file: impl AsFd) -> Result<Self> {
        let fd = file.as_fd();
        let failed = |error: &std::io::Error| Error::io(error, "look at the program");
        let file = File::from(fd.try_clone_to_owned().map_err(|error| failed(&error))?);
        let metadata = file.metadata().map_err(|error| failed(&error))?;
        let mount = nix::sys::statvfs::fstatvfs(&file)
            .map_err(|errno| Error::os(errno as i32, "fstatvfs of the program"))?;
        let has = |bits: u32| metadata.mode() & bits == bits;
        Ok(Self {
            set_uid: has(libc::S_ISUID).then(|| Uid::new(metadata.uid())).flatten(),
            set_gid: has(libc::S_ISGID | libc::S_IXGRP).then(|| Gid::new(metadata.gid())).flatten(),
            capabilities: FileCapabilities::of(fd)?,
            nosuid: mount.flags().contains(nix::sys::statvfs::FsFlags::ST_NOSUID),
        })
    }
}

impl Credentials {
    /// The credentials after the exec of `file`, by the rules of security/commoncap.c.
    ///
    /// For a thread that is not traced and shares its directory with no other process. Where real and effective ids
    /// differ before the exec, or a set-group-ID program has a group that the thread is a member of already, this
    /// follows Linux 6.18, which keeps the ambient set then; older kernels clear it.
    ///
    /// # Errors
    /// [`ErrorKind::Permission`], as exec answers `EPERM`: the file's capabilities are effective at once and the
    /// bounding set does not let all of them through.
    pub fn after_exec(&self, file: &ExecFile) -> Result<Self> {
        let old = &self.capabilities;
        let bits = self.securebits.unwrap_or_default();
        let mut new = self.clone();

        if !file.nosuid && !self.no_new_privs {
            new.uid.effective = file.set_uid.unwrap_or(self.uid.effective);
            new.gid.effective = file.set_gid.unwrap_or(self.gid.effective);
        }

        let mut permitted = CapabilitySet::EMPTY;
        let mut effective = false;
        let file_caps = FileCapabilities::that_hold(file.capabilities.as_ref()).filter(|_| !file.nosuid);
        if let Some(caps) = file_caps {
            permitted = (old.bounding & caps.permitted) | (old.inheritable & caps.inheritable);
            effective = caps.effective;
            // The kernel passes over bits of the file that are no capability of its own.
            let asked = caps.permitted & (CapabilitySet::KNOWN | old.bounding);
            if effective && !permitted.contains_all(asked) {
                let short = asked - permitted;
                return Err(Error::new(
                    ErrorKind::Permission,
                    format!("exec: the file's capabilities {short} are not in the bounding set"),
                )
                .errno_is(libc::EPERM));
            }
        }

        // User 0 has the capabilities of a file that has them all, unless the file's own are made for set-user-ID root.
        let set_uid_root = new.uid.effective == Uid::ROOT && new.uid.real != Uid::ROOT;
        let root_counts = !bits.contains(Securebits::NOROOT);
        let for_set_uid_root = file_caps.is_some() && set_uid_root;
        if root_counts && !for_set_uid_root {
            if new.uid.effective == Uid::ROOT || new.uid.real == Uid::ROOT {
                permitted = old.bounding | old.inheritable;
            }
            effective |= new.uid.effective == Uid::ROOT;
        }

        let in_group = new.gid.effective == self.gid.effective
            || self.groups.as_ref().is_some_and(|groups| groups.contains(&new.gid.effective));
        let id_changed = new.uid.effective != self.uid.effective || !in_group;
        if (id_changed || !old.permitted.contains_all(permitted)) && self.no_new_privs {
            new.uid.effective = new.uid.real;
            new.gid.effective = new.gid.real;
            permitted = permitted & old.permitted;
        }
        new.uid = Ids { saved: new.uid.effective, ..new.uid };
        new.gid = Ids { saved: new.gid.effective, ..new.gid };

        let caps = &mut new.capabilities;
        if file_caps.is_some() || id_changed {
            caps.ambient = CapabilitySet::EMPTY;
        }
        caps.permitted = permitted | caps.ambient;
        caps.effective = if effective { caps.permitted } else { caps.ambient };
        new.securebits = self.securebits.map(|bits| bits - Securebits::KEEP_CAPS);
        Ok(new)
    }
}
