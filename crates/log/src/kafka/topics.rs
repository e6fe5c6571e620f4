//! What our topics must be like; making, describing and checking them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_executor::block_on;
use rdkafka::TopicPartitionList;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use tally_domain::codec::written_version;
use tally_domain::{LogId, Offset, Partition};

use super::client::{self, Context, Said, left, lets_nobody_in};
use super::metrics::KafkaMetrics;
use super::native::describe_topic;
use super::options::{KafkaOptions, OpenError};

/// How long the cluster may take to answer for the first time.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long one try of that may take.
const TRY_LIMIT: Duration = Duration::from_secs(2);
/// How long it may take to do what it is asked.
const ASK_LIMIT: Duration = Duration::from_secs(15);
/// How long brokers may take to know a topic that was made.
const KNOWN_LIMIT: Duration = Duration::from_secs(10);
/// The pause before it is asked again, in which the client's own words are listened to.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// As many replicas as lose nothing when one broker is lost for good and another stops.
const SAFE_REPLICAS: usize = 3;
/// As many in-sync replicas as must have a record so that one broker can be lost.
const SAFE_IN_SYNC: usize = 2;

/// What a topic is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicKind {
    /// The events: kept for ever.
    Interactions,
    /// The catalogue: one partition, the last change of each resource is kept.
    Resources,
    /// Records that could not be folded, for others to see: kept for ever, a copy.
    DeadLetters,
}

impl TopicKind {
    /// The version of the schema of a record that this build wrote, as its header says it.
    pub(super) fn schema_version(self, value: &[u8]) -> u64 {
        match self {
            Self::Interactions => written_version(value),
            Self::Resources | Self::DeadLetters => 1,
        }
    }

    /// What the topic is made with, and what each setting must be: `None` where another will do.
    fn configs(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Interactions | Self::DeadLetters => &[
                ("cleanup.policy", "delete"),
                ("retention.ms", "-1"),
                ("retention.bytes", "-1"),
                ("message.timestamp.type", "LogAppendTime"),
            ],
            Self::Resources => &[
                ("cleanup.policy", "compact"),
                ("message.timestamp.type", "LogAppendTime"),
            ],
        }
    }
}

/// A topic of ours as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its name, as in `tally.interactions`.
    pub name: String,
    /// What it is for.
    pub kind: TopicKind,
    /// How many partitions it has.
    pub partitions: u32,
}

/// How many copies there are of each partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replication {
    /// Replicas of each partition; 0: one per broker, at most 3.
    pub factor: u32,
    /// Replicas that must have a record before it is acknowledged; 0: one less than there are, at
    /// least 1.
    pub min_insync: u32,
}

/// A topic as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicDescription {
    /// Its name.
    pub name: String,
    /// Made when the topic was made, never again.
    pub id: LogId,
    /// By number.
    pub partitions: Vec<PartitionDescription>,
    /// Its configuration, values in force, defaults included.
    pub configs: BTreeMap<String, String>,
}

/// Who has a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionDescription {
    /// Its number.
    pub partition: Partition,
    /// The broker that leads it; `None` where none does.
    pub leader: Option<i32>,
    /// All brokers that shall have it.
    pub replicas: Vec<i32>,
    /// Those that have all of it.
    pub in_sync: Vec<i32>,
}

/// Something about a topic that an operator should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Whether the topic can't be used so; else it is a warning.
    pub refuses: bool,
    /// What is wrong, and what to do.
    pub what: String,
}

impl TopicDescription {
    /// How many in-sync replicas a partition needs to take records.
    #[must_use]
    pub fn min_insync(&self) -> usize {
        let set = self.configs.get("min.insync.replicas");
        set.and_then(|value| value.parse().ok()).unwrap_or(1)
    }

    /// How many replicas the partition with the fewest has.
    #[must_use]
    pub fn replication_factor(&self) -> usize {
        let replicas = self.partitions.iter().map(|one| one.replicas.len());
        replicas.min().unwrap_or(0)
    }
}

