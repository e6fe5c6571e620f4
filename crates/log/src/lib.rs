//! The event log: one contract, and what keeps it.
//!
//! - [`contract`]: what a log promises, and the traits that say so; start here
//! - [`batch`]: how records come out of a log
//! - [`blocking`]: appending, for whoever has a thread to wait on
//! - [`embedded`]: the durable log in files of our own; its byte layout is in [`embedded::layout`]
//! - [`kafka`]: a topic of a Kafka cluster as a log
//! - [`limited`]: a log up to given offsets, no faster than a rate
//! - [`metric`]: how a metric is described, for every crate's own
//! - [`storage`]: the narrow seam through which every file is touched
//! - `simulation`: a disk that forgets what was not synced, for tests, behind the feature of that name
//! - `conformance`: the suite that every implementation must pass, behind the feature of that name

pub mod batch;
pub mod blocking;
mod bounds;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod contract;
pub mod embedded;
pub mod kafka;
pub mod limited;
pub mod metric;
mod metrics;
#[cfg(feature = "simulation")]
pub mod simulation;
pub mod storage;
mod trace;

pub use batch::{Batch, BatchRecord};
pub use contract::{
    AppendDone, AppendError, AppendRefused, EventLog, LogHealth, LogIdentity, LogReader, NewRecord,
    OneRecord, ReadError, TruncateError, Truncated,
};
pub use limited::LimitedLog;
pub use metrics::{LogMetrics, METRICS};
pub use trace::{NotATraceParent, TraceParent};
