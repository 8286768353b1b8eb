use std::fmt;

use crate::Error;
use crate::bytes::{At, key_value, lines};

/// `/proc/meminfo` in bytes, see [proc_meminfo(5)](https://man7.org/linux/man-pages/man5/proc_meminfo.5.html).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemInfo {
    /// `MemTotal`: what the kernel has to give.
    pub total: u64,
    /// `MemFree`: not used for anything.
    pub free: u64,
    /// `MemAvailable`: what programs can get without swapping.
    pub available: u64,
    /// `Buffers`: cache of block devices.
    pub buffers: u64,
    /// `Cached`: cache of files, shared memory included.
    pub cached: u64,
    /// `Shmem`: shared memory and tmpfs.
    pub shmem: u64,
    /// `SReclaimable`: kernel memory that can be given back.
    pub slab_reclaimable: u64,
    /// `SwapTotal`.
    pub swap_total: u64,
    /// `SwapFree`.
    pub swap_free: u64,
    entries: Vec<(String, u64)>,
}

impl MemInfo {
    /// Reads the text of `meminfo`.
    ///
    /// # Errors
    /// [`Malformed`](crate::ErrorKind::Malformed) with the line and field, also if one of the named fields is missing.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let mut entries: Vec<(String, u64)> = Vec::with_capacity(64);
        let mut end = At { file: "meminfo", line: 1 };
        for (at, line) in lines("meminfo", text) {
            end = at;
            let (key, value) = key_value(line).ok_or_else(|| at.bad("key", line))?;
            // Numbers of huge pages are counts, without a unit.
            let value = if value.ends_with(b"kB") { at.kib("kB", value)? } else { at.num("count", value)? };
            entries.push((String::from_utf8_lossy(key).into_owned(), value));
        }
        let get = |name: &'static str| {
            let found = entries.iter().find(|(k, _)| k == name).map(|(_, v)| *v);
            end.required(name, found)
        };
        Ok(Self {
            total: get("MemTotal")?,
            free: get("MemFree")?,
            available: get("MemAvailable")?,
            buffers: get("Buffers")?,
            cached: get("Cached")?,
            shmem: get("Shmem")?,
            slab_reclaimable: get("SReclaimable")?,
            swap_total: get("SwapTotal")?,
            swap_free: get("SwapFree")?,
            entries,
        })
    }

    /// Any line by the kernel's word: bytes where it has a unit (`Dirty`), a count where not (`HugePages_Total`).
    pub fn get(&self, key: &str) -> Option<u64> {
        self.entries.iter().find(|(k, _)| k == key).map(|(_, v)| *v)
    }

    /// What free(1) calls "buff/cache".
    pub fn buffers_and_cache(&self) -> u64 {
        self.buffers.saturating_add(self.cached).saturating_add(self.slab_reclaimable)
    }

    /// What free(1) calls "used" (since procps 4): what is not available.
    pub fn used(&self) -> u64 {
        self.total.saturating_sub(self.available)
    }
}

/// The table of free(1), in KiB.
impl fmt::Display for MemInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = ["total", "used", "free", "shared", "buff/cache", "available"];
        write!(f, "{:6}", "")?;
        for head in heads {
            write!(f, " {head:>11}")?;
        }
        let memory =
            [self.total, self.used(), self.free, self.shmem, self.buffers_and_cache(), self.available];
        write!(f, "\n{:6}", "Mem:")?;
        for value in memory {
            write!(f, " {:>11}", value / 1024)?;
        }
        write!(f, "\n{:6}", "Swap:")?;
        for value in [self.swap_total, self.swap_total.saturating_sub(self.swap_free), self.swap_free] {
            write!(f, " {:>11}", value / 1024)?;
        }
        Ok(())
    }
}
