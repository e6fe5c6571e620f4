//! What Prometheus sees of the logs, declared once. One set of metrics serves every log of the
//! process; the label `log` tells them apart.

use prometheus::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, Result,
};

use crate::metric::{Declare, Label, Metric, Unit};

/// Which log; the words are those that a server opens its logs under.
pub(crate) const LOG: Label = Label::words("log", logs);

fn logs() -> Vec<&'static str> {
    vec!["interactions", "catalogue", "dead_letters"]
}

const ERROR_KIND: Label = Label::words("kind", || {
    vec![
        "write",
        "disk_full",
        "sync",
        "refused",
        "damaged",
        "timed_out",
        "unauthorized",
        "too_large",
        "fate_unknown",
    ]
});

/// The metrics of all logs; clones are the same metrics.
#[derive(Debug, Clone)]
pub struct LogMetrics {
    appended_records: IntCounterVec,
    appended_bytes: IntCounterVec,
    group_records: HistogramVec,
    sync_duration: HistogramVec,
    append_duration: HistogramVec,
    errors: IntCounterVec,
    torn_bytes: IntCounterVec,
    queue_bytes: IntGaugeVec,
    segments: IntGaugeVec,
    size_bytes: IntGaugeVec,
    checked_bytes: IntCounterVec,
    check_damage: IntGaugeVec,
    check_passed: IntGaugeVec,
}

/// One log's handles, so that nothing is looked up while it runs.
#[derive(Debug, Clone)]
pub(crate) struct OneLog {
    pub(crate) appended_records: IntCounter,
    pub(crate) appended_bytes: IntCounter,
    pub(crate) group_records: Histogram,
    pub(crate) sync_duration: Histogram,
    pub(crate) append_duration: Histogram,
    pub(crate) write_errors: IntCounter,
    pub(crate) disk_full_errors: IntCounter,
    pub(crate) sync_errors: IntCounter,
    pub(crate) refused: IntCounter,
    pub(crate) damage_errors: IntCounter,
    pub(crate) timed_out: IntCounter,
    pub(crate) unauthorized: IntCounter,
    pub(crate) too_large: IntCounter,
    pub(crate) fate_unknown: IntCounter,
    pub(crate) torn_bytes: IntCounter,
    pub(crate) queue_bytes: IntGauge,
    pub(crate) segments: IntGauge,
    pub(crate) size_bytes: IntGauge,
    pub(crate) checked_bytes: IntCounter,
    pub(crate) check_damage: IntGauge,
    pub(crate) check_passed: IntGauge,
}

/// 0.05 ms (a disk with a protected cache) to 2 s (a disk in trouble).
const SYNC_SECONDS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.,
];

const GROUP_BOUNDS: &[f64] = &[
    1., 2., 4., 8., 16., 32., 64., 128., 256., 512., 1_024., 4_096., 16_384.,
];

/// 0.1 ms (a disk with a protected cache) to 10 s (the longest deadline).
const APPEND_SECONDS: &[f64] = &[
    0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1., 2., 5.,
    10.,
];

const RECORDS: Unit = Unit::Number("records");

