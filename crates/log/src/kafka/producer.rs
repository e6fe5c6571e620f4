//! Appends: into librdkafka's producer, and back by its delivery reports.
//!
//! One thread polls a producer; delivery reports are handled and callbacks are called there. Our
//! own bound on what waits is met before librdkafka's, so an append is refused whole or taken whole.
//!
//! The deadline is ours too. A broker tells a record that comes twice by the producer's identity and
//! the record's number. When a record runs out of time in librdkafka, that numbers what is left
//! anew under another identity, and sends it: also what a broker has already and only could not
//! acknowledge, on whatever partition. So a producer whose oldest append is overdue, or that fails in
//! any way, is given up with all it has, and sends nothing any more; another takes its place.

use std::sync::Arc;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};
use prometheus::Histogram;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, PurgeConfig};
use tally_domain::{Offset, Partition};

use super::ages::{Age, Ages};
use super::client::{self, Context};
use super::delivery::{Append, Delivery, Slot, not_acknowledged};
use super::health::{Health, Pulse};
use super::metrics::KafkaMetrics;
use super::native::Persisted;
use super::options::{KafkaOptions, OpenError};
use super::topics::Topic;
use crate::bounds;
use crate::contract::{AppendDone, AppendError, AppendRefused, NewRecord};
use crate::metrics::OneLog;

/// How long a poll waits for delivery reports before the thread looks what else there is.
const POLL: Duration = Duration::from_millis(50);
/// What an append costs in memory besides its records' bytes, about.
const RECORD_OVERHEAD: usize = 256;
/// Between a producer that was lost before anything was acknowledged and the next; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long the drop of a log waits until everybody was told.
const DROP_LIMIT: Duration = Duration::from_secs(5);

/// The appending side of a log.
pub(super) struct Producer {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    topic: Topic,
    name: String,
    options: KafkaOptions,
    headers: OwnedHeaders,
    metrics: OneLog,
    kafka: KafkaMetrics,
    delivery: Histogram,
    health: Arc<Health>,
    queue: Mutex<Queue>,
    drained: Condvar,
    /// The one that appends go to; another after an error that it can't recover from.
    current: RwLock<Arc<Client>>,
    /// Appends that are done, to be told on a thread of ours.
    untold: Mutex<Vec<Arc<Append>>>,
    /// The threads that call back.
    pollers: Mutex<Vec<ThreadId>>,
}

/// One of librdkafka's producers.
struct Client {
    number: u64,
    producer: BaseProducer<Delivery>,
    made: Instant,
    /// How many before it were lost without a record that was acknowledged.
    fruitless: u32,
}

impl Client {
    /// Whether it may be replaced already, so that a cluster that ends them all does not have to
    /// take new ones without a pause.
    fn may_be_replaced(&self) -> bool {
        let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(self.fruitless));
        self.fruitless == 0 || self.made.elapsed() >= pause.min(LONGEST_PAUSE)
    }
}

#[derive(Default)]
struct Queue {
    ages: Ages,
    bytes: usize,
    records: usize,
    appends: usize,
    waiting_since: Option<Instant>,
    closed: Option<String>,
    /// Whether what waits is to be given up.
    abandoned: bool,
    /// Whether the threads are to end.
    ended: bool,
    /// The first error of an append that failed after the log was closed.
    unfinished: Option<AppendError>,
}

impl Shared {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn topic(&self) -> &str {
        &self.topic.name
    }

    pub(super) fn health(&self) -> &Health {
        &self.health
    }

    /// Takes note of a record that was not acknowledged.
    pub(super) fn failed(&self, error: &AppendError) {
        let metric = match error {
            AppendError::NotWritten(_) | AppendError::DiskFull(_) => &self.metrics.write_errors,
            AppendError::TimedOut(_) => &self.metrics.timed_out,
            AppendError::Unauthorized(_) => &self.metrics.unauthorized,
            AppendError::TooLarge(_) => &self.metrics.too_large,
            AppendError::FateUnknown(_) => &self.metrics.fate_unknown,
        };
        metric.inc();
        self.health.trouble(error.to_string());
    }

