//! Changes to the stored state behind everybody's back, with right checksums: what only a fold of the
//! log can find.

use tally_domain::{Counters, Resource, Toggles, UserId};
use tally_projector::identity::Identity;
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

/// Says of the state of a folder that nobody has open that an earlier version of the fold wrote it.
///
/// # Panics
/// Where the store can't be read or written, or has nothing.
pub fn make_older_fold(folder: &Folder) {
    let sled = folder.data_dir().join("state/sled");
    let store = SledStore::open(&sled, 1 << 20).expect("the server has ended");
    let sealed = store.get(layout::IDENTITY).expect("sled reads");
    let sealed = sealed.expect("there was a checkpoint");
    let value = layout::open(layout::IDENTITY, &sealed).expect("it is whole");
    let identity = Identity::from_value(value).expect("an identity");
    let older = Identity {
        fold_version: identity.fold_version - 1,
        ..identity
    };
    let sealed = layout::seal(layout::IDENTITY, older.to_value().expect("it is written"));
    store
        .put(layout::IDENTITY, Some(&sealed))
        .expect("sled takes a put");
    store.flush().expect("sled flushes");
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
