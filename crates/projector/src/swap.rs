//! Another state in the place of the one that was, in steps of which a crash leaves none half done.
//!
//! ```text
//! state/sled, redo, damaged    the state that is used
//! state/shadow/…               one that is being made, used by nobody
//! state/previous/…             the one that was used before
//! state/swap                   there while the three change places
//! ```
//!
//! The marker is made durable first. From then on the only way is forward: whoever opens the state
//! finishes the steps, each of which can be repeated, and removes it.

use std::io;
use std::path::{Path, PathBuf};

use tally_log::storage::Storage;

use crate::error::StateError;
use crate::identity::{STATE_FILES, STORE};

const SHADOW: &str = "shadow";
const PREVIOUS: &str = "previous";
const MARKER: &str = "swap";
const DISCARDED: &str = "discarded";

/// The folder of the state that is being made.
#[must_use]
pub fn shadow(dir: &Path) -> PathBuf {
    dir.join(SHADOW)
}

/// Whether there is a state to go back to.
///
/// # Errors
/// [`StateError::Redo`].
pub fn has_previous(storage: &dyn Storage, dir: &Path) -> Result<bool, StateError> {
    exists(storage, &dir.join(PREVIOUS).join(STORE))
}

/// Makes the previous state the shadow, so that it can catch up and take its place again. What was the
/// shadow goes.
///
/// # Errors
/// [`StateError::Redo`].
pub fn recall_previous(storage: &dyn Storage, dir: &Path) -> Result<(), StateError> {
    remove_shadow(dir)?;
    rename(storage, &dir.join(PREVIOUS), &dir.join(SHADOW))?;
    sync(storage, dir)
}

/// Removes what was made of a shadow.
///
/// # Errors
/// [`StateError::Redo`].
pub fn remove_shadow(dir: &Path) -> Result<(), StateError> {
    remove_all(&shadow(dir))
}

/// Puts the shadow in the place of the state, which becomes the previous one. Nobody may have either
/// open. Cut short, it is finished by the next opening of the state.
///
/// # Errors
/// [`StateError::Redo`], where it may be tried again; [`StateError::Failed`] where there is no shadow.
pub fn swap(storage: &dyn Storage, dir: &Path) -> Result<(), StateError> {
    if !has_shadow(storage, dir)? {
        return Err(StateError::Failed("there is no rebuilt state".to_owned()));
    }
    let marker = dir.join(MARKER);
    if !exists(storage, &marker)? {
        let create = storage.create(&marker).and_then(|file| file.sync_data());
        create.map_err(failed(&marker, "made"))?;
        sync(storage, dir)?;
    }
    finish(storage, dir)
}

/// Whether a shadow is there that has not taken its place.
pub(crate) fn has_shadow(storage: &dyn Storage, dir: &Path) -> Result<bool, StateError> {
    exists(storage, &shadow(dir).join(STORE))
}

/// Finishes a swap that was cut short, where one was.
pub(crate) fn finish(storage: &dyn Storage, dir: &Path) -> Result<(), StateError> {
    let marker = dir.join(MARKER);
    if !exists(storage, &marker)? {
        return Ok(());
    }
    let (shadow, previous) = (dir.join(SHADOW), dir.join(PREVIOUS));
    let discarded = dir.join(DISCARDED);
    remove_all(&discarded)?;
    // The store goes last on the way in and out: where it is not in the shadow any more, all is done.
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
