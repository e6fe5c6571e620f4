//! `/livez`, `/readyz` and `/metrics`: for probes and Prometheus, from anywhere.

use std::time::Instant;

use actix_web::http::header;
use actix_web::{HttpResponse, web};
use prometheus::{Encoder, TextEncoder};
use serde::Serialize;

use super::readiness::Reason;
use super::{Detail, Management};

pub(super) fn routes(config: &mut web::ServiceConfig) {
    // Some load balancers ask with HEAD.
    let livez_page = web::resource("/livez").route(web::get().to(livez));
    let readyz_page = web::resource("/readyz").route(web::get().to(readyz));
    let metrics_page = web::resource("/metrics").route(web::get().to(metrics));
    config
        .service(livez_page.route(web::head().to(livez)))
        .service(readyz_page.route(web::head().to(readyz)))
        .service(metrics_page.route(web::head().to(metrics)));
}

#[derive(Serialize)]
struct Status {
    status: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reasons: Vec<Reason>,
    /// How far the log is folded anew, while answers come from the state before.
    #[serde(skip_serializing_if = "Option::is_none")]
    stale: Option<String>,
}

async fn livez() -> HttpResponse {
    HttpResponse::Ok().json(Status {
        status: "alive",
        reasons: Vec::new(),
        stale: None,
    })
}

async fn readyz(management: web::Data<Management>) -> HttpResponse {
    // Asking a log for its head may block.
    let asked_at = Instant::now();
    let looked = web::block(move || (management.reasons(asked_at), management.stale()));
    match looked.await {
        Ok((reasons, stale)) if reasons.is_empty() => HttpResponse::Ok().json(Status {
            status: "ready",
            reasons,
            stale,
        }),
        Ok((reasons, stale)) => HttpResponse::ServiceUnavailable().json(Status {
            status: "not_ready",
            reasons,
            stale,
        }),
        Err(error) => failed(&error.to_string()),
    }
}

async fn metrics(management: web::Data<Management>) -> HttpResponse {
    let encoder = TextEncoder::new();
    let content_type = format!("{}; charset=utf-8", encoder.format_type());
    management.look_now().await;
    // Here, and not on a thread for what blocks: those may all wait for a log that is away.
    management.refresh_metrics();
    let mut text = Vec::new();
    match encoder.encode(&management.registry.gather(), &mut text) {
        Ok(()) => HttpResponse::Ok()
            .insert_header((header::CONTENT_TYPE, content_type))
            .body(text),
        Err(error) => failed(&error.to_string()),
    }
}

pub(super) fn failed(error: &str) -> HttpResponse {
    tracing::error!(error, "a management request failed");
    HttpResponse::InternalServerError().json(Detail::new("Internal server error."))
}