    /// Frees an append's place in the queue and counts it.
    pub(super) fn finished(&self, append: &Append, results: &[Result<Offset, AppendError>]) {
        let good = results.iter().filter(|result| result.is_ok()).count();
        self.metrics
            .appended_records
            .inc_by(u64::try_from(good).unwrap_or(u64::MAX));
        if good == results.len() {
            let bytes = append.cost.saturating_sub(results.len() * RECORD_OVERHEAD);
            let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
            self.metrics.appended_bytes.inc_by(bytes);
        }
        let took = append.began.elapsed().as_secs_f64();
        self.metrics.append_duration.observe(took);
        self.delivery.observe(took);
        let mut queue = self.queue.lock();
        queue.bytes = queue.bytes.saturating_sub(append.cost);
        queue.records = queue.records.saturating_sub(results.len());
        queue.ages.end(append.age);
        queue.waiting_since = (queue.records > 0).then(Instant::now);
        self.metrics
            .queue_bytes
            .set(i64::try_from(queue.bytes).unwrap_or(i64::MAX));
        if queue.closed.is_some()
            && let Some(Err(error)) = results.iter().find(|result| result.is_err())
        {
            queue.unfinished.get_or_insert(error.clone());
        }
    }

    /// An append failed; its callback is called when its producer was looked after.
    pub(super) fn tell_later(&self, append: Arc<Append>) {
        self.untold.lock().push(append);
    }

    /// An append's callback has returned.
    pub(super) fn told(&self) {
        let mut queue = self.queue.lock();
        queue.appends = queue.appends.saturating_sub(1);
        if queue.appends == 0 {
            self.drained.notify_all();
        }
    }

    fn admit(&self, client: u64, records: usize, cost: usize) -> Result<Age, AppendRefused> {
        let mut queue = self.queue.lock();
        if let Some(why) = &queue.closed {
            return Err(AppendRefused::Closed(why.clone()));
        }
        // Something always fits into an empty queue, so that no append is refused for ever.
        let bytes = queue.bytes.saturating_add(cost);
        let many = queue.records.saturating_add(records);
        if queue.records > 0
            && (bytes > self.options.max_queue_bytes || many > self.options.max_queue_records)
        {
            self.metrics.refused.inc();
            return Err(AppendRefused::QueueFull {
                queued_bytes: queue.bytes,
            });
        }
        queue.bytes = bytes;
        queue.records = many;
        queue.appends += 1;
        let now = Instant::now();
        queue.waiting_since.get_or_insert(now);
        Ok(queue.ages.begin(client, now))
    }

    fn send(&self, client: &BaseProducer<Delivery>, record: &NewRecord, slot: Slot) {
        let version = self.topic.kind.schema_version(&record.value).to_string();
        let mut headers = self.headers.clone().insert(Header {
            key: "schema-version",
            value: Some(&version),
        });
        if let Some(trace) = &record.traceparent {
            headers = headers.insert(Header {
                key: "traceparent",
                value: Some(trace.as_str()),
            });
        }
        let message = BaseRecord::with_opaque_to(&self.topic.name, Box::new(slot))
            .partition(i32::try_from(record.partition).unwrap_or(i32::MAX))
            .key(&record.key)
            .payload(&record.value)
            .headers(headers);
        let Err((error, message)) = client.send(message) else {
            return;
        };
        let error = not_acknowledged(&error, Persisted::No);
        self.failed(&error);
        let Slot { append, place } = *message.delivery_opaque;
        if append.is_last(place, Err(error)) {
            // Never on the thread that appends.
            self.tell_later(append);
        }
    }

