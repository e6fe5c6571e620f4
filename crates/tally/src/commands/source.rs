//! The log and the stored state of a data folder, for what reads the one and compares it with the other:
//! from the folder, or beside the server that holds it.
//!
//! Beside a server the log is read from its own files or topic, so that the server does nothing for
//! it; only positions and the stored state come from the server.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use prometheus::Registry;
use tally_domain::{Offset, Partition};
use tally_ingress::inspect;
use tally_ingress::management::admin::INTERACTIONS;
use tally_ingress::management::rebuild::{RebuildProgress, Seed, Swap};
use tally_log::EventLog;
use tally_log::embedded::LogView;
use tally_log::storage::RealStorage;
use tally_projector::swap::{self, Incoming};
use tally_projector::{PartitionDump, Projector};

use super::folder::{self, Folder, Opened};
use crate::client::Client;
use crate::config::{Config, LogKind};
use crate::failure::Failure;
use crate::serve::logs::{Logs, Partitions};

/// See the [module](self).
pub(crate) enum Source {
    /// Held by this process.
    Held {
        /// Follows the log from where the stored state is.
        projector: Box<Projector>,
        // Let go of last.
        opened: Opened,
    },
    /// Held by a server.
    Beside {
        /// Asks the server.
        client: Client,
        /// The log, read by this process.
        log: Arc<dyn EventLog>,
        /// Where the log is files: shows as much as the server says is there.
        view: Option<LogView>,
    },
}

impl Source {
    /// Opens it.
    pub(crate) fn open(config: &Config) -> Result<Self, Failure> {
        match Folder::existing(config)? {
            Folder::Opened(opened) => Ok(Self::Held {
                projector: Box::new(opened.projector(config)?),
                opened,
            }),
            Folder::Server(client) => Self::beside(client, config),
        }
    }

    fn beside(client: Client, config: &Config) -> Result<Self, Failure> {
        match config.log.kind {
            LogKind::Kafka => {
                let registry = Registry::new();
                let partitions = Partitions::AsTheyAre(config.log.partitions.as_u32());
                let logs = Logs::kafka(config, &registry, partitions)?;
                Ok(Self::Beside {
                    client,
                    log: logs.interactions,
                    view: None,
                })
            }
            LogKind::Embedded => {
                let view = folder::view(&config.data_dir.join("log"), INTERACTIONS)?;
                Ok(Self::Beside {
                    client,
                    log: view.log(),
                    view: Some(view),
                })
            }
        }
    }

    /// The log. Beside a server it shows what was there at the last [`heads`](Self::heads).
    pub(crate) fn log(&self) -> &Arc<dyn EventLog> {
        match self {
            Self::Held { opened, .. } => &opened.log,
            Self::Beside { log, .. } => log,
        }
    }

    /// Where the log ends now.
    pub(crate) fn heads(&self) -> Result<Vec<Offset>, Failure> {
        let Self::Beside {
            client,
            view: Some(view),
            ..
        } = self
        else {
            return self.log().head().map_err(Failure::of);
        };
        let heads = folder::heads(client, INTERACTIONS)?;
        view.advance(&heads).map_err(Failure::of)?;
        Ok(heads)
    }

    /// A partition's state: here with all of the log applied, beside a server as it is there.
    pub(crate) fn stored(&self, partition: Partition) -> Result<PartitionDump, Failure> {
        match self {
            Self::Held { projector, .. } => {
                inspect::catch_up(projector, &folder::never).map_err(Failure::of)?;
                projector.dump_partition(partition).map_err(Failure::of)
            }
            Self::Beside { client, .. } => {
                let mut lines = Vec::new();
                client.lines(&format!("/admin/state/partitions/{partition}"), &mut lines)?;
                inspect::read_partition(&lines).map_err(Failure::of)
            }
        }
    }

    /// Says to the server how far a rebuild is, or that it has ended.
    pub(crate) fn tell(&self, progress: Option<&RebuildProgress>) -> Result<(), Failure> {
        match self {
            Self::Held { .. } => Ok(()),
            Self::Beside { client, .. } => client.ask("/admin/rebuild", &progress),
        }
    }

    /// Makes the beginning of a rebuild of one partition.
    pub(crate) fn seed(&self, without: Partition) -> Result<(), Failure> {
        match self {
            Self::Held { projector, .. } => projector.seed(without).map_err(Failure::of),
            Self::Beside { client, .. } => client.ask("/admin/state/seed", &Seed { without }),
        }
    }

    /// The partitions to work on: one that was named and is there, or all.
    pub(crate) fn partitions(&self, named: Option<Partition>) -> Result<Range<Partition>, Failure> {
        let partitions = self.log().identity().partitions;
        match named {
            None => Ok(0..partitions),
            Some(one) if one < partitions => Ok(one..one.saturating_add(1)),
            Some(one) => Err(Failure::Usage(format!(
                "the log has no partition {one}; valid are 0 to {}",
                partitions.saturating_sub(1)
            ))),
        }
    }

    /// Puts the state that was made in the place of the one that is used.
    pub(crate) fn swap(self, dir: &Path, incoming: Incoming) -> Result<(), Failure> {
        match self {
            Self::Held { projector, opened } => {
                // So that whoever comes back to it has little to fold.
                projector.checkpoint().map_err(Failure::of)?;
                drop(projector);
                let swapped = swap::swap(&RealStorage, dir, incoming).map_err(Failure::of);
                drop(opened);
                swapped
            }
            Self::Beside { client, .. } => client.ask("/admin/state/swap", &Swap { incoming }),
        }
    }
}
