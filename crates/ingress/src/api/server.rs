//! The public listener: how it is started, bounded and stopped.

use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::{Server, ServerHandle, Service, fn_service};
use actix_web::{App, Error, HttpServer};
use prometheus::Registry;
use tally_log::EventLog;
use tally_projector::Projector;

use super::cors;
use super::docs::Docs;
use super::ingest::{Ingest, WaitLimits};
use super::metrics::Metrics;
use super::request_id::RequestIds;
use super::request_trace::Tracer;
use super::service::{Api, Worker, serve};
use crate::auth::Authenticator;
use crate::catalogue::Catalogue;
use crate::traces::Traces;

/// How long the log may take to say what became of an event, at least.
const LOG_LIMIT: Duration = Duration::from_secs(10);
/// How long a connection that is being closed may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// Threads for reads that may block, per worker.
const BLOCKING_THREADS: usize = 8;

/// What the API is made of, all of it open.
pub struct ApiParts {
    /// The log of interactions.
    pub log: Arc<dyn EventLog>,
    /// The fold and the state.
    pub projector: Arc<Projector>,
    /// Which resources exist.
    pub catalogue: Arc<Catalogue>,
    /// Who may ask.
    pub authenticator: Arc<Authenticator>,
    /// Which requests are traced; `None`: none.
    pub traces: Option<Traces>,
}

/// How the API runs.
#[derive(Debug, Clone)]
pub struct ApiOptions {
    /// Threads that serve requests; 0: one per core.
    pub workers: usize,
    /// Open connections over all workers.
    pub max_connections: usize,
    /// The largest body, in bytes.
    pub max_body: usize,
    /// How long a client may take to send a request's head.
    pub head_timeout: Duration,
    /// How long a client may take to send a request's body.
    pub body_timeout: Duration,
    /// How long an idle connection is kept.
    pub keep_alive: Duration,
    /// How long requests at hand may take when the server stops; whole seconds, at least one.
    pub stop_limit: Duration,
    /// Origins whose pages may call the API; `*` is any. Empty: none.
    pub cors_origins: Vec<String>,
    /// How long a request waits for the fold.
    pub wait_limit: Duration,
    /// What makes a resource exist.
    pub catalogue_mode: CatalogueMode,
}

/// What makes a resource exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatalogueMode {
    /// Being in the catalogue.
    Registered,
    /// Having a valid id.
    Open,
}

/// Why the API can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A metric was registered twice.
    #[error("the API's metrics can't be registered")]
    Metrics(#[from] prometheus::Error),
    /// The listener can't be used.
    #[error("the API's listener can't be used")]
    Listener(#[source] io::Error),
    /// The description can't be written.
    #[error("the API's description can't be written")]
    Description(#[from] serde_json::Error),
}

/// The running API.
pub struct ApiServer {
    handle: ServerHandle,
}

impl ApiServer {
    /// Takes no new connections, finishes the requests at hand, and closes idle connections.
    pub async fn stop(self) {
        self.handle.stop(true).await;
    }
}

/// What every server here has, whatever its app: a macro, since the type of a server names the type
/// of its app, and that one can't be named.
macro_rules! listen {
    ($app:expr, $listener:expr, $options:expr) => {{
        let options: &ApiOptions = $options;
        let workers = options.worker_count();
        HttpServer::new($app)
            .workers(workers)
            .max_connections(options.max_connections.div_ceil(workers).max(1))
            .worker_max_blocking_threads(BLOCKING_THREADS)
            .client_request_timeout(options.head_timeout)
            .client_disconnect_timeout(CLOSE_LIMIT)
            .keep_alive(options.keep_alive)
            .tcp_nodelay(true)
            .disable_signals()
            .shutdown_timeout(options.stop_limit.as_secs().max(1))
            .listen($listener)
            .map_err(StartError::Listener)?
            .run()
    }};
}

impl ApiOptions {
    fn worker_count(&self) -> usize {
        if self.workers > 0 {
            return self.workers;
        }
        std::thread::available_parallelism().map_or(1, usize::from)
    }
}

/// Starts the public API on a listener. The returned future is the server itself, to be spawned;
/// it ends after [`ApiServer::stop`].
///
/// # Errors
/// [`StartError`].
pub fn start_api(
    listener: TcpListener,
    parts: ApiParts,
    options: ApiOptions,
    registry: &Registry,
) -> Result<(Server, ApiServer), StartError> {
    let api = Arc::new(Api {
        log: parts.log,
        projector: parts.projector,
        catalogue: parts.catalogue,
        authenticator: parts.authenticator,
        metrics: Metrics::register(registry)?,
        docs: Docs::new()?,
        traces: parts.traces,
        options: options.clone(),
    });
    let server = if options.cors_origins.is_empty() {
        let app = move || {
            let worker = worker(&api);
            App::new().default_service(fn_service(move |request| {
                let worker = Rc::clone(&worker);
                async move { Ok::<_, Error>(serve(worker, request).await) }
            }))
        };
        listen!(app, listener, &options)
    } else {
        let app = move || {
            let worker = worker(&api);
            let preflight = Rc::clone(&worker);
            App::new()
                .default_service(fn_service(move |request| {
                    let worker = Rc::clone(&worker);
                    async move { Ok::<_, Error>(serve(worker, request).await) }
                }))
                .wrap(cors::policy(&api.options.cors_origins))
                .wrap_fn(move |request, next| {
                    let id = preflight.request_ids.of(request.headers());
                    cors::finish(id, next.call(request))
                })
        };
        listen!(app, listener, &options)
    };
    let handle = server.handle();
    Ok((server, ApiServer { handle }))
}

/// What a thread has for itself; made on that thread.
fn worker(api: &Arc<Api>) -> Rc<Worker> {
    let limits = WaitLimits {
        verdict: api.options.wait_limit,
        log: api.options.wait_limit.max(LOG_LIMIT),
    };
    Rc::new(Worker {
        api: Arc::clone(api),
        ingest: Ingest::start(
            Arc::clone(&api.log),
            Arc::clone(&api.projector),
            limits,
            api.metrics.clone(),
        ),
        request_ids: RequestIds::new(),
        tracer: Tracer::new(api.traces.clone()),
    })
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
