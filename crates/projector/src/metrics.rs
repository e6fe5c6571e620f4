//! What Prometheus sees of the projector, declared once.

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    Result,
};
use tally_domain::{DeadLetterReason, Outcome};

use crate::checkpoint::CheckpointReport;
use crate::snapshot::SnapshotError;

/// The projector's metrics; clones are the same metrics.
#[derive(Clone)]
pub struct Metrics {
    outcomes: Vec<IntCounter>,
    dead_letters_by_reason: Vec<IntCounter>,
    pub(crate) batch_records: Histogram,
    pub(crate) waiters: IntGauge,
    pub(crate) next_offset: IntGaugeVec,
    pub(crate) lag_records: IntGaugeVec,
    pub(crate) dead_letters: IntGauge,
    pub(crate) exported: IntCounter,
    pub(crate) to_export: IntGauge,
    pub(crate) last_progress: IntGauge,
    pub(crate) changed_values: IntGauge,
    pub(crate) memory: IntGauge,
    pub(crate) checkpoint: CheckpointMetrics,
    pub(crate) snapshots: SnapshotMetrics,
    pub(crate) rebuilds: IntCounterVec,
    pub(crate) reopened: IntCounter,
    pub(crate) stale: IntGauge,
    pub(crate) invariants: InvariantMetrics,
}

/// The checkpoints' part of it.
#[derive(Clone)]
pub(crate) struct CheckpointMetrics {
    seconds: Histogram,
    puts: IntCounter,
    bytes: IntCounter,
    pub(crate) errors: IntCounter,
    last: IntGauge,
    pub(crate) store_bytes: IntGauge,
}

const REOPENED: &str = "Times the state was closed and opened again while serving, to recover it or to put another in its place.";

const STALE: &str = "1 while answers come from a state that another version of the fold wrote, and the log is folded anew beside it; else 0.";

/// A counter for each outcome.
fn by_outcome(declare: &Declare<'_>) -> Result<Vec<IntCounter>> {
    let events = declare.counter_by(
        "outcome",
        "tally_projector_events_total",
        "Events folded since the start, replayed ones included, by outcome.",
    )?;
    let each = Outcome::ALL.iter();
    Ok(each
        .map(|outcome| events.with_label_values(&[outcome.as_str()]))
        .collect())
}

/// Runs that take snapshots.
#[derive(Clone)]
pub(crate) struct SnapshotMetrics {
    errors: IntCounter,
    bytes: IntCounter,
    last: IntGauge,
}

impl SnapshotMetrics {
    fn declare(declare: &Declare<'_>) -> Result<Self> {
        Ok(Self {
            errors: declare.counter(
                "tally_projector_snapshot_errors_total",
                "Runs of snapshots that did not come to their end.",
            )?,
            bytes: declare.counter(
                "tally_projector_snapshot_bytes_total",
                "Bytes of the snapshots that were taken.",
            )?,
            last: declare.gauge(
                "tally_projector_last_snapshot_timestamp_seconds",
                "When a run of snapshots came to its end last, in seconds since 1970; 0: never since the start.",
            )?,
        })
    }

    /// A run has ended; it took so many bytes.
    pub(crate) fn ended(&self, taken: &std::result::Result<u64, SnapshotError>) {
        match taken {
            Ok(bytes) => {
                self.bytes.inc_by(*bytes);
                self.last.set(unix_seconds());
            }
            Err(_) => self.errors.inc(),
        }
    }
}

/// What the state was found to be.
#[derive(Clone)]
pub(crate) struct InvariantMetrics {
    violations: IntCounterVec,
    last: IntGauge,
}

impl InvariantMetrics {
    fn declare(declare: &Declare<'_>) -> Result<Self> {
        let violations = declare.counter_by(
            "invariant",
            "tally_projector_invariant_violations_total",
            "Values found that can't be right, each time they are found: likes and bookmarks that are not the number of users, more applied than the log has.",
        )?;
        for invariant in ["likes", "bookmarks", "applied"] {
            // There from the start, so that the first one is seen as a rise.
            violations.with_label_values(&[invariant]);
        }
        Ok(Self {
            violations,
            last: declare.gauge(
                "tally_projector_invariants_checked_timestamp_seconds",
                "When a check of the whole state's invariants ended last, since 1970; 0 before the first.",
            )?,
        })
    }

    pub(crate) fn violated(&self, invariant: &str) {
        self.violations.with_label_values(&[invariant]).inc();
    }

    pub(crate) fn passed(&self) {
        self.last.set(unix_seconds());
    }
}

/// Makes and registers.
struct Declare<'a>(&'a Registry);

