//! `cpuset`: which CPUs and memory nodes; partitions.

use std::fmt;
use std::str::FromStr;

use crate::controller::FileName;
use crate::error::{Error, Result};
use crate::limits::{Check, Limits};
use crate::value::number;

/// A set of CPU or memory node numbers, in the kernel's list form: `0-2,7`. The numbers go up to 65535.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct CpuSet {
    /// Sorted, apart by at least one number.
    ranges: Vec<(u16, u16)>,
}

impl CpuSet {
    /// Whether `n` is in the set.
    pub fn contains(&self, n: u16) -> bool {
        self.ranges.iter().any(|(a, b)| (*a..=*b).contains(&n))
    }

    /// The numbers, from low to high.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        self.ranges.iter().flat_map(|(a, b)| *a..=*b)
    }

    /// How many numbers there are.
    pub fn len(&self) -> usize {
        self.ranges.iter().map(|(a, b)| usize::from(b - a) + 1).sum()
    }

    /// Whether there is none: for the kernel that means 'as the parent has it'.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    fn from_ranges(mut ranges: Vec<(u16, u16)>) -> CpuSet {
        ranges.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
        for (a, b) in ranges {
            match merged.last_mut() {
                Some(last) if u32::from(a) <= u32::from(last.1) + 1 => last.1 = last.1.max(b),
                _ => merged.push((a, b)),
            }
        }
        CpuSet { ranges: merged }
    }
}

impl FromIterator<u16> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u16>>(iter: I) -> CpuSet {
        CpuSet::from_ranges(iter.into_iter().map(|n| (n, n)).collect())
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (a, b)) in self.ranges.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            if a == b { write!(f, "{comma}{a}")? } else { write!(f, "{comma}{a}-{b}")? }
        }
        Ok(())
    }
}

impl FromStr for CpuSet {
    type Err = Error;

    fn from_str(s: &str) -> Result<CpuSet> {
        let bad = || Error::invalid("list of CPUs or nodes", s.as_bytes(), "numbers and ranges, as in 0-2,7");
        let one = |t: &str| number(t.as_bytes()).and_then(|n| u16::try_from(n).ok());
        if s.is_empty() {
            return Ok(CpuSet::default());
        }
        let range = |part: &str| {
            let (a, b) = part.split_once('-').unwrap_or((part, part));
            Some((one(a)?, one(b)?)).filter(|(a, b)| a <= b)
        };
        s.split(',').map(range).collect::<Option<_>>().map(CpuSet::from_ranges).ok_or_else(bad)
    }
}

/// `cpuset.cpus.partition`: whether the group owns its CPUs alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Partition {
    /// An ordinary group.
    Member,
    /// Its CPUs belong to it alone, with scheduling domains of their own.
    Root,
    /// As `Root`, and no load balancing (6.2).
    Isolated,
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Partition::Member => "member",
            Partition::Root => "root",
            Partition::Isolated => "isolated",
        })
    }
}

impl FromStr for Partition {
    type Err = Error;

    fn from_str(s: &str) -> Result<Partition> {
        match s {
            "member" => Ok(Partition::Member),
            "root" => Ok(Partition::Root),
            "isolated" => Ok(Partition::Isolated),
            _ => Err(Error::invalid("cpuset.cpus.partition", s.as_bytes(), "member, root or isolated")),
        }
    }
}

/// Settings of the `cpuset` controller. The kernel accepts CPUs that the parent does not have and takes the
/// intersection: `Cgroup::effective_cpus` says what is in force.
impl Limits {
    /// The CPUs that tasks may run on: `cpuset.cpus`.
    #[doc(alias = "cpuset.cpus")]
    #[must_use]
    pub fn cpuset_cpus(self, cpus: &CpuSet) -> Limits {
        self.put(FileName::of("cpuset.cpus"), cpus.to_string(), Check::List)
    }

    /// The memory nodes that tasks may take memory from: `cpuset.mems`.
    #[doc(alias = "cpuset.mems")]
    #[must_use]
    pub fn cpuset_mems(self, mems: &CpuSet) -> Limits {
        self.put(FileName::of("cpuset.mems"), mems.to_string(), Check::List)
    }

    /// Exclusive CPUs, or the end of it: `cpuset.cpus.partition`. A partition that the kernel accepts but calls
    /// invalid is an error.
    #[doc(alias = "cpuset.cpus.partition")]
    #[must_use]
    pub fn cpuset_partition(self, partition: Partition) -> Limits {
        self.put(FileName::of("cpuset.cpus.partition"), partition.to_string(), Check::Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn lists_and_ranges() {
        for (text, shown, n) in [("0", "0", 1), ("2,0-1", "0-2", 3), ("0,2,4-5", "0,2,4-5", 4), ("", "", 0)] {
            let set: CpuSet = text.parse().expect(text);
            assert_eq!((set.to_string().as_str(), set.len()), (shown, n));
        }
        for bad in ["0-", "-1", "3-1", "a", "0,,1", "0-2:1/2", "65536", ",", " 0"] {
            assert!(bad.parse::<CpuSet>().is_err(), "{bad}");
        }
        assert_eq!("0-65535".parse::<CpuSet>().expect("all").len(), 65536);
    }

    proptest! {
        #[test]
        fn a_list_is_the_set_of_its_numbers(numbers: Vec<u16>) {
            let set: CpuSet = numbers.iter().copied().collect();
            prop_assert_eq!(set.to_string().parse::<CpuSet>().expect("own spelling"), set.clone());
            let plain: BTreeSet<u16> = numbers.into_iter().collect();
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), plain.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn any_text_is_a_set_or_an_error(s in "[0-9,-]{0,12}|\\PC*") {
            if let Ok(set) = s.parse::<CpuSet>() {
                prop_assert_eq!(set.to_string().parse::<CpuSet>().expect("own spelling"), set);
            }
            if let Ok(p) = s.parse::<Partition>() {
                prop_assert_eq!(p.to_string(), s);
            }
        }
    }
}
