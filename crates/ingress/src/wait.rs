//! Waiting for a condition in tests, never for the clock.

use std::time::{Duration, Instant};

/// Waits until it holds.
///
/// # Panics
/// Where it does not within half a minute; `what` says what was waited for.
pub(crate) fn until(what: &str, holds: impl Fn() -> bool) {
    let limit = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < limit, "{what} did not come");
        std::thread::yield_now();
    }
}
