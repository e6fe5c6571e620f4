//! What is counted of events that came after the log was opened, batch by batch: one fold's numbers, with
//! nothing looked up and nobody else's cache line touched for an event.

use std::sync::atomic::Ordering;

use prometheus::local::LocalHistogram;
use tally_domain::{Event, Offset, Outcome, Position};

use crate::metrics::{FreshMetrics, unix_millis};
use crate::shared::Shared;

/// See the [module](self).
pub(crate) struct Fresh<'a> {
    shared: &'a Shared,
    /// By partition: what is below was there before, or was counted.
    from: Vec<Offset>,
    /// By kind of interaction.
    counts: Vec<u64>,
    /// Which of them are not zero.
    touched: Vec<usize>,
    /// When the events were made, in milliseconds since 1970.
    made: Vec<u64>,
    to_visible: LocalHistogram,
}

impl<'a> Fresh<'a> {
    pub(crate) fn new(shared: &'a Shared) -> Self {
        let metrics = &shared.metrics.fresh;
        let from = shared.fresh_from.iter();
        Self {
            from: from.map(|from| from.load(Ordering::Acquire)).collect(),
            counts: vec![0; metrics.kinds()],
            touched: Vec::new(),
            made: Vec::new(),
            to_visible: metrics.to_visible.local(),
            shared,
        }
    }

    /// Notes an event, where it is one of those.
    pub(crate) fn folded(&mut self, position: Position, event: &Event, outcome: Outcome) {
        let place = usize::try_from(position.partition).unwrap_or(usize::MAX);
        let Some(from) = self.from.get_mut(place) else {
            return;
        };
        if position.offset < *from {
            return;
        }
        *from = position.offset.saturating_add(1);
        self.made.push(event.at.as_millis());
        let kind = FreshMetrics::kind(event, outcome);
        if let Some(count) = self.counts.get_mut(kind) {
            if *count == 0 {
                self.touched.push(kind);
            }
            *count += 1;
        }
    }

    /// Counts what was noted.
    pub(crate) fn count(&mut self) {
        if self.made.is_empty() {
            return;
        }
        let metrics = &self.shared.metrics.fresh;
        for kind in self.touched.drain(..) {
            if let Some(count) = self.counts.get_mut(kind) {
                metrics.came(kind, std::mem::take(count));
            }
        }
        let now = unix_millis();
        for made in self.made.drain(..) {
            // A clock that was set back makes nothing visible before it was there.
            let millis = u32::try_from(now.saturating_sub(made)).unwrap_or(u32::MAX);
            self.to_visible.observe(f64::from(millis) / 1_000.);
        }
        self.to_visible.flush();
        // A state that is opened again is folded from before; these are counted already. Each partition is
        // one worker's, and those of others stay as they were here.
        for (kept, from) in self.shared.fresh_from.iter().zip(&self.from) {
            kept.fetch_max(*from, Ordering::AcqRel);
        }
    }
}
