//! State that can't be used is set aside, for whoever wants to know why; a few of them, as each is
//! as large as the state.

use std::path::{Path, PathBuf};

use tally_log::storage::Storage;

use crate::error::StateError;
use crate::metrics::unix_seconds;

/// What the folders' names begin with; the time follows, in seconds since 1970, and a number where
/// there are several of one second.
const PREFIX: &str = "set-aside-";

/// How many older ones stay besides the one just set aside.
const KEPT: usize = 1;

/// Moves what has these names in `dir` to a new folder there, and removes the oldest such folders.
///
/// # Errors
/// [`StateError::Redo`] where it can't be moved. That an old one can't be removed is logged.
pub(crate) fn set_aside(
    storage: &dyn Storage,
    dir: &Path,
    names: &[&str],
) -> Result<PathBuf, StateError> {
    let failed = StateError::file(dir, "set aside");
    let now = unix_seconds();
    let mut aside = dir.join(format!("{PREFIX}{now}"));
    for again in 2..1_000 {
        if !storage.exists(&aside).map_err(&failed)? {
            break;
        }
        aside = dir.join(format!("{PREFIX}{now}-{again}"));
    }
    storage.create_dir_all(&aside).map_err(&failed)?;
    for name in names {
        let from = dir.join(name);
        if storage.exists(&from).map_err(&failed)? {
            storage.rename(&from, &aside.join(name)).map_err(&failed)?;
        }
    }
    storage.sync_dir(dir).map_err(&failed)?;
    remove_old(storage, dir, &aside);
    Ok(aside)
}

/// Removes all but the newest and `just_made`, which may not be it where the clock was set back.
fn remove_old(storage: &dyn Storage, dir: &Path, just_made: &Path) {
    let names = match storage.list(dir) {
        Ok(names) => names,
        Err(error) => {
            tracing::warn!(error = %error, "states set aside before can't be listed");
            return;
        }
    };
    let mut older: Vec<_> = names
        .into_iter()
        .filter_map(|name| Some((made(&name)?, dir.join(name))))
        .filter(|(_, path)| path != just_made)
        .collect();
    older.sort_unstable();
    for (_, path) in older.iter().rev().skip(KEPT) {
        // The store in it is on the file system itself too, whatever the storage is.
        match std::fs::remove_dir_all(path) {
            Ok(()) => tracing::info!(path = %path.display(), "an old state set aside is removed"),
            Err(error) => tracing::warn!(
                error = %error,
                path = %path.display(),
                "an old state set aside can't be removed"
            ),
        }
    }
}

/// When a folder of that name was made: the second, and which one of it. `None` where it is not
/// one of ours.
fn made(name: &Path) -> Option<(u64, u32)> {
    let made = name.to_str()?.strip_prefix(PREFIX)?;
    let (second, again) = made.split_once('-').unwrap_or((made, "1"));
    Some((second.parse().ok()?, again.parse().ok()?))
}
