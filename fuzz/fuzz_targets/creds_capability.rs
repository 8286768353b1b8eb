#![no_main]
use libfuzzer_sys::fuzz_target;
use palisade_creds::{CapabilityArg, CapabilitySet, ThreadCapabilities};

// Names and masks: a set that is read prints to what reads as the same set.
fuzz_target!(|data: &[u8]| {
    let _ = ThreadCapabilities::from_status(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = text.parse::<CapabilityArg>();
    if let Ok(set) = text.parse::<CapabilitySet>() {
        assert_eq!(set.to_string().parse::<CapabilitySet>().expect("its own text"), set);
    }
});
