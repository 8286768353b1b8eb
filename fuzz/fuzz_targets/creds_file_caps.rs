#![no_main]
use libfuzzer_sys::fuzz_target;
use palisade_creds::{Credentials, FileCapabilities, Securebits};

// The attribute, the status file and the names of securebits: what is read is written as it was.
fuzz_target!(|data: &[u8]| {
    let _ = Credentials::from_status(data);
    if let Ok(caps) = FileCapabilities::parse(data) {
        assert_eq!(FileCapabilities::parse(&caps.to_bytes()).expect("its own bytes"), caps);
    }
    if let Some(bits) = std::str::from_utf8(data).ok().and_then(|text| text.parse::<Securebits>().ok()) {
        assert_eq!(bits.to_string().parse::<Securebits>().expect("its own text"), bits);
    }
});
