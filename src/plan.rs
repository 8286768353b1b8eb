//! Everything that one spawn will do, decided before it does anything.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use palisade_cgroup::{Cgroup, Limits, OwnedCgroup};
use palisade_creds::PreparedMaps;
use palisade_ns::{AnyNs, Namespace, Namespaces};
use palisade_sys::{Fault, Image, Program, Slot, Step};

use crate::child::Child;
use crate::error::{Error, Result};
use crate::guard::{guarded, of_cgroup};
use crate::launch::launch;
use crate::order::{Payload, stage_program};
use crate::prologue::Prologue;
use crate::sandbox::{Lifetime, Sandbox};
use crate::spawner::Bench;
use crate::stdio::Stdio;

/// One spawn, decided: `Display` prints every step in order, with the system calls as strace would print them, and
/// what is printed is what runs.
///
/// ```no_run
/// let sandbox = palisade::Sandbox::new()?;
/// println!("{}", sandbox.command("/bin/true").plan()?);
/// # Ok::<(), palisade::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Plan {
    pub(crate) clone_flags: u64,
    namespaces: Namespaces,
    /// Joined by the thread that clones.
    pub(crate) joins: Vec<AnyNs>,
    pub(crate) cgroup: Option<(Limits, Option<Cgroup>)>,
    pub(crate) sources: Program,
    pub(crate) source_slots: Vec<Slot>,
    pub(crate) prologue: Prologue,
    pub(crate) maps: Option<PreparedMaps>,
    /// Pid 1 is an init, which tells how the payload ended.
    pub(crate) init: bool,
    /// The flags for entering the payload's pid namespace, if that is its own.
    pub(crate) pid_namespace: Option<i32>,
    /// The stage waits for a go.
    pub(crate) waits: bool,
    pub(crate) oom_score_adj: Option<i32>,
    /// The stage sends the host program's end of a terminal.
    pub(crate) terminal: bool,
    /// A guard must stand before the payload begins.
    pub(crate) guard: bool,
    pub(crate) stage: Program,
    /// Inputs of the stage's program: its name.
    stage_name: [Slot; 2],
    pub(crate) stdio: [Stdio; 3],
    descriptors: Vec<Arc<OwnedFd>>,
    /// Owns what the programs know by number.
    _sandbox: Sandbox,
    pub(crate) setup_timeout: Duration,
    lifetime: Lifetime,
    timeout: Option<Duration>,
    output_limit: u64,
}

/// What a plan takes over from its command as it is.
#[derive(Debug)]
pub(crate) struct Handling {
    pub(crate) stdio: [Stdio; 3],
    pub(crate) descriptors: Vec<Arc<OwnedFd>>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) output_limit: u64,
    pub(crate) oom_score_adj: Option<i32>,
}

impl Plan {
    pub(crate) fn new(sandbox: &Sandbox, payload: &Payload, handling: Handling) -> Self {
        let Handling { stdio, descriptors, timeout, output_limit, oom_score_adj } = handling;
        let prepared = &sandbox.prepared;
        let (stage, stage_name) = stage_program(prepared, payload);
        Self {
            clone_flags: at_clone(prepared.namespaces).bits(),
            namespaces: prepared.namespaces,
            joins: prepared.joins.clone(),
            cgroup: prepared.cgroup.clone(),
            prologue: Prologue::new(
                prepared.view.trees.len() + descriptors.len(),
                payload.setup_capabilities(prepared).bits(),
            ),
            sources: prepared.view.sources.clone(),
            source_slots: prepared.view.trees.clone(),
            maps: prepared.maps.clone(),
            init: prepared.init,
            pid_namespace: entry_flags(prepared.namespaces),
            waits: payload.waits(prepared),
            oom_score_adj,
            terminal: payload.terminal.is_some(),
            guard: prepared.guard,
            stage,
            stage_name,
            stdio,
            descriptors,
            _sandbox: sandbox.clone(),
            setup_timeout: prepared.setup_timeout,
            lifetime: prepared.lifetime,
            timeout,
            output_limit,
        }
    }

    /// Carries the plan out: [`Command::spawn`](crate::Command::spawn) is a plan and this. Streams that are to be
    /// piped are piped anew for each spawn of a clone.
    ///
    /// # Errors
    /// As [`Command::spawn`](crate::Command::spawn).
    pub fn spawn(self) -> Result<Child> {
        let (lifetime, timeout, output_limit) = (self.lifetime, self.timeout, self.output_limit);
        let started = launch(self)?;
        // A time that no clock reaches is no time.
        let deadline = timeout.and_then(|limit| Instant::now().checked_add(limit));
        Ok(Child::new(started, lifetime, deadline, output_limit))
    }

    /// The programs of the host program's side, of the prologue and of the stage: for tests that make them fail.
    #[doc(hidden)]
    pub fn programs_mut(&mut self) -> [&mut Program; 3] {
        [&mut self.sources, &mut self.prologue.program, &mut self.stage]
    }

