//! A thread that does something now and then, beside what serves.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::failure::Failure;

/// The thread, until this is dropped. What it does just then goes on without being waited for.
pub(super) struct Background(Arc<Ended>);

/// What the thread is told.
#[derive(Default)]
pub(super) struct Ended {
    ended: Mutex<bool>,
    changed: Condvar,
}

impl Background {
    /// Starts it.
    ///
    /// # Errors
    /// Where the system has no more threads.
    pub(super) fn start(
        name: &str,
        body: impl FnOnce(&Ended) + Send + 'static,
    ) -> Result<Self, Failure> {
        let ended = Arc::new(Ended::default());
        let of_thread = Arc::clone(&ended);
        let thread = std::thread::Builder::new().name(name.to_owned());
        thread
            .spawn(move || body(&of_thread))
            .map_err(Failure::of)?;
        Ok(Self(ended))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        *self.0.ended.lock() = true;
        self.0.changed.notify_all();
    }
}

impl Ended {
    /// Waits for that moment; `true` where the end came before.
    pub(super) fn before(&self, moment: Instant) -> bool {
        let mut ended = self.ended.lock();
        while !*ended && Instant::now() < moment {
            self.changed.wait_until(&mut ended, moment);
        }
        *ended
    }
}
