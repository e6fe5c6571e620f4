//! Every metric of the projector, described.

use tally_domain::{DeadLetterReason, InteractionType, Outcome, ResourceType};
use tally_log::metric::{Label, Metric, Unit};

use super::INVARIANTS;
use crate::waits::WaitResult;

const EVENTS: Unit = Unit::Number("events");
const RECORDS: Unit = Unit::Number("records");
const LETTERS: Unit = Unit::Number("dead letters");
const VALUES: Unit = Unit::Number("values");
const REQUESTS: Unit = Unit::Number("requests");
const TIMES: Unit = Unit::Number("times");

const OUTCOME: Label = Label::words("outcome", || {
    Outcome::ALL
        .iter()
        .map(|outcome| outcome.as_str())
        .collect()
});
const RESOURCE_TYPE: Label = Label::words("resource_type", || {
    ResourceType::ALL.iter().map(|kind| kind.as_str()).collect()
});
const INTERACTION_TYPE: Label = Label::words("interaction_type", || {
    InteractionType::ALL
        .iter()
        .map(|kind| kind.as_str())
        .collect()
});
const REASON: Label = Label::words("reason", || {
    DeadLetterReason::ALL
        .iter()
        .map(|reason| reason.as_str())
        .collect()
});
const CAUSE: Label = Label::words("cause", causes);

/// Why a state was rebuilt.
pub(super) fn causes() -> Vec<&'static str> {
    vec!["fold_version", "damage"]
}

const INVARIANT: Label = Label::words("invariant", || INVARIANTS.to_vec());
const RESULT: Label = Label::words("result", || {
    WaitResult::ALL
        .iter()
        .map(|result| result.as_str())
        .collect()
});

const BATCH_BOUNDS: &[f64] = &[1., 4., 16., 64., 256., 1_024., 4_096., 16_384.];

const CHECKPOINT_SECONDS: &[f64] = &[
    0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1., 2.5, 5., 10., 30., 60.,
];

/// 1 ms, which is what an event's time is good for, to 5 min; 1 s is what is promised.
const VISIBLE_SECONDS: &[f64] = &[
    0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1., 2.5, 5., 10., 30., 60., 300.,
];

/// 0.1 ms to a minute: the limit may be set to that.
const WAIT_SECONDS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1., 2.,
    5., 10., 60.,
];

