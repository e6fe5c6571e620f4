//! Topics and clusters that can't be used, and what is said about them.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_executor::block_on;
use rdkafka::admin::{AdminOptions, AlterConfig, ResourceSpecifier};
use tally_log::kafka::{Cluster, KafkaOptions, OpenError, Properties, Topic, TopicKind};

use crate::support::InTopic;

fn set(test: &InTopic, configs: &[(&str, &str)]) {
    let mut altered = AlterConfig::new(ResourceSpecifier::Topic(&test.topic.name));
    for (name, value) in configs {
        altered = altered.set(name, value);
    }
    let limits = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
    block_on(test.admin().alter_configs([&altered], &limits)).unwrap()[0]
        .as_ref()
        .unwrap();
}

const GOOD: [(&str, &str); 4] = [
    ("cleanup.policy", "delete"),
    ("retention.ms", "-1"),
    ("retention.bytes", "-1"),
    ("message.timestamp.type", "LogAppendTime"),
];

/// Protects history: a topic that would lose it is refused, by the config's name.
#[test]
fn a_topic_that_would_lose_history_is_refused() {
    let test = InTopic::new(1);
    for (name, value) in [
        ("cleanup.policy", "compact"),
        ("cleanup.policy", "compact,delete"),
        ("retention.ms", "604800000"),
        ("retention.bytes", "1000000"),
        ("message.timestamp.type", "CreateTime"),
    ] {
        let mut configs: BTreeMap<_, _> = GOOD.into_iter().collect();
        configs.insert(name, value);
        let configs: Vec<_> = configs.into_iter().collect();
        set(&test, &configs);
        let error = test.try_open(&test.options).unwrap_err();
        assert!(matches!(error, OpenError::TopicUnfit { .. }), "{error}");
        let error = error.to_string();
        assert!(error.contains(name) && error.contains(value), "{error}");
    }
    set(&test, &GOOD);
    test.open();
}

/// Protects an operator from a riddle: what is missing is named with what to do.
#[test]
fn what_is_missing_is_said() {
    let test = InTopic::new(1);
    let missing = InTopic {
        topic: Topic {
            name: format!("{}.missing", test.topic.name),
            ..test.topic.clone()
        },
        options: test.options.clone(),
    };
    let error = missing.try_open(&test.options).unwrap_err().to_string();
    assert!(error.contains("tally topics create"), "{error}");
    let more = InTopic {
        topic: Topic {
            partitions: 3,
            ..test.topic.clone()
        },
        options: test.options.clone(),
    };
    let error = more.try_open(&test.options).unwrap_err().to_string();
    assert!(error.contains("log.partitions to 1"), "{error}");
}

/// Protects what is made: a topic of ours is as it must be, and one replica is worth a warning.
#[test]
fn topics_are_made_as_they_must_be() {
    let test = InTopic::new(1);
    let cluster = Cluster::connect(&test.options).unwrap();
    for (kind, partitions) in [
        (TopicKind::Interactions, 4),
        (TopicKind::Resources, 1),
        (TopicKind::DeadLetters, 4),
    ] {
        let topic = Topic {
            name: format!("{}.{kind:?}", test.topic.name),
            kind,
            partitions,
        };
        assert!(cluster.describe(&topic.name).unwrap().is_none());
        assert!(cluster.create(&topic, crate::support::ONE).unwrap());
        assert!(!cluster.create(&topic, crate::support::ONE).unwrap());
        let described = cluster.describe(&topic.name).unwrap().unwrap();
        assert_eq!(
            described.partitions.len(),
            usize::try_from(partitions).unwrap()
        );
        let findings = topic.findings(&described);
        assert!(!findings.is_empty());
        for finding in findings {
            assert!(!finding.refuses, "{finding:?}");
            assert!(finding.what.contains("replicas"), "{finding:?}");
        }
    }
}

/// Protects secrets, and the operator: a property that is none is named, its value is not shown.
#[test]
fn a_property_that_is_none_is_named() {
    let test = InTopic::new(1);
    for (name, value) in [
        ("sasl.pasword", "hunter2"),
        ("sasl.mechanism", "hunter2"),
        ("linger.ms", "hunter2"),
    ] {
        let properties = BTreeMap::from([
            (name.to_owned(), value.to_owned()),
            ("security.protocol".to_owned(), "sasl_plaintext".to_owned()),
        ]);
        let options = KafkaOptions {
            properties: Properties::new(properties).unwrap(),
            ..test.options.clone()
        };
        let error = test.try_open(&options).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

/// Protects a start from hanging: a cluster that is not there is said not to be.
#[test]
fn a_cluster_that_is_away_is_said_to_be() {
    let test = InTopic::new(1);
    let options = KafkaOptions {
        bootstrap_servers: "127.0.0.1:1".to_owned(),
        ..test.options.clone()
    };
    let error = test.try_open(&options).unwrap_err();
    assert!(matches!(error, OpenError::Unreachable { .. }), "{error:?}");
    let error = error.to_string();
    assert!(error.contains("kafka.bootstrap_servers"), "{error}");
    assert!(error.contains("refused"), "{error}");
}
