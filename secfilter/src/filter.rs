//! A compiled policy.

use std::fmt;

use crate::action::Action;
use crate::arch::Arch;
use crate::bpf::{self, Insn, SeccompData};
use crate::error::{Error, Repr};
use crate::syscall::Syscall;

/// A compiled policy: a program that the kernel runs for each system call.
///
/// `Display` prints it, one line per instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    program: Vec<Insn>,
}

impl Filter {
    pub(crate) fn from_program(program: Vec<Insn>) -> Self {
        Filter { program }
    }

    /// The instructions, as the kernel takes them.
    pub fn instructions(&self) -> &[Insn] {
        &self.program
    }

    /// What the kernel will do with this call: runs the program, in user space.
    pub fn evaluate(&self, data: &SeccompData) -> Action {
        bpf::run(&self.program, data)
    }

    /// How many instructions the kernel runs for this call (none, from Linux 5.11, for a call that is allowed whatever
    /// its arguments).
    pub fn cost(&self, data: &SeccompData) -> usize {
        bpf::path_len(&self.program, data)
    }

    /// What this filter says about `call` of the native architecture, arguments unseen.
    pub fn verdict(&self, call: Syscall) -> Verdict {
        Verdict(bpf::answers(&self.program, Arch::NATIVE.audit(), call.number()))
    }

    /// The verdict on every call in the table, by rising number: "what would this block?"
    ///
    /// ```
    /// # use palisade_secfilter::presets;
    /// let filter = presets::payload().compile()?;
    /// for (call, verdict) in filter.verdicts().filter(|(_, verdict)| !verdict.always_allows()) {
    ///     println!("{call:24} {verdict}");
    /// }
    /// # Ok::<(), palisade_secfilter::Error>(())
    /// ```
    pub fn verdicts(&self) -> impl Iterator<Item = (Syscall, Verdict)> {
        Syscall::all().map(|call| (call, self.verdict(call)))
    }

    /// Checks that a program can still be started under this filter: that execve and execveat are let through with
    /// any arguments.
    ///
    /// # Errors
    /// [`ForbidsExec`](crate::ErrorKind::ForbidsExec).
    pub fn permits_exec(&self) -> Result<(), Error> {
        for call in ["execve", "execveat"] {
            let verdict = self.verdict(call.parse()?);
            if let Some(&action) = verdict.0.iter().find(|action| !action.lets_through()) {
                return Err(Repr::ForbidsExec { call, action }.into());
            }
        }
        Ok(())
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        bpf::disassemble(&self.program, f)
    }
}

/// The answers that a filter has for one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict(Vec<Action>);

impl Verdict {
    /// The possible answers, the severest first. More than one: the arguments decide.
    pub fn actions(&self) -> &[Action] {
        &self.0
    }

    /// The answer, if it does not depend on the arguments.
    pub fn always(&self) -> Option<Action> {
        match self.0[..] {
            [only] => Some(only),
            _ => None,
        }
    }

    /// Let through with any arguments.
    pub fn always_allows(&self) -> bool {
        self.0.iter().all(|action| action.lets_through())
    }

    /// Refused with any arguments.
    pub fn never_allows(&self) -> bool {
        !self.0.iter().any(|action| action.lets_through())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::with_capacity(self.0.len());
        words.extend(self.0.iter().map(ToString::to_string));
        let text = match &words[..] {
            [only] => only.clone(),
            several => format!("{}, by the arguments", several.join(" or ")),
        };
        f.pad(&text)
    }
}
