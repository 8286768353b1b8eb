#![doc = include_str!("../README.md")]

mod capability;
mod capability_set;
mod credentials;
mod error;
mod exec;
mod file;
mod file_caps;
mod helper;
mod id;
mod id_map;
mod identity;
mod maps;
mod securebits;
mod subid;
mod sys;
mod thread_caps;
mod user;

pub use capability::Capability;
pub use capability_set::{CapabilityArg, CapabilityRequest, CapabilitySet};
pub use credentials::{Credentials, Ids};
pub use error::{Error, ErrorKind, Result};
pub use exec::ExecFile;
pub use file_caps::FileCapabilities;
pub use id::{Gid, Id, Uid};
pub use id_map::{IdMap, IdRange, Maps, Setgroups};
pub use identity::{Identity, PreparedIdentity, first_identity};
pub use maps::{PreparedMaps, read_maps, write_maps};
pub use securebits::Securebits;
pub use subid::{SubIds, SubRange};
pub use thread_caps::ThreadCapabilities;
pub use user::{GroupEntry, PasswdEntry, User, UserDb, UserSpec};
