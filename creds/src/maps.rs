//! Giving a user namespace its maps: written directly where that is allowed, else by newuidmap and newgidmap.

use std::ffi::CStr;
use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use palisade_sys::{Fd, Program};

use crate::helper::{Helper, Tool};
use crate::{
    Capability, Error, ErrorKind, Gid, IdMap, Result, SubIds, SubRange, ThreadCapabilities, Uid, proc_dir,
    sys, user,
};

/// Whether a namespace's processes may call setgroups(2), as `/proc/PID/setgroups` spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Setgroups {
    /// `allow`: the state of a new namespace.
    Allow,
    /// `deny`, for good: supplementary groups stay what they are, here and in namespaces below.
    Deny,
}

/// The two maps of a user namespace, and whether groups may be set in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Maps {
    uid: IdMap,
    gid: IdMap,
    setgroups: Setgroups,
}

impl Maps {
    /// Maps in which setgroups(2) stays allowed. An unprivileged caller whose group map is its own id alone
    /// is bound to deny it: see [`deny_setgroups`](Self::deny_setgroups).
    pub fn new(uid: IdMap, gid: IdMap) -> Self {
        Self { uid, gid, setgroups: Setgroups::Allow }
    }

    /// What an ordinary user can always have: one user and one group, setgroups denied.
    pub fn single(inside: (Uid, Gid), outside: (Uid, Gid)) -> Self {
        Self::new(IdMap::single(inside.0, outside.0), IdMap::single(inside.1, outside.1)).deny_setgroups()
    }

    /// Denies setgroups(2) in the namespace, before the group map is written.
    #[must_use]
    pub fn deny_setgroups(mut self) -> Self {
        self.setgroups = Setgroups::Deny;
        self
    }

    /// The map of user ids.
    pub fn uid(&self) -> &IdMap {
        &self.uid
    }

    /// The map of group ids.
    pub fn gid(&self) -> &IdMap {
        &self.gid
    }

    /// Whether setgroups(2) is left allowed.
    pub fn setgroups(&self) -> Setgroups {
        self.setgroups
    }
}

impl Maps {
    /// The fullest maps that the calling user may have without privilege: user and group 0 inside are the caller's
    /// own, and from 1 on come the ranges that `/etc/subuid` and `/etc/subgid` delegate to them.
    ///
    /// # Errors
    /// [`ErrorKind::NotDelegated`] if a file has no range for the caller; those of [`SubIds::of_users`].
    pub fn rootless() -> Result<Self> {
        let (uid, gid) = caller()?;
        let (users, groups) = delegated(uid, &SubIds::of_users()?, &SubIds::of_groups()?)?;
        Ok(Self::new(IdMap::rootless(uid, &users)?, IdMap::rootless(gid, &groups)?))
    }

    /// Docker's `userns-remap`: ids from 0 on are the ranges that the two files delegate to this *user* of the system,
    /// one after the other. The user need not be the caller, who needs privilege to write such maps.
    ///
    /// # Errors
    /// [`ErrorKind::NotDelegated`]; [`ErrorKind::InvalidMap`] if ranges overlap; those of reading `/etc/passwd`.
    #[doc(alias = "userns-remap")]
    pub fn remapped(user: Uid, subuid: &SubIds, subgid: &SubIds) -> Result<Self> {
        let (users, groups) = delegated(user, subuid, subgid)?;
        Ok(Self::new(IdMap::remapped(&users)?, IdMap::remapped(&groups)?))
    }

    /// Whether user or group 0 of the parent namespace is mapped: a process that becomes it inside is it outside, too.
    pub fn reaches_parent_root(&self) -> bool {
        self.uid.to_inside(Uid::ROOT).is_some() || self.gid.to_inside(Gid::ROOT).is_some()
    }

    /// The maps of the user namespace that the calling thread is in; the initial one's are [`IdMap::identity`].
    ///
    /// # Errors
    /// As [`read_maps`], and [`ErrorKind::System`] where /proc is not mounted.
    pub fn current() -> Result<Option<Self>> {
        let own = File::open("/proc/thread-self")
            .map_err(|error| Error::io(&error, "open /proc/thread-self").hint_is("/proc must be mounted"))?;
        read_maps(own.as_fd())
    }

