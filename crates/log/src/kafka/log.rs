//! The Kafka log; the real one replaces this file.

use std::fmt;
use std::time::Duration;

use prometheus::Registry;
use tally_domain::{Offset, Position};

use super::{Finding, KafkaOptions, OpenError, Topic};
use crate::contract::{
    AppendDone, AppendError, AppendRefused, EventLog, LogHealth, LogIdentity, LogReader, NewRecord,
    ReadError,
};
use crate::metrics::LogMetrics;

/// Metrics of librdkafka.
#[derive(Debug, Clone)]
pub struct KafkaMetrics(());

impl KafkaMetrics {
    /// Registers everything, once for all logs.
    ///
    /// # Errors
    /// Where a name is taken.
    pub fn register(_: &Registry) -> prometheus::Result<Self> {
        Ok(Self(()))
    }
}

/// A topic as a log.
pub struct KafkaLog {
    identity: LogIdentity,
}

impl fmt::Debug for KafkaLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaLog").finish_non_exhaustive()
    }
}

impl KafkaLog {
    /// Opens a topic for a server; what was found is worth a warning.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(
        options: &KafkaOptions,
        _: &Topic,
        _: &str,
        _: &LogMetrics,
        _: &KafkaMetrics,
    ) -> Result<(Self, Vec<Finding>), OpenError> {
        Err(OpenError::Unreachable {
            servers: options.bootstrap_servers.clone(),
            why: format!("{} properties", options.properties.iter().count()),
        })
    }

    /// Opens a topic as it is, for a command.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_to_look(
        options: &KafkaOptions,
        topic: &Topic,
        name: &str,
        metrics: &LogMetrics,
        kafka: &KafkaMetrics,
    ) -> Result<(Self, Vec<Finding>), OpenError> {
        Self::open(options, topic, name, metrics, kafka)
    }
}

impl EventLog for KafkaLog {
    fn identity(&self) -> LogIdentity {
        self.identity
    }

    fn append(&self, _: Vec<NewRecord>, _: AppendDone) -> Result<(), AppendRefused> {
        Err(AppendRefused::Closed("not there yet".to_owned()))
    }

    fn reader(&self, _: &[Position]) -> Result<Box<dyn LogReader>, ReadError> {
        Err(ReadError::Unavailable("not there yet".to_owned()))
    }

    fn first(&self) -> Result<Vec<Offset>, ReadError> {
        Err(ReadError::Unavailable("not there yet".to_owned()))
    }

    fn head(&self) -> Result<Vec<Offset>, ReadError> {
        Err(ReadError::Unavailable("not there yet".to_owned()))
    }

    fn health(&self) -> LogHealth {
        LogHealth::Ok
    }

    fn stalled_for(&self) -> Option<Duration> {
        None
    }

    fn close(&self, _: Duration) -> Result<(), AppendError> {
        Ok(())
    }
}
