//! Who waited for the fold, for how long, and what came of it.

use std::time::Instant;

use prometheus::{Histogram, IntCounter, Result};
use tally_log::metric::Declare;

use crate::metrics::{WAIT_DURATION, WAITS};
use crate::projector::Projector;
use crate::waiters::EventFate;

/// What came of a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitResult {
    /// What was waited for is folded.
    Folded,
    /// The limit was over before, or nobody folds it any more.
    TimedOut,
    /// Whoever waited went away.
    Gone,
}

impl WaitResult {
    pub(crate) const ALL: [Self; 3] = [Self::Folded, Self::TimedOut, Self::Gone];

    /// The word as labels have it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Folded => "folded",
            Self::TimedOut => "timed_out",
            Self::Gone => "gone",
        }
    }
}

/// The waits' part of the metrics.
#[derive(Clone)]
pub(crate) struct WaitMetrics {
    folded: IntCounter,
    timed_out: IntCounter,
    gone: IntCounter,
    duration: Histogram,
}

impl WaitMetrics {
    pub(crate) fn declare(declare: Declare<'_>) -> Result<Self> {
        let waits = declare.counters(&WAITS)?;
        let of = |result: WaitResult| waits.get_metric_with_label_values(&[result.as_str()]);
        Ok(Self {
            folded: of(WaitResult::Folded)?,
            timed_out: of(WaitResult::TimedOut)?,
            gone: of(WaitResult::Gone)?,
            duration: declare.histogram(&WAIT_DURATION)?,
        })
    }

    fn ended(&self, result: WaitResult, began: Instant) {
        let counter = match result {
            WaitResult::Folded => &self.folded,
            WaitResult::TimedOut => &self.timed_out,
            WaitResult::Gone => &self.gone,
        };
        counter.inc();
        self.duration.observe(began.elapsed().as_secs_f64());
    }
}

/// A request that waits for the fold, to be counted when it does no more. One that is dropped has gone.
pub struct Wait<'a> {
    metrics: &'a WaitMetrics,
    began: Instant,
    counted: bool,
}

impl Projector {
    /// A request begins to wait for the fold.
    #[must_use]
    pub fn waiting(&self) -> Wait<'_> {
        Wait {
            metrics: &self.lasting.metrics.waits,
            began: Instant::now(),
            counted: false,
        }
    }
}

impl Wait<'_> {
    fn end(mut self, result: Option<WaitResult>) {
        self.counted = true;
        if let Some(result) = result {
            self.metrics.ended(result, self.began);
        }
    }

    /// What it waited for is folded.
    pub fn folded(self) {
        self.end(Some(WaitResult::Folded));
    }

    /// The limit is over, or nobody folds it any more.
    pub fn timed_out(self) {
        self.end(Some(WaitResult::TimedOut));
    }

    /// Its event has a fate. Where that came from the log, it was no wait for the fold.
    pub fn settled(self, fate: &EventFate) {
        self.end(match fate {
            EventFate::Folded(_) | EventFate::DeadLetter(_) | EventFate::Settled(_) => {
                Some(WaitResult::Folded)
            }
            EventFate::Refused(_) | EventFate::Failed(_) => None,
        });
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if !self.counted {
            self.metrics.ended(WaitResult::Gone, self.began);
        }
    }
}
