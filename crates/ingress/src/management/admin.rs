//! `/admin/…`: what the command asks of a running server. Lines come from [`crate::inspect`], so
//! they are the same as when the command opens the folder itself.

use std::sync::Arc;

use actix_web::dev::HttpServiceFactory;
use actix_web::middleware::from_fn;
use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};
use tally_domain::{
    DeadLetterReason, Offset, Partition, Position, Resource, ResourceId, ResourceType, SettleAction,
};

use super::guard::{self, Guard, Purpose};
use super::{Detail, Management, Parts, health, rebuild, stream};
use crate::catalogue::{Catalogue, CatalogueError};
use crate::inspect::{self, DeadLetterList, InspectError, LogCat, Settling, Truncating};

/// The largest body, in bytes.
pub(super) const MAX_BODY: usize = 4 << 20;
/// The most resources in one request.
pub const MAX_RESOURCES: usize = 10_000;

/// How the two logs are called in what is written about them.
pub const INTERACTIONS: &str = "interactions";
/// See [`INTERACTIONS`].
pub const CATALOGUE: &str = "catalogue";

pub(super) fn routes(guard: Arc<Guard>) -> impl HttpServiceFactory {
    web::scope("/admin")
        .app_data(
            web::JsonConfig::default()
                .limit(MAX_BODY)
                .error_handler(|error, _| bad_request(error)),
        )
        .app_data(web::QueryConfig::default().error_handler(|error, _| bad_request(error)))
        .app_data(web::PathConfig::default().error_handler(|error, _| bad_request(error)))
        .wrap(from_fn(move |request, next| {
            guard::guarded(Arc::clone(&guard), Purpose::Administer, request, next)
        }))
        .route("/log/cat", web::get().to(log_cat))
        .route("/log/info", web::get().to(log_info))
        .route("/log/check", web::get().to(log_check))
        .route("/state/cat", web::get().to(state_cat))
        .route("/state/info", web::get().to(state_info))
        .route("/state/partitions/{partition}", web::get().to(partition))
        .route("/state/seed", web::post().to(rebuild::seed))
        .route("/state/swap", web::post().to(rebuild::swap))
        .route("/log/truncate", web::post().to(truncate))
        .route("/snapshots", web::post().to(take_snapshots))
        .route("/rebuild", web::get().to(rebuild::show))
        .route("/rebuild", web::post().to(rebuild::tell))
        .route("/dead-letters", web::get().to(dead_letters))
        .route(
            "/dead-letters/{partition}/{offset}",
            web::get().to(dead_letter),
        )
        .route("/dead-letters/replay", web::post().to(replay_dead_letters))
        .route("/dead-letters/drop", web::post().to(drop_dead_letters))
        .route("/resources", web::get().to(list_resources))
        .route("/resources", web::post().to(change_resources))
}

fn bad_request(error: impl std::fmt::Display + std::fmt::Debug + 'static) -> actix_web::Error {
    let answer = HttpResponse::BadRequest().json(Detail::new(error.to_string()));
    actix_web::error::InternalError::from_response(error, answer).into()
}

/// The answer while not everything is open yet.
pub(super) fn starting(management: &Management) -> Option<HttpResponse> {
    if management.parts.get().is_some() {
        return None;
    }
    let step = *management.step.lock();
    let answer = HttpResponse::ServiceUnavailable()
        .insert_header(("Retry-After", "1"))
        .json(Detail::new(format!("The server is starting: {step}.")));
    Some(answer)
}

