//! The process of a user-mode network: started for a child that waits, heard until its link is up, ended with the child.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;
use palisade_sys::{FD_PASSED, Fd, Place, Step};

use super::recruit::Recruit;
use super::user_mode::{FD_CHECKED, FD_PROGRAM, UserMode};
use crate::error::{Error, ErrorKind, Result};
use crate::guard;
use crate::order::SETTABLE_SIGNALS;
use crate::spawner::Bench;
use crate::sys;

/// What a program that fails may say.
const MOST_WORDS: usize = 4096;

/// It takes milliseconds. Less than the time of a whole set-up, whose error would not say what hangs.
const STARTS_WITHIN: Duration = Duration::from_secs(20);

/// A killed one is gone at once.
const ENDS_WITHIN: Duration = Duration::from_secs(2);

/// A helper at work; dropped, it is killed, and its published ports are free.
#[derive(Debug)]
pub(super) struct Helper {
    pidfd: OwnedFd,
}

impl Drop for Helper {
    fn drop(&mut self) {
        // ESRCH: it has ended already, say with the sandbox. It is no child of ours, so nobody waits for it but init.
        drop(sys::send_signal(&self.pidfd, libc::SIGKILL));
        drop(first_of(&[self.pidfd.as_fd()], ENDS_WITHIN));
    }
}

impl Helper {
    /// Starts the program for the child `pid` and waits until the child has its link. It ends when the child or the host
    /// program does, or what is returned is dropped.
    pub(super) fn start(
        program: &UserMode,
        pid: u32,
        child: BorrowedFd<'_>,
        bench: &mut Bench,
    ) -> Result<Self> {
        if program.must_be_recent() {
            let mut asked = Started::run(program, &["--version".to_owned()], 1, child, bench)?;
            let said = asked.hear(program, child)?.unwrap_or_default();
            program.check_version(&String::from_utf8_lossy(&said))?;
        }
        let mut started = Started::run(program, &program.arguments(pid), program.ready_at(), child, bench)?;
        // It writes when the link is up.
        match started.hear(program, child)? {
            Some(_) => Ok(started.helper),
            None => Err(started.complaint(program)?),
        }
    }
}

/// A helper that has not said its first word.
#[derive(Debug)]
struct Started {
    helper: Helper,
    ready: File,
    words: File,
}

