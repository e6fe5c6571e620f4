//! The second listener: metrics, health, and administration.
//!
//! It is up before anything else, so that a probe gets an answer while a log is opened or
//! replayed, and it is the last to go.
//!
//! - [`readiness`]: whether this server should get requests
//! - `health`: `/livez`, `/readyz`, `/metrics`
//! - [`admin`]: `/admin/…`, what the command asks of a running server
//! - [`rebuild`]: a rebuild that another process makes, and the swap at its end
//! - `head`: where the log ends, asked for by one at a time
//! - `guard`: who may administer and watch: this host, or an admin key, and no foreign page
//! - `live`: the live page at `/`, and the numbers that it shows
//! - [`stream`]: long answers from blocking code, bounded

pub mod admin;
mod guard;
mod head;
mod health;
mod live;
pub mod readiness;
pub mod rebuild;
pub mod stream;

use std::io;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use actix_web::dev::{Server, ServerHandle};
use actix_web::http::header::HeaderMap;
use actix_web::{App, HttpResponse, HttpServer, web};
use parking_lot::{Condvar, Mutex};
use prometheus::{IntGauge, Registry};
use tally_log::EventLog;
use tally_log::metric::Declare;
use tally_projector::Projector;
use tokio::sync::Semaphore;

use crate::auth::Authenticator;
use crate::catalogue::Catalogue;
use crate::metrics::{CATALOGUE_RESOURCES, CATALOGUE_SKIPPED, READY};
use crate::supervise;
pub(crate) use guard::Refusal;
use guard::{Guard, Refusals};
use head::Heads;
use live::Live;
use readiness::{Code, Reason, Sample, StallWatch, judge};
use rebuild::Rebuild;

/// How many long answers may be under way at once.
const MAX_STREAMS: usize = 8;
/// How long a stop waits for them.
const STREAMS_LIMIT: Duration = Duration::from_secs(1);
/// The pause between two looks at log and fold.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a scrape waits for the log to say where its head is.
const HEAD_LIMIT: Duration = Duration::from_millis(25);

/// What there is to look at, once it is open.
pub struct Parts {
    /// The log of interactions.
    pub log: Arc<dyn EventLog>,
    /// The log of the catalogue.
    pub catalogue_log: Arc<dyn EventLog>,
    /// The fold and the state.
    pub projector: Arc<Projector>,
    /// Which resources exist.
    pub catalogue: Arc<Catalogue>,
}

/// What the management API shows and does; shared with whoever starts and stops the server.
pub struct Management {
    registry: Registry,
    ready: IntGauge,
    resources: IntGauge,
    skipped: IntGauge,
    rebuild: Rebuild,
    stalled_after: Duration,
    parts: OnceLock<Parts>,
    /// Who may administer from elsewhere, once the keys are read.
    authenticator: OnceLock<Arc<Authenticator>>,
    refusals: Refusals,
    live: Live,
    serving: AtomicBool,
    draining: AtomicBool,
    /// What is being opened, in a few words.
    step: Mutex<&'static str>,
    watch: Mutex<StallWatch>,
    heads: Heads,
    streams: Arc<Semaphore>,
    /// Set when the watching thread shall end.
    ended: Mutex<bool>,
    wake: Condvar,
    /// Set when it shall look at once.
    look_now: AtomicBool,
}

impl Management {
    /// The state of a server that has just begun to start.
    ///
    /// # Errors
    /// Where a metric of that name is registered already.
    pub fn new(registry: Registry, stalled_after: Duration) -> prometheus::Result<Arc<Self>> {
        let declare = Declare::with(&registry);
        Ok(Arc::new(Self {
            rebuild: Rebuild::register(&registry)?,
            refusals: Refusals::register(&registry)?,
            live: Live::default(),
            authenticator: OnceLock::new(),
            ready: declare.gauge(&READY)?,
            resources: declare.gauge(&CATALOGUE_RESOURCES)?,
            skipped: declare.gauge(&CATALOGUE_SKIPPED)?,
            registry,
            stalled_after,
            parts: OnceLock::new(),
            serving: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            step: Mutex::new("the process has started"),
            watch: Mutex::default(),
            heads: Heads::new(),
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            ended: Mutex::new(false),
            wake: Condvar::new(),
            look_now: AtomicBool::new(false),
        }))
    }

