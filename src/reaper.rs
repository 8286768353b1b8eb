//! The thread that ends what was dropped: it waits for killed payloads and removes their cgroups, so that no drop
//! blocks.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::child::Live;
use crate::sys;

/// What a reaper was given, and how it is told.
#[derive(Debug)]
struct Queue {
    process: u32,
    new: Mutex<Vec<Live>>,
    bell: UnixStream,
}

static REAPER: Mutex<Option<Arc<Queue>>> = Mutex::new(None);

/// Kills what runs, and sees to the rest.
pub(crate) fn end(live: Live, waited: bool) {
    if !waited {
        // A payload that can't be killed (it became another user without a pid namespace) is left to the reaper,
        // which waits for it as long as the host program lives.
        drop(live.kill_all());
        if live.collector.is_some() {
            return; // the thread that cloned it waits for it
        }
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
    if live.collector.is_none() {
        send(live);
    }
}

fn send(live: Live) {
    let mut reaper = REAPER.lock().unwrap_or_else(PoisonError::into_inner);
    // After a fork of the host program, the thread is not there any more.
    if reaper.as_ref().is_none_or(|queue| queue.process != std::process::id()) {
        *reaper = start();
    }
    let Some(queue) = &*reaper else {
        drop(reaper);
        // No thread can be started: do it here rather than not at all.
        drop(sys::wait(&live.pidfd, true, false));
        return;
    };
    queue.new.lock().unwrap_or_else(PoisonError::into_inner).push(live);
    // A full socket has rung already.
    drop((&queue.bell).write(&[0]));
}

fn start() -> Option<Arc<Queue>> {
    let (bell, ear) = UnixStream::pair().ok()?;
    let above = |stream: UnixStream| sys::above_stdio(stream.into()).ok().map(UnixStream::from);
    let (bell, ear) = (above(bell)?, above(ear)?);
    bell.set_nonblocking(true).ok()?;
    ear.set_nonblocking(true).ok()?;
    let queue = Arc::new(Queue { process: std::process::id(), new: Mutex::default(), bell });
    let own = Arc::clone(&queue);
    let _blocked = sys::BlockSignals::new().ok()?;
    let thread = std::thread::Builder::new().name("palisade-reap".into()).stack_size(128 << 10);
    thread.spawn(move || run(&own, ear)).ok().map(|_| queue)
}

fn run(queue: &Queue, mut ear: UnixStream) {
    let mut waiting: Vec<Live> = Vec::new();
    loop {
        let mut fds = vec![PollFd::new(ear.as_fd(), PollFlags::POLLIN)];
        fds.extend(waiting.iter().map(|live| PollFd::new(live.pidfd.as_fd(), PollFlags::POLLIN)));
        // An error of poll is one that passes: an interruption, or want of memory.
        if poll(&mut fds, PollTimeout::NONE).is_ok() {
            drop(ear.read(&mut [0; 64]));
        }
        waiting.append(&mut queue.new.lock().unwrap_or_else(PoisonError::into_inner));
        // ECHILD: somebody else's wait has taken it. Dropping removes the cgroup, whose last member has gone.
        waiting.retain(|live| matches!(sys::wait(live.pidfd.as_fd(), false, false), Ok(None)));
    }
}
