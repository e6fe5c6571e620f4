//! What can still be read of state that is to be set aside: enough to see whether it is this log's.

use std::path::Path;

use tally_domain::Partition;
use tally_log::EventLog;
use tally_log::storage::Storage;

use crate::error::{OpenError, StateError};
use crate::identity::{Identity, STORE, check_against};
use crate::redo::{Redo, RedoFile};
use crate::store::layout::{self, Place};
use crate::store::{OpenStore, Store};

/// State that can't be used as it is.
struct Remains {
    /// Where it can be opened.
    store: Option<Box<dyn Store>>,
    /// Where it is whole: a checkpoint that was cut short, newer than the store.
    redo: Option<Redo>,
}

impl Remains {
    /// A value that is there as it was written.
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        let whole = |sealed: &[u8]| layout::open(key, sealed).ok().map(<[u8]>::to_vec);
        let puts = self.redo.iter().flat_map(Redo::iter);
        let last = puts.filter(|(of, _)| *of == key).last();
        if let Some(value) = last.and_then(|(_, sealed)| whole(sealed?)) {
            return Some(value);
        }
        whole(&self.store.as_ref()?.get(key).ok()??)
    }
}

/// Refuses where the log at hand is not the one that the state in `dir` was folded from, or is an
/// older one than that, as far as the state still says so: it would be rebuilt from the wrong log.
///
/// # Errors
/// As for state that can be used; and where the store is not damaged, but can't be opened.
pub(crate) fn check(
    log: &dyn EventLog,
    storage: &dyn Storage,
    dir: &Path,
    open_store: &OpenStore,
    wanted: &Identity,
) -> Result<(), OpenError> {
    let redo = match RedoFile::new(storage, dir).read() {
        Ok(redo) => redo,
        Err(StateError::Damaged(_)) => None,
        Err(error) => return Err(error.into()),
    };
    let store = match open_store(&dir.join(STORE)) {
        Ok(store) => Some(store),
        Err(error) if error.damage => None,
        Err(error) => return Err(OpenError::store(error)),
    };
    let remains = Remains { store, redo };
    let identity = remains.get(layout::IDENTITY);
    if let Some(found) = identity.and_then(|value| Identity::from_value(&value).ok()) {
        found.fit(wanted)?;
        if found.layout != wanted.layout {
            return Ok(());
        }
    }
    let place = |partition: Partition| {
        let value = remains.get(&layout::partition_key(partition))?;
        Some((partition, Place::from_value(&value).ok()?))
    };
    let places: Vec<_> = (0..wanted.partitions).filter_map(place).collect();
    check_against(log, &places)
}
