//! [sled] behind the narrow trait: one tree, plain puts, flushed when we say so.

use std::panic::AssertUnwindSafe;
use std::path::Path;

use super::{Store, StoreError, Visit};

/// A sled database.
pub struct SledStore {
    db: sled::Db,
}

impl SledStore {
    /// Opens or makes the database in a folder. sled may panic on a damaged one; that is an error,
    /// here and in all else.
    ///
    /// # Errors
    /// Where sled can't open it.
    pub fn open(dir: &Path, cache_bytes: u64) -> Result<Self, StoreError> {
        // Our own flushes are the only ones: sled's background flusher logs an error and dies.
        let config = sled::Config::new()
            .path(dir)
            .cache_capacity(cache_bytes)
            .flush_every_ms(None);
        guarded("open", || config.open()).map(|db| Self { db })
    }
}

/// Runs a call of sled, which may panic on what it finds: that is an error too.
fn guarded<T>(
    doing: &'static str,
    call: impl FnOnce() -> Result<T, sled::Error>,
) -> Result<T, StoreError> {
    match std::panic::catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| StoreError {
            doing,
            why: error.to_string(),
        }),
        Err(_) => Err(StoreError {
            doing,
            why: "sled panicked".to_owned(),
        }),
    }
}

impl Store for SledStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let value = guarded("get", || self.db.get(key))?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn scan(&self, prefix: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let mut entries = self.db.scan_prefix(prefix);
        while let Some((key, value)) = guarded("scan", || entries.next().transpose())? {
            visit(&key, &value)?;
        }
        Ok(())
    }

    fn put(&self, key: &[u8], value: Option<&[u8]>) -> Result<(), StoreError> {
        match value {
            Some(value) => guarded("put", || self.db.insert(key, value))?,
            None => guarded("remove", || self.db.remove(key))?,
        };
        Ok(())
    }

    fn flush(&self) -> Result<(), StoreError> {
        guarded("flush", || self.db.flush()).map(drop)
    }

    fn disk_bytes(&self) -> Result<u64, StoreError> {
        guarded("size", || self.db.size_on_disk())
    }
}
