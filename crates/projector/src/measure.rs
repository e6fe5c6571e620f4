//! What is measured for Prometheus, and when: what costs nothing at each scrape, what may wait for a disk
//! now and then. A scrape never waits for log or store.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tally_domain::{Offset, Position};
use tally_log::ReadError;

use crate::dead_letters;
use crate::error::StateError;
use crate::life::Life;
use crate::metrics::unix_millis;
use crate::projector::Projector;
use crate::shared::Slot;

/// When a partition's oldest dead letter was appended, and how many there ever were and are when that was
/// found out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct OldestLetter {
    counts: (u64, u64),
    append_time_millis: Option<u64>,
}

impl Projector {
    /// Takes in what the log said when it was asked for its head at that moment: the lag is counted from
    /// that. To be called whenever it is asked, and at least twice a second.
    pub fn head_seen(&self, head: &Result<Vec<Offset>, ReadError>, asked_at: Instant) {
        match head {
            Ok(head) => {
                let mut lag = self.lasting.lag.lock();
                lag.head(head, asked_at);
            }
            Err(_) => self.lasting.metrics.head.errors.inc(),
        }
    }

    /// Brings the gauges up to date that change by themselves: call before each scrape. It waits for
    /// nothing.
    pub fn refresh_metrics(&self) {
        self.refresh_lag();
        let status = self.status();
        let metrics = &self.lasting.metrics;
        let count = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        let partitions = status.partitions.iter();
        let dead_letters: u64 = partitions.map(|partition| partition.dead_letters).sum();
        // A beginning of the log has not all of them.
        if !status.reopening && !status.stale {
            metrics.dead_letters.set(gauge(dead_letters));
        }
        metrics.stale.set(i64::from(status.stale));
        metrics.waiters.set(count(status.waiters));
        metrics.memory.set(count(status.memory));
        metrics.changed_values.set(count(status.changed));
    }

    fn refresh_lag(&self) {
        let life = self.life().ok();
        let slots = life.as_ref().map(|life| life.shared.slots.as_slice());
        let slots = slots.unwrap_or_default();
        let (now, millis) = (Instant::now(), unix_millis());
        let age = |slot: &Slot| match slot.folded_millis.load(Ordering::Relaxed) {
            0 => None,
            at => Some(Duration::from_millis(millis.saturating_sub(at))),
        };
        let mut lag = self.lasting.lag.lock();
        // Where there is no state, it is where it was: the lag grows.
        let next = slots
            .iter()
            .map(|slot| slot.next_offset.load(Ordering::Acquire));
        lag.folded(next, now);
        let shown = lag.show(now, slots.iter().map(age));
        let silent = lag.said().map(|said| now.saturating_duration_since(said));
        drop(lag);
        let metrics = &self.lasting.metrics.head;
        if let Some(silent) = silent {
            let now = Duration::from_millis(millis);
            metrics.said.set(now.saturating_sub(silent).as_secs_f64());
        }
        for (partition, shown) in (0u32..).zip(shown) {
            let label = partition.to_string();
            let of = |family: &prometheus::IntGaugeVec, value: u64| {
                family.with_label_values(&[&label]).set(gauge(value));
            };
            of(&metrics.offset, shown.head);
            of(&metrics.next_offset, shown.next);
            match shown.records {
                Some(records) => of(&metrics.lag_records, records),
                // It is not there where it was not.
                None => drop(metrics.lag_records.remove_label_values(&[&label])),
            }
            metrics
                .lag_seconds
                .with_label_values(&[&label])
                .set(shown.time.as_secs_f64());
        }
    }

    /// Measures what only the store can tell: its size, and which dead letter is the oldest. It may wait for
    /// the disk, so it belongs on a thread of its own, now and then.
    pub fn measure(&self) {
        let Ok(life) = self.life() else {
            return;
        };
        let metrics = &self.lasting.metrics;
        if let Ok(bytes) = life.shared.store.disk_bytes() {
            metrics.checkpoint.store_bytes.set(gauge(bytes));
        }
        if life.old().is_some() {
            return;
        }
        match self.oldest_letter(&life) {
            Ok(oldest) => {
                let since = Duration::from_millis(oldest.unwrap_or_default());
                metrics.oldest_dead_letter.set(since.as_secs_f64());
            }
            // It stays as it was, and readiness says what is the matter.
            Err(error) => tracing::debug!(%error, "the oldest dead letter can't be read"),
        }
    }

    /// When the oldest dead letter was appended, in milliseconds since 1970. Append times do not fall within
    /// a partition, so that is the first of one of them; it is looked for where their number has changed.
    fn oldest_letter(&self, life: &Life) -> Result<Option<u64>, StateError> {
        let shared = &life.shared;
        let mut found = self.lasting.oldest_letters.lock();
        found.resize(shared.slots.len(), OldestLetter::default());
        for ((partition, slot), found) in (0..).zip(&shared.slots).zip(found.iter_mut()) {
            let counts = (
                slot.dead_letters_ever.load(Ordering::Acquire),
                slot.dead_letters.load(Ordering::Relaxed),
            );
            if found.counts == counts {
                continue;
            }
            let from = Position {
                partition,
                offset: 0,
            };
            let first = if counts.1 == 0 {
                None
            } else {
                shared.noted(dead_letters::page(shared, from, 1))?.pop()
            };
            *found = OldestLetter {
                counts,
                append_time_millis: first.map(|letter| letter.append_time_millis),
            };
        }
        Ok(found
            .iter()
            .filter_map(|letter| letter.append_time_millis)
            .min())
    }
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
