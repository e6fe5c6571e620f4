//! The logs a server works on, of either kind: opened, reported on, closed.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use tally_ingress::management::admin::{CATALOGUE, INTERACTIONS};
use tally_log::embedded::{EmbeddedLog, EmbeddedOptions, OpenError, Recovery};
use tally_log::kafka::{Finding, KafkaLog, KafkaMetrics, TopicKind};
use tally_log::storage::RealStorage;
use tally_log::{AppendError, EventLog, LogMetrics};

use crate::config::{Config, LogKind};
use crate::failure::{Failure, with_causes};

/// A segment of the catalogue's log: resources come and go rarely.
const CATALOGUE_SEGMENT_BYTES: u64 = 8 << 20;

/// How the log of dead letters is called in what is written about it.
const DEAD_LETTERS: &str = "dead_letters";

/// The logs, whichever kind they are of.
#[derive(Clone)]
pub(crate) struct Logs {
    pub(crate) interactions: Arc<dyn EventLog>,
    pub(crate) catalogue: Arc<dyn EventLog>,
    /// Where dead letters are shown to others. The embedded log has no others.
    pub(crate) dead_letters: Option<Arc<dyn EventLog>>,
}

/// How many partitions the log of interactions shall have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Partitions {
    /// So many, for whom another number would be another place for each resource.
    Exactly(u32),
    /// Whatever it has, for a command that only looks; so many where it is made now.
    AsTheyAre(u32),
}

impl Partitions {
    fn wanted(self) -> u32 {
        match self {
            Self::Exactly(wanted) | Self::AsTheyAre(wanted) => wanted,
        }
    }
}

impl Logs {
    /// Opens the logs of `log.kind`. Those in files are made where they are not there.
    pub(crate) fn open(
        config: &Config,
        dir: &Path,
        registry: &Registry,
        partitions: Partitions,
    ) -> Result<Self, Failure> {
        match config.log.kind {
            LogKind::Embedded => Self::embedded(config, dir, registry, partitions),
            LogKind::Kafka => Self::kafka(config, registry, partitions),
        }
    }

    /// Opens the logs in a folder, and makes them where they are not there.
    pub(crate) fn embedded(
        config: &Config,
        dir: &Path,
        registry: &Registry,
        partitions: Partitions,
    ) -> Result<Self, Failure> {
        let metrics = LogMetrics::register(registry).map_err(Failure::of)?;
        let options = EmbeddedOptions {
            partitions: partitions.wanted(),
            segment_bytes: config.log.segment_size.get(),
            max_queue_bytes: config.log.max_queued.as_usize(),
            check_rate: config.log.check_rate.get(),
            ..EmbeddedOptions::default()
        };
        let log_dir = dir.join("log");
        let mut interactions = open_files(&log_dir, INTERACTIONS, options.clone(), &metrics);
        if let (Err(OpenError::PartitionsDiffer { actual, .. }), Partitions::AsTheyAre(_)) =
            (&interactions, partitions)
        {
            let as_they_are = EmbeddedOptions {
                partitions: *actual,
                ..options.clone()
            };
            interactions = open_files(&log_dir, INTERACTIONS, as_they_are, &metrics);
        }
        let small = EmbeddedOptions {
            partitions: 1,
            segment_bytes: options.segment_bytes.min(CATALOGUE_SEGMENT_BYTES),
            ..options
        };
        let catalogue = open_files(&dir.join("catalogue"), CATALOGUE, small, &metrics);
        Ok(Self {
            interactions: interactions.map_err(|error| refused(INTERACTIONS, &error))?,
            catalogue: catalogue.map_err(|error| refused(CATALOGUE, &error))?,
            dead_letters: None,
        })
    }

