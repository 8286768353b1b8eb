//! Capabilities, sets, presets, and what a thread has.

mod common;

use std::collections::HashSet;

use palisade_creds::{
    Capability, CapabilityArg, CapabilityRequest, CapabilitySet, ErrorKind, ThreadCapabilities,
};
use proptest::prelude::*;

/// The names and numbers are those of another library, which takes them from the kernel's header.
#[test]
fn names_and_numbers_agree_with_the_caps_crate() {
    let theirs: HashSet<(String, u8)> =
        caps::all().iter().map(|cap| (cap.to_string(), cap.index())).collect();
    let ours = Capability::ALL.iter().map(|cap| (cap.name().to_owned(), cap.number())).collect();
    assert_eq!(theirs, ours);
    assert_eq!(Capability::ALL.len(), 41);
}

#[test]
fn names_are_taken_in_any_case_with_or_without_prefix() {
    for text in ["CAP_NET_RAW", "net_raw", "Cap_Net_Raw", "NET_RAW", "cap_NET_raw"] {
        assert_eq!(text.parse::<Capability>().expect(text), Capability::NetRaw);
    }
    for capability in Capability::ALL {
        assert_eq!(capability.to_string().parse::<Capability>().expect("its own name"), *capability);
        assert_eq!(Capability::try_from(capability.number()).expect("its own number"), *capability);
    }
}

/// A54: a name that is none, and one that is not to be had here, are two errors.
#[test]
fn a54_unknown_and_unavailable_differ() {
    for text in ["", "CAP_", "CAP_CAP_NET_RAW", "NET_RAWX", "CAP_NET_RAW ", "ALL", "12", "ünïcode", "CAP_ü"]
    {
        assert_eq!(
            text.parse::<Capability>().expect_err(text).kind(),
            ErrorKind::UnknownCapability,
            "{text:?}"
        );
    }
    assert_eq!(Capability::try_from(41).expect_err("none").kind(), ErrorKind::UnknownCapability);
    let older = CapabilitySet::up_to(Capability::AuditRead.number());
    let error = CapabilitySet::KNOWN.check_available(older).expect_err("a kernel before 5.8");
    assert_eq!(
        (error.kind(), error.capability()),
        (ErrorKind::CapabilityUnavailable, Some(Capability::Perfmon))
    );
    let error =
        CapabilityRequest::new().add(Capability::Bpf).resolve(older).expect_err("a kernel before 5.8");
    assert_eq!((error.kind(), error.capability()), (ErrorKind::CapabilityUnavailable, Some(Capability::Bpf)));
    let error = CapabilitySet::from_bits(1 << 50).check_available(CapabilitySet::KNOWN).expect_err("no such");
    assert_eq!((error.kind(), error.capability()), (ErrorKind::CapabilityUnavailable, None));
}

/// F1, as masks.
#[test]
fn presets_have_the_engines_masks() {
    assert_eq!((CapabilitySet::DOCKER.bits(), CapabilitySet::DOCKER.len()), (0xa804_25fb, 14));
    assert_eq!((CapabilitySet::PODMAN.bits(), CapabilitySet::PODMAN.len()), (0x8004_05fb, 11));
    assert_eq!(CapabilitySet::KNOWN.bits(), 0x1ff_ffff_ffff);
    assert_eq!(CapabilitySet::up_to(40), CapabilitySet::KNOWN);
    assert_eq!(CapabilitySet::up_to(63).bits(), u64::MAX);
    assert_eq!((CapabilitySet::KNOWN - CapabilitySet::DOCKER).len(), 27);
}

