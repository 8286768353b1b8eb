//! Reading the numbers of a group.

use crate::cgroup::Cgroup;
use crate::cpu::CpuStat;
use crate::cpuset::CpuSet;
use crate::error::{Error, ErrorKind, Result};
use crate::io::{DeviceNumber, IoStat};
use crate::keyed::{Flat, single, utf8};
use crate::memory::{MemoryEvents, MemoryStat, SwapEvents};
use crate::pids::PidsEvents;
use crate::resource::{HugePage, Rdma, parse_misc};
use crate::value::{Bytes, Limit};

/// The state of `memory`, as far as this kernel and group have it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Memory {
    /// In use now, by the group and those below: `memory.current`.
    pub current: Bytes,
    /// The most that was ever in use (5.19).
    pub peak: Option<Bytes>,
    /// The limit: `memory.max`.
    pub max: Limit<Bytes>,
    /// Swap in use, where the kernel counts it.
    pub swap: Option<Bytes>,
    /// How often boundaries were met.
    pub events: MemoryEvents,
    /// The same for swap.
    pub swap_events: Option<SwapEvents>,
    /// What the memory is made of.
    pub stat: MemoryStat,
}

impl Memory {
    /// In use without the page cache that reclaim would take first: what `docker stats` shows.
    pub fn working_set(&self) -> Bytes {
        Bytes::new(self.current.get().saturating_sub(self.stat.inactive_file.get()))
    }
}

/// The state of `pids`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pids {
    /// Tasks in the group and below.
    pub current: u64,
    /// The most there ever were (6.1).
    pub peak: Option<u64>,
    /// The limit.
    pub max: Limit<u32>,
    /// How often it stopped a fork.
    pub events: PidsEvents,
}

/// `cgroup.stat`: groups below, living and dying.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TreeStat {
    /// Groups below.
    pub descendants: u64,
    /// Removed groups that the kernel still holds memory for.
    pub dying: u64,
}

impl TreeStat {
    /// # Errors
    /// [`Parse`](ErrorKind::Parse) for what is not a `key value` file.
    pub fn parse(text: &[u8]) -> Result<TreeStat> {
        let flat = Flat::parse("cgroup.stat", text)?;
        Ok(TreeStat { descendants: flat.count("nr_descendants"), dying: flat.count("nr_dying_descendants") })
    }
}

impl Cgroup {
    /// Processor time and throttling: `cpu.stat`. The times are there without the `cpu` controller too.
    ///
    /// # Errors
    /// [`Gone`](ErrorKind::Gone) if the group was removed.
    #[doc(alias = "cpu.stat")]
    pub fn cpu_stat(&self) -> Result<CpuStat> {
        CpuStat::parse(&self.dir.read("cpu.stat")?)
    }

    /// Everything about memory.
    ///
    /// # Errors
    /// [`ControllerMissing`](ErrorKind::ControllerMissing) without the controller, [`Gone`](ErrorKind::Gone).
    pub fn memory(&self) -> Result<Memory> {
        Ok(Memory {
            current: Bytes::new(self.number("memory.current")?),
            peak: self.optional(|g| g.number("memory.peak"))?.map(Bytes::new),
            max: self.value("memory.max")?,
            swap: self.optional(|g| g.number("memory.swap.current"))?.map(Bytes::new),
            events: self.memory_events()?,
            swap_events: self.optional(|g| SwapEvents::parse(&g.dir.read("memory.swap.events")?))?,
            stat: MemoryStat::parse(&self.dir.read("memory.stat")?)?,
        })
    }

    /// `memory.events`: the way to tell an out-of-memory kill from other deaths.
    ///
    /// # Errors
    /// [`ControllerMissing`](ErrorKind::ControllerMissing) without the controller, [`Gone`](ErrorKind::Gone).
    #[doc(alias = "memory.events")]
    pub fn memory_events(&self) -> Result<MemoryEvents> {
        MemoryEvents::parse(&self.dir.read("memory.events")?)
    }

