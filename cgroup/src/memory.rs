//! `memory`: protection, limits, swap, group kill; events and statistics.

use crate::controller::FileName;
use crate::error::Result;
use crate::keyed::Flat;
use crate::limits::{Check, Limits};
use crate::value::{Bytes, Limit};

/// Settings of the `memory` controller. Bytes are rounded down to whole pages by the kernel.
impl Limits {
    /// The hard limit: what does not fit is reclaimed, then killed: `memory.max`. It covers anonymous memory, page
    /// cache, tmpfs, memfds, pipe and socket buffers and most kernel memory.
    #[doc(alias = "memory.max")]
    #[must_use]
    pub fn memory_max(self, max: impl Into<Limit<Bytes>>) -> Limits {
        self.bytes("memory.max", max.into())
    }

    /// Above this, tasks are slowed and reclaimed, never killed: `memory.high`.
    #[doc(alias = "memory.high")]
    #[must_use]
    pub fn memory_high(self, high: impl Into<Limit<Bytes>>) -> Limits {
        self.bytes("memory.high", high.into())
    }

    /// Below this, memory is reclaimed only where nothing else can be: `memory.low`.
    #[doc(alias = "memory.low")]
    #[must_use]
    pub fn memory_low(self, low: impl Into<Limit<Bytes>>) -> Limits {
        self.bytes("memory.low", low.into())
    }

    /// Below this, memory is never reclaimed: `memory.min`.
    #[doc(alias = "memory.min")]
    #[must_use]
    pub fn memory_min(self, min: impl Into<Limit<Bytes>>) -> Limits {
        self.bytes("memory.min", min.into())
    }

    /// Swap space, counted apart from memory: `memory.swap.max`. The file exists only where the kernel has swap
    /// accounting.
    #[doc(alias = "memory.swap.max")]
    #[must_use]
    pub fn memory_swap_max(self, max: impl Into<Limit<Bytes>>) -> Limits {
        self.bytes("memory.swap.max", max.into())
    }

    /// Above this much swap, allocations are slowed: `memory.swap.high` (5.8).
    #[doc(alias = "memory.swap.high")]
    #[must_use]
    pub fn memory_swap_high(self, high: impl Into<Limit<Bytes>>) -> Limits {
        self.bytes("memory.swap.high", high.into())
    }

    /// Compressed swap kept in memory: `memory.zswap.max` (5.19).
    #[doc(alias = "memory.zswap.max")]
    #[must_use]
    pub fn memory_zswap_max(self, max: impl Into<Limit<Bytes>>) -> Limits {
        self.bytes("memory.zswap.max", max.into())
    }

    /// Whether compressed swap may be written to disk: `memory.zswap.writeback` (6.8).
    #[doc(alias = "memory.zswap.writeback")]
    #[must_use]
    pub fn memory_zswap_writeback(self, allow: bool) -> Limits {
        self.put(FileName::of("memory.zswap.writeback"), u8::from(allow).to_string(), Check::Text)
    }

    /// Out of memory kills every process of the group, not one: `memory.oom.group` (4.19).
    #[doc(alias = "memory.oom.group")]
    #[must_use]
    pub fn memory_oom_group(self, all: bool) -> Limits {
        self.put(FileName::of("memory.oom.group"), u8::from(all).to_string(), Check::Text)
    }
}

/// `memory.events`: how often each boundary was met, by the group and those below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryEvents {
    /// Reclaimed although below `memory.low`.
    pub low: u64,
    /// Slowed for being above `memory.high`.
    pub high: u64,
    /// About to go over `memory.max`.
    pub max: u64,
    /// Allocations that were about to fail for the limit.
    pub oom: u64,
    /// Processes killed for being out of memory. With `memory.oom.group` the chosen one may count twice.
    pub oom_kill: u64,
    /// Times that the whole group was killed (5.17).
    pub oom_group_kill: u64,
}

impl MemoryEvents {
    /// # Errors
    /// [`Parse`](crate::ErrorKind::Parse) for what is not a `key value` file.
    pub fn parse(text: &[u8]) -> Result<MemoryEvents> {
        let flat = Flat::parse("memory.events", text)?;
        Ok(MemoryEvents {
            low: flat.count("low"),
            high: flat.count("high"),
            max: flat.count("max"),
            oom: flat.count("oom"),
            oom_kill: flat.count("oom_kill"),
            oom_group_kill: flat.count("oom_group_kill"),
        })
    }
}

