//! The order of a set-up: what the stage does, step by step, until it executes the payload.
//!
//! This file and [`Step`], whose comments say why each step comes after the one before it, are the two places to look
//! at when the order is in question. A unit test checks that one follows the other.

use std::ffi::CString;

use palisade_creds::{Capability, CapabilitySet, ThreadCapabilities, first_identity};
use palisade_ns::{Namespace, Namespaces, TimeOffsets};
use palisade_sys::{FD_CONTROL, FD_PASSED, Fd, OpenHow, Place, Program, Slot, Step};

use crate::confine::Label;
use crate::enter::{Entry, enter};
use crate::lock::Lock;
use crate::pod::Pod;
use crate::prepare::Prepared;
use crate::pty::Terminal;
use crate::rlimit::Resource;
use crate::sandbox::Lifetime;
use crate::scheduling::Scheduling;

/// What a command adds to its sandbox's set-up.
#[derive(Clone, Debug)]
pub(crate) struct Payload {
    pub(crate) program: Executable,
    pub(crate) argv: Vec<CString>,
    pub(crate) envp: Vec<CString>,
    pub(crate) directory: CString,
    /// `None` keeps the host program's.
    pub(crate) umask: Option<u32>,
    pub(crate) session: Session,
    pub(crate) limits: Vec<(Resource, u64, u64)>,
    /// Numbers that the declared descriptors have in the payload; they were passed after the trees.
    pub(crate) descriptors: Vec<i32>,
    pub(crate) keep_signals: bool,
    pub(crate) terminal: Option<Terminal>,
    pub(crate) scheduling: Scheduling,
    pub(crate) oom_score_adj: Option<i32>,
}

/// What is executed.
#[derive(Clone, Debug)]
pub(crate) enum Executable {
    /// Paths to try, in order.
    Paths(Vec<CString>),
    /// The descriptor that is passed after the declared ones.
    Passed,
}

impl Payload {
    /// Whether the stage waits for the host program's side, which has something to do first.
    pub(crate) fn waits(&self, sandbox: &Prepared) -> bool {
        sandbox.waits() || self.oom_score_adj.is_some()
    }

    /// What set-up needs. Beside the sandbox's capabilities, those that serve this command's wishes where the child
    /// stays in the host's user namespace and the host program has them.
    pub(crate) fn setup_capabilities(&self, sandbox: &Prepared) -> CapabilitySet {
        let mut more = self.scheduling.helpful_capabilities();
        if self.terminal.is_some() {
            more = more.with(Capability::Chown);
        }
        if sandbox.maps.is_some() || more.is_empty() {
            return sandbox.setup_capabilities;
        }
        let own = ThreadCapabilities::current().map_or(CapabilitySet::EMPTY, |own| own.effective);
        sandbox.setup_capabilities | more & own
    }
}

/// The session and process group of a payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Session {
    /// A session of its own: no controlling terminal.
    #[default]
    New,
    /// The host program's session, in a process group of its own.
    NewGroup,
    /// The host program's session and process group: signals of its terminal reach the payload.
    Inherit,
}

/// What the stage says when its view is as it will be, and goes on.
pub(crate) const WORD_OF_VIEW: u8 = b'm';

/// What the stage says when it waits for its restrictions to be read back.
pub(crate) const WORD_OF_VERIFICATION: u8 = b'v';

/// What it says when it waits for its start.
pub(crate) const WORD_OF_PAUSE: u8 = b'p';

/// All signals but SIGKILL and SIGSTOP, whose disposition can't be set: bit n - 1 is signal n.
pub(crate) const SETTABLE_SIGNALS: u64 = !(1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1));

/// What a failed candidate of a PATH look-up may fail with for the next one to be tried, as execvp has it.
const TRY_NEXT: &[i32] = &[libc::ENOENT, libc::ENOTDIR, libc::EACCES, libc::ESTALE];

/// Where a payload comes to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Site {
    /// In namespaces of its own, in which the stage was cloned.
    New,
    /// In some of its own and those of a pod, which the stage joins.
    Pod,
    /// In those of a living sandbox, which the stage has to enter.
    Living,
}

