#![doc = include_str!("../README.md")]

mod apply;
mod cgroup;
mod controller;
mod cpu;
mod cpuset;
mod dir;
mod error;
mod events;
mod hierarchy;
mod keyed;
mod life;
mod limits;
mod memory;
mod owned;
mod pids;
mod stat;
mod sys;
mod tree;
mod value;

pub use cgroup::{Cgroup, Kind};
pub use controller::{Controller, Controllers, FileName};
pub use cpu::{CpuMax, CpuStat, Nice};
pub use cpuset::{CpuSet, Partition};
pub use error::{Error, ErrorKind, Result};
pub use events::{Events, Watch, Watched};
pub use hierarchy::{Mode, parse_membership};
pub use limits::Limits;
pub use memory::{MemoryEvents, MemoryStat, SwapEvents};
pub use owned::OwnedCgroup;
pub use pids::PidsEvents;
pub use stat::{Memory, Pids, TreeStat};
pub use value::{Bytes, Limit, Weight};