impl Started {
    fn run(
        program: &UserMode,
        arguments: &[String],
        ready_at: i32,
        child: BorrowedFd<'_>,
        bench: &mut Bench,
    ) -> Result<Self> {
        let (ready, theirs) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| failed("pipe2")(errno.into()))?;
        let theirs = sys::above_stdio(theirs).map_err(failed("fcntl(F_DUPFD_CLOEXEC)"))?;
        let words = sys::notepad(MOST_WORDS).map_err(failed("memfd_create"))?;
        let complaints = words.try_clone().map_err(failed("fcntl(F_DUPFD_CLOEXEC)"))?;
        let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| Error::invalid("PATH holds a NUL byte"));
        let path = text(program.path.as_os_str().as_bytes())?;
        let arguments: Vec<CString> =
            arguments.iter().map(|argument| text(argument.as_bytes())).collect::<Result<_>>()?;
        let mut passed = vec![theirs, complaints];
        if let Some(file) = &program.checked {
            passed.push(file.try_clone().map_err(failed("fcntl(F_DUPFD_CLOEXEC)"))?.into());
        }
        let recruit = Recruit::new(&passed, bench, |p| {
            for (n, target) in (FD_PASSED..).zip([ready_at, libc::STDERR_FILENO]) {
                p.dup3(Fd::number(n), target, false);
            }
            // The host program may ignore some, as Rust's do SIGPIPE: pasta of 2023 takes that for an error.
            p.default_signals(SETTABLE_SIGNALS);
            p.set_signal_mask(0);
            let argv: Vec<Place> = [&path].into_iter().chain(&arguments).map(|text| p.text(text)).collect();
            let (argv, envp) = (p.addresses(&argv, true), p.addresses(&[], true));
            if program.checked.is_some() {
                p.dup3(Fd::number(FD_CHECKED), FD_PROGRAM, false);
                p.execveat(Fd::number(FD_PROGRAM), argv, envp);
            } else {
                p.execve(&path, argv, envp);
            }
        })?;
        guard::end_with(recruit.pidfd(), &[child], bench)?;
        Ok(Self { helper: Helper { pidfd: recruit.go()? }, ready: ready.into(), words: words.into() })
    }

    /// Waits for its first words; `None` if it ended without.
    fn hear(&mut self, program: &UserMode, child: BorrowedFd<'_>) -> Result<Option<Vec<u8>>> {
        let (from, helper) = (self.ready.as_fd(), self.helper.pidfd.as_fd());
        let wrong = |kind, what| Err(Error::new(kind, Step::Network, what).with_object(program.to_string()));
        match first_of(&[from, helper, child], STARTS_WITHIN).map_err(failed("poll"))? {
            Some(0) => {
                let mut said = vec![0; MOST_WORDS];
                let len = self.ready.read(&mut said).map_err(failed("read from the helper"))?;
                said.truncate(len);
                // If it ended before, nobody holds the other end.
                Ok(Some(said).filter(|said| !said.is_empty()))
            }
            Some(1) => Ok(None),
            Some(_) => wrong(ErrorKind::SetupKilled, "the child has ended".to_owned()),
            None => {
                let what = format!("it did not say within {STARTS_WITHIN:?} that it is at work");
                wrong(ErrorKind::Setup, what).map_err(|error| {
                    error.with_hint(
                        "it was killed; try another version, or Network::user_mode_with another program",
                    )
                })
            }
        }
    }

    /// Why it ended, in its own words.
    fn complaint(&self, program: &UserMode) -> Result<Error> {
        let mut said = vec![0; MOST_WORDS];
        let len = self.words.read_at(&mut said, 0).map_err(failed("pread"))?;
        let said = String::from_utf8_lossy(said.get(..len).unwrap_or_default());
        let said = said.trim_matches(['\0', '\n', ' ']).lines().last().unwrap_or_default();
        let said = if said.is_empty() { "it ended without a word" } else { said };
        let new = Error::new(ErrorKind::Setup, Step::Network, said).with_object(program.to_string());
        let tun = File::options().read(true).write(true).open("/dev/net/tun");
        Ok(match tun {
            Err(error) => new.with_hint(format!(
                "/dev/net/tun can't be opened ({error}): load the module tun, or open it to this user"
            )),
            // How the versions of pasta say it.
            Ok(_) if said.contains("nterface") => {
                new.with_hint("pasta leaves by the interface with the default route: there must be one")
            }
            Ok(_) if said.contains("Overlapping port") => {
                new.with_hint("this pasta publishes a port at one address alone: install a newer passt")
            }
            Ok(_) if said.contains("bind") || said.contains("listen") => {
                new.with_hint("another program has a published port of the host, or it is below 1024")
            }
            Ok(_) => new,
        })
    }
}

fn failed(call: &'static str) -> impl Fn(io::Error) -> Error {
    move |error| Error::call(Step::Network, call, &error)
}

/// The first of these in order that has something to read or a hang-up; `None` when the time is up.
fn first_of(files: &[BorrowedFd<'_>], within: Duration) -> io::Result<Option<usize>> {
    let until = Instant::now() + within;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let mut polled: Vec<PollFd<'_>> =
            files.iter().map(|file| PollFd::new(*file, PollFlags::POLLIN)).collect();
        match poll(&mut polled, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(_) => {
                let first = polled.iter().position(|file| file.any().unwrap_or(true));
                if first.is_some() || left.is_zero() {
                    return Ok(first);
                }
            }
        }
    }
}
