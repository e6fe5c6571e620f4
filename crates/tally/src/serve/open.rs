//! Logs, catalogue, keys and state: opened in order, each refusal with the setting to look at.
//! Commands that work on a folder by themselves open it the same way.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use actix_web::dev::Server;
use prometheus::Registry;
use tally_domain::{Resource, ResourceType};
use tally_ingress::auth::{Authenticator, Jwt};
use tally_ingress::catalogue::Catalogue;
use tally_ingress::management::{Management, Parts};
use tally_ingress::{ApiOptions, ApiParts, ApiServer, CatalogueMode, start_api};
use tally_log::EventLog;
use tally_log::storage::RealStorage;
use tally_projector::{Options, OtherFold, Projector};

use super::background::Background;
use super::logs::{Logs, Partitions};
use super::tokens;
use super::{measure, snapshots};
use crate::config::{self, Config};
use crate::failure::{Failure, with_causes};
use crate::objects;
use crate::traces::{self, Exporter};

/// What an empty catalogue starts with where `catalogue.seed` says so.
const SEED: [(ResourceType, u64); 3] = [
    (ResourceType::AiNote, 15),
    (ResourceType::AiExpert, 7),
    (ResourceType::Quest, 42),
];

/// Everything a server works on.
pub(super) struct Opened {
    pub(super) logs: Logs,
    pub(super) projector: Arc<Projector>,
    catalogue: Arc<Catalogue>,
    authenticator: Arc<Authenticator>,
    pub(super) snapshots: Option<Background>,
    pub(super) traces: Option<Exporter>,
    /// Measures as long as it is there.
    _measures: Background,
}

/// Opens the state and starts to follow the log.
pub(crate) fn projector(
    config: &Config,
    dir: &Path,
    log: &Arc<dyn EventLog>,
    registry: &Registry,
) -> Result<Projector, Failure> {
    let (log, storage) = (Arc::clone(log), Arc::new(RealStorage));
    let options = Options {
        other_fold: OtherFold::Serve,
        ..projector_options(config)?
    };
    Projector::open(log, storage, &dir.join("state"), options, registry).map_err(|error| {
        Failure::run(format!(
            "the state can't be opened: {}",
            with_causes(&error)
        ))
    })
}

/// How the settings say that a projector runs.
pub(crate) fn projector_options(config: &Config) -> Result<Options, Failure> {
    let settings = &config.projector;
    let defaults = Options::default();
    Ok(Options {
        workers: match settings.workers.as_usize() {
            0 => defaults.workers,
            workers => workers,
        },
        checkpoint_interval: settings.checkpoint_interval.get(),
        checkpoint_changes: settings.checkpoint_changes.as_usize(),
        sled_cache_bytes: settings.cache_size.get(),
        max_waiters: settings.max_waiters.as_usize(),
        memory: settings.memory.as_usize(),
        check_interval: settings.check_interval.get(),
        snapshots: objects::snapshots(config)?,
        other_fold: OtherFold::SetAside,
        renewal_rate: Some(settings.rebuild_rate.as_u64()).filter(|rate| *rate > 0),
    })
}

/// Reads the catalogue.
pub(crate) fn catalogue(log: &Arc<dyn EventLog>) -> Result<Catalogue, Failure> {
    Catalogue::open(Arc::clone(log)).map_err(|error| {
        Failure::run(format!(
            "the catalogue can't be read: {}",
            with_causes(&error)
        ))
    })
}

/// Opens everything a server works on, telling the management API what it is at.
pub(super) fn everything(
    config: &Config,
    dir: &Path,
    management: &Management,
    registry: &Registry,
) -> Result<Opened, Failure> {
    let traces = traces::start(config.tracing.export.as_ref(), registry)?;
    management.opening("reading the API keys");
    let mut authenticator =
        Authenticator::start(config.keys_file(), config.auth.local_dev_key).map_err(Failure::of)?;
    if let Some(settings) = &config.auth.tokens {
        management.opening("reading the keys of tokens");
        let jwt = Jwt::start(tokens::options(settings)?, registry).map_err(Failure::of)?;
        authenticator = authenticator.with_tokens(jwt);
    }
    authenticator.register(registry).map_err(Failure::of)?;
    let authenticator = Arc::new(authenticator);
    management.knows_keys(Arc::clone(&authenticator));
    management.opening("opening the logs");
    let partitions = Partitions::Exactly(config.log.partitions.as_u32());
    let logs = Logs::open(config, dir, registry, partitions)?;
    management.opening("reading the catalogue");
    let catalogue = Arc::new(catalogue(&logs.catalogue)?);
    seed(config, &logs, &catalogue)?;
    management.opening("opening the state");
    let projector = Arc::new(projector(config, dir, &logs.interactions, registry)?);
    if let Some(to) = &logs.dead_letters {
        projector
            .export_dead_letters(Arc::clone(to))
            .map_err(Failure::of)?;
    }
    management.opened(Parts {
        log: Arc::clone(&logs.interactions),
        catalogue_log: Arc::clone(&logs.catalogue),
        projector: Arc::clone(&projector),
        catalogue: Arc::clone(&catalogue),
    });
    Ok(Opened {
        snapshots: snapshots::start(config, &projector)?,
        _measures: measure::start(config, &projector, registry)?,
        logs,
        projector,
        catalogue,
        authenticator,
        traces,
    })
}

/// Seeds a catalogue that never had anything: one that was emptied on purpose stays empty.
fn seed(config: &Config, logs: &Logs, catalogue: &Catalogue) -> Result<(), Failure> {
    let head = logs.catalogue.head().map_err(Failure::of)?;
    if !config.catalogue.seed || head.iter().any(|offset| *offset > 0) {
        return Ok(());
    }
    let resources = SEED.map(|(kind, id)| Resource::new(kind, id));
    let resources = resources.into_iter().collect::<Result<Vec<_>, _>>();
    let added = catalogue.add(&resources.map_err(Failure::of)?);
    added.map(|_| ()).map_err(|error| {
        Failure::run(format!(
            "the catalogue can't be seeded: {}",
            with_causes(&error)
        ))
    })
}

/// Starts the public API on what was opened.
pub(super) fn api(
    config: &Config,
    opened: &Opened,
    listener: TcpListener,
    max_connections: usize,
    registry: &Registry,
) -> Result<(Server, ApiServer), Failure> {
    let api = &config.api;
    let options = ApiOptions {
        workers: match api.workers.as_usize() {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            workers => workers,
        },
        max_connections,
        max_body: api.max_body.as_usize(),
        head_timeout: api.head_timeout.get(),
        body_timeout: api.body_timeout.get(),
        keep_alive: api.keep_alive.get(),
        // The rest is for the logs and the state.
        stop_limit: config
            .shutdown_limit
            .get()
            .saturating_sub(config.drain_delay.get())
            / 2,
        cors_origins: api.cors_origins.as_slice().to_vec(),
        wait_limit: config.projector.wait_limit.get(),
        catalogue_mode: match config.catalogue.mode {
            config::CatalogueMode::Registered => CatalogueMode::Registered,
            config::CatalogueMode::Open => CatalogueMode::Open,
        },
    };
    let parts = ApiParts {
        log: Arc::clone(&opened.logs.interactions),
        projector: Arc::clone(&opened.projector),
        catalogue: Arc::clone(&opened.catalogue),
        authenticator: Arc::clone(&opened.authenticator),
        traces: opened.traces.as_ref().map(Exporter::traces),
    };
    start_api(listener, parts, options, registry).map_err(Failure::of)
}
