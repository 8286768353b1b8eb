//! Offsets of clocks.

use std::time::Duration;

use palisade_ns::{ClockOffset, ErrorKind, TimeOffsets};
use proptest::prelude::*;

proptest! {
    #[test]
    fn clock_offsets_round_trip(secs in any::<u64>(), nanos in 0u32..1_000_000_000, back: bool) {
        let by = Duration::new(secs >> 1, nanos);
        let offset = if back { ClockOffset::back(by) } else { ClockOffset::forward(by) };
        prop_assert_eq!(offset.magnitude(), by);
        prop_assert_eq!(offset.is_back(), back && !by.is_zero());
        prop_assert_eq!(offset.to_string().parse::<ClockOffset>().unwrap(), offset);
    }

    #[test]
    fn the_files_lines_round_trip(a in any::<i32>(), b in any::<i32>(), nanos in 0u32..1_000_000_000) {
        let text = format!("monotonic {a} {nanos}\nboottime {b} 7\n");
        let offsets: TimeOffsets = text.parse().unwrap();
        prop_assert_eq!(offsets.to_string(), text);
        // As the kernel prints them.
        let padded = format!("monotonic  {a:10} {nanos:9}\nboottime   {b:10} {:9}\n", 7);
        prop_assert_eq!(TimeOffsets::parse(padded.as_bytes()).unwrap(), offsets);
    }

    #[test]
    fn no_bytes_make_the_parsers_panic(bytes in prop::collection::vec(any::<u8>(), 0..60), text in "[-0-9. ]{0,12}") {
        if let Ok(offsets) = TimeOffsets::parse(&bytes) {
            prop_assert_eq!(offsets.to_string().parse::<TimeOffsets>().unwrap(), offsets);
        }
        if let Ok(offset) = text.parse::<ClockOffset>() {
            prop_assert_eq!(offset.to_string().parse::<ClockOffset>().unwrap(), offset);
        }
    }
}

#[test]
fn text_is_seconds() {
    let offset = |text: &str| text.parse::<ClockOffset>();
    assert_eq!(offset("86400").unwrap(), ClockOffset::forward(Duration::from_secs(86400)));
    assert_eq!(offset("-0.5").unwrap(), ClockOffset::back(Duration::from_millis(500)));
    assert_eq!(offset("-0.5").unwrap().to_string(), "-0.5");
    let half_back = TimeOffsets::ZERO.monotonic(offset("-0.5").unwrap());
    assert_eq!(half_back.to_string(), "monotonic -1 500000000\nboottime 0 0\n");
    for bad in ["", "-", "1.", ".5", "+1", "1.0000000001", "1e3", " 1", "--1", "18446744073709551616"] {
        assert_eq!(offset(bad).unwrap_err().kind(), ErrorKind::Syntax, "{bad:?}");
    }
}

#[test]
fn extremes_saturate() {
    assert_eq!(ClockOffset::forward(Duration::MAX).magnitude().as_secs(), i64::MAX as u64);
    assert_eq!(ClockOffset::back(Duration::MAX).to_string(), "-9223372036854775808");
    assert_eq!("-9223372036854775808".parse::<ClockOffset>().unwrap(), ClockOffset::back(Duration::MAX));
}

#[test]
fn the_own_file_parses() {
    let file = std::fs::read("/proc/self/timens_offsets").unwrap();
    TimeOffsets::parse(&file).unwrap();
}
