//! Kinds and sets of kinds.

use palisade_ns::{ErrorKind, Namespace, Namespaces};
use proptest::prelude::*;

fn any_set() -> impl Strategy<Value = Namespaces> {
    prop::collection::vec(prop::sample::select(&Namespace::ALL[..]), 0..8)
        .prop_map(|kinds| kinds.into_iter().collect())
}

proptest! {
    #[test]
    fn a_set_takes_only_bits_of_namespaces(bits: u64) {
        let all = Namespaces::ALL.bits();
        match Namespaces::try_from(bits) {
            Ok(set) => { prop_assert_eq!(set.bits(), bits); prop_assert_eq!(bits & !all, 0); }
            Err(e) => { prop_assert_ne!(bits & !all, 0); prop_assert_eq!(e.kind(), ErrorKind::Syntax); }
        }
        prop_assert_eq!(Namespaces::try_from(bits & all).unwrap().bits(), bits & all);
    }

    #[test]
    fn sets_round_trip(set in any_set()) {
        prop_assert_eq!(set.to_string().parse::<Namespaces>().unwrap(), set);
        prop_assert_eq!(Namespaces::try_from(set.bits()).unwrap(), set);
        prop_assert_eq!(set.iter().collect::<Namespaces>(), set);
        prop_assert_eq!(set.len(), set.iter().count());
        let flags: Vec<_> = set.iter().map(Namespace::flag_name).collect();
        prop_assume!(!flags.is_empty());
        prop_assert_eq!(flags.join("|").parse::<Namespaces>().unwrap(), set);
    }

    #[test]
    fn sets_compute_like_sets(a in any_set(), b in any_set()) {
        prop_assert_eq!((a | b).bits(), a.bits() | b.bits());
        prop_assert_eq!(a.intersection(b).bits(), a.bits() & b.bits());
        prop_assert_eq!(a.difference(b).bits(), a.bits() & !b.bits());
        for kind in Namespace::ALL {
            prop_assert!(a.with(kind).contains(kind));
            prop_assert!(!a.without(kind).contains(kind));
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in ".{0,20}") {
        if let Ok(set) = text.parse::<Namespaces>() {
            prop_assert_eq!(set.to_string().parse::<Namespaces>().unwrap(), set);
        }
    }
}

/// rustix's lesson: a flag type that can hold one of these makes a safe unshare unsound.
#[test]
fn nothing_but_namespaces_fits() {
    for flag in [libc::CLONE_FILES, libc::CLONE_FS, libc::CLONE_SYSVSEM, libc::CLONE_VM, libc::CLONE_THREAD] {
        assert!(Namespaces::try_from(flag as u64).is_err(), "{flag:#x}");
        assert_eq!(Namespaces::ALL.bits() & flag as u64, 0);
    }
}

#[test]
fn names_are_the_kernels() {
    for kind in Namespace::ALL {
        let link = std::fs::read_link(format!("/proc/self/ns/{}", kind.name())).unwrap();
        assert!(link.to_str().unwrap().starts_with(kind.name()), "{link:?}");
        assert!(kind.available().unwrap());
        assert_eq!(kind.name().parse::<Namespace>().unwrap(), kind);
        if let Some(file) = kind.children_file() {
            assert!(std::path::Path::new("/proc/self/ns").join(file).exists());
        }
    }
    assert_eq!("none".parse::<Namespaces>().unwrap(), Namespaces::EMPTY);
    let error = "mnt,nets".parse::<Namespaces>().unwrap_err();
    assert!(error.to_string().contains("\"nets\""), "{error}");
    assert!("".parse::<Namespaces>().is_err());
}

#[test]
fn a_set_is_a_constant() {
    const SET: Namespaces = Namespaces::EMPTY.with(Namespace::Mount).with(Namespace::Time);
    const BITS: u64 = SET.bits();
    assert_eq!(BITS, (libc::CLONE_NEWNS | libc::CLONE_NEWTIME) as u64);
    assert_eq!(format!("{SET:?} {SET}"), "Namespaces(mnt,time) mnt,time");
}
