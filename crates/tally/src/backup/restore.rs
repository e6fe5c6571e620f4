//! A backup into a data folder.
//!
//! 1. The manifest and every file of the backup are read and their checksums compared; nothing was
//!    written until then.
//! 2. The marker `restoring` is made in the data folder, durably: from here on nobody opens it.
//! 3. What an earlier restore left, that was cut short, is removed; the files are copied, hashed once
//!    more, and synced.
//! 4. The copy is read frame by frame and folded; its digest must be the manifest's.
//! 5. The marker is removed.
//!
//! Killed anywhere, the folder has no data, or the marker, or all of it.

use std::path::Path;
use std::sync::Arc;

use tally_domain::Digest;
use tally_log::storage::Storage;

use super::manifest::{self, CopiedFile, Manifest};
use super::{BackupError, CATALOGUE, KEYS, LOG, Proof, Step, Watch, files, proof};
use crate::data_dir::RESTORING;

/// The folder of the state, which nothing is restored beside.
const STATE: &str = "state";

/// What a restore came to.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) proof: Proof,
    /// The digest is the manifest's; `false` where that is of another version of the fold, and can't
    /// be compared.
    pub(crate) compared: bool,
}

/// Restores the backup in `from`, whose manifest this is, to the data folder `to`, which this process
/// has locked, and proves it.
pub(crate) fn restore(
    storage: &Arc<dyn Storage>,
    (from, manifest): (&Path, &Manifest),
    to: &Path,
    watch: &mut dyn Watch,
) -> Result<Restored, BackupError> {
    let disk = storage.as_ref();
    refuse_taken(disk, to)?;
    watch.begins(Step::Checking, manifest.bytes());
    for file in &manifest.files {
        check(disk, from, file, watch)?;
    }
    mark(disk, to)?;
    clear(disk, to)?;
    watch.begins(Step::Copying, manifest.bytes());
    for file in &manifest.files {
        copy(disk, from, file, to, watch)?;
    }
    for dir in [to.join(LOG), to.join(CATALOGUE), to.to_owned()] {
        let synced = disk.sync_dir(&dir);
        synced.map_err(BackupError::io("synced", &dir))?;
    }
    let proof = proof::prove(storage, to, &manifest.logs, manifest.bytes(), watch)?;
    let compared = manifest.digest.parse::<Digest>().ok();
    if let Some(digest) = compared.filter(|digest| *digest != proof.digest) {
        return Err(BackupError::NotProven {
            dir: to.to_owned(),
            what: format!(
                "it folds to {}, and the log that was copied to {digest}",
                proof.digest
            ),
        });
    }
    unmark(disk, to)?;
    Ok(Restored {
        proof,
        compared: compared.is_some(),
    })
}

/// Refuses a folder with data, unless they are those of a restore that was cut short.
fn refuse_taken(storage: &dyn Storage, to: &Path) -> Result<(), BackupError> {
    let there = |name: &str| {
        let path = to.join(name);
        storage
            .exists(&path)
            .map_err(BackupError::io("looked for", &path))
    };
    let ours = there(RESTORING)?;
    for name in [STATE, LOG, CATALOGUE, KEYS] {
        if there(name)? && (name == STATE || !ours) {
            return Err(BackupError::Taken {
                dir: to.to_owned(),
                name,
            });
        }
    }
    Ok(())
}

/// Compares a file of the backup with its checksum.
fn check(
    storage: &dyn Storage,
    from: &Path,
    file: &CopiedFile,
    watch: &mut dyn Watch,
) -> Result<(), BackupError> {
    let path = manifest::below(from, file);
    let opened = storage.open_to_read(&path);
    let opened = opened.map_err(BackupError::io("read", &path))?;
    let size = opened.size().map_err(BackupError::io("read", &path))?;
    if size != file.bytes {
        let what = format!("it has {size} bytes, not {}", file.bytes);
        return Err(BackupError::damaged(&path, what));
    }
    same(
        &path,
        file,
        &files::hash((opened.as_ref(), &path), size, watch)?,
    )
}

fn same(path: &Path, file: &CopiedFile, sha256: &str) -> Result<(), BackupError> {
    if sha256 == file.sha256 {
        return Ok(());
    }
    Err(BackupError::damaged(path, "its checksum is wrong"))
}

fn copy(
    storage: &dyn Storage,
    from: &Path,
    file: &CopiedFile,
    to: &Path,
    watch: &mut dyn Watch,
) -> Result<(), BackupError> {
    let (source, target) = (manifest::below(from, file), manifest::below(to, file));
    if let Some(dir) = target.parent() {
        let made = storage.create_dir_all(dir);
        made.map_err(BackupError::io("made", dir))?;
    }
    let opened = storage.open_to_read(&source);
    let opened = opened.map_err(BackupError::io("read", &source))?;
    let from = (opened.as_ref(), source.as_path());
    let sha256 = files::copy(storage, from, file.bytes, &target, watch)?;
    // It may have changed since it was checked.
    same(&source, file, &sha256)
}

/// Keeps everybody from opening the folder, durably.
fn mark(storage: &dyn Storage, to: &Path) -> Result<(), BackupError> {
    let marker = to.join(RESTORING);
    let failed = BackupError::io("made", &marker);
    if !storage.exists(&marker).map_err(&failed)? {
        storage.create(&marker).map_err(&failed)?;
    }
    storage.sync_dir(to).map_err(&failed)
}

fn unmark(storage: &dyn Storage, to: &Path) -> Result<(), BackupError> {
    let marker = to.join(RESTORING);
    let removed = storage.remove(&marker);
    removed
        .and_then(|()| storage.sync_dir(to))
        .map_err(BackupError::io("removed", &marker))
}

/// Removes what a restore left that was cut short.
fn clear(storage: &dyn Storage, to: &Path) -> Result<(), BackupError> {
    let remove = |path: &Path| {
        let removed = storage.remove(path);
        removed.map_err(BackupError::io("removed", path))
    };
    let there = |path: &Path| {
        let there = storage.exists(path);
        there.map_err(BackupError::io("looked for", path))
    };
    for dir in [to.join(LOG), to.join(CATALOGUE)] {
        if there(&dir)? {
            let names = storage.list(&dir);
            for name in names.map_err(BackupError::io("listed", &dir))? {
                remove(&dir.join(name))?;
            }
        }
    }
    let keys = to.join(KEYS);
    if there(&keys)? {
        remove(&keys)?;
    }
    Ok(())
}
