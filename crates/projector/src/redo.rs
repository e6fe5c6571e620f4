//! The redo file: what makes a checkpoint one crash-atomic unit.
//!
//! The store takes plain puts, so a crash may leave some of a checkpoint there and some not. Thus
//! all of it is first written to one file: synced, renamed to its name, and only then put into
//! the store; the file goes once the store is flushed. Found at start, it is put again: puts of
//! whole values can be repeated. (A write-ahead log of one transaction; Mohan et al., ARIES, 1992,
//! call it redo-only.)
//!
//! Layout, little endian:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `TALLYRD1` |
//! | 8 | length of the puts in bytes |
//! | n | puts: key length u16, value length u32 (`ffffffff`: remove the key), key, value |
//! | 32 | BLAKE3 of all before |

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use tally_log::storage::Storage;

use crate::error::StateError;
use crate::store::{PUTS_PER_FLUSH, Store, StoreError, values};

const MAGIC: &[u8; 8] = b"TALLYRD1";
const HEADER: usize = 16;
/// Bytes of a put before its key.
const PUT: usize = 6;
const REMOVE: u32 = u32::MAX;

/// The puts of one checkpoint, encoded.
#[derive(Debug, Clone)]
pub struct Redo {
    bytes: Vec<u8>,
    puts: u64,
    changed: usize,
}

impl Default for Redo {
    fn default() -> Self {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&[0; 8]);
        Self {
            bytes,
            puts: 0,
            changed: 0,
        }
    }
}

impl Redo {
    /// Adds a put, or a removal where `value` is `None`.
    pub fn put(&mut self, key: &[u8], value: Option<&[u8]>) {
        // Keys are at most 142 bytes and values a few MiB: see the store's layout.
        let key_len = u16::try_from(key.len()).unwrap_or(u16::MAX);
        let value_len = value.map_or(REMOVE, |v| u32::try_from(v.len()).unwrap_or(REMOVE - 1));
        self.bytes.extend_from_slice(&key_len.to_le_bytes());
        self.bytes.extend_from_slice(&value_len.to_le_bytes());
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value.unwrap_or_default());
        self.puts += 1;
    }

    /// How many puts.
    #[must_use]
    pub fn puts(&self) -> u64 {
        self.puts
    }

    /// Adds to how many changed values it has: a put may have many of them.
    pub fn add_changed(&mut self, values: usize) {
        self.changed = self.changed.saturating_add(values);
    }

    /// How many changed values it has. Of a file that is not known.
    #[must_use]
    pub fn changed(&self) -> usize {
        self.changed
    }

    /// How many bytes of puts.
    #[must_use]
    pub fn byte_len(&self) -> u64 {
        u64::try_from(self.bytes.len().saturating_sub(HEADER)).unwrap_or(u64::MAX)
    }

    /// The whole file.
    #[must_use]
    pub fn to_file(&self) -> Vec<u8> {
        let (header, check) = self.ends();
        let puts = self.bytes.get(HEADER..).unwrap_or_default();
        [&header, puts, &check].concat()
    }

    /// What stands in the file before the puts, and after.
    fn ends(&self) -> ([u8; HEADER], [u8; 32]) {
        let mut header = [0; HEADER];
        let (magic, length) = header.split_at_mut(MAGIC.len());
        magic.copy_from_slice(MAGIC);
        length.copy_from_slice(&self.byte_len().to_le_bytes());
        let mut check = blake3::Hasher::new();
        check.update(&header);
        check.update(self.bytes.get(HEADER..).unwrap_or_default());
        (header, *check.finalize().as_bytes())
    }

    /// From the whole file; `None` where it is not one, whole.
    #[must_use]
    pub fn from_file(mut file: Vec<u8>) -> Option<Self> {
        let (body, check) = file.split_last_chunk::<32>()?;
        let length = body.strip_prefix(MAGIC)?.first_chunk::<8>()?;
        let whole = u64::try_from(body.len().checked_sub(HEADER)?).ok()?;
        if u64::from_le_bytes(*length) != whole || blake3::hash(body) != *check {
            return None;
        }
        file.truncate(file.len() - 32);
        let mut redo = Self {
            bytes: file,
            puts: 0,
            changed: 0,
        };
        let (mut puts, mut read) = (0, HEADER);
        for (key, value) in redo.iter() {
            puts += 1;
            read += PUT + key.len() + value.map_or(0, <[u8]>::len);
        }
        // Puts that do not fill it are not those that were written, whatever the checksum says.
        if read != redo.bytes.len() {
            return None;
        }
        redo.puts = puts;
        Some(redo)
    }

    /// The puts, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        let mut rest = self.bytes.get(HEADER..).unwrap_or_default();
        std::iter::from_fn(move || {
            let (key_len, tail) = rest.split_first_chunk::<2>()?;
            let (value_len, tail) = tail.split_first_chunk::<4>()?;
            let (key, tail) = tail.split_at_checked(usize::from(u16::from_le_bytes(*key_len)))?;
            let value_len = u32::from_le_bytes(*value_len);
            if value_len == REMOVE {
                rest = tail;
                return Some((key, None));
            }
            let (value, tail) = tail.split_at_checked(usize::try_from(value_len).ok()?)?;
            rest = tail;
            Some((key, Some(value)))
        })
    }

    /// The same without the puts that later ones overwrite; the others stay in their order. What
    /// those changed counts still, but not for more than the puts that stay have values.
    #[must_use]
    pub fn last_puts(&self) -> Self {
        let last: HashMap<_, _> = (0u64..)
            .zip(self.iter())
            .map(|(number, (key, _))| (key, number))
            .collect();
        let mut redo = Self::default();
        for (number, (key, value)) in (0u64..).zip(self.iter()) {
            if last.get(key) == Some(&number) {
                redo.put(key, value);
                redo.add_changed(values::count_in(key, value));
            }
        }
        redo.changed = redo.changed.min(self.changed);
        redo
    }

    /// Puts everything into the store and flushes it.
    ///
    /// # Errors
    /// Where the store fails; it is then to be opened anew, and the redo to be put again.
    pub fn apply(&self, store: &dyn Store) -> Result<(), StoreError> {
        for (number, (key, value)) in (1u64..).zip(self.iter()) {
            store.put(key, value)?;
            if number.is_multiple_of(PUTS_PER_FLUSH) {
                store.flush()?;
            }
        }
        store.flush()
    }
}

