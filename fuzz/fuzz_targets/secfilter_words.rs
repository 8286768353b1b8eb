//! The small parsers: call names, kernel versions, SELinux contexts. What parses prints as it was, or as its number.
#![no_main]

use libfuzzer_sys::fuzz_target;
use palisade_secfilter::lsm::{Context, ExecLabel};
use palisade_secfilter::{KernelVersion, Syscall};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match text.parse::<Syscall>() {
        Ok(call) => assert_eq!(call.to_string().parse::<Syscall>().unwrap(), call),
        Err(error) => assert!(error.to_string().len() < 1000),
    }
    if let Ok(version) = text.parse::<KernelVersion>() {
        assert_eq!(version.to_string().parse::<KernelVersion>().unwrap(), version);
    }
    if let Ok(context) = text.parse::<Context>() {
        assert_eq!(context.to_string(), text);
    }
    let _ = ExecLabel::apparmor(text);
});
