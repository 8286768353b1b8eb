//! Texts of the kernel, read and printed.

use palisade_fsroot::{ErrorKind, MountFlags, Propagation};
use proptest::prelude::*;

proptest! {
    #[test]
    fn flags_round_trip(bits in any::<u64>()) {
        let flags = MountFlags::from_bits_truncate(bits);
        match flags.to_string().parse::<MountFlags>() {
            Ok(read) => prop_assert_eq!(read, flags),
            Err(error) => {
                prop_assert!(flags.contains(MountFlags::NOATIME | MountFlags::STRICTATIME));
                prop_assert_eq!(error.kind(), ErrorKind::InvalidValue);
            }
        }
    }

    #[test]
    fn texts_are_read_or_refused(text in "[a-z,]{0,40}") {
        if let Ok(flags) = text.parse::<MountFlags>() {
            prop_assert_eq!(flags.to_string().parse::<MountFlags>().ok(), Some(flags));
        }
        if let Ok(kind) = text.parse::<Propagation>() {
            prop_assert_eq!(kind.to_string(), text);
        }
    }
}

#[test]
fn the_kernels_spelling() {
    let flags: MountFlags = "ro,nosuid,,nodev".parse().unwrap();
    assert_eq!(flags, MountFlags::READ_ONLY | MountFlags::NOSUID | MountFlags::NODEV);
    assert_eq!(flags.to_string(), "ro,nosuid,nodev");
    assert_eq!("".parse::<MountFlags>().unwrap(), MountFlags::empty());
    assert_eq!("rprivate".parse::<Propagation>().unwrap_err().kind(), ErrorKind::InvalidValue);
    for kind in [Propagation::Private, Propagation::Slave, Propagation::Shared, Propagation::Unbindable] {
        assert_eq!(kind.to_string().parse::<Propagation>().unwrap(), kind);
    }
    let error = "ro,nosiud".parse::<MountFlags>().unwrap_err();
    assert!(error.to_string().contains("nosiud"), "{error}");
}