/// When a payload starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    AtOnce,
    /// When the host program says so.
    OnWord,
    /// When any process says so at the gate, a FIFO that was passed last: the host program may have ended by then.
    AtGate,
}

/// The stage's program, and what the host program's side has to know of it.
#[derive(Clone, Debug)]
pub(crate) struct Stage {
    pub(crate) program: Program,
    /// Inputs for a name that only this spawn knows (see [`crate::launch`]).
    pub(crate) name: [Slot; 2],
    pub(crate) entry: Option<Entry>,
}

/// The stage's program. The part that gives up what a payload must not have is the same in a new sandbox and in a
/// living one.
pub(crate) fn stage_program(sandbox: &Prepared, payload: &Payload, site: Site, start: Start) -> Stage {
    let mut p = Program::new();
    let name = [p.input("name"), p.input("name")];
    baseline(&mut p, payload, name, site);
    if !payload.keep_signals {
        p.default_signals(SETTABLE_SIGNALS);
    }
    let umask = p.umask(0);
    let (entry, label, kept) = match site {
        Site::New => {
            arrive(&mut p, sandbox, payload);
            (None, build(&mut p, sandbox, payload), sandbox.view.trees.len())
        }
        Site::Pod => {
            let entry = sandbox.pod.as_ref().map(|pod| pod.join(&mut p, sandbox, payload));
            let passed = sandbox.pod.iter().flat_map(Pod::namespaces).count();
            (entry, build(&mut p, sandbox, payload), sandbox.view.trees.len() + passed)
        }
        Site::Living => (Some(enter(&mut p, sandbox, payload)), sandbox.entering_proc.run(&mut p), 1),
    };
    restrict(&mut p, sandbox, payload, site, label, umask, (kept, start));
    Stage { program: p, name, entry }
}

fn baseline(p: &mut Program, payload: &Payload, name: [Slot; 2], site: Site) {
    if let (true, Some(adjustment)) = (site != Site::New, payload.oom_score_adj) {
        // By itself, while its /proc is open to it: whom the host program waits for is somebody else.
        p.at(Step::Baseline, "oom_score_adj");
        let how = OpenHow { flags: libc::O_WRONLY, ..OpenHow::default() };
        let file = p.openat2(Fd::CWD, c"/proc/self/oom_score_adj", how);
        p.write_all(file, adjustment.to_string().as_bytes());
        p.close(file);
    }
    p.at(Step::Baseline, "");
    if site != Site::New {
        // Before all that follows: what runs in there must not look at a process that comes from the host.
        p.prctl(libc::PR_SET_DUMPABLE, [0; 4]);
    }
    let text = p.room(16);
    p.store(text.part(0, 8), name[0]);
    p.store(text.part(8, 8), name[1]);
    p.set_name(text);
    p.close_on_exec_from(3);
    p.prctl(libc::PR_CAP_AMBIENT, [libc::PR_CAP_AMBIENT_CLEAR_ALL as u64, 0, 0, 0]);
}

/// The first steps in new namespaces: ids, and clocks.
fn arrive(p: &mut Program, sandbox: &Prepared, payload: &Payload) {
    let identity = &sandbox.identity;
    let during = payload.setup_capabilities(sandbox).bits();
    p.capset(during, during, 0);

    if payload.waits(sandbox) {
        p.at(Step::IdMaps, "wait for the parent");
        let go = p.room(1);
        p.read_exact(Fd::number(FD_CONTROL), go);
    }
    let clocks = sandbox.time.map(|offsets| {
        // Opened before a change of ids closes the process's own /proc to it.
        p.at(Step::IdMaps, "/proc/self/timens_offsets");
        (offsets, TimeOffsets::open(p))
    });
    if sandbox.maps.is_some() && identity.change {
        p.append(&first_identity(identity.uid, identity.gid, sandbox.setup_capabilities));
        // The change of ids has cleared it.
        p.at(Step::FirstIdentity, "");
        parent_death(p);
    }

    if let Some((offsets, file)) = clocks {
        p.at(Step::TimeNamespace, "");
        offsets.enter(p, file);
    }
}

