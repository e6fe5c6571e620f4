//! Threads that watch something outlive a panic.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Duration;

/// The pause after a panic, so that one that comes every time is no busy loop.
const PAUSE: Duration = Duration::from_secs(1);

/// Does a watching thread's work until it returns. A panic is said, and the work is begun again;
/// it sees to it by itself that what the panic left half done is put right.
pub(crate) fn begin_again_after_panic(name: &str, mut work: impl FnMut()) {
    while catch_unwind(AssertUnwindSafe(&mut work)).is_err() {
        tracing::error!(thread = name, "this thread panicked; it begins again");
        thread::sleep(PAUSE);
    }
}
