//! Another state in the place of the one that was, in steps of which a crash leaves none half done.
//!
//! ```text
//! state/sled, redo, damaged    the state that is used
//! state/shadow/…               one that is being made, used by nobody
//! state/recalled/…             the one that was used before, while it catches up
//! state/…/ready                in either: it may take its place
//! state/previous/…             the one that was used before
//! state/swap                   there while they change places; it names the incoming one
//! ```
//!
//! The marker is made durable first. From then on the only way is forward: whoever opens the state
//! finishes the steps, each of which can be repeated, and removes it.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tally_log::storage::Storage;

use crate::error::StateError;
use crate::identity::{STATE_FILES, STORE};

const PREVIOUS: &str = "previous";
const MARKER: &str = "swap";
const DISCARDED: &str = "discarded";
const READY: &str = "ready";

/// A state that is to take the place of the one that is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Incoming {
    /// One that is folded from the log's beginning.
    Shadow,
    /// The one that was used before, which catches up.
    Recalled,
}

impl Incoming {
    const ALL: [Self; 2] = [Self::Shadow, Self::Recalled];

    fn name(self) -> &'static str {
        match self {
            Self::Shadow => "shadow",
            Self::Recalled => "recalled",
        }
    }

    /// Its folder in the state's.
    #[must_use]
    pub fn dir(self, state: &Path) -> PathBuf {
        state.join(self.name())
    }

    /// It is whole, written down and closed: it may take its place.
    ///
    /// # Errors
    /// [`StateError::Redo`].
    pub fn set_ready(self, storage: &dyn Storage, state: &Path) -> Result<(), StateError> {
        let (dir, mark) = (self.dir(state), self.dir(state).join(READY));
        if !exists(storage, &mark)? {
            let create = storage.create(&mark).and_then(|file| file.sync_data());
            create.map_err(failed(&mark, "made"))?;
        }
        sync(storage, &dir)
    }

    /// It is worked on: it may not take its place.
    ///
    /// # Errors
    /// [`StateError::Redo`].
    pub fn set_unready(self, storage: &dyn Storage, state: &Path) -> Result<(), StateError> {
        let (dir, mark) = (self.dir(state), self.dir(state).join(READY));
        if exists(storage, &mark)? {
            storage.remove(&mark).map_err(failed(&mark, "removed"))?;
            sync(storage, &dir)?;
        }
        Ok(())
    }

    pub(crate) fn is_ready(self, storage: &dyn Storage, state: &Path) -> Result<bool, StateError> {
        let dir = self.dir(state);
        Ok(exists(storage, &dir.join(STORE))? && exists(storage, &dir.join(READY))?)
    }

    /// Removes it.
    ///
    /// # Errors
    /// [`StateError::Redo`].
    pub fn remove(self, state: &Path) -> Result<(), StateError> {
        remove_all(&self.dir(state))
    }
}

/// Takes the previous state out, so that it can catch up and take its place again. Where that was begun
/// before and not ended, it goes on. `false` where there is none.
///
/// # Errors
/// [`StateError::Redo`].
pub fn recall_previous(storage: &dyn Storage, dir: &Path) -> Result<bool, StateError> {
    let (previous, recalled) = (dir.join(PREVIOUS), Incoming::Recalled.dir(dir));
    if exists(storage, &previous.join(STORE))? {
        // One that was recalled before is older.
        remove_all(&recalled)?;
        rename(storage, &previous, &recalled)?;
        sync(storage, dir)?;
        return Ok(true);
    }
    exists(storage, &recalled.join(STORE))
}

/// Puts the incoming state in the place of the state, which becomes the previous one. Nobody may have
/// either open. Cut short, it is finished by the next opening of the state.
///
/// # Errors
/// [`StateError::Redo`], where it may be tried again; [`StateError::Failed`] where none is ready.
pub fn swap(storage: &dyn Storage, dir: &Path, incoming: Incoming) -> Result<(), StateError> {
    if !incoming.is_ready(storage, dir)? {
        return Err(not_ready());
    }
    let marker = dir.join(MARKER);
    let mark = || {
        let file = storage.create(&marker)?;
        file.write_all_at(incoming.name().as_bytes(), 0)?;
        file.sync_data()
    };
    if !exists(storage, &marker)? {
        mark().map_err(failed(&marker, "made"))?;
        sync(storage, dir)?;
    }
    finish(storage, dir)
}

