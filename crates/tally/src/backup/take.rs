//! An installation into a backup, while it serves.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tally_domain::EventTime;
use tally_log::embedded::{LogFile, LogView};
use tally_log::storage::Storage;
use tally_projector::verify::VerifyError;

use super::manifest::{CopiedFile, CopiedLog, CopiedLogs, Manifest};
use super::{BackupError, CATALOGUE, KEYS, LOG, Proof, Step, Watch, files, proof};

/// What is copied.
pub(crate) struct Installation {
    /// When its heads were asked for.
    pub(crate) at: EventTime,
    /// The log of interactions, shown up to its heads.
    pub(crate) interactions: LogView,
    /// The catalogue's, shown up to heads that it had later than that.
    pub(crate) catalogue: LogView,
    /// The file of API keys, which need not be there.
    pub(crate) keys: Option<PathBuf>,
}

/// Refuses a folder for a backup that is not empty.
pub(crate) fn refuse_used(storage: &dyn Storage, to: &Path) -> Result<(), BackupError> {
    match storage.list(to) {
        Ok(names) if names.is_empty() => Ok(()),
        Ok(_) => Err(BackupError::Used {
            path: to.to_owned(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(cause) => Err(BackupError::io("listed (--to)", to)(cause)),
    }
}

/// Copies all of it into `to`, which is empty or not there, durably, and proves the copy. Cut short, it
/// leaves a folder that is no backup.
pub(crate) fn take(
    storage: &Arc<dyn Storage>,
    from: &Installation,
    to: &Path,
    watch: &mut dyn Watch,
) -> Result<(Manifest, Proof), BackupError> {
    refuse_used(storage.as_ref(), to)?;
    let logs = CopiedLogs {
        interactions: copied(&from.interactions)?,
        catalogue: copied(&from.catalogue)?,
    };
    let mut plan = Vec::new();
    for (folder, view) in [(LOG, &from.interactions), (CATALOGUE, &from.catalogue)] {
        let files = view.files()?;
        plan.extend(files.into_iter().map(|file| (folder, file)));
    }
    let bytes = plan.iter().map(|(_, file)| file.bytes).sum();
    watch.begins(Step::Copying, bytes);
    let made = |dir: &Path| {
        let made = storage.create_dir_all(dir);
        made.map_err(BackupError::io("made", dir))
    };
    made(to)?;
    let mut copies = Vec::new();
    for (folder, file) in &plan {
        let dir = to.join(folder);
        made(&dir)?;
        copies.push(copy(storage.as_ref(), folder, file, &dir, watch)?);
    }
    copies.extend(copy_keys(
        storage.as_ref(),
        from.keys.as_deref(),
        to,
        watch,
    )?);
    for dir in [to.join(LOG), to.join(CATALOGUE), to.to_owned()] {
        let synced = storage.sync_dir(&dir);
        synced.map_err(BackupError::io("synced", &dir))?;
    }
    let proof = proof::prove(storage, to, &logs, bytes, watch)?;
    let manifest = Manifest::new(from.at, proof.digest.to_string(), logs, copies);
    manifest.write(storage.as_ref(), to)?;
    Ok((Manifest::read(storage.as_ref(), to)?, proof))
}

/// What a view shows of a log, all of it from its beginning.
fn copied(view: &LogView) -> Result<CopiedLog, BackupError> {
    let log = view.log();
    let cut = (0..).zip(log.first()?).find(|(_, first)| *first > 0);
    if let Some((partition, first)) = cut {
        return Err(VerifyError::Truncated { partition, first }.into());
    }
    let identity = log.identity();
    Ok(CopiedLog {
        id: identity.id,
        partitions: identity.partitions,
        next_offsets: log.head()?,
    })
}

fn copy(
    storage: &dyn Storage,
    folder: &str,
    LogFile { path, bytes }: &LogFile,
    dir: &Path,
    watch: &mut dyn Watch,
) -> Result<CopiedFile, BackupError> {
    let name = path.file_name().unwrap_or_default();
    let file = storage.open_to_read(path);
    let file = file.map_err(BackupError::io("opened", path))?;
    let from = (file.as_ref(), path.as_path());
    Ok(CopiedFile {
        sha256: files::copy(storage, from, *bytes, &dir.join(name), watch)?,
        path: format!("{folder}/{}", name.to_string_lossy()),
        bytes: *bytes,
    })
}

/// Copies the keys as they are now; whoever changes them puts a whole file in place of the other.
fn copy_keys(
    storage: &dyn Storage,
    keys: Option<&Path>,
    to: &Path,
    watch: &mut dyn Watch,
) -> Result<Option<CopiedFile>, BackupError> {
    let Some(keys) = keys else {
        return Ok(None);
    };
    let file = match storage.open_to_read(keys) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(BackupError::io("opened", keys))?,
    };
    let bytes = file.size().map_err(BackupError::io("read", keys))?;
    let sha256 = files::copy(storage, (file.as_ref(), keys), bytes, &to.join(KEYS), watch)?;
    Ok(Some(CopiedFile {
        path: KEYS.to_owned(),
        bytes,
        sha256,
    }))
}
