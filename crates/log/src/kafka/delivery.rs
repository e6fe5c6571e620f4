//! What becomes of appends: delivery reports, and what they mean.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::ProducerContext;
use rdkafka::statistics::Statistics;
use tally_domain::Offset;

use super::ages::Age;
use super::client::Context;
use super::native::{Persisted, persisted};
use super::producer::Shared;
use crate::contract::{AppendDone, AppendError};

/// One append on its way.
pub(super) struct Append {
    shared: Arc<Shared>,
    /// Its bytes in the queue, and when it came there.
    pub(super) cost: usize,
    pub(super) age: Age,
    pub(super) began: Instant,
    left: AtomicU64,
    /// `None` until something was said.
    results: Mutex<Vec<Option<Result<Offset, AppendError>>>>,
    done: Mutex<Option<AppendDone>>,
}

/// Which record of which append a message is.
pub(super) struct Slot {
    pub(super) append: Arc<Append>,
    pub(super) place: usize,
}

/// Takes what a producer says.
pub(super) struct Delivery {
    context: Context,
    /// By partition: the offset after the last that was acknowledged.
    next: Vec<AtomicU64>,
    /// Whether what it has is given up because a record ran out of time.
    overdue: AtomicBool,
    /// Whether a record of it was acknowledged.
    delivered: AtomicBool,
}

impl Delivery {
    pub(super) fn new(context: Context, partitions: u32) -> Self {
        let next = (0..partitions).map(|_| AtomicU64::new(0)).collect();
        Self {
            context,
            next,
            overdue: AtomicBool::new(false),
            delivered: AtomicBool::new(false),
        }
    }

    /// From now on, what this producer gives up has run out of time.
    pub(super) fn set_overdue(&self) {
        self.overdue.store(true, Ordering::Relaxed);
    }

    /// Whether a record of this producer was acknowledged.
    pub(super) fn has_delivered(&self) -> bool {
        self.delivered.load(Ordering::Relaxed)
    }
}

impl ClientContext for Delivery {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.context.log(level, facility, line);
    }

    fn stats(&self, statistics: Statistics) {
        self.context.stats(statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.context.error(error, reason);
    }
}

impl ProducerContext for Delivery {
    type DeliveryOpaque = Box<Slot>;

    fn delivery(&self, result: &DeliveryResult<'_>, slot: Box<Slot>) {
        let shared = &slot.append.shared;
        let result = match result {
            Ok(message) => {
                shared.health().delivered();
                self.delivered.store(true, Ordering::Relaxed);
                self.acknowledged(shared, message.partition(), message.offset())
            }
            Err((error, message)) => {
                let error = self.not_acknowledged(error, persisted(message));
                shared.failed(&error);
                Err(error)
            }
        };
        let failed = result.is_err();
        let Slot { append, place } = *slot;
        if append.is_last(place, result) {
            if failed {
                let shared = Arc::clone(&append.shared);
                shared.tell_later(append);
            } else {
                append.tell();
            }
        }
    }
}

impl Delivery {
    fn not_acknowledged(&self, error: &KafkaError, persisted: Persisted) -> AppendError {
        let given_up = error.rdkafka_error_code() == Some(RDKafkaErrorCode::PurgeQueue);
        if given_up && persisted == Persisted::No && self.overdue.load(Ordering::Relaxed) {
            return AppendError::TimedOut(
                "no broker took it within kafka.delivery_timeout".to_owned(),
            );
        }
        not_acknowledged(error, persisted)
    }

    /// The offset of an acknowledged record, where it can be believed.
    fn acknowledged(
        &self,
        shared: &Shared,
        partition: i32,
        offset: i64,
    ) -> Result<Offset, AppendError> {
        let Ok(offset) = Offset::try_from(offset) else {
            // A retry that the broker knew already is acknowledged without its place.
            let why = "it is acknowledged without its offset".to_owned();
            return Err(AppendError::FateUnknown(why));
        };
        let place = usize::try_from(partition).unwrap_or(usize::MAX);
        let before = self
            .next
            .get(place)
            .map_or(0, |next| next.fetch_max(offset + 1, Ordering::Relaxed));
        if offset >= before {
            return Ok(offset);
        }
        let why = format!(
            "partition {partition} of topic {} acknowledged offset {offset} after {before}: the topic was deleted and made again, or lost records that it had acknowledged",
            shared.topic()
        );
        shared.health().fail(why.clone());
        Err(AppendError::FateUnknown(why))
    }
}

/// What a failed delivery means.
pub(super) fn not_acknowledged(error: &KafkaError, persisted: Persisted) -> AppendError {
    let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
    let why = code.to_string();
    if persisted == Persisted::Perhaps {
        return AppendError::FateUnknown(why);
    }
    if [
        RDKafkaErrorCode::TopicAuthorizationFailed,
        RDKafkaErrorCode::ClusterAuthorizationFailed,
    ]
    .contains(&code)
    {
        AppendError::Unauthorized(why)
    } else if code == RDKafkaErrorCode::MessageSizeTooLarge {
        AppendError::TooLarge(format!("{why}; raise the topic's max.message.bytes"))
    } else {
        AppendError::NotWritten(why)
    }
}

impl Append {
    pub(super) fn new(
        shared: &Arc<Shared>,
        records: usize,
        (cost, age): (usize, Age),
        done: AppendDone,
    ) -> Self {
        Self {
            shared: Arc::clone(shared),
            cost,
            age,
            began: Instant::now(),
            left: AtomicU64::new(u64::try_from(records).unwrap_or(u64::MAX)),
            results: Mutex::new((0..records).map(|_| None).collect()),
            done: Mutex::new(Some(done)),
        }
    }

    /// Notes what became of a record; whether that was the last one, and all can be told.
    pub(super) fn is_last(&self, place: usize, result: Result<Offset, AppendError>) -> bool {
        if let Some(to) = self.results.lock().get_mut(place) {
            *to = Some(result);
        }
        self.left.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Calls back, once.
    pub(super) fn tell(&self) {
        let results = std::mem::take(&mut *self.results.lock());
        let unsaid = || {
            Err(AppendError::FateUnknown(
                "nothing was said of it".to_owned(),
            ))
        };
        let results: Vec<_> = results
            .into_iter()
            .map(|result| result.unwrap_or_else(unsaid))
            .collect();
        let Some(done) = self.done.lock().take() else {
            return;
        };
        self.shared.finished(self, &results);
        if catch_unwind(AssertUnwindSafe(|| done(results))).is_err() {
            tracing::error!(log = self.shared.name(), "a callback of an append panicked");
        }
        self.shared.told();
    }
}
