//! `tally log copy`. What a copy is stands in [`crate::copy`].

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use prometheus::Registry;
use serde::Serialize;
use tally_domain::Position;
use tally_ingress::management::admin::MAX_RESOURCES;
use tally_log::kafka::{Cluster, TopicKind};
use tally_log::storage::RealStorage;

use crate::config::Config;
use crate::copy::{Copied, CopyError, Copying, Proof, Step, Watch};
use crate::data_dir::{self, HeldDir};
use crate::failure::{Failure, with_causes};
use crate::output;
use crate::progress::Progress;
use crate::serve::logs::{Logs, Partitions, kafka_options};
use crate::serve::open;

/// How long closing a log may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(30);

/// What `tally log copy` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CopyArgs {
    /// What to copy: kafka, or embedded:PATH with the path of a data folder
    #[arg(long, value_name = "LOG")]
    from: Place,
    /// Where to: kafka, or embedded:PATH
    #[arg(long, value_name = "LOG")]
    to: Place,
    /// Print what came of it as one JSON object
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  tally log copy --from embedded:./data --to kafka --config kafka.toml
  tally log copy --from kafka --to embedded:./copy --config kafka.toml

Copies all events and the catalogue. Topics have to be there, as `tally topics create` makes them,
with as many partitions as the source has; a folder is made where it is not there. Stop the server
first. A copy that was interrupted is continued by running it again. At its end both logs are
folded, and their digests compared: exit code 1 where they differ.

An event whose time lay too far in the future when it was recorded never counted, and would count in
the copy: it is left out, and named on standard error.";

/// One end of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// A data folder.
    Embedded(PathBuf),
    /// The cluster of the settings.
    Kafka,
}

impl FromStr for Place {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.strip_prefix("embedded:")) {
            ("kafka", _) => Ok(Self::Kafka),
            (_, Some(path)) if !path.is_empty() => Ok(Self::Embedded(path.into())),
            (_, Some(_) | None) => {
                Err("valid are kafka, and embedded:PATH with the path of a data folder")
            }
        }
    }
}

/// Logs that were opened for a copy.
struct Opened {
    logs: Logs,
    // Let go of last.
    _held: Option<HeldDir>,
}

impl Opened {
    /// Opens what is copied.
    fn source(place: &Place, config: &Config) -> Result<Self, Failure> {
        let partitions = Partitions::AsTheyAre(config.log.partitions.as_u32());
        if let Place::Embedded(path) = place
            && !path.join("log").is_dir()
        {
            return Err(Failure::run(format!(
                "there is no log in {}: --from embedded:PATH takes the path of a data folder",
                path.display()
            )));
        }
        Self::open(place, config, partitions)
    }

    /// Opens what it is copied to, with as many partitions where it is made now.
    fn destination(place: &Place, config: &Config, partitions: u32) -> Result<Self, Failure> {
        let partitions = match place {
            // It is compared with the source's, which says more than a log by itself can.
            Place::Embedded(_) => Partitions::AsTheyAre(partitions),
            // Topics that would lose records again are refused.
            Place::Kafka => {
                has_partitions(config, partitions)?;
                Partitions::Exactly(partitions)
            }
        };
        Self::open(place, config, partitions)
    }

    fn open(place: &Place, config: &Config, partitions: Partitions) -> Result<Self, Failure> {
        let registry = Registry::new();
        match place {
            Place::Kafka => Ok(Self {
                logs: Logs::kafka(config, &registry, partitions)?,
                _held: None,
            }),
            Place::Embedded(path) => {
                let held = HeldDir::try_lock(&RealStorage, path)?.ok_or_else(|| held(path))?;
                Ok(Self {
                    logs: Logs::embedded(config, path, &registry, partitions)?,
                    _held: Some(held),
                })
            }
        }
    }

    fn close(&self) -> Result<(), Failure> {
        let closed = self.logs.close(|| CLOSE_LIMIT);
        let closed = closed.and(self.logs.close_dead_letters(CLOSE_LIMIT));
        closed.map_err(|error| Failure::run(format!("a log was not closed cleanly: {error}")))
    }
}

/// Refuses a topic with other partitions in words of the copy: elsewhere the setting would be wrong,
/// here it is the topic.
fn has_partitions(config: &Config, from: u32) -> Result<(), Failure> {
    let topic = config.kafka.topic(TopicKind::Interactions, from).name;
    let cluster = Cluster::connect(&kafka_options(config)?).map_err(Failure::of)?;
    let found = cluster.describe(&topic).map_err(Failure::of)?;
    let to = found.map(|found| u32::try_from(found.partitions.len()).unwrap_or(u32::MAX));
    match to.filter(|to| *to != from) {
        Some(to) => Err(Failure::of(CopyError::Partitions { from, to })),
        // Where there is none, opening it says so.
        None => Ok(()),
    }
}

fn held(path: &Path) -> Failure {
    let holder = data_dir::holder(path).map_or_else(String::new, |pid| format!(" (pid {pid})"));
    Failure::run(format!(
        "the data folder {} is held by another process{holder}: stop it, then copy; nothing must be appended meanwhile",
        path.display()
    ))
}

