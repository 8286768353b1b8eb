//! Names, prefixes and MAC addresses: what parses prints as something that parses to the same.
#![no_main]
use libfuzzer_sys::fuzz_target;
use palisade_net::{IfName, IpPrefix, MacAddr};

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    if let Ok(prefix) = text.parse::<IpPrefix>() {
        assert_eq!(prefix.to_string().parse::<IpPrefix>().ok(), Some(prefix));
    }
    if let Ok(mac) = text.parse::<MacAddr>() {
        assert_eq!(mac.to_string().parse::<MacAddr>().ok(), Some(mac));
    }
    if let Ok(name) = text.parse::<IfName>() {
        assert_eq!(name.as_str(), text);
    }
});