    /// Makes a producer and the thread that polls it.
    fn start(self: &Arc<Self>, client: Arc<Client>) -> std::io::Result<()> {
        let thread = format!("{}-producer", self.name);
        let pulse = self.health.watchdog.watch(&thread);
        let shared = Arc::clone(self);
        thread::Builder::new()
            .name(thread)
            .spawn(move || shared.poll(client, &pulse))
            .map(drop)
    }

    fn poll(self: Arc<Self>, client: Arc<Client>, pulse: &Pulse) {
        self.pollers.lock().push(thread::current().id());
        loop {
            pulse.beat();
            client.producer.poll(POLL);
            let (abandoned, ended, overdue) = {
                let queue = self.queue.lock();
                let oldest = queue.ages.oldest(client.number);
                let overdue =
                    oldest.is_some_and(|began| began.elapsed() >= self.options.delivery_timeout);
                (queue.abandoned, queue.ended, overdue)
            };
            if !ended && self.is_current(&client) {
                self.look_after(&client, overdue);
            }
            let current = self.is_current(&client);
            if abandoned || !current {
                // Again and again: what was on its way to a broker may come back from there.
                let config = PurgeConfig::default().non_blocking();
                client.producer.purge(config.queue());
            }
            if abandoned || (overdue && !current) {
                let config = PurgeConfig::default().non_blocking();
                client.producer.purge(config.inflight());
            }
            // Who is told of a failure finds another producer where this one is lost.
            for append in std::mem::take(&mut *self.untold.lock()) {
                append.tell();
            }
            let idle = client.producer.in_flight_count() == 0 && self.untold.lock().is_empty();
            if idle && (ended || !current) {
                break;
            }
        }
        let own = thread::current().id();
        self.pollers.lock().retain(|poller| *poller != own);
    }

    fn is_current(&self, client: &Arc<Client>) -> bool {
        Arc::ptr_eq(client, &self.current.read())
    }

    /// Replaces a producer that can't go on, or must not.
    fn look_after(self: &Arc<Self>, client: &Client, overdue: bool) {
        if !client.may_be_replaced() {
            return;
        }
        if let Some((code, why)) = client.producer.client().fatal_error() {
            tracing::error!(log = self.name, %code, why, "the producer is lost");
        } else if overdue {
            tracing::warn!(
                log = self.name,
                "no broker took a record within kafka.delivery_timeout: all that wait are given up"
            );
            client.producer.context().set_overdue();
        } else {
            return;
        }
        self.renew(client);
    }

    /// Puts a new producer into the place of one that is lost. What the old one has comes back from
    /// it.
    fn renew(self: &Arc<Self>, lost: &Client) {
        let made = make_client(&self.options, &self.topic, &self.name, &self.kafka);
        match made {
            Ok(producer) => {
                let fruitless = if lost.producer.context().has_delivered() {
                    0
                } else {
                    lost.fruitless.saturating_add(1)
                };
                let client = Arc::new(Client {
                    number: lost.number + 1,
                    producer,
                    made: Instant::now(),
                    fruitless,
                });
                if let Err(error) = self.start(Arc::clone(&client)) {
                    tracing::error!(%error, "the new producer's thread can't be started");
                    return;
                }
                *self.current.write() = client;
                self.kafka.renewed.with_label_values(&[&self.name]).inc();
            }
            Err(error) => tracing::error!(%error, "a new producer can't be made; trying again"),
        }
    }
}

fn make_client(
    options: &KafkaOptions,
    topic: &Topic,
    name: &str,
    kafka: &KafkaMetrics,
) -> Result<BaseProducer<Delivery>, OpenError> {
    let label = format!("{name}-producer");
    let context = Context::new(&label, kafka.client(&label), Arc::default());
    let delivery = Delivery::new(context, topic.partitions);
    let config = client::producer(options, &label);
    BaseProducer::from_config_and_context(&config, delivery).map_err(client::not_made(options))
}

