//! The log's head, asked for by one at a time: a log that is away takes long to say so.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tally_log::EventLog;
use tally_projector::Projector;
use tokio::sync::watch;
use tokio::time::timeout;

use super::readiness::Head;

/// What the log said last.
pub(super) struct Heads {
    /// Held while the log is asked: when it answered, and what.
    last: Mutex<Option<(Instant, Head)>>,
    answered: watch::Sender<Option<Instant>>,
}

impl Heads {
    pub(super) fn new() -> Self {
        Self {
            last: Mutex::default(),
            answered: watch::Sender::new(None),
        }
    }

    /// Asks the log. Whoever asks while another is at it has the same answer, so that a log that is
    /// away holds up nobody for longer than it takes to find out.
    pub(super) fn ask(&self, log: &dyn EventLog, projector: &Projector, asked_at: Instant) -> Head {
        let mut last = self.last.lock();
        match &*last {
            Some((answered_at, head)) if *answered_at >= asked_at => head.clone(),
            Some(_) | None => {
                let began = Instant::now();
                let head = log.head();
                projector.head_seen(&head, began);
                let answered_at = Instant::now();
                *last = Some((answered_at, head.clone()));
                self.answered.send_replace(Some(answered_at));
                head
            }
        }
    }

    /// Waits for an answer that is no older than that, but no longer than `limit`.
    pub(super) async fn newer_than(&self, asked_at: Instant, limit: Duration) {
        let mut answered = self.answered.subscribe();
        let newer = answered.wait_for(|at| at.is_some_and(|at| at >= asked_at));
        // Without one, the last has to do.
        let _ = timeout(limit, newer).await;
    }
}