    /// Says what is being opened, for `/readyz`.
    pub fn opening(&self, what: &'static str) {
        *self.step.lock() = what;
    }

    /// Hands over who knows the admin keys, once.
    pub fn knows_keys(&self, authenticator: Arc<Authenticator>) {
        // A second call would ask others than the API does.
        let first = self.authenticator.set(authenticator);
        debug_assert!(first.is_ok(), "keys are handed over once");
    }

    /// Whether there is an admin key with a request.
    fn admin_key(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let authenticator = self.authenticator.get().ok_or(Refusal::Starting)?;
        authenticator.admin(headers).map_err(Refusal::Key)
    }

    /// Hands over what was opened, once.
    pub fn opened(&self, parts: Parts) {
        // A second call would show something else than what serves.
        let first = self.parts.set(parts);
        debug_assert!(first.is_ok(), "parts are handed over once");
    }

    /// Says that the public API serves.
    pub fn serving(&self) {
        self.serving.store(true, Ordering::Release);
    }

    /// Says that the server is stopping: not ready from now on, and streams that follow end.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.live.wake();
    }

    /// Whether the server is stopping.
    #[must_use]
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Why the server should get no requests; empty where it should. Asks the log itself, so it
    /// may block; an answer of the log that came after `asked_at` is as good.
    pub fn reasons(&self, asked_at: Instant) -> Vec<Reason> {
        let mut reasons = self.look(asked_at);
        if self.draining() {
            reasons.insert(0, Reason::new(Code::Draining, "the server is stopping"));
        }
        self.ready.set(i64::from(reasons.is_empty()));
        reasons
    }

    fn look(&self, asked_at: Instant) -> Vec<Reason> {
        let Some(parts) = self.parts.get() else {
            return vec![Reason::new(Code::Starting, *self.step.lock())];
        };
        let sample = Sample {
            head: self
                .heads
                .ask(parts.log.as_ref(), &parts.projector, asked_at),
            catalogue: parts.catalogue.failure(),
            health: parts.log.health(),
            log_stalled_for: parts.log.stalled_for(),
            status: parts.projector.status(),
        };
        let mut watch = self.watch.lock();
        let mut reasons = judge(&mut watch, &sample, Instant::now(), self.stalled_after);
        if !self.serving.load(Ordering::Acquire) {
            let detail = "the public API is not open yet";
            reasons.insert(0, Reason::new(Code::Starting, detail));
        }
        reasons
    }

    /// Has the log asked for its head now, by the thread that does so anyhow, and waits for the answer:
    /// but a moment only, since a log that is away must not keep anybody from seeing that.
    async fn look_now(&self) {
        if self.parts.get().is_none() {
            return;
        }
        let asked_at = Instant::now();
        self.look_now.store(true, Ordering::Release);
        // That thread waits with this lock, or looks at what was just stored before it does.
        drop(self.ended.lock());
        self.wake.notify_all();
        self.heads.newer_than(asked_at, HEAD_LIMIT).await;
    }

    /// How far the log is folded anew, while answers come from a state of another fold.
    fn stale(&self) -> Option<String> {
        let parts = self.parts.get()?;
        readiness::stale(&parts.projector.status())
    }

    /// Brings up to date what is only looked at, before a scrape.
    fn refresh_metrics(&self) {
        self.rebuild.refresh_metrics();
        let Some(parts) = self.parts.get() else {
            return;
        };
        parts.projector.refresh_metrics();
        let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let resources = u64::try_from(parts.catalogue.len()).unwrap_or(u64::MAX);
        self.resources.set(count(resources));
        self.skipped.set(count(parts.catalogue.skipped()));
    }

    /// Looks now and then, so that standing still is noticed while nobody asks.
    fn watch(&self) {
        // A start is no news until it ends.
        let mut was_ready = false;
        let mut ended = self.ended.lock();
        while !*ended {
            drop(ended);
            let reasons = self.reasons(Instant::now());
            if std::mem::replace(&mut was_ready, reasons.is_empty()) != reasons.is_empty() {
                match serde_json::to_string(&reasons) {
                    Ok(reasons) if reasons != "[]" => tracing::info!(reasons, "not ready"),
                    _ => tracing::info!("ready"),
                }
            }
            ended = self.ended.lock();
            if !*ended && !self.look_now.swap(false, Ordering::AcqRel) {
                self.wake
                    .wait_for(&mut ended, LOOK_EVERY.min(self.stalled_after / 4));
            }
        }
    }
}

