//! What went wrong in a program, and how to say it.

use std::fmt;

use crate::step::Step;
use crate::wire::*;

/// The operation at which a program stopped, and why. It is meaningful together with its program:
/// [`Program::explain`](crate::Program::explain) puts it into words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Index of the operation.
    pub index: u32,
    /// The kernel's errno; `EPROTO` where a call succeeded with a result that it must not have.
    pub errno: i32,
    /// The bit at which a sweep over bits failed.
    pub bit: u32,
}

/// How far a run of an image got, read from its first [`HEADER_LEN`](crate::HEADER_LEN) bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The interpreter did not begin, or the bytes are no image.
    NotStarted,
    /// It began and has not ended, or was killed.
    Running,
    /// It is in an `execve`, or past it, or was killed in it.
    Executing,
    /// It stopped at a failure.
    Failed(Fault),
    /// It came to the end.
    Done,
    /// The payload was executed, below an init that has seen it.
    Executed,
    /// The payload below an init has ended, with this wait status.
    Ended(i32),
    /// What an init had forked off ended before it executed the payload, with this wait status.
    Lost(i32),
}

impl Outcome {
    /// Reads the header of an image.
    pub fn parse(bytes: &[u8]) -> Self {
        let word = |n: usize| {
            let word = bytes.get(n * 4..n * 4 + 4).and_then(|b| b.try_into().ok());
            word.map(u32::from_le_bytes)
        };
        let magic = bytes.get(..8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
        if magic != Some(MAGIC) {
            return Self::NotStarted;
        }
        match (word(2), word(3), word(4), word(5)) {
            (Some(STATE_RUNNING), ..) => Self::Running,
            (Some(STATE_EXECUTING), ..) => Self::Executing,
            (Some(STATE_FAULT), Some(index), Some(errno), Some(bit)) => {
                Self::Failed(Fault { index, errno: errno as i32, bit })
            }
            (Some(STATE_DONE), ..) => Self::Done,
            (Some(STATE_EXECUTED), ..) => Self::Executed,
            (Some(STATE_ENDED), _, Some(status), _) => Self::Ended(status as i32),
            (Some(STATE_LOST), _, Some(status), _) => Self::Lost(status as i32),
            _ => Self::NotStarted,
        }
    }
}

/// A fault in words: step, object, the call with its arguments, errno.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explained {
    /// The step that failed.
    pub step: Step,
    /// What it concerned: a path, a controller, a capability.
    pub object: Option<String>,
    /// The call and its arguments, as strace prints them.
    pub call: String,
    /// Why.
    pub errno: i32,
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.step)?;
        if let Some(object) = &self.object {
            write!(f, " ({object})")?;
        }
        write!(f, ": {}: {}", self.call, std::io::Error::from_raw_os_error(self.errno))
    }
}

impl std::error::Error for Explained {}
