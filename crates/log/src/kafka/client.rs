//! librdkafka clients as we set them up, and what they say of themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;

use super::metrics::ClientMetrics;
use super::options::{KafkaOptions, OpenError};
use super::properties::PropertyError;

/// The largest record, its headers included: what the contract allows, and some.
pub(super) const MAX_MESSAGE_BYTES: usize = 1_310_720;
/// How often a client tells its statistics.
const STATISTICS_MILLIS: u32 = 5_000;
/// librdkafka's own view of what waits is larger than ours by what it keeps of each message, so
/// that ours is the bound that is met.
const QUEUE_SLACK_BYTES_PER_RECORD: usize = 512;

/// What a client says of itself, to whoever asks.
#[derive(Debug, Default)]
pub(super) struct Said {
    last: Mutex<Option<(Instant, RDKafkaErrorCode, String)>>,
}

impl Said {
    fn note(&self, code: RDKafkaErrorCode, why: &str) {
        let mut last = self.last.lock();
        // That all are down says less than what the last of them said.
        if code != RDKafkaErrorCode::AllBrokersDown || last.is_none() {
            *last = Some((Instant::now(), code, why.to_owned()));
        }
    }

    /// The last error since `then`.
    pub(super) fn since(&self, then: Instant) -> Option<(RDKafkaErrorCode, String)> {
        let last = self.last.lock().clone();
        last.filter(|(at, _, _)| *at >= then)
            .map(|(_, code, why)| (code, why))
    }
}

/// Where log lines, statistics and errors of one client go.
#[derive(Clone)]
pub(super) struct Context {
    label: Arc<str>,
    metrics: ClientMetrics,
    said: Arc<Said>,
    /// Commits that were begun and not answered.
    commits: Arc<AtomicUsize>,
}

impl Context {
    pub(super) fn new(label: &str, metrics: ClientMetrics, said: Arc<Said>) -> Self {
        Self {
            label: label.into(),
            metrics,
            said,
            commits: Arc::default(),
        }
    }

    pub(super) fn commit_begins(&self) {
        self.commits.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn commit_ended(&self, result: Result<(), &KafkaError>) {
        self.commits.fetch_sub(1, Ordering::Relaxed);
        self.metrics.committed(result.is_ok());
        if let Err(error) = result {
            tracing::debug!(client = &*self.label, %error, "the group's offsets can't be committed");
        }
    }

    pub(super) fn commits_pending(&self) -> bool {
        self.commits.load(Ordering::Relaxed) > 0
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        let client = &*self.label;
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => tracing::warn!(client, facility, "{line}"),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                tracing::info!(client, facility, "{line}");
            }
            RDKafkaLogLevel::Debug => tracing::debug!(client, facility, "{line}"),
        }
    }

    fn stats(&self, statistics: Statistics) {
        self.metrics.update(&statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
        // Its own log line has said it already.
        tracing::debug!(client = &*self.label, %code, reason, "the client reports an error");
        self.said.note(code, reason);
    }
}

impl ConsumerContext for Context {
    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        self.commit_ended(result.as_ref().copied());
    }
}

/// What all clients have in common. What promises rest on comes last, and wins.
fn common(options: &KafkaOptions, label: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("client.id", format!("tally-{label}"))
        .set("socket.nagle.disable", "true")
        .set("socket.keepalive.enable", "true")
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "1000")
        .set("retry.backoff.ms", "50")
        .set("log.connection.close", "false");
    for (name, value) in options.properties.iter() {
        config.set(name, value);
    }
    config
        .set("bootstrap.servers", &options.bootstrap_servers)
        .set("allow.auto.create.topics", "false")
        .set("statistics.interval.ms", STATISTICS_MILLIS.to_string())
        .set("message.max.bytes", MAX_MESSAGE_BYTES.to_string());
    config.set_log_level(RDKafkaLogLevel::Info);
    config
}

/// Sets what is not said among the properties.
fn unless_said(config: &mut ClientConfig, options: &KafkaOptions, name: &str, value: &str) {
    if options.properties.iter().all(|(said, _)| said != name) {
        config.set(name, value);
    }
}

