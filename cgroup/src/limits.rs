//! The spec: which control file gets which value.

use std::fmt;

use crate::controller::{Controllers, FileName};
use crate::cpuset::CpuSet;
use crate::value::{Bytes, Limit};

/// What a group may use: a plain list of values for control files, kept in the order in which they were given.
/// Setting the same thing twice replaces the first.
///
/// The setters stand with their controllers: [cpu](#method.cpu_max), [memory](#method.memory_max),
/// [pids](#method.pids_max), [io](#method.io_max), [cpuset](#method.cpuset_cpus) and so on;
/// [`Limits::file`] reaches every other file by name.
///
/// ```
/// use palisade_cgroup::{Bytes, CpuMax, Limits};
///
/// let limits = Limits::new().memory_max(Bytes::mib(256)).cpu_max(CpuMax::millicpus(500)).pids_max(64);
/// assert_eq!(limits.to_string(), "memory.max = 268435456\ncpu.max = 50000 100000\npids.max = 64\n");
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    settings: Vec<Setting>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Setting {
    pub(crate) file: FileName,
    /// Files with one line per device or resource: which line, and what puts it back to the default.
    pub(crate) line: Option<Line>,
    pub(crate) value: String,
    pub(crate) check: Check,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Line {
    pub(crate) key: String,
    pub(crate) reset: String,
}

/// How the value read back must relate to the one written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Check {
    /// The same text.
    Text,
    /// A byte limit, which the kernel rounds down to a multiple of this (0 stands for the page size).
    Multiple(u64),
    /// The same set of numbers.
    List,
    /// A line with the key that has all the words of the value.
    Line,
    /// Like `Line`, but the kernel drops a line that limits nothing.
    LineUnlessDefault,
    /// Nothing is known about the file's format: the kernel's accepting it must do.
    Accepted,
}

impl Limits {
    /// No limit at all.
    pub fn new() -> Limits {
        Limits::default()
    }

    /// Any further control file by name, with the bytes of one line. The kernel's answer is checked, the value
    /// read back is not: its format is not known here.
    #[must_use]
    pub fn file(self, file: FileName, value: impl Into<String>) -> Limits {
        self.put(file, value.into(), Check::Accepted)
    }

    /// At most this many groups below: `cgroup.max.descendants`.
    #[doc(alias = "cgroup.max.descendants")]
    #[must_use]
    pub fn max_descendants(self, n: impl Into<Limit<u32>>) -> Limits {
        self.put(FileName::of("cgroup.max.descendants"), n.into().to_string(), Check::Text)
    }

    /// At most this many levels of groups below: `cgroup.max.depth`.
    #[doc(alias = "cgroup.max.depth")]
    #[must_use]
    pub fn max_depth(self, n: impl Into<Limit<u32>>) -> Limits {
        self.put(FileName::of("cgroup.max.depth"), n.into().to_string(), Check::Text)
    }

    /// Everything of `other`, which wins where both set the same.
    #[must_use]
    pub fn and(mut self, other: Limits) -> Limits {
        for s in other.settings {
            self.insert(s);
        }
        self
    }

    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        self.settings.is_empty()
    }

    /// The controllers that these limits need enabled.
    pub fn controllers(&self) -> Controllers {
        self.settings.iter().filter_map(|s| s.file.controller()).collect()
    }

    /// Pairs of file and value, in the order in which they are written.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.in_order().map(|s| (s.file.as_str(), s.value.as_str()))
    }

    pub(crate) fn put(mut self, file: FileName, value: String, check: Check) -> Limits {
        self.insert(Setting { file, line: None, value, check });
        self
    }

    pub(crate) fn bytes(self, file: &'static str, value: Limit<Bytes>) -> Limits {
        let text = match value {
            Limit::Max => "max".to_owned(),
            Limit::At(b) => b.get().to_string(),
        };
        self.put(FileName::of(file), text, Check::Multiple(0))
    }

    /// `value` begins with the key, as the kernel wants it.
    pub(crate) fn line(
        mut self,
        file: FileName,
        key: String,
        value: String,
        reset: String,
        check: Check,
    ) -> Limits {
        self.insert(Setting { file, line: Some(Line { key, reset }), value, check });
        self
    }

    pub(crate) fn remove(mut self, file: &str) -> Limits {
        self.settings.retain(|s| s.file.as_str() != file);
        self
    }

    fn insert(&mut self, setting: Setting) {
        let same = |s: &&mut Setting| {
            s.file == setting.file && s.line.as_ref().map(|l| &l.key) == setting.line.as_ref().map(|l| &l.key)
        };
        match self.settings.iter_mut().find(same) {
            Some(old) => *old = setting,
            None => self.settings.push(setting),
        }
    }

    /// The order of writing is the caller's, but for what the kernel wants: memory nodes and CPUs before a
    /// partition that needs them, swap before memory so that no moment has the memory limit without its swap limit.
    pub(crate) fn in_order(&self) -> impl Iterator<Item = &Setting> {
        let rank = |s: &Setting| match s.file.as_str() {
            "memory.swap.max" | "cpuset.mems" => 0,
            "cpuset.cpus" => 1,
            "cpuset.cpus.exclusive" => 2,
            "cpuset.cpus.partition" => 4,
            _ => 3,
        };
        let mut sorted: Vec<&Setting> = self.settings.iter().collect();
        sorted.sort_by_key(|s| rank(s));
        sorted.into_iter()
    }
}