pub(crate) fn not_ready() -> StateError {
    StateError::Failed("there is no state that is ready to take its place".to_owned())
}

/// Which state the marker names; `None` where it was not written to its end, and so nothing was moved.
fn marked(storage: &dyn Storage, marker: &Path) -> Result<Option<Incoming>, StateError> {
    let read = || {
        let file = storage.open_to_read(marker)?;
        let mut name = vec![0; usize::try_from(file.size()?.min(64)).unwrap_or_default()];
        file.read_exact_at(&mut name, 0)?;
        Ok(name)
    };
    let name = read().map_err(failed(marker, "read"))?;
    let mut all = Incoming::ALL.into_iter();
    Ok(all.find(|incoming| incoming.name().as_bytes() == name))
}

/// Finishes a swap that was cut short, where one was.
pub(crate) fn finish(storage: &dyn Storage, dir: &Path) -> Result<(), StateError> {
    let marker = dir.join(MARKER);
    if !exists(storage, &marker)? {
        return Ok(());
    }
    let Some(incoming) = marked(storage, &marker)? else {
        storage
            .remove(&marker)
            .map_err(failed(&marker, "removed"))?;
        return sync(storage, dir);
    };
    let (shadow, previous) = (incoming.dir(dir), dir.join(PREVIOUS));
    let discarded = dir.join(DISCARDED);
    remove_all(&discarded)?;
    // The store goes last on the way in and out: where it is not in the incoming one any more, all is done.
    if exists(storage, &shadow.join(STORE))? {
        if exists(storage, &dir.join(STORE))? {
            if exists(storage, &previous.join(STORE))? {
                // At once, so that nothing of it is left for the one that comes into its place.
                rename(storage, &previous, &discarded)?;
                sync(storage, dir)?;
                remove_all(&discarded)?;
            }
            storage
                .create_dir_all(&previous)
                .map_err(failed(&previous, "made"))?;
            move_files(storage, dir, &previous)?;
        }
        move_files(storage, &shadow, dir)?;
    }
    remove_all(&shadow)?;
    storage
        .remove(&marker)
        .map_err(failed(&marker, "removed"))?;
    sync(storage, dir)?;
    tracing::info!("another state has taken the place of the one before, which is kept");
    Ok(())
}

/// Moves what a state consists of, its store last.
fn move_files(storage: &dyn Storage, from: &Path, to: &Path) -> Result<(), StateError> {
    for name in STATE_FILES.iter().rev() {
        let path = from.join(name);
        if exists(storage, &path)? {
            rename(storage, &path, &to.join(name))?;
        }
        sync(storage, to)?;
        sync(storage, from)?;
    }
    Ok(())
}

fn failed<'a>(path: &'a Path, doing: &'static str) -> impl FnOnce(io::Error) -> StateError + 'a {
    move |cause| StateError::Redo {
        path: path.display().to_string(),
        doing,
        cause,
    }
}

fn exists(storage: &dyn Storage, path: &Path) -> Result<bool, StateError> {
    storage.exists(path).map_err(failed(path, "looked for"))
}

fn rename(storage: &dyn Storage, from: &Path, to: &Path) -> Result<(), StateError> {
    storage.rename(from, to).map_err(failed(from, "moved"))
}

fn sync(storage: &dyn Storage, dir: &Path) -> Result<(), StateError> {
    storage.sync_dir(dir).map_err(failed(dir, "synced"))
}

/// Removes a folder of the file system: the store in it is there itself, whatever the storage is.
fn remove_all(dir: &Path) -> Result<(), StateError> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(dir, "removed")(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}
