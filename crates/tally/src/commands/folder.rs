//! What a command works on: the server that holds the data folder, or the folder itself.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use serde::Deserialize;
use tally_domain::Offset;
use tally_ingress::catalogue::Catalogue;
use tally_ingress::management::admin::{CATALOGUE, INTERACTIONS};
use tally_log::embedded::LogView;
use tally_log::storage::RealStorage;
use tally_log::{EventLog, LogMetrics};
use tally_projector::Projector;

use crate::client::Client;
use crate::config::{Config, LogKind};
use crate::data_dir::{self, Access, DataDirError, HeldDir};
use crate::failure::{Failure, with_causes};
use crate::serve::logs::{Logs, Partitions};
use crate::serve::open;

/// Nothing waits to be written when a command ends; only a footer is.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// Where the data are.
pub(crate) enum Folder {
    /// With a server.
    Server(Client),
    /// Here, held by this process.
    Opened(Opened),
}

/// A folder that this process has opened.
pub(crate) struct Opened {
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) catalogue_log: Arc<dyn EventLog>,
    registry: Registry,
    // Let go of last.
    held: HeldDir,
}

/// Who does something with the state: the server, or this process.
pub(crate) enum Place {
    /// The server.
    Server(Client),
    /// This process.
    Here {
        /// Follows the log.
        projector: Box<Projector>,
        // Let go of last.
        opened: Opened,
    },
}

impl Place {
    /// Of a folder with data in it.
    pub(crate) fn existing(config: &Config) -> Result<Self, Failure> {
        Ok(match Folder::existing(config)? {
            Folder::Server(client) => Self::Server(client),
            Folder::Opened(opened) => Self::Here {
                projector: Box::new(opened.projector(config)?),
                opened,
            },
        })
    }
}

/// A command that nobody asks to stop: a signal ends it.
pub(crate) fn never() -> bool {
    false
}

/// The server that holds the folder, or the folder, where there is something to look at. With Kafka
/// that is on the cluster, whatever the folder has.
pub(crate) fn existing(config: &Config) -> Result<Access, DataDirError> {
    match config.log.kind {
        LogKind::Embedded => data_dir::access_existing(&RealStorage, &config.data_dir),
        LogKind::Kafka => data_dir::access(&RealStorage, &config.data_dir),
    }
}

impl Folder {
    /// A folder with data in it.
    pub(crate) fn existing(config: &Config) -> Result<Self, Failure> {
        Self::of(existing(config)?, config)
    }

    /// A folder, made where it is not there.
    pub(crate) fn made(config: &Config) -> Result<Self, Failure> {
        Self::of(data_dir::access(&RealStorage, &config.data_dir)?, config)
    }

    /// The files of both logs, each shown up to where it ends now: first the interactions', then the
    /// catalogue's, which so has every resource of theirs.
    pub(crate) fn views(&self, config: &Config) -> Result<[LogView; 2], Failure> {
        let view = |folder: &str, name| {
            let heads = match self {
                Self::Server(client) => heads(client, name),
                Self::Opened(opened) if name == INTERACTIONS => {
                    opened.log.head().map_err(Failure::of)
                }
                Self::Opened(opened) => opened.catalogue_log.head().map_err(Failure::of),
            };
            let view = view(&config.data_dir.join(folder), name)?;
            view.advance(&heads?).map_err(Failure::of)?;
            Ok::<_, Failure>(view)
        };
        let interactions = view("log", INTERACTIONS)?;
        Ok([interactions, view("catalogue", CATALOGUE)?])
    }

    fn of(access: Access, config: &Config) -> Result<Self, Failure> {
        let held = match access {
            Access::Server(server) => return Ok(Self::Server(Client::new(&server))),
            Access::Held(held) => held,
        };
        let registry = Registry::new();
        let partitions = Partitions::AsTheyAre(config.log.partitions.as_u32());
        let logs = Logs::open(config, held.path(), &registry, partitions)?;
        Ok(Self::Opened(Opened {
            log: logs.interactions,
            catalogue_log: logs.catalogue,
            registry,
            held,
        }))
    }
}

/// Where one of a server's logs ends now.
pub(crate) fn heads(client: &Client, name: &str) -> Result<Vec<Offset>, Failure> {
    #[derive(Deserialize)]
    struct Head {
        log: String,
        head: Offset,
    }
    let mut lines = Vec::new();
    client.lines("/admin/log/info", &mut lines)?;
    let lines = lines.split(|byte| *byte == b'\n');
    let heads = lines.filter_map(|line| serde_json::from_slice::<Head>(line).ok());
    let ours = heads.filter(|Head { log, .. }| log == name);
    Ok(ours.map(|Head { head, .. }| head).collect())
}

/// A log's files, read beside whoever writes them; it shows nothing yet.
pub(crate) fn view(dir: &Path, name: &'static str) -> Result<LogView, Failure> {
    let metrics = LogMetrics::register(&Registry::new()).map_err(Failure::of)?;
    LogView::open(Arc::new(RealStorage), dir, name, &metrics).map_err(|error| {
        Failure::run(format!(
            "the log of {name} can't be read beside whoever writes it: {}",
            with_causes(&error)
        ))
    })
}

impl Drop for Opened {
    /// Closes the logs, so that the next start does not take this command for a killed server.
    fn drop(&mut self) {
        for log in [&self.log, &self.catalogue_log] {
            if let Err(error) = log.close(CLOSE_LIMIT) {
                tracing::warn!(%error, "a log was not closed cleanly; the next start looks through its end");
            }
        }
    }
}

impl Opened {
    /// The state, which folds the tail of the log by itself. Nothing is written down when it is
    /// dropped.
    pub(crate) fn projector(&self, config: &Config) -> Result<Projector, Failure> {
        open::projector(config, self.held.path(), &self.log, &self.registry)
    }

    /// The catalogue.
    pub(crate) fn catalogue(&self) -> Result<Catalogue, Failure> {
        open::catalogue(&self.catalogue_log)
    }
}