impl Topic {
    /// What is wrong with a topic as it is, or worth knowing.
    #[must_use]
    pub fn findings(&self, description: &TopicDescription) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut refuse = |what| {
            findings.push(Finding {
                refuses: true,
                what,
            })
        };
        let (name, wanted) = (&self.name, self.partitions);
        let actual = description.partitions.len();
        if usize::try_from(wanted) != Ok(actual) {
            refuse(match self.kind {
                TopicKind::Interactions => format!(
                    "it has {actual} partitions, not {wanted}: the number is fixed when a topic is made, since a resource's place follows from it. Set log.partitions to {actual}, or use another kafka.topic_prefix"
                ),
                TopicKind::Resources | TopicKind::DeadLetters => format!(
                    "it has {actual} partitions, not {wanted}: delete it and make it anew with `tally topics create`"
                ),
            });
        }
        for (config, wanted) in self.kind.configs() {
            let actual = description.configs.get(*config).map_or("", String::as_str);
            if actual != *wanted && self.minds(config, actual) {
                let why = why(config);
                refuse(format!(
                    "{config} is {actual:?}, and must be {wanted:?}: {why}. Set it with Kafka's kafka-configs.sh --alter --topic {name} --add-config {config}={wanted}"
                ));
            }
        }
        self.warn(description, &mut findings);
        findings
    }

    /// Whether another value than the one a topic is made with is wrong.
    fn minds(&self, config: &str, actual: &str) -> bool {
        match (self.kind, config) {
            // An export may be kept as short as its readers like.
            (TopicKind::DeadLetters, _) => false,
            // A catalogue that is kept whole is as good as one that is compacted.
            (TopicKind::Resources, "cleanup.policy") => {
                actual.split(',').any(|one| one == "delete")
            }
            (TopicKind::Resources | TopicKind::Interactions, _) => true,
        }
    }

    fn warn(&self, description: &TopicDescription, findings: &mut Vec<Finding>) {
        let mut warn = |what| {
            findings.push(Finding {
                refuses: false,
                what,
            });
        };
        let replicas = description.replication_factor();
        if replicas < SAFE_REPLICAS {
            warn(format!(
                "it has {replicas} replicas, fewer than {SAFE_REPLICAS}: records are lost with a broker's disk"
            ));
        }
        let in_sync = description.min_insync();
        if in_sync < SAFE_IN_SYNC {
            warn(format!(
                "min.insync.replicas is {in_sync}, less than {SAFE_IN_SYNC}: a record that was acknowledged may be on one broker alone"
            ));
        }
        let unclean = description.configs.get("unclean.leader.election.enable");
        if unclean.is_some_and(|value| value == "true") {
            warn(
                "unclean.leader.election.enable is true: acknowledged records are lost when a replica leads that lacks them"
                    .to_owned(),
            );
        }
        let largest = description.configs.get("max.message.bytes");
        let largest = largest.and_then(|value| value.parse::<usize>().ok());
        if let Some(largest) = largest.filter(|largest| *largest < client::MAX_MESSAGE_BYTES) {
            warn(format!(
                "max.message.bytes is {largest}, less than {}: records near 1 MiB are refused",
                client::MAX_MESSAGE_BYTES
            ));
        }
    }
}

/// Why a config must be as it must.
fn why(config: &str) -> &'static str {
    match config {
        "cleanup.policy" => "else history is removed that the numbers follow from",
        "retention.ms" | "retention.bytes" => {
            "the numbers follow from all records since the first, so none may be removed"
        }
        _ => "the broker's clock says when a record came, not the producer's",
    }
}

/// A cluster, asked about its topics.
pub struct Cluster {
    options: KafkaOptions,
    consumer: BaseConsumer<Context>,
    said: Arc<Said>,
}