    /// Adds the calls by which a process gives the maps to the user namespace that it is in, having made it; `proc_self`
    /// is its own directory in /proc. The kernel allows it a single line of the id that it had before, with setgroups
    /// denied. (A process that changed its user must be dumpable for it.)
    ///
    /// ```
    /// use palisade_creds::{Gid, Maps, Uid};
    /// use palisade_sys::{Fd, OpenHow, Program, Step};
    ///
    /// let mut program = Program::new();
    /// program.at(Step::LockMounts, "user namespace");
    /// program.unshare(0x1000_0000); // CLONE_NEWUSER
    /// let proc_self = program.openat2(Fd::CWD, c"/proc/self", OpenHow::default());
    /// Maps::single((Uid::ROOT, Gid::ROOT), (Uid::NOBODY, Gid::NOBODY)).add_to(&mut program, proc_self);
    /// assert!(program.to_string().contains("\"0 65534 1\\n\""));
    /// ```
    pub fn add_to(&self, program: &mut Program, proc_self: impl Into<Fd>) {
        let proc_self = proc_self.into();
        let mut write = |path: &CStr, text: &str| {
            let resolve = libc::RESOLVE_NO_XDEV | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_BENEATH;
            let how = palisade_sys::OpenHow { flags: libc::O_WRONLY, mode: 0, resolve };
            let file = program.openat2(proc_self, path, how);
            program.write_all(file, text.as_bytes());
            program.close(file);
        };
        if self.setgroups == Setgroups::Deny {
            write(c"setgroups", "deny");
        }
        write(c"gid_map", &self.gid.to_string());
        write(c"uid_map", &self.uid.to_string());
    }

    /// Decides how a child of the calling thread gets these maps, and checks beforehand what the kernel would refuse.
    ///
    /// A map is written directly if the caller has `CAP_SETUID` (`CAP_SETGID`), or if it is the caller's own id alone;
    /// else `newuidmap` (`newgidmap`) of the package uidmap must do it.
    ///
    /// # Errors
    /// - [`ErrorKind::Unmapped`]: an outside id does not exist in the caller's own user namespace.
    /// - [`ErrorKind::Conflict`]: a group map of one's own id alone, by a caller without `CAP_SETGID`, needs
    ///   [`Maps::deny_setgroups`].
    /// - [`ErrorKind::Permission`]: the caller's user 0 is mapped (not by helpers), which since Linux 5.12 takes `CAP_SETFCAP`.
    /// - [`ErrorKind::HelperMissing`]; [`ErrorKind::HelperFailed`] if the thread has no_new_privs set, under which no
    ///   helper can work.
    /// - [`ErrorKind::System`]: /proc is not there to read the caller's own map from.
    pub fn prepare(&self) -> Result<PreparedMaps> {
        let (uid, gid) = caller()?;
        let parent = Self::current()?
            .ok_or_else(|| Error::new(ErrorKind::Unmapped, "the caller's namespace has no map yet"))?;
        self.uid.check_parent(&parent.uid)?;
        self.gid.check_parent(&parent.gid)?;

        let effective = ThreadCapabilities::current()?.effective;
        let own_uid = self.uid.as_single::<Uid>().is_some_and(|(_, outside)| outside == uid);
        let own_gid = self.gid.as_single::<Gid>().is_some_and(|(_, outside)| outside == gid);
        let uid_by = if own_uid || effective.contains(Capability::Setuid) {
            if self.uid.to_inside(Uid::ROOT).is_some() && !effective.contains(Capability::Setfcap) {
                return Err(Error::new(
                    ErrorKind::Permission,
                    "mapping user 0 of this namespace takes CAP_SETFCAP",
                )
                .capability_is(Capability::Setfcap)
                .hint_is("map ids other than 0, or keep the capability"));
            }
            Writer::Direct
        } else {
            Writer::Helper(Helper::find(Tool::Newuidmap)?)
        };
        let gid_by = if effective.contains(Capability::Setgid) {
            Writer::Direct
        } else if own_gid {
            if self.setgroups == Setgroups::Allow {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!("group map '{}' without CAP_SETGID takes setgroups denied", self.gid.ranges()[0]),
                )
                .hint_is("Maps::deny_setgroups"));
            }
            Writer::Direct
        } else {
            Writer::Helper(Helper::find(Tool::Newgidmap)?)
        };
        let prepared = PreparedMaps { maps: self.clone(), uid_by, gid_by };
        let no_new_privs = sys::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0)
            .map_err(|errno| Error::os(errno, "prctl(PR_GET_NO_NEW_PRIVS)"))?;
        if prepared.uses_helpers() && no_new_privs != 0 {
            return Err(Error::new(
                ErrorKind::HelperFailed,
                "newuidmap and newgidmap could not gain their privilege: this thread has no_new_privs set",
            )
            .hint_is("prepare and apply the maps from a thread without it, or map the own id alone"));
        }
        Ok(prepared)
    }
}

fn caller() -> Result<(Uid, Gid)> {
    let no_id = || Error::new(ErrorKind::InvalidId, "the calling thread has no id");
    Ok((sys::geteuid().ok_or_else(no_id)?, sys::getegid().ok_or_else(no_id)?))
}

