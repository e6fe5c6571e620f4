//! Snapshots taken in time, on a thread of their own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tally_projector::Projector;

use super::background::{Background, Ended};
use crate::config::Config;
use crate::failure::{Failure, with_causes};

/// The pause before the first run, at least: a server that has just started has other work.
const SOON: Duration = Duration::from_secs(60);

/// Takes them as often as the settings say; `None` where they name no place. What a run that is under way
/// at the end has not ended is no snapshot.
pub(super) fn start(
    config: &Config,
    projector: &Arc<Projector>,
) -> Result<Option<Background>, Failure> {
    if config.snapshots.url.is_empty() {
        return Ok(None);
    }
    let every = config.snapshots.interval.get();
    let projector = Arc::clone(projector);
    Background::start("tally-snapshots", move |ended| {
        run(ended, &projector, every)
    })
    .map(Some)
}

/// When the newest one is as old as they may get; soon where there is none, or nobody knows.
fn first_due(projector: &Projector, every: Duration) -> Instant {
    let age = projector.snapshots_age().ok().flatten();
    let left = age.map_or(Duration::ZERO, |age| every.saturating_sub(age));
    Instant::now() + left.max(SOON.min(every))
}

fn run(ended: &Ended, projector: &Projector, every: Duration) {
    let mut due = first_due(projector, every);
    while !ended.before(due) {
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
