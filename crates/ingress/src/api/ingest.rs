//! An interaction's way into the log and back: waiter, append, verdict.
//!
//! Everything that can refuse an interaction comes before the append. After it there are three
//! answers: the verdict of the fold; that the event is in the log but not folded yet; that nobody
//! knows. A success is never said before the log has acknowledged the event, or the fold has read
//! it, which it can only once it is durable.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tally_domain::{
    Counters, Event, EventId, EventTime, IdempotencyKey, InteractionType, LogId, Outcome,
    Partition, Position, PositionToken, Resource, Toggles, UserId, encode,
};
use tally_log::{AppendError, AppendRefused, EventLog, NewRecord, TraceParent};
use tally_projector::{EventFate, Mailbox, Projector};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};
use uuid::{ContextV7, Timestamp};

use super::batch::{Ack, Batches};
use super::error::ApiError;
use super::metrics::{IngestResult, Metrics};
use super::request_trace::Trace;

const TOO_MANY: &str = "Too many interactions are waiting; try again soon.";
const NOT_WRITTEN: &str = "The interaction could not be recorded; try again soon.";
const UNREACHABLE: &str =
    "The interaction could not be recorded, the log's brokers can't be reached; try again soon.";
const TIMED_OUT: &str =
    "The interaction could not be recorded, the log did not take it in time; try again soon.";
const UNAUTHORIZED: &str = "The interaction could not be recorded, the log does not let this server write; try again later.";
const TOO_LARGE: &str = "The interaction could not be recorded, it is larger than the log is set up to take; try again later.";
const DISK_FULL: &str = "The interaction could not be recorded, the disk is full; try again later.";

/// How long a read of the state may take.
pub(crate) const READ_LIMIT: Duration = Duration::from_secs(5);

/// How long an interaction is waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WaitLimits {
    /// For its verdict, before it is answered without.
    pub(crate) verdict: Duration,
    /// For the log's word, from the append on, before nobody knows.
    pub(crate) log: Duration,
}

/// One thread's way to record interactions.
pub(crate) struct Ingest {
    log_id: LogId,
    partitions: u32,
    projector: Arc<Projector>,
    batches: Batches,
    mailbox: Mailbox,
    limits: WaitLimits,
    metrics: Metrics,
    ids: ContextV7,
}

/// An interaction that is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Recorded {
    /// Its event.
    pub(crate) event_id: EventId,
    /// Where the event stands.
    pub(crate) position: PositionToken,
    /// What the fold made of it; `None` where it has not come to it yet.
    pub(crate) outcome: Option<Outcome>,
    /// The resource's counters, this event included where there is an outcome.
    pub(crate) counters: Counters,
    /// The user's toggles, likewise.
    pub(crate) toggles: Toggles,
    /// Whether both are as another version of the fold left them.
    pub(crate) stale: bool,
}

/// A waiter's place with the projector: given up when its request is.
struct Waiting<'a> {
    ingest: &'a Ingest,
    partition: Partition,
    id: EventId,
    /// The projector has let it go by itself.
    settled: bool,
    /// Somebody is still there to be told.
    answered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.ingest.metrics.ingested(IngestResult::ClientGone);
        }
        if !self.settled {
            self.ingest.projector.forget_event(self.partition, self.id);
        }
    }
}

impl Ingest {
    /// A thread's way; to be made on that thread, inside its runtime, on which it spawns the two
    /// tasks that it needs.
    pub(crate) fn start(
        log: Arc<dyn EventLog>,
        projector: Arc<Projector>,
        limits: WaitLimits,
        metrics: Metrics,
    ) -> Self {
        let (mailbox, deliveries) = Mailbox::new();
        let identity = log.identity();
        let batches = Batches::new(log, Arc::clone(&projector), metrics.clone());
        actix_web::rt::spawn(deliveries.run());
        actix_web::rt::spawn(batches.clone().run());
        Self {
            log_id: identity.id,
            partitions: identity.partitions,
            projector,
            batches,
            mailbox,
            limits,
            metrics,
            ids: ContextV7::new(),
        }
    }

