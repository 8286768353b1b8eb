//! The options of `docker run`: what parses prints as what it is.
#![no_main]

use std::fmt::{Debug, Display};
use std::str::FromStr;

use libfuzzer_sys::fuzz_target;
use palisade::presets::docker::{DeviceOption, Docker, Mode, SecurityOption, TmpfsOption, VolumeOption};

fn round_trip<T: FromStr<Err: Display> + Display + PartialEq + Debug>(text: &str) {
    match text.parse::<T>() {
        Ok(value) => assert_eq!(value.to_string().parse::<T>().ok().as_ref(), Some(&value)),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    round_trip::<DeviceOption>(text);
    round_trip::<SecurityOption>(text);
    round_trip::<TmpfsOption>(text);
    round_trip::<VolumeOption>(text);
    round_trip::<Mode>(text);
    // Sizes, numbers, users and capabilities are read by the setters.
    drop(Docker::new("/").memory(text).cpus(text).user(text).cap_add(text).device_cgroup_rule(text));
});
