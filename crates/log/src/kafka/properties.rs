//! librdkafka's own settings: what an operator may hand on, and what must stay as it is.
//!
//! What they mean: `CONFIGURATION.md` of librdkafka.

use std::collections::BTreeMap;
use std::fmt;

/// Properties of librdkafka by name. Their values are never shown: some are secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Properties(BTreeMap<String, String>);

/// A property that can't be set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("property {name} (setting kafka.properties): {why}")]
pub struct PropertyError {
    /// Its name.
    pub name: String,
    /// Why not, and what to do instead.
    pub why: String,
}

const ACKS: &str = "an answer of 200 says that all in-sync replicas have the event, exactly once; it stays as it is";
const QUEUE: &str = "what waits is bounded by log.max_queued";
const POSITIONS: &str =
    "where reading goes on is said by the state alone; a jump to elsewhere would be a wrong number";
const GROUP: &str = "the group only shows how far the fold is; set kafka.group_id";
const ORDER: &str = "records of a partition keep their order; it stays as it is";

/// What would break a promise, and why. Names are librdkafka's, aliases included.
const FORBIDDEN: &[(&str, &str)] = &[
    ("bootstrap.servers", "set kafka.bootstrap_servers"),
    ("metadata.broker.list", "set kafka.bootstrap_servers"),
    ("acks", ACKS),
    ("request.required.acks", ACKS),
    ("enable.idempotence", ACKS),
    ("enable.gapless.guarantee", ACKS),
    ("transactional.id", ACKS),
    ("transaction.timeout.ms", ACKS),
    ("retries", ACKS),
    ("message.send.max.retries", ACKS),
    ("max.in.flight", ORDER),
    ("max.in.flight.requests.per.connection", ORDER),
    ("queuing.strategy", ORDER),
    ("delivery.timeout.ms", "set kafka.delivery_timeout"),
    ("message.timeout.ms", "set kafka.delivery_timeout"),
    ("queue.buffering.max.messages", QUEUE),
    ("queue.buffering.max.kbytes", QUEUE),
    (
        "queued.max.messages.kbytes",
        "what is fetched ahead is bounded by kafka.max_prefetch",
    ),
    (
        "message.max.bytes",
        "a record may have 1 MiB; it stays as it is",
    ),
    (
        "fetch.message.max.bytes",
        "what is fetched ahead is bounded by kafka.max_prefetch",
    ),
    (
        "max.partition.fetch.bytes",
        "what is fetched ahead is bounded by kafka.max_prefetch",
    ),
    (
        "fetch.max.bytes",
        "what is fetched ahead is bounded by kafka.max_prefetch",
    ),
    (
        "partitioner",
        "the partition is chosen here, as Kafka's Java client does (murmur2)",
    ),
    (
        "sticky.partitioning.linger.ms",
        "the partition is chosen here, as Kafka's Java client does (murmur2)",
    ),
    (
        "allow.auto.create.topics",
        "topics are made by `tally topics create`, never by asking for them",
    ),
    ("auto.offset.reset", POSITIONS),
    ("enable.auto.commit", POSITIONS),
    ("auto.commit.enable", POSITIONS),
    ("auto.commit.interval.ms", POSITIONS),
    ("enable.auto.offset.store", POSITIONS),
    ("offset.store.method", POSITIONS),
    ("offset.store.path", POSITIONS),
    (
        "enable.partition.eof",
        "whether all was read is judged by it; it stays as it is",
    ),
    (
        "isolation.level",
        "records of a transaction that was given up must not count; it stays as it is",
    ),
    (
        "check.crcs",
        "a damaged record must not count; it stays as it is",
    ),
    ("group.id", GROUP),
    ("group.instance.id", GROUP),
    ("group.protocol", GROUP),
    ("group.remote.assignor", GROUP),
    ("partition.assignment.strategy", GROUP),
    ("max.poll.interval.ms", GROUP),
    (
        "statistics.interval.ms",
        "the metrics follow from it; it stays as it is",
    ),
    (
        "log.queue",
        "log lines go through our own log; set logging.level",
    ),
    (
        "enabled_events",
        "it belongs to the way the library is called",
    ),
];

impl Properties {
    /// Properties that may be set. Whether librdkafka knows them is said when a client is made.
    ///
    /// # Errors
    /// [`PropertyError`] for the first that would break a promise.
    pub fn new(properties: BTreeMap<String, String>) -> Result<Self, PropertyError> {
        for name in properties.keys() {
            if let Some((_, why)) = FORBIDDEN.iter().find(|(forbidden, _)| forbidden == name) {
                return Err(PropertyError {
                    name: name.clone(),
                    why: format!("it can't be set: {why}"),
                });
            }
        }
        Ok(Self(properties))
    }

    /// The property whose value a text quotes.
    pub(crate) fn quoted_in(&self, text: &str) -> Option<&str> {
        let mut set = self.iter();
        let quoted = |(_, value): &(&str, &str)| !value.is_empty() && text.contains(value);
        set.find(quoted).map(|(name, _)| name)
    }

    /// A text without any property's value.
    pub(crate) fn without_values(&self, text: String) -> String {
        let values = self.0.values().filter(|value| !value.is_empty());
        values.fold(text, |text, value| text.replace(value, "***"))
    }

    /// A property that is no secret.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Names and values. Never log them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.0.keys().map(|name| (name, "***")))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str) -> Result<Properties, PropertyError> {
        Properties::new(BTreeMap::from([(name.to_owned(), "hunter2".to_owned())]))
    }

    /// Protects the promises from a line of configuration, and the operator from a riddle.
    #[test]
    fn what_would_break_a_promise_is_refused_with_the_reason() {
        for (name, why) in FORBIDDEN {
            let error = of(name).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(why), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert!(of("sasl.password").is_ok());
        assert!(of("linger.ms").is_ok());
    }

    /// Protects secrets from debug output.
    #[test]
    fn values_are_not_shown() {
        let shown = format!("{:?}", of("sasl.password").unwrap());
        assert_eq!(shown, r#"{"sasl.password": "***"}"#);
    }
}
