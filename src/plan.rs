//! Everything that one spawn will do, decided before it does anything.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use palisade_cgroup::{Cgroup, Limits, OwnedCgroup};
use palisade_creds::{Capability, CapabilitySet, PreparedMaps, ThreadCapabilities};
use palisade_ns::{AnyNs, Namespace, Namespaces};
use palisade_sys::{Fault, Image, Program, Slot, Step};

use crate::child::Child;
use crate::detached::Store;
use crate::enforced::Asked;
use crate::enter::{Entry, Target, Way};
use crate::error::{Error, Result};
use crate::guard::{guarded, of_cgroup};
use crate::launch::launch;
use crate::network::Wiring;
use crate::order::{Payload, Site, Start, stage_program};
use crate::pod::Pod;
use crate::prepare::Prepared;
use crate::prologue::Prologue;
use crate::sandbox::{Lifetime, Sandbox};
use crate::spawner::{Bench, Thread};
use crate::stdio::Stdio;
use crate::tracing::{Marks, timed};

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
    pub(crate) wiring: Option<Wiring>,
    pub(crate) stage: Program,
    /// Where the stage writes down when it came to its steps, if somebody wants to know.
    pub(crate) marks: Marks,
    /// Inputs of the stage's program: its name.
    stage_name: [Slot; 2],
    /// The living sandbox to enter, in place of a new one, and how the stage does it.
    pub(crate) target: Option<Target>,
    entry: Option<Entry>,
    /// Where the payload is written down, if it is to outlive its maker.
    pub(crate) store: Option<Arc<Store>>,
    pub(crate) stdio: [Stdio; 3],
    descriptors: Vec<Arc<OwnedFd>>,
    /// Owns what the programs know by number.
    sandbox: Sandbox,
    pub(crate) setup_timeout: Duration,
    pub(crate) asked: Arc<Asked>,
    pub(crate) verify: bool,
    lifetime: Lifetime,
    timeout: Option<Duration>,
    output_limit: u64,
}

/// What a plan takes over from its command as it is.
#[derive(Debug)]
pub(crate) struct Handling {
    /// The living sandbox to enter, if it is not to be a new one.
    pub(crate) target: Option<Target>,
    pub(crate) start: Start,
    pub(crate) stdio: [Stdio; 3],
    pub(crate) descriptors: Vec<Arc<OwnedFd>>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) output_limit: u64,
}

/// How a running payload is looked after.
#[derive(Debug)]
pub(crate) struct Supervision {
    pub(crate) sandbox: Sandbox,
    pub(crate) lifetime: Lifetime,
    pub(crate) timeout: Option<Duration>,
    pub(crate) output_limit: u64,
    /// The living sandbox that it entered.
    pub(crate) target: Option<Target>,
}

