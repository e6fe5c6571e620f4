//! The public API. In reading order:
//!
//! - [`server`]: the listener, started, bounded and stopped
//! - `service`: one request, from its head to its answer; `route` says where it goes
//! - `interact`: recording an interaction: `payload` reads the body, `json`, `integer` and `body`
//!   say what is in it, `ingest` brings it into the log and back, `batch` gathers appends
//! - `resources`: reading a resource's state
//! - `answer` and `error`: every answer there is
//! - `docs` and `openapi`: what there is to read about the API
//! - `cors`, `request_id`, `metrics`: what goes with every request

mod answer;
mod batch;
mod body;
mod cors;
mod docs;
mod error;
mod ingest;
mod integer;
mod interact;
mod json;
pub(crate) mod metrics;
mod openapi;
mod payload;
mod request_id;
mod resources;
pub(crate) mod route;
pub mod server;
mod service;