/// Where a folder is, however its path is written.
fn whole(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

fn same(from: &Place, to: &Place) -> bool {
    match (from, to) {
        (Place::Kafka, Place::Kafka) => true,
        (Place::Embedded(from), Place::Embedded(to)) => whole(from) == whole(to),
        (Place::Kafka, Place::Embedded(_)) | (Place::Embedded(_), Place::Kafka) => false,
    }
}

/// What came of it, as JSON.
#[derive(Serialize)]
struct Line {
    copied: u64,
    already_there: u64,
    left_out: u64,
    resources_copied: usize,
    resources_already_there: usize,
    source_digest: String,
    destination_digest: String,
    equal: bool,
}

/// Copies, and proves it.
pub(super) fn run(args: &CopyArgs, config: &Config) -> Result<(), Failure> {
    if same(&args.from, &args.to) {
        return Err(Failure::Usage(
            "--from and --to are the same log; a copy needs two".to_owned(),
        ));
    }
    let source = Opened::source(&args.from, config)?;
    let partitions = source.logs.interactions.identity().partitions;
    let destination = Opened::destination(&args.to, config, partitions)?;
    let copied = copy(&source.logs, &destination.logs);
    let closed = destination.close().and(source.close());
    let line = copied?;
    closed?;
    say(&line, args.json)
}

fn copy(source: &Logs, destination: &Logs) -> Result<Line, Failure> {
    let mut progress = Progress::new();
    let (from, to) = (&source.interactions, &destination.interactions);
    let mut copying = Copying::begin(from.as_ref(), to.as_ref(), &mut progress)
        .map_err(|error| progress.failed(error))?;
    let (resources_copied, resources_already_there) = resources(source, destination)?;
    let Copied {
        copied,
        already_there,
        left_out,
        ..
    } = copying
        .run(&mut progress)
        .map_err(|error| progress.failed(error))?;
    let Proof {
        source,
        destination,
    } = copying
        .prove(&mut progress)
        .map_err(|error| progress.failed(error))?;
    progress.ends();
    Ok(Line {
        copied,
        already_there,
        left_out,
        resources_copied,
        resources_already_there,
        source_digest: source.to_string(),
        destination_digest: destination.to_string(),
        equal: source == destination,
    })
}

/// Makes all resources of one catalogue known to the other: how many were not, and were.
fn resources(source: &Logs, destination: &Logs) -> Result<(usize, usize), Failure> {
    let to = open::catalogue(&destination.catalogue)?;
    let mut missing = open::catalogue(&source.catalogue)?.list();
    let all = missing.len();
    missing.retain(|resource| !to.contains(*resource));
    for resources in missing.chunks(MAX_RESOURCES) {
        to.add(resources).map_err(|error| {
            let why = with_causes(&error);
            Failure::run(format!(
                "the catalogue can't be copied: {why}. Run it again"
            ))
        })?;
    }
    Ok((missing.len(), all.saturating_sub(missing.len())))
}

fn say(line: &Line, json: bool) -> Result<(), Failure> {
    if json {
        output::json(line)?;
    } else {
        output::line(&format!(
            "Events: {} copied, {} already there, {} left out
Resources: {} copied, {} already there
Digest of the source       {}
Digest of the destination  {}",
            line.copied,
            line.already_there,
            line.left_out,
            line.resources_copied,
            line.resources_already_there,
            line.source_digest,
            line.destination_digest
        ))?;
    }
    if line.equal {
        return Ok(());
    }
    Err(Failure::run(
        "the digests differ: the destination does not fold to what the source does. Did anything else write to it, or are the clocks apart? Empty it, and copy again",
    ))
}

impl Watch for Progress {
    fn begins(&mut self, step: Step, offsets: u64) {
        let step = match step {
            Step::Comparing => "comparing what is there",
            Step::Copying => "copying",
            Step::Proving => "folding the copy",
        };
        Self::begins(self, step, offsets);
    }

    fn moved(&mut self, records: u64) {
        Self::moved(self, records);
    }

    fn left_out(&mut self, position: Position) {
        let Position { partition, offset } = position;
        self.note(&format!(
            "left out: partition {partition}, offset {offset}: the event's time lies too far past the time at which the log took it (a dead letter, future_time)"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects the ways of naming a log.
    #[test]
    fn a_place_is_a_folder_or_the_cluster() {
        assert_eq!("kafka".parse(), Ok(Place::Kafka));
        assert_eq!(
            "embedded:./a:b".parse(),
            Ok(Place::Embedded("./a:b".into()))
        );
        for text in [
            "",
            "embedded",
            "embedded:",
            "kafka:tally",
            "./data",
            "Kafka",
        ] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }

    /// Protects a log from being copied into itself.
    #[test]
    fn one_folder_is_the_same_however_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        let other = path.join("other");
        std::fs::create_dir(&other).unwrap();
        let around = Place::Embedded(other.join(".."));
        assert!(same(&Place::Embedded(path.clone()), &around));
        assert!(!same(&Place::Embedded(path), &Place::Embedded(other)));
        assert!(same(&Place::Kafka, &Place::Kafka));
    }
}
