//! A dump of an nftables ruleset, read back into rules and printed.
#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| palisade_net::fuzz::ruleset(data));
