//! [sled] behind the narrow trait: one tree, plain puts, flushed when we say so.

use std::panic::AssertUnwindSafe;
use std::path::Path;

use super::{Store, StoreError, Visit};

/// A sled database.
pub struct SledStore {
    db: sled::Db,
}

impl SledStore {
    /// Opens or makes the database in a folder. sled may panic on a damaged one; that is an error
    /// here too.
    ///
    /// # Errors
    /// Where sled can't open it.
    pub fn open(dir: &Path, cache_bytes: u64) -> Result<Self, StoreError> {
        // Our own flushes are the only ones: sled's background flusher logs an error and dies.
        let config = sled::Config::new()
            .path(dir)
            .cache_capacity(cache_bytes)
            .flush_every_ms(None);
        match std::panic::catch_unwind(AssertUnwindSafe(|| config.open())) {
            Ok(Ok(db)) => Ok(Self { db }),
            Ok(Err(error)) => Err(failed("open")(error)),
            Err(_) => Err(StoreError {
                doing: "open",
                why: "sled panicked".to_owned(),
            }),
        }
    }
}

fn failed(doing: &'static str) -> impl Fn(sled::Error) -> StoreError {
    move |error| StoreError {
        doing,
        why: error.to_string(),
    }
}

impl Store for SledStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self
            .db
            .get(key)
            .map_err(failed("get"))?
            .map(|value| value.to_vec()))
    }

    fn scan(&self, prefix: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        for entry in self.db.scan_prefix(prefix) {
            let (key, value) = entry.map_err(failed("scan"))?;
            visit(&key, &value)?;
        }
        Ok(())
    }

    fn put(&self, key: &[u8], value: Option<&[u8]>) -> Result<(), StoreError> {
        match value {
            Some(value) => self.db.insert(key, value).map_err(failed("put"))?,
            None => self.db.remove(key).map_err(failed("remove"))?,
        };
        Ok(())
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(failed("flush"))?;
        Ok(())
    }

    fn disk_bytes(&self) -> Result<u64, StoreError> {
        self.db.size_on_disk().map_err(failed("size"))
    }
}
