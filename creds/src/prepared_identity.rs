//! The program of an identity, and the ways to run it.

use std::fmt;
use std::process::Command;

use palisade_sys::{Program, Step};

use crate::{
    Capability, CapabilitySet, Credentials, Error, ErrorKind, Gid, Ids, Result, Securebits,
    ThreadCapabilities, Uid, UserDb, sys,
};

/// The program of an [`Identity`](crate::Identity), in one fragment a step, and what is known of it beforehand.
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
    /// Nothing yet. `needs` are the capabilities that are kept.
    pub(crate) fn new(before: &Credentials, ids: Option<(Uid, Gid)>, needs: CapabilitySet) -> Self {
        Self {
            programs: Vec::new(),
            needs,
            before: before.clone(),
            after: before.clone(),
            ids,
            groups: None,
            sets_securebits: false,
        }
    }

    pub(crate) fn join_keyring(&mut self) {
        self.fragment(Step::Keyring, "", |p| {
            p.join_session_keyring();
            // A kernel without keyrings, or a filter that hides them: there is nothing to leave behind.
            p.tolerate(&[libc::ENOSYS]);
        });
    }

    pub(crate) fn forbid_new_privs(&mut self) {
        self.fragment(Step::NoNewPrivs, "", |p| p.prctl(libc::PR_SET_NO_NEW_PRIVS, [1, 0, 0, 0]));
        self.after.no_new_privs = true;
    }

    /// Whether the thread can do all that was added; `permitted` are the capabilities that it makes effective itself.
    pub(crate) fn check_needs(&self, permitted: CapabilitySet) -> Result<()> {
        let usable = self.before.capabilities.effective | permitted;
        let hint = "the caller does not hold it; in a new user namespace a process holds all";
        self.needs.check_available(usable).map_err(|error| error.hint_is(hint))
    }

    fn fragment(&mut self, step: Step, object: &str, calls: impl FnOnce(&mut Program)) {
        let mut program = Program::new();
        program.at(step, object);
        calls(&mut program);
        self.programs.push((step, program));
    }

    pub(crate) fn drop_bounding(&mut self, wanted: CapabilitySet) -> Result<()> {
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
    pub(crate) fn become_ids(
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

    pub(crate) fn set_capabilities(
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
        let keyring = self.programs.iter().any(|(step, _)| *step == Step::Keyring);
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

/// Runs a program in the calling thread and puts a fault into words.
fn run(program: &Program) -> Result<()> {
    sys::run(&mut program.image()).map_err(|fault| {
        let said = program.explain(fault);
        let object = said.object.map(|object| format!(" ({object})")).unwrap_or_default();
        let error = Error::os(said.errno, format!("{}{object}: {}", said.step, said.call));
        match (said.step, said.errno) {
            (Step::Keyring, libc::EDQUOT) => {
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
