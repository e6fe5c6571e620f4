//! Appends of one thread, gathered: requests that are worked on in the same turn of the thread's
//! loop share one call of the log. The first of them wakes a task of the thread; by the time it
//! has its turn, all connections that had something to read have had theirs.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tally_domain::{EventId, Offset, Partition};
use tally_log::{AppendError, AppendRefused, EventLog, LogHealth, NewRecord};
use tally_projector::{EventFate, Projector};
use tokio::sync::Notify;

use super::metrics::Metrics;

/// The most records in one append.
pub(crate) const MAX_RECORDS: usize = 1_024;

/// What the log said about one append.
#[derive(Debug)]
enum Said {
    /// Nothing of it was taken.
    Refused(AppendRefused),
    /// One for each record.
    Results(Vec<Result<Offset, AppendError>>),
}

impl Said {
    fn of(&self, place: usize) -> Result<Offset, EventFate> {
        match self {
            Self::Refused(refused) => Err(refused.clone().into()),
            Self::Results(results) => match results.get(place) {
                Some(result) => result.clone().map_err(EventFate::from),
                None => {
                    let unsaid = "the log said nothing of it".to_owned();
                    Err(AppendError::FateUnknown(unsaid).into())
                }
            },
        }
    }
}

/// What the log said about one append, for whoever waits past the limit of the fold.
#[derive(Debug, Default)]
pub(crate) struct Ack {
    said: OnceLock<(Said, Instant)>,
    now: Notify,
}

impl Ack {
    fn set(&self, said: Said) {
        // The log says it once.
        let _ = self.said.set((said, Instant::now()));
        self.now.notify_waiters();
    }

    /// As the log says it, for tests.
    #[cfg(test)]
    pub(crate) fn says(&self, results: Vec<Result<Offset, AppendError>>) {
        self.set(Said::Results(results));
    }

    /// What became of the record at `place`, as soon as the log says so.
    pub(crate) async fn of(&self, place: usize) -> Result<Offset, EventFate> {
        loop {
            let now = self.now.notified();
            if let Some((said, _)) = self.said.get() {
                return said.of(place);
            }
            now.await;
        }
    }

    /// What became of the record at `place` and when the log said so, where it has.
    pub(crate) fn so_far(&self, place: usize) -> Option<(Result<Offset, EventFate>, Instant)> {
        let (said, at) = self.said.get()?;
        Some((said.of(place), *at))
    }
}

#[derive(Default)]
struct Gathered {
    records: Vec<NewRecord>,
    ids: Vec<(Partition, EventId)>,
    ack: Arc<Ack>,
}

struct Shared {
    log: Arc<dyn EventLog>,
    projector: Arc<Projector>,
    metrics: Metrics,
    gathered: RefCell<Gathered>,
    wake: Notify,
}

/// One thread's way into the log. Clones are the same.
#[derive(Clone)]
pub(crate) struct Batches(Rc<Shared>);

impl Batches {
    /// The batches of a thread; its [`run`](Self::run) has to be spawned on it.
    pub(crate) fn new(log: Arc<dyn EventLog>, projector: Arc<Projector>, metrics: Metrics) -> Self {
        Self(Rc::new(Shared {
            log,
            projector,
            metrics,
            gathered: RefCell::default(),
            wake: Notify::new(),
        }))
    }

    /// Adds an event whose waiter is registered; it is appended before the thread waits for
    /// anything. Returns where the log's word will be, and at which place of it.
    pub(crate) fn add(&self, id: EventId, record: NewRecord) -> (Arc<Ack>, usize) {
        let mut gathered = self.0.gathered.borrow_mut();
        let place = gathered.records.len();
        let ack = Arc::clone(&gathered.ack);
        gathered.ids.push((record.partition, id));
        gathered.records.push(record);
        drop(gathered);
        if place == 0 {
            self.0.wake.notify_one();
        } else if place + 1 >= MAX_RECORDS {
            self.append();
        }
        (ack, place)
    }

    /// Appends what was gathered, turn by turn, until the runtime ends.
    pub(crate) async fn run(self) {
        loop {
            self.0.wake.notified().await;
            self.append();
        }
    }

    fn append(&self) {
        let Gathered { records, ids, ack } = self.0.gathered.take();
        if records.is_empty() {
            return;
        }
        let Shared {
            log,
            projector,
            metrics,
            ..
        } = &*self.0;
        let many = records.len();
        metrics
            .batch_records
            .observe(f64::from(u32::try_from(many).unwrap_or(u32::MAX)));
        let ids = Arc::new(ids);
        let done = {
            let (projector, ids, ack) = (Arc::clone(projector), Arc::clone(&ids), Arc::clone(&ack));
            Box::new(move |results: Vec<Result<Offset, AppendError>>| {
                let said = Said::Results(results);
                fail_each(&projector, &ids, &said);
                ack.set(said);
            })
        };
        // A panic in the log must not end the only task that appends.
        let appended = catch_unwind(AssertUnwindSafe(|| log.append(records, done)));
        let said = match appended {
            Ok(Ok(())) => return,
            Ok(Err(refused)) => {
                tracing::debug!(%refused, records = many, "the log refused an append");
                Said::Refused(refused)
            }
            Err(_) => {
                let error = AppendError::FateUnknown("the log panicked".to_owned());
                Said::Results(vec![Err(error); many])
            }
        };
        fail_each(projector, &ids, &said);
        ack.set(said);
    }
}

/// Completes the waiters of records that are not in the log. Those that are in it are completed by
/// the fold, and so are those that may be, where it can still come to them: what it makes of them
/// is the true answer, and past the log's limit there is time enough to say that nobody knows.
fn fail_each(projector: &Projector, ids: &[(Partition, EventId)], said: &Said) {
    let mut readable = None;
    for (place, (partition, id)) in ids.iter().enumerate() {
        let Err(fate) = said.of(place) else {
            continue;
        };
        if matches!(fate, EventFate::Failed(AppendError::FateUnknown(_))) {
            let health = || !matches!(projector.log().health(), LogHealth::Failed(_));
            if *readable.get_or_insert_with(health) {
                continue;
            }
        }
        projector.fail_event(*partition, *id, fate);
    }
}
