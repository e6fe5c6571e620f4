//! A state that fails while the server serves is closed and opened again beneath it: what is damaged is
//! then set aside and rebuilt from the log. Requests go on meanwhile; what waits, waits on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tally_projector::Projector;

use crate::failure::{Failure, with_causes};

/// How often the state is asked whether it can still be used.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A state that was caught up and good for less than this since it was opened again is beyond that.
const RECOVERED_AFTER: Duration = Duration::from_secs(60);

/// Between two tries to open it where the disk is full, or the log is away.
const RETRY_EVERY: Duration = Duration::from_secs(5);

/// Opens the state again whenever it fails. Returns why it can't go on, where that does not help.
pub(super) async fn keep_usable(projector: &Arc<Projector>) -> Failure {
    let mut recovered = false;
    loop {
        let (why, good_for) = unusable(projector).await;
        if recovered && good_for < RECOVERED_AFTER {
            return Failure::run(format!(
                "the state failed again soon after it was opened again: {why}. Look at the disk of data_dir"
            ));
        }
        tracing::error!(why, "the state can't be used; it is opened again");
        if let Err(error) = reopen(projector).await {
            return error;
        }
        tracing::info!("the state is open again, and follows the log");
        recovered = true;
    }
}

/// Waits until the state can't be used any more although opening it again repairs it; why, and for
/// how long it was caught up and good.
async fn unusable(projector: &Projector) -> (String, Duration) {
    let mut good_since = None;
    loop {
        let status = projector.status();
        if let (Some(why), true) = (status.failure, status.restart) {
            return (
                why,
                good_since.map_or(Duration::ZERO, |since: Instant| since.elapsed()),
            );
        }
        if status.caught_up_once {
            good_since.get_or_insert_with(Instant::now);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn reopen(projector: &Arc<Projector>) -> Result<(), Failure> {
    loop {
        let projector = Arc::clone(projector);
        let opening = tokio::task::spawn_blocking(move || projector.reopen(|_| Ok(())));
        let Err(error) = opening.await.map_err(Failure::of)? else {
            return Ok(());
        };
        let why = with_causes(&error);
        if !error.passes() {
            return Err(Failure::run(format!(
                "the state can't be opened again: {why}"
            )));
        }
        tracing::error!(why, "the state can't be opened again yet; trying on");
        tokio::time::sleep(RETRY_EVERY).await;
    }
}
