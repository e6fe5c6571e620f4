//! Changes to the stored state behind everybody's back, with right checksums: what only a fold of the
//! log can find.

use tally_domain::{Counters, Resource, Toggles, UserId};
use tally_projector::store::values::{Change, EntryKey, bucket_key, buckets_each, merged};
use tally_projector::store::{SledStore, Store as _, layout};

use crate::Folder;

/// What is stored instead.
#[derive(Debug, Clone)]
pub enum Lie {
    /// Of a resource.
    Counters(Resource, Counters),
    /// Of a user on a resource.
    Toggles(Resource, UserId, Toggles),
}

/// Writes lies into the state of a folder that nobody has open.
///
/// # Panics
/// Where the store can't be written.
pub fn tamper(folder: &Folder, partitions: u32, lies: &[Lie]) {
    let sled = folder.data_dir().join("state/sled");
    let store = SledStore::open(&sled, 1 << 20).expect("the server has ended");
    let buckets = buckets_each(partitions);
    for lie in lies {
        let (resource, entry, change) = match lie {
            Lie::Counters(resource, counters) => (
                resource,
                EntryKey::counters(*resource),
                Change::counters(*resource, counters, buckets),
            ),
            Lie::Toggles(resource, user, toggles) => (
                resource,
                EntryKey::toggles(*resource, user),
                Change::toggles(*resource, user, *toggles, buckets),
            ),
        };
        let key = bucket_key(resource.partition(partitions), entry.bucket(buckets));
        let sealed = store.get(&key).expect("sled reads").unwrap_or_default();
        let value = match sealed.is_empty() {
            true => &[][..],
            false => layout::open(&key, &sealed).expect("it is whole"),
        };
        let value = merged(value, &[change]).expect("it is whole");
        let sealed = layout::seal(&key, value);
        store.put(&key, Some(&sealed)).expect("sled takes a put");
    }
    store.flush().expect("sled flushes");
}
