//! A snapshot taken from a state that is used.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tally_domain::Partition;

use super::file::{Header, Writer};
use super::{SnapshotError, SnapshotName, Snapshots, SpoolFile, Taken, Wanted};
use crate::error::StateError;
use crate::metrics::unix_millis;
use crate::projector::Projector;
use crate::shared::Shared;
use crate::store::layout::{self, Place};
use crate::store::{Store, try_scan};
use crate::swap::retake;

impl Projector {
    /// Takes a snapshot of every partition that has moved since its last, reads each back from where
    /// they are kept, and then removes those that are too many. `each` is told of those that were taken;
    /// one run at a time. The fold goes on; no checkpoint is written while a partition is
    /// read from the store.
    ///
    /// # Errors
    /// [`SnapshotError`]; what was taken before stays, and nothing is removed.
    pub fn take_snapshots(&self, each: &mut dyn FnMut(&Taken)) -> Result<(), SnapshotError> {
        let to = self.lasting.options.snapshots.as_ref();
        let to = to.ok_or(SnapshotError::Nowhere)?;
        let _one = self.snapshotting.lock();
        let taken = self.take_all(to, each);
        if !matches!(taken, Err(SnapshotError::State(StateError::Renewing))) {
            self.lasting.metrics.snapshots.ended(&taken);
        }
        taken.map(drop)
    }

    fn take_all(&self, to: &Snapshots, each: &mut dyn FnMut(&Taken)) -> Result<u64, SnapshotError> {
        let life = self.life()?;
        if life.renewal.is_some() {
            // One that is cut short would leave them to be proven with the next.
            return Err(StateError::Renewing.into());
        }
        let identity = life.shared.checkpointer.identity().clone();
        let of_life = Arc::downgrade(&life);
        drop(life);
        let wanted = Wanted {
            log: self.log().as_ref(),
            identity: &identity,
            dir: &self.lasting.dir,
        };
        let (storage, dir) = (self.lasting.storage.as_ref(), &self.lasting.dir);
        let mark = retake(storage, dir);
        // A state that has taken another's place may be right where that was wrong.
        let before = if mark.is_set()? {
            BTreeMap::new()
        } else {
            to.list(identity.log)?
        };
        let mut bytes = 0;
        for partition in 0..identity.partitions {
            let mut newest = None;
            for name in before.get(&partition).into_iter().flatten() {
                if to.is_proven(name, &wanted)? {
                    newest = Some(name);
                    break;
                }
            }
            if let Some(taken) = self.take_one(partition, to, newest)? {
                prove(to, &taken.name, &wanted)?;
                bytes += taken.bytes;
                each(&taken);
            }
        }
        // Unless another came meanwhile.
        if of_life.strong_count() > 0 {
            mark.remove()?;
        }
        to.prune(&wanted)?;
        Ok(bytes)
    }

    /// How old the newest snapshot of any partition is; `None` where there is none.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn snapshots_age(&self) -> Result<Option<Duration>, SnapshotError> {
        let to = self.lasting.options.snapshots.as_ref();
        let names = to
            .ok_or(SnapshotError::Nowhere)?
            .list(self.log().identity().id)?;
        let made = names.into_values().flatten().map(|name| name.made_millis);
        let newest = made.max();
        Ok(newest.map(|made| Duration::from_millis(unix_millis().saturating_sub(made))))
    }

    /// `None` where there is nothing that `newest` does not have.
    fn take_one(
        &self,
        partition: Partition,
        to: &Snapshots,
        newest: Option<&SnapshotName>,
    ) -> Result<Option<Taken>, SnapshotError> {
        let file = SpoolFile::new(&self.lasting.dir, partition)?;
        let taken = self.write_snapshot(partition, newest, &file.0)?;
        if let Some(taken) = &taken {
            to.objects.put(&taken.name.to_string(), &file.0)?;
        }
        Ok(taken)
    }

    fn write_snapshot(
        &self,
        partition: Partition,
        newest: Option<&SnapshotName>,
        path: &Path,
    ) -> Result<Option<Taken>, SnapshotError> {
        // A swap waits until the store is read, and not until all is sent.
        let _one = self.copying.lock();
        let life = self.life()?;
        let shared = &life.shared;
        // What the store has is then as new as can be.
        shared.checkpointer.checkpoint(shared)?;
        let checkpointer = &shared.checkpointer;
        checkpointer.hold_written(|| write(shared, partition, newest, path))
    }
}

/// Reads a snapshot back that was just sent; one that is not usable is removed.
fn prove(to: &Snapshots, name: &SnapshotName, wanted: &Wanted<'_>) -> Result<(), SnapshotError> {
    if to.is_proven(name, wanted)? {
        return Ok(());
    }
    let name = name.to_string();
    to.objects.delete(&name)?;
    let what = "it did not come back as it was sent".to_owned();
    Err(SnapshotError::Damaged { name, what })
}

/// Writes what the store has of a partition. No checkpoint may be under way.
fn write(
    shared: &Shared,
    partition: Partition,
    newest: Option<&SnapshotName>,
    path: &Path,
) -> Result<Option<Taken>, SnapshotError> {
    let store = shared.store.as_ref();
    let key = layout::partition_key(partition);
    let Some(sealed) = shared.noted(store.get(&key).map_err(StateError::Store))? else {
        return Ok(None);
    };
    let place = Place::from_value(layout::open(&key, &sealed)?)?;
    let header = Header {
        identity: shared.checkpointer.identity().clone(),
        partition,
        next_offset: place.next_offset,
        made_millis: unix_millis(),
    };
    let name = header.name();
    let of = |name: &SnapshotName| (name.next_offset, name.fold_version, name.layout);
    if newest.is_some_and(|newest| of(newest) == of(&name)) {
        return Ok(None);
    }
    let failed = SnapshotError::spool(path, "written");
    let mut writer = Writer::create(path, &header).map_err(&failed)?;
    for prefix in layout::partition_prefixes(partition) {
        copy(shared, store, &prefix, &mut writer, path)?;
    }
    let (values, bytes) = writer.end().map_err(&failed)?;
    Ok(Some(Taken {
        name,
        bytes,
        values,
    }))
}

/// Copies all values with a prefix, their checksums checked: what is damaged here must not be kept there.
fn copy(
    shared: &Shared,
    store: &dyn Store,
    prefix: &[u8],
    writer: &mut Writer,
    path: &Path,
) -> Result<(), SnapshotError> {
    let copied = try_scan(store, prefix, |key, sealed| {
        if shared.stopping() {
            return Err(StateError::Reopening.into());
        }
        layout::open(key, sealed)?;
        let written = writer.value(key, sealed);
        written.map_err(SnapshotError::spool(path, "written"))
    });
    match copied {
        Err(SnapshotError::State(error)) => Ok(shared.noted(Err(error))?),
        copied => copied,
    }
}
