#![doc = include_str!("../README.md")]

mod capability;
mod capability_set;
mod error;
mod file;
mod helper;
mod id;
mod id_map;
mod maps;
mod subid;
mod sys;
mod thread_caps;
mod user;

pub use capability::Capability;
pub use capability_set::{CapabilityArg, CapabilityRequest, CapabilitySet};
pub use error::{Error, ErrorKind, Result};
pub use id::{Gid, Id, Uid};
pub use id_map::{IdMap, IdRange, Maps, Setgroups};
pub use maps::{PreparedMaps, read_maps, write_maps};
pub use subid::{SubIds, SubRange};
pub use thread_caps::ThreadCapabilities;
pub use user::{GroupEntry, PasswdEntry, User, UserDb, UserSpec};
