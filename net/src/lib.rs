#![doc = include_str!("../README.md")]

mod address;
mod conntrack;
mod error;
mod link;
mod name;
mod neighbour;
mod netlink;
mod netns;
pub mod nft;
pub mod policy;
mod prefix;
mod route;
mod socket;
#[expect(unsafe_code, reason = "the raw calls live here")]
mod sys;

pub use address::InterfaceAddress;
pub use conntrack::{Connection, Tuple};
pub use error::{Error, ErrorKind, Result};
pub use link::{Link, LinkKind, LinkSettings, MacvlanMode};
pub use name::{IfName, MacAddr};
pub use neighbour::{FdbEntry, Neighbour, NeighbourState};
pub use netns::Netns;
pub use prefix::IpPrefix;
pub use route::{Route, RouteEntry, RouteKind};
