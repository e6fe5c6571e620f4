//! What the Kafka log is told: what is in force, what is refused, what is never shown.

use std::ffi::OsString;
use std::fs;
use std::time::Duration;

use super::*;

const CLUSTER: (&str, &str) = ("TALLY__KAFKA__BOOTSTRAP_SERVERS", "localhost:9092");

fn load(file: &str, env: &[(&str, &str)]) -> Result<(Config, Sources), ConfigError> {
    let env = env
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Config::from_layers(Some(("tally.toml", file)), env, None)
}

fn options(file: &str, env: &[(&str, &str)]) -> KafkaOptions {
    let (config, _) = load(file, env).unwrap();
    config.kafka_options().unwrap()
}

fn refused(file: &str, env: &[(&str, &str)]) -> String {
    load(file, env).expect_err(file).to_string()
}

fn properties(named: &[(&str, &str)]) -> kafka::Properties {
    let named = named
        .iter()
        .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
    kafka::Properties::new(named.collect()).unwrap()
}

/// Protects what an operator gets who names a cluster and nothing else.
#[test]
fn what_is_not_set_has_the_documented_value() {
    let (config, _) = load("", &[CLUSTER]).unwrap();
    assert_eq!(
        config.kafka_options().unwrap(),
        KafkaOptions {
            bootstrap_servers: "localhost:9092".to_owned(),
            properties: kafka::Properties::default(),
            group_id: "tally-projector".to_owned(),
            delivery_timeout: Duration::from_secs(5),
            max_queue_bytes: 64 << 20,
            max_prefetch_bytes: 32 << 20,
            ..KafkaOptions::default()
        }
    );
    let wanted = Replication {
        factor: 0,
        min_insync: 0,
    };
    assert_eq!(config.kafka.replication(), wanted);
    let (config, _) = load("", &[]).unwrap();
    assert_eq!(config.kafka_options(), None);
}

/// Protects other tools and services that find our topics and our group by name.
#[test]
fn topics_and_group_are_named_after_the_prefix() {
    let file = "[kafka]\ntopic_prefix = 'eu.tally'";
    let (config, _) = load(file, &[CLUSTER]).unwrap();
    for (kind, name, partitions) in [
        (TopicKind::Interactions, "eu.tally.interactions", 8),
        (TopicKind::Resources, "eu.tally.resources", 1),
        (TopicKind::DeadLetters, "eu.tally.dead-letters", 8),
    ] {
        let topic = config.kafka.topic(kind, 8);
        assert_eq!((topic.name.as_str(), topic.partitions), (name, partitions));
        assert_eq!(topic.kind, kind);
    }
    assert_eq!(options(file, &[CLUSTER]).group_id, "eu.tally-projector");
    let named = options("[kafka]\ngroup_id = 'mine'", &[CLUSTER]);
    assert_eq!(named.group_id, "mine");
}

/// Protects against a server that starts on a cluster it could never use.
#[test]
fn what_can_not_be_is_refused_by_name() {
    for (file, setting, wanted) in [
        (
            "[log]\nkind = 'kafka'",
            "kafka.bootstrap_servers",
            "log.kind",
        ),
        (
            "[kafka]\nbootstrap_servers = ''",
            "kafka.bootstrap_servers",
            "kafka-1:9092",
        ),
        (
            "[kafka]\nbootstrap_servers = 'a:1, b:2'",
            "kafka.bootstrap_servers",
            "no blanks",
        ),
        (
            "[kafka]\ntopic_prefix = ''",
            "kafka.topic_prefix",
            "1 to 236",
        ),
        (
            "[kafka]\ntopic_prefix = 'a/b'",
            "kafka.topic_prefix",
            "\"a/b\"",
        ),
        ("[kafka]\ngroup_id = ''", "kafka.group_id", "255"),
        (
            "[kafka]\ndelivery_timeout = '10s'",
            "kafka.delivery_timeout",
            "to 9s",
        ),
        (
            "[kafka]\ndelivery_timeout = '50ms'",
            "kafka.delivery_timeout",
            "from 100ms",
        ),
        (
            "[kafka]\nmax_prefetch = '1 KiB'",
            "kafka.max_prefetch",
            "from 1 MiB",
        ),
        (
            "[kafka]\nreplication_factor = 2\nmin_insync_replicas = 3",
            "kafka.min_insync_replicas",
            "kafka.replication_factor is 2",
        ),
        (
            "[kafka]\nreplication_factor = -1",
            "kafka.replication_factor",
            "from 0",
        ),
    ] {
        let error = refused(file, &[]);
        assert!(
            error.starts_with(&format!("setting {setting} in ")) && error.contains(wanted),
            "{file}: {error}"
        );
    }
    assert!(
        refused(
            &format!("[kafka]\ntopic_prefix = '{}'", "a".repeat(237)),
            &[]
        )
        .contains("236")
    );
}

