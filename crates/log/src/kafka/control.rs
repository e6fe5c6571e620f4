//! What is asked of the cluster beside appending and reading: where the topic ends, whether it is
//! still the same, and that others may see how far we are.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::TopicPartitionList;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::{Metadata, MetadataTopic};
use tally_domain::{LogId, Offset, Position};

use super::client::{self, Context, Said, left};
use super::health::{Health, Pulse};
use super::metrics::KafkaMetrics;
use super::native::{self, describe_topic};
use super::options::{KafkaOptions, OpenError};
use super::producer::kafka_partition;
use super::topics::Topic;
use crate::contract::ReadError;

/// How long a poll waits before the thread looks what else there is to do.
const POLL: Duration = Duration::from_millis(100);
/// How often the cluster is asked whether the topic is there and takes records.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a broker may take to answer that.
const LOOK_LIMIT: Duration = Duration::from_millis(1_500);
/// How many brokers are asked, picked by chance, before the cluster counts as away: one of them may
/// be frozen while the others work.
const LOOK_TRIES: u32 = 3;
/// How often it is asked whether the topic is still the same.
const IDENTIFY_EVERY: Duration = Duration::from_secs(2);
/// How long it may take to answer that.
const IDENTIFY_LIMIT: Duration = Duration::from_secs(1);
/// How often applied offsets are committed, where they moved.
const COMMIT_EVERY: Duration = Duration::from_secs(1);
/// How often they are, where they did not: a group's offsets are forgotten after some days.
const COMMIT_AGAIN_EVERY: Duration = Duration::from_secs(3_600);
/// How long the last commit may take when a log is closed.
const LAST_COMMIT_LIMIT: Duration = Duration::from_secs(1);
/// How long the cluster may take to say where the topic begins or ends.
const OFFSETS_LIMIT: Duration = Duration::from_secs(3);
/// The pause before it is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Nothing was applied yet.
const UNKNOWN: u64 = u64::MAX;

/// One end of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    First,
    Head,
}

/// The side of a log that asks.
pub(super) struct Control {
    // Dropped in this order.
    shared: Arc<Shared>,
    /// Something comes when the thread has done what it had to.
    done: Mutex<Receiver<()>>,
    /// Once this is gone, the thread lets the consumer go.
    _held: Sender<()>,
}

struct Shared {
    consumer: BaseConsumer<Context>,
    topic: Topic,
    id: LogId,
    /// In-sync replicas that a partition needs to take records.
    min_insync: usize,
    said: Arc<Said>,
    health: Arc<Health>,
    applied: Vec<AtomicU64>,
    ended: AtomicBool,
}

impl Control {
    pub(super) fn start(
        options: &KafkaOptions,
        topic: &Topic,
        (id, min_insync): (LogId, usize),
        name: &str,
        kafka: &KafkaMetrics,
        health: Arc<Health>,
    ) -> Result<Self, OpenError> {
        let label = format!("{name}-control");
        let said = Arc::new(Said::default());
        let context = Context::new(&label, kafka.client(&label), Arc::clone(&said));
        let config = client::control(options, &label);
        let consumer = BaseConsumer::from_config_and_context(&config, context)
            .map_err(client::not_made(options))?;
        let shared = Arc::new(Shared {
            consumer,
            topic: topic.clone(),
            id,
            min_insync,
            said,
            health,
            applied: (0..topic.partitions)
                .map(|_| AtomicU64::new(UNKNOWN))
                .collect(),
            ended: AtomicBool::new(false),
        });
        let pulse = shared.health.watchdog.watch(&label);
        let asking = Arc::clone(&shared);
        let ((tell, done), (held, gone)) = (channel(), channel::<()>());
        let thread = thread::Builder::new().name(label).spawn(move || {
            asking.run(&pulse);
            // Nobody waits where this fails.
            let _ = tell.send(());
            // Nothing is ever sent: it ends with the sender.
            let _ = gone.recv();
        });
        thread.map_err(|error| OpenError::Failed {
            doing: "start a thread".to_owned(),
            why: error.to_string(),
        })?;
        Ok(Self {
            shared,
            done: Mutex::new(done),
            _held: held,
        })
    }

    pub(super) fn id(&self) -> LogId {
        self.shared.id
    }

    /// Where every partition begins or ends, by number; it asks the cluster and waits.
    pub(super) fn offsets(&self, end: End) -> Result<Vec<Offset>, ReadError> {
        self.shared.offsets(end, OFFSETS_LIMIT)
    }

    /// Why the log is no longer the one that was opened, where it is not; it asks the cluster.
    pub(super) fn replaced(&self) -> Option<String> {
        self.shared.look();
        self.shared.identify();
        self.shared.health.failed()
    }

