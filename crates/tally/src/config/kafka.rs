//! What the Kafka log is told, and what is refused of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use serde::{Deserialize, Serialize};
use tally_log::kafka::{self, KafkaOptions, Replication, Topic, TopicKind};

use super::values::{self, Properties, PropertyFiles, Size, Span, Whole};
use super::{Config, ConfigError, LogKind, Sources};

/// The longest name of a topic that Kafka takes, in bytes.
const MAX_TOPIC: usize = 249;
/// The longest content of a file in `kafka.property_files`, in bytes: some are certificates.
const MAX_PROPERTY: u64 = 1 << 20;

const INTERACTIONS: &str = "interactions";
const RESOURCES: &str = "resources";
const DEAD_LETTERS: &str = "dead-letters";

/// The cluster, our topics on it, and how it is talked to.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kafka {
    #[serde(
        default,
        deserialize_with = "values::optional_text",
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) bootstrap_servers: Option<String>,
    #[serde(deserialize_with = "values::text")]
    pub(crate) topic_prefix: String,
    #[serde(
        default,
        deserialize_with = "values::optional_text",
        skip_serializing_if = "Option::is_none"
    )]
    group_id: Option<String>,
    /// 0: one per broker, at most 3.
    replication_factor: Whole<0, 32_767>,
    /// 0: one less than there are copies, at least 1.
    min_insync_replicas: Whole<0, 32_767>,
    delivery_timeout: Span<100, 9_000>,
    max_prefetch: Size<{ 1 << 20 }, { 4 << 30 }>,
    properties: Properties,
    property_files: PropertyFiles,
    /// Those of `properties`, and what the files of `property_files` hold.
    #[serde(skip)]
    all_properties: kafka::Properties,
}

impl Config {
    /// How the cluster is reached; `None` where `kafka.bootstrap_servers` is not set.
    pub(crate) fn kafka_options(&self) -> Option<KafkaOptions> {
        let kafka = &self.kafka;
        Some(KafkaOptions {
            bootstrap_servers: kafka.bootstrap_servers.clone()?,
            properties: kafka.all_properties.clone(),
            group_id: kafka
                .group_id
                .clone()
                .unwrap_or_else(|| format!("{}-projector", kafka.topic_prefix)),
            delivery_timeout: kafka.delivery_timeout.get(),
            max_queue_bytes: self.log.max_queued.as_usize(),
            max_prefetch_bytes: kafka.max_prefetch.as_usize(),
            ..KafkaOptions::default()
        })
    }
}

impl Kafka {
    /// A topic of ours, where the log of interactions has so many partitions.
    pub(crate) fn topic(&self, kind: TopicKind, partitions: u32) -> Topic {
        let (name, partitions) = match kind {
            TopicKind::Interactions => (INTERACTIONS, partitions),
            TopicKind::Resources => (RESOURCES, 1),
            TopicKind::DeadLetters => (DEAD_LETTERS, partitions),
        };
        Topic {
            name: format!("{}.{name}", self.topic_prefix),
            kind,
            partitions,
        }
    }

    /// How many copies of everything the cluster shall keep.
    pub(crate) fn replication(&self) -> Replication {
        Replication {
            factor: self.replication_factor.as_u32(),
            min_insync: self.min_insync_replicas.as_u32(),
        }
    }

    /// Refuses what each setting alone can't see, and reads the files of secrets.
    pub(super) fn finish(&mut self, log: LogKind, sources: &Sources) -> Result<(), ConfigError> {
        self.check(log, sources)?;
        self.all_properties = self.all_properties(sources)?;
        Ok(())
    }

    fn check(&self, log: LogKind, sources: &Sources) -> Result<(), ConfigError> {
        let refuse = |setting: &str, why: String| Err(sources.invalid(setting, why));
        match &self.bootstrap_servers {
            None if log == LogKind::Kafka => {
                let why = "it is missing, and log.kind is \"kafka\"; valid are brokers, as in \"kafka-1:9092,kafka-2:9092\"";
                return refuse("kafka.bootstrap_servers", why.to_owned());
            }
            Some(servers)
                if servers
                    .split(',')
                    .any(|server| server.is_empty() || server.contains(char::is_whitespace)) =>
            {
                let why = format!(
                    "{servers:?} is not valid; valid are brokers with commas between them and no blanks, as in \"kafka-1:9092,kafka-2:9092\""
                );
                return refuse("kafka.bootstrap_servers", why);
            }
            Some(_) | None => {}
        }
        let prefix = &self.topic_prefix;
        let longest = MAX_TOPIC - DEAD_LETTERS.len() - 1;
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if prefix.is_empty() || prefix.len() > longest || !prefix.bytes().all(valid) {
            let why = format!(
                "{prefix:?} can't begin the name of a topic; valid are 1 to {longest} letters, digits, dots, hyphens and underscores of ASCII"
            );
            return refuse("kafka.topic_prefix", why);
        }
        if let Some(group) = &self.group_id
            && (group.is_empty() || group.len() > 255 || group.contains(char::is_control))
        {
            let why = format!(
                "{group:?} is not the name of a group; valid are 1 to 255 bytes with no control characters"
            );
            return refuse("kafka.group_id", why);
        }
        let (factor, least) = (
            self.replication_factor.as_u32(),
            self.min_insync_replicas.as_u32(),
        );
        if factor != 0 && least > factor {
            let why = format!(
                "{least} is more than there are copies: kafka.replication_factor is {factor}; then nothing could ever be appended"
            );
            return refuse("kafka.min_insync_replicas", why);
        }
        Ok(())
    }

    fn all_properties(&self, sources: &Sources) -> Result<kafka::Properties, ConfigError> {
        let mut all = BTreeMap::new();
        for (name, value) in self.properties.iter() {
            all.insert(name.to_owned(), value.reveal().to_owned());
        }
        for (name, path) in self.property_files.iter() {
            let refuse = |why: String| sources.invalid_property("kafka.property_files", name, why);
            if all.contains_key(name) {
                let why = "it is set in kafka.properties as well; remove one of the two";
                return Err(refuse(why.to_owned()));
            }
            let content = read_property(path).map_err(|error| {
                refuse(format!(
                    "the file {} can't be read: {error}",
                    path.display()
                ))
            })?;
            all.insert(name.to_owned(), content);
        }
        kafka::Properties::new(all).map_err(|error| {
            let section = if self
                .property_files
                .iter()
                .any(|(name, _)| name == error.name)
            {
                "kafka.property_files"
            } else {
                "kafka.properties"
            };
            sources.invalid_property(section, &error.name, error.why)
        })
    }
}

/// A file's content without the line break that editors and `echo` put at its end.
pub(super) fn read_property(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = File::open(path)?
        .take(MAX_PROPERTY + 1)
        .read_to_string(&mut text)?;
    if u64::try_from(read).unwrap_or(u64::MAX) > MAX_PROPERTY {
        let why = format!("it has more than {MAX_PROPERTY} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    let content = text.strip_suffix('\n').unwrap_or(&text);
    let content = content.strip_suffix('\r').unwrap_or(content);
    Ok(content.to_owned())
}

#[cfg(test)]
mod tests;
