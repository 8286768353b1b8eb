#![no_main]
use libfuzzer_sys::fuzz_target;
use palisade_creds::{IdMap, SubIds, SubRange, Uid};

// Whatever the file, its ranges are ranges, and what is allocated beside them is free.
fuzz_target!(|data: &[u8]| {
    let file = SubIds::parse(data);
    let used: Vec<SubRange> = file.all().take(100).collect();
    let _ = IdMap::remapped(&file.of(None, Uid::ROOT));
    if let Ok(free) = SubRange::allocate(&[SubRange::CUSTOMARY], &used, 65536) {
        assert!(!used.iter().any(|range| range.overlaps(free)));
    }
});
