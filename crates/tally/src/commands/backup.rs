//! `tally backup`. What a backup is stands in [`crate::backup`].

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tally_domain::EventTime;
use tally_log::storage::{RealStorage, Storage};

use super::folder::Folder;
use crate::backup::{self, BackupError, Installation, Step, Watch};
use crate::config::{Config, LogKind};
use crate::failure::{Failure, with_causes};
use crate::output;
use crate::progress::Progress;

/// What `tally backup` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct BackupArgs {
    /// Where to: a folder that is empty or not there
    #[arg(long, value_name = "FOLDER")]
    to: PathBuf,
    /// Print what came of it as one JSON object
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  tally backup --to /backups/monday
  tally backup --to /backups/monday --json

Copies the log, the catalogue and the file of API keys, beside a running server or without one, as
of one moment: all that was acknowledged before is in it. The state is not copied, since it is
folded from the log. Then the copy is read frame by frame and folded, and its digest written to
backup.json, last of all: a folder without that file is no backup. It takes the memory of one
partition's state. Put it back with `tally restore`.";

/// What came of it, as JSON.
#[derive(Serialize)]
struct Line<'a> {
    to: &'a Path,
    made_at: EventTime,
    events: u64,
    resources: usize,
    keys: bool,
    files: usize,
    bytes: u64,
    digest: &'a str,
}

/// Copies, and proves it.
pub(crate) fn run(args: &BackupArgs, config: &Config) -> Result<(), Failure> {
    if config.log.kind == LogKind::Kafka {
        return Err(Failure::Usage(
            "a backup is of a log in files, and this one is on Kafka (setting log.kind): the topics and their replicas are what is to be kept. `tally log copy --from kafka --to embedded:FOLDER` makes files of them, of which a backup can be made; keep the file of API keys yourself"
                .to_owned(),
        ));
    }
    // Before anything is opened for it.
    backup::refuse_used(&RealStorage, &args.to)?;
    let folder = Folder::existing(config)?;
    let at = now();
    let [interactions, catalogue] = folder.views(config)?;
    let from = Installation {
        at,
        interactions,
        catalogue,
        keys: keys(config),
    };
    let storage: Arc<dyn Storage> = Arc::new(RealStorage);
    let mut progress = Progress::new();
    let taken = backup::take(&storage, &from, &args.to, &mut progress);
    let (manifest, proof) = taken.map_err(|error| {
        if !matches!(error, BackupError::Used { .. }) {
            progress.note(&format!(
                "What is in {} is no backup: remove it.",
                args.to.display()
            ));
        }
        failed(&progress, error)
    })?;
    progress.ends();
    if from.keys.is_none() {
        output::note(&format!(
            "The file of API keys {} (setting auth.keys_file) is not the data folder's: keep it yourself.",
            config.keys_file().display()
        ));
    }
    say(
        &Line {
            to: &args.to,
            made_at: manifest.made_at,
            events: manifest.logs.events(),
            resources: proof.resources,
            keys: manifest.has_keys(),
            files: manifest.files.len(),
            bytes: manifest.bytes(),
            digest: &manifest.digest,
        },
        args.json,
    )
}

fn now() -> EventTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let millis = since.map_or(0, |since| since.as_millis());
    EventTime::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}

/// The file of API keys, where it is the data folder's.
fn keys(config: &Config) -> Option<PathBuf> {
    let own = config.data_dir.join(backup::KEYS);
    let set = config.keys_file();
    let same = set == own
        || set
            .canonicalize()
            .ok()
            .zip(own.canonicalize().ok())
            .is_some_and(|(set, own)| set == own);
    same.then_some(own)
}

fn say(line: &Line<'_>, json: bool) -> Result<(), Failure> {
    if json {
        return output::json(line);
    }
    output::line(&format!(
        "{}, as of {}: {} files, {} bytes
Digest {}",
        holds(line.to, line.events, line.resources, line.keys),
        line.made_at,
        line.files,
        line.bytes,
        line.digest
    ))
}

/// What a folder has now, for people.
pub(super) fn holds(dir: &Path, events: u64, resources: usize, keys: bool) -> String {
    let keys = if keys { "the API keys" } else { "no API keys" };
    let dir = dir.display();
    format!("{dir} has {events} events, {resources} resources and {keys}")
}

/// The end of a backup or restore that went wrong.
pub(super) fn failed(progress: &Progress, error: BackupError) -> Failure {
    progress.abandon();
    error.into()
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        match error {
            BackupError::Used { .. } | BackupError::NoBackup { .. } | BackupError::Taken { .. } => {
                Self::Usage(error.to_string())
            }
            BackupError::OtherVersion { .. }
            | BackupError::Damaged { .. }
            | BackupError::Io { .. }
            | BackupError::NotProven { .. }
            | BackupError::Read(_)
            | BackupError::Open(_)
            | BackupError::Fold(_)
            | BackupError::Catalogue(_)
            | BackupError::Keys(_)
            | BackupError::Metrics(_)
            | BackupError::Manifest { .. } => Self::run(with_causes(&error)),
        }
    }
}

impl Watch for Progress {
    fn begins(&mut self, step: Step, total: u64) {
        let step = match step {
            Step::Checking => "checking the backup, bytes",
            Step::Copying => "copying, bytes",
            Step::Reading => "reading the copy, bytes",
            Step::Folding => "folding the copy, events",
        };
        Self::begins(self, step, total);
    }

    fn moved(&mut self, by: u64) {
        Self::moved(self, by);
    }
}
