//! Where checkpoints are written down: a narrow trait, so that the store can be another one.
//!
//! The store is a cache of the log. It need not be atomic or durable by itself: [`crate::redo`]
//! sees to the first, [`Store::flush`] to the second.

mod fill;
pub mod layout;
mod sled;
pub mod values;

use std::path::Path;

pub(crate) use self::fill::{Filling, fill};
pub use self::sled::SledStore;

use crate::error::StateError;

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {why}")]
pub struct StoreError {
    /// What was being done.
    pub doing: &'static str,
    /// What the store said.
    pub why: String,
    /// Whether it says that what the store holds can't be trusted: it panicked, or found damage.
    pub damage: bool,
}

impl StoreError {
    const LOCK: &'static str = "lock";

    /// Another process, or another part of this one, has the store open.
    #[must_use]
    pub fn held(why: String) -> Self {
        Self {
            doing: Self::LOCK,
            why,
            damage: false,
        }
    }

    /// A scan that its visitor ended.
    #[must_use]
    pub(crate) fn ended(why: impl Into<String>) -> Self {
        Self {
            doing: "scan",
            why: why.into(),
            damage: false,
        }
    }

    /// Whether it is [`held`](Self::held): nothing is wrong with the store then.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.doing == Self::LOCK
    }
}

/// What [`Store::scan`] calls with each key and value; an error ends the scan.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), StoreError> + 'a;

/// [Scans](Store::scan), and gives the visitor's own error where that ended it.
///
/// # Errors
/// The visitor's, or the store's.
pub(crate) fn try_scan<E: From<StoreError>>(
    store: &dyn Store,
    prefix: &[u8],
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut failed = None;
    let scanned = store.scan(prefix, &mut |key, value| {
        visit(key, value).map_err(|error| {
            failed = Some(error);
            StoreError::ended("its visitor failed")
        })
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(scanned?),
    }
}

/// The value of a key, where it has one, without its checksum, which is checked.
///
/// # Errors
/// Where the store can't be read, or the value is damaged.
pub(crate) fn sealed_value(store: &dyn Store, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
    let Some(mut sealed) = store.get(key)? else {
        return Ok(None);
    };
    let length = layout::open(key, &sealed)?.len();
    sealed.truncate(length);
    Ok(Some(sealed))
}

/// How many puts go into the store between two flushes: a later flush grows faster than linear.
pub(crate) const PUTS_PER_FLUSH: u64 = 50_000;

/// Opens or makes the store in a folder.
pub type OpenStore = dyn Fn(&Path) -> Result<Box<dyn Store>, StoreError> + Send + Sync;

/// An ordered map from bytes to bytes.
pub trait Store: Send + Sync {
    /// The value of a key, where it has one.
    ///
    /// # Errors
    /// Where the store can't be read.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Visits all keys with a prefix, in order.
    ///
    /// # Errors
    /// Where the store can't be read, or the visitor says so.
    fn scan(&self, prefix: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.scan_from(prefix, prefix, visit)
    }

    /// Visits all keys with a prefix that are not below `from`, in order.
    ///
    /// # Errors
    /// As [`scan`](Self::scan).
    fn scan_from(
        &self,
        prefix: &[u8],
        from: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError>;

    /// Writes a value, or removes the key where it is `None`. Neither atomic with other writes
    /// nor durable before [`flush`](Self::flush).
    ///
    /// # Errors
    /// Where the store can't be written.
    fn put(&self, key: &[u8], value: Option<&[u8]>) -> Result<(), StoreError>;

    /// Makes all earlier writes durable. After an error the store must not be trusted again
    /// before it is opened anew.
    ///
    /// # Errors
    /// Where they could not be made durable.
    fn flush(&self) -> Result<(), StoreError>;

    /// The size on disk in bytes.
    ///
    /// # Errors
    /// Where it can't be told.
    fn disk_bytes(&self) -> Result<u64, StoreError>;
}