/// Protects the promises from a property, wherever it is set and whichever log is used.
#[test]
fn a_property_that_would_break_a_promise_is_refused_with_the_reason() {
    let error = refused("[kafka.properties]\nacks = 'hunter2'", &[]);
    assert!(
        error.starts_with("setting kafka.properties.\"acks\" in the file tally.toml: ")
            && error.contains("in-sync"),
        "{error}"
    );
    assert!(!error.contains("hunter2"), "{error}");
    let error = refused("", &[("TALLY__KAFKA__PROPERTIES__GROUP__ID", "hunter2")]);
    assert!(
        error.contains("kafka.properties.\"group.id\" in the environment variable TALLY__KAFKA__PROPERTIES__GROUP__ID")
            && error.contains("kafka.group_id"),
        "{error}"
    );
    assert!(!error.contains("hunter2"), "{error}");
}

/// Protects one property against two spellings that live side by side, of which the wrong one wins.
#[test]
fn a_property_is_the_same_however_it_is_spelled_and_the_last_layer_wins() {
    let wanted = properties(&[("sasl.password", "new"), ("security.protocol", "ssl")]);
    for file in [
        "[kafka.properties]\n\"sasl.password\" = 'old'\nsecurity.protocol = 'ssl'",
        "[kafka.properties]\nsasl.password = 'old'\n\"security.protocol\" = 'ssl'",
        "[kafka.properties.sasl]\npassword = 'old'\n[kafka.properties.security]\nprotocol = 'ssl'",
    ] {
        let env = ("TALLY__KAFKA__PROPERTIES__SASL__PASSWORD", "new");
        let (config, sources) = load(file, &[CLUSTER, env]).unwrap();
        assert_eq!(config.kafka_options().unwrap().properties, wanted, "{file}");
        assert_eq!(
            sources.of("kafka.properties.sasl.password"),
            "the environment variable TALLY__KAFKA__PROPERTIES__SASL__PASSWORD"
        );
        assert_eq!(
            sources.of("kafka.properties.security.protocol"),
            "the file tally.toml"
        );
    }
}

/// Protects passwords that look like something else.
#[test]
fn a_property_from_the_environment_is_the_text_as_it_stands() {
    for text in [
        "007",
        "\"quoted\"",
        " spaced ",
        "1.50",
        "[x]",
        "{a=b}",
        "true",
        "-0",
    ] {
        let env = ("TALLY__KAFKA__PROPERTIES__SASL__PASSWORD", text);
        let found = options("", &[CLUSTER, env]).properties;
        assert_eq!(found, properties(&[("sasl.password", text)]), "{text}");
    }
    let found = options("[kafka.properties]\n\"linger.ms\" = 5", &[CLUSTER]);
    assert_eq!(found.properties, properties(&[("linger.ms", "5")]));
}

