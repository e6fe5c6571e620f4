//! Logs, catalogue, keys and state of a data folder: opened in order, each refusal with the setting
//! to look at. Commands that work on a folder by themselves open it the same way.

use std::path::Path;
use std::sync::Arc;

use prometheus::Registry;
use tally_domain::{Resource, ResourceType};
use tally_ingress::catalogue::Catalogue;
use tally_ingress::management::{Management, Parts};
use tally_log::embedded::{EmbeddedLog, EmbeddedOptions, LogMetrics, OpenError};
use tally_log::EventLog;
use tally_log::storage::{RealStorage, Storage};
use tally_projector::{Options, Projector};

use crate::config::{Config, LogKind};
use crate::failure::{Failure, with_causes};

/// What an empty catalogue starts with where `catalogue.seed` says so.
const SEED: [(ResourceType, u64); 3] = [
    (ResourceType::AiNote, 15),
    (ResourceType::AiExpert, 7),
    (ResourceType::Quest, 42),
];

/// The log of interactions and that of the catalogue.
#[derive(Clone)]
pub(crate) struct Logs {
    pub(crate) interactions: Arc<dyn EventLog>,
    pub(crate) catalogue: Arc<dyn EventLog>,
}

/// Everything a server works on.
pub(super) struct Opened {
    pub(super) logs: Logs,
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) projector: Arc<Projector>,
}

/// Whether a log must have as many partitions as the settings say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Partitions {
    /// A server: another number would be another place for each resource.
    AsSet,
    /// A command that only looks: whatever the log has.
    AsTheyAre,
}

/// Opens both logs, and makes them where they are not there.
pub(crate) fn logs(
    config: &Config,
    dir: &Path,
    registry: &Registry,
    partitions: Partitions,
) -> Result<Logs, Failure> {
    match config.log.kind {
        LogKind::Embedded => {}
        LogKind::Kafka => return Err(Failure::run("log.kind \"kafka\" is not built into this version")),
    }
    let metrics = LogMetrics::register(registry).map_err(|error| Failure::Run(error.into()))?;
    let options = EmbeddedOptions {
        partitions: config.log.partitions.as_u32(),
        segment_bytes: config.log.segment_size.get(),
        max_queue_bytes: config.log.max_queued.as_usize(),
        ..EmbeddedOptions::default()
    };
    let mut interactions = open_log(&dir.join("log"), options.clone(), &metrics);
    if let (Err(OpenError::PartitionsDiffer { actual, .. }), Partitions::AsTheyAre) =
        (&interactions, partitions)
    {
        let options = EmbeddedOptions { partitions: *actual, ..options.clone() };
        interactions = open_log(&dir.join("log"), options, &metrics);
    }
    // Small: resources come and go rarely.
    let small = EmbeddedOptions {
        partitions: 1,
        segment_bytes: options.segment_bytes.min(8 << 20),
        ..options
    };
    let catalogue = open_log(&dir.join("catalogue"), small, &metrics);
    let refused = |name| move |error: OpenError| {
        Failure::run(format!("the log of {name} can't be opened: {}", with_causes(&error)))
    };
    Ok(Logs {
        interactions: Arc::new(interactions.map_err(refused("interactions"))?),
        catalogue: Arc::new(catalogue.map_err(refused("the catalogue"))?),
    })
}
