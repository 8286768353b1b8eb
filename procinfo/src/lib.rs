#![doc = include_str!("../README.md")]

mod bytes;
mod capability;
mod cgroup;
mod confinement;
mod diff;
mod error;
mod fd;
mod fdinfo;
mod idmap;
mod limits;
mod lsns;
mod maps;
mod memory;
mod mountinfo;
mod namespace;
mod process;
mod root;
mod sides;
mod snapshot;
mod stat;
mod status;
mod strings;
mod sys;
mod system;
mod table;
mod timens;
mod tree;
mod users;

pub use cgroup::{CgroupEntry, Cgroups};
pub use confinement::Confinement;
pub use diff::{Change, Named, SnapshotDiff};
pub use error::{Error, ErrorKind};
pub use fd::{Descriptor, DescriptorKind, FileIdentity};
pub use fdinfo::FdInfo;
pub use idmap::{IdMap, IdRange, Setgroups};
pub use limits::{Limit, Limits, Resource};
pub use lsns::{NamespaceRow, NamespaceTable};
pub use maps::{Mapping, Maps, Permissions};
pub use memory::{Io, SmapsRollup, Statm};
pub use mountinfo::{Device, Mount, Mounts, Propagation};
pub use namespace::{NamespaceId, NamespaceKind, Namespaces};
pub use process::Process;
pub use root::ProcRoot;
pub use sides::{Mapped, Sides};
pub use snapshot::{Parts, ProcessEntry, Snapshot};
pub use stat::Stat;
pub use status::{Capabilities, Ids, SeccompMode, State, Status};
pub use strings::{CommandLine, Environment};
pub use system::{
    Cpu, CpuInfo, CpuTimes, FileSystem, FileSystems, KernelVersion, LoadAverage, MemInfo, MountTable,
    MountTableEntry, Partition, Partitions, Pressure, PressureLine, PressureOf, SystemStat, Uptime,
    page_size,
};
pub use table::{ProcessRow, ProcessTable};
pub use timens::{TimeOffset, TimeOffsets};
pub use tree::{Tree, TreeStyle, TreeView};
pub use users::UserNames;