/// The running management API.
pub struct ManagementServer {
    handle: ServerHandle,
    management: Arc<Management>,
    watcher: Option<std::thread::JoinHandle<()>>,
}

impl ManagementServer {
    /// Closes the listener. Long answers get a moment to end by themselves, since they see that the
    /// server drains; what is under way then is dropped.
    pub async fn stop(mut self) {
        let all = u32::try_from(MAX_STREAMS).unwrap_or(u32::MAX);
        let ended = self.management.streams.acquire_many(all);
        // Whether they ended or not, it goes on.
        let _ = tokio::time::timeout(STREAMS_LIMIT, ended).await;
        *self.management.ended.lock() = true;
        self.management.wake.notify_all();
        self.handle.stop(false).await;
        if let Some(watcher) = self.watcher.take() {
            // A panic was reported when it happened.
            let _ = watcher.join();
        }
    }
}

/// Starts the management API on a listener, which is also reached by the names `hosts`. The returned future is the server itself, to be
/// spawned; it ends after [`ManagementServer::stop`].
///
/// # Errors
/// Where the listener can't be used or the watching thread can't be started.
pub fn start_management(
    listener: TcpListener,
    management: &Arc<Management>,
    hosts: Vec<String>,
) -> io::Result<(Server, ManagementServer)> {
    let guard = Guard::new(listener.local_addr()?, hosts);
    let state = web::Data::from(Arc::clone(management));
    let server = HttpServer::new(move || {
        App::new()
            .app_data(state.clone())
            .app_data(web::PayloadConfig::new(admin::MAX_BODY))
            .configure(health::routes)
            .service(admin::routes(Arc::clone(&guard)))
            .configure(|config| live::routes(config, &guard))
            .default_service(web::to(not_found))
    })
    .workers(1)
    .worker_max_blocking_threads(4)
    .max_connections(256)
    // A reader that is gone is noticed although there is nothing to write.
    .h1_allow_half_closed(false)
    .disable_signals()
    .shutdown_timeout(1)
    .listen(listener)?
    .run();
    let watched = Arc::clone(management);
    let watcher = std::thread::Builder::new()
        .name("tally-readiness".to_owned())
        .spawn(move || supervise::begin_again_after_panic("tally-readiness", || watched.watch()))?;
    let running = ManagementServer {
        handle: server.handle(),
        management: Arc::clone(management),
        watcher: Some(watcher),
    };
    Ok((server, running))
}

async fn not_found() -> HttpResponse {
    HttpResponse::NotFound().json(Detail::new("Not found."))
}

/// An error's body.
#[derive(serde::Serialize)]
struct Detail {
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
}

impl Detail {
    fn new(detail: impl Into<String>) -> Self {
        Self::coded(None, detail)
    }

    fn coded(code: Option<&'static str>, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { detail, code }
    }
}

#[cfg(test)]
mod tests;
