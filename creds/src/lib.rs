#![doc = include_str!("../README.md")]

mod capability;
mod capability_request;
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
mod prepared_identity;
mod proc_dir;
mod securebits;
#[path = "spawn/sys.rs"]
mod spawn;
mod subid;
mod sys;
mod thread_caps;
mod user;
mod user_spec;

pub use capability::Capability;
pub use capability_request::{CapabilityArg, CapabilityRequest};
pub use capability_set::CapabilitySet;
pub use credentials::{Credentials, Ids};
pub use error::{Error, ErrorKind, Result};
pub use exec::ExecFile;
pub use file_caps::FileCapabilities;
#[doc(hidden)]
pub use helper::{Search, find_trusted, has_more_power_than_its_environment};
pub use id::{Gid, Id, Uid};
pub use id_map::{IdMap, IdRange};
pub use identity::{Identity, first_identity};
pub use maps::{Maps, PreparedMaps, Setgroups, read_maps, write_maps};
pub use prepared_identity::PreparedIdentity;
pub use securebits::Securebits;
pub use subid::{SubIds, SubRange};
pub use thread_caps::ThreadCapabilities;
pub use user::{GroupEntry, PasswdEntry, User, UserDb};
pub use user_spec::UserSpec;
