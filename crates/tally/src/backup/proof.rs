//! The proof of a copy: it is whole, frame by frame, ends where it shall, and folds.

use std::path::Path;
use std::sync::Arc;

use tally_domain::Digest;
use tally_ingress::auth::KeysFile;
use tally_ingress::catalogue::Catalogue;
use tally_log::embedded::{LogView, check_copy};
use tally_log::storage::Storage;
use tally_log::{EventLog, LogMetrics};
use tally_projector::verify;

use super::manifest::{CopiedLog, CopiedLogs};
use super::{BackupError, CATALOGUE, KEYS, LOG, Step, Watch};

/// What a copy was found to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proof {
    /// Of the state that the log of interactions folds to.
    pub(crate) digest: Digest,
    /// How many resources exist by the catalogue.
    pub(crate) resources: usize,
}

/// Reads all of the copy in `dir`, and folds it in memory, a partition at a time. Nothing is written there.
pub(super) fn prove(
    storage: &Arc<dyn Storage>,
    dir: &Path,
    logs: &CopiedLogs,
    bytes: u64,
    watch: &mut dyn Watch,
) -> Result<Proof, BackupError> {
    watch.begins(Step::Reading, bytes);
    for (folder, log) in logs.folders() {
        watch.moved(check(storage.as_ref(), &dir.join(folder), log)?);
    }
    if storage
        .exists(&dir.join(KEYS))
        .map_err(BackupError::io("looked for", dir))?
    {
        KeysFile::on(Arc::clone(storage), dir.join(KEYS)).list()?;
    }
    let catalogue = view(storage, &dir.join(CATALOGUE), &logs.catalogue)?;
    let resources = Catalogue::open(catalogue.log())?.len();
    let interactions = view(storage, &dir.join(LOG), &logs.interactions)?;
    watch.begins(Step::Folding, logs.events());
    let digest = fold(interactions.log().as_ref(), &logs.interactions, watch)?;
    Ok(Proof { digest, resources })
}

/// Reads every checksum of a log's copy; how many bytes it has.
fn check(storage: &dyn Storage, dir: &Path, log: &CopiedLog) -> Result<u64, BackupError> {
    let report = check_copy(storage, dir)?;
    let not_proven = |what: String| {
        Err(BackupError::NotProven {
            dir: dir.to_owned(),
            what,
        })
    };
    if let Some(damage) = report.damage.first() {
        let damage = damage.to_string();
        return not_proven(format!("{damage}. `tally log check` reads the original"));
    }
    if let Some(torn) = &report.torn {
        let place = (torn.file.display(), torn.byte);
        return not_proven(format!("{} is torn at byte {}", place.0, place.1));
    }
    let told = report.identity.map(|log| (log.id, log.partitions));
    if told != Some((log.id, log.partitions)) || report.heads != log.next_offsets {
        return not_proven("it does not end where the log was copied up to".to_owned());
    }
    Ok(report.bytes)
}

/// A view of a log's copy up to its end.
fn view(storage: &Arc<dyn Storage>, dir: &Path, log: &CopiedLog) -> Result<LogView, BackupError> {
    let metrics = LogMetrics::unregistered()?;
    let view = LogView::open(Arc::clone(storage), dir, "copy", &metrics)?;
    view.advance(&log.next_offsets)?;
    Ok(view)
}

fn fold(
    log: &dyn EventLog,
    copied: &CopiedLog,
    watch: &mut dyn Watch,
) -> Result<Digest, BackupError> {
    let mut digest = Digest::default();
    for (partition, until) in (0..).zip(&copied.next_offsets) {
        let mut moved = |records| {
            watch.moved(records);
            true
        };
        let folded = verify::fold_partition(log, partition, *until, &mut moved)?;
        digest.add_digest(folded.digest());
    }
    Ok(digest)
}
