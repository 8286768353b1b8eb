//! The threads that spawn.
//!
//! A parent-death signal follows the *thread* that made the child, so children are made by threads of the library,
//! which live as long as the program. They block all signals, own a mapped stack for their children, and sit in an
//! empty session keyring, which the children inherit.

use std::cell::OnceCell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};

use palisade_sys::{Fault, Program, Step};

use crate::collector::{Watched, collect};
use crate::enforced::OwnNamespaces;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::{BlockSignals, ChildStack, run_here};

/// What a spawner thread owns.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) stack: ChildStack,
    /// A panic left the thread in namespaces that may not be its own: it makes no more children. It stays, since with it
    /// end those that it has.
    pub(crate) astray: bool,
    /// Read at first use.
    pub(crate) own_namespaces: OnceCell<OwnNamespaces>,
    /// What a thread that stands apart has cloned, to be waited for.
    pub(crate) watched: Option<Watched>,
}

/// Which thread is to do some work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Thread {
    /// Any: its children are waited for by whoever has their pidfds.
    Any,
    /// One that has no children, and waits for all that the work leaves it before it takes other work.
    Apart,
}

/// Work for a spawner thread; what it returns hands over the result, once the thread is idle again.
type Job = Box<dyn FnOnce(&mut Bench) -> Delivery + Send>;
type Delivery = Box<dyn FnOnce()>;

/// The threads of one process. After a `fork` of the host program the child has none of them, so the pool remembers
/// whose it is.
struct Pool {
    process: u32,
    idle: Vec<Sender<Job>>,
    /// Those that stand apart.
    childless: Vec<Sender<Job>>,
    /// The thread that starts the others.
    mother: Option<Sender<Birth>>,
}

/// A thread to start with its first job, and where to say how that went.
type Birth = (Job, Thread, Sender<Result<()>>);

static POOL: Mutex<Pool> =
    Mutex::new(Pool { process: 0, idle: Vec::new(), childless: Vec::new(), mother: None });

/// Stack of a spawner thread: it builds programs and errors, nothing deep.
const THREAD_STACK: usize = 256 << 10;

/// Runs `job` on a spawner thread; the receiver gets its result, or is disconnected if it panicked.
pub(crate) fn start<T: Send + 'static>(
    which: Thread,
    job: impl FnOnce(&mut Bench) -> Result<T> + Send + 'static,
) -> Result<Receiver<Result<T>>> {
    let (answer, result) = channel();
    let mut job: Job = Box::new(move |bench| {
        let done = catch_unwind(AssertUnwindSafe(|| job(bench)));
        bench.astray = done.is_err();
        // Where the receiver has given up, the value is dropped, and a dropped child is killed. After a panic (its
        // message was printed) nothing is sent, and the receiver sees a closed channel.
        Box::new(move || drop(done.map(|done| answer.send(done))))
    });
    while let Some(thread) = take_idle(which) {
        match thread.send(job) {
            Ok(()) => return Ok(result),
            Err(refused) => job = refused.0,
        }
    }
    new_thread(job, which)?;
    Ok(result)
}

pub(crate) fn panicked() -> Error {
    Error::new(ErrorKind::Setup, Step::Prepare, "the thread that spawns panicked")
}

fn lock() -> MutexGuard<'static, Pool> {
    // The list is valid whatever a panicking holder did.
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    let process = std::process::id();
    if pool.process != process {
        pool.process = process;
        pool.idle.clear();
        pool.childless.clear();
        pool.mother = None;
    }
    pool
}

impl Pool {
    fn idle(&mut self, which: Thread) -> &mut Vec<Sender<Job>> {
        match which {
            Thread::Any => &mut self.idle,
            Thread::Apart => &mut self.childless,
        }
    }
}

fn take_idle(which: Thread) -> Option<Sender<Job>> {
    lock().idle(which).pop()
}

/// Has the mother thread start one.
fn new_thread(first: Job, which: Thread) -> Result<()> {
    let (answer, started) = channel();
    {
        let mut pool = lock();
        if pool.mother.is_none() {
            pool.mother = Some(start_mother().map_err(|error| no_thread(&error))?);
        }
        let mother = pool.mother.as_ref().ok_or_else(panicked)?;
        mother.send((first, which, answer)).map_err(|_| panicked())?;
    }
    started.recv().unwrap_or_else(|_| Err(panicked()))
}

fn no_thread(error: &io::Error) -> Error {
    Error::call(Step::Prepare, "start a thread that spawns", error)
        .with_hint("RLIMIT_NPROC or pids.max of the host program is reached, or its memory is exhausted")
}

/// Credentials belong to the thread and are inherited by the threads that it starts: so one thread joins an empty
/// session keyring, once for the process (a keyring for each thread would soon use up a user's quota), and starts all
/// others.
fn start_mother() -> io::Result<Sender<Birth>> {
    let (sender, births) = channel::<Birth>();
    spawn_quietly("palisade-mother", move || {
        let mut keyring = Err(Fault { index: 0, errno: 0, bit: 0 });
        while let Ok((first, which, answer)) = births.recv() {
            if keyring.is_err() {
                keyring = run_here(&mut keyring_program().image());
            }
            let joined = keyring.map_err(|fault| Error::explained(keyring_program().explain(fault)));
            // Where nobody waits for the answer any more, nobody misses it.
            drop(
                answer.send(
                    joined.and_then(|()| start_spawner(first, which).map_err(|error| no_thread(&error))),
                ),
            );
        }
    })?;
    Ok(sender)
}

fn start_spawner(first: Job, which: Thread) -> io::Result<()> {
    let stack = ChildStack::new()?;
    let (sender, jobs) = channel::<Job>();
    spawn_quietly("palisade-spawn", move || {
        let mut bench = Bench { stack, astray: false, own_namespaces: OnceCell::new(), watched: None };
        let mut job = first;
        loop {
            let deliver = job(&mut bench);
            if which == Thread::Apart {
                deliver();
                collect(bench.watched.take().as_ref());
                offer(&bench, which, &sender);
            } else {
                // Idle before the result is out, so that a caller's next spawn finds this thread.
                offer(&bench, which, &sender);
                deliver();
            }
            match jobs.recv() {
                Ok(next) => job = next,
                Err(_closed) => return, // never: this thread holds a sender
            }
        }
    })
}

/// Puts an idle thread where it is found.
fn offer(bench: &Bench, which: Thread, sender: &Sender<Job>) {
    if !bench.astray {
        lock().idle(which).push(sender.clone());
    }
}

/// A thread on which no handler of the host program ever runs: it inherits a mask of all signals.
fn spawn_quietly(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let blocked = BlockSignals::new()?;
    let started = std::thread::Builder::new().name(name.into()).stack_size(THREAD_STACK).spawn(body);
    drop(blocked);
    started.map(drop)
}

/// Where keyctl is missing or filtered, the payload is without it as well and can't reach any key.
fn keyring_program() -> Program {
    let mut program = Program::new();
    program.at(Step::Session, "session keyring");
    program.join_session_keyring();
    program.tolerate(&[libc::ENOSYS, libc::EPERM, libc::EACCES]);
    program
}
