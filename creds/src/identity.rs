//! Who a program shall be: the specification, and the system calls that make it so.

use std::fmt;
use std::process::Command;

use palisade_sys::{Program, Step};

use crate::{
    Capability, CapabilitySet, Credentials, Error, ErrorKind, Gid, Ids, Maps, Result, Securebits, Setgroups,
    ThreadCapabilities, Uid, User, UserDb, sys,
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
        let mut prepared = PreparedIdentity {
            programs: Vec::new(),
            needs: wanted.permitted,
            before: before.clone(),
            after: before.clone(),
            ids: self.ids,
            groups: None,
            sets_securebits: false,
        };
        if self.new_session_keyring {
            prepared.fragment(Step::Session, "session keyring", |p| {
                p.join_session_keyring();
                // A kernel without keyrings, or a filter that hides them: there is nothing to leave behind.
                p.tolerate(&[libc::ENOSYS]);
            });
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
            prepared.fragment(Step::NoNewPrivs, "", |p| p.prctl(libc::PR_SET_NO_NEW_PRIVS, [1, 0, 0, 0]));
            prepared.after.no_new_privs = true;
        }
        let usable = before.capabilities.effective | wanted.permitted;
        prepared.needs.check_available(usable).map_err(|error| {
            error.hint_is("the caller does not hold it; in a new user namespace a process holds all")
        })?;
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

/// The program of an [`Identity`], in one fragment a step, and what is known of it beforehand.
///
/// [`Display`](fmt::Display) prints the system calls.
#[derive(Debug, Clone)]
pub struct PreparedIdentity {
    programs: Vec<(Step, Program)>,
    needs: CapabilitySet,
    before: Credentials,
    after: Credentials,
    /// What is asked of all threads where there are several.
    ids: Option<(Uid, Gid)>,
    groups: Option<Vec<Gid>>,
    sets_securebits: bool,
}

impl PreparedIdentity {
    fn fragment(&mut self, step: Step, object: &str, calls: impl FnOnce(&mut Program)) {
        let mut program = Program::new();
        program.at(step, object);
        calls(&mut program);
        self.programs.push((step, program));
    }

    fn drop_bounding(&mut self, wanted: CapabilitySet) -> Result<()> {
        let drop = self.before.capabilities.bounding - wanted;
        if drop.is_empty() {
            return Ok(());
        }
        if !self.before.capabilities.effective.contains(Capability::Setpcap) {
            return Err(Error::new(
                ErrorKind::CapabilityUnavailable,
                "dropping from the bounding set takes CAP_SETPCAP",
            )
            .capability_is(Capability::Setpcap)
            .hint_is("Identity::keep_bounding_set: under no_new_privs the bounding set gives nothing"));
        }
        self.needs = self.needs.with(Capability::Setpcap);
        self.fragment(Step::BoundingSet, "", |p| p.prctl_each(drop.bits(), libc::PR_CAPBSET_DROP, None));
        self.after.capabilities.bounding = wanted;
        Ok(())
    }

    /// Groups before gid before uid, since each takes the privilege that the next gives up; the permitted set is kept
    /// over the change where something of it is wanted afterwards.
    fn become_ids(
        &mut self,
        ids: Option<(Uid, Gid)>,
        groups: Option<&[Gid]>,
        setgroups_denied: bool,
        keep_permitted: bool,
    ) -> Result<()> {
        let held = &self.before;
        let needs = |needed: bool, capability: Capability| {
            if needed { capability.into() } else { CapabilitySet::EMPTY }
        };
        // Without CAP_SETGID the wanted groups may still be the ones that the thread has.
        let groups = groups.filter(|groups| {
            held.groups.as_deref() != Some(*groups)
                || held.capabilities.effective.contains(Capability::Setgid) && !setgroups_denied
        });
        if groups.is_some() && setgroups_denied {
            return Err(Error::new(
                ErrorKind::Conflict,
                "supplementary groups can't be set: setgroups is denied",
            )
            .hint_is("Identity::keep_groups, or maps by newgidmap or root that leave setgroups allowed"));
        }
        if groups.is_some_and(|groups| groups.len() > UserDb::MAX_GROUPS) {
            return Err(Error::new(ErrorKind::TooLarge, "more than 65536 supplementary groups"));
        }
        let other_gid = ids.is_some_and(|(_, gid)| !held.gid.any(gid));
        let other_uid = ids.is_some_and(|(uid, _)| !held.uid.any(uid));
        self.needs = self.needs | needs(groups.is_some() || other_gid, Capability::Setgid);
        self.needs = self.needs | needs(other_uid, Capability::Setuid);

        let from_root = held.uid.any(Uid::ROOT);
        let to_other = ids.is_some_and(|(uid, _)| uid != Uid::ROOT);
        let bits = held.securebits.unwrap_or_default();
        let fixup = !bits.contains(Securebits::NO_SETUID_FIXUP);
        let hold = from_root && to_other && fixup && keep_permitted;
        if hold && !bits.contains(Securebits::KEEP_CAPS) && bits.contains(Securebits::KEEP_CAPS_LOCKED) {
            return Err(Error::new(ErrorKind::Conflict, "the securebit keep-caps is locked off"));
        }
        if ids.is_none() && groups.is_none() {
            return Ok(());
        }
        let object = match ids {
            Some((uid, gid)) => format!("{uid}:{gid}"),
            None => "groups".to_owned(),
        };
        self.fragment(Step::Identity, &object, |p| {
            if hold {
                p.prctl(libc::PR_SET_KEEPCAPS, [1, 0, 0, 0]);
            }
            if let Some(groups) = groups {
                p.setgroups(&groups.iter().map(|gid| gid.as_raw()).collect::<Vec<_>>());
            }
            if let Some((uid, gid)) = ids {
                p.setresgid(gid.as_raw());
                p.setresuid(uid.as_raw());
            }
            if hold {
                p.prctl(libc::PR_SET_KEEPCAPS, [0, 0, 0, 0]);
            }
        });
        if let Some(groups) = groups {
            self.after.groups = Some(groups.to_vec());
            self.groups = Some(groups.to_vec());
        }
        if let Some((uid, gid)) = ids {
            self.after.uid = Ids::all(uid);
            self.after.gid = Ids::all(gid);
        }
        if hold {
            self.after.securebits = Some(bits - Securebits::KEEP_CAPS);
        }
        Ok(())
    }

    fn set_capabilities(
        &mut self,
        wanted: ThreadCapabilities,
        securebits: Option<Securebits>,
        dumpable: Option<bool>,
    ) -> Result<()> {
        let held = self.after.securebits.unwrap_or_default();
        if !wanted.ambient.is_empty() && held.contains(Securebits::NO_CAP_AMBIENT_RAISE) {
            return Err(Error::new(
                ErrorKind::Conflict,
                "the securebit no-cap-ambient-raise forbids ambient capabilities",
            ));
        }
        let wanted_bits = securebits.unwrap_or_else(|| held.only_locked());
        // This one alone is given up without privilege.
        let end_keep_caps =
            held.contains(Securebits::KEEP_CAPS) && !wanted_bits.contains(Securebits::KEEP_CAPS);
        if !held.allows(wanted_bits) {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("securebits '{held}' are locked, wanted are '{wanted_bits}'"),
            ));
        }
        let left = if end_keep_caps { held - Securebits::KEEP_CAPS } else { held };
        let securebits = (wanted_bits != left).then_some(wanted_bits);
        if securebits.is_some() {
            self.needs = self.needs.with(Capability::Setpcap);
        }
        self.fragment(Step::Capabilities, "", |p| {
            let bits = CapabilitySet::bits;
            if end_keep_caps {
                p.prctl(libc::PR_SET_KEEPCAPS, [0, 0, 0, 0]);
            }
            p.prctl(libc::PR_CAP_AMBIENT, [libc::PR_CAP_AMBIENT_CLEAR_ALL as u64, 0, 0, 0]);
            if securebits.is_some() {
                // The securebits come after the ambient set, which they may forbid to raise, and take CAP_SETPCAP.
                let more = Capability::Setpcap.into();
                p.capset(
                    bits(wanted.effective | more),
                    bits(wanted.permitted | more),
                    bits(wanted.inheritable),
                );
            } else {
                p.capset(bits(wanted.effective), bits(wanted.permitted), bits(wanted.inheritable));
            }
            if !wanted.ambient.is_empty() {
                let raise = libc::PR_CAP_AMBIENT_RAISE as u64;
                p.prctl_each(bits(wanted.ambient), libc::PR_CAP_AMBIENT, Some(raise));
            }
            if let Some(securebits) = securebits {
                p.prctl(libc::PR_SET_SECUREBITS, [securebits.bits().into(), 0, 0, 0]);
                p.capset(bits(wanted.effective), bits(wanted.permitted), bits(wanted.inheritable));
            }
            if let Some(dumpable) = dumpable {
                p.prctl(libc::PR_SET_DUMPABLE, [dumpable.into(), 0, 0, 0]);
            }
        });
        self.after.capabilities = ThreadCapabilities { bounding: self.after.capabilities.bounding, ..wanted };
        self.after.securebits = Some(wanted_bits);
        self.sets_securebits = securebits.is_some();
        Ok(())
    }

    /// The fragments in the order of their steps, for an engine that puts steps of its own between them.
    pub fn programs(&self) -> impl Iterator<Item = (Step, &Program)> {
        self.programs.iter().map(|(step, program)| (*step, program))
    }

    /// All fragments as one program.
    pub fn program(&self) -> Program {
        let mut whole = Program::new();
        for (_, program) in &self.programs {
            whole.append(program);
        }
        whole
    }

    /// The capabilities that the program takes, the ones that it leaves included.
    pub fn needs(&self) -> CapabilitySet {
        self.needs
    }

    /// What a thread has after the program, before any exec. (After one: [`Credentials::after_exec`].)
    pub fn after(&self) -> &Credentials {
        &self.after
    }

    /// Changes the calling thread, and only that: credentials are the kernel's per thread. Other threads keep theirs,
    /// share the memory, and can be made to do what this one cannot, so do it before there are any, or use
    /// [`apply_to_process`](Self::apply_to_process). Then looks whether the thread has what it should.
    ///
    /// It cannot be undone. A change of ids clears the parent-death signal of the thread and makes the process
    /// undumpable, too.
    ///
    /// # Errors
    /// [`ErrorKind::Permission`] and [`ErrorKind::System`] with the call that failed: the thread is then in between.
    /// [`ErrorKind::NotApplied`] if the kernel made something else of it.
    pub fn apply_to_thread(&self) -> Result<()> {
        run(&self.program())?;
        Credentials::current()?.check(&self.after)
    }

    /// Changes all threads of this process, as far as that can be: ids and groups through libc, which asks every
    /// thread to do it, and no_new_privs by synchronising an empty seccomp filter. Then looks at each thread in /proc.
    ///
    /// Capabilities cannot be set in other threads, only lost by giving up user 0. So with more than one thread this
    /// works for an identity without any capability, securebit or keyring, with no_new_privs; the bounding sets of the
    /// other threads stay, which under no_new_privs gives them nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`], before anything is done, if there are other threads and the identity asks for more
    /// than that. Else as [`apply_to_thread`](Self::apply_to_thread).
    pub fn apply_to_process(&self) -> Result<()> {
        if threads()?.len() == 1 {
            return self.apply_to_thread();
        }
        let after = &self.after;
        let none =
            ThreadCapabilities { bounding: after.capabilities.bounding, ..ThreadCapabilities::default() };
        let keyring = self.programs.iter().any(|(step, _)| *step == Step::Session);
        if after.capabilities != none || !after.no_new_privs || keyring || self.sets_securebits {
            return Err(Error::new(
                ErrorKind::Conflict,
                "the process has several threads, which can't be given capabilities, securebits or a keyring together, \
                 nor be left without no_new_privs",
            )
            .hint_is("apply it before starting threads"));
        }
        let run = |wanted: fn(Step) -> bool| {
            let mut part = Program::new();
            for (_, program) in self.programs.iter().filter(|(step, _)| wanted(*step)) {
                part.append(program);
            }
            run(&part)
        };
        // As in the one program, but the ids by libc; the filter needs this thread's no_new_privs, so it is last.
        run(|step| step < Step::Identity)?;
        sys::set_ids_of_process(self.ids, self.groups.as_deref())
            .map_err(|(errno, call)| Error::os(errno, format!("{call} (all threads)")))?;
        run(|step| step > Step::Identity)?;
        sys::synchronise_no_new_privs().map_err(|errno| {
            Error::os(errno, "seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC)")
                .hint_is("a thread with a filter of its own cannot be synchronised")
        })?;
        for thread in threads()? {
            let path = format!("/proc/self/task/{thread}/status");
            let status = match crate::file::read_path(path.as_ref(), 1 << 20) {
                Ok(Some(status)) => status,
                // A thread that ended meanwhile.
                Ok(None) => continue,
                Err(error) if error.errno() == Some(libc::ESRCH) => continue,
                Err(error) => return Err(error),
            };
            let mut seen = Credentials::from_status(&status)?;
            seen.capabilities.bounding = after.capabilities.bounding;
            seen.check(after)
                .map_err(|error| Error::new(ErrorKind::NotApplied, format!("thread {thread}: {error}")))?;
        }
        Ok(())
    }

    /// Changes the child of a command, after std's own `uid`, `gid` and `groups` and right before its exec. A refusal
    /// is the error of `spawn`, with the kernel's errno.
    pub fn apply_to_command<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        sys::before_exec(command, self.program().image())
    }
}

