//! The order of a set-up: what the stage does, step by step, until it executes the payload.
//!
//! This file and [`Step`], whose comments say why each step comes after the one before it, are the two places to look
//! at when the order is in question. A unit test checks that one follows the other.

use std::ffi::CString;

use palisade_creds::first_identity;
use palisade_ns::TimeOffsets;
use palisade_sys::{FD_CONTROL, FD_PASSED, Fd, OpenHow, Place, Program, Slot, Step};

use crate::prepare::Prepared;
use crate::rlimit::Resource;
use crate::sandbox::Lifetime;

/// What a command adds to its sandbox's set-up.
#[derive(Clone, Debug)]
pub(crate) struct Payload {
    /// Paths to try, in order.
    pub(crate) candidates: Vec<CString>,
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

/// All signals but SIGKILL and SIGSTOP, whose disposition can't be set: bit n - 1 is signal n.
const SETTABLE_SIGNALS: u64 = !(1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1));

/// What a failed candidate of a PATH look-up may fail with for the next one to be tried, as execvp has it.
const TRY_NEXT: &[i32] = &[libc::ENOENT, libc::ENOTDIR, libc::EACCES, libc::ESTALE];

/// The stage's program.
///
/// The two slots are its inputs for a name that only this spawn knows (see [`crate::launch`]).
pub(crate) fn stage_program(sandbox: &Prepared, payload: &Payload) -> (Program, [Slot; 2]) {
    let identity = &sandbox.identity;
    let during = sandbox.setup_capabilities.bits();
    let fragment = |p: &mut Program, wanted: Step| {
        for (_, program) in sandbox.credentials.programs().filter(|(step, _)| *step == wanted) {
            p.append(program);
        }
    };
    let mut p = Program::new();

    p.at(Step::Baseline, "");
    let name = [p.input("name"), p.input("name")];
    let place = p.room(16);
    p.store(place.part(0, 8), name[0]);
    p.store(place.part(8, 8), name[1]);
    p.set_name(place);
    p.close_on_exec_from(3);
    p.prctl(libc::PR_CAP_AMBIENT, [libc::PR_CAP_AMBIENT_CLEAR_ALL as u64, 0, 0, 0]);
    p.capset(during, during, 0);
    if !payload.keep_signals {
        p.default_signals(SETTABLE_SIGNALS);
    }
    let umask = p.umask(0);

    if sandbox.maps.is_some() || sandbox.guard {
        p.at(Step::IdMaps, "wait for the parent");
        let go = p.room(1);
        p.read_exact(Fd::number(FD_CONTROL), go);
    }
    let clocks = sandbox.time.map(|offsets| {
        // Opened before a change of ids closes the process's own /proc to it.
        p.at(Step::IdMaps, "/proc/self/timens_offsets");
        (offsets, TimeOffsets::open(&mut p))
    });
    if sandbox.maps.is_some() && identity.change {
        p.append(&first_identity(identity.uid, identity.gid));
        // The change of ids has cleared it.
        p.at(Step::FirstIdentity, "");
        parent_death(&mut p);
    }

    if let Some((offsets, file)) = clocks {
        p.at(Step::TimeNamespace, "");
        offsets.enter(&mut p, file);
    }

    p.append(&sandbox.view.build); // propagation, mounts, pivot_root
    if let Some(hostname) = &sandbox.hostname {
        p.append(hostname);
    }
    if let Some(network) = &sandbox.network {
        p.append(network);
    }
    p.append(&sandbox.masks);

    p.at(Step::Session, "");
    match payload.session {
        Session::New => p.setsid(),
        Session::NewGroup => p.setpgid(0),
        Session::Inherit => {}
    }
    let limits = |p: &mut Program, step: Step, wanted: fn(Resource) -> bool| {
        for &(resource, soft, hard) in sandbox.limits.iter().chain(&payload.limits) {
            if wanted(resource) {
                p.at(step, resource.to_string());
                p.setrlimit(resource.raw(), soft, hard);
            }
        }
    };
    limits(&mut p, Step::Limits, |resource| resource != Resource::OpenFiles);
    p.at(Step::Limits, "umask");
    match payload.umask {
        Some(mask) => p.umask(mask),
        None => p.umask(umask),
    };

    fragment(&mut p, Step::BoundingSet);
    fragment(&mut p, Step::Identity);
    fragment(&mut p, Step::Capabilities);

    p.at(Step::ParentDeath, "");
    if sandbox.lifetime == Lifetime::Detached {
        p.prctl(libc::PR_SET_PDEATHSIG, [0; 4]);
    } else {
        parent_death(&mut p);
    }
    // A hang-up: the host program died before the signal was armed.
    p.no_event_on(FD_CONTROL);

    fragment(&mut p, Step::NoNewPrivs);

    descriptors(&mut p, payload, sandbox.view.trees.len() as i32);

    p.at(Step::WorkingDirectory, payload.directory.to_string_lossy());
    let how = OpenHow {
        flags: libc::O_PATH | libc::O_DIRECTORY,
        resolve: libc::RESOLVE_NO_MAGICLINKS,
        ..OpenHow::default()
    };
    let directory = p.openat2(Fd::CWD, &payload.directory, how);
    p.fchdir(directory);
    p.close(directory);

    limits(&mut p, Step::OpenFiles, |resource| resource == Resource::OpenFiles);

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
    for candidate in &payload.candidates {
        p.at(Step::Exec, candidate.to_string_lossy());
        p.execve(candidate, argv, envp);
        if payload.candidates.len() > 1 {
            p.remember(TRY_NEXT);
        }
    }
    if payload.candidates.len() > 1 {
        p.at(
            Step::Exec,
            payload.argv.first().map_or(String::new(), |name| name.to_string_lossy().into_owned()),
        );
        p.fail(libc::ENOENT);
    }
    (p, name)
}

fn parent_death(p: &mut Program) {
    p.prctl(libc::PR_SET_PDEATHSIG, [libc::SIGKILL as u64, 0, 0, 0]);
}

/// Closes all that set-up used, and gives the declared descriptors their numbers.
fn descriptors(p: &mut Program, payload: &Payload, trees: i32) {
    p.at(Step::Descriptors, "");
    if payload.descriptors.is_empty() {
        p.close_range(FD_CONTROL + 1, -1);
        return;
    }
    // The targets may be anything above 2, the control socket's number too: everything moves above them first.
    let first = FD_PASSED + trees;
    let count = payload.descriptors.len() as i32;
    let highest = payload.descriptors.iter().copied().max().unwrap_or(0);
    let above = (first + count).max(highest + 1);
    p.dup_from(Fd::number(FD_CONTROL), above);
    let copies: Vec<_> = (first..first + count).map(|fd| p.dup_from(Fd::number(fd), above)).collect();
    p.close_range(3, above - 1);
    for (copy, &target) in copies.into_iter().zip(&payload.descriptors) {
        p.dup3(copy, target, false);
    }
}
