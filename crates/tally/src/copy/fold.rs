//! A log's state in memory, for its digest.

use std::collections::HashMap;

use tally_domain::{Applied, Digest, Offset, Partition, PartitionState, Position, Rules};
use tally_log::BatchRecord;

use super::Instead;

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
        Some(state.apply_in_memory(record.record()))
    }

    /// The digest of everything, as the projector counts it.
    pub(super) fn digest(&self) -> Digest {
        let mut digest = Digest::default();
        for state in &self.states {
            digest.add_digest(Digest::of(state));
        }
        digest
    }
}
