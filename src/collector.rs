//! Statuses of programs that entered a living sandbox.
//!
//! The first process of a pid namespace does not end before all others in it are waited for, those included whose
//! parents are outside. So what entered is waited for when it ends, whether or not the host program asks for its
//! status: by the thread that cloned it, which has no other children. The thread takes strays along: a process that
//! entered can make siblings of itself (`CLONE_PARENT`), and those are children of that thread.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use palisade_procinfo::{ProcRoot, Stat, State};

use crate::status::ResourceUsage;
use crate::sys;

/// Where the status of one process will be.
#[derive(Debug)]
pub(crate) struct Collector {
    /// After a fork of the host program, the thread is not there.
    process: u32,
    collected: Mutex<Option<Collected>>,
    arrived: Condvar,
}

/// How a process ended.
#[derive(Clone, Debug)]
pub(crate) struct Collected {
    /// `None` if a `wait` of the host program's own took it.
    pub(crate) waited: Option<(i32, Option<ResourceUsage>)>,
    /// Whether it had not executed its payload.
    pub(crate) as_stage: bool,
}

/// A process to be waited for: its pid, its name before its payload, and where its status goes.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) pid: u32,
    pub(crate) name: [u8; 15],
    pub(crate) collector: Arc<Collector>,
}

/// How long the thread may take to wait for what has ended.
const PATIENCE: Duration = Duration::from_millis(200);

impl Default for Collector {
    fn default() -> Self {
        Self { process: std::process::id(), collected: Mutex::default(), arrived: Condvar::new() }
    }
}

impl Collector {
    fn put(&self, collected: Collected) {
        self.collected.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(collected);
        self.arrived.notify_all();
    }

    /// How process `pid`, which has ended, did so.
    ///
    /// The thread can't wait for one that something inside traces, which may go on for as long as the sandbox lives.
    /// What remains of it tells its exit status all the same.
    pub(crate) fn get(&self, pid: u32) -> Collected {
        if self.process != std::process::id() {
            return Collected { waited: None, as_stage: false };
        }
        let mut collected = self.collected.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let arrived =
                self.arrived.wait_timeout_while(collected, PATIENCE, |collected| collected.is_none());
            collected = arrived.unwrap_or_else(PoisonError::into_inner).0;
            if let Some(collected) = &*collected {
                return collected.clone();
            }
            let stat = ProcRoot::host().and_then(|proc| proc.process(pid)?.stat());
            if let Some(stat) = stat.ok().filter(|stat| stat.state == State::Zombie) {
                return Collected { waited: Some((stat.exit_code, None)), as_stage: false };
            }
        }
    }
}

/// Waits for all children of the calling thread.
pub(crate) fn collect(watched: Option<&Watched>) {
    // ECHILD: none is left.
    while let Ok((pid, waited)) = sys::wait_for_own_child() {
        let it = watched.filter(|watched| watched.pid == pid);
        let as_stage = it.is_some_and(|it| {
            last_stat(pid).is_ok_and(|stat| stat.is_some_and(|stat| ends_as(&stat, &it.name)))
        });
        // Only now is it gone, and its number free.
        drop(sys::reap(pid));
        if let Some(it) = it {
            let usage = ResourceUsage::from_raw(waited.usage);
            it.collector.put(Collected { waited: Some((waited.status, Some(usage))), as_stage });
        }
    }
    if let Some(watched) = watched {
        watched.collector.put(Collected { waited: None, as_stage: false });
    }
}

/// What the kernel says of a process, a zombie included; `None` once somebody has waited for it, or without a /proc.
///
/// # Errors
/// It is there and can't be read.
pub(crate) fn last_stat(pid: u32) -> io::Result<Option<Stat>> {
    match std::fs::read(format!("/proc/{pid}/stat")) {
        Ok(text) => Stat::parse(&text).map(Some).map_err(io::Error::other),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a process is on its way out, or has come there.
pub(crate) fn is_exiting(stat: &Stat) -> bool {
    const PF_EXITING: u32 = 4;
    stat.flags & PF_EXITING != 0
}

/// Whether it is on its way out under this name. It keeps the one that its last exec gave it, as a zombie too.
pub(crate) fn ends_as(stat: &Stat, name: &[u8]) -> bool {
    is_exiting(stat) && stat.comm.as_bytes() == name
}