crate::metrics! {
    /// The metrics of a log of either kind.
    pub METRICS:
    APPENDED_RECORDS = Metric::counter(
        "tally_log_appended_records_total", RECORDS,
        "Records appended and durable.",
    ).by(&[LOG]);
    APPENDED_BYTES = Metric::counter(
        "tally_log_appended_bytes_total", Unit::Bytes,
        "Bytes written for records that are durable, frames included.",
    ).by(&[LOG]);
    APPEND_DURATION = Metric::histogram(
        "tally_log_append_duration_seconds", Unit::Seconds,
        "From an append to its being durable, or its failure. An append is what one thread of the API has gathered in a turn, so one or more records. What was refused at once is not in it.",
        APPEND_SECONDS,
    ).by(&[LOG]);
    GROUP_RECORDS = Metric::histogram(
        "tally_log_group_records", RECORDS,
        "Records made durable by one sync.",
        GROUP_BOUNDS,
    ).by(&[LOG]);
    SYNC_DURATION = Metric::histogram(
        "tally_log_sync_duration_seconds", Unit::Seconds,
        "How long it took to make one group durable.",
        SYNC_SECONDS,
    ).by(&[LOG]);
    ERRORS = Metric::counter(
        "tally_log_errors_total", Unit::Number("errors"),
        "What went wrong, by kind: write, disk_full, sync (the log takes no appends any more), refused (queue full, brokers away), damaged (found while reading); of Kafka timed_out, unauthorized, too_large, fate_unknown.",
    ).by(&[LOG, ERROR_KIND]);
    TORN_BYTES = Metric::counter(
        "tally_log_torn_bytes_total", Unit::Bytes,
        "Bytes of unacknowledged writes cut off at start.",
    ).by(&[LOG]);
    QUEUE_BYTES = Metric::gauge(
        "tally_log_queue_bytes", Unit::Bytes,
        "Bytes of appends that wait to be written or synced.",
    ).by(&[LOG]);
    SEGMENTS = Metric::gauge(
        "tally_log_segments", Unit::Number("files"),
        "Segment files.",
    ).by(&[LOG]);
    SIZE_BYTES = Metric::gauge(
        "tally_log_size_bytes", Unit::Bytes,
        "Bytes of the log, without the length that is only set ahead of the writer.",
    ).by(&[LOG]);
    CHECKED_BYTES = Metric::counter(
        "tally_log_checked_bytes_total", Unit::Bytes,
        "Bytes of sealed segments read in the background to find damage.",
    ).by(&[LOG]);
    CHECK_DAMAGE = Metric::gauge(
        "tally_log_check_damaged_places", Unit::Number("places"),
        "Damaged places that the background check knows of.",
    ).by(&[LOG]);
    CHECK_PASSED = Metric::gauge(
        "tally_log_check_last_pass_timestamp_seconds", Unit::Timestamp,
        "When the background check last finished all sealed segments; 0 before.",
    ).by(&[LOG]);
}

impl LogMetrics {
    /// Registers everything, once for all logs.
    ///
    /// # Errors
    /// Where a name is taken.
    pub fn register(registry: &Registry) -> Result<Self> {
        Self::declare(Declare::with(registry))
    }

    /// Metrics that nobody reads, for commands and tests.
    ///
    /// # Errors
    /// Never in practice: the names are fixed and valid.
    pub fn unregistered() -> Result<Self> {
        Self::declare(Declare::nowhere())
    }

    fn declare(declare: Declare<'_>) -> Result<Self> {
        Ok(Self {
            appended_records: declare.counters(&APPENDED_RECORDS)?,
            appended_bytes: declare.counters(&APPENDED_BYTES)?,
            group_records: declare.histograms(&GROUP_RECORDS)?,
            sync_duration: declare.histograms(&SYNC_DURATION)?,
            append_duration: declare.histograms(&APPEND_DURATION)?,
            errors: declare.counters(&ERRORS)?,
            torn_bytes: declare.counters(&TORN_BYTES)?,
            queue_bytes: declare.gauges(&QUEUE_BYTES)?,
            segments: declare.gauges(&SEGMENTS)?,
            size_bytes: declare.gauges(&SIZE_BYTES)?,
            checked_bytes: declare.counters(&CHECKED_BYTES)?,
            check_damage: declare.gauges(&CHECK_DAMAGE)?,
            check_passed: declare.gauges(&CHECK_PASSED)?,
        })
    }

    pub(crate) fn of(&self, log: &str) -> OneLog {
        let error = |kind| self.errors.with_label_values(&[log, kind]);
        OneLog {
            appended_records: self.appended_records.with_label_values(&[log]),
            appended_bytes: self.appended_bytes.with_label_values(&[log]),
            group_records: self.group_records.with_label_values(&[log]),
            sync_duration: self.sync_duration.with_label_values(&[log]),
            append_duration: self.append_duration.with_label_values(&[log]),
            write_errors: error("write"),
            disk_full_errors: error("disk_full"),
            sync_errors: error("sync"),
            refused: error("refused"),
            damage_errors: error("damaged"),
            timed_out: error("timed_out"),
            unauthorized: error("unauthorized"),
            too_large: error("too_large"),
            fate_unknown: error("fate_unknown"),
            torn_bytes: self.torn_bytes.with_label_values(&[log]),
            queue_bytes: self.queue_bytes.with_label_values(&[log]),
            segments: self.segments.with_label_values(&[log]),
            size_bytes: self.size_bytes.with_label_values(&[log]),
            checked_bytes: self.checked_bytes.with_label_values(&[log]),
            check_damage: self.check_damage.with_label_values(&[log]),
            check_passed: self.check_passed.with_label_values(&[log]),
        }
    }
}