/// One line for each setting, `FILE = VALUE`, in the order of writing.
impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().try_for_each(|(file, value)| writeln!(f, "{file} = {value}"))
    }
}

impl Setting {
    /// Whether `text`, read back, says what was asked.
    pub(crate) fn holds_in(&self, text: &str, page: u64) -> bool {
        let text = text.trim_end();
        match self.check {
            Check::Accepted => true,
            Check::Text => text == self.value,
            Check::Multiple(unit) => {
                let unit = if unit == 0 { page } else { unit };
                let (Ok(asked), Ok(seen)) =
                    (self.value.parse::<Limit<Bytes>>(), text.parse::<Limit<Bytes>>())
                else {
                    return false;
                };
                // Beyond what its page counters can hold, the kernel says max.
                let floor = |l: Limit<Bytes>| match l {
                    Limit::At(b) if b.get() < i64::MAX as u64 / unit * unit => Some(b.get() / unit),
                    _ => None,
                };
                floor(asked) == floor(seen)
            }
            Check::List => match (self.value.parse::<CpuSet>(), text.parse::<CpuSet>()) {
                (Ok(asked), Ok(seen)) => asked == seen,
                _ => false,
            },
            Check::Line | Check::LineUnlessDefault => {
                let Some(line) = &self.line else { return false };
                match find_line(text, &line.key) {
                    Some(seen) => self.value.split(' ').all(|w| seen.split(' ').any(|s| s == w)),
                    None => {
                        self.check == Check::LineUnlessDefault
                            && (self.value == line.reset
                                || self.value.split(' ').skip(1).all(|w| w.ends_with("=max")))
                    }
                }
            }
        }
    }

    /// What has to be written to get back to the state that `old` shows.
    pub(crate) fn undo(&self, old: &str) -> String {
        match &self.line {
            None => old.trim_end().to_owned(),
            Some(line) => find_line(old, &line.key).map_or_else(|| line.reset.clone(), str::to_owned),
        }
    }
}

fn find_line<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find(|l| l.split(' ').next() == Some(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(l: &Limits) -> &Setting {
        &l.settings[0]
    }

    #[test]
    fn the_last_word_counts_and_the_order_is_the_kernels() {
        let l =
            Limits::new().memory_max(Bytes::mib(1)).memory_swap_max(Bytes::new(0)).memory_max(Bytes::mib(2));
        assert_eq!(l.to_string(), "memory.swap.max = 0\nmemory.max = 2097152\n");
        assert_eq!(l.controllers().to_string(), "memory");
        let both = l.and(Limits::new().memory_max(Limit::Max).pids_max(3));
        assert_eq!(both.to_string(), "memory.swap.max = 0\nmemory.max = max\npids.max = 3\n");
    }

    #[test]
    fn read_back_values_are_compared_as_the_kernel_rounds_them() {
        let odd = Limits::new().memory_max(Bytes::new(10_000));
        assert!(setting(&odd).holds_in("8192\n", 4096));
        assert!(!setting(&odd).holds_in("12288\n", 4096));
        assert!(!setting(&odd).holds_in("max\n", 4096));
        assert!(!setting(&odd).holds_in("", 4096));
        let huge = Limits::new().memory_max(Bytes::new(u64::MAX));
        assert!(setting(&huge).holds_in("max\n", 4096));
        let all = Limits::new().cpuset_cpus(&"1,0,2".parse().expect("a list"));
        assert!(setting(&all).holds_in("0-2\n", 4096));
        assert!(!setting(&all).holds_in("\n", 4096));
    }
}
