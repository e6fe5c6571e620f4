//! What one thread counted, and the sum of all threads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// Messages kept for the report; there may be millions of the same.
const MAX_MESSAGES: usize = 8;
const MAX_LATENCY: Duration = Duration::from_secs(3_600);

/// Counts of a run. All are of interactions, but where said.
#[derive(Debug)]
pub(super) struct Figures {
    /// Answered with 200.
    pub(super) acknowledged: u64,
    /// Of those, answered while measuring.
    pub(super) acknowledged_in_window: u64,
    /// Answers by status, retries included.
    pub(super) statuses: BTreeMap<u16, u64>,
    /// Outcomes of acknowledged interactions; only counted for a ledger.
    pub(super) outcomes: BTreeMap<String, u64>,
    /// Acknowledged with `"visible":false`.
    pub(super) not_visible: u64,
    /// Sent again under the same key.
    pub(super) retries: u64,
    /// Connections lost with a request under way, or not made.
    pub(super) connection_errors: u64,
    /// Connections made after the first ones.
    pub(super) reconnects: u64,
    /// Sent, and neither acknowledged nor refused in the end.
    pub(super) fate_unknown: u64,
    /// Refused in the end with 429 or a 503 that says nothing was recorded.
    pub(super) refused: u64,
    /// Due before the end and never sent.
    pub(super) not_sent: u64,
    /// Latencies in nanoseconds of measured interactions, from the intended start.
    pub(super) latencies: Histogram<u64>,
    /// The newest answer.
    pub(super) last_answer: Option<Instant>,
    /// What should not have happened, with how often.
    pub(super) unexpected: BTreeMap<String, u64>,
}

impl Figures {
    /// Nothing counted yet.
    ///
    /// # Errors
    /// Never in practice: where the histogram's bounds were impossible.
    pub(super) fn new() -> Result<Self, hdrhistogram::CreationError> {
        Ok(Self {
            acknowledged: 0,
            acknowledged_in_window: 0,
            statuses: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            not_visible: 0,
            retries: 0,
            connection_errors: 0,
            reconnects: 0,
            fate_unknown: 0,
            refused: 0,
            not_sent: 0,
            latencies: Histogram::new_with_bounds(1_000, nanos(MAX_LATENCY), 3)?,
            last_answer: None,
            unexpected: BTreeMap::new(),
        })
    }

    /// Records a latency; more than an hour counts as an hour.
    pub(super) fn record(&mut self, latency: Duration) {
        self.latencies.saturating_record(nanos(latency));
    }

    /// Notes something unexpected. Past a bound of different ones they are counted together.
    pub(super) fn note(&mut self, what: &str) {
        if let Some(times) = self.unexpected.get_mut(what) {
            *times += 1;
            return;
        }
        let what = if self.unexpected.len() < MAX_MESSAGES {
            what
        } else {
            "others"
        };
        *self.unexpected.entry(what.to_owned()).or_default() += 1;
    }

    /// Adds another thread's.
    pub(super) fn add(&mut self, other: &Self) {
        self.acknowledged += other.acknowledged;
        self.acknowledged_in_window += other.acknowledged_in_window;
        self.not_visible += other.not_visible;
        self.retries += other.retries;
        self.connection_errors += other.connection_errors;
        self.reconnects += other.reconnects;
        self.fate_unknown += other.fate_unknown;
        self.refused += other.refused;
        self.not_sent += other.not_sent;
        self.last_answer = self.last_answer.max(other.last_answer);
        for (status, times) in &other.statuses {
            *self.statuses.entry(*status).or_default() += times;
        }
        for (outcome, times) in &other.outcomes {
            *self.outcomes.entry(outcome.clone()).or_default() += times;
        }
        for (what, times) in &other.unexpected {
            *self.unexpected.entry(what.clone()).or_default() += times;
        }
        // Both have the same bounds, so that this cannot fail.
        let _ = self.latencies.add(&other.latencies);
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// One thread's counts for the progress display. A line of the cache of its own, so that threads
/// don't slow each other.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Live {
    acknowledged: AtomicU64,
    troubles: AtomicU64,
}

impl Live {
    /// Counts an acknowledged interaction. Only the owning thread writes.
    pub(super) fn acknowledge(&self) {
        let before = self.acknowledged.load(Ordering::Relaxed);
        self.acknowledged.store(before + 1, Ordering::Relaxed);
    }

    /// Counts anything else that came of an attempt.
    pub(super) fn trouble(&self) {
        self.troubles.fetch_add(1, Ordering::Relaxed);
    }

    /// Acknowledged so far, over all threads.
    pub(super) fn acknowledged(all: &[Self]) -> u64 {
        let one = |live: &Self| live.acknowledged.load(Ordering::Relaxed);
        all.iter().map(one).sum()
    }

    /// Troubles so far, over all threads.
    pub(super) fn troubles(all: &[Self]) -> u64 {
        all.iter()
            .map(|live| live.troubles.load(Ordering::Relaxed))
            .sum()
    }
}
