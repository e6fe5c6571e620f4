//! `tally topics`: the topics on a Kafka cluster that the logs are.

use std::collections::BTreeMap;
use std::io::{self, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Subcommand;
use serde::Serialize;
use tally_domain::Partition;
use tally_log::kafka::{Cluster, Finding, OpenError, Topic, TopicDescription, TopicKind};

use crate::config::Config;
use crate::failure::Failure;
use crate::output;
use crate::serve::logs::kafka_options;

/// What to do with the topics.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum TopicsCommand {
    /// Make those that are not there, then check all
    #[command(after_help = CREATE_EXAMPLES)]
    Create,
    /// Say whether the server can use them; exit code 1 where it can't
    #[command(after_help = CHECK_EXAMPLES)]
    Check {
        /// Print one JSON object for each finding
        #[arg(long)]
        json: bool,
    },
    /// Print what they are, one line of JSON each
    #[command(after_help = DESCRIBE_EXAMPLES)]
    Describe,
}

const EXAMPLES: &str = "\
Examples:
  TALLY__KAFKA__BOOTSTRAP_SERVERS=localhost:9092 tally topics create
  tally topics check --config tally.toml
  tally topics describe --config tally.toml

The topics are <kafka.topic_prefix>.interactions, .resources and .dead-letters.";

const CREATE_EXAMPLES: &str = "\
Example:
  tally topics create --config tally.toml

They get log.partitions partitions, kafka.replication_factor copies of each, and
kafka.min_insync_replicas. A topic that is there already stays as it is.";

const CHECK_EXAMPLES: &str = "\
Examples:
  tally topics check --config tally.toml && tally serve --config tally.toml
  tally topics check --json

Warnings alone are no reason to fail: the exit code is 0.";

const DESCRIBE_EXAMPLES: &str = "\
Examples:
  tally topics describe --config tally.toml
  tally topics describe | jq '.leaders[] | select(.in_sync != .replicas)'";

/// Settings of a topic on which it depends what becomes of its records.
const CONFIGS: &[&str] = &[
    "cleanup.policy",
    "compression.type",
    "delete.retention.ms",
    "max.message.bytes",
    "message.timestamp.type",
    "min.compaction.lag.ms",
    "min.insync.replicas",
    "remote.storage.enable",
    "retention.bytes",
    "retention.ms",
    "segment.bytes",
    "segment.ms",
    "unclean.leader.election.enable",
];

/// Makes, checks or describes the topics. With `log.kind` embedded too: they are made before it is
/// changed.
pub(crate) fn run(command: &TopicsCommand, config: &Config) -> Result<(), Failure> {
    let cluster = Cluster::connect(&kafka_options(config)?).map_err(Failure::of)?;
    let partitions = config.log.partitions.as_u32();
    let topics = [
        TopicKind::Interactions,
        TopicKind::Resources,
        TopicKind::DeadLetters,
    ]
    .map(|kind| config.kafka.topic(kind, partitions));
    match command {
        TopicsCommand::Create => {
            for topic in &topics {
                let created = cluster.create(topic, config.kafka.replication());
                let what = if created.map_err(Failure::of)? {
                    "created"
                } else {
                    "was there"
                };
                output::line(&format!("{}: {what}", topic.name))?;
            }
            check(&cluster, &topics, false)
        }
        TopicsCommand::Check { json } => check(&cluster, &topics, *json),
        TopicsCommand::Describe => describe(&cluster, &topics),
    }
}

/// A finding as a line of JSON.
#[derive(Serialize)]
struct FindingLine<'a> {
    topic: &'a str,
    refuses: bool,
    finding: &'a str,
}

fn check(cluster: &Cluster, topics: &[Topic], json: bool) -> Result<(), Failure> {
    let (mut refused, mut warnings) = (0, 0);
    for topic in topics {
        let found = cluster.describe(&topic.name).map_err(Failure::of)?;
        for Finding { refuses, what } in findings(topic, found.as_ref()) {
            if refuses {
                refused += 1;
            } else {
                warnings += 1;
            }
            if json {
                output::json(&FindingLine {
                    topic: &topic.name,
                    refuses,
                    finding: &what,
                })?;
            } else {
                let kind = if refuses { "refused" } else { "warning" };
                output::line(&format!("{}: {kind}: {what}", topic.name))?;
            }
        }
    }
    if refused > 0 {
        return Err(Failure::run(
            "the server can't use the topics as they are; the lines above say why",
        ));
    }
    if json {
        return Ok(());
    }
    output::line(&match warnings {
        0 => "All topics are as they must be.".to_owned(),
        _ => "The server can use the topics.".to_owned(),
    })
}

