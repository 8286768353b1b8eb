//! The small parsers: call names, kernel versions, SELinux contexts. What parses prints as it was, or as its number.
#![no_main]

use libfuzzer_sys::fuzz_target;
use palisade_secfilter::lsm::{ContainerProfile, Context, ExecLabel, LabelOption};
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
        assert!(ExecLabel::selinux(context.clone()).is_in(text));
        // The same level in another spelling, or another one.
        let other = format!("{text},c0");
        assert_eq!(
            ExecLabel::selinux(context).is_in(&other),
            other.parse().is_ok_and(|other| ExecLabel::selinux(other).is_in(text))
        );
    }
    if let Ok(option) = text.parse::<LabelOption>() {
        assert_eq!(option.to_string(), text);
    }
    // What is named by others is no way into the profile: one line more for a rule, none for a name.
    let lines = |profile: ContainerProfile| profile.to_string().lines().count();
    let plain = lines(ContainerProfile::new("x").unwrap());
    if let Ok(profile) = ContainerProfile::new(text) {
        assert_eq!(lines(profile), plain);
    }
    if let Ok(profile) = ContainerProfile::new("x").unwrap().deny_writes(text) {
        assert_eq!(lines(profile), plain + 1);
    }
    let _ = ExecLabel::apparmor(text);
});