/// Builds the sandbox, in its namespaces.
fn build<'a>(p: &mut Program, sandbox: &'a Prepared, payload: &Payload) -> Label<'a> {
    let during = payload.setup_capabilities(sandbox).bits();
    let own = sandbox.lock.as_ref().map(|_| Lock::open(p));

    p.append(&sandbox.view.build); // propagation, mounts, pivot_root
    name_and_network(p, sandbox, sandbox.early());
    let label = sandbox.private_proc.run(p);
    p.append(&sandbox.masks);
    if let (Some(lock), Some(own)) = (&sandbox.lock, own) {
        lock.emit(p, own, during);
        // Of the namespaces that were made only now.
        name_and_network(p, sandbox, lock.late);
    }
    if sandbox.verify {
        // It is looked at while the rest is done.
        p.at(if sandbox.lock.is_some() { Step::LockMounts } else { Step::Masks }, "");
        p.write_all(Fd::number(FD_CONTROL), &[WORD_OF_VIEW]);
    }
    label
}

/// What is set in new uts and network namespaces, if they are among `kinds`.
fn name_and_network(p: &mut Program, sandbox: &Prepared, kinds: Namespaces) {
    let set = [(Namespace::Uts, &sandbox.hostname), (Namespace::Net, &sandbox.network)];
    for program in
        set.into_iter().filter(|(kind, _)| kinds.contains(*kind)).filter_map(|(_, set)| set.as_ref())
    {
        p.append(program);
    }
}

/// What is restricted from inside, and then the payload. `kept` descriptors were passed before the declared ones.
fn restrict(
    p: &mut Program,
    sandbox: &Prepared,
    payload: &Payload,
    site: Site,
    label: Label<'_>,
    umask: Slot,
    (kept, start): (usize, Start),
) {
    let fragment = |p: &mut Program, wanted: Step| {
        for (_, program) in sandbox.credentials.programs().filter(|(step, _)| *step == wanted) {
            p.append(program);
        }
    };
    let limits = |p: &mut Program, step: Step, wanted: fn(Resource) -> bool| {
        for &(resource, soft, hard) in sandbox.limits.iter().chain(&payload.limits) {
            if wanted(resource) {
                p.at(step, resource.to_string());
                p.setrlimit(resource.raw(), soft, hard);
            }
        }
    };
    limits(p, Step::Limits, |resource| resource != Resource::OpenFiles);
    p.at(Step::Limits, "umask");
    match payload.umask {
        Some(mask) => p.umask(mask),
        None => p.umask(umask),
    };
    payload.scheduling.apply(p);

    if let Some(terminal) = payload.terminal {
        let owner = sandbox.maps.is_none().then(|| sandbox.identity.uid.as_raw());
        terminal.open(p, FD_CONTROL, owner);
    }

    fragment(p, Step::BoundingSet);
    fragment(p, Step::Identity);
    fragment(p, Step::Capabilities);

    p.at(Step::ParentDeath, "");
    if sandbox.lifetime == Lifetime::Detached {
        p.prctl(libc::PR_SET_PDEATHSIG, [0; 4]);
    } else {
        parent_death(p);
    }
    // A hang-up: the host program died before the signal was armed.
    p.no_event_on(FD_CONTROL);

    fragment(p, Step::NoNewPrivs);
    if let Some((label, file)) = label {
        label.write(p, file);
    }
    if let Some(landlock) = &sandbox.landlock {
        p.append(landlock.program());
    }

    let Left { control, program, gate } = descriptors(p, payload, kept as i32, start);

    p.at(Step::WorkingDirectory, payload.directory.to_string_lossy());
    let how = OpenHow {
        flags: libc::O_PATH | libc::O_DIRECTORY,
        resolve: libc::RESOLVE_NO_MAGICLINKS,
        ..OpenHow::default()
    };
    let directory = p.openat2(Fd::CWD, &payload.directory, how);
    p.fchdir(directory);
    p.close(directory);

    if site != Site::Living && sandbox.init {
        p.at(Step::Init, "");
        p.init(control);
    }
    p.at(Step::Session, "");
    match payload.session {
        Session::New => p.setsid(),
        Session::NewGroup => p.setpgid(0),
        Session::Inherit => {}
    }
    if let Some(terminal) = payload.terminal {
        terminal.control(p);
    }

    limits(p, Step::OpenFiles, |resource| resource == Resource::OpenFiles);

    if sandbox.verify {
        p.at(Step::Verification, "");
        let go = p.room(1);
        p.write_all(control, &[WORD_OF_VERIFICATION]);
        p.read_exact(control, go);
    }

    if start != Start::AtOnce {
        p.at(Step::Pause, "");
        let word = p.room(1);
        p.write_all(control, &[WORD_OF_PAUSE]);
        p.read_exact(control, word);
        if let Some(gate) = gate {
            // The host program has written down where we are. Had it ended before, there would have been nothing to read.
            p.close(control);
            p.read_exact(gate, word);
        }
    }

    p.at(Step::Signals, "");
    let mut table = |strings: &[CString]| -> Place {
        let places: Vec<Place> = strings.iter().map(|s| p.text(s)).collect();
        p.addresses(&places, true)
    };
    let (argv, envp) = (table(&payload.argv), table(&payload.envp));
    p.set_signal_mask(0);

    if let Some(filter) = &sandbox.filter {
        p.append(filter);
    }
    if let Some(program) = program {
        p.at(Step::Exec, "the host program's own file");
        p.execveat(program, argv, envp);
    }
    let candidates = match &payload.program {
        Executable::Paths(paths) => &paths[..],
        Executable::Passed => &[],
    };
    for candidate in candidates {
        p.at(Step::Exec, candidate.to_string_lossy());
        p.execve(candidate, argv, envp);
        if candidates.len() > 1 {
            p.remember(TRY_NEXT);
        }
    }
    if candidates.len() > 1 {
        p.at(
            Step::Exec,
            payload.argv.first().map_or(String::new(), |name| name.to_string_lossy().into_owned()),
        );
        p.fail(libc::ENOENT);
    }
}

