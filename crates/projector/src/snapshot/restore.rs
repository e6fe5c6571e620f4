//! Snapshots put into an empty state.

use std::path::{Path, PathBuf};

use tally_domain::{Position, Rules};
use tally_log::storage::Storage;
use tally_log::{EventLog, ReadError};

use super::{Fetched, SnapshotError, Snapshots, Wanted, file};
use crate::aside::set_aside;
use crate::error::{OpenError, StateError, with_causes};
use crate::identity::{Identity, STATE_FILES};
use crate::store::{Filling, Store, fill};

/// Of each partition the newest snapshot that is whole and of this fold, where there is one; in the spool,
/// so that a state is given up only for what is at hand.
pub(crate) struct Newest(Vec<Fetched>);

impl Newest {
    /// Finds and fetches them.
    pub(crate) fn find(
        snapshots: Option<&Snapshots>,
        log: &dyn EventLog,
        dir: &Path,
        wanted: &Identity,
    ) -> Result<Self, OpenError> {
        let Some(snapshots) = snapshots else {
            return Ok(Self::none());
        };
        match Self::fetch(snapshots, log, dir, wanted) {
            Ok(newest) => Ok(newest),
            Err(cause) => {
                let none = Self::none();
                if let Some(Position { partition, offset }) = none.gap(log)? {
                    return Err(OpenError::Snapshots {
                        partition,
                        first: offset,
                        cause,
                    });
                }
                let error = with_causes(&cause);
                tracing::error!(
                    error,
                    "the snapshots can't be read; the whole log is folded"
                );
                Ok(none)
            }
        }
    }

    fn fetch(
        snapshots: &Snapshots,
        log: &dyn EventLog,
        dir: &Path,
        identity: &Identity,
    ) -> Result<Self, SnapshotError> {
        let wanted = Wanted { log, identity, dir };
        let mut newest = Vec::new();
        for names in snapshots.list(identity.log)?.into_values() {
            for name in names {
                if let Some(fetched) = snapshots.usable(&name, &wanted)? {
                    newest.push(fetched);
                    break;
                }
            }
        }
        Ok(Self(newest))
    }

    /// Without any.
    pub(crate) fn none() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first partition that neither these nor the log can bring back.
    pub(crate) fn gap(&self, log: &dyn EventLog) -> Result<Option<Position>, ReadError> {
        let first = (0..).zip(log.first()?);
        let mut gaps = first.filter(|(partition, first)| {
            let of_partition = |fetched: &&Fetched| fetched.header.partition == *partition;
            let reached = self.0.iter().find(of_partition);
            reached.map_or(0, |fetched| fetched.header.next_offset) < *first
        });
        Ok(gaps
            .next()
            .map(|(partition, offset)| Position { partition, offset }))
    }

    /// Puts them into an empty store. Cut short, the store shows a checkpoint that is not whole, and is
    /// not used.
    pub(crate) fn put_into(self, store: &dyn Store, identity: &Identity) -> Result<(), OpenError> {
        let filled = fill(store, identity.to_value()?, |to| {
            for fetched in &self.0 {
                copy(fetched, to)?;
                let (name, next_offset) = (fetched.name, fetched.header.next_offset);
                tracing::info!(%name, next_offset, "a partition's state is restored from its snapshot");
            }
            Ok(())
        });
        filled.map_err(|error| {
            let error = match error {
                SnapshotError::State(error) => error,
                error @ (SnapshotError::Nowhere
                | SnapshotError::Missing
                | SnapshotError::TooOld { .. }
                | SnapshotError::Log(_)
                | SnapshotError::Objects(_)
                | SnapshotError::Damaged { .. }
                | SnapshotError::Spool { .. }) => StateError::Failed(with_causes(&error)),
            };
            error.into()
        })
    }
}

/// Sets a state aside that nobody has open, so that the next opening begins from the snapshots; where it is
/// then. They are all fetched and checked before.
///
/// # Errors
/// [`SnapshotError`]; the state is as it was then.
pub fn set_state_aside(
    log: &dyn EventLog,
    storage: &dyn Storage,
    dir: &Path,
    snapshots: &Snapshots,
) -> Result<PathBuf, SnapshotError> {
    let wanted = Identity::of(log.identity(), Rules::CURRENT);
    let newest = Newest::fetch(snapshots, log, dir, &wanted)?;
    if newest.is_empty() {
        return Err(SnapshotError::Missing);
    }
    if let Some(Position { partition, offset }) = newest.gap(log)? {
        let first = offset;
        return Err(SnapshotError::TooOld { partition, first });
    }
    Ok(set_aside(storage, dir, &STATE_FILES)?)
}

fn copy(fetched: &Fetched, to: &mut Filling<'_>) -> Result<(), SnapshotError> {
    let name = fetched.name.to_string();
    let read = file::read(&fetched.file.0, &name, &mut |key, value| {
        Ok(to.put(key, value)?)
    });
    read.map(drop)
}
