#![doc = include_str!("../README.md")]

mod apply;
mod error;
mod handle;
mod join;
mod list;
mod loopback;
mod namespace;
mod persist;
mod pid;
mod shared;
mod sys;
mod time;
mod unshare;
mod user;
mod uts;

pub use apply::Prepared;
pub use error::{Error, ErrorKind, Result};
pub use handle::{AnyNs, Ns, NsId, kind};
pub use join::{Join, PreparedJoin, pidfd_open};
#[doc(hidden)]
pub use list::nsfs_mounts;
pub use list::{Listed, Listing, list};
pub use loopback::loopback_up;
pub use namespace::{Namespace, Namespaces};
pub use persist::unpersist;
pub use shared::Shared;
pub use time::{ClockOffset, TimeOffsets};
pub use unshare::{Unshare, unshare};
pub use user::no_more_user_namespaces;
pub use uts::{DomainName, Hostname};