impl Cluster {
    /// Reaches the cluster; waits for it up to a limit.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn connect(options: &KafkaOptions) -> Result<Self, OpenError> {
        let cluster = Self::new(options)?;
        let (began, until) = (Instant::now(), Instant::now() + CONNECT_LIMIT);
        loop {
            let limit = TRY_LIMIT.min(left(until));
            let Err(error) = cluster.consumer.fetch_metadata(Some(""), limit) else {
                return Ok(cluster);
            };
            // An empty name is no topic: that, too, is an answer.
            if error.rdkafka_error_code().is_some_and(answered) {
                return Ok(cluster);
            }
            cluster.listen(RETRY_PAUSE);
            let said = cluster.said.since(began);
            let servers = options.bootstrap_servers.clone();
            match said {
                Some((code, why)) if lets_nobody_in(code) => {
                    return Err(OpenError::NotLetIn { servers, why });
                }
                said if Instant::now() >= until => {
                    let why = said.map_or_else(|| error.to_string(), |(_, why)| why);
                    return Err(OpenError::Unreachable { servers, why });
                }
                Some(_) | None => {}
            }
        }
    }

    /// Takes in what the client says of its connections, for as long.
    fn listen(&self, wait: Duration) {
        let until = Instant::now() + wait;
        while Instant::now() < until {
            let _ = self.consumer.poll(left(until));
        }
    }

    fn new(options: &KafkaOptions) -> Result<Self, OpenError> {
        let said = Arc::new(Said::default());
        let consumer = BaseConsumer::from_config_and_context(&admin(options), context(&said)?)
            .map_err(client::not_made(options))?;
        Ok(Self {
            options: options.clone(),
            consumer,
            said,
        })
    }

    /// Makes the topic; `false` where it was there already, whatever it is like.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn create(&self, topic: &Topic, replication: Replication) -> Result<bool, OpenError> {
        let doing = format!("create topic {}", topic.name);
        let brokers = self.brokers()?;
        let factor = match replication.factor {
            0 => u32::try_from(brokers.min(SAFE_REPLICAS)).unwrap_or(1),
            factor => factor,
        };
        let min_insync = match replication.min_insync {
            0 => (factor.saturating_sub(1)).max(1),
            min_insync => min_insync,
        };
        if min_insync > factor {
            let why = format!(
                "kafka.min_insync_replicas is {min_insync}, more than the {factor} replicas there are: no record could ever be acknowledged"
            );
            return Err(OpenError::Failed { doing, why });
        }
        let (min_insync, largest) = (
            min_insync.to_string(),
            client::MAX_MESSAGE_BYTES.to_string(),
        );
        let count = i32::try_from(topic.partitions).unwrap_or(i32::MAX);
        let replicas = TopicReplication::Fixed(i32::try_from(factor).unwrap_or(i32::MAX));
        let mut new = NewTopic::new(&topic.name, count, replicas)
            .set("min.insync.replicas", &min_insync)
            .set("unclean.leader.election.enable", "false")
            .set("max.message.bytes", &largest);
        for (config, value) in topic.kind.configs() {
            new = new.set(config, value);
        }
        let asked = self.ask(&doing, |admin, limits| {
            block_on(admin.create_topics([&new], limits))
        })?;
        match asked.into_iter().next() {
            Some(Ok(_)) => {
                self.wait_for(topic);
                Ok(true)
            }
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(false),
            Some(Err((_, RDKafkaErrorCode::InvalidReplicationFactor))) => Err(OpenError::Failed {
                doing,
                why: format!(
                    "there are not {factor} brokers for as many replicas, only {brokers}. Set kafka.replication_factor"
                ),
            }),
            Some(Err((_, code))) => Err(refused(doing, code, code.to_string())),
            None => Err(OpenError::Failed {
                doing,
                why: "there was no answer".to_owned(),
            }),
        }
    }

    /// Waits until the brokers know a topic that was made: they say that it is made before they
    /// do. Where that takes too long, whoever needs it says so.
    fn wait_for(&self, topic: &Topic) {
        let until = Instant::now() + KNOWN_LIMIT;
        while Instant::now() < until {
            let described = describe_topic(self.consumer.client(), &topic.name, TRY_LIMIT);
            if let Ok(Some(described)) = described {
                let partitions = described.partitions;
                let led = partitions.iter().all(|one| one.leader.is_some());
                if led && u32::try_from(partitions.len()) == Ok(topic.partitions) {
                    return;
                }
            }
            self.listen(RETRY_PAUSE);
        }
    }

    /// The topic as it is; `None` where there is none.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn describe(&self, topic: &str) -> Result<Option<TopicDescription>, OpenError> {
        let doing = format!("describe topic {topic}");
        let described = describe_topic(self.consumer.client(), topic, ASK_LIMIT);
        let described = described.map_err(|(code, why)| refused(doing, code, why))?;
        let Some(described) = described else {
            return Ok(None);
        };
        let doing = format!("read the configuration of topic {topic}");
        let asked = self.ask(&doing, |admin, limits| {
            block_on(admin.describe_configs(&[ResourceSpecifier::Topic(topic)], limits))
        })?;
        let configs = match asked.into_iter().next() {
            Some(Ok(resource)) => resource.entries,
            Some(Err(code)) => return Err(refused(doing, code, code.to_string())),
            None => Vec::new(),
        };
        // The library does not hand on that it was refused; every topic has some.
        if configs.is_empty() {
            let why = "the broker gives none of it (the operation is DescribeConfigs)".to_owned();
            return Err(OpenError::NotAllowed { doing, why });
        }
        let configs = configs
            .into_iter()
            .filter_map(|entry| Some((entry.name, entry.value?)));
        Ok(Some(TopicDescription {
            name: topic.to_owned(),
            id: described.id,
            partitions: described.partitions,
            configs: configs.collect(),
        }))
    }

    /// Removes the records of a topic below these offsets, by partition number.
    pub(super) fn delete_below(&self, topic: &str, below: &[Offset]) -> Result<(), OpenError> {
        let doing = format!("delete records of topic {topic}");
        let mut list = TopicPartitionList::new();
        for (partition, offset) in (0..).zip(below) {
            let offset = rdkafka::Offset::Offset(i64::try_from(*offset).unwrap_or(i64::MAX));
            let added = list.add_partition_offset(topic, partition, offset);
            added.map_err(client::not_made(&self.options))?;
        }
        let deleting =
            |admin: &AdminClient<_>, limits: &_| block_on(admin.delete_records(&list, limits));
        let deleted = self.ask(&doing, deleting)?;
        let (each, code) = (deleted.elements(), RDKafkaErrorCode::Fail);
        let first = each.iter().find_map(|one| one.error().err());
        first.map_or(Ok(()), |error| Err(refused(doing, code, error.to_string())))
    }

    fn brokers(&self) -> Result<usize, OpenError> {
        let failed = |error: KafkaError| OpenError::Failed {
            doing: "name its brokers".to_owned(),
            why: error.to_string(),
        };
        let metadata = self.consumer.fetch_metadata(None, ASK_LIMIT);
        Ok(metadata.map_err(failed)?.brokers().len())
    }

    /// Asks through a client for administration.
    fn ask<T>(
        &self,
        doing: &str,
        asking: impl FnOnce(&AdminClient<Context>, &AdminOptions) -> KafkaResult<T>,
    ) -> Result<T, OpenError> {
        let admin =
            AdminClient::from_config_and_context(&admin(&self.options), context(&self.said)?);
        let admin = admin.map_err(client::not_made(&self.options))?;
        let limits = AdminOptions::new()
            .request_timeout(Some(ASK_LIMIT))
            .operation_timeout(Some(ASK_LIMIT));
        asking(&admin, &limits).map_err(|error| match error.rdkafka_error_code() {
            Some(code) => refused(doing.to_owned(), code, code.to_string()),
            None => OpenError::Failed {
                doing: doing.to_owned(),
                why: error.to_string(),
            },
        })
    }
}

