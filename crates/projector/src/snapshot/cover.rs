//! How far snapshots make the log's beginning dispensable.

use tally_domain::Offset;

use super::{SnapshotError, Wanted};
use crate::error::StateError;
use crate::projector::Projector;

impl Projector {
    /// The offsets below which the log is not needed any more to bring the state back, by partition: up to
    /// the oldest snapshot that is kept, all of which are read; those that are not usable with this log and
    /// fold are passed over. No further than the state is written down; 0 where there is no snapshot.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn covered(&self) -> Result<Vec<Offset>, SnapshotError> {
        let snapshots = self.lasting.options.snapshots.as_ref();
        let snapshots = snapshots.ok_or(SnapshotError::Nowhere)?;
        // None of them goes meanwhile.
        let _one = self.snapshotting.lock();
        let (written, identity) = {
            let life = self.life()?;
            if life.renewal.is_some() {
                return Err(StateError::Renewing.into());
            }
            let checkpointer = &life.shared.checkpointer;
            checkpointer.checkpoint(&life.shared)?;
            (checkpointer.written(), checkpointer.identity().clone())
        };
        let wanted = Wanted {
            log: self.log().as_ref(),
            identity: &identity,
            dir: &self.lasting.dir,
        };
        let names = snapshots.list(identity.log)?;
        let mut covered = written;
        for (partition, written) in (0..).zip(&mut covered) {
            let mut oldest = 0;
            for name in names.get(&partition).into_iter().flatten() {
                if snapshots.usable(name, &wanted)?.is_some() {
                    oldest = name.next_offset;
                }
            }
            *written = (*written).min(oldest);
        }
        Ok(covered)
    }
}
