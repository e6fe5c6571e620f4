//! How a server is put together, and how it stops.
//!
//! ```text
//! start:  data folder ─► metrics ─► listeners ─► management ─► logs, catalogue, state ─► API
//! stop:   not ready ─► API: no new connections, finish requests ─► close the logs
//!         ─► fold what they hold, write down the state ─► management ─► data folder
//! ```
//!
//! - [`open`]: catalogue, keys and state, also for commands
//! - [`logs`]: the logs, in files or on a Kafka cluster, also for commands
//! - [`files`]: how many files and connections the system allows
//! - [`listen`]: the two listeners
//! - [`measure`]: what only a disk can tell, for the metrics; [`certificates`] is a part of it
//! - [`background`]: a thread that does something now and then
//! - [`banner`]: what a person sees first
//! - [`tls`]: TLS to addresses that settings name
//! - [`tokens`]: which tokens are taken, and getting the keys for them
//! - [`recover`]: a state that fails while it is used
//! - [`renew`]: a state of another fold, made anew while it answers
//! - [`snapshots`]: taken in time
//! - [`mod@stop`]: signals, and the bound on the way down

mod background;
mod banner;
mod certificates;
mod files;
mod listen;
pub(crate) mod logs;
mod measure;
pub(crate) mod open;
mod recover;
mod renew;
mod snapshots;
mod stop;
pub(crate) mod tls;
mod tokens;

use std::process::ExitCode;
use std::sync::Arc;

use actix_web::rt::System;
use prometheus::Registry;
use tally_ingress::ApiServer;
use tally_ingress::management::{Management, ManagementServer, start_management};
use tally_log::metric::Declare;
use tally_log::storage::RealStorage;

use crate::config::Config;
use crate::data_dir::{HeldDir, ServerFile};
use crate::failure::{self, Failure};
use crate::metrics::BUILD_INFO;
use crate::{logging, output};
use listen::Listeners;
use open::Opened;
use stop::{Deadline, Signals};

/// Serves until a signal; the exit code says whether the stop was clean.
pub(crate) fn run(config: &Config) -> Result<ExitCode, Failure> {
    logging::start(&config.logging);
    let held = HeldDir::lock(&RealStorage, &config.data_dir)?;
    // What a killed server left would lead commands astray.
    held.withdraw()?;
    let registry = registry().map_err(Failure::of)?;
    let listeners = Listeners::bind(config)?;
    let connections = files::connections(config.api.max_connections.as_usize());
    held.announce(&ServerFile {
        pid: std::process::id(),
        api: listeners.api_address,
        management: listeners.management_address,
    })?;
    let served = System::new().block_on(serve(config, &held, registry, listeners, connections));
    let withdrawn = held.withdraw();
    let code = served?;
    withdrawn?;
    tracing::info!("stopped");
    Ok(code)
}

/// The registry that everything registers with, and what is about the process itself.
fn registry() -> prometheus::Result<Registry> {
    let registry = Registry::new();
    let build = Declare::with(&registry).gauges(&BUILD_INFO)?;
    build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    #[cfg(target_os = "linux")]
    registry.register(Box::new(
        prometheus::process_collector::ProcessCollector::for_self(),
    ))?;
    Ok(registry)
}

