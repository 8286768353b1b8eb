#![no_main]
//! Everything that palisade-ns reads: offsets, kinds, names, mount points.
use libfuzzer_sys::fuzz_target;
use palisade_ns::{ClockOffset, Hostname, Namespaces, TimeOffsets, nsfs_mounts};

fuzz_target!(|data: &[u8]| {
    if let Ok(offsets) = TimeOffsets::parse(data) {
        assert_eq!(offsets.to_string().parse::<TimeOffsets>().unwrap(), offsets);
    }
    if let Ok(name) = Hostname::new(data) {
        assert_eq!(name.as_bytes(), data);
    }
    if let Ok(text) = std::str::from_utf8(data) {
        if let Ok(offset) = text.parse::<ClockOffset>() {
            assert_eq!(offset.to_string().parse::<ClockOffset>().unwrap(), offset);
        }
        if let Ok(kinds) = text.parse::<Namespaces>() {
            assert_eq!(kinds.to_string().parse::<Namespaces>().unwrap(), kinds);
        }
    }
    nsfs_mounts(data);
});
