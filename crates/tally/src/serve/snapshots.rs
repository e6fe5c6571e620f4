//! Snapshots taken in time, on a thread of their own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tally_projector::Projector;

use crate::config::Config;
use crate::failure::{Failure, with_causes};

/// The pause before the first run, at least: a server that has just started has other work.
const SOON: Duration = Duration::from_secs(60);

/// Takes snapshots until it is dropped; a run that is under way then goes on without being waited for,
/// and what it has not ended is no snapshot.
pub(super) struct Schedule(Arc<Ended>);

#[derive(Default)]
struct Ended {
    ended: Mutex<bool>,
    changed: Condvar,
}

impl Schedule {
    /// Takes them as often as the settings say; `None` where they name no place.
    pub(super) fn start(
        config: &Config,
        projector: &Arc<Projector>,
    ) -> Result<Option<Self>, Failure> {
        if config.snapshots.url.is_empty() {
            return Ok(None);
        }
        let every = config.snapshots.interval.get();
        let projector = Arc::clone(projector);
        let ended = Arc::new(Ended::default());
        let of_thread = Arc::clone(&ended);
        let thread = std::thread::Builder::new().name("tally-snapshots".to_owned());
        let body = move || of_thread.run(&projector, every);
        thread.spawn(body).map_err(Failure::of)?;
        Ok(Some(Self(ended)))
    }
}

/// When the newest one is as old as they may get; soon where there is none, or nobody knows.
fn first_due(projector: &Projector, every: Duration) -> Instant {
    let age = projector.snapshots_age().ok().flatten();
    let left = age.map_or(Duration::ZERO, |age| every.saturating_sub(age));
    Instant::now() + left.max(SOON.min(every))
}

impl Drop for Schedule {
    fn drop(&mut self) {
        *self.0.ended.lock() = true;
        self.0.changed.notify_all();
    }
}

impl Ended {
    fn run(&self, projector: &Projector, every: Duration) {
        let mut due = first_due(projector, every);
        loop {
            let mut ended = self.ended.lock();
            while !*ended && Instant::now() < due {
                self.changed.wait_until(&mut ended, due);
            }
            if *ended {
                return;
            }
            drop(ended);
            let took = catch_unwind(AssertUnwindSafe(|| {
                projector.take_snapshots(&mut |taken| {
                    tracing::info!(name = %taken.name, bytes = taken.bytes, "a snapshot is taken");
                })
            }));
            match took {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    let error = with_causes(&error);
                    tracing::error!(
                        error,
                        "snapshots were not all taken; it is tried again in time"
                    );
                }
                Err(_) => tracing::error!("taking snapshots panicked; it is tried again in time"),
            }
            // While the state is made anew there is none to take them of; soon there is.
            let pause = if projector.is_renewing() {
                SOON.min(every)
            } else {
                every
            };
            due = Instant::now() + pause;
        }
    }
}
