//! Waiting for a condition, never for the clock.

use std::time::{Duration, Instant};

/// How long anything may take before a test gives up. Far more than it takes, so that a slow
/// machine doesn't fail; a test that passes never waits for it.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Asks `probe` again and again until it answers, and returns the answer.
///
/// # Panics
/// When it has not answered within [`DEADLINE`].
pub fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(
            start.elapsed() < DEADLINE,
            "{what}: not within {DEADLINE:?}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}