fn admin(options: &KafkaOptions) -> rdkafka::ClientConfig {
    client::plain(options, "admin")
}

fn context(said: &Arc<Said>) -> Result<Context, OpenError> {
    let metrics = KafkaMetrics::unregistered().map_err(|error| OpenError::Failed {
        doing: "make its metrics".to_owned(),
        why: error.to_string(),
    })?;
    Ok(Context::new(
        "admin",
        metrics.client("admin"),
        Arc::clone(said),
    ))
}

/// Whether an error is what a broker says.
fn answered(code: RDKafkaErrorCode) -> bool {
    [
        RDKafkaErrorCode::InvalidTopic,
        RDKafkaErrorCode::UnknownTopicOrPartition,
        RDKafkaErrorCode::UnknownTopic,
        RDKafkaErrorCode::TopicAuthorizationFailed,
    ]
    .contains(&code)
}

/// What a refusal of the cluster means.
fn refused(doing: String, code: RDKafkaErrorCode, why: String) -> OpenError {
    let not_allowed = [
        RDKafkaErrorCode::TopicAuthorizationFailed,
        RDKafkaErrorCode::ClusterAuthorizationFailed,
        RDKafkaErrorCode::GroupAuthorizationFailed,
    ];
    if not_allowed.contains(&code) {
        OpenError::NotAllowed { doing, why }
    } else {
        OpenError::Failed { doing, why }
    }
}
