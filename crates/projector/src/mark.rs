//! A small file that says something by being there, durably.

use std::io;
use std::path::{Path, PathBuf};

use tally_log::storage::Storage;

use crate::error::StateError;

/// Longer than any text of ours.
const MAX_BYTES: u64 = 64 << 10;

/// A mark's place.
pub(crate) struct Mark<'a> {
    storage: &'a dyn Storage,
    dir: &'a Path,
    path: PathBuf,
}

impl<'a> Mark<'a> {
    pub(crate) fn new(storage: &'a dyn Storage, dir: &'a Path, name: &str) -> Self {
        let path = dir.join(name);
        Self { storage, dir, path }
    }

    /// Puts it there with a text; the first one stays.
    pub(crate) fn set(&self, text: &str) -> Result<(), StateError> {
        let set = || {
            if !self.storage.exists(&self.path)? {
                let file = self.storage.create(&self.path)?;
                file.write_all_at(text.as_bytes(), 0)?;
                file.sync_data()?;
            }
            self.storage.sync_dir(self.dir)
        };
        set().map_err(StateError::file(&self.path, "made"))
    }

    /// Whether it is there.
    pub(crate) fn is_set(&self) -> Result<bool, StateError> {
        let there = self.storage.exists(&self.path);
        there.map_err(StateError::file(&self.path, "looked for"))
    }

    /// Its text, where it is there.
    pub(crate) fn text(&self) -> Result<Option<String>, StateError> {
        let read = || {
            if !self.storage.exists(&self.path)? {
                return Ok::<_, io::Error>(None);
            }
            let file = self.storage.open_to_read(&self.path)?;
            let len = file.size()?.min(MAX_BYTES);
            let mut text = vec![0; usize::try_from(len).unwrap_or_default()];
            file.read_exact_at(&mut text, 0)?;
            Ok(Some(String::from_utf8_lossy(&text).into_owned()))
        };
        read().map_err(StateError::file(&self.path, "read"))
    }

    /// Takes it away, where it is there.
    pub(crate) fn remove(&self) -> Result<(), StateError> {
        if !self.is_set()? {
            return Ok(());
        }
        let removed = self.storage.remove(&self.path);
        let durable = removed.and_then(|()| self.storage.sync_dir(self.dir));
        durable.map_err(StateError::file(&self.path, "removed"))
    }
}
