//! The files of `/proc` that are about the whole system, and their readers on [`ProcRoot`].
//!
//! Namespaces do not make these their own: inside of a container they still show the host, its memory and its load.

use crate::{Error, ProcRoot};

mod cpuinfo;
mod filesystems;
mod load;
mod meminfo;
mod mounts;
mod partitions;
mod pressure;
mod stat;
mod version;

pub use cpuinfo::{Cpu, CpuInfo};
pub use filesystems::{FileSystem, FileSystems};
pub use load::{LoadAverage, Uptime};
pub use meminfo::MemInfo;
pub use mounts::{MountTable, MountTableEntry};
pub use partitions::{Partition, Partitions};
pub use pressure::{Pressure, PressureLine, PressureOf};
pub use stat::{CpuTimes, SystemStat};
pub use version::KernelVersion;

/// The size of a memory page in bytes, the unit of [`Statm`](crate::Statm) and of
/// [`Stat::resident_pages`](crate::Stat::resident_pages).
pub fn page_size() -> u64 {
    // The kernel passes it to every program (AT_PAGESZ), so it is always there; 4096 on x86-64.
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    size.ok().flatten().and_then(|n| u64::try_from(n).ok()).unwrap_or(4096)
}

/// The files of the whole system. Each method reads one file once.
impl ProcRoot {
    /// `cpuinfo`: the processors.
    ///
    /// # Errors
    /// Of reading the file, or [`Malformed`](crate::ErrorKind::Malformed); so for all that follow.
    pub fn cpuinfo(&self) -> Result<CpuInfo, Error> {
        self.parse("cpuinfo", CpuInfo::parse)
    }

    /// `meminfo`: memory and swap.
    ///
    /// # Errors
    /// As [`cpuinfo`](ProcRoot::cpuinfo).
    pub fn meminfo(&self) -> Result<MemInfo, Error> {
        self.parse("meminfo", MemInfo::parse)
    }

    /// `uptime`: since boot, in the reader's time namespace.
    ///
    /// # Errors
    /// As [`cpuinfo`](ProcRoot::cpuinfo).
    pub fn uptime(&self) -> Result<Uptime, Error> {
        self.parse("uptime", Uptime::parse)
    }

    /// `loadavg`: how many tasks run or want to.
    ///
    /// # Errors
    /// As [`cpuinfo`](ProcRoot::cpuinfo).
    pub fn loadavg(&self) -> Result<LoadAverage, Error> {
        self.parse("loadavg", LoadAverage::parse)
    }

    /// `version`: the kernel.
    ///
    /// # Errors
    /// As [`cpuinfo`](ProcRoot::cpuinfo).
    pub fn version(&self) -> Result<KernelVersion, Error> {
        self.parse("version", KernelVersion::parse)
    }

    /// `filesystems`: the types that the kernel can mount now, without loading a module.
    ///
    /// # Errors
    /// As [`cpuinfo`](ProcRoot::cpuinfo).
    pub fn filesystems(&self) -> Result<FileSystems, Error> {
        self.parse("filesystems", FileSystems::parse)
    }

    /// `partitions`: block devices.
    ///
    /// # Errors
    /// As [`cpuinfo`](ProcRoot::cpuinfo).
    pub fn partitions(&self) -> Result<Partitions, Error> {
        self.parse("partitions", Partitions::parse)
    }

    /// `stat`: processor times, boot time, forks.
    ///
    /// # Errors
    /// As [`cpuinfo`](ProcRoot::cpuinfo).
    pub fn stat(&self) -> Result<SystemStat, Error> {
        self.parse("stat", SystemStat::parse)
    }

    /// `pressure/*`: for how long tasks waited for a resource (Linux 4.20; `irq` 6.1).
    ///
    /// # Errors
    /// As [`cpuinfo`](ProcRoot::cpuinfo); [`Absent`](crate::ErrorKind::Absent) where it is switched off.
    pub fn pressure(&self, of: PressureOf) -> Result<Pressure, Error> {
        self.parse(&format!("pressure/{}", of.name()), Pressure::parse)
    }

    /// `mounts`: those of the calling process, in the format of fstab(5).
    ///
    /// # Errors
    /// As [`cpuinfo`](ProcRoot::cpuinfo).
    pub fn mounts(&self) -> Result<MountTable, Error> {
        self.parse("mounts", MountTable::parse)
    }
}
