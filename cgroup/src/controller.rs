//! Controllers and the names of their files.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};

/// A resource controller, by the kernel's name (`memory`, `cpu`, …). Controllers of later kernels are welcome:
/// any well-formed name parses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Controller(Cow<'static, str>);

impl Controller {
    /// Processor time.
    pub const CPU: Controller = Controller(Cow::Borrowed("cpu"));
    /// Which CPUs and memory nodes.
    pub const CPUSET: Controller = Controller(Cow::Borrowed("cpuset"));
    /// Block devices.
    pub const IO: Controller = Controller(Cow::Borrowed("io"));
    /// Memory and swap.
    pub const MEMORY: Controller = Controller(Cow::Borrowed("memory"));
    /// Number of tasks.
    pub const PIDS: Controller = Controller(Cow::Borrowed("pids"));
    /// Huge pages.
    pub const HUGETLB: Controller = Controller(Cow::Borrowed("hugetlb"));
    /// RDMA devices.
    pub const RDMA: Controller = Controller(Cow::Borrowed("rdma"));
    /// Scalar resources such as encrypted-guest ids.
    pub const MISC: Controller = Controller(Cow::Borrowed("misc"));

    /// The kernel's name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Controller {
    type Err = Error;

    fn from_str(s: &str) -> Result<Controller> {
        let ok = s.starts_with(|c: char| c.is_ascii_lowercase())
            && s.len() <= 32
            && s.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_')
            && s != "cgroup";
        if ok {
            Ok(Controller(Cow::Owned(s.to_owned())))
        } else {
            Err(Error::invalid("controller", s.as_bytes(), "a name as in cgroup.controllers: cpu, memory, …"))
        }
    }
}

/// A set of controllers, as in `cgroup.controllers`. Parses and prints the kernel's spelling.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Controllers(BTreeSet<Controller>);

impl Controllers {
    /// Whether `controller` is in the set.
    pub fn contains(&self, controller: &Controller) -> bool {
        self.0.contains(controller)
    }

    /// The controllers, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Controller> {
        self.0.iter()
    }

    /// Whether no controller is in the set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn without(&self, other: &Controllers) -> Controllers {
        Controllers(self.0.difference(&other.0).cloned().collect())
    }

    pub(crate) fn parse(text: &[u8]) -> Result<Controllers> {
        let text = std::str::from_utf8(text).map_err(|_| Error::parse("controllers", text))?;
        text.split_ascii_whitespace().map(str::parse).collect()
    }
}

impl FromIterator<Controller> for Controllers {
    fn from_iter<I: IntoIterator<Item = Controller>>(iter: I) -> Controllers {
        Controllers(iter.into_iter().collect())
    }
}

impl<const N: usize> From<[Controller; N]> for Controllers {
    fn from(list: [Controller; N]) -> Controllers {
        list.into_iter().collect()
    }
}

impl fmt::Display for Controllers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, c) in self.0.iter().enumerate() {
            write!(f, "{}{c}", if i == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

impl FromStr for Controllers {
    type Err = Error;

    fn from_str(s: &str) -> Result<Controllers> {
        Controllers::parse(s.as_bytes())
    }
}

/// The name of a control file, such as `memory.high` or `hugetlb.2MB.max`.
///
/// Files that steer the tree instead of limiting it (`cgroup.procs`, `cgroup.kill`, …) are refused: they have
/// methods of their own. `cgroup.max.depth`, `cgroup.max.descendants` and `cgroup.pressure` are limits and allowed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName(Cow<'static, str>);

impl FileName {
    /// For the names in this crate's own source.
    pub(crate) const fn of(name: &'static str) -> FileName {
        FileName(Cow::Borrowed(name))
    }

    /// For names with a part that was checked before.
    pub(crate) fn made(name: String) -> FileName {
        FileName(Cow::Owned(name))
    }

    /// The name as the kernel has it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The controller that the file belongs to; none for the `cgroup.` files of the core.
    pub fn controller(&self) -> Option<Controller> {
        self.0.split('.').next().and_then(|c| c.parse().ok())
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for FileName {
    type Err = Error;

    fn from_str(s: &str) -> Result<FileName> {
        const CORE: [&str; 3] = ["cgroup.max.depth", "cgroup.max.descendants", "cgroup.pressure"];
        let parts: Vec<&str> = s.split('.').collect();
        let formed = parts.len() >= 2
            && s.len() <= 100
            && parts.iter().all(|p| {
                !p.is_empty() && p.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-'))
            });
        if formed && (CORE.contains(&s) || parts[0].parse::<Controller>().is_ok()) {
            return Ok(FileName(Cow::Owned(s.to_owned())));
        }
        Err(Error::new(ErrorKind::InvalidName, "name of a control file")
            .value(s)
            .hint("CONTROLLER.FILE as in memory.high; files that steer the tree have methods of their own"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_limits_are_file_names() {
        for good in ["memory.high", "hugetlb.2MB.max", "cgroup.max.depth", "io.bfq.weight", "dmem.max"] {
            assert_eq!(good.parse::<FileName>().expect(good).to_string(), good);
        }
        for bad in [
            "",
            "memory",
            ".x",
            "memory.",
            "../memory.max",
            "memory.a/b",
            "cgroup.procs",
            "cgroup.kill",
            "a..b",
        ] {
            assert_eq!(bad.parse::<FileName>().expect_err(bad).kind(), ErrorKind::InvalidName, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn controllers_round_trip(s in "([a-z][a-z0-9_]{0,8} ?){0,6}") {
            if let Ok(set) = s.parse::<Controllers>() {
                prop_assert_eq!(set.to_string().parse::<Controllers>().expect("own spelling"), set);
            }
        }

        #[test]
        fn no_text_breaks_the_parsers(s in "\\PC*", bytes: Vec<u8>) {
            let parsed = (s.parse::<FileName>(), s.parse::<Controller>(), Controllers::parse(&bytes));
            if let Ok(name) = parsed.0 {
                prop_assert!(!name.as_str().contains(['/', '\0', '\n']));
            }
        }
    }
}
