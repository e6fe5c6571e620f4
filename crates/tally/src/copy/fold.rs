//! A log's state in memory, for its digest.

use std::collections::HashMap;

use tally_domain::state::NoBacking;
use tally_domain::{Applied, Digest, Offset, Partition, PartitionState, Position, Rules, Toggles};
use tally_log::BatchRecord;

use super::Instead;

/// How many changes are noted before they are dropped: nobody writes them down.
const NOTED: usize = 100_000;

/// The state of all partitions.
pub(super) struct Fold {
    states: Vec<PartitionState>,
    /// Records that the destination does not get as they stand.
    pub(super) left_out: HashMap<Position, Instead>,
}

impl Fold {
    pub(super) fn new(partitions: u32) -> Self {
        let state = |partition| PartitionState::new(partition, partitions, Rules::CURRENT);
        Self {
            states: (0..partitions).map(state).collect(),
            left_out: HashMap::new(),
        }
    }

    /// Where a partition's next record stands, unless there is a gap.
    pub(super) fn next_offset(&self, partition: Partition) -> Option<Offset> {
        let place = usize::try_from(partition).ok()?;
        self.states.get(place).map(PartitionState::next_offset)
    }

    /// Folds a record; `None` where there is no such partition.
    pub(super) fn apply(&mut self, record: BatchRecord<'_>) -> Option<Applied> {
        let place = usize::try_from(record.position.partition).ok()?;
        let state = self.states.get_mut(place)?;
        let Ok(applied) = state.apply(record.record(), &NoBacking);
        if state.changed() > NOTED {
            state.forget_changes();
        }
        Some(applied)
    }

    /// The digest of everything, as the projector counts it.
    pub(super) fn digest(&self) -> Digest {
        let mut digest = Digest::default();
        for state in &self.states {
            for (resource, counters) in state.counters() {
                digest.add_counters(resource, &counters);
            }
            let set = state
                .toggles()
                .filter(|(_, _, toggles)| *toggles != Toggles::NONE);
            for (resource, user, toggles) in set {
                digest.add_toggles(resource, user.as_str(), toggles);
            }
            for (sequence, key) in state.keys().holding() {
                digest.add_key(state.partition(), sequence, key);
            }
        }
        digest
    }
}
