//! Time-outs that hold on an emulated machine too.

use std::thread;
use std::time::{Duration, Instant};

/// `duration` times `PALISADE_TEST_SCALE` (1 unless set).
#[must_use]
pub fn scaled(duration: Duration) -> Duration {
    let factor = std::env::var("PALISADE_TEST_SCALE").ok().and_then(|factor| factor.parse().ok());
    duration * factor.unwrap_or(1)
}

/// Polls `condition` until it holds or the [`scaled`] time is up; says whether it held.
pub fn wait_until(within: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + scaled(within);
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(Duration::from_millis(1));
    }
}
