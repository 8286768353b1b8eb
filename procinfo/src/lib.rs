#![doc = include_str!("../README.md")]

mod bytes;
mod cgroup;
mod confinement;
mod error;
mod fd;
mod fdinfo;
mod idmap;
mod limits;
mod mountinfo;
mod namespace;
mod process;
mod root;
mod status;
mod sys;

pub use cgroup::{CgroupEntry, Cgroups};
pub use confinement::Confinement;
pub use error::{Error, ErrorKind};
pub use fd::{Descriptor, DescriptorKind, FileIdentity};
pub use fdinfo::FdInfo;
pub use idmap::{IdMap, IdRange, Setgroups};
pub use limits::{Limit, Limits, Resource};
pub use mountinfo::{Device, Mount, Mounts, Propagation};
pub use namespace::{NamespaceId, NamespaceKind, Namespaces};
pub use process::Process;
pub use root::ProcRoot;
pub use status::{Capabilities, Ids, SeccompMode, State, Status};
