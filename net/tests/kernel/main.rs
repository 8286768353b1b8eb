//! Against the real kernel, each test in a user and network namespace of its own.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bridge;
mod common;
mod iptables;
mod links;
mod nft;
mod nft_hooks;
mod nft_random;
mod nft_traffic;
mod nft_tuple;
mod policy;
mod policy_random;
