//! A store on a simulated disk, no better than it must be: it loses any of the puts that were not
//! flushed, and keeps any others. sled keeps a prefix of them, mostly.
//!
//! One file of puts, each in sectors of its own with a checksum. Opening takes every put that is
//! whole, in the order in which they were made.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tally_log::storage::{File, Storage};
use tally_projector::StoreError;
use tally_projector::store::{Store, Visit};

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

const SECTOR: usize = 512;
const MAGIC: &[u8; 4] = b"PUT1";
const HEADER: usize = 16;
const REMOVED: u32 = u32::MAX;

/// The store; see the [module](self).
pub struct SimStore {
    file: Arc<dyn File>,
    state: Mutex<State>,
}

struct State {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
    end: usize,
}

fn failed(doing: &'static str) -> impl Fn(io::Error) -> StoreError {
    move |error| StoreError {
        doing,
        why: error.to_string(),
        damage: false,
    }
}

/// A put as it stands in the file, and its key and value.
type Put<'a> = (usize, &'a [u8], Option<&'a [u8]>);

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn put_in(bytes: &[u8]) -> Option<Put<'_>> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let check = u32_at(rest, 0)?;
    let key_len = usize::try_from(u32_at(rest, 4)?).ok()?;
    let value_len = u32_at(rest, 8)?;
    let value_bytes = if value_len == REMOVED { 0 } else { value_len };
    let end = HEADER + key_len + usize::try_from(value_bytes).ok()?;
    if crc32c::crc32c(bytes.get(8..end)?) != check {
        return None;
    }
    let (key, value) = bytes.get(HEADER..end)?.split_at(key_len);
    let value = (value_len != REMOVED).then_some(value);
    Some((end.next_multiple_of(SECTOR), key, value))
}

fn encode(key: &[u8], value: Option<&[u8]>) -> Vec<u8> {
    let len = |bytes: &[u8]| u32::try_from(bytes.len()).expect("short");
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&len(key).to_le_bytes());
    bytes.extend_from_slice(&value.map_or(REMOVED, len).to_le_bytes());
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(value.unwrap_or_default());
    let check = crc32c::crc32c(&bytes[8..]);
    bytes[4..8].copy_from_slice(&check.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
    bytes
}

impl SimStore {
    /// Opens or makes the store in a folder.
    ///
    /// # Errors
    /// As the disk says.
    pub fn open(disk: &dyn Storage, dir: &Path) -> Result<Self, StoreError> {
        let failed = failed("open");
        let path = dir.join("puts");
        disk.create_dir_all(dir).map_err(&failed)?;
        let file = if disk.exists(&path).map_err(&failed)? {
            disk.open(&path).map_err(&failed)?
        } else {
            disk.create(&path).map_err(&failed)?
        };
        disk.sync_dir(dir).map_err(&failed)?;
        let len = usize::try_from(file.size().map_err(&failed)?).expect("it is in memory");
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, 0).map_err(&failed)?;
        let mut values = BTreeMap::new();
        let mut at = 0;
        while at < len {
            match put_in(&bytes[at..]) {
                Some((taken, key, Some(value))) => {
                    values.insert(key.to_vec(), value.to_vec());
                    at += taken;
                }
                Some((taken, key, None)) => {
                    values.remove(key);
                    at += taken;
                }
                None => at += SECTOR,
            }
        }
        let end = len.next_multiple_of(SECTOR);
        let state = Mutex::new(State { values, end });
        Ok(Self { file, state })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for SimStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.state().values.get(key).cloned())
    }

    fn scan_from(
        &self,
        prefix: &[u8],
        from: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        let values: Vec<_> = {
            let state = self.state();
            let range = state.values.range(from.to_vec()..);
            let inside = range.take_while(|(key, _)| key.starts_with(prefix));
            inside.map(|(k, v)| (k.clone(), v.clone())).collect()
        };
        values.iter().try_for_each(|(key, value)| visit(key, value))
    }

    fn put(&self, key: &[u8], value: Option<&[u8]>) -> Result<(), StoreError> {
        let mut state = self.state();
        let bytes = encode(key, value);
        let written = self.file.write_all_at(&bytes, state.end as u64);
        written.map_err(failed("put"))?;
        state.end += bytes.len();
        match value {
            Some(value) => state.values.insert(key.to_vec(), value.to_vec()),
            None => state.values.remove(key),
        };
        Ok(())
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.file.sync_data().map_err(failed("flush"))
    }

    fn disk_bytes(&self) -> Result<u64, StoreError> {
        self.file.size().map_err(failed("size"))
    }
}
