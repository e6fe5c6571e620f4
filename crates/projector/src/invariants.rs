//! What must be true of every state, looked at while it is used: as many users like a resource as its
//! counter says, and bookmarks alike; and nothing is applied that the log does not have.
//!
//! A pass goes over all values, so there is one now and then. It keeps a difference for each resource
//! at most, and mostly none: what it has seen both sides of cancels out.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tally_domain::{Counters, Partition, Resource, Toggles, UserId};

use crate::dump::{Visitor, visit};
use crate::error::{StateError, with_causes};
use crate::shared::Shared;

/// How many violations of one pass are named in the service's log; all are counted.
const NAMED: usize = 20;

/// How long the checking thread waits before it looks whether it shall end.
const STEP: Duration = Duration::from_millis(500);

/// The pause after each partition, so that others have the store to themselves.
const BREATHE: Duration = Duration::from_millis(50);

/// By how much counters are above the number of users: likes and bookmarks.
#[derive(Default)]
struct Differences(HashMap<Resource, (i128, i128)>);

impl Differences {
    fn add(&mut self, resource: Resource, likes: i128, bookmarks: i128) {
        let of = self.0.entry(resource).or_default();
        *of = (of.0 + likes, of.1 + bookmarks);
        if *of == (0, 0) {
            self.0.remove(&resource);
        }
    }
}

impl Visitor for Differences {
    fn counters(&mut self, resource: Resource, counters: Counters) {
        self.add(resource, counters.likes.into(), counters.bookmarks.into());
    }

    fn toggles(&mut self, resource: Resource, _user: &UserId, set: Toggles) {
        self.add(
            resource,
            -i128::from(set.liked),
            -i128::from(set.bookmarked),
        );
    }
}

/// Checks all partitions again and again, `every` so often, until the projector stops.
pub(crate) fn run(shared: &Shared, every: Duration) {
    let mut due = Instant::now() + every;
    while !shared.stopping() {
        if Instant::now() < due {
            shared
                .checkpointer
                .pause(STEP.min(due.saturating_duration_since(Instant::now())));
            continue;
        }
        for (partition, _) in (0..).zip(&shared.slots) {
            if shared.stopping() {
                return;
            }
            if let Err(error) = shared.noted(check(shared, partition)) {
                let error = with_causes(&error);
                tracing::warn!(error, partition, "the state's invariants can't be checked");
            }
            shared.checkpointer.pause(BREATHE);
        }
        shared.metrics.invariants.passed();
        due = Instant::now() + every;
    }
}

/// Checks one partition, and says what is wrong; how much is.
pub(crate) fn check(shared: &Shared, partition: Partition) -> Result<usize, StateError> {
    let mut differences = Differences::default();
    let visited = visit(shared, partition, &mut differences)?;
    let mut found = 0;
    let mut wrong: Vec<_> = differences.0.into_iter().collect();
    wrong.sort_unstable_by_key(|(resource, _)| *resource);
    for (resource, (likes, bookmarks)) in wrong {
        for (invariant, by) in [("likes", likes), ("bookmarks", bookmarks)] {
            if by == 0 {
                continue;
            }
            found += 1;
            shared.metrics.invariants.violated(invariant);
            if found <= NAMED {
                tracing::error!(
                    partition,
                    resource = %resource.key(),
                    invariant,
                    above_users = %by,
                    "the state is wrong: a counter is not the number of its users. `tally verify` says which number is right, `tally rebuild` makes the state anew"
                );
            }
        }
    }
    let place = usize::try_from(partition).unwrap_or(usize::MAX);
    // Asked after the visit: the head never falls.
    let head = shared
        .log
        .head()
        .ok()
        .and_then(|head| head.get(place).copied());
    if let Some(head) = head.filter(|head| visited.next_offset > *head) {
        found += 1;
        shared.metrics.invariants.violated("applied");
        let applied = visited.next_offset;
        tracing::error!(
            partition,
            applied,
            head,
            "the state is wrong: it is past the end of the log"
        );
    }
    Ok(found)
}

impl Shared {
    /// Whether what reads the whole state shall end.
    pub(crate) fn stopping(&self) -> bool {
        self.quit.load(Ordering::Acquire) || self.stop_at.get().is_some()
    }
}
