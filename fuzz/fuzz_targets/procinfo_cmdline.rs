#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let shown = palisade_procinfo::CommandLine::parse(data).to_string();
    assert!(!shown.contains(char::is_control));
});