/// A client that asks, and neither appends nor reads.
pub(super) fn plain(options: &KafkaOptions, label: &str) -> ClientConfig {
    common(options, label)
}

pub(super) fn producer(options: &KafkaOptions, label: &str) -> ClientConfig {
    let mut config = common(options, label);
    // With many waiting, a request's records gather while the one before is on its way.
    unless_said(&mut config, options, "linger.ms", "0");
    let slack = options.max_queue_records * QUEUE_SLACK_BYTES_PER_RECORD;
    let kbytes = (options.max_queue_bytes + slack + MAX_MESSAGE_BYTES) / 1024;
    let messages = options.max_queue_records.saturating_add(100_000);
    config
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("max.in.flight", "5")
        // A record that runs out of time in the library leaves a gap, and whatever else may be
        // with a broker is then sent again under a new identity, which no broker knows for the
        // same. So nothing ends there; the deadline is the producer's, which gives all up at once.
        .set("delivery.timeout.ms", i32::MAX.to_string())
        .set("enable.gapless.guarantee", "true")
        .set(
            "queue.buffering.max.messages",
            messages.min(10_000_000).to_string(),
        )
        .set(
            "queue.buffering.max.kbytes",
            kbytes.min(2_097_151).to_string(),
        );
    config
}

/// A consumer that asks and commits, and reads nothing. It sees the end of the log as it is, open
/// transactions included: what is not readable yet is still a lag.
pub(super) fn control(options: &KafkaOptions, label: &str) -> ClientConfig {
    let mut config = common(options, label);
    config
        .set("group.id", &options.group_id)
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_uncommitted")
        .set("auto.offset.reset", "error");
    config
}

pub(super) fn reader(options: &KafkaOptions, label: &str) -> ClientConfig {
    let mut config = common(options, label);
    // A partition that is ahead of what was taken is asked again soon, not after a second.
    unless_said(&mut config, options, "fetch.queue.backoff.ms", "5");
    unless_said(&mut config, options, "fetch.error.backoff.ms", "100");
    let fetch = (options.max_prefetch_bytes / 2).max(MAX_MESSAGE_BYTES);
    config
        .set("group.id", &options.group_id)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .set("check.crcs", "true")
        .set("max.poll.interval.ms", "86400000")
        .set(
            "queued.max.messages.kbytes",
            (options.max_prefetch_bytes / 1024).max(1).to_string(),
        )
        .set("fetch.message.max.bytes", "1048576")
        .set("fetch.max.bytes", fetch.to_string());
    config
}

/// Why a client could not be made. The library quotes values, and some are secrets: the property
/// is named instead.
pub(super) fn not_made(options: &KafkaOptions) -> impl Fn(KafkaError) -> OpenError + '_ {
    move |error| {
        let text = error.to_string();
        let (named, why) = if let KafkaError::ClientConfig(_, why, name, _) = error {
            (Some(name), why)
        } else {
            (None, text)
        };
        let quoted = options.properties.quoted_in(&why);
        let why = options.properties.without_values(why);
        match named.or_else(|| quoted.map(str::to_owned)) {
            Some(name) => PropertyError { name, why }.into(),
            None => OpenError::Failed {
                doing: "make a client".to_owned(),
                why,
            },
        }
    }
}

/// Whether an error says that a broker answers and does not let us in: waiting does not help.
pub(super) fn lets_nobody_in(code: RDKafkaErrorCode) -> bool {
    [
        RDKafkaErrorCode::Authentication,
        RDKafkaErrorCode::SaslAuthenticationFailed,
        RDKafkaErrorCode::UnsupportedSASLMechanism,
        RDKafkaErrorCode::SSL,
    ]
    .contains(&code)
}

/// What is left until a deadline, for a library that takes whole milliseconds.
pub(super) fn left(until: Instant) -> Duration {
    until
        .saturating_duration_since(Instant::now())
        .max(Duration::from_millis(1))
}
