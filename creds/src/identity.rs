//! Who a program shall be: the specification, and the system calls that make it so.

use palisade_sys::{Program, Step};

use crate::{
    CapabilitySet, Credentials, Error, ErrorKind, Gid, Maps, PreparedIdentity, Result, Securebits, Setgroups,
    ThreadCapabilities, Uid, User,
};

/// Who a program shall be and what it may.
///
/// A new one asks for no capability in any set and for no_new_privs, and leaves the ids as they are. Whatever it asks
/// and the caller cannot do is an error of [`prepare`](Self::prepare); nothing is done half.
///
/// ```no_run
/// use palisade_creds::{Capability, Identity};
///
/// // Drop everything but one capability, in this thread.
/// Identity::new().capabilities(Capability::NetBindService).prepare()?.apply_to_thread()?;
/// # Ok::<(), palisade_creds::Error>(())
/// ```
///
/// ```
/// use palisade_creds::{Gid, Identity, Uid};
///
/// let mut command = std::process::Command::new("/usr/bin/id");
/// match Identity::new().ids(Uid::NOBODY, Gid::NOBODY).prepare() {
///     Ok(nobody) => assert!(nobody.apply_to_command(&mut command).output().unwrap().status.success()),
///     Err(error) => println!("{error}"), // CAP_SETUID … is not available
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    ids: Option<(Uid, Gid)>,
    groups: Option<Groups>,
    capabilities: ThreadCapabilities,
    keep_bounding_set: bool,
    securebits: Option<Securebits>,
    no_new_privs: bool,
    new_session_keyring: bool,
    dumpable: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Groups {
    Keep,
    Set(Vec<Gid>),
}

impl Default for Identity {
    fn default() -> Self {
        Self::new()
    }
}

impl Identity {
    /// The caller's ids without any capability, with no_new_privs.
    pub fn new() -> Self {
        Self {
            ids: None,
            groups: None,
            capabilities: ThreadCapabilities::default(),
            keep_bounding_set: false,
            securebits: None,
            no_new_privs: true,
            new_session_keyring: false,
            dumpable: None,
        }
    }

    /// The most that a caller without any privilege can give up: the same as [`new`](Self::new), but the bounding set
    /// stays, whose change takes `CAP_SETPCAP`. No exec can make use of it under no_new_privs.
    pub fn unprivileged() -> Self {
        Self::new().keep_bounding_set()
    }

    /// Become this user and this group (real, effective and saved), with no supplementary groups unless
    /// [`groups`](Self::groups) or [`keep_groups`](Self::keep_groups) says other.
    #[must_use]
    pub fn ids(mut self, uid: Uid, gid: Gid) -> Self {
        self.ids = Some((uid, gid));
        self
    }

    /// Become a user that was looked up, with the primary and the supplementary groups it has.
    #[must_use]
    pub fn user(self, user: &User) -> Self {
        let groups = std::iter::once(user.gid).chain(user.groups.iter().copied());
        self.ids(user.uid, user.gid).groups(groups)
    }

    /// Exactly these supplementary groups. Takes `CAP_SETGID`, and a user namespace in which setgroups(2) is not denied.
    #[must_use]
    pub fn groups(mut self, groups: impl IntoIterator<Item = Gid>) -> Self {
        let mut groups: Vec<Gid> = groups.into_iter().collect();
        groups.sort_unstable();
        groups.dedup();
        self.groups = Some(Groups::Set(groups));
        self
    }

    /// Leave the supplementary groups as they are: an ordinary user cannot give them up.
    #[must_use]
    pub fn keep_groups(mut self) -> Self {
        self.groups = Some(Groups::Keep);
        self
    }

    /// These capabilities in the bounding, permitted and effective sets, as container engines do it. For a user other
    /// than 0 they do not last through an exec: see [`ambient`](Self::ambient).
    #[must_use]
    pub fn capabilities(mut self, set: impl Into<CapabilitySet>) -> Self {
        let set = set.into();
        self.capabilities.bounding = set;
        self.capabilities.permitted = set;
        self.capabilities.effective = set;
        self
    }

    /// These capabilities last through the exec of an ordinary program by any user; each must be among the
    /// permitted ones. Puts them into the inheritable set, too, as the kernel wants it.
    #[must_use]
    pub fn ambient(mut self, set: impl Into<CapabilitySet>) -> Self {
        self.capabilities.ambient = set.into();
        self
    }

    /// The five sets one by one, as an OCI runtime gets them.
    #[must_use]
    pub fn capability_sets(mut self, sets: ThreadCapabilities) -> Self {
        self.capabilities = sets;
        self
    }

    /// Leave the bounding set as it is.
    #[must_use]
    pub fn keep_bounding_set(mut self) -> Self {
        self.keep_bounding_set = true;
        self
    }

    /// Exactly these securebits, which takes `CAP_SETPCAP` where the thread has others. Unless given, none but locked ones
    /// stay set.
    #[must_use]
    pub fn securebits(mut self, securebits: Securebits) -> Self {
        self.securebits = Some(securebits);
        self
    }

    /// Whether an exec may still give privileges: set-user-ID programs and file capabilities work only with `true`.
    #[must_use]
    pub fn allow_privilege_escalation(mut self, allow: bool) -> Self {
        self.no_new_privs = !allow;
        self
    }

    /// Join a new, empty session keyring, so that the keys of the caller's session are out of reach. (An ordinary
    /// user has a quota of 200 keyrings.)
    #[must_use]
    pub fn new_session_keyring(mut self, join: bool) -> Self {
        self.new_session_keyring = join;
        self
    }

