#![no_main]
use libfuzzer_sys::fuzz_target;
use palisade_fsroot::{MountFlags, Propagation};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(flags) = text.parse::<MountFlags>() {
        assert_eq!(flags.to_string().parse::<MountFlags>().unwrap(), flags);
    }
    if let Ok(kind) = text.parse::<Propagation>() {
        assert_eq!(kind.to_string(), text);
    }
});