/// F1: Docker's rules, one by one.
#[test]
fn docker_add_and_drop() {
    use Capability::{Chown, Kill, NetAdmin, NetRaw, SysResource, SysTime};
    const ALL: CapabilityArg = CapabilityArg::All;
    let here = CapabilitySet::KNOWN.without(SysResource);
    let resolve = |request: CapabilityRequest| request.resolve(here).expect("available");
    let request = CapabilityRequest::new;
    assert_eq!(resolve(request()), CapabilitySet::DOCKER);
    assert_eq!(resolve(request().drop(NetRaw)).bits(), 0xa804_05fb);
    assert_eq!(resolve(request().add(NetAdmin).add(SysTime)).bits(), 0xaa04_35fb);
    assert_eq!(resolve(request().add(ALL)), here, "all is what is available");
    assert_eq!(resolve(request().add(ALL).drop(Chown)), here.without(Chown));
    assert_eq!(resolve(request().add(ALL).drop(ALL)), here, "an added ALL comes first");
    assert_eq!(resolve(request().drop(ALL)), CapabilitySet::EMPTY);
    assert_eq!(resolve(request().drop(ALL).add(Kill)), Kill.into());
    assert_eq!(resolve(request().drop(NetRaw).add(NetRaw)), CapabilitySet::DOCKER, "an add wins over a drop");
    assert_eq!(resolve(request().privileged(true).drop(ALL)), here);
    assert_eq!(resolve(request().defaults(CapabilitySet::PODMAN)), CapabilitySet::PODMAN);
    assert_eq!("all".parse::<CapabilityArg>().expect("ALL"), ALL);
    assert_eq!("net_raw".parse::<CapabilityArg>().expect("a name"), NetRaw.into());
    let error = request().add(SysResource).resolve(here).expect_err("not here");
    assert_eq!(error.kind(), ErrorKind::CapabilityUnavailable);
}

#[test]
fn what_a_thread_has_is_what_the_kernel_shows() {
    let status = std::fs::read("/proc/thread-self/status").expect("/proc");
    let current = ThreadCapabilities::current().expect("readable");
    assert_eq!(current, ThreadCapabilities::from_status(&status).expect("five lines"));
    let last: u8 = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap")
        .expect("/proc")
        .trim()
        .parse()
        .expect("number");
    assert_eq!(CapabilitySet::supported().expect("readable"), CapabilitySet::up_to(last));
    for (set, ours) in [
        (caps::CapSet::Effective, current.effective),
        (caps::CapSet::Permitted, current.permitted),
        (caps::CapSet::Inheritable, current.inheritable),
        (caps::CapSet::Bounding, current.bounding),
        (caps::CapSet::Ambient, current.ambient),
    ] {
        let theirs =
            caps::read(None, set).expect("readable").iter().fold(0, |bits, cap| bits | 1 << cap.index());
        assert_eq!(theirs, ours.bits(), "{set:?}");
    }
}

#[test]
fn a_status_without_masks_is_an_error() {
    let good = "CapInh:\t0000000000000000\nCapPrm:\t0000000000000001\nCapEff:\t0000000000000001\nCapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\n";
    assert_eq!(
        ThreadCapabilities::from_status(good.as_bytes()).expect("five lines").bounding,
        CapabilitySet::DOCKER
    );
    for bad in [
        good.replace("CapAmb", "CapAmx"),
        good.replace("a80425fb", "a80425fg"),
        good.replace("00a8", "a8"),
        good.replace("\t00000000a8", "\t+0000000a8"),
        String::new(),
    ] {
        assert_eq!(
            ThreadCapabilities::from_status(bad.as_bytes()).expect_err("bad").kind(),
            ErrorKind::Syntax
        );
    }
}

proptest! {
    #[test]
    fn sets_round_trip_as_text(bits in any::<u64>()) {
        let set = CapabilitySet::from_bits(bits);
        prop_assert_eq!(set.to_string().parse::<CapabilitySet>().expect("its own text"), set);
        prop_assert_eq!(format!("{set:x}"), format!("{bits:016x}"));
        prop_assert_eq!(set.numbers().count() as u32, set.len());
        prop_assert_eq!(set.iter().collect::<CapabilitySet>(), set & CapabilitySet::KNOWN);
    }

    #[test]
    fn set_operations_are_those_of_sets(a in any::<u64>(), b in any::<u64>()) {
        let (x, y) = (CapabilitySet::from_bits(a), CapabilitySet::from_bits(b));
        prop_assert_eq!(x - y, x & !y);
        prop_assert_eq!((x | y).contains_all(x), true);
        prop_assert_eq!(x.contains_all(y), (x & y) == y);
        prop_assert_eq!((x - y) & y, CapabilitySet::EMPTY);
    }

    #[test]
    fn parsers_of_names_are_total(text in "\\PC{0,20}", status in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = (text.parse::<Capability>(), text.parse::<CapabilitySet>(), text.parse::<CapabilityArg>());
        let _ = ThreadCapabilities::from_status(&status);
    }
}
