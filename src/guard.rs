//! Guards: processes that outlive the host program by the moment that it takes to end what it left behind.
//!
//! A parent-death signal ends a payload, and with it its pid namespace. It does not end the descendants of a payload
//! that shares the host's pid namespace, and it removes no cgroup. So all cgroups below one parent are made in one
//! group of this process, and a guard watches over that: one process for each parent that is used, forked off by the
//! stage so that it is no child of the host program, which a `wait` of its could see.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Mutex, PoisonError};

use palisade_cgroup::{Cgroup, Limits};
use palisade_sys::{FD_CONTROL, FD_PASSED, Fd, Outcome, Program, Step};

use crate::control::hear;
use crate::error::{Error, ErrorKind, Result};
use crate::newborn::Helper;
use crate::spawner::Bench;

/// A group whose guard is at its post.
#[derive(Debug)]
struct Guarded {
    process: u32,
    parent: u64,
    group: Cgroup,
}

static GUARDED: Mutex<Vec<Guarded>> = Mutex::new(Vec::new());

/// The group below `parent` in which this process makes its cgroups. Called on a spawner thread.
pub(crate) fn guarded(parent: &Cgroup, bench: &mut Bench) -> Result<Cgroup> {
    let mut known = GUARDED.lock().unwrap_or_else(PoisonError::into_inner);
    let process = std::process::id();
    // After a fork of the host program, what its parent has is its parent's.
    known.retain(|guarded| guarded.process == process);
    let id = parent.id().map_err(of_cgroup)?;
    if let Some(guarded) = known.iter().find(|guarded| guarded.parent == id && guarded.group.path().exists())
    {
        return Ok(guarded.group.clone());
    }
    let group = parent.create_unique("palisade", &Limits::new()).map_err(of_cgroup)?;
    post(parent, &group, bench)?;
    let group = group.keep();
    known.push(Guarded { process, parent: id, group: group.clone() });
    Ok(group)
}

pub(crate) fn of_cgroup(error: palisade_cgroup::Error) -> Error {
    let errno = error.errno();
    Error::from_source(ErrorKind::Setup, Step::Cgroup, error, errno)
}

/// Starts the guard of one payload: it kills that when the host program has ended, and ends with it otherwise. For
/// payloads that could do away with their parent-death signal.
pub(crate) fn watch_over(payload: BorrowedFd<'_>, bench: &mut Bench) -> Result<()> {
    end_with(payload, &[], bench)
}

/// Starts the guard of one process: it kills that when the host program or one of `others` has ended, and ends with it
/// otherwise. All are named by pidfds.
pub(crate) fn end_with(process: BorrowedFd<'_>, others: &[BorrowedFd<'_>], bench: &mut Bench) -> Result<()> {
    let failed = |call: &'static str| move |error: io::Error| Error::call(Step::ParentDeath, call, &error);
    let mut passed = vec![crate::sys::pidfd_of_self().map_err(failed("pidfd_open"))?];
    for pidfd in [process].iter().chain(others) {
        passed.push(pidfd.try_clone_to_owned().map_err(failed("dup"))?);
    }
    let numbers: Vec<i32> = (FD_PASSED..).take(passed.len()).collect();
    start(&passed, bench, |p| {
        p.wait_for_any(&numbers);
        p.pidfd_send_signal(Fd::number(FD_PASSED + 1), libc::SIGKILL);
        p.tolerate(&[libc::ESRCH]);
    })
}

/// Starts the guard of `group` and waits until it is at its post.
fn post(parent: &Cgroup, group: &Cgroup, bench: &mut Bench) -> Result<()> {
    let failed = |call: &'static str| move |error: io::Error| Error::call(Step::Cgroup, call, &error);
    let host = crate::sys::pidfd_of_self().map_err(failed("pidfd_open"))?;
    let inside = |file: &str| format!("/proc/self/fd/{}/{file}", group.as_fd().as_raw_fd());
    let directory = File::open(inside(".")).map_err(failed("open the group"))?;
    let kill = File::options().write(true).open(inside("cgroup.kill")).map_err(failed("open cgroup.kill"))?;
    let name = group.path().file_name().and_then(|name| CString::new(name.as_bytes()).ok());
    let name = name.ok_or_else(|| Error::invalid("the group has no name"))?;
    let above = parent.as_fd().try_clone_to_owned().map_err(failed("dup"))?;

    let passed = |n: i32| Fd::number(FD_PASSED + n);
    start(&[host, directory.into(), kill.into(), above], bench, |p| {
        p.guard(passed(0), passed(1), passed(2), passed(3), &name);
    })
}

/// Starts a process that is no child of ours and does `duty`, and waits until it is at its post.
pub(crate) fn start(passed: &[OwnedFd], bench: &mut Bench, duty: impl FnOnce(&mut Program)) -> Result<()> {
    let (helper, _) = post_one(passed, bench, duty)?;
    helper.finish()
}

/// Starts it and waits until it is at its post; gives its pid, and the process that has started it and ends now.
pub(crate) fn post_one(
    passed: &[OwnedFd],
    bench: &mut Bench,
    duty: impl FnOnce(&mut Program),
) -> Result<(Helper, Option<u32>)> {
    let mut p = Program::new();
    p.at(Step::ParentDeath, "guard");
    p.close_on_exec_from(3);
    let end = p.forward();
    p.fork();
    p.branch(end);
    // The host program's terminal, directory and death are not for the guard; the fork has cleared the parent-death
    // signal.
    p.setsid();
    p.chdir(c"/");
    p.write_all(Fd::number(FD_CONTROL), b"g");
    duty(&mut p);
    p.land(end);

    let helper = Helper::start(&p, passed, 0, bench)?;
    match hear(&helper.control) {
        Ok(Some(word)) => Ok((helper, word.sender)),
        heard => match helper.outcome() {
            Outcome::Failed(fault) => Err(Error::explained(p.explain(fault))),
            _ => {
                let error = heard.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
                Err(Error::call(Step::ParentDeath, "wait for the guard", &error))
            }
        },
    }
}