    /// Where this thread's waiters get their answers.
    pub(crate) fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    /// Records an interaction and waits for what becomes of it. Without a trace of the request's
    /// own, one begins with the event.
    ///
    /// # Errors
    /// [`ApiError::Unavailable`]: nothing was recorded. [`ApiError::FateUnknown`],
    /// [`ApiError::KeyReused`]: it is or may be in the log.
    pub(crate) async fn record(
        &self,
        user: UserId,
        resource: Resource,
        interaction: InteractionType,
        idempotency_key: Option<IdempotencyKey>,
        trace: Trace<'_>,
    ) -> Result<Recorded, ApiError> {
        let (id, at) = self.new_id();
        let key = resource.key();
        let partition = tally_domain::partition::partition_of(key.as_bytes(), self.partitions);
        let event = Event {
            id,
            at,
            user,
            resource,
            interaction,
            idempotency_key,
        };
        let Ok(mut fate) = self.projector.wait_for_event(partition, id, &self.mailbox) else {
            self.metrics.ingested(IngestResult::Refused);
            return Err(ApiError::Unavailable(TOO_MANY));
        };
        let mut waiting = Waiting {
            ingest: self,
            partition,
            id,
            settled: false,
            answered: false,
        };
        let record = NewRecord {
            partition,
            key: key.as_bytes().to_vec(),
            value: encode(&event),
            traceparent: Some(match trace {
                Trace::None => TraceParent::of_event(id),
                Trace::Theirs(trace) => trace,
                Trace::Ours(trace) => trace.of_record(),
            }),
        };
        let deadline = Instant::now() + self.limits.log;
        let (ack, place) = self.batches.add(id, record);
        if let Trace::Ours(trace) = trace {
            trace.appends(partition, &ack, place);
        }
        let settled = self.settled(deadline, &mut fate, (&ack, place)).await;
        waiting.settled = settled.is_some();
        if let (Trace::Ours(trace), Some(fate)) = (trace, &settled) {
            trace.settles(fate);
        }
        let answer = match settled {
            Some(fate) => self.verdict(id, fate),
            None => Box::pin(self.late(&event, partition, deadline, (&ack, place))).await,
        };
        waiting.answered = true;
        answer
    }

    /// What becomes of an event, where that is known in time.
    async fn settled(
        &self,
        deadline: Instant,
        fate: &mut oneshot::Receiver<EventFate>,
        (ack, place): (&Ack, usize),
    ) -> Option<EventFate> {
        // While the whole log is folded anew nobody's event comes soon, and nobody waits for it.
        let wait = (!self.projector.is_stale()).then(|| self.projector.waiting());
        let patience = match &wait {
            Some(_) => self.limits.verdict,
            None => Duration::ZERO,
        };
        let settled = timeout(patience, &mut *fate).await;
        if let Some(wait) = wait {
            match &settled {
                Ok(Ok(fate)) => wait.settled(fate),
                Ok(Err(_)) | Err(_) => wait.timed_out(),
            }
        }
        match settled {
            Ok(fate) => fate.ok(),
            // What is rare is boxed: it need not make every request large.
            Err(_) => Box::pin(word_of_log(deadline, fate, ack, place)).await,
        }
    }

    /// An id and a time, of one reading of the clock.
    fn new_id(&self) -> (EventId, EventTime) {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let timestamp = Timestamp::from_unix(&self.ids, now.as_secs(), now.subsec_nanos());
        let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        (EventId::new_v7(timestamp), EventTime::from_millis(millis))
    }

    fn verdict(&self, event_id: EventId, fate: EventFate) -> Result<Recorded, ApiError> {
        let (result, answer) = match fate {
            EventFate::Folded(verdict) => (
                IngestResult::Folded,
                match verdict.outcome {
                    Outcome::Conflict => Err(ApiError::KeyReused),
                    Outcome::Applied
                    | Outcome::NoChange
                    | Outcome::Duplicate
                    | Outcome::Filtered => Ok(Recorded {
                        event_id,
                        position: PositionToken::new(self.log_id, verdict.position),
                        outcome: Some(verdict.outcome),
                        counters: verdict.counters,
                        toggles: verdict.toggles,
                        stale: false,
                    }),
                },
            ),
            // It is in the log and does not count, which is no answer for a client: what it did is
            // recorded when the dead letter is replayed.
            EventFate::DeadLetter(reason) => {
                tracing::error!(
                    %event_id,
                    reason = reason.as_str(),
                    "the fold kept an event of our own as a dead letter"
                );
                (IngestResult::DeadLetter, Err(ApiError::FateUnknown))
            }
            // No interaction has the id of a replay or a drop.
            EventFate::Settled(_) => (IngestResult::FateUnknown, Err(ApiError::FateUnknown)),
            EventFate::Refused(refused) => refusal(&refused),
            EventFate::Failed(error) => failure(&error),
        };
        self.metrics.ingested(result);
        answer
    }