/// Protects secrets that are kept in files, as orchestrators hand them over.
#[test]
fn a_property_is_read_from_a_file_without_the_line_break_at_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("password");
    let file = format!(
        "[kafka.property_files]\n\"sasl.password\" = '{}'",
        path.display()
    );
    for (content, wanted) in [
        ("hunter2", "hunter2"),
        ("hunter2\n", "hunter2"),
        ("hunter2\r\n", "hunter2"),
        (" a\nb \n\n", " a\nb \n"),
    ] {
        fs::write(&path, content).unwrap();
        let found = options(&file, &[CLUSTER]).properties;
        assert_eq!(found, properties(&[("sasl.password", wanted)]));
    }

    let both = format!("{file}\n[kafka.properties]\nsasl.password = 'x'");
    let error = refused(&both, &[]);
    for part in [
        "kafka.property_files.\"sasl.password\"",
        "tally.toml",
        "kafka.properties",
    ] {
        assert!(error.contains(part), "{part:?} in {error}");
    }
    let forbidden = file.replace("sasl.password", "acks");
    let error = refused(&forbidden, &[]);
    assert!(error.contains("kafka.property_files.\"acks\""), "{error}");
    assert!(!error.contains("hunter2"), "{error}");

    let unreadable = |error: &str, why: &str| {
        let path = path.display().to_string();
        for part in [
            "kafka.property_files.\"sasl.password\" in the file tally.toml",
            &path,
            why,
        ] {
            assert!(error.contains(part), "{part:?} in {error}");
        }
    };
    fs::write(&path, b"\xffhunter2").unwrap();
    let error = refused(&file, &[]);
    unreadable(&error, "UTF-8");
    assert!(!error.contains("hunter2"), "{error}");
    fs::write(&path, vec![b'x'; 1 + (1 << 20)]).unwrap();
    unreadable(&refused(&file, &[]), "more than 1048576 bytes");
    fs::remove_file(&path).unwrap();
    unreadable(&refused(&file, &[]), "No such file");
}

/// Protects passwords from every message about a setting that has one in the wrong place.
#[test]
fn no_refusal_shows_what_may_be_a_secret() {
    for file in [
        "[kafka]\nproperties = 'hunter2'",
        "[kafka]\nproperties = ['hunter2']",
        "kafka = 'hunter2'",
        "[kafka.properties]\n\"sasl.password\" = ['hunter2']",
        "[kafka.properties]\nsasl.password = [['hunter2']]",
        "[kafka]\nproperty_files = 'hunter2'",
        "[kafka]\npassword = 'hunter2'",
        "[kafka.properties]\nsasl.password = 'hunter2",
        "[kafka.properties]\nsasl.password = hunter2",
        "[kafka.properties]\nsasl.password = 'hunter2' 'x'",
        "[kafka.properties]\nsasl.password = '''hunter2\n'''\nsasl.password = 'hunter2'",
    ] {
        let error = refused(file, &[]);
        assert!(!error.contains("hunter2"), "{file}: {error}");
        assert!(error.contains("tally.toml"), "{file}: {error}");
    }
    for name in [
        "TALLY__KAFKA",
        "TALLY__KAFKA__PROPERTIES",
        "TALLY__KAFKA__PROPERTIES____PASSWORD",
        "TALLY__KAFKA__PASSWORD",
        "TALLY__KAFKA__PROPERTY_FILES",
    ] {
        for value in ["hunter2", "[hunter2]", "{a={b=[hunter2]}}", "{a=hunter2"] {
            let error = refused("", &[(name, value)]);
            assert!(!error.contains("hunter2"), "{name}: {error}");
        }
    }
    let env = ("TALLY__KAFKA__PROPERTIES__SASL__PASSWORD", "hunter2");
    let (config, sources) = load("", &[CLUSTER, env]).unwrap();
    let shown = format!("{config:?}{sources:?}{:?}", config.kafka_options());
    assert!(!shown.contains("hunter2"), "{shown}");
}
