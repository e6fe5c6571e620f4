//! Another state in the place of the one that was, in steps of which a crash leaves none half done.
//!
//! ```text
//! state/sled, redo, damaged    the state that is used
//! state/shadow/…               one that is being made, used by nobody
//! state/seeded/…               one of which a single partition is being made, used by nobody
//! state/recalled/…             the one that was used before, while it catches up
//! state/…/ready                in any of these: it may take its place
//! state/previous/…             the one that was used before
//! state/rebuild.lock           held by whoever makes a state beside the one that is used
//! state/swap                   there while they change places; it names the incoming one
//! state/retake                 from then on until snapshots were taken: those there are are of another state
//! ```
//!
//! The marker is made durable first. From then on the only way is forward: whoever opens the state
//! finishes the steps, each of which can be repeated, and removes it.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tally_log::storage::{Lock, Storage};

use crate::error::StateError;
use crate::identity::{STATE_FILES, STORE};
use crate::mark::Mark;

const PREVIOUS: &str = "previous";
const MARKER: &str = "swap";
const DISCARDED: &str = "discarded";
const READY: &str = "ready";
const RETAKE: &str = "retake";
const ALONE: &str = "rebuild.lock";

/// A state that is to take the place of the one that is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Incoming {
    /// One that is folded from the log's beginning.
    Shadow,
    /// One of which a single partition is folded from the log's beginning, and the rest is the stored
    /// state's; see [`Projector::seed`](crate::Projector::seed).
    Seeded,
    /// The one that was used before, which catches up.
    Recalled,
}

impl Incoming {
    const ALL: [Self; 3] = [Self::Shadow, Self::Seeded, Self::Recalled];

    fn name(self) -> &'static str {
        match self {
            Self::Shadow => "shadow",
            Self::Seeded => "seeded",
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
        Mark::new(storage, &self.dir(state), READY).set("")
    }

    /// It is worked on: it may not take its place.
    ///
    /// # Errors
    /// [`StateError::Redo`].
    pub fn set_unready(self, storage: &dyn Storage, state: &Path) -> Result<(), StateError> {
        Mark::new(storage, &self.dir(state), READY).remove()
    }

    pub(crate) fn is_ready(self, storage: &dyn Storage, state: &Path) -> Result<bool, StateError> {
        let dir = self.dir(state);
        Ok(exists(storage, &dir.join(STORE))? && Mark::new(storage, &dir, READY).is_set()?)
    }

    /// Removes it.
    ///
    /// # Errors
    /// [`StateError::Redo`].
    pub fn remove(self, state: &Path) -> Result<(), StateError> {
        remove_all(&self.dir(state))
    }
}

/// The right to make a state beside the one that is used; `None` where somebody else has it.
///
/// # Errors
/// [`StateError::Redo`].
pub fn alone(storage: &dyn Storage, dir: &Path) -> Result<Option<Box<dyn Lock>>, StateError> {
    let path = dir.join(ALONE);
    let lock = storage.lock(&path);
    lock.map_err(StateError::file(&path, "locked"))
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
    Mark::new(storage, dir, MARKER).set(incoming.name())?;
    finish(storage, dir)
}

pub(crate) fn not_ready() -> StateError {
    StateError::Failed("there is no state that is ready to take its place".to_owned())
}

/// Finishes a swap that was cut short, where one was.
pub(crate) fn finish(storage: &dyn Storage, dir: &Path) -> Result<(), StateError> {
    let marker = Mark::new(storage, dir, MARKER);
    let Some(name) = marker.text()? else {
        return Ok(());
    };
    let mut all = Incoming::ALL.into_iter();
    let Some(incoming) = all.find(|incoming| incoming.name() == name) else {
        // It was not written to its end, and so nothing was moved.
        return marker.remove();
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
                .map_err(StateError::file(&previous, "made"))?;
            move_files(storage, dir, &previous)?;
        }
        move_files(storage, &shadow, dir)?;
    }
    remove_all(&shadow)?;
    retake(storage, dir).set("")?;
    marker.remove()?;
    tracing::info!("another state has taken the place of the one before, which is kept");
    Ok(())
}

/// The mark that says that the snapshots there are were taken from another state, which may have been wrong.
pub(crate) fn retake<'a>(storage: &'a dyn Storage, dir: &'a Path) -> Mark<'a> {
    Mark::new(storage, dir, RETAKE)
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

fn exists(storage: &dyn Storage, path: &Path) -> Result<bool, StateError> {
    storage
        .exists(path)
        .map_err(StateError::file(path, "looked for"))
}

fn rename(storage: &dyn Storage, from: &Path, to: &Path) -> Result<(), StateError> {
    storage
        .rename(from, to)
        .map_err(StateError::file(from, "moved"))
}

fn sync(storage: &dyn Storage, dir: &Path) -> Result<(), StateError> {
    storage
        .sync_dir(dir)
        .map_err(StateError::file(dir, "synced"))
}

/// Removes a folder of the file system: the store in it is there itself, whatever the storage is.
fn remove_all(dir: &Path) -> Result<(), StateError> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StateError::file(dir, "removed")(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
