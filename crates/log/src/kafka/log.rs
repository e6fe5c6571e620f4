//! A topic as a log.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tally_domain::{Offset, Partition, Position};

use super::client::{self, Context};
use super::control::{Control, End};
use super::health::Health;
use super::metrics::KafkaMetrics;
use super::options::{KafkaOptions, OpenError};
use super::producer::Producer;
use super::reader::KafkaReader;
use super::topics::{Cluster, Finding, Topic, TopicDescription};
use crate::batch::Batch;
use crate::contract::{
    AppendDone, AppendError, AppendRefused, EventLog, LogHealth, LogIdentity, LogReader, NewRecord,
    OneRecord, ReadError, TruncateError, Truncated,
};
use crate::metrics::LogMetrics;

/// How long a topic may be missing: a broker that has just started does not know all of them.
const MISSING_LIMIT: Duration = Duration::from_secs(2);
/// The pause before it is asked for again.
const MISSING_PAUSE: Duration = Duration::from_millis(200);
/// How long single records may take to be read.
const RECORDS_LIMIT: Duration = Duration::from_secs(30);

/// An event log in a topic. See the [module](super).
pub struct KafkaLog {
    options: KafkaOptions,
    topic: Topic,
    name: String,
    kafka: KafkaMetrics,
    // Dropped in this order.
    producer: Producer,
    control: Arc<Control>,
    health: Arc<Health>,
    readers: AtomicU32,
}

impl fmt::Debug for KafkaLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaLog")
            .field("topic", &self.topic)
            .field("identity", &self.identity())
            .finish_non_exhaustive()
    }
}

impl KafkaLog {
    /// Opens a topic that is as it must be, and says what an operator should know about it. `name`
    /// is its label in metrics and log lines. It waits for the cluster up to a limit.
    ///
    /// # Errors
    /// [`OpenError`]. Nothing was changed.
    pub fn open(
        options: &KafkaOptions,
        topic: &Topic,
        name: &str,
        metrics: &LogMetrics,
        kafka: &KafkaMetrics,
    ) -> Result<(Self, Vec<Finding>), OpenError> {
        let described = describe(options, topic)?;
        let findings = topic.findings(&described);
        let refusing = findings.iter().filter(|finding| finding.refuses);
        let refusing: Vec<String> = refusing.map(|finding| finding.what.clone()).collect();
        if !refusing.is_empty() {
            return Err(OpenError::TopicUnfit {
                topic: topic.name.clone(),
                findings: refusing,
            });
        }
        let log = Self::start(options, topic, name, &described, (metrics, kafka))?;
        Ok((log, findings))
    }

    /// The same for a command that only looks: whatever partitions there are, and whatever the
    /// topic is like.
    ///
    /// # Errors
    /// As [`open`](Self::open), but for what a topic is like.
    pub fn open_to_look(
        options: &KafkaOptions,
        topic: &Topic,
        name: &str,
        metrics: &LogMetrics,
        kafka: &KafkaMetrics,
    ) -> Result<(Self, Vec<Finding>), OpenError> {
        let described = describe(options, topic)?;
        let findings = topic.findings(&described);
        let as_it_is = Topic {
            partitions: u32::try_from(described.partitions.len()).unwrap_or(u32::MAX),
            ..topic.clone()
        };
        let log = Self::start(options, &as_it_is, name, &described, (metrics, kafka))?;
        Ok((log, findings))
    }

    pub(super) fn start(
        options: &KafkaOptions,
        topic: &Topic,
        name: &str,
        described: &TopicDescription,
        (metrics, kafka): (&LogMetrics, &KafkaMetrics),
    ) -> Result<Self, OpenError> {
        let health = Arc::new(Health::default());
        let known = (described.id, described.min_insync());
        let control = Control::start(options, topic, known, name, kafka, Arc::clone(&health))?;
        let one = metrics.of(name);
        let producer = Producer::start(options, topic, name, one, kafka, Arc::clone(&health))?;
        Ok(Self {
            options: options.clone(),
            topic: topic.clone(),
            name: name.to_owned(),
            kafka: kafka.clone(),
            producer,
            control: Arc::new(control),
            health,
            readers: AtomicU32::new(0),
        })
    }

    #[cfg(test)]
    pub(super) fn break_producer(&self, why: &std::ffi::CStr) {
        self.producer.break_it(why);
    }

    #[cfg(test)]
    pub(super) fn renewed_producers(&self) -> u64 {
        self.kafka.renewed.with_label_values(&[&self.name]).get()
    }

    fn start_reader(&self, from: &[Position]) -> Result<KafkaReader, ReadError> {
        let number = self.readers.fetch_add(1, Ordering::Relaxed);
        let thread = format!("{}-reader-{number}", self.name);
        // One word for all readers, so that metrics stay few.
        let label = format!("{}-reader", self.name);
        let config = client::reader(&self.options, &label);
        let context = Context::new(&label, self.kafka.client(&label), Arc::default());
        KafkaReader::start(
            &config,
            context,
            (&self.topic.name, &thread),
            from,
            Arc::clone(&self.control),
            &self.health,
        )
    }