impl Plan {
    pub(crate) fn new(sandbox: &Sandbox, payload: &Payload, handling: Handling) -> Self {
        let Handling { target, start, stdio, descriptors, timeout, output_limit } = handling;
        let prepared = &sandbox.prepared;
        let site = match (&target, &prepared.pod) {
            (Some(_), _) => Site::Living,
            (None, Some(_)) => Site::Pod,
            (None, None) => Site::New,
        };
        let stage = stage_program(prepared, payload, site, start);
        let (program, marks) = timed(stage.program);
        let new = |condition: bool| condition && site != Site::Living;
        let cloned = site == Site::New;
        let namespaces = if cloned { prepared.early() } else { Namespaces::EMPTY };
        let (kept, capabilities) = match site {
            Site::New => (prepared.view.trees.len(), payload.setup_capabilities(prepared)),
            Site::Pod => {
                let passed = prepared.pod.iter().flat_map(Pod::namespaces).count();
                (prepared.view.trees.len() + passed, capabilities_to_enter(prepared, payload))
            }
            Site::Living => (1, capabilities_to_enter(prepared, payload)),
        };
        let gates = usize::from(start == Start::AtGate);
        Self {
            clone_flags: namespaces.bits(),
            namespaces,
            joins: if new(true) { prepared.joins.clone() } else { Vec::new() },
            cgroup: prepared.cgroup.clone().filter(|_| new(true)),
            prologue: Prologue::new(kept + descriptors.len() + gates, capabilities.bits()),
            sources: if new(true) { prepared.view.sources.clone() } else { Program::new() },
            source_slots: if new(true) { prepared.view.trees.clone() } else { Vec::new() },
            maps: prepared.maps.clone().filter(|_| cloned),
            guard: new(prepared.guard),
            init: new(prepared.init),
            pid_namespace: entry_flags(if new(true) { prepared.early() } else { Namespaces::EMPTY }),
            waits: payload.waits(prepared) || !cloned,
            oom_score_adj: payload.oom_score_adj.filter(|_| cloned),
            terminal: payload.terminal.is_some(),
            wiring: prepared.wiring.clone().filter(|_| new(true)),
            stage: program,
            marks,
            stage_name: stage.name,
            target,
            entry: stage.entry,
            store: None,
            stdio,
            descriptors,
            sandbox: sandbox.clone(),
            setup_timeout: prepared.setup_timeout,
            asked: Arc::new(Asked::new(prepared, payload, site, timeout)),
            verify: prepared.verify,
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
        let handling = self.supervision();
        Ok(Child::new(launch(self)?, handling))
    }

    /// What is written down, and the gate at which the payload waits for its start.
    pub(crate) fn stored(mut self, store: &Arc<Store>, gate: OwnedFd) -> Self {
        self.store = Some(Arc::clone(store));
        self.descriptors.push(Arc::new(gate));
        self
    }

    /// What its child is to know of it.
    pub(crate) fn supervision(&self) -> Supervision {
        Supervision {
            sandbox: self.sandbox.clone(),
            lifetime: self.lifetime,
            timeout: self.timeout,
            output_limit: self.output_limit,
            target: self.target.clone(),
        }
    }

    /// The programs of the host program's side, of the prologue and of the stage: for tests that make them fail.
    #[doc(hidden)]
    pub fn programs_mut(&mut self) -> [&mut Program; 3] {
        [&mut self.sources, &mut self.prologue.program, &mut self.stage]
    }

    /// The rules of egress are not put in place: for tests of what reading back tells.
    #[doc(hidden)]
    pub fn leave_out_egress_rules(&mut self) {
        if let Some(wiring) = &mut self.wiring {
            wiring.leave_out_rules();
        }
    }

    /// The stage's image, and the name that a process of this spawn has until it executes its payload: 15 letters that
    /// nobody can guess.
    pub(crate) fn stage_image(&self, way: Option<&Way>) -> (Image, [u8; 15]) {
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
        if let (Some(entry), Some(way)) = (self.entry, way) {
            entry.kinds.into_iter().for_each(|kinds| image.set(kinds, way.kinds.bits()));
        }
        (image, name)
    }

    pub(crate) fn sandbox(&self) -> &Prepared {
        &self.sandbox.prepared
    }

    /// The thread that carries it out.
    pub(crate) fn thread(&self) -> Thread {
        if self.entry.is_some() { Thread::Apart } else { Thread::Any }
    }

    /// Where in the stage's image the pid of the process inside a living sandbox will stand.
    pub(crate) fn position_of_pid(&self) -> Option<u64> {
        self.entry.map(|entry| self.stage.position(entry.pid))
    }

    /// The program's path, as it is looked for inside.
    pub(crate) fn program(&self) -> &str {
        self.stage.object(self.stage.len().saturating_sub(1)).unwrap_or_default()
    }

    /// How many system calls the child makes until the payload is executed, when none fails.
    pub fn child_calls(&self) -> usize {
        // Beside the two programs: the stage's own two, the size and the mapping of its image.
        self.prologue.program.call_count() + 2 + self.stage.call_count()
    }

    /// Numbers of the namespaces that the stage joins, which are passed before the declared descriptors.
    pub(crate) fn pod(&self) -> impl Iterator<Item = i32> {
        let pod = self.sandbox.prepared.pod.as_ref().filter(|_| self.target.is_none());
        pod.into_iter().flat_map(Pod::descriptors)
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
        let leaf = group.create_unique("palisade", &limits).map_err(of_cgroup)?;
        if let Some(rules) = &self.sandbox.prepared.device_rules {
            leaf.set_devices(rules).map_err(of_cgroup)?;
        }
        Ok(Some(leaf))
    }

    pub(crate) fn clone_error(&self, error: &io::Error) -> Error {
        Error::call(Step::Clone, format!("clone3({})", self.clone_text()), error)
    }

    pub(crate) fn stage_error(&self, fault: Fault) -> Error {
        let error = self.explain(&self.stage, fault);
        let refused = matches!(error.errno(), Some(libc::EACCES | libc::EPERM));
        match &self.sandbox.prepared.private_proc.label {
            Some((label, _)) if error.step() == Step::Exec && refused => error.with_hint(format!(
                "not executable inside the sandbox (mode bits, a noexec mount, a directory), or the policy does not let this \
                 program take the label {label} or the label execute that file: see the kernel's log"
            )),
            _ => error,
        }
    }

    pub(crate) fn source_error(&self, fault: Fault) -> Error {
        self.explain(&self.sources, fault)
    }

    /// A fault in words; what builds the view knows more about its own.
    fn explain(&self, program: &Program, fault: Fault) -> Error {
        let error = Error::explained(program.explain(fault));
        let view = matches!(
            error.step(),
            Step::Sources | Step::Propagation | Step::Mounts | Step::PivotRoot | Step::Masks
        );
        // It looks into the mount table for what is in the way of a pivot_root; else a hint for the step goes first.
        let better = error.hint().is_none() || error.step() == Step::PivotRoot;
        let root = self.sandbox.prepared.root.as_ref().filter(|_| view && better);
        match root.and_then(|root| root.explain(program, fault).remedy().map(str::to_owned)) {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }

    pub(crate) fn clone_text(&self) -> String {
        let mut flags = vec!["CLONE_PIDFD|CLONE_VM|CLONE_VFORK|CLONE_CLEAR_SIGHAND".to_owned()];
        if self.cgroup.is_some() || self.target.as_ref().is_some_and(Target::has_cgroup) {
            flags.push("CLONE_INTO_CGROUP".into());
        }
        flags.extend(self.namespaces.iter().map(|kind| kind.flag_name().to_owned()));
        flags.join("|")
    }
}

/// What joining takes. In the user namespace of a sandbox the caller has all of it, as the one who made that.
fn capabilities_to_enter(sandbox: &Prepared, payload: &Payload) -> CapabilitySet {
    if sandbox.maps.is_some() {
        return CapabilitySet::EMPTY;
    }
    let held = ThreadCapabilities::current().map_or(CapabilitySet::EMPTY, |held| held.permitted);
    let more = CapabilitySet::EMPTY.with(Capability::SysChroot).with(Capability::SysPtrace);
    payload.setup_capabilities(sandbox) | held & more
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
            if let Some(rules) = &self.sandbox.prepared.device_rules {
                writeln!(f, "    attach a program for devices")?;
                for rule in rules.to_string().lines() {
                    writeln!(f, "        {rule}")?;
                }
            }
        }
        if !self.sources.is_empty() {
            writeln!(f, "== host program: detached mounts")?;
            write!(f, "{}", self.sources)?;
        }
        if let Some(target) = &self.target {
            writeln!(f, "== host program: living sandbox")?;
            writeln!(f, "    {target}: which namespaces differ")?;
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
        if let Some(wiring) = &self.wiring {
            writeln!(f, "== host program: network")?;
            for line in wiring.to_string().lines() {
                writeln!(f, "    {line}")?;
            }
        }
        if self.entry.is_some() {
            writeln!(f, "== host program: the process inside")?;
            writeln!(f, "    wait for the child's end, pidfd_open of its sibling")?;
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
