//! Profiles in Docker's and OCI's JSON format: never a panic, and what compiles means what the policy means.
#![no_main]

use libfuzzer_sys::fuzz_target;
use palisade_secfilter::{Host, KernelVersion, Profile, SeccompData, Syscall};

fuzz_target!(|data: &[u8]| {
    let host = Host::new(KernelVersion { major: 6, minor: 1 }).capabilities(0xa804_25fb);
    let Ok(policy) = Profile::from_json(data).and_then(|profile| profile.policy(&host)) else { return };
    let Ok(filter) = policy.compile() else { return };
    let seed = data.iter().fold(0u64, |sum, &byte| sum.rotate_left(8) ^ u64::from(byte));
    for nr in (0..480).chain([0x4000_0000, u32::MAX]) {
        let call = SeccompData::new(Syscall::new(nr), [seed, seed >> 32, 0, 1, u64::MAX, u64::from(nr)]);
        assert_eq!(filter.evaluate(&call), policy.evaluate(&call));
    }
});