    /// Refuses positions that the log does not hold.
    fn check_range(&self, from: &[Position]) -> Result<(), ReadError> {
        let (firsts, heads) = (self.first()?, self.head()?);
        for Position { partition, offset } in from.iter().copied() {
            let place = usize::try_from(partition).unwrap_or(usize::MAX);
            let (first, head) = match (firsts.get(place), heads.get(place)) {
                (Some(first), Some(head)) => (*first, *head),
                (None, _) | (_, None) => (0, 0),
            };
            let there = partition < self.topic.partitions;
            if !there || !(first..=head).contains(&offset) {
                return Err(ReadError::OutOfRange {
                    partition,
                    wanted: offset,
                    first,
                    head,
                });
            }
        }
        Ok(())
    }
}

fn describe(options: &KafkaOptions, topic: &Topic) -> Result<TopicDescription, OpenError> {
    let cluster = Cluster::connect(options)?;
    let until = Instant::now() + MISSING_LIMIT;
    loop {
        if let Some(described) = cluster.describe(&topic.name)? {
            return Ok(described);
        }
        if Instant::now() >= until {
            return Err(OpenError::TopicMissing {
                topic: topic.name.clone(),
            });
        }
        thread::sleep(MISSING_PAUSE);
    }
}

impl EventLog for KafkaLog {
    fn identity(&self) -> LogIdentity {
        LogIdentity {
            id: self.control.id(),
            partitions: self.topic.partitions,
        }
    }

    fn append(&self, records: Vec<NewRecord>, done: AppendDone) -> Result<(), AppendRefused> {
        self.producer.append(records, done)
    }

    fn reader(&self, from: &[Position]) -> Result<Box<dyn LogReader>, ReadError> {
        self.check_range(from)?;
        Ok(Box::new(self.start_reader(from)?))
    }

    fn first(&self) -> Result<Vec<Offset>, ReadError> {
        self.control.offsets(End::First)
    }

    fn head(&self) -> Result<Vec<Offset>, ReadError> {
        self.control.offsets(End::Head)
    }

    fn health(&self) -> LogHealth {
        self.health.log_health()
    }

    fn stalled_for(&self) -> Option<Duration> {
        self.producer.stalled_for()
    }

    /// With one reader for all: a consumer of its own for each would take its time.
    fn records_at(&self, positions: &[Position]) -> Result<Vec<Option<OneRecord>>, ReadError> {
        let mut found: Vec<Option<OneRecord>> = positions.iter().map(|_| None).collect();
        if positions.is_empty() {
            return Ok(found);
        }
        self.check_range(positions)?;
        // A partition is read from the lowest of its positions.
        let mut lowest: BTreeMap<Partition, Offset> = BTreeMap::new();
        for Position { partition, offset } in positions.iter().copied() {
            let first = lowest.entry(partition).or_insert(offset);
            *first = offset.min(*first);
        }
        let from: Vec<Position> = lowest
            .into_iter()
            .map(|(partition, offset)| Position { partition, offset })
            .collect();
        let mut reader = self.start_reader(&from)?;
        let mut batch = Batch::new();
        let until = Instant::now() + RECORDS_LIMIT;
        let passed = |reader: &KafkaReader, wanted: &Position| {
            let mut now = reader.positions().into_iter();
            let same = |position: &Position| position.partition == wanted.partition;
            now.find(same)
                .is_none_or(|position| position.offset > wanted.offset)
        };
        while !positions.iter().all(|wanted| passed(&reader, wanted)) {
            if Instant::now() >= until {
                let why = format!("records were not given within {RECORDS_LIMIT:?}");
                return Err(ReadError::Unavailable(why));
            }
            reader.next(&mut batch, Duration::from_millis(100))?;
            for record in batch.iter() {
                let wanted = positions.iter().zip(&mut found);
                for (_, to) in wanted.filter(|(wanted, _)| **wanted == record.position) {
                    *to = Some(OneRecord {
                        key: record.key.to_vec(),
                        value: record.value.to_vec(),
                    });
                }
            }
        }
        Ok(found)
    }

    fn applied(&self, next: &[Position]) {
        self.control.applied(next);
    }

    fn truncate(&self, below: &[Offset]) -> Result<Truncated, TruncateError> {
        let read = |error: ReadError| TruncateError::Failed(error.to_string());
        let (first, head) = (self.first().map_err(read)?, self.head().map_err(read)?);
        let each = below.iter().zip(first.iter().zip(&head));
        let below: Vec<Offset> = each
            .map(|(below, (first, head))| (*below).min(*head).max(*first))
            .collect();
        let failed = |error: OpenError| TruncateError::Failed(error.to_string());
        let cluster = Cluster::connect(&self.options).map_err(failed)?;
        cluster
            .delete_below(&self.topic.name, &below)
            .map_err(failed)?;
        let removed = below.iter().zip(&first);
        Ok(Truncated {
            records: removed.map(|(below, first)| below - first).sum(),
            bytes: None,
        })
    }

    fn close(&self, deadline: Duration) -> Result<(), AppendError> {
        self.producer.close(deadline)
    }
}