/// The ranges of a user in both files.
fn delegated(uid: Uid, subuid: &SubIds, subgid: &SubIds) -> Result<(Vec<SubRange>, Vec<SubRange>)> {
    let name = user::login_name(uid)?;
    let ranges = |file: &SubIds, path: &str| {
        let ranges = file.of(name.as_deref(), uid);
        if ranges.is_empty() {
            return Err(Error::new(ErrorKind::NotDelegated, format!("{path} has no range for user {uid}"))
                .hint_is("usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER"));
        }
        Ok(ranges)
    };
    Ok((ranges(subuid, "/etc/subuid")?, ranges(subgid, "/etc/subgid")?))
}

#[derive(Debug, Clone)]
enum Writer {
    Direct,
    Helper(Helper),
}

/// Maps with the decision who writes them. `Display` prints what would be done.
#[derive(Debug, Clone)]
pub struct PreparedMaps {
    maps: Maps,
    uid_by: Writer,
    gid_by: Writer,
}

impl PreparedMaps {
    /// The maps.
    pub fn maps(&self) -> &Maps {
        &self.maps
    }

    /// Whether a helper program is run for either map.
    pub fn uses_helpers(&self) -> bool {
        matches!((&self.uid_by, &self.gid_by), (Writer::Helper(_), _) | (_, Writer::Helper(_)))
    }

    /// Gives the maps to the user namespace of a child that was made in a new one. `pid_dir` is its directory in
    /// /proc; the child must not have been waited for, so that its number stays its own.
    ///
    /// In this order: `deny` to setgroups if asked, the group map, the user map. There is no second try.
    ///
    /// # Errors
    /// [`ErrorKind::NotTrusted`] if `pid_dir` is not of procfs or something is mounted over its files;
    /// [`ErrorKind::Permission`] where the kernel refuses; [`ErrorKind::HelperFailed`] and [`ErrorKind::NotDelegated`]
    /// with what the helper said.
    pub fn apply(&self, pid_dir: BorrowedFd<'_>) -> Result<()> {
        if self.maps.setgroups == Setgroups::Deny {
            proc_dir::write(pid_dir, "setgroups", b"deny")?;
        }
        self.write_one(pid_dir, &self.gid_by, "gid_map", &self.maps.gid)?;
        self.write_one(pid_dir, &self.uid_by, "uid_map", &self.maps.uid)
    }

    fn write_one(&self, pid_dir: BorrowedFd<'_>, by: &Writer, file: &str, map: &IdMap) -> Result<()> {
        match by {
            Writer::Direct => proc_dir::write(pid_dir, file, map.to_string().as_bytes()),
            Writer::Helper(helper) => helper.run(proc_dir::pid_of(pid_dir)?, map),
        }
    }
}

impl fmt::Display for PreparedMaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.maps.setgroups == Setgroups::Deny {
            writeln!(f, "write \"deny\" to setgroups")?;
        }
        for (by, file, map) in
            [(&self.gid_by, "gid_map", &self.maps.gid), (&self.uid_by, "uid_map", &self.maps.uid)]
        {
            let lines = map.ranges().iter().map(ToString::to_string).collect::<Vec<_>>();
            match by {
                Writer::Direct => writeln!(f, "write {:?} to {file}", lines.join("\n"))?,
                Writer::Helper(helper) => {
                    writeln!(f, "run {} PID {}", helper.path().display(), lines.join(" "))?;
                }
            }
        }
        Ok(())
    }
}

/// Writes maps directly, whoever the caller is: `deny` to setgroups if asked, then the group map, then the user map.
/// [`Maps::prepare`] is the way that checks first and knows of helpers.
///
/// `pid_dir` is the directory in /proc of a process in the user namespace.
/// See [user_namespaces(7)](https://man7.org/linux/man-pages/man7/user_namespaces.7.html).
///
/// # Errors
/// As [`PreparedMaps::apply`], without the helpers'.
pub fn write_maps(pid_dir: BorrowedFd<'_>, maps: &Maps) -> Result<()> {
    PreparedMaps { maps: maps.clone(), uid_by: Writer::Direct, gid_by: Writer::Direct }.apply(pid_dir)
}

/// Reads the maps of a process's user namespace, as seen from the caller's; `None` where none was written yet.
///
/// # Errors
/// [`ErrorKind::NotTrusted`], [`ErrorKind::System`], [`ErrorKind::Permission`] as for writing; [`ErrorKind::Syntax`].
pub fn read_maps(pid_dir: BorrowedFd<'_>) -> Result<Option<Maps>> {
    let setgroups = match proc_dir::read(pid_dir, "setgroups")?.trim_ascii() {
        b"allow" => Setgroups::Allow,
        b"deny" => Setgroups::Deny,
        _ => return Err(Error::new(ErrorKind::Syntax, "setgroups of the process is neither allow nor deny")),
    };
    let maps = (
        IdMap::parse(&proc_dir::read(pid_dir, "uid_map")?)?,
        IdMap::parse(&proc_dir::read(pid_dir, "gid_map")?)?,
    );
    Ok(match maps {
        (Some(uid), Some(gid)) => Some(Maps { uid, gid, setgroups }),
        _ => None,
    })
}