impl Producer {
    pub(super) fn start(
        options: &KafkaOptions,
        topic: &Topic,
        name: &str,
        metrics: OneLog,
        kafka: &KafkaMetrics,
        health: Arc<Health>,
    ) -> Result<Self, OpenError> {
        let producer = make_client(options, topic, name, kafka)?;
        let client = Arc::new(Client {
            number: 0,
            producer,
            made: Instant::now(),
            fruitless: 0,
        });
        let shared = Arc::new(Shared {
            topic: topic.clone(),
            name: name.to_owned(),
            options: options.clone(),
            headers: headers(),
            metrics,
            kafka: kafka.clone(),
            delivery: kafka.delivery(name),
            health,
            queue: Mutex::default(),
            drained: Condvar::new(),
            current: RwLock::new(Arc::clone(&client)),
            untold: Mutex::default(),
            pollers: Mutex::default(),
        });
        shared.start(client).map_err(|error| OpenError::Failed {
            doing: "start the producer's thread".to_owned(),
            why: error.to_string(),
        })?;
        Ok(Self { shared })
    }

    pub(super) fn append(
        &self,
        records: Vec<NewRecord>,
        done: AppendDone,
    ) -> Result<(), AppendRefused> {
        let shared = &self.shared;
        let bytes = bounds::check(&records, shared.topic.partitions)?;
        if let Some(refused) = shared.health.refuses() {
            shared.metrics.refused.inc();
            return Err(refused);
        }
        let cost = bytes.saturating_add(records.len() * RECORD_OVERHEAD);
        // Held until all is sent: a producer that was replaced gets nothing more.
        let client = shared.current.read();
        let age = shared.admit(client.number, records.len(), cost)?;
        let append = Arc::new(Append::new(shared, records.len(), (cost, age), done));
        if records.is_empty() {
            shared.untold.lock().push(append);
            return Ok(());
        }
        for (place, record) in records.iter().enumerate() {
            let append = Arc::clone(&append);
            shared.send(&client.producer, record, Slot { append, place });
        }
        Ok(())
    }

    /// What librdkafka does where a producer can't go on.
    #[cfg(test)]
    pub(super) fn break_it(&self, why: &std::ffi::CStr) {
        super::native::break_producer(self.shared.current.read().producer.client(), why);
    }

    pub(super) fn stalled_for(&self) -> Option<Duration> {
        let since = self.shared.queue.lock().waiting_since;
        since.map(|since| since.elapsed())
    }

    pub(super) fn close(&self, deadline: Duration) -> Result<(), AppendError> {
        let shared = &self.shared;
        let mut queue = shared.queue.lock();
        queue
            .closed
            .get_or_insert_with(|| "it was closed".to_owned());
        let busy = |queue: &mut Queue| queue.appends > 0;
        let waited = shared.drained.wait_while_for(&mut queue, busy, deadline);
        if waited.timed_out() {
            let why = format!("the log could not finish within {deadline:?}");
            return Err(AppendError::FateUnknown(why));
        }
        queue.ended = true;
        queue.unfinished.clone().map_or(Ok(()), Err)
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        let shared = &self.shared;
        let mut queue = shared.queue.lock();
        queue
            .closed
            .get_or_insert_with(|| "it was dropped".to_owned());
        queue.abandoned = true;
        queue.ended = true;
        // A callback may drop the last handle, on the thread that calls back.
        if !shared.pollers.lock().contains(&thread::current().id()) {
            let busy = |queue: &mut Queue| queue.appends > 0;
            shared.drained.wait_while_for(&mut queue, busy, DROP_LIMIT);
        }
    }
}

/// What every record of a topic says of itself, as the documents in `docs/` have it.
fn headers() -> OwnedHeaders {
    OwnedHeaders::new_with_capacity(3).insert(Header {
        key: "content-type",
        value: Some("application/json"),
    })
}

/// Every partition of ours is one of Kafka's.
#[must_use]
pub(super) fn kafka_partition(partition: Partition) -> i32 {
    i32::try_from(partition).unwrap_or(i32::MAX)
}