pub(crate) fn parent_death(p: &mut Program) {
    p.prctl(libc::PR_SET_PDEATHSIG, [libc::SIGKILL as u64, 0, 0, 0]);
}

/// Descriptors that are left beside the declared ones, by other numbers maybe: until the exec, which closes them.
struct Left {
    control: Fd,
    /// The program, if that was passed.
    program: Option<Slot>,
    gate: Option<Slot>,
}

/// Closes all that set-up used, and gives the declared descriptors their numbers.
fn descriptors(p: &mut Program, payload: &Payload, kept: i32, start: Start) -> Left {
    p.at(Step::Descriptors, "");
    let program = matches!(payload.program, Executable::Passed);
    let gate = start == Start::AtGate;
    if payload.descriptors.is_empty() && !program && !gate {
        p.close_range(FD_CONTROL + 1, -1);
        return Left { control: Fd::number(FD_CONTROL), program: None, gate: None };
    }
    // The targets may be anything above 2, the control socket's number too: everything moves above them first.
    let first = FD_PASSED + kept;
    let count = payload.descriptors.len() as i32 + i32::from(program) + i32::from(gate);
    let highest = payload.descriptors.iter().copied().max().unwrap_or(0);
    let above = (first + count).max(highest + 1);
    let control = p.dup_from(Fd::number(FD_CONTROL), above);
    let mut copies: Vec<_> = (first..first + count).map(|fd| p.dup_from(Fd::number(fd), above)).collect();
    p.close_range(3, above - 1);
    let gate = if gate { copies.pop() } else { None };
    let program = if program { copies.pop() } else { None };
    for (copy, &target) in copies.into_iter().zip(&payload.descriptors) {
        p.dup3(copy, target, false);
    }
    Left { control: control.into(), program, gate }
}
