//! `tally restore`. How it is done stands in [`crate::backup`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use tally_log::storage::{RealStorage, Storage};

use super::backup::{failed, holds};
use crate::backup::{self, Restored, manifest::Manifest};
use crate::config::{Config, LogKind};
use crate::data_dir::{self, HeldDir};
use crate::failure::Failure;
use crate::output;
use crate::progress::Progress;

/// What `tally restore` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RestoreArgs {
    /// The backup: a folder that `tally backup` made
    #[arg(long, value_name = "FOLDER")]
    from: PathBuf,
    /// Print what came of it as one JSON object
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  tally restore --from /backups/monday
  tally restore --from /backups/monday --data-dir ./restored --json

The data folder must have no data yet. Every file of the backup is checked before anything is
written; a byte that is not as it was written is a refusal that names the file. Then it is copied,
read frame by frame and folded, and its digest compared with the backup's. A restore that was cut
short leaves a folder that no server opens; run it again. The first start folds the state.";

/// What came of it, as JSON.
#[derive(Serialize)]
struct Line<'a> {
    from: &'a Path,
    data_dir: &'a Path,
    events: u64,
    resources: usize,
    keys: bool,
    digest: String,
    /// Whether it was compared with the backup's.
    compared: bool,
}

/// Restores, and proves it.
pub(crate) fn run(args: &RestoreArgs, config: &Config) -> Result<(), Failure> {
    if config.log.kind == LogKind::Kafka {
        return Err(Failure::Usage(
            "a restore puts a log into files, and this one is on Kafka (setting log.kind): restore with log.kind = \"embedded\" to a folder, then `tally log copy --from embedded:FOLDER --to kafka` into empty topics"
                .to_owned(),
        ));
    }
    let storage: Arc<dyn Storage> = Arc::new(RealStorage);
    let manifest = Manifest::read(storage.as_ref(), &args.from)?;
    let held = HeldDir::lock_to_restore(storage.as_ref(), &config.data_dir)?;
    let mut progress = Progress::new();
    let from = (args.from.as_path(), &manifest);
    let restored = backup::restore(&storage, from, held.path(), &mut progress);
    let restored = restored.map_err(|error| {
        if let Err(closed) = data_dir::refuse_unfinished(storage.as_ref(), held.path()) {
            progress.note(&closed.to_string());
        }
        failed(&progress, error)
    })?;
    progress.ends();
    notes(&manifest, &restored, config);
    say(
        &Line {
            from: &args.from,
            data_dir: held.path(),
            events: manifest.logs.events(),
            resources: restored.proof.resources,
            keys: manifest.has_keys(),
            digest: restored.proof.digest.to_string(),
            compared: restored.compared,
        },
        args.json,
    )
}

/// What is worth knowing before a start.
fn notes(manifest: &Manifest, restored: &Restored, config: &Config) {
    if !restored.compared {
        output::note(&format!(
            "The backup was made by another version of the fold (digest {}), so the digests can't be compared; every file and frame is as it was written.",
            manifest.digest
        ));
    }
    let (has, set) = (
        manifest.logs.interactions.partitions,
        config.log.partitions.as_u32(),
    );
    if has != set {
        output::note(&format!(
            "The log has {has} partitions: set log.partitions to that, which is {set} now."
        ));
    }
    let keys = config.data_dir.join(backup::KEYS);
    if manifest.has_keys() && keys != config.keys_file() {
        output::note(&format!(
            "The API keys are in {}, and the setting auth.keys_file names {}.",
            keys.display(),
            config.keys_file().display()
        ));
    }
}

fn say(line: &Line<'_>, json: bool) -> Result<(), Failure> {
    if json {
        return output::json(line);
    }
    output::line(&format!(
        "{}
Digest {}{}",
        holds(line.data_dir, line.events, line.resources, line.keys),
        line.digest,
        if line.compared {
            ", as in the backup"
        } else {
            ""
        }
    ))
}
