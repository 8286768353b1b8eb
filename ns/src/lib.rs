#![doc = include_str!("../README.md")]

mod apply;
mod error;
mod handle;
mod join;
mod loopback;
mod namespace;
mod pid;
mod sys;
mod time;
mod unshare;
mod user;
mod uts;

pub use apply::Prepared;
pub use error::{Error, ErrorKind, Result};
pub use handle::{AnyNs, Ns, NsId, kind};
pub use join::{Join, PreparedJoin, pidfd_open};
pub use loopback::loopback_up;
pub use namespace::{Namespace, Namespaces};
pub use time::{ClockOffset, TimeOffsets};
pub use unshare::{Unshare, unshare};
pub use user::no_more_user_namespaces;
pub use uts::{DomainName, Hostname};
