//! The thread that ends what was dropped: it waits for killed payloads and removes their cgroups, so that no drop
//! blocks.

use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::child::Live;
use crate::sys;

static REAPER: Mutex<Option<(u32, Sender<Live>)>> = Mutex::new(None);

/// How often what has not ended yet is looked at again. A killed process ends within microseconds, as a rule.
const AGAIN: Duration = Duration::from_millis(5);

/// Kills what runs, and sees to the rest.
pub(crate) fn end(live: Live, waited: bool) {
    if !waited {
        // A payload that can't be killed (it became another user without a pid namespace) is left to the reaper,
        // which waits for it as long as the host program lives.
        drop(live.kill_all());
        let gone = !matches!(sys::wait(&live.pidfd, false, false), Ok(None));
        if gone && live.cgroup.is_none() {
            return;
        }
    }
    send(live);
}

/// Lets a payload run on: only its status is collected, when it ends while the host program still runs.
pub(crate) fn leave(mut live: Live) {
    if let Some(cgroup) = live.cgroup.take() {
        cgroup.keep();
    }
    send(live);
}

fn send(mut live: Live) {
    let mut reaper = REAPER.lock().unwrap_or_else(PoisonError::into_inner);
    let process = std::process::id();
    // After a fork of the host program, the thread is not there any more.
    for _ in 0..2 {
        match &*reaper {
            Some((of, sender)) if *of == process => match sender.send(live) {
                Ok(()) => return,
                Err(refused) => live = refused.0,
            },
            _ => {}
        }
        *reaper = start().map(|sender| (process, sender));
    }
    // No thread can be started: do it here rather than not at all.
    drop(reaper);
    drop(sys::wait(&live.pidfd, true, false));
}

fn start() -> Option<Sender<Live>> {
    let (sender, queue) = channel();
    let _blocked = sys::BlockSignals::new().ok()?;
    let thread = std::thread::Builder::new().name("palisade-reap".into()).stack_size(128 << 10);
    thread.spawn(move || run(&queue)).ok().map(|_| sender)
}

fn run(queue: &Receiver<Live>) {
    let mut waiting: Vec<Live> = Vec::new();
    loop {
        let next = if waiting.is_empty() {
            queue.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            queue.recv_timeout(AGAIN)
        };
        match next {
            Ok(live) => waiting.push(live),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        // ECHILD: somebody else's wait has taken it. Dropping removes the cgroup, whose last member has gone.
        waiting.retain(|live| matches!(sys::wait(live.pidfd.as_fd(), false, false), Ok(None)));
    }
}
