//! Functions of the host program, run in a sandbox.

use std::ffi::{OsStr, OsString};

use crate::command::Command;
use crate::sandbox::Sandbox;

/// A function of the host program: takes the arguments, returns the exit code.
pub type Function = fn(&[OsString]) -> i32;

/// What the program is called when it is executed for one of its functions.
const NAME: &str = "palisade:function";

/// Runs one of `functions`, and ends, if this process was started by [`Sandbox::function`]; returns at once otherwise.
///
/// To be called first of all in `main`: before threads are started, arguments read, or anything is written.
///
/// ```no_run
/// use std::io::Write;
///
/// fn count(_: &[std::ffi::OsString]) -> i32 {
///     let words = std::io::read_to_string(std::io::stdin()).map(|text| text.split_whitespace().count());
///     i32::from(words.and_then(|words| writeln!(std::io::stdout(), "{words}")).is_err())
/// }
///
/// fn main() -> palisade::Result<()> {
///     palisade::dispatch(&[("count", count)]);
///     let out = palisade::Sandbox::new()?.function("count").output()?;
///     assert_eq!(out.stdout, b"0\n");
///     Ok(())
/// }
/// ```
pub fn dispatch(functions: &[(&str, Function)]) {
    let mut arguments = std::env::args_os();
    if arguments.next().as_deref() != Some(OsStr::new(NAME)) {
        return;
    }
    let name = arguments.next().unwrap_or_default();
    let Some((_, function)) = functions.iter().find(|(known, _)| OsStr::new(known) == name) else {
        eprintln!("{NAME}: this program has no function {name:?}");
        std::process::exit(NOT_FOUND);
    };
    std::process::exit(function(&arguments.collect::<Vec<_>>()))
}

/// What a shell says of a command that does not exist.
const NOT_FOUND: i32 = 127;

impl Sandbox {
    /// A function of the host program as the payload: one of those that its `main` gives to [`dispatch`]. Arguments are
    /// added as to any command; data goes through the standard streams or [`Command::fd`].
    ///
    /// It is a new process of the host program's own file, not a copy of the host program: it begins at `main`, knows no
    /// static, thread, descriptor or lock of the host program, and so no rules of what may be called after a fork hold
    /// for it. It is confined from its first instruction on. Whoever executes the host program can run its functions by
    /// their names, so none of them should take its caller for a friend.
    ///
    /// See [`own_program`](Self::own_program) for what the view must have.
    pub fn function(&self, name: impl AsRef<OsStr>) -> Command {
        let mut command = Command::own(self.clone(), OsStr::new(NAME));
        command.arg(name);
        command
    }

    /// The host program's own file as the program, under its own name, for host programs that look at their arguments
    /// themselves.
    ///
    /// It need not be in the view: a copy in memory, sealed against writing, is made once for the process and executed by
    /// its descriptor, so that no payload can change the file on disk through `/proc/self/exe` (CVE-2019-5736). Its
    /// dynamic linker and libraries do have to be in the view, where the host has them; the view of the host has those
    /// of the system.
    pub fn own_program(&self) -> Command {
        let name = std::env::args_os().next().unwrap_or_else(|| "self".into());
        Command::own(self.clone(), &name)
    }
}
