//! Links, addresses, routes, neighbours and connections as the kernel sends them.
#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| palisade_net::fuzz::answers(data));