async fn serve(
    config: &Config,
    held: &HeldDir,
    registry: Registry,
    listeners: Listeners,
    connections: usize,
) -> Result<ExitCode, Failure> {
    let mut signals = Signals::listen().map_err(Failure::of)?;
    let banner = banner::banner(config, &listeners);
    let management = Management::new(registry.clone(), config.management.stalled_after.get())
        .map_err(Failure::of)?;
    let hosts = config.management.hosts.as_slice().to_vec();
    let (server, management_server) =
        start_management(listeners.management, &management, hosts).map_err(Failure::of)?;
    actix_web::rt::spawn(server);

    // Opening blocks, and may take long where there is much to recover.
    let (settings, dir) = (config.clone(), held.path().to_owned());
    let (state, metrics) = (Arc::clone(&management), registry.clone());
    let opening =
        tokio::task::spawn_blocking(move || open::everything(&settings, &dir, &state, &metrics));
    let mut opened = tokio::select! {
        opened = opening => opened.map_err(Failure::of)??,
        name = signals.next() => {
            tracing::info!(signal = name, "stopped while starting");
            held.withdraw()?;
            // Opening can't be interrupted. Nothing was accepted, so nothing is lost.
            std::process::exit(0);
        }
    };
    let (server, api) = open::api(config, &opened, listeners.api, connections, &registry)?;
    let mut server = actix_web::rt::spawn(server);
    output::line(banner.trim_end())?;
    management.serving();
    tracing::info!(
        api = %listeners.api_address,
        management = %listeners.management_address,
        data_dir = %config.data_dir.display(),
        "serving"
    );

    let signal = tokio::select! {
        signal = signals.next() => signal,
        why = recover::keep_usable(&opened.projector) => return Err(why),
        why = renew::make_new(&opened.projector, &management) => return Err(why),
        ended = &mut server => {
            let why = match ended {
                Ok(Err(error)) => error.to_string(),
                Ok(Ok(())) => "it ended by itself".to_owned(),
                Err(error) => error.to_string(),
            };
            return Err(Failure::run(format!("the public API stopped: {why}")));
        }
    };
    tracing::info!(signal, "stopping: finishing what was accepted");
    let deadline = Deadline::after(config.shutdown_limit.get());
    management.drain();
    drop(opened.snapshots.take());
    let stopping = async {
        tokio::time::sleep(config.drain_delay.get()).await;
        stop(&opened, api, management_server, deadline).await
    };
    tokio::select! {
        stopped = tokio::time::timeout(deadline.left(), stopping) => match stopped {
            Ok(stopped) => stopped.map(|()| ExitCode::SUCCESS),
            Err(_) => {
                tracing::error!(
                    shutdown_limit = %config.shutdown_limit,
                    "the stop took longer than shutdown_limit; what was acknowledged is in the log, the next start replays it"
                );
                end_now(held)
            }
        },
        signal = signals.again() => {
            tracing::warn!(signal, "stopping at once; the next start replays what was not written down");
            end_now(held)
        }
    }
}

/// Ends the process although threads are still at work: what was acknowledged is in the log.
fn end_now(held: &HeldDir) -> ! {
    if let Err(error) = held.withdraw() {
        tracing::warn!(error = %error, "server.json stays behind");
    }
    std::process::exit(1)
}

/// Stops everything in order. Clients get their answers, then the log closes, then the state is
/// written down.
async fn stop(
    opened: &Opened,
    api: ApiServer,
    management: ManagementServer,
    deadline: Deadline,
) -> Result<(), Failure> {
    api.stop().await;
    tracing::info!("all requests are answered");
    let (logs, projector) = (opened.logs.clone(), Arc::clone(&opened.projector));
    let traces = opened.traces.clone();
    let stopped = tokio::task::spawn_blocking(move || {
        let closed = logs.close(|| deadline.left());
        // A log that failed still has what it acknowledged: fold and keep that.
        let stopped = projector.stop(deadline.left());
        let exported = logs.close_dead_letters(deadline.left());
        if let Some(traces) = traces {
            // What comes after it needs time as well.
            traces.stop(deadline.left() / 2);
        }
        closed.map_err(|error| Failure::run(format!("the log was not closed cleanly: {error}")))?;
        if let Err(error) = exported {
            tracing::warn!(%error, "dead letters were not all exported; the state has them");
        }
        stopped.map_err(|error| {
            let why = failure::with_causes(&error);
            Failure::run(format!(
                "the state was not written down; the next start replays the log: {why}"
            ))
        })
    });
    let stopped = stopped.await.map_err(Failure::of)?;
    management.stop().await;
    stopped
}