    /// Opens the topics of a cluster, which `tally topics create` made.
    pub(crate) fn kafka(
        config: &Config,
        registry: &Registry,
        partitions: Partitions,
    ) -> Result<Self, Failure> {
        let metrics = LogMetrics::register(registry).map_err(Failure::of)?;
        let kafka_metrics = KafkaMetrics::register(registry).map_err(Failure::of)?;
        let options = kafka_options(config)?;
        let open = |kind, name: &'static str| {
            let topic = config.kafka.topic(kind, partitions.wanted());
            let opened = match partitions {
                Partitions::Exactly(_) => {
                    KafkaLog::open(&options, &topic, name, &metrics, &kafka_metrics)
                }
                Partitions::AsTheyAre(_) => {
                    KafkaLog::open_to_look(&options, &topic, name, &metrics, &kafka_metrics)
                }
            };
            let (log, findings) = opened.map_err(|error| refused(name, &error))?;
            warn(config, &topic.name, &findings);
            let log: Arc<dyn EventLog> = Arc::new(log);
            Ok::<_, Failure>(log)
        };
        Ok(Self {
            interactions: open(TopicKind::Interactions, INTERACTIONS)?,
            catalogue: open(TopicKind::Resources, CATALOGUE)?,
            dead_letters: match partitions {
                Partitions::Exactly(_) => Some(open(TopicKind::DeadLetters, DEAD_LETTERS)?),
                // Nothing is exported by a command that only looks.
                Partitions::AsTheyAre(_) => None,
            },
        })
    }

    /// Closes the log of interactions and the catalogue's: no appends come any more.
    pub(crate) fn close(&self, limit: impl Fn() -> Duration) -> Result<(), AppendError> {
        let closed = self.interactions.close(limit());
        closed.and(self.catalogue.close(limit()))
    }

    /// Closes the log of dead letters, where there is one: the fold writes to it until it ends.
    pub(crate) fn close_dead_letters(&self, limit: Duration) -> Result<(), AppendError> {
        self.dead_letters
            .as_ref()
            .map_or(Ok(()), |log| log.close(limit))
    }
}

/// How the cluster is reached, for what needs one.
pub(crate) fn kafka_options(config: &Config) -> Result<tally_log::kafka::KafkaOptions, Failure> {
    config.kafka_options().ok_or_else(|| {
        Failure::Usage(
            "no Kafka cluster is named: set kafka.bootstrap_servers (TALLY__KAFKA__BOOTSTRAP_SERVERS), as in \"localhost:9092\"; the server uses it with log.kind = \"kafka\""
                .to_owned(),
        )
    })
}

fn open_files(
    dir: &Path,
    name: &'static str,
    options: EmbeddedOptions,
    metrics: &LogMetrics,
) -> Result<Arc<dyn EventLog>, OpenError> {
    let (log, recovery) = EmbeddedLog::open(Arc::new(RealStorage), dir, name, options, metrics)?;
    report(name, &recovery);
    Ok(Arc::new(log))
}

/// Says what a kill left behind, where there was one.
fn report(log: &str, recovery: &Recovery) {
    let Recovery {
        created,
        clean,
        recovered_records,
        cut_bytes,
        cut_at,
    } = recovery;
    if *created {
        tracing::info!(log, "the log was created");
    } else if let Some((file, at)) = cut_at {
        tracing::warn!(
            log,
            recovered_records,
            cut_bytes,
            file = %file.display(),
            at,
            "the process was killed before: a write that was never acknowledged was cut off"
        );
    } else if !clean {
        tracing::info!(log, recovered_records, "the process was killed before");
    }
}

/// Says what is worth knowing of a topic. One broker on one's own machine has only one copy of
/// everything, and nobody there wants to hear of it.
fn warn(config: &Config, topic: &str, findings: &[Finding]) {
    for Finding { what, .. } in findings {
        if config.auth.local_dev_key {
            tracing::debug!(topic, "{what}");
        } else {
            tracing::warn!(topic, "{what}");
        }
    }
}

fn refused(name: &'static str, error: &(dyn std::error::Error + 'static)) -> Failure {
    let why = with_causes(error);
    Failure::run(format!("the log of {name} can't be opened: {why}"))
}
