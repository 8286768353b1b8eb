//! Recording: which calls does a program make?

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::{self, TryRecvError};
use std::time::Duration;

use crate::action::Action;
use crate::error::{Error, ErrorKind, Repr};
use crate::install::Install;
use crate::listener::{Listener, Notification, Response};
use crate::policy::Policy;
use crate::sys;
use crate::syscall::Syscall;

/// What a recorded run did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recording {
    /// How the program ended.
    pub status: ExitStatus,
    /// How often each call was made, by the program and everything that it started.
    pub calls: BTreeMap<Syscall, u64>,
}

impl Recording {
    /// The smallest policy by call that lets the same run pass: what was called is allowed, with any arguments, the rest
    /// gets `otherwise`. Both execve and execveat are allowed, since one of them starts the program.
    pub fn policy(&self, otherwise: Action) -> Policy {
        Policy::new(otherwise).allow(self.known()).allow(["execve", "execveat"])
    }

    /// The same as a profile in Docker's and OCI's JSON format, with EPERM for the rest.
    pub fn to_profile_json(&self) -> String {
        let mut names: Vec<String> = self.known().map(|call| call.to_string()).collect();
        names.extend(["execve", "execveat"].map(str::to_owned));
        names.sort_unstable();
        names.dedup();
        let mut json =
            String::from("{\n\t\"defaultAction\": \"SCMP_ACT_ERRNO\",\n\t\"defaultErrnoRet\": 1,\n");
        json.push_str(
            "\t\"architectures\": [\"SCMP_ARCH_X86_64\"],\n\t\"syscalls\": [\n\t\t{\n\t\t\t\"names\": [",
        );
        for (index, name) in names.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            // Names of the table: letters, digits and underscores.
            write!(json, "{comma}\n\t\t\t\t\"{name}\"").unwrap_or(());
        }
        json.push_str("\n\t\t\t],\n\t\t\t\"action\": \"SCMP_ACT_ALLOW\"\n\t\t}\n\t]\n}\n");
        json
    }

    /// Numbers without a name were answered ENOSYS by this kernel, most likely; policies do so too.
    fn known(&self) -> impl Iterator<Item = Syscall> {
        self.calls.keys().copied().filter(|call| call.name().is_some())
    }
}

/// Runs `command` to its end and counts the system calls of it and of its descendants, from its exec on.
///
/// For learning what a **trusted** program needs, on inputs that you choose: nothing is refused while it is recorded,
/// and a call that this run did not make is missing. Each call costs a switch to the recording thread and back.
/// Processes that outlive the program are recorded until they have ended. no_new_privs is set for the program.
///
/// ```
/// use std::process::Command;
/// use palisade_secfilter::{Action, Install, record};
///
/// let recording = record(Command::new("/bin/true"))?;
/// let filter = recording.policy(Action::EPERM).compile()?;
/// let mut again = Command::new("/bin/true");
/// Install::new(&filter).confine(&mut again)?;
/// assert!(again.status()?.success());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Linux 5.5.
///
/// # Errors
/// [`Os`](crate::ErrorKind::Os) if the program cannot be started, or the filter cannot be installed: EBUSY if the
/// calling thread is under a filter with a listener already.
pub fn record(mut command: Command) -> Result<Recording, Error> {
    let filter = Policy::new(Action::UserNotif).unknown(Action::UserNotif).compile()?;
    // The filter goes to one thread and to what that thread starts; this thread, without it, answers. From the moment
    // the filter is there that thread can make no call, not even to wake this one, before this one answers: so it
    // leaves the listener's number in memory, and this one looks.
    let (fd, tid) = (Arc::new(AtomicI32::new(-1)), Arc::new(AtomicI32::new(0)));
    let (send_child, child) = mpsc::channel::<Result<io::Result<Child>, Error>>();
    let spawner = std::thread::spawn({
        let (fd, tid) = (Arc::clone(&fd), Arc::clone(&tid));
        move || {
            tid.store(sys::gettid(), Ordering::Release);
            let installed = Install::new(&filter).apply_and(|listener| fd.store(listener, Ordering::Release));
            let outcome = installed.map(|()| command.spawn());
            // Nobody receives only after an error on that side, which reports it.
            send_child.send(outcome).unwrap_or(());
        }
    });
    let listener = loop {
        match fd.load(Ordering::Acquire) {
            -1 if spawner.is_finished() => {
                let outcome = child.recv().unwrap_or_else(|_| Err(os("recording thread", libc::ECHILD)));
                outcome?.map_err(|error| from_io("spawn of the recorded program", &error))?;
                return Err(os("recording thread", libc::ECHILD));
            }
            -1 => std::thread::sleep(Duration::from_micros(100)),
            number => break Listener::from(sys::adopt(number as u64)),
        }
    };
    let mut recorder = Recorder {
        listener,
        calls: BTreeMap::new(),
        spawner: tid.load(Ordering::Acquire) as u32,
        program: None,
        executed: false,
    };
    let program = recorder.watch(&child);
    // Without a listener the spawning thread cannot hang any more, whatever became of the recording.
    let Recorder { listener, calls, .. } = recorder;
    drop(listener);
    let joined = spawner.join().map_err(|_| os("recording thread", libc::ECHILD));
    let mut program = program?;
    joined?;
    let status = program.wait().map_err(|error| from_io("wait for the recorded program", &error))?;
    Ok(Recording { status, calls })
}