impl fmt::Display for PreparedIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.program().fmt(f)
    }
}

/// Becoming a mapped id first of all in a new user namespace whose map leaves the caller's own out: capabilities stay,
/// and without it files can't be made (`EOVERFLOW`).
pub fn first_identity(uid: Uid, gid: Gid) -> Program {
    let mut program = Program::new();
    program.at(Step::FirstIdentity, format!("{uid}:{gid}"));
    program.setresgid(gid.as_raw());
    program.setresuid(uid.as_raw());
    program
}

/// Runs a program in the calling thread and puts a fault into words.
fn run(program: &Program) -> Result<()> {
    sys::run(&mut program.image()).map_err(|fault| {
        let said = program.explain(fault);
        let object = said.object.map(|object| format!(" ({object})")).unwrap_or_default();
        let error = Error::os(said.errno, format!("{}{object}: {}", said.step, said.call));
        match (said.step, said.errno) {
            (Step::Session, libc::EDQUOT) => {
                error.hint_is("the user's quota of keyrings (kernel.keys.maxkeys) is used up")
            }
            _ => error,
        }
    })
}

/// The threads of this process.
fn threads() -> Result<Vec<u32>> {
    let failed = |error: &std::io::Error| Error::io(error, "list the threads in /proc/self/task");
    std::fs::read_dir("/proc/self/task")
        .map_err(|error| failed(&error))?
        .map(|entry| {
            let name = entry.map_err(|error| failed(&error))?.file_name();
            crate::id::decimal(name.as_encoded_bytes()).ok_or_else(|| {
                Error::new(ErrorKind::Syntax, "/proc/self/task has an entry that is no number")
            })
        })
        .collect()
}