/// The place of the redo file, in the state's folder.
pub struct RedoFile<'a> {
    storage: &'a dyn Storage,
    dir: &'a Path,
}

impl<'a> RedoFile<'a> {
    /// The redo file in a folder.
    #[must_use]
    pub fn new(storage: &'a dyn Storage, dir: &'a Path) -> Self {
        Self { storage, dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.join("redo")
    }

    /// Writes it so that it is there whole, or not at all, whenever the machine stops.
    ///
    /// # Errors
    /// [`StateError::Redo`]; then it is not there.
    pub fn write(&self, redo: &Redo) -> Result<(), StateError> {
        let path = self.path();
        let failed = StateError::file(&path, "written");
        let draft = self.dir.join("redo.tmp");
        if self.storage.exists(&draft).map_err(&failed)? {
            self.storage.remove(&draft).map_err(&failed)?;
        }
        let file = self.storage.create(&draft).map_err(&failed)?;
        // In parts, as a copy of the whole takes as much memory again.
        let (header, check) = redo.ends();
        let puts = redo.bytes.get(HEADER..).unwrap_or_default();
        let mut at = 0;
        for part in [header.as_slice(), puts, &check] {
            file.write_all_at(part, at).map_err(&failed)?;
            at += u64::try_from(part.len()).unwrap_or(0);
        }
        file.sync_data().map_err(&failed)?;
        self.storage.rename(&draft, &path).map_err(&failed)?;
        self.storage.sync_dir(self.dir).map_err(&failed)
    }

    /// What it holds, where it is there; and then its name is durable. Whoever wrote it may have been
    /// killed before it was, or the folder's sync may have failed: put into the store and then lost in
    /// a power cut, it would leave half a checkpoint there and nothing to finish it from.
    ///
    /// # Errors
    /// [`StateError::Redo`], and [`StateError::Damaged`] where it is not whole.
    pub fn read(&self) -> Result<Option<Redo>, StateError> {
        let path = self.path();
        let failed = StateError::file(&path, "read");
        if !self.storage.exists(&path).map_err(&failed)? {
            return Ok(None);
        }
        let file = self.storage.open(&path).map_err(&failed)?;
        let length = file.size().map_err(&failed)?;
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        file.read_exact_at(&mut bytes, 0).map_err(&failed)?;
        match Redo::from_file(bytes) {
            Some(redo) => {
                self.storage.sync_dir(self.dir).map_err(&failed)?;
                Ok(Some(redo))
            }
            None => Err(StateError::Damaged(format!(
                "{} is not whole",
                path.display()
            ))),
        }
    }

    /// Removes it, once the store has what it holds.
    ///
    /// # Errors
    /// [`StateError::Redo`].
    pub fn remove(&self) -> Result<(), StateError> {
        let path = self.path();
        let failed = StateError::file(&path, "removed");
        self.storage.remove(&path).map_err(&failed)?;
        self.storage.sync_dir(self.dir).map_err(&failed)
    }
}
