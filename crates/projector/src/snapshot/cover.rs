//! How far snapshots make the log's beginning dispensable.

use tally_domain::Offset;

use super::{SnapshotError, SnapshotName, Snapshots};
use crate::projector::Projector;
use crate::shared::Shared;

impl Projector {
    /// The offsets below which the log is not needed any more to bring the state back, by partition: up to
    /// the oldest snapshot that is kept, all of which are read and found whole or passed over, and no
    /// further than the state is written down. 0 where there is no snapshot of this fold.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn covered(&self) -> Result<Vec<Offset>, SnapshotError> {
        let snapshots = self.lasting.options.snapshots.as_ref();
        let snapshots = snapshots.ok_or(SnapshotError::Nowhere)?;
        // None of them goes meanwhile.
        let _one = self.snapshotting.lock();
        let life = self.life()?;
        life.shared.checkpointer.checkpoint(&life.shared)?;
        let names = snapshots.list(self.log().identity().id)?;
        let mut covered = life.shared.checkpointer.written();
        for (partition, written) in (0..).zip(&mut covered) {
            let names = names.get(&partition).map_or(&[][..], Vec::as_slice);
            let oldest = self.oldest(snapshots, &life.shared, names)?;
            *written = (*written).min(oldest.unwrap_or_default());
        }
        Ok(covered)
    }

    /// Where the oldest one is that is whole and of this fold.
    fn oldest(
        &self,
        snapshots: &Snapshots,
        shared: &Shared,
        names: &[SnapshotName],
    ) -> Result<Option<Offset>, SnapshotError> {
        let identity = shared.checkpointer.identity();
        let ours = (identity.fold_version, identity.layout);
        let mut oldest = None;
        for name in names {
            if (name.fold_version, name.layout) != ours {
                continue;
            }
            match snapshots.check(name, &self.lasting.dir) {
                Ok(()) => oldest = Some(name.next_offset),
                Err(error @ SnapshotError::Damaged { .. }) => {
                    tracing::error!(%error, "it is counted as none");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(oldest)
    }
}
