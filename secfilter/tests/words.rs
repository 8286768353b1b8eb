//! The small parsers on anything.

use palisade_secfilter::lsm::Context;
use palisade_secfilter::{KernelVersion, Syscall};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_parses_round_trips(text in "\\PC{0,40}|[a-z_]{1,12}|[0-9]{1,12}|[0-9]{1,3}\\.[0-9]{1,3}.{0,8}|[a-z]{0,3}(:[a-z0-9,.]{0,4}){0,4}") {
        match text.parse::<Syscall>() {
            Ok(call) => prop_assert_eq!(call.to_string().parse::<Syscall>().unwrap(), call),
            Err(error) => prop_assert!(error.to_string().len() < 1000),
        }
        if let Ok(version) = text.parse::<KernelVersion>() {
            prop_assert_eq!(version.to_string().parse::<KernelVersion>().unwrap(), version);
            prop_assert!(text.starts_with(|c: char| c.is_ascii_digit()));
        }
        if let Ok(context) = text.parse::<Context>() {
            prop_assert_eq!(context.to_string(), text);
        }
    }
}
