//! Host and domain names.

use palisade_ns::{DomainName, ErrorKind, Hostname};
use proptest::prelude::*;

proptest! {
    #[test]
    fn names_hold_what_the_kernel_takes(name in prop::collection::vec(any::<u8>(), 0..80)) {
        let valid = name.len() <= 64 && !name.contains(&0);
        match Hostname::new(&name) {
            Ok(host) => { prop_assert!(valid); prop_assert_eq!(host.as_bytes(), &name[..]); }
            Err(e) => { prop_assert!(!valid); prop_assert_eq!(e.kind(), ErrorKind::InvalidValue); }
        }
        prop_assert_eq!(DomainName::new(&name).is_ok(), valid);
    }

    #[test]
    fn text_round_trips(name in "[^\0]{0,16}") {
        prop_assert_eq!(name.parse::<Hostname>().unwrap().to_string(), name);
    }
}

#[test]
fn current_reads_what_the_kernel_has() {
    let file = std::fs::read("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(Hostname::current().unwrap().as_bytes(), file.strip_suffix(b"\n").unwrap());
    let file = std::fs::read("/proc/sys/kernel/domainname").unwrap();
    assert_eq!(DomainName::current().unwrap().as_bytes(), file.strip_suffix(b"\n").unwrap());
}

#[test]
fn errors_name_the_value() {
    let error = Hostname::new([b'a'; 65]).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("host name \"{}\" is 65 bytes long, of at most 64", "a".repeat(65))
    );
    let error = DomainName::new("a\0b").unwrap_err();
    assert_eq!(error.to_string(), "domain name \"a\\x00b\" has a NUL byte");
}
