//! What Prometheus sees of the projector; `table` describes it.

mod table;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{
    Gauge, GaugeVec, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, Result,
};
use tally_domain::{DeadLetterReason, Event, InteractionType, Outcome, ResourceType};
use tally_log::metric::Declare;

use self::table as t;
pub use self::table::METRICS;
pub(crate) use self::table::{WAIT_DURATION, WAITS};
use crate::checkpoint::CheckpointReport;
use crate::snapshot::SnapshotError;
use crate::waits::WaitMetrics;

/// What must be true of every state, as labels have it.
const INVARIANTS: [&str; 3] = ["likes", "bookmarks", "applied"];

/// The projector's metrics; clones are the same metrics.
#[derive(Clone)]
pub struct Metrics {
    outcomes: Vec<IntCounter>,
    dead_letters_by_reason: Vec<IntCounter>,
    pub(crate) fresh: FreshMetrics,
    pub(crate) waits: WaitMetrics,
    pub(crate) head: HeadMetrics,
    pub(crate) batch_records: Histogram,
    pub(crate) waiters: IntGauge,
    pub(crate) dead_letters: IntGauge,
    pub(crate) oldest_dead_letter: Gauge,
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

/// Of events that came after the log was opened: what a start replays would drown them.
#[derive(Clone)]
pub(crate) struct FreshMetrics {
    interactions: Arc<[IntCounter]>,
    pub(crate) to_visible: Histogram,
}

impl FreshMetrics {
    fn declare(declare: Declare<'_>) -> Result<Self> {
        let family = declare.counters(&t::INTERACTIONS)?;
        let mut interactions = Vec::new();
        for kind in ResourceType::ALL {
            for interaction in InteractionType::ALL {
                for outcome in Outcome::ALL {
                    let labels = [kind.as_str(), interaction.as_str(), outcome.as_str()];
                    // There from the start, so that the first one is seen as a rise.
                    interactions.push(family.get_metric_with_label_values(&labels)?);
                }
            }
        }
        Ok(Self {
            interactions: interactions.into(),
            to_visible: declare.histogram(&t::EVENT_TO_VISIBLE)?,
        })
    }

    /// How many kinds of interactions there are, by type, interaction and outcome.
    pub(crate) fn kinds(&self) -> usize {
        self.interactions.len()
    }

    /// Which of them an event is.
    pub(crate) fn kind(event: &Event, outcome: Outcome) -> usize {
        let of_type = usize::from(event.resource.kind.code()) * InteractionType::ALL.len();
        let of_interaction = of_type + usize::from(event.interaction.code());
        of_interaction * Outcome::ALL.len() + outcome as usize
    }

    pub(crate) fn came(&self, kind: usize, count: u64) {
        if let Some(counter) = self.interactions.get(kind) {
            counter.inc_by(count);
        }
    }
}

/// Where the log ends, and how far behind that the fold is.
#[derive(Clone)]
pub(crate) struct HeadMetrics {
    pub(crate) offset: IntGaugeVec,
    pub(crate) said: Gauge,
    pub(crate) errors: IntCounter,
    pub(crate) next_offset: IntGaugeVec,
    pub(crate) lag_records: IntGaugeVec,
    pub(crate) lag_seconds: GaugeVec,
}

impl HeadMetrics {
    fn declare(declare: Declare<'_>) -> Result<Self> {
        Ok(Self {
            offset: declare.gauges(&t::LOG_HEAD)?,
            said: declare.float_gauge(&t::LOG_HEAD_TIME)?,
            errors: declare.counter(&t::LOG_HEAD_ERRORS)?,
            next_offset: declare.gauges(&t::NEXT_OFFSET)?,
            lag_records: declare.gauges(&t::LAG_RECORDS)?,
            lag_seconds: declare.float_gauges(&t::LAG_SECONDS)?,
        })
    }
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

/// A counter for each outcome.
fn by_outcome(declare: Declare<'_>) -> Result<Vec<IntCounter>> {
    let events = declare.counters(&t::EVENTS_FOLDED)?;
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
    fn declare(declare: Declare<'_>) -> Result<Self> {
        Ok(Self {
            errors: declare.counter(&t::SNAPSHOT_ERRORS)?,
            bytes: declare.counter(&t::SNAPSHOT_BYTES)?,
            last: declare.gauge(&t::LAST_SNAPSHOT)?,
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
    fn declare(declare: Declare<'_>) -> Result<Self> {
        let violations = declare.counters(&t::VIOLATIONS)?;
        for invariant in INVARIANTS {
            // There from the start, so that the first one is seen as a rise.
            violations.with_label_values(&[invariant]);
        }
        Ok(Self {
            violations,
            last: declare.gauge(&t::INVARIANTS_CHECKED)?,
        })
    }

    pub(crate) fn violated(&self, invariant: &str) {
        self.violations.with_label_values(&[invariant]).inc();
    }

    pub(crate) fn passed(&self) {
        self.last.set(unix_seconds());
    }
}

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// Where a name is taken.
    pub fn register(registry: &Registry) -> Result<Self> {
        let declare = Declare::with(registry);
        let dead = declare.counters(&t::DEAD_LETTERS_KEPT)?;
        let reasons = DeadLetterReason::ALL
            .iter()
            .map(|r| dead.with_label_values(&[r.as_str()]));
        let rebuilds = declare.counters(&t::REBUILDS)?;
        for cause in t::causes() {
            // There from the start, so that the first one is seen as a rise.
            rebuilds.with_label_values(&[cause]);
        }
        Ok(Self {
            outcomes: by_outcome(declare)?,
            dead_letters_by_reason: reasons.collect(),
            fresh: FreshMetrics::declare(declare)?,
            waits: WaitMetrics::declare(declare)?,
            head: HeadMetrics::declare(declare)?,
            batch_records: declare.histogram(&t::BATCH_RECORDS)?,
            waiters: declare.gauge(&t::WAITERS)?,
            dead_letters: declare.gauge(&t::DEAD_LETTERS)?,
            oldest_dead_letter: declare.float_gauge(&t::OLDEST_DEAD_LETTER)?,
            exported: declare.counter(&t::EXPORTED)?,
            to_export: declare.gauge(&t::TO_EXPORT)?,
            last_progress: declare.gauge(&t::LAST_PROGRESS)?,
            changed_values: declare.gauge(&t::CHANGED_VALUES)?,
            memory: declare.gauge(&t::MEMORY)?,
            checkpoint: CheckpointMetrics::declare(declare)?,
            snapshots: SnapshotMetrics::declare(declare)?,
            rebuilds,
            invariants: InvariantMetrics::declare(declare)?,
            reopened: declare.counter(&t::REOPENED)?,
            stale: declare.gauge(&t::STALE)?,
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

    fn declare(declare: Declare<'_>) -> Result<Self> {
        Ok(Self {
            seconds: declare.histogram(&t::CHECKPOINT_DURATION)?,
            puts: declare.counter(&t::CHECKPOINT_PUTS)?,
            bytes: declare.counter(&t::CHECKPOINT_BYTES)?,
            errors: declare.counter(&t::CHECKPOINT_ERRORS)?,
            last: declare.gauge(&t::LAST_CHECKPOINT)?,
            store_bytes: declare.gauge(&t::STORE_BYTES)?,
        })
    }
}

/// Now, in milliseconds since 1970.
pub(crate) fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// Now, in whole seconds since 1970.
pub(crate) fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}
