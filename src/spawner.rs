//! The threads that spawn.
//!
//! A parent-death signal follows the *thread* that made the child, so children are made by threads of the library,
//! which live as long as the program. They block all signals, own a mapped stack for their children, and sit in an
//! empty session keyring, which the children inherit.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};

use palisade_sys::{Fault, Program, Step};

use crate::error::{Error, ErrorKind, Result};
use crate::sys::{BlockSignals, ChildStack, run_here};

/// What a spawner thread owns.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) stack: ChildStack,
    keyring: Result<(), Fault>,
}

impl Bench {
    /// Fails if this thread's children would find the session keyring of the host program.
    pub(crate) fn check_keyring(&self) -> Result<()> {
        self.keyring.map_err(|fault| Error::explained(keyring_program().explain(fault)))
    }
}

/// Work for a spawner thread; what it returns hands over the result, once the thread is idle again.
type Job = Box<dyn FnOnce(&mut Bench) -> Delivery + Send>;
type Delivery = Box<dyn FnOnce()>;

/// The idle threads of one process. After a `fork` of the host program the child has none of them, so the pool
/// remembers whose it is.
struct Pool {
    process: u32,
    idle: Vec<Sender<Job>>,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { process: 0, idle: Vec::new() });

/// Stack of a spawner thread: it builds programs and errors, nothing deep.
const THREAD_STACK: usize = 256 << 10;

/// Runs `job` on a spawner thread; the receiver gets its result, or is disconnected if it panicked.
pub(crate) fn start<T: Send + 'static>(
    job: impl FnOnce(&mut Bench) -> Result<T> + Send + 'static,
) -> Result<Receiver<Result<T>>> {
    let (answer, result) = channel();
    let mut job: Job = Box::new(move |bench| {
        let done = catch_unwind(AssertUnwindSafe(|| job(bench)));
        // Where the receiver has given up, the value is dropped, and a dropped child is killed. After a panic (its
        // message was printed) nothing is sent, and the receiver sees a closed channel.
        Box::new(move || drop(done.map(|done| answer.send(done))))
    });
    while let Some(thread) = take_idle() {
        match thread.send(job) {
            Ok(()) => return Ok(result),
            Err(refused) => job = refused.0,
        }
    }
    new_thread(job).map_err(|error| {
        Error::call(Step::Prepare, "start a thread that spawns", &error)
            .with_hint("RLIMIT_NPROC or pids.max of the host program is reached, or its memory is exhausted")
    })?;
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
    }
    pool
}

fn take_idle() -> Option<Sender<Job>> {
    lock().idle.pop()
}

fn new_thread(first: Job) -> io::Result<()> {
    let stack = ChildStack::new()?;
    let (sender, jobs) = channel::<Job>();
    // The new thread inherits the mask: a handler of the host program never runs on it.
    let blocked = BlockSignals::new()?;
    let thread = std::thread::Builder::new().name("palisade-spawn".into()).stack_size(THREAD_STACK);
    let started = thread.spawn(move || {
        let mut bench = Bench { stack, keyring: run_here(&mut keyring_program().image()) };
        let mut job = first;
        loop {
            let deliver = job(&mut bench);
            // Idle before the result is out, so that a caller's next spawn finds this thread.
            lock().idle.push(sender.clone());
            deliver();
            match jobs.recv() {
                Ok(next) => job = next,
                Err(_closed) => return, // never: this thread holds a sender
            }
        }
    });
    drop(blocked);
    started.map(drop)
}

/// Credentials, and with them the session keyring, belong to the thread. Where keyctl is missing or filtered, the
/// payload is without it as well and can't reach any key.
fn keyring_program() -> Program {
    let mut program = Program::new();
    program.at(Step::Session, "session keyring");
    program.join_session_keyring();
    program.tolerate(&[libc::ENOSYS, libc::EPERM, libc::EACCES]);
    program
}