struct Recorder {
    listener: Listener,
    calls: BTreeMap<Syscall, u64>,
    /// Thread id of the thread that starts the program.
    spawner: u32,
    /// Process id of the program: the first other one that calls.
    program: Option<u32>,
    /// Whether the program has come to its exec.
    executed: bool,
}

impl Recorder {
    /// Answers until nobody is left that could call.
    fn watch(&mut self, child: &mpsc::Receiver<Result<io::Result<Child>, Error>>) -> Result<Child, Error> {
        let mut program: Option<Result<Child, Error>> = None;
        loop {
            if let Some(call) = self.listener.receive_timeout(Duration::from_millis(10))? {
                self.answer(&call)?;
                continue;
            }
            if program.is_none() {
                program = match child.try_recv() {
                    Ok(outcome) => Some(outcome.and_then(|started| {
                        started.map_err(|error| from_io("spawn of the recorded program", &error))
                    })),
                    Err(TryRecvError::Empty) => None,
                    Err(TryRecvError::Disconnected) => Some(Err(os("recording thread", libc::ECHILD))),
                };
            }
            // Before Linux 6.11 a process that has ended counts until it is waited for.
            if let Some(Ok(child)) = &mut program {
                child.try_wait().map_err(|error| from_io("wait for the recorded program", &error))?;
            }
            if self.listener.is_abandoned()? {
                if let Some(program) = program.take() {
                    return program;
                }
            }
        }
    }

    fn answer(&mut self, call: &Notification) -> Result<(), Error> {
        if call.pid() != self.spawner {
            let program = *self.program.get_or_insert(call.pid());
            let exec = matches!(call.syscall().name(), Some("execve" | "execveat"));
            // What the child of this process does before its exec is not the program's doing.
            self.executed |= exec;
            if self.executed || call.pid() != program {
                *self.calls.entry(call.syscall()).or_default() += 1;
            }
        }
        match self.listener.respond(call, Response::Continue) {
            // It was interrupted by a signal; if it is made again, it comes again.
            Err(error) if error.kind() == ErrorKind::Gone => Ok(()),
            other => other,
        }
    }
}

fn os(call: &'static str, errno: i32) -> Error {
    Repr::Os { call, errno }.into()
}

fn from_io(call: &'static str, error: &io::Error) -> Error {
    os(call, error.raw_os_error().unwrap_or(libc::EIO))
}
