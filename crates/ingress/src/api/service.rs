//! One request, from its head to its answer: what is the same for every route.
//!
//! There is one service and no middleware: order matters (route, authenticate, method, then what
//! the route does), every answer carries a request id, whatever failed, and layers cost.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{ALLOW, HeaderValue};
use actix_web::{HttpRequest, HttpResponse};
use futures_util::FutureExt;
use tally_domain::Resource;
use tally_log::EventLog;
use tally_projector::Projector;

use super::docs::Docs;
use super::error::ApiError;
use super::ingest::Ingest;
use super::interact::interact;
use super::metrics::Metrics;
use super::payload::RequestBody;
use super::request_id::{RequestIds, X_REQUEST_ID};
use super::request_trace::{RequestTrace, Tracer};
use super::resources;
use super::route::Route;
use super::server::{ApiOptions, CatalogueMode};
use crate::auth::Authenticator;
use crate::catalogue::Catalogue;
use crate::traces::Traces;

/// What all threads share.
pub(crate) struct Api {
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) projector: Arc<Projector>,
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) options: ApiOptions,
    pub(crate) metrics: Metrics,
    pub(crate) docs: Docs,
    pub(crate) traces: Option<Traces>,
}

impl Api {
    /// Whether a resource exists.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] where it does not.
    pub(crate) fn look_up(&self, resource: Resource) -> Result<(), ApiError> {
        let there = match self.options.catalogue_mode {
            CatalogueMode::Open => true,
            CatalogueMode::Registered => self.catalogue.contains(resource),
        };
        if there {
            Ok(())
        } else {
            Err(ApiError::NotFound)
        }
    }
}

/// What one thread has for itself.
pub(crate) struct Worker {
    pub(crate) api: Arc<Api>,
    pub(crate) ingest: Ingest,
    pub(crate) request_ids: RequestIds,
    pub(crate) tracer: Tracer,
}

/// Counts a request as in flight while it lives, however it ends.
struct InFlight<'a>(&'a Metrics);

impl<'a> InFlight<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        metrics.in_flight.inc();
        Self(metrics)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.dec();
    }
}

/// Answers a request, always.
pub(crate) async fn serve(worker: Rc<Worker>, request: ServiceRequest) -> ServiceResponse {
    let started = Instant::now();
    let metrics = &worker.api.metrics;
    let _in_flight = InFlight::new(metrics);
    let (request, payload) = request.into_parts();
    let mut body = RequestBody::new(&request, payload);
    let id = worker.request_ids.of(request.headers());
    let route = Route::of(request.path());
    let trace = worker.tracer.begin(request.headers(), started);
    let answering = dispatch(&worker, route, &request, &mut body, trace.as_deref());
    let answered = guarded(answering).await;
    let mut response = answered.unwrap_or_else(|error| {
        let request_id = id.to_str().unwrap_or_default();
        if let ApiError::Internal(why) = &error {
            tracing::error!(request_id, why, "a request failed");
        } else {
            tracing::debug!(request_id, %error, "a request was refused");
        }
        error.answer(request.headers())
    });
    if let Some(trace) = &trace {
        let answered = (route, request.method(), response.status());
        let request_id = id.to_str().unwrap_or_default();
        worker.tracer.finish(trace, answered, request_id);
    }
    response.headers_mut().insert(X_REQUEST_ID, id);
    metrics.answered(
        route,
        request.method(),
        response.status(),
        started.elapsed(),
    );
    ServiceResponse::new(request, body.answer(response))
}

/// A panic is an answer like any other fault of ours, and ends no connection.
async fn guarded(
    work: impl Future<Output = Result<HttpResponse, ApiError>>,
) -> Result<HttpResponse, ApiError> {
    // What a panic may leave half done lives no longer than its request.
    let work = std::panic::AssertUnwindSafe(work).catch_unwind().await;
    work.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        let text = text.unwrap_or_else(|| "it said nothing".to_owned());
        Err(ApiError::Internal(format!("a panic: {text}")))
    })
}

async fn dispatch(
    worker: &Worker,
    route: Route,
    request: &HttpRequest,
    body: &mut RequestBody,
    traced: Option<&RequestTrace>,
) -> Result<HttpResponse, ApiError> {
    let (api, method) = (&worker.api, request.method());
    if route == Route::None {
        return Err(ApiError::NotFound);
    }
    if *method == Method::OPTIONS {
        return Ok(options(route));
    }
    let user = if route.authenticated() {
        let user = api.authenticator.authenticate_patiently(request.headers());
        Some(user.await.map_err(|error| {
            api.metrics.not_authenticated(error);
            ApiError::from(error)
        })?)
    } else {
        None
    };
    if !route.allows(method) {
        let (method, allow) = (method.as_str().to_owned(), route.allow());
        return Err(ApiError::MethodNotAllowed { method, allow });
    }
    match (route, user) {
        (Route::Interact, Some(user)) => interact(worker, user, request, body, traced).await,
        // These are rare, and larger than the rest: they need not make every request large.
        (Route::Resource(resource), Some(user)) => {
            if let (Some(trace), Some(resource)) = (traced, resource) {
                trace.asks(resource, None);
            }
            Box::pin(resources::read(worker, user, resource, request)).await
        }
        (Route::OpenApi, _) => Ok(api.docs.description()),
        (Route::Docs, _) => api.docs.file(request.path()),
        (Route::Interact | Route::Resource(_) | Route::None, _) => Err(ApiError::NotFound),
    }
}

fn options(route: Route) -> HttpResponse {
    HttpResponse::NoContent()
        .insert_header((ALLOW, HeaderValue::from_static(route.allow())))
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects clients from a connection that just ends, and the answer from telling why.
    #[actix_web::test]
    async fn a_panic_is_an_internal_error() {
        let failed = guarded(async { panic!("as {} wants it", "the test") }).await;
        match failed.map(drop) {
            Err(ApiError::Internal(why)) => assert_eq!(why, "a panic: as the test wants it"),
            other => panic!("{other:?}"),
        }
    }
}
