//! Bodies of fuzz targets: parsers of what the kernel sends. Not part of the API.

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