fn findings(topic: &Topic, found: Option<&TopicDescription>) -> Vec<Finding> {
    found.map_or_else(
        || {
            let what = missing(topic).to_string();
            vec![Finding {
                refuses: true,
                what,
            }]
        },
        |description| topic.findings(description),
    )
}

fn missing(topic: &Topic) -> OpenError {
    OpenError::TopicMissing {
        topic: topic.name.clone(),
    }
}

/// A topic as a line of JSON.
#[derive(Serialize)]
struct TopicLine<'a> {
    name: &'a str,
    /// As Kafka's own tools write it.
    id: String,
    partitions: usize,
    replication_factor: usize,
    min_insync_replicas: Option<u32>,
    leaders: Vec<LeaderLine<'a>>,
    configs: BTreeMap<&'a str, &'a str>,
}

/// Who has a partition.
#[derive(Serialize)]
struct LeaderLine<'a> {
    partition: Partition,
    leader: Option<i32>,
    replicas: &'a [i32],
    in_sync: &'a [i32],
}

fn describe(cluster: &Cluster, topics: &[Topic]) -> Result<(), Failure> {
    let mut out = output::stdout();
    let mut absent = None;
    for topic in topics {
        match cluster.describe(&topic.name).map_err(Failure::of)? {
            Some(description) => {
                let mut write = || -> io::Result<()> {
                    serde_json::to_writer(&mut out, &line(&description))?;
                    out.write_all(b"\n")
                };
                output::written(write())?;
            }
            None => absent = absent.or(Some(topic)),
        }
    }
    output::written(out.flush())?;
    absent.map_or(Ok(()), |topic| Err(Failure::of(missing(topic))))
}

fn line(description: &TopicDescription) -> TopicLine<'_> {
    let config = |name: &str| description.configs.get(name).map(String::as_str);
    let leaders = description.partitions.iter().map(|one| LeaderLine {
        partition: one.partition,
        leader: one.leader,
        replicas: &one.replicas,
        in_sync: &one.in_sync,
    });
    // Partitions may differ while they are moved: what counts is the one with the fewest copies.
    let copies = description.partitions.iter().map(|one| one.replicas.len());
    TopicLine {
        name: &description.name,
        id: URL_SAFE_NO_PAD.encode(description.id.as_bytes()),
        partitions: description.partitions.len(),
        replication_factor: copies.min().unwrap_or_default(),
        min_insync_replicas: config("min.insync.replicas").and_then(|text| text.parse().ok()),
        leaders: leaders.collect(),
        configs: CONFIGS
            .iter()
            .filter_map(|name| Some((*name, config(name)?)))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use tally_domain::LogId;
    use tally_log::kafka::PartitionDescription;

    use super::*;

    /// Protects whoever compares our output with `kafka-topics --describe`, and scripts that read it.
    #[test]
    fn a_topic_is_described_as_kafkas_own_tools_name_it() {
        let description = TopicDescription {
            name: "tally.interactions".to_owned(),
            id: LogId::from_u128(0xfb5f_73de_2eb5_4dd2_9a2f_31f0_5ac9_d2ff),
            partitions: vec![
                PartitionDescription {
                    partition: 0,
                    leader: Some(2),
                    replicas: vec![2, 3, 1],
                    in_sync: vec![2, 1],
                },
                PartitionDescription {
                    partition: 1,
                    leader: None,
                    replicas: vec![3, 1],
                    in_sync: vec![],
                },
            ],
            configs: BTreeMap::from([
                ("min.insync.replicas".to_owned(), "2".to_owned()),
                ("retention.ms".to_owned(), "-1".to_owned()),
                ("flush.ms".to_owned(), "1".to_owned()),
            ]),
        };
        assert_eq!(
            serde_json::to_string(&line(&description)).unwrap(),
            r#"{"name":"tally.interactions","id":"-19z3i61TdKaLzHwWsnS_w","partitions":2,"replication_factor":2,"min_insync_replicas":2,"leaders":[{"partition":0,"leader":2,"replicas":[2,3,1],"in_sync":[2,1]},{"partition":1,"leader":null,"replicas":[3,1],"in_sync":[]}],"configs":{"min.insync.replicas":"2","retention.ms":"-1"}}"#
        );
    }

    /// Protects the operator from a topic that is not there: it refuses, and says what makes it.
    #[test]
    fn a_topic_that_is_not_there_is_a_finding() {
        let topic = Topic {
            name: "tally.resources".to_owned(),
            kind: TopicKind::Resources,
            partitions: 1,
        };
        let found = findings(&topic, None);
        assert_eq!(found.len(), 1);
        for Finding { refuses, what } in found {
            assert!(refuses && what.contains("tally topics create"), "{what}");
        }
    }
}
