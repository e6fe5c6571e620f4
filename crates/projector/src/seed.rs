//! The beginning of a rebuild of one partition: a state that has of all others what the stored one has, each as
//! of one position, and nothing of this one.

use tally_domain::Partition;

use crate::error::StateError;
use crate::projector::Projector;
use crate::shared::Shared;
use crate::store::{Filling, fill, layout, try_scan};
use crate::swap::Incoming;

impl Projector {
    /// Writes it where [`Incoming::Seeded`] is, in the place of what an earlier one left. Nobody may have that
    /// open. It reads all of the stored state; the fold goes on meanwhile.
    ///
    /// # Errors
    /// Where there is no such partition, or a store can't be read or written. What is there then is no state.
    pub fn seed(&self, without: Partition) -> Result<(), StateError> {
        let _one = self.copying.lock();
        let life = self.life()?;
        let shared = &life.shared;
        shared
            .slot(without)
            .ok_or(StateError::NoSuchPartition(without))?;
        if life.renewal.is_some() {
            return Err(StateError::Renewing);
        }
        // So that it has little to catch up with.
        shared.checkpointer.checkpoint(shared)?;
        Incoming::Seeded.remove(&self.lasting.dir)?;
        let dir = Incoming::Seeded.dir(&self.lasting.dir);
        self.lasting
            .storage
            .create_dir_all(&dir)
            .map_err(StateError::file(&dir, "made"))?;
        let to = (self.lasting.store)(&dir.join(crate::identity::STORE))?;
        let identity = shared.checkpointer.identity().to_value()?;
        fill(to.as_ref(), identity, |to| {
            for (partition, _) in (0..).zip(&shared.slots) {
                if partition != without {
                    let checkpointer = &shared.checkpointer;
                    checkpointer.hold_written(|| copy(shared, partition, to))?;
                }
            }
            Ok(())
        })
    }
}

/// Copies what the store has of a partition, its checksums checked. No checkpoint may be under way.
fn copy(shared: &Shared, partition: Partition, to: &mut Filling<'_>) -> Result<(), StateError> {
    for prefix in layout::partition_prefixes(partition) {
        let copied = try_scan(shared.store.as_ref(), &prefix, |key, sealed| {
            if shared.stopping() {
                return Err(StateError::Reopening);
            }
            layout::open(key, sealed)?;
            Ok(to.put(key, sealed)?)
        });
        copied?;
    }
    Ok(())
}