    /// Takes note up to where records were applied.
    pub(super) fn applied(&self, next: &[Position]) {
        for Position { partition, offset } in next {
            let place = usize::try_from(*partition).unwrap_or(usize::MAX);
            if let Some(applied) = self.shared.applied.get(place) {
                applied.store(*offset, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for Control {
    /// The thread lets the consumer go, and nobody waits for that: where the group's coordinator
    /// does not answer us, the library takes most of a minute.
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        // A panic was reported when it happened.
        let _ = self.done.get_mut().recv();
    }
}

impl Shared {
    fn run(&self, pulse: &Pulse) {
        let mut look_at = Instant::now() + LOOK_EVERY;
        let mut identify_at = Instant::now() + IDENTIFY_EVERY;
        let mut committed = vec![UNKNOWN; self.applied.len()];
        let (mut commit_at, mut commit_again_at) = (Instant::now(), Instant::now());
        while !self.ended.load(Ordering::Acquire) {
            pulse.beat();
            // Nothing is assigned, so only events come of it.
            let _ = self.consumer.poll(POLL);
            if Instant::now() >= look_at {
                self.look();
                look_at = Instant::now() + LOOK_EVERY;
            }
            if Instant::now() >= identify_at {
                self.identify();
                identify_at = Instant::now() + IDENTIFY_EVERY;
            }
            if Instant::now() >= commit_at {
                if Instant::now() >= commit_again_at {
                    committed.fill(UNKNOWN);
                    commit_again_at = Instant::now() + COMMIT_AGAIN_EVERY;
                }
                self.commit(&mut committed);
                commit_at = Instant::now() + COMMIT_EVERY;
            }
        }
        if self.health.is_away().is_none() && self.commit(&mut committed) {
            let until = Instant::now() + LAST_COMMIT_LIMIT;
            while self.consumer.context().commits_pending() && Instant::now() < until {
                let _ = self.consumer.poll(POLL);
            }
        }
    }

    /// Asks whether the topic is there and takes records.
    fn look(&self) {
        let from = Instant::now();
        let name = &self.topic.name;
        self.health.take_delivered();
        let ask = || self.consumer.fetch_metadata(Some(name), LOOK_LIMIT);
        let mut asked = ask();
        for _ in 1..LOOK_TRIES {
            if asked.is_ok() {
                break;
            }
            asked = ask();
        }
        let topics = asked.as_ref().map(Metadata::topics);
        let topic = topics.map(|topics| topics.iter().find(|topic| topic.name() == name));
        match topic {
            Ok(Some(topic)) if topic.error().is_none() => self.judge(topic),
            Ok(Some(_) | None) => self.health.answers(Some(format!(
                "topic {name} is not there; it was deleted, or this broker does not know it yet"
            ))),
            // A cluster that takes records is not away.
            Err(_) if self.health.take_delivered() => {}
            Err(error) => {
                // What a connection said is plainer than that a request timed out.
                let said = self.said.since(from).map(|(_, why)| why);
                self.health.away(said.unwrap_or_else(|| error.to_string()));
            }
        }
    }

    fn judge(&self, topic: &MetadataTopic) {
        let (name, partitions) = (topic.name(), topic.partitions());
        let count = partitions.len();
        if u32::try_from(count) != Ok(self.topic.partitions) {
            self.health.fail(format!(
                "topic {name} has {count} partitions now, not {}: keys have other places in it",
                self.topic.partitions
            ));
            return;
        }
        let unfit = partitions.iter().find_map(|partition| {
            let (number, in_sync) = (partition.id(), partition.isr().len());
            if partition.leader() < 0 {
                return Some(format!("partition {number} of topic {name} has no leader"));
            }
            (in_sync < self.min_insync).then(|| {
                format!(
                    "partition {number} of topic {name} has {in_sync} in-sync replicas, and needs {}",
                    self.min_insync
                )
            })
        });
        self.health.answers(unfit);
    }

    /// Asks whether the topic is the one that was opened. That a broker can't say it now means
    /// nothing.
    fn identify(&self) {
        let described = describe_topic(self.consumer.client(), &self.topic.name, IDENTIFY_LIMIT);
        if let Ok(Some(described)) = described
            && described.id != self.id
        {
            self.health.fail(format!(
                "topic {} was deleted and made again: it is another log now, and the state is not of it",
                self.topic.name
            ));
        }
    }

    /// Commits what was applied since; whether there was anything.
    fn commit(&self, committed: &mut [u64]) -> bool {
        let mut list = TopicPartitionList::new();
        for ((partition, applied), committed) in (0..).zip(&self.applied).zip(committed) {
            let applied = applied.load(Ordering::Relaxed);
            if applied == *committed {
                continue;
            }
            *committed = applied;
            let Ok(offset) = i64::try_from(applied) else {
                continue;
            };
            let (name, partition) = (&self.topic.name, kafka_partition(partition));
            // An offset that fits is valid.
            let _ = list.add_partition_offset(name, partition, rdkafka::Offset::Offset(offset));
        }
        if list.count() == 0 {
            return false;
        }
        self.consumer.context().commit_begins();
        match native::commit(&self.consumer, &list) {
            Ok(()) => true,
            Err(error) => {
                self.consumer.context().commit_ended(Err(&error));
                false
            }
        }
    }

    fn offsets(&self, end: End, limit: Duration) -> Result<Vec<Offset>, ReadError> {
        if let Some(why) = self.health.is_away() {
            return Err(ReadError::Unavailable(why));
        }
        let until = Instant::now() + limit;
        loop {
            match self.ask_offsets(end, left(until)) {
                Ok(offsets) => return Ok(offsets),
                Err(error) if Instant::now() + RETRY_PAUSE >= until => {
                    return Err(ReadError::Unavailable(error.to_string()));
                }
                // A leader moves, or a broker starts.
                Err(_) => thread::sleep(RETRY_PAUSE),
            }
        }
    }

    fn ask_offsets(&self, end: End, limit: Duration) -> Result<Vec<Offset>, KafkaError> {
        let which = match end {
            End::First => rdkafka::Offset::Beginning,
            End::Head => rdkafka::Offset::End,
        };
        let mut asked = TopicPartitionList::new();
        for partition in 0..self.topic.partitions {
            asked.add_partition_offset(&self.topic.name, kafka_partition(partition), which)?;
        }
        let answered = self.consumer.offsets_for_times(asked, limit)?;
        let mut offsets = Vec::with_capacity(self.applied.len());
        for element in answered.elements() {
            element.error()?;
            let rdkafka::Offset::Offset(offset) = element.offset() else {
                return Err(KafkaError::OffsetFetch(RDKafkaErrorCode::NoOffset));
            };
            offsets.push(Offset::try_from(offset).unwrap_or(0));
        }
        Ok(offsets)
    }
}
