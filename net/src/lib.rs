#![doc = include_str!("../README.md")]

mod address;
mod bridge;
mod conntrack;
mod error;
#[doc(hidden)]
pub mod fuzz;
pub mod iptables;
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
mod sys;

pub use address::InterfaceAddress;
pub use bridge::{Bridge, BridgeSpec, Port, PortSpec};
pub use conntrack::{Connection, Tuple};
pub use error::{Error, ErrorKind, Result};
pub use link::{Link, LinkKind, LinkSettings, MacvlanMode};
pub use name::{IfName, MacAddr};
pub use neighbour::{FdbEntry, Neighbour, NeighbourState};
pub use netns::Netns;
pub use prefix::IpPrefix;
pub use route::{NextHop, Route, RouteEntry, RouteKind};