    /// The stage's image, and the name that a process of this spawn has until it executes its payload: 15 letters that
    /// nobody can guess.
    pub(crate) fn stage_image(&self) -> (Image, [u8; 15]) {
        let mut name = [0; 15];
        let mut random = [0u64; 2].map(|_| RandomState::new().hash_one(0));
        for (n, letter) in name.iter_mut().enumerate() {
            *letter = b'a' + (random[n / 8] % 26) as u8;
            random[n / 8] /= 26;
        }
        let mut bytes = [0; 16];
        bytes[..15].copy_from_slice(&name);
        let mut image = self.stage.image();
        for (slot, word) in self.stage_name.into_iter().zip(bytes.chunks_exact(8)) {
            image.set(slot, u64::from_le_bytes(word.try_into().unwrap_or_default()));
        }
        (image, name)
    }

    /// How many system calls the child makes until the payload is executed, when none fails.
    pub fn child_calls(&self) -> usize {
        // Beside the two programs: the stage's own two, the size and the mapping of its image.
        self.prologue.program.call_count() + 2 + self.stage.call_count()
    }

    pub(crate) fn descriptors(&self) -> impl Iterator<Item = &OwnedFd> {
        self.descriptors.iter().map(AsRef::as_ref)
    }

    pub(crate) fn make_cgroup(&self, bench: &mut Bench) -> Result<Option<OwnedCgroup>> {
        let Some((limits, parent)) = &self.cgroup else { return Ok(None) };
        let parent = match parent {
            Some(parent) => parent.clone(),
            None => Cgroup::delegated().map_err(of_cgroup)?,
        };
        let group = match self.lifetime {
            Lifetime::Host => guarded(&parent, bench)?,
            Lifetime::Detached => parent,
        };
        // Who runs out of memory ends as a whole: what is left of a program that lost a process is rarely of use, and
        // the payload's own end is what tells the caller.
        let has = |file: &str| limits.iter().any(|(known, _)| known == file);
        let whole = has("memory.max") && !has("memory.oom.group");
        let limits = if whole { limits.clone().memory_oom_group(true) } else { limits.clone() };
        group.create_unique("palisade", &limits).map_err(of_cgroup).map(Some)
    }

    pub(crate) fn clone_error(&self, error: &io::Error) -> Error {
        Error::call(Step::Clone, format!("clone3({})", self.clone_text()), error)
    }

    pub(crate) fn stage_error(&self, fault: Fault) -> Error {
        Error::explained(self.stage.explain(fault))
    }

    fn clone_text(&self) -> String {
        let mut flags = vec!["CLONE_PIDFD|CLONE_VM|CLONE_VFORK|CLONE_CLEAR_SIGHAND".to_owned()];
        if self.cgroup.is_some() {
            flags.push("CLONE_INTO_CGROUP".into());
        }
        flags.extend(at_clone(self.namespaces).iter().map(|kind| kind.flag_name().to_owned()));
        flags.join("|")
    }
}

/// Those that clone3 makes: a time namespace takes no member before its offsets are written.
fn at_clone(namespaces: Namespaces) -> Namespaces {
    namespaces.without(Namespace::Time)
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((limits, parent)) = &self.cgroup {
            writeln!(f, "== host program: cgroup")?;
            match parent {
                Some(parent) => writeln!(f, "    mkdir below {}", parent.path().display())?,
                None => writeln!(f, "    mkdir below the delegated cgroup")?,
            }
            for (file, value) in limits.iter() {
                writeln!(f, "    write {value:?} to {file}")?;
            }
        }
        if !self.sources.is_empty() {
            writeln!(f, "== host program: detached mounts")?;
            write!(f, "{}", self.sources)?;
        }
        writeln!(f, "== host program: clone")?;
        for namespace in &self.joins {
            writeln!(f, "    setns({namespace}), and back after the clone")?;
        }
        writeln!(f, "    clone3({})", self.clone_text())?;
        writeln!(f, "== child, in the host program's memory, which is suspended")?;
        write!(f, "{}", self.prologue.program)?;
        if let Some(maps) = &self.maps {
            writeln!(f, "== host program: id maps")?;
            for line in maps.to_string().lines() {
                writeln!(f, "    {line}")?;
            }
        }
        if self.guard {
            writeln!(f, "== host program: guard")?;
            writeln!(f, "    a process that kills the payload when the host program has ended")?;
        }
        if let Some(adjustment) = self.oom_score_adj {
            writeln!(f, "== host program: oom_score_adj")?;
            writeln!(f, "    write \"{adjustment}\" to /proc/PID/oom_score_adj")?;
        }
        if self.waits {
            writeln!(f, "    send the stage its go")?;
        }
        writeln!(f, "== child, in memory of its own: the stage")?;
        write!(f, "{}", self.stage)
    }
}

/// What joins the new pid namespace of a payload, with its user namespace if that is new.
fn entry_flags(namespaces: Namespaces) -> Option<i32> {
    let user = if namespaces.contains(Namespace::User) { libc::CLONE_NEWUSER } else { 0 };
    namespaces.contains(Namespace::Pid).then_some(user | libc::CLONE_NEWPID)
}