    /// Whether other processes of the same user may look into this one. It is of the whole process, and the next exec
    /// sets it anew.
    #[must_use]
    pub fn dumpable(mut self, dumpable: bool) -> Self {
        self.dumpable = Some(dumpable);
        self
    }

    /// Prepares the change of the calling thread, or of a child that it forks.
    ///
    /// # Errors
    /// As [`prepare_from`](Self::prepare_from), and those of [`Credentials::current`].
    pub fn prepare(&self) -> Result<PreparedIdentity> {
        // Only for clearer errors: where /proc can't tell the maps, the kernel still refuses what is unmapped.
        let maps = Maps::current().ok().flatten();
        self.prepare_from(&Credentials::current()?, maps.as_ref())
    }

    /// Prepares the change of a thread that has the credentials `before` when it happens; `maps` are those of its
    /// user namespace, if it has one of its own.
    ///
    /// # Errors
    /// - [`ErrorKind::CapabilityUnavailable`]: a capability that is wanted, or that a step takes, is not there.
    /// - [`ErrorKind::Unmapped`]: an id does not exist in the user namespace.
    /// - [`ErrorKind::Conflict`]: sets that the kernel would not take together (effective beyond permitted, ambient
    ///   beyond permitted or inheritable, inheritable beyond bounding); groups where setgroups is denied; locked securebits.
    pub fn prepare_from(&self, before: &Credentials, maps: Option<&Maps>) -> Result<PreparedIdentity> {
        let wanted = self.sets(before)?;
        let groups = match (&self.groups, self.ids) {
            (Some(Groups::Set(groups)), _) => Some(groups.as_slice()),
            (None, Some(_)) => Some([].as_slice()),
            (Some(Groups::Keep), _) | (None, None) => None,
        };
        if let Some(maps) = maps {
            self.check_mapped(groups.unwrap_or_default(), maps)?;
        }
        let mut prepared = PreparedIdentity::new(before, self.ids, wanted.permitted);
        if self.new_session_keyring {
            prepared.join_keyring();
        }
        prepared.drop_bounding(wanted.bounding)?;
        let held = before.securebits.unwrap_or_default();
        let other_securebits = self.securebits.unwrap_or_else(|| held.only_locked()) != held;
        let keeps = !(wanted.permitted | wanted.inheritable).is_empty() || other_securebits;
        prepared.become_ids(
            self.ids,
            groups,
            maps.is_some_and(|maps| maps.setgroups() == Setgroups::Deny),
            keeps,
        )?;
        prepared.set_capabilities(wanted, self.securebits, self.dumpable)?;
        if self.no_new_privs {
            prepared.forbid_new_privs();
        }
        prepared.check_needs(wanted.permitted)?;
        Ok(prepared)
    }

    /// The five sets that are wanted, checked against each other.
    fn sets(&self, before: &Credentials) -> Result<ThreadCapabilities> {
        let mut wanted = self.capabilities;
        if self.keep_bounding_set {
            wanted.bounding = before.capabilities.bounding;
        }
        wanted.inheritable = wanted.inheritable | wanted.ambient;
        let within = |what: &str, set: CapabilitySet, whole: CapabilitySet| {
            if whole.contains_all(set) {
                return Ok(());
            }
            Err(Error::new(ErrorKind::Conflict, format!("{what}: {} is too much", set - whole)))
        };
        within("effective capabilities must be permitted", wanted.effective, wanted.permitted)?;
        within("ambient capabilities must be permitted", wanted.ambient, wanted.permitted)?;
        within("inheritable capabilities must be in the bounding set", wanted.inheritable, wanted.bounding)?;
        let held = before.capabilities;
        wanted.bounding.check_available(held.bounding)?;
        wanted.permitted.check_available(held.permitted)?;
        wanted.inheritable.check_available(held.permitted | held.inheritable)?;
        Ok(wanted)
    }

    fn check_mapped(&self, groups: &[Gid], maps: &Maps) -> Result<()> {
        let unmapped = |what: &str, id: u32| {
            Error::new(ErrorKind::Unmapped, format!("{what} {id} has no mapping in the user namespace"))
                .hint_is("the kernel would answer EINVAL; extend the id map, or take an id of it")
        };
        if let Some((uid, gid)) = self.ids {
            maps.uid().to_outside(uid).ok_or_else(|| unmapped("user", uid.as_raw()))?;
            maps.gid().to_outside(gid).ok_or_else(|| unmapped("group", gid.as_raw()))?;
        }
        match groups.iter().find(|gid| maps.gid().to_outside(**gid).is_none()) {
            Some(gid) => Err(unmapped("supplementary group", gid.as_raw())),
            None => Ok(()),
        }
    }
}

/// Becoming an id of a new user namespace first of all: where its map leaves the caller's own out, files can't be made
/// before (`EOVERFLOW`). The capabilities stay, as effective and permitted ones: a caller whose own id is 0 inside
/// would lose them with it.
pub fn first_identity(uid: Uid, gid: Gid, capabilities: CapabilitySet) -> Program {
    let mut program = Program::new();
    program.at(Step::FirstIdentity, format!("{uid}:{gid}"));
    program.prctl(libc::PR_SET_KEEPCAPS, [1, 0, 0, 0]);
    program.setresgid(gid.as_raw());
    program.setresuid(uid.as_raw());
    program.capset(capabilities.bits(), capabilities.bits(), 0);
    program.prctl(libc::PR_SET_KEEPCAPS, [0; 4]);
    program
}
