//! How far a rebuild is, mostly of another process beside this server, and the swap at its end.

use std::time::{Duration, Instant};

use actix_web::{HttpResponse, web};
use parking_lot::Mutex;
use prometheus::{Gauge, Registry};
use serde::{Deserialize, Serialize};
use tally_domain::Partition;
use tally_log::metric::Declare;
use tally_projector::error::with_causes;
use tally_projector::swap::Incoming;

use super::{Detail, Management, admin, health};
use crate::metrics::{REBUILD_RATIO, REBUILD_REMAINING};

/// A rebuild that has said nothing for so long is taken for ended.
const SILENT_AFTER: Duration = Duration::from_secs(15);

/// How far a rebuild is, as the command tells it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RebuildProgress {
    /// What it is at, in a few words.
    pub step: String,
    /// Events folded.
    pub events: u64,
    /// Of so many that the log holds.
    pub of: u64,
    /// Events a second, lately.
    pub rate: f64,
    /// Until it has caught up, in seconds, where that can be said.
    pub remaining_seconds: Option<f64>,
}

impl RebuildProgress {
    /// After so many events, of so many, since it began.
    #[must_use]
    pub fn since(began: Instant, step: &str, events: u64, of: u64) -> Self {
        let (done, left) = (number(events), number(of.saturating_sub(events)));
        let rate = done / began.elapsed().as_secs_f64();
        Self {
            step: step.to_owned(),
            events,
            of,
            rate,
            remaining_seconds: (rate > 0.0).then_some(left / rate),
        }
    }
}

/// What this server knows of it.
pub(super) struct Rebuild {
    ratio: Gauge,
    remaining: Gauge,
    said: Mutex<Option<(Instant, RebuildProgress)>>,
}

impl Rebuild {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let declare = Declare::with(registry);
        Ok(Self {
            ratio: declare.float_gauge(&REBUILD_RATIO)?,
            remaining: declare.float_gauge(&REBUILD_REMAINING)?,
            said: Mutex::default(),
        })
    }

    /// What was said last, where that is not long ago.
    pub(super) fn now(&self) -> Option<RebuildProgress> {
        let mut said = self.said.lock();
        let fresh = |(at, _): &(Instant, RebuildProgress)| at.elapsed() < SILENT_AFTER;
        if !said.as_ref().is_some_and(fresh) {
            *said = None;
        }
        said.as_ref().map(|(_, progress)| progress.clone())
    }

    /// Brings the gauges up to date, before a scrape.
    pub(super) fn refresh_metrics(&self) {
        let now = self.now();
        let part = |progress: &RebuildProgress| match progress.of {
            0 => 1.0,
            of => (number(progress.events) / number(of)).min(1.0),
        };
        self.ratio.set(now.as_ref().map_or(0.0, part));
        let remaining = now.and_then(|progress| progress.remaining_seconds);
        self.remaining.set(remaining.unwrap_or_default());
    }
}

#[expect(clippy::cast_precision_loss, reason = "it is for a ratio")]
fn number(count: u64) -> f64 {
    count as f64
}

impl Management {
    /// Says how far a rebuild is that this server makes itself; `None` that it has ended.
    pub fn rebuilding(&self, progress: Option<RebuildProgress>) {
        *self.rebuild.said.lock() = progress.map(|progress| (Instant::now(), progress));
    }
}

/// The progress of the rebuild that runs, or `null`.
pub(super) async fn show(management: web::Data<Management>) -> HttpResponse {
    HttpResponse::Ok().json(management.rebuild.now())
}

/// The command says how far it is; `null` says that it has ended.
pub(super) async fn tell(
    management: web::Data<Management>,
    progress: web::Json<Option<RebuildProgress>>,
) -> HttpResponse {
    management.rebuilding(progress.into_inner());
    HttpResponse::Ok().json(serde_json::Value::Null)
}

/// Which state shall take its place.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Swap {
    /// See [`Incoming`].
    pub incoming: Incoming,
}

/// The partition that is to be folded from the log's beginning.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seed {
    /// Its number.
    pub without: Partition,
}

/// Makes the beginning of a rebuild of one partition.
pub(super) async fn seed(management: web::Data<Management>, seed: web::Json<Seed>) -> HttpResponse {
    if let Some(answer) = admin::starting(&management) {
        return answer;
    }
    let seeded = web::block(move || {
        let parts = management.parts.get()?;
        Some(parts.projector.seed(seed.without))
    });
    match seeded.await {
        Ok(Some(Ok(()))) => HttpResponse::Ok().json(serde_json::Value::Null),
        Ok(Some(Err(error))) => HttpResponse::Conflict().json(Detail::new(format!(
            "The state can't be copied: {}",
            with_causes(&error)
        ))),
        Ok(None) => health::failed("the parts are gone"),
        Err(error) => health::failed(&error.to_string()),
    }
}

/// Puts a state that is ready in the place of the one that serves.
pub(super) async fn swap(management: web::Data<Management>, swap: web::Json<Swap>) -> HttpResponse {
    if let Some(answer) = admin::starting(&management) {
        return answer;
    }
    let incoming = swap.incoming;
    let swapped = web::block(move || {
        let parts = management.parts.get()?;
        Some(parts.projector.swap(incoming))
    });
    match swapped.await {
        Ok(Some(Ok(()))) => HttpResponse::Ok().json(serde_json::Value::Null),
        Ok(Some(Err(error))) => {
            let becomes = if error.passes() {
                "The new state can't be opened yet, and is tried on"
            } else {
                "The new state is not used, and the one before serves on"
            };
            let why = with_causes(&error);
            HttpResponse::Conflict().json(Detail::new(format!("{becomes}: {why}")))
        }
        Ok(None) => health::failed("the parts are gone"),
        Err(error) => health::failed(&error.to_string()),
    }
}
