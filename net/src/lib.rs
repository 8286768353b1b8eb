#![doc = include_str!("../README.md")]

mod address;
mod bridge;
mod conntrack;
mod error;
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
#[expect(unsafe_code, reason = "the raw calls live here")]
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
pub use route::{Route, RouteEntry, RouteKind};

/// Bodies of fuzz targets: parsers of what the kernel sends. Not part of the API.
#[doc(hidden)]
pub mod fuzz {
    /// One message of each kind that rtnetlink and conntrack send, made of `data`.
    pub fn answers(data: &[u8]) {
        crate::link::fuzz_link(data);
        crate::address::fuzz_address(data);
        crate::route::fuzz_route(data);
        crate::neighbour::fuzz_neighbour(data);
        crate::conntrack::fuzz_connection(data);
    }

    /// A stream of nf_tables messages, read and printed.
    pub fn ruleset(data: &[u8]) {
        crate::nft::fuzz_ruleset(data);
    }
}
