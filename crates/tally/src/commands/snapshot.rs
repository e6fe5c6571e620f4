//! `tally snapshot`: the state kept elsewhere, partition by partition.

use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use serde::Serialize;
use tally_domain::{Offset, Partition};
use tally_ingress::inspect;
use tally_log::storage::RealStorage;
use tally_projector::snapshot::set_state_aside;
use tally_projector::{SnapshotError, SnapshotName, Snapshots};

use super::folder::{self, Folder, Place};
use super::source::Source;
use crate::config::Config;
use crate::failure::{Failure, with_causes};
use crate::{objects, output};

/// What a restored state may take to be written down.
const STOP_LIMIT: Duration = Duration::from_secs(600);

/// What to do with snapshots.
#[derive(Debug, Subcommand)]
#[command(
    after_help = "Examples:\n  tally snapshot create\n  tally snapshot list\n  tally snapshot check\n\nThey are kept where the setting snapshots.url says; see docs/snapshots.md."
)]
pub(crate) enum SnapshotCommand {
    /// Take one of each partition that has moved since its last; a line of JSON for each
    #[command(after_help = "Example:\n  tally snapshot create")]
    Create,
    /// Print which there are, the newest of a partition first; a line of JSON for each
    #[command(after_help = "Example:\n  tally snapshot list | tail -1")]
    List,
    /// Read all of them and compare every checksum; exit code 1 where one is damaged
    #[command(after_help = "Example:\n  tally snapshot check")]
    Check,
    /// Set the state aside, and begin from the newest snapshots and what the log has since
    #[command(after_help = RESTORE_EXAMPLES)]
    Restore,
}

const RESTORE_EXAMPLES: &str = "\
Example:
  tally snapshot restore

The server has to be stopped. A state that is missing or can't be used is restored by the start itself;
this is for one that can be used, and should not be.";

#[derive(Serialize)]
struct Line {
    partition: Partition,
    next_offset: Offset,
    made_millis: u64,
    fold_version: u32,
    layout: u32,
    name: String,
    /// Of a check.
    #[serde(skip_serializing_if = "Option::is_none")]
    whole: Option<bool>,
    /// What is wrong with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Does what is asked for.
pub(crate) fn run(command: &SnapshotCommand, config: &Config) -> Result<ExitCode, Failure> {
    match command {
        SnapshotCommand::Create => create(config).map(|()| ExitCode::SUCCESS),
        SnapshotCommand::List => list(config, &kept(config)?).map(|()| ExitCode::SUCCESS),
        SnapshotCommand::Check => check(config, &kept(config)?),
        SnapshotCommand::Restore => restore(config, &kept(config)?).map(|()| ExitCode::SUCCESS),
    }
}

fn kept(config: &Config) -> Result<Snapshots, Failure> {
    let snapshots = objects::snapshots(config)?;
    snapshots.ok_or_else(|| Failure::of(SnapshotError::Nowhere))
}

fn create(config: &Config) -> Result<(), Failure> {
    let mut out = output::stdout();
    match &Place::existing(config)? {
        Place::Server(client) => client.post_lines("/admin/snapshots", &(), &mut out),
        Place::Here { projector, .. } => {
            inspect::catch_up(projector, &folder::never).map_err(Failure::of)?;
            output::inspected(inspect::take_snapshots(projector, &mut out))
        }
    }
}

/// All of this log, the newest of a partition first.
fn all(config: &Config, snapshots: &Snapshots) -> Result<Vec<SnapshotName>, Failure> {
    let source = Source::open(config)?;
    let names = snapshots.list(source.log().identity().id);
    let names = names.map_err(Failure::of)?;
    Ok(names.into_values().flatten().collect())
}

fn line(name: &SnapshotName) -> Line {
    Line {
        partition: name.partition,
        next_offset: name.next_offset,
        made_millis: name.made_millis,
        fold_version: name.fold_version,
        layout: name.layout,
        name: name.to_string(),
        whole: None,
        error: None,
    }
}

fn list(config: &Config, snapshots: &Snapshots) -> Result<(), Failure> {
    for name in all(config, snapshots)? {
        output::json(&line(&name))?;
    }
    Ok(())
}

fn check(config: &Config, snapshots: &Snapshots) -> Result<ExitCode, Failure> {
    let dir = config.data_dir.join("state");
    let mut damaged = false;
    for name in all(config, snapshots)? {
        let error = match snapshots.check(&name, &dir) {
            Ok(()) => None,
            Err(error @ SnapshotError::Damaged { .. }) => Some(error.to_string()),
            Err(error) => return Err(Failure::of(error)),
        };
        damaged |= error.is_some();
        output::json(&Line {
            whole: Some(error.is_none()),
            error,
            ..line(&name)
        })?;
    }
    Ok(if damaged {
        ExitCode::from(1)
    } else {
        ExitCode::SUCCESS
    })
}

fn restore(config: &Config, snapshots: &Snapshots) -> Result<(), Failure> {
    let opened = match Folder::existing(config)? {
        Folder::Opened(opened) => opened,
        Folder::Server(_) => {
            return Err(Failure::run(
                "the server has the state: stop it first (one whose state is missing restores it by itself)",
            ));
        }
    };
    let dir = config.data_dir.join("state");
    let aside = set_state_aside(opened.log.as_ref(), &RealStorage, &dir, snapshots);
    let aside = aside.map_err(Failure::of)?;
    output::note(&format!("The state before is in {}.", aside.display()));
    let projector = opened.projector(config)?;
    let started_at = projector.status().started_at;
    inspect::catch_up(&projector, &folder::never).map_err(Failure::of)?;
    let summary = inspect::summary(&projector, &folder::never).map_err(Failure::of)?;
    let tail = summary.positions.iter().zip(&started_at);
    let tail: u64 = tail.map(|(end, from)| end.saturating_sub(*from)).sum();
    projector.stop(STOP_LIMIT).map_err(|error| {
        Failure::run(format!(
            "the restored state can't be written down: {}",
            with_causes(&error)
        ))
    })?;
    output::line(&format!(
        "Restored, and {tail} events folded since.\nDigest  {}",
        summary.digest
    ))
}