/// Streams what `work` writes, where everything is open.
fn streamed(
    management: web::Data<Management>,
    work: impl FnOnce(&Parts, &mut dyn std::io::Write, &dyn Fn() -> bool) -> Result<(), InspectError>
    + Send
    + 'static,
) -> HttpResponse {
    if let Some(answer) = starting(&management) {
        return answer;
    }
    stream::lines(management, |management, out, stop| {
        management
            .parts
            .get()
            .map_or(Err(InspectError::Stopped), |parts| work(parts, out, stop))
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogCatQuery {
    partition: Option<Partition>,
    from: Option<Offset>,
    #[serde(default)]
    follow: bool,
}

async fn log_cat(
    management: web::Data<Management>,
    query: web::Query<LogCatQuery>,
) -> HttpResponse {
    let LogCatQuery {
        partition,
        from,
        follow,
    } = *query;
    if from.is_some() && partition.is_none() {
        return HttpResponse::BadRequest().json(Detail::new("from needs a partition."));
    }
    let cat = LogCat {
        partition,
        from,
        follow,
    };
    streamed(management, move |parts, out, stop| {
        inspect::log_cat(parts.log.as_ref(), cat, out, stop)
    })
}

async fn log_info(management: web::Data<Management>) -> HttpResponse {
    streamed(management, |parts, out, _| {
        inspect::log_info(parts.log.as_ref(), INTERACTIONS, out)?;
        inspect::log_info(parts.catalogue_log.as_ref(), CATALOGUE, out)
    })
}

async fn log_check(management: web::Data<Management>) -> HttpResponse {
    streamed(management, |parts, out, stop| {
        inspect::log_check(parts.log.as_ref(), INTERACTIONS, out, stop)?;
        inspect::log_check(parts.catalogue_log.as_ref(), CATALOGUE, out, stop)
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StateCatQuery {
    #[serde(default)]
    toggles: bool,
}

async fn state_cat(
    management: web::Data<Management>,
    query: web::Query<StateCatQuery>,
) -> HttpResponse {
    let StateCatQuery { toggles } = *query;
    streamed(management, move |parts, out, stop| {
        let dump = inspect::dump(&parts.projector, stop)?;
        inspect::state_cat(&dump, toggles, out)
    })
}

async fn state_info(management: web::Data<Management>) -> HttpResponse {
    streamed(management, |parts, out, stop| {
        let summary = inspect::summary(&parts.projector, stop)?;
        inspect::state_info(parts.log.as_ref(), &summary, out)
    })
}

async fn partition(
    management: web::Data<Management>,
    partition: web::Path<Partition>,
) -> HttpResponse {
    streamed(management, move |parts, out, stop| {
        if parts.projector.is_renewing() {
            // A beginning of the new state is no proof of anything.
            inspect::catch_up(&parts.projector, stop)?;
        }
        let dump = parts.projector.dump_partition(*partition)?;
        inspect::partition_cat(&dump, out)
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeadLettersQuery {
    partition: Option<Partition>,
    from: Option<Offset>,
    reason: Option<DeadLetterReason>,
}

async fn dead_letters(
    management: web::Data<Management>,
    query: web::Query<DeadLettersQuery>,
) -> HttpResponse {
    let DeadLettersQuery {
        partition,
        from,
        reason,
    } = *query;
    if from.is_some() && partition.is_none() {
        return HttpResponse::BadRequest().json(Detail::new("from needs a partition."));
    }
    let list = DeadLetterList {
        partition,
        from,
        reason,
    };
    streamed(management, move |parts, out, stop| {
        inspect::dead_letters(&parts.projector, list, out, stop)
    })
}

async fn dead_letter(
    management: web::Data<Management>,
    place: web::Path<(Partition, Offset)>,
) -> HttpResponse {
    let (partition, offset) = *place;
    streamed(management, move |parts, out, stop| {
        let position = Position { partition, offset };
        inspect::dead_letter(&parts.projector, position, out, stop)
    })
}

async fn replay_dead_letters(
    management: web::Data<Management>,
    settling: web::Json<Settling>,
) -> HttpResponse {
    settle(management, SettleAction::Replay, *settling)
}

async fn drop_dead_letters(
    management: web::Data<Management>,
    settling: web::Json<Settling>,
) -> HttpResponse {
    settle(management, SettleAction::Drop, *settling)
}

fn settle(
    management: web::Data<Management>,
    action: SettleAction,
    settling: Settling,
) -> HttpResponse {
    if settling.offset.is_some() && settling.partition.is_none() {
        return HttpResponse::BadRequest().json(Detail::new("offset needs a partition."));
    }
    streamed(management, move |parts, out, stop| {
        inspect::settle(&parts.projector, action, settling, out, stop)
    })
}

async fn truncate(
    management: web::Data<Management>,
    truncating: web::Json<Truncating>,
) -> HttpResponse {
    let truncating = truncating.into_inner();
    streamed(management, move |parts, out, _| {
        inspect::truncate(&parts.projector, parts.log.as_ref(), truncating, out)
    })
}

async fn take_snapshots(management: web::Data<Management>) -> HttpResponse {
    streamed(management, |parts, out, _| {
        inspect::take_snapshots(&parts.projector, out)
    })
}

async fn list_resources(management: web::Data<Management>) -> HttpResponse {
    streamed(management, |parts, out, _| {
        inspect::resources(parts.catalogue.list(), out)
    })
}

/// A change to the catalogue, as the command sends it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResourceChange {
    /// What to do.
    pub action: ResourceAction,
    /// With which resources, at most [`MAX_RESOURCES`].
    pub resources: Vec<ResourceEntry>,
}

/// What to do with resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResourceAction {
    /// Make them exist.
    Add,
    /// Make them not exist; their events and counters stay.
    Retire,
}

/// One resource, as it stands in files and requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceEntry {
    /// What kind of content.
    pub resource_type: ResourceType,
    /// Which one of that kind.
    pub resource_id: ResourceId,
}

impl From<ResourceEntry> for Resource {
    fn from(entry: ResourceEntry) -> Self {
        Self {
            kind: entry.resource_type,
            id: entry.resource_id,
        }
    }
}

impl From<Resource> for ResourceEntry {
    fn from(resource: Resource) -> Self {
        Self {
            resource_type: resource.kind,
            resource_id: resource.id,
        }
    }
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ResourcesChanged {
    /// How many resources it changed.
    pub changed: usize,
    /// How many were so already.
    pub unchanged: usize,
}

async fn change_resources(
    management: web::Data<Management>,
    change: web::Json<ResourceChange>,
) -> HttpResponse {
    if let Some(answer) = starting(&management) {
        return answer;
    }
    let ResourceChange { action, resources } = change.into_inner();
    if resources.len() > MAX_RESOURCES {
        let detail = format!("At most {MAX_RESOURCES} resources in one request.");
        return HttpResponse::PayloadTooLarge().json(Detail::new(detail));
    }
    let changed = web::block(move || {
        let parts = management.parts.get()?;
        let resources: Vec<Resource> = resources.into_iter().map(Resource::from).collect();
        Some(apply(&parts.catalogue, action, &resources))
    });
    match changed.await {
        Ok(Some(Ok(changed))) => HttpResponse::Ok().json(changed),
        Ok(Some(Err(error))) => {
            let answer = Detail::new(format!("The catalogue can't be changed: {error}"));
            HttpResponse::ServiceUnavailable()
                .insert_header(("Retry-After", "1"))
                .json(answer)
        }
        Ok(None) => health::failed("the parts are gone"),
        Err(error) => health::failed(&error.to_string()),
    }
}

/// Makes a change; blocks until the catalogue has it.
///
/// # Errors
/// [`CatalogueError`] where the log of the catalogue does not take it.
pub fn apply(
    catalogue: &Catalogue,
    action: ResourceAction,
    resources: &[Resource],
) -> Result<ResourcesChanged, CatalogueError> {
    let changed = match action {
        ResourceAction::Add => catalogue.add(resources)?,
        ResourceAction::Retire => catalogue.retire(resources)?,
    };
    let unchanged = resources.len().saturating_sub(changed);
    Ok(ResourcesChanged { changed, unchanged })
}
