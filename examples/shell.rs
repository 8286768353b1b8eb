//! A shell, or any other program, on a terminal of its own in a sandbox:
//!
//! ```text
//! cargo run --example shell                     # bash, or sh
//! cargo run --example shell -- busybox vi /tmp/x
//! ```
//!
//! What you type goes to the sandbox's terminal, Ctrl-C and Ctrl-Z too; what that shows comes back; its size follows
//! yours. Your terminal is as it was when this ends, however it ends (but by SIGKILL).

use std::error::Error;
use std::io::{self, IsTerminal, Read, Write, stdin, stdout};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use palisade::{Child, Pty, PtySize, Sandbox};

/// The host's terminal in raw mode: every key is passed on. Dropping it puts back what was.
struct RawMode(Option<Termios>);

impl RawMode {
    fn new() -> io::Result<Self> {
        if !stdin().is_terminal() {
            return Ok(Self(None));
        }
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(stdin(), SetArg::TCSADRAIN, &raw)?;
        Ok(Self(Some(before)))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            if let Err(errno) = tcsetattr(stdin(), SetArg::TCSADRAIN, before) {
                // A terminal that was hung up, mostly: then nobody reads this.
                eprintln!("the terminal's mode could not be put back: {errno}");
            }
        }
    }
}

/// Ends us by the terminal's doing, or changes its size: seen by poll, not by handlers.
const SIGNALS: [Signal; 5] =
    [Signal::SIGWINCH, Signal::SIGHUP, Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT];

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let sandbox = Sandbox::builder().init(true).build()?;
    let mut command = match arguments.split_first() {
        Some((program, rest)) => {
            let mut command = sandbox.command(program);
            command.args(rest);
            command
        }
        None if std::path::Path::new("/bin/bash").exists() => sandbox.command("/bin/bash"),
        None => sandbox.command("/bin/sh"),
    };
    let signals = SigSet::from_iter(SIGNALS);
    signals.thread_block()?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;

    let mut child = command.pty(PtySize::of(stdin()).unwrap_or_default()).spawn()?;
    let pty = child.pty.take().ok_or("no terminal")?;
    let raw = RawMode::new()?;
    let ended_by = connect(&pty, &signals)?;
    let code = finish(&mut child, pty, ended_by)?;
    drop(raw);
    Ok(code.into())
}

/// Carries bytes both ways until the other side ends, or a signal ends us: which one.
fn connect(pty: &Pty, signals: &SignalFd) -> io::Result<Option<u8>> {
    // A program that does not read must not keep us from showing what it writes.
    fcntl(pty, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK))?;
    let (mut keys, mut open) = (Vec::new(), true);
    let mut chunk = [0; 4096];
    loop {
        let wanted = if keys.is_empty() { PollFlags::POLLIN } else { PollFlags::POLLIN | PollFlags::POLLOUT };
        let (input, output) = (stdin(), stdout());
        let mut fds = vec![PollFd::new(pty.as_fd(), wanted), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        if open && keys.is_empty() {
            fds.push(PollFd::new(input.as_fd(), PollFlags::POLLIN));
        }
        // A program that sets its terminal up throws away what was typed before: an end of file is said until it is heard.
        let patience = if open { PollTimeout::NONE } else { PollTimeout::from(200u8) };
        let nothing = poll(&mut fds, patience)? == 0;
        let ready = |n: usize| fds.get(n).is_some_and(|fd| fd.any() == Some(true));
        let typed = ready(2);
        if nothing && keys.is_empty() {
            keys.push(END_OF_FILE);
        }

        while let Some(signal) = signals.read_signal()? {
            match Signal::try_from(signal.ssi_signo as i32) {
                Ok(Signal::SIGWINCH) => pty.resize(PtySize::of(stdin())?)?,
                _ => return Ok(Some(signal.ssi_signo as u8)),
            }
        }
        if ready(0) {
            match (&mut &*pty).read(&mut chunk) {
                Ok(0) => return Ok(None),
                Ok(count) => {
                    output.lock().write_all(&chunk[..count])?;
                    output.lock().flush()?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        if typed {
            // By the descriptor: what std has read ahead, poll would not know of.
            let count = nix::unistd::read(&input, &mut chunk)?;
            keys.extend_from_slice(&chunk[..count]);
            if count == 0 {
                (open, keys) = (false, vec![END_OF_FILE]);
            }
        }
        match (&mut &*pty).write(&keys) {
            Ok(count) => drop(keys.drain(..count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Ctrl-D, which is what a terminal has for it.
const END_OF_FILE: u8 = 4;

/// Hangs up where we were told to end, and gives what a shell would call the status.
fn finish(child: &mut Child, pty: Pty, ended_by: Option<u8>) -> palisade::Result<u8> {
    if let Some(signal) = ended_by {
        drop(pty);
        child.stop(Signal::SIGHUP as i32, Duration::from_secs(2))?;
        return Ok(128 + signal);
    }
    let status = child.wait()?;
    Ok(match (status.code(), status.signal()) {
        (Some(code), _) => code as u8,
        (None, signal) => 128 + signal.unwrap_or(0) as u8,
    })
}