impl Declare<'_> {
    fn add<C: Collector + Clone + 'static>(&self, metric: Result<C>) -> Result<C> {
        let metric = metric?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter> {
        self.add(IntCounter::new(name, help))
    }

    fn counter_by(&self, label: &str, name: &str, help: &str) -> Result<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(name, help), &[label]))
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge> {
        self.add(IntGauge::new(name, help))
    }

    fn gauge_by(&self, label: &str, name: &str, help: &str) -> Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(Opts::new(name, help), &[label]))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram> {
        self.add(Histogram::with_opts(
            HistogramOpts::new(name, help).buckets(buckets.to_vec()),
        ))
    }
}

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// Where a name is taken.
    pub fn register(registry: &Registry) -> Result<Self> {
        let declare = Declare(registry);
        let dead = declare.counter_by(
            "reason",
            "tally_projector_dead_letters_total",
            "Records kept as dead letters since the start, by reason.",
        )?;
        let reasons = DeadLetterReason::ALL
            .iter()
            .map(|r| dead.with_label_values(&[r.as_str()]));
        Ok(Self {
            outcomes: by_outcome(&declare)?,
            dead_letters_by_reason: reasons.collect(),
            batch_records: declare.histogram(
                "tally_projector_batch_records",
                "Records folded per batch.",
                &[1., 4., 16., 64., 256., 1_024., 4_096., 16_384.],
            )?,
            waiters: declare.gauge(
                "tally_projector_waiters",
                "Requests that wait for the fold.",
            )?,
            next_offset: declare.gauge_by(
                "partition",
                "tally_projector_next_offset",
                "Offset of the next record to fold, by partition.",
            )?,
            lag_records: declare.gauge_by(
                "partition",
                "tally_projector_lag_records",
                "Records between the fold and the log's own head, by partition.",
            )?,
            dead_letters: declare
                .gauge("tally_projector_dead_letters", "Dead letters in the state.")?,
            exported: declare.counter(
                "tally_projector_dead_letters_exported_total",
                "Dead letters copied to the log of dead letters since the start.",
            )?,
            to_export: declare.gauge(
                "tally_projector_dead_letters_to_export",
                "Dead letters that are not yet copied to the log of dead letters.",
            )?,
            last_progress: declare.gauge(
                "tally_projector_last_progress_timestamp_seconds",
                "When a record was folded last, in seconds since 1970; 0: never since the start.",
            )?,
            changed_values: declare.gauge(
                "tally_projector_changed_values",
                "Values that wait for the next checkpoint.",
            )?,
            memory: declare.gauge(
                "tally_projector_memory_bytes",
                "Memory of counters, toggles and remembered keys; the other values are in the store alone.",
            )?,
            checkpoint: CheckpointMetrics::register(&declare)?,
            snapshots: SnapshotMetrics::declare(&declare)?,
            rebuilds: declare.counter_by(
                "cause",
                "tally_projector_rebuilds_total",
                "Times the state was found at start to be damaged or another fold's, and is rebuilt from the log, by cause.",
            )?,
            invariants: InvariantMetrics::declare(&declare)?,
            reopened: declare.counter("tally_projector_reopened_total", REOPENED)?,
            stale: declare.gauge("tally_projector_stale", STALE)?,
        })
    }

    pub(crate) fn folded(&self, outcome: Outcome, count: u64) {
        let place = Outcome::ALL.iter().position(|other| *other == outcome);
        if let Some(counter) = place.and_then(|place| self.outcomes.get(place)) {
            counter.inc_by(count);
        }
    }

    pub(crate) fn dead_letter(&self, reason: DeadLetterReason) {
        let place = DeadLetterReason::ALL
            .iter()
            .position(|other| *other == reason);
        if let Some(counter) = place.and_then(|place| self.dead_letters_by_reason.get(place)) {
            counter.inc();
        }
    }
}

impl CheckpointMetrics {
    /// Counts a checkpoint that is done; one that had nothing to write is only dated.
    pub(crate) fn wrote(&self, report: &CheckpointReport) {
        if report.puts > 0 {
            self.seconds.observe(report.took.as_secs_f64());
            self.puts.inc_by(report.puts);
            self.bytes.inc_by(report.bytes);
        }
        self.last.set(unix_seconds());
    }

    fn register(declare: &Declare<'_>) -> Result<Self> {
        Ok(Self {
            seconds: declare.histogram(
                "tally_projector_checkpoint_duration_seconds",
                "How long a checkpoint took, flush included.",
                &[
                    0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1., 2.5, 5., 10., 30., 60.,
                ],
            )?,
            puts: declare.counter(
                "tally_projector_checkpoint_puts_total",
                "Values put into the store by checkpoints.",
            )?,
            bytes: declare.counter(
                "tally_projector_checkpoint_bytes_total",
                "Bytes of keys and values put into the store by checkpoints.",
            )?,
            errors: declare.counter(
                "tally_projector_checkpoint_errors_total",
                "Checkpoints that failed.",
            )?,
            last: declare.gauge(
                "tally_projector_last_checkpoint_timestamp_seconds",
                "When a checkpoint finished last, in seconds since 1970; 0: never since the start.",
            )?,
            store_bytes: declare.gauge(
                "tally_projector_store_bytes",
                "Size of the state store on disk.",
            )?,
        })
    }
}

/// Now, in milliseconds since 1970.
pub(crate) fn unix_millis() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// Now, in whole seconds since 1970.
pub(crate) fn unix_seconds() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}