/// `memory.swap.events`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SwapEvents {
    /// Above `memory.swap.high`.
    pub high: u64,
    /// About to go over `memory.swap.max`.
    pub max: u64,
    /// Swap that could not be had, for the limit or for lack of space.
    pub fail: u64,
}

impl SwapEvents {
    /// # Errors
    /// [`Parse`](crate::ErrorKind::Parse) for what is not a `key value` file.
    pub fn parse(text: &[u8]) -> Result<SwapEvents> {
        let flat = Flat::parse("memory.swap.events", text)?;
        Ok(SwapEvents { high: flat.count("high"), max: flat.count("max"), fail: flat.count("fail") })
    }
}

/// `memory.stat`: what the memory of a group is made of. The fields are the ones that programs act on; all others
/// are reached by [`MemoryStat::get`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryStat {
    /// Anonymous memory: heaps, stacks.
    pub anon: Bytes,
    /// Page cache, tmpfs and shared memory included.
    pub file: Bytes,
    /// Kernel memory of all kinds (5.18).
    pub kernel: Bytes,
    /// tmpfs, shared memory, memfds.
    pub shmem: Bytes,
    /// Socket buffers.
    pub sock: Bytes,
    /// Page cache that was not used lately: what reclaim takes first.
    pub inactive_file: Bytes,
    /// Page faults.
    pub pgfault: u64,
    /// Page faults that had to read from a device.
    pub pgmajfault: u64,
    all: Flat,
}

impl MemoryStat {
    /// # Errors
    /// [`Parse`](crate::ErrorKind::Parse) for what is not a `key value` file.
    pub fn parse(text: &[u8]) -> Result<MemoryStat> {
        let all = Flat::parse("memory.stat", text)?;
        let bytes = |key| Bytes::new(all.count(key));
        Ok(MemoryStat {
            anon: bytes("anon"),
            file: bytes("file"),
            kernel: bytes("kernel"),
            shmem: bytes("shmem"),
            sock: bytes("sock"),
            inactive_file: bytes("inactive_file"),
            pgfault: all.count("pgfault"),
            pgmajfault: all.count("pgmajfault"),
            all,
        })
    }

    /// A value by the kernel's key, such as `workingset_refault_file`; `None` where this kernel has no such key.
    pub fn get(&self, key: &str) -> Option<u64> {
        self.all.get(key)
    }

    /// All keys and values, in the kernel's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.all.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn real_files() {
        let events = MemoryEvents::parse(b"low 0\nhigh 1\nmax 22\noom 3\noom_kill 4\noom_group_kill 1\n")
            .expect("parses");
        assert_eq!(
            (events.high, events.max, events.oom, events.oom_kill, events.oom_group_kill),
            (1, 22, 3, 4, 1)
        );
        // Kernels before 5.17 have no oom_group_kill.
        assert_eq!(MemoryEvents::parse(b"oom_kill 4\n").expect("parses").oom_kill, 4);
        let stat = MemoryStat::parse(include_bytes!("../tests/fixtures/v2/memory.stat")).expect("parses");
        assert_eq!(stat.get("workingset_refault_anon"), Some(0));
        assert_eq!(stat.get("no_such_key"), None);
        assert!(stat.iter().count() > 40);
        let swap =
            SwapEvents::parse(include_bytes!("../tests/fixtures/v2/memory.swap.events")).expect("parses");
        assert_eq!(swap, SwapEvents::default());
    }

    #[test]
    fn damaged_files_are_errors() {
        for bad in ["oom", "oom ", "oom -1", "oom 99999999999999999999", " 1", "a 1 2"] {
            assert!(MemoryEvents::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_counter_is_found(low: u64, oom_kill: u64) {
            let text = format!("low {low}\nnew_key 5\noom_kill {oom_kill}\n");
            let e = MemoryEvents::parse(text.as_bytes()).expect("well formed");
            prop_assert_eq!((e.low, e.oom_kill), (low, oom_kill));
        }

        #[test]
        fn no_bytes_break_the_parsers(b: Vec<u8>) {
            let seen = (MemoryEvents::parse(&b), SwapEvents::parse(&b), MemoryStat::parse(&b));
            prop_assert_eq!(seen.0.is_ok(), seen.2.is_ok());
        }
    }
}
