//! Command lines of iptables, one a line: whatever is accepted can be printed.
#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut tables = palisade_net::iptables::Iptables::v4();
    for line in String::from_utf8_lossy(data).lines() {
        if tables.run(line).is_ok() {
            drop(tables.ruleset().to_string());
        }
    }
});
