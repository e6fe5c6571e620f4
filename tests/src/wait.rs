//! Waiting for a condition, never for the clock.

use std::time::{Duration, Instant};

/// How long anything may take before a test gives up. Far more than it takes, so that a slow
/// machine doesn't fail; a test that passes never waits for it.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Between two probes at first; it grows, so that a long wait costs next to nothing.
const SHORTEST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// Asks `probe` again and again until it answers, and returns the answer; `None` where it has not
/// answered within the limit.
pub fn within<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    let mut pause = SHORTEST_PAUSE;
    loop {
        if let Some(answer) = probe() {
            return Some(answer);
        }
        if start.elapsed() >= limit {
            return None;
        }
        std::thread::sleep(pause);
        pause = (pause + pause / 4).min(LONGEST_PAUSE);
    }
}

/// As [`within`] the [`DEADLINE`].
///
/// # Panics
/// When there is no answer by then.
pub fn until<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    within(DEADLINE, probe).unwrap_or_else(|| panic!("{what}: not within {DEADLINE:?}"))
}

/// Asks without any pause, for what lasts a moment only; `None` where there is no answer within the limit.
pub fn closely<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = probe() {
            return Some(answer);
        }
        if start.elapsed() >= limit {
            return None;
        }
        std::thread::yield_now();
    }
}

/// Lets a time pass that was chosen by chance: how long somebody lives before he is killed.
pub fn out(time: Duration) {
    std::thread::sleep(time);
}