tally_log::metrics! {
    /// The metrics of the projector.
    pub METRICS:
    INTERACTIONS = Metric::counter(
        "tally_interactions_total", EVENTS,
        "Interactions folded that came after this process had opened the log, by resource type, interaction type and outcome. What a start replays is not in it, nor are dead letters that are replayed.",
    ).by(&[RESOURCE_TYPE, INTERACTION_TYPE, OUTCOME]);
    EVENTS_FOLDED = Metric::counter(
        "tally_projector_events_total", EVENTS,
        "Events folded since the start, replayed ones included, by outcome.",
    ).by(&[OUTCOME]);
    EVENT_TO_VISIBLE = Metric::histogram(
        "tally_projector_event_to_visible_seconds", Unit::Seconds,
        "From an event's time to its being folded, of events that came after this process had opened the log.",
        VISIBLE_SECONDS,
    );
    BATCH_RECORDS = Metric::histogram(
        "tally_projector_batch_records", RECORDS,
        "Records folded per batch.",
        BATCH_BOUNDS,
    );
    WAITERS = Metric::gauge(
        "tally_projector_waiters", REQUESTS,
        "Requests that wait for the fold.",
    );
    WAITS = Metric::counter(
        "tally_projector_waits_total", REQUESTS,
        "Requests that waited for the fold: folded; timed_out, past projector.wait_limit or where the partition is not folded any more; gone, before either. What the log did not take is not in it.",
    ).by(&[RESULT]);
    WAIT_DURATION = Metric::histogram(
        "tally_projector_wait_duration_seconds", Unit::Seconds,
        "How long requests waited for the fold, whatever came of it.",
        WAIT_SECONDS,
    );
    LOG_HEAD = Metric::gauge(
        "tally_log_head_offset", Unit::Number("offset"),
        "Next offset of the log of interactions by partition, as the log itself said it last.",
    ).by(&[Label::PARTITION]);
    LOG_HEAD_TIME = Metric::gauge(
        "tally_log_head_timestamp_seconds", Unit::Timestamp,
        "When the log was asked last for its head and gave it; 0 before the first time.",
    );
    LOG_HEAD_ERRORS = Metric::counter(
        "tally_log_head_errors_total", Unit::Number("errors"),
        "Times that the log was asked for its head and did not give it.",
    );
    NEXT_OFFSET = Metric::gauge(
        "tally_projector_next_offset", Unit::Number("offset"),
        "Offset of the next record to fold, by partition.",
    ).by(&[Label::PARTITION]);
    LAG_RECORDS = Metric::gauge(
        "tally_projector_lag_records", RECORDS,
        "Records between the fold and the log's own head, by partition. Not there while the log has not given its head for 2 s: nobody knows then.",
    ).by(&[Label::PARTITION]);
    LAG_SECONDS = Metric::gauge(
        "tally_projector_lag_seconds", Unit::Seconds,
        "For how long the oldest record that is not folded has been in the log, by partition; 0 where all are folded. Of what was there before the start, the age of the record folded last. While the log has not given its head for 2 s, at least the time since it did.",
    ).by(&[Label::PARTITION]);
    LAST_PROGRESS = Metric::gauge(
        "tally_projector_last_progress_timestamp_seconds", Unit::Timestamp,
        "When a record was folded last, in seconds since 1970; 0: never since the start.",
    );
    DEAD_LETTERS_KEPT = Metric::counter(
        "tally_projector_dead_letters_total", LETTERS,
        "Records kept as dead letters since the start, by reason.",
    ).by(&[REASON]);
    DEAD_LETTERS = Metric::gauge(
        "tally_projector_dead_letters", LETTERS,
        "Dead letters in the state.",
    );
    OLDEST_DEAD_LETTER = Metric::gauge(
        "tally_projector_oldest_dead_letter_timestamp_seconds", Unit::Timestamp,
        "When the oldest dead letter in the state was appended to the log; 0: there is none. Looked at every 2 s.",
    );
    EXPORTED = Metric::counter(
        "tally_projector_dead_letters_exported_total", LETTERS,
        "Dead letters copied to the log of dead letters since the start.",
    );
    TO_EXPORT = Metric::gauge(
        "tally_projector_dead_letters_to_export", LETTERS,
        "Dead letters that are not yet copied to the log of dead letters.",
    );
    CHANGED_VALUES = Metric::gauge(
        "tally_projector_changed_values", VALUES,
        "Values that wait for the next checkpoint.",
    );
    MEMORY = Metric::gauge(
        "tally_projector_memory_bytes", Unit::Bytes,
        "Memory of counters, toggles and remembered keys; the other values are in the store alone.",
    );
    CHECKPOINT_DURATION = Metric::histogram(
        "tally_projector_checkpoint_duration_seconds", Unit::Seconds,
        "How long a checkpoint took, flush included.",
        CHECKPOINT_SECONDS,
    );
    CHECKPOINT_PUTS = Metric::counter(
        "tally_projector_checkpoint_puts_total", VALUES,
        "Values put into the store by checkpoints.",
    );
    CHECKPOINT_BYTES = Metric::counter(
        "tally_projector_checkpoint_bytes_total", Unit::Bytes,
        "Bytes of keys and values put into the store by checkpoints.",
    );
    CHECKPOINT_ERRORS = Metric::counter(
        "tally_projector_checkpoint_errors_total", Unit::Number("checkpoints"),
        "Checkpoints that failed.",
    );
    LAST_CHECKPOINT = Metric::gauge(
        "tally_projector_last_checkpoint_timestamp_seconds", Unit::Timestamp,
        "When a checkpoint finished last, in seconds since 1970; 0: never since the start.",
    );
    STORE_BYTES = Metric::gauge(
        "tally_projector_store_bytes", Unit::Bytes,
        "Size of the state store on disk. Looked at every 2 s.",
    );
    SNAPSHOT_ERRORS = Metric::counter(
        "tally_projector_snapshot_errors_total", Unit::Number("runs"),
        "Runs of snapshots that did not come to their end.",
    );
    SNAPSHOT_BYTES = Metric::counter(
        "tally_projector_snapshot_bytes_total", Unit::Bytes,
        "Bytes of the snapshots that were taken.",
    );
    LAST_SNAPSHOT = Metric::gauge(
        "tally_projector_last_snapshot_timestamp_seconds", Unit::Timestamp,
        "When a run of snapshots came to its end last, in seconds since 1970; 0: never since the start.",
    );
    REBUILDS = Metric::counter(
        "tally_projector_rebuilds_total", TIMES,
        "Times the state was found at start to be damaged or another fold's, and is rebuilt from the log, by cause.",
    ).by(&[CAUSE]);
    STALE = Metric::gauge(
        "tally_projector_stale", Unit::Flag,
        "1 while answers come from a state that another version of the fold wrote, and the log is folded anew beside it; else 0.",
    );
    REOPENED = Metric::counter(
        "tally_projector_reopened_total", TIMES,
        "Times the state was closed and opened again while serving, to recover it or to put another in its place.",
    );
    VIOLATIONS = Metric::counter(
        "tally_projector_invariant_violations_total", VALUES,
        "Values found that can't be right, each time they are found: likes and bookmarks that are not the number of users, more applied than the log has.",
    ).by(&[INVARIANT]);
    INVARIANTS_CHECKED = Metric::gauge(
        "tally_projector_invariants_checked_timestamp_seconds", Unit::Timestamp,
        "When a check of the whole state's invariants ended last, since 1970; 0 before the first.",
    );
}
