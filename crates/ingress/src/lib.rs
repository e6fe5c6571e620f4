//! HTTP in: who asks, whether what they ask for exists, and what they are answered.
//!
//! - [`api`]: the public API; start here
//! - [`auth`]: API keys, and whom a request comes from
//! - [`catalogue`]: which resources exist
//! - [`inspect`]: logs and state as lines of JSON
//! - `metrics`: what Prometheus sees, described
//! - [`management`]: the second listener: metrics, health, administration
//! - [`traces`]: spans of requests, for whoever collects them

pub mod api;
pub mod auth;
pub mod catalogue;
mod clock;
pub mod inspect;
pub mod management;
#[cfg(test)]
mod memory_log;
mod metrics;
mod supervise;
pub mod traces;
#[cfg(test)]
mod wait;

pub use metrics::METRICS;

pub use api::server::{ApiOptions, ApiParts, ApiServer, CatalogueMode, StartError, start_api};
