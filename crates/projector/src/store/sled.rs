//! [sled] behind the narrow trait: one tree, plain puts, flushed when we say so.

use std::io::ErrorKind;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Store, StoreError, Visit};

/// How long a database is waited for that is open still: sled lets go of its lock a moment after
/// it is dropped, when its own threads have.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// A sled database.
pub struct SledStore {
    db: sled::Db,
}

impl SledStore {
    /// Opens or makes the database in a folder. sled may panic on a damaged one; that is an error,
    /// here and in all else.
    ///
    /// # Errors
    /// Where sled can't open it; [`StoreError::is_held`] where somebody else has it open.
    pub fn open(dir: &Path, cache_bytes: u64) -> Result<Self, StoreError> {
        // Our own flushes are the only ones: sled's background flusher logs an error and dies.
        let config = sled::Config::new()
            .path(dir)
            .cache_capacity(cache_bytes)
            .flush_every_ms(None);
        let until = Instant::now() + LOCK_WAIT;
        loop {
            match guarded("open", || config.open()) {
                Ok(db) => return Ok(Self { db }),
                // sled has no other way to say so.
                Err(error) if error.why.contains("could not acquire lock") => {
                    if Instant::now() >= until {
                        return Err(StoreError::held(error.why));
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => return Err(error),
            }
        }
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
            damage: match &error {
                sled::Error::Corruption { .. }
                | sled::Error::ReportableBug(_)
                // Its settings are always the same ones: they read back as others.
                | sled::Error::Unsupported(_)
                | sled::Error::CollectionNotFound(_) => true,
                sled::Error::Io(error) => tells_of_damage(error.kind()),
            },
            why: error.to_string(),
        }),
        Err(_) => Err(StoreError {
            doing,
            why: "sled panicked".to_owned(),
            damage: true,
        }),
    }
}

/// Whether an error is about what stands in sled's files. What the system can't do at the moment (a full
/// disk, too many open files, no permission, a disk that does not answer) has damaged nothing, and a
/// later start may find the state as it was.
fn tells_of_damage(kind: ErrorKind) -> bool {
    matches!(
        kind,
        // sled's own words for what it finds.
        ErrorKind::Other
            | ErrorKind::InvalidData
            | ErrorKind::InvalidInput
            | ErrorKind::UnexpectedEof
            // A file of it is gone, or something else stands in its place.
            | ErrorKind::NotFound
            | ErrorKind::IsADirectory
            | ErrorKind::NotADirectory
    )
}

impl Store for SledStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let value = guarded("get", || self.db.get(key))?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn scan_from(
        &self,
        prefix: &[u8],
        from: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        let mut entries = self.db.range(from..);
        while let Some((key, value)) = guarded("scan", || entries.next().transpose())? {
            if !key.starts_with(prefix) {
                break;
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects: what the system can't do for now is not taken for damage, which would throw the
    /// state away; what sled finds in its files is.
    #[test]
    fn only_what_stands_in_the_files_is_damage() {
        let told = |error: std::io::Error| {
            // As sled gives it the first time, and whenever it is asked again.
            let first = sled::Error::Io(error);
            let again = first.clone();
            let damage = |error| guarded::<()>("put", || Err(error)).unwrap_err().damage;
            assert_eq!(damage(first), damage(again.clone()), "{again}");
            damage(again)
        };
        // EACCES, EIO, EMFILE, ENFILE, ENOMEM, ENOSPC, EROFS, EDQUOT
        for errno in [13, 5, 24, 23, 12, 28, 30, 122] {
            let error = std::io::Error::from_raw_os_error(errno);
            assert!(!told(error), "{errno}");
        }
        for kind in [ErrorKind::Other, ErrorKind::UnexpectedEof] {
            assert!(told(kind.into()), "{kind}");
        }
        let found = sled::Error::ReportableBug(String::new());
        assert!(guarded::<()>("get", || Err(found)).unwrap_err().damage);
        assert!(guarded::<()>("get", || panic!("sled")).unwrap_err().damage);
    }
}
