//! A state that another version of the fold wrote: read for answers that say so, and never folded into.
//!
//! Nothing is decided from it, so it needs no more than counters, toggles and the place of each partition:
//! any layout that has these as this version reads them will do.

use std::ops::RangeInclusive;

use tally_domain::{Offset, Partition, Position, Resource, UserId};

use crate::error::StateError;
use crate::identity::Identity;
use crate::projector::View;
use crate::store::layout::{self, Place};
use crate::store::values::{self, EntryKey, EntryValue};
use crate::store::{Store, sealed_value};

/// The layouts whose values are read.
const READ: RangeInclusive<u32> = layout::OLDEST_READ..=layout::VERSION;

/// See the [module](self).
pub(crate) struct OldState {
    store: Box<dyn Store>,
    places: Vec<(Partition, Place)>,
    /// How many buckets of values each partition has in the store.
    buckets: u32,
}

impl OldState {
    /// Reads where it stands; `None` where it has a layout that this version does not read.
    pub(crate) fn open(
        store: Box<dyn Store>,
        identity: &Identity,
    ) -> Result<Option<Self>, StateError> {
        if !READ.contains(&identity.layout) {
            return Ok(None);
        }
        let place = |partition| {
            let key = layout::partition_key(partition);
            let place = sealed_value(store.as_ref(), &key)?;
            let place = place.map(|value| Place::from_value_of(identity.layout, &value));
            Ok((partition, place.transpose()?.unwrap_or_default()))
        };
        let places: Result<Vec<_>, StateError> = (0..identity.partitions).map(place).collect();
        Ok(Some(Self {
            places: places?,
            buckets: values::buckets_each(identity.partitions),
            store,
        }))
    }

    /// Where each partition stands.
    pub(crate) fn places(&self) -> &[(Partition, Place)] {
        &self.places
    }

    /// The next offset of each partition.
    pub(crate) fn next_offsets(&self) -> Vec<Offset> {
        let places = self.places.iter();
        places.map(|(_, place)| place.next_offset).collect()
    }

    /// A resource's counters and a user's toggles, as they are written down.
    pub(crate) fn read(
        &self,
        partition: Partition,
        resource: Resource,
        user: &UserId,
    ) -> Result<View, StateError> {
        let counters = self.value(
            partition,
            &EntryKey::counters(resource),
            |value| match value {
                EntryValue::Counters(counters) => Some(counters),
                EntryValue::Toggles(..) => None,
            },
        )?;
        let toggles = self.value(
            partition,
            &EntryKey::toggles(resource, user),
            |value| match value {
                EntryValue::Toggles(_, toggles) => Some(toggles),
                EntryValue::Counters(_) => None,
            },
        )?;
        let place = self.places.iter().find(|(of, _)| *of == partition);
        let (_, place) = place.ok_or(StateError::NoSuchPartition(partition))?;
        let newest = place.next_offset.checked_sub(1);
        Ok(View {
            counters: counters.unwrap_or_default(),
            toggles: toggles.unwrap_or_default(),
            position: newest.map(|offset| Position { partition, offset }),
            stale: true,
        })
    }

    fn value<T>(
        &self,
        partition: Partition,
        key: &EntryKey,
        of: impl Fn(EntryValue<'_>) -> Option<T>,
    ) -> Result<Option<T>, StateError> {
        let bucket = values::bucket_key(partition, key.bucket(self.buckets));
        let Some(bucket) = sealed_value(self.store.as_ref(), &bucket)? else {
            return Ok(None);
        };
        Ok(values::find(&bucket, key)?.and_then(of))
    }
}