    /// The answer without a verdict: what the log says of the event, and the newest state.
    async fn late(
        &self,
        event: &Event,
        partition: Partition,
        deadline: Instant,
        (ack, place): (&Ack, usize),
    ) -> Result<Recorded, ApiError> {
        let said = timeout_at(deadline, ack.of(place)).await;
        let (result, answer) = match said {
            Ok(Ok(offset)) => {
                let position = Position { partition, offset };
                (IngestResult::Late, self.newest(event, position).await)
            }
            Ok(Err(fate)) => return self.verdict(event.id, fate),
            Err(_) => (IngestResult::FateUnknown, Err(ApiError::FateUnknown)),
        };
        self.metrics.ingested(result);
        answer
    }

    /// Asks for the newest state, on a thread where that may block.
    async fn newest(&self, event: &Event, position: Position) -> Result<Recorded, ApiError> {
        let (projector, resource) = (Arc::clone(&self.projector), event.resource);
        let user = event.user.clone();
        let read = actix_web::web::block(move || projector.read_newest(resource, &user));
        let why = match timeout(READ_LIMIT, read).await {
            Ok(Ok(Ok(view))) => {
                return Ok(Recorded {
                    event_id: event.id,
                    position: PositionToken::new(self.log_id, position),
                    outcome: None,
                    counters: view.counters,
                    toggles: view.toggles,
                    stale: view.stale,
                });
            }
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it took too long".to_owned(),
        };
        // The event is safe, but there is no state to show: only a retry can give an answer.
        tracing::error!(why, "the state can't be read for an answer");
        Err(ApiError::FateUnknown)
    }
}

/// Waits for the log's word, past the limit for the verdict: the verdict, where it comes
/// meanwhile after all. Where the log does not know itself, only the fold can say.
async fn word_of_log(
    deadline: Instant,
    fate: &mut oneshot::Receiver<EventFate>,
    ack: &Ack,
    place: usize,
) -> Option<EventFate> {
    let either = async {
        tokio::select! {
            biased;
            fate = &mut *fate => fate.ok(),
            said = ack.of(place) => match said {
                Err(EventFate::Failed(AppendError::FateUnknown(_))) => fate.await.ok(),
                Ok(_) | Err(_) => None,
            },
        }
    };
    timeout_at(deadline, either).await.ok().flatten()
}

/// The answer where nothing of it was taken.
fn refusal(refused: &AppendRefused) -> (IngestResult, Result<Recorded, ApiError>) {
    tracing::debug!(%refused, "an interaction was refused");
    let detail = match refused {
        AppendRefused::QueueFull { .. } => TOO_MANY,
        AppendRefused::Unreachable(_) => UNREACHABLE,
        AppendRefused::Invalid(_) | AppendRefused::Closed(_) => NOT_WRITTEN,
    };
    (IngestResult::Refused, Err(ApiError::Unavailable(detail)))
}

/// The answer where it was taken and is not known to be in the log.
fn failure(error: &AppendError) -> (IngestResult, Result<Recorded, ApiError>) {
    tracing::debug!(%error, "an interaction was not acknowledged");
    let detail = match error {
        AppendError::NotWritten(_) => NOT_WRITTEN,
        AppendError::DiskFull(_) => DISK_FULL,
        AppendError::TimedOut(_) => TIMED_OUT,
        AppendError::Unauthorized(_) => UNAUTHORIZED,
        AppendError::TooLarge(_) => TOO_LARGE,
        AppendError::FateUnknown(_) => {
            return (IngestResult::FateUnknown, Err(ApiError::FateUnknown));
        }
    };
    (IngestResult::NotWritten, Err(ApiError::Unavailable(detail)))
}

#[cfg(test)]
mod tests;
