//! `pids`: the number of tasks, which stops a fork bomb.

use crate::controller::FileName;
use crate::error::Result;
use crate::keyed::Flat;
use crate::limits::{Check, Limits};
use crate::value::Limit;

/// Settings of the `pids` controller.
impl Limits {
    /// At most this many tasks (threads count): a further fork is `EAGAIN`: `pids.max`. 0 forbids every fork; it does
    /// not keep a process from being moved or born in.
    #[doc(alias = "pids.max")]
    #[must_use]
    pub fn pids_max(self, max: impl Into<Limit<u32>>) -> Limits {
        self.put(FileName::of("pids.max"), max.into().to_string(), Check::Text)
    }
}

/// `pids.events`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PidsEvents {
    /// Forks that a limit stopped: with the mount option `pids_localevents` and before 6.11 those of this group's own
    /// limit, later also those of the groups below.
    pub max: u64,
}

impl PidsEvents {
    /// # Errors
    /// [`Parse`](crate::ErrorKind::Parse) for what is not a `key value` file.
    pub fn parse(text: &[u8]) -> Result<PidsEvents> {
        Ok(PidsEvents { max: Flat::parse("pids.events", text)?.count("max") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events() {
        assert_eq!(PidsEvents::parse(b"max 7\n").expect("parses").max, 7);
        assert!(PidsEvents::parse(b"max\n").is_err());
    }
}
