//! What Prometheus sees of the logs, declared once. One set of metrics serves every log of the
//! process; the label `log` tells them apart.

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, Result,
};

/// The metrics of all logs; clones are the same metrics.
#[derive(Debug, Clone)]
pub struct LogMetrics {
    appended_records: IntCounterVec,
    appended_bytes: IntCounterVec,
    group_records: HistogramVec,
    sync_duration: HistogramVec,
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

const GROUP_RECORDS: &[f64] = &[
    1., 2., 4., 8., 16., 32., 64., 128., 256., 512., 1_024., 4_096., 16_384.,
];

/// Makes, and registers where there is a registry.
pub(crate) struct Declare<'a>(pub(crate) Option<&'a Registry>);

impl Declare<'_> {
    pub(crate) fn add<C: Collector + Clone + 'static>(&self, metric: Result<C>) -> Result<C> {
        let metric = metric?;
        if let Some(registry) = self.0 {
            registry.register(Box::new(metric.clone()))?;
        }
        Ok(metric)
    }

    pub(crate) fn counter(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    pub(crate) fn gauge(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    pub(crate) fn histogram(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
    ) -> Result<HistogramVec> {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.add(HistogramVec::new(options, &["log"]))
    }
}

impl LogMetrics {
    /// Registers everything, once for all logs.
    ///
    /// # Errors
    /// Where a name is taken.
    pub fn register(registry: &Registry) -> Result<Self> {
        Self::declare(&Declare(Some(registry)))
    }

    /// Metrics that nobody reads, for commands and tests.
    ///
    /// # Errors
    /// Never in practice: the names are fixed and valid.
    pub fn unregistered() -> Result<Self> {
        Self::declare(&Declare(None))
    }

    fn declare(declare: &Declare<'_>) -> Result<Self> {
        Ok(Self {
            appended_records: declare.counter(
                "tally_log_appended_records_total",
                "Records appended and durable.",
                &["log"],
            )?,
            appended_bytes: declare.counter(
                "tally_log_appended_bytes_total",
                "Bytes written for records that are durable, frames included.",
                &["log"],
            )?,
            group_records: declare.histogram(
                "tally_log_group_records",
                "Records made durable by one sync.",
                GROUP_RECORDS,
            )?,
            sync_duration: declare.histogram(
                "tally_log_sync_duration_seconds",
                "How long it took to make one group durable.",
                SYNC_SECONDS,
            )?,
            errors: declare.counter(
                "tally_log_errors_total",
                "What went wrong, by kind: write, disk_full, sync (the log takes no appends any \
                 more), refused (queue full, brokers away), damaged (found while reading); of \
                 Kafka timed_out, unauthorized, too_large, fate_unknown.",
                &["log", "kind"],
            )?,
            torn_bytes: declare.counter(
                "tally_log_torn_bytes_total",
                "Bytes of unacknowledged writes cut off at start.",
                &["log"],
            )?,
            queue_bytes: declare.gauge(
                "tally_log_queue_bytes",
                "Bytes of appends that wait to be written or synced.",
                &["log"],
            )?,
            segments: declare.gauge("tally_log_segments", "Segment files.", &["log"])?,
            size_bytes: declare.gauge(
                "tally_log_size_bytes",
                "Bytes of the log, without the length that is only set ahead of the writer.",
                &["log"],
            )?,
            checked_bytes: declare.counter(
                "tally_log_checked_bytes_total",
                "Bytes of sealed segments read in the background to find damage.",
                &["log"],
            )?,
            check_damage: declare.gauge(
                "tally_log_check_damaged_places",
                "Damaged places that the background check knows of.",
                &["log"],
            )?,
            check_passed: declare.gauge(
                "tally_log_check_last_pass_timestamp_seconds",
                "When the background check last finished all sealed segments; 0 before.",
                &["log"],
            )?,
        })
    }

    pub(crate) fn of(&self, log: &str) -> OneLog {
        let error = |kind| self.errors.with_label_values(&[log, kind]);
        OneLog {
            appended_records: self.appended_records.with_label_values(&[log]),
            appended_bytes: self.appended_bytes.with_label_values(&[log]),
            group_records: self.group_records.with_label_values(&[log]),
            sync_duration: self.sync_duration.with_label_values(&[log]),
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