    /// The most memory that was ever in use: `memory.peak` (5.19).
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) on older kernels; as [`Cgroup::memory`].
    #[doc(alias = "memory.peak")]
    pub fn memory_peak(&self) -> Result<Bytes> {
        self.number("memory.peak").map(Bytes::new)
    }

    /// Everything about the number of tasks.
    ///
    /// # Errors
    /// [`ControllerMissing`](ErrorKind::ControllerMissing) without the controller, [`Gone`](ErrorKind::Gone).
    pub fn pids(&self) -> Result<Pids> {
        Ok(Pids {
            current: self.number("pids.current")?,
            peak: self.optional(|g| g.number("pids.peak"))?,
            max: match self.value::<Bytes>("pids.max")? {
                Limit::Max => Limit::Max,
                Limit::At(n) => Limit::At(u32::try_from(n.get()).unwrap_or(u32::MAX)),
            },
            events: PidsEvents::parse(&self.dir.read("pids.events")?)?,
        })
    }

    /// The CPUs that tasks in this group can really use: `cpuset.cpus.effective`.
    ///
    /// # Errors
    /// [`ControllerMissing`](ErrorKind::ControllerMissing) without the controller, [`Gone`](ErrorKind::Gone).
    #[doc(alias = "cpuset.cpus.effective")]
    pub fn effective_cpus(&self) -> Result<CpuSet> {
        let text = self.dir.read("cpuset.cpus.effective")?;
        utf8("cpuset.cpus.effective", &text)?.trim_end().parse()
    }

    /// Groups below, living and dying: `cgroup.stat`.
    ///
    /// # Errors
    /// [`Gone`](ErrorKind::Gone) if the group was removed.
    #[doc(alias = "cgroup.stat")]
    pub fn tree_stat(&self) -> Result<TreeStat> {
        TreeStat::parse(&self.dir.read("cgroup.stat")?)
    }

    /// What was done with each block device: `io.stat`.
    ///
    /// # Errors
    /// [`ControllerMissing`](ErrorKind::ControllerMissing) without the controller, [`Gone`](ErrorKind::Gone).
    #[doc(alias = "io.stat")]
    pub fn io_stat(&self) -> Result<Vec<(DeviceNumber, IoStat)>> {
        IoStat::parse(&self.dir.read("io.stat")?)
    }

    /// Huge pages of one size in use: `hugetlb.SIZE.current`.
    ///
    /// # Errors
    /// [`ControllerMissing`](ErrorKind::ControllerMissing); [`Unsupported`](ErrorKind::Unsupported) for a size that this
    /// machine does not have.
    #[doc(alias = "hugetlb")]
    pub fn hugetlb_current(&self, size: HugePage) -> Result<Bytes> {
        let name = format!("hugetlb.{size}.current");
        single("hugetlb", &self.dir.read(&name)?).map(Bytes::new).map_err(|e| e.at(&self.file_path(&name)))
    }

    /// RDMA handles and objects in use: `rdma.current`.
    ///
    /// # Errors
    /// [`ControllerMissing`](ErrorKind::ControllerMissing) without the controller, [`Gone`](ErrorKind::Gone).
    #[doc(alias = "rdma.current")]
    pub fn rdma_current(&self) -> Result<Vec<Rdma>> {
        Rdma::parse(&self.dir.read("rdma.current")?)
    }

    /// Scalar resources in use: `misc.current` (5.13).
    ///
    /// # Errors
    /// [`ControllerMissing`](ErrorKind::ControllerMissing) without the controller, [`Gone`](ErrorKind::Gone).
    #[doc(alias = "misc.current")]
    pub fn misc_current(&self) -> Result<Vec<(String, u64)>> {
        parse_misc(&self.dir.read("misc.current")?)
    }

    /// Whether the group is asked to freeze, frozen already or not: `cgroup.freeze`.
    ///
    /// # Errors
    /// [`Gone`](ErrorKind::Gone) if the group was removed.
    #[doc(alias = "cgroup.freeze")]
    pub fn freeze_requested(&self) -> Result<bool> {
        Ok(self.number("cgroup.freeze")? != 0)
    }

    pub(crate) fn number(&self, file: &'static str) -> Result<u64> {
        single(file, &self.dir.read(file)?).map_err(|e| e.at(&self.file_path(file)))
    }

    fn value<T: std::str::FromStr<Err = Error>>(&self, file: &'static str) -> Result<Limit<T>> {
        let text = self.dir.read(file)?;
        utf8(file, &text)?.trim_end().parse()
    }

    /// `None` where this kernel, or the root group, does not have the file.
    pub(crate) fn optional<T>(&self, read: impl FnOnce(&Cgroup) -> Result<T>) -> Result<Option<T>> {
        match read(self) {
            Ok(v) => Ok(Some(v)),
            Err(e) if e.kind() == ErrorKind::Unsupported => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Reclaims memory from the group now, without waiting for its limit: `memory.reclaim` (5.19). `false` if less than
    /// asked was to be had.
    ///
    /// # Errors
    /// [`ControllerMissing`](ErrorKind::ControllerMissing), [`Unsupported`](ErrorKind::Unsupported).
    #[doc(alias = "memory.reclaim")]
    pub fn reclaim(&self, bytes: Bytes) -> Result<bool> {
        match self.dir.try_write("memory.reclaim", &bytes.get().to_string()) {
            Ok(()) => Ok(true),
            Err(libc::EAGAIN) => Ok(false),
            Err(errno) => Err(self.dir.explain("write", "memory.reclaim", errno)),
        }
    }
}
