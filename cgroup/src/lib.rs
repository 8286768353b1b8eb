#![doc = include_str!("../README.md")]

mod apply;
#[cfg(feature = "systemd")]
mod bus;
mod cgroup;
mod controller;
mod cpu;
mod cpuset;
#[cfg(feature = "systemd")]
mod dbus;
mod device;
mod device_filter;
mod device_program;
mod dir;
pub mod docker;
mod enter;
mod error;
mod events;
#[doc(hidden)]
pub mod fuzz;
mod hierarchy;
mod io;
mod keyed;
mod life;
mod limits;
mod memory;
mod owned;
mod pids;
mod pressure;
mod resource;
mod stat;
mod sys;
#[cfg(feature = "systemd")]
pub mod systemd;
mod tree;
mod usage;
mod value;

pub use cgroup::{Cgroup, Kind};
pub use controller::{Controller, Controllers, FileName};
pub use cpu::{CpuMax, CpuStat, Nice};
pub use cpuset::{CpuSet, Partition};
pub use device::{Access, Device, DeviceKind, DeviceRules};
pub use device_filter::AttachedProgram;
pub use device_program::DeviceProgram;
pub use enter::Entry;
pub use error::{Error, ErrorKind, Result};
pub use events::{Events, Watch, Watched};
pub use hierarchy::{Mode, parse_membership};
pub use io::{DeviceNumber, IoMax, IoStat};
pub use limits::Limits;
pub use memory::{MemoryEvents, MemoryStat, SwapEvents};
pub use owned::OwnedCgroup;
pub use pids::PidsEvents;
pub use pressure::{Pressure, PressureWatch, Resource, Stall, Trigger};
pub use resource::{HugePage, Rdma, ResourceName, parse_misc};
pub use stat::{Memory, Pids, TreeStat};
pub use usage::{Sample, Sampler, Usage};
pub use value::{Bytes, Limit, Weight};
