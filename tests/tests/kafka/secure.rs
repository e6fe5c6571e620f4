//! Passwords, certificates and rights, on a broker that demands them.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tally_tests::kafka::{Kafka, Listener, prefix, topic};
use tally_tests::metrics::Catalogue;
use tally_tests::server::interaction_request;
use tally_tests::{Folder, Server, wait};

use crate::support::{assert_says, assert_unavailable, does_not_serve};

const PASSWORD: &str = "wonderland-4711";
const WRONG_PASSWORD: &str = "looking-glass-0815";

/// One broker for the tests of this module.
fn broker() -> &'static Kafka {
    static BROKER: OnceLock<Kafka> = OnceLock::new();
    BROKER.get_or_init(|| Kafka::start_secure(PASSWORD))
}

/// A folder that goes to another listener with these properties of librdkafka, its topics as yet
/// made by nobody.
fn through(listener: Listener, properties: &[(&str, &str)]) -> Folder {
    let folder = broker().folder_without_topics();
    with(&folder, listener, properties)
}

fn with(folder: &Folder, listener: Listener, properties: &[(&str, &str)]) -> Folder {
    let servers = broker().listener(listener);
    let folder = folder
        .clone()
        .with("TALLY__KAFKA__BOOTSTRAP_SERVERS", servers);
    properties.iter().fold(folder, |folder, (name, value)| {
        let name = name.to_uppercase().replace('.', "__");
        folder.with(&format!("TALLY__KAFKA__PROPERTIES__{name}"), value)
    })
}

fn sasl<'a>(mechanism: &'a str, password: &'a str) -> [(&'static str, &'a str); 4] {
    [
        ("security.protocol", "SASL_PLAINTEXT"),
        ("sasl.mechanism", mechanism),
        ("sasl.username", "tally"),
        ("sasl.password", password),
    ]
}

fn tls(ca: &str) -> [(&'static str, String); 2] {
    let ca = broker().tls_file(ca);
    [
        ("security.protocol", "SSL".to_owned()),
        ("ssl.ca.location", ca),
    ]
}

fn mtls(name: &str) -> [(&'static str, String); 4] {
    let [protocol, ca] = tls("ca.pem");
    let file = |end: &str| broker().tls_file(&format!("{name}.{end}"));
    [
        protocol,
        ca,
        ("ssl.certificate.location", file("pem")),
        ("ssl.key.location", file("key")),
    ]
}

fn texts<'a, const N: usize>(
    properties: &'a [(&'static str, String); N],
) -> [(&'static str, &'a str); N] {
    properties
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()))
}

/// What Prometheus gets on Kafka is what the catalogue says, once the clients have said what they know.
fn as_the_catalogue_says(folder: &Folder, server: &Server) {
    let certificates = folder.setting("TALLY__KAFKA__PROPERTIES__SSL__CA__LOCATION");
    let whens: &[&str] = match certificates {
        Some(_) => &["always", "kafka", "certificates"],
        None => &["always", "kafka"],
    };
    let metrics = wait::until("the clients' statistics", || {
        let metrics = server.metrics();
        let there = |name, labels: &[&str]| metrics.sum(name, labels) > 0.0;
        let all = there("tally_kafka_broker_rtt_seconds", &["producer"])
            && there("tally_kafka_commits_total", &[])
            && there("tally_data_dir_size_bytes", &[]);
        all.then_some(metrics)
    });
    Catalogue::of(folder).check(&metrics, whens);
    let expiry = "tally_certificate_expiry_timestamp_seconds";
    assert_eq!(
        metrics.sum(expiry, &["kafka_ca"]) > 0.0,
        certificates.is_some()
    );
}

/// Topics are made, interactions taken, and commands answered, by that way in alone; no command
/// and no line of the server shows the password.
fn serves(folder: &Folder) {
    let mut said = String::new();
    for command in [
        ["topics", "create"],
        ["topics", "check"],
        ["config", "show"],
    ] {
        let ran = folder.run(&command);
        said += &ran.stderr.clone();
        said += &ran.ok();
    }
    let server = folder.start();
    let answer = server.interact("quest", 42, "view").ok();
    assert_eq!(answer["outcome"], "applied");
    assert_eq!(answer["visible"], true);
    as_the_catalogue_says(folder, &server);
    said += &tally_tests::Request::get("/metrics")
        .send(server.management())
        .text();
    said += &server.output();
    server.stop();
    said += &folder.run(&["log", "cat"]).ok();
    assert!(said.contains("quest"), "{said}");
    assert!(!said.contains(PASSWORD), "the password is shown: {said}");
    for (path, bytes) in folder.files() {
        let found = bytes
            .windows(PASSWORD.len())
            .any(|part| part == PASSWORD.as_bytes());
        assert!(!found, "the password is in {}", path.display());
    }
}

/// Protects those who log in with a password.
#[test]
fn a_password_lets_in() {
    for mechanism in ["SCRAM-SHA-256", "PLAIN"] {
        serves(&through(Listener::Sasl, &sasl(mechanism, PASSWORD)));
    }
}

/// Protects those who demand encryption, and those who also demand to know who comes.
#[test]
fn certificates_let_in() {
    serves(&through(Listener::Tls, &texts(&tls("ca.pem"))));
    serves(&through(Listener::Mtls, &texts(&mtls("client"))));
}

/// A wrong way in: what is wrong with it, where it leads, and a word of what must be said.
type WrongWay<'a> = (&'a str, Listener, &'a [(&'a str, &'a str)], &'a str);

/// Protects the operator from a riddle and the password from the log: who is not let in is told
/// so, and takes no interactions.
#[test]
fn who_is_not_let_in_is_told_so() {
    // The topics are there; it is the way in that is wrong.
    let made = broker().folder();
    let [scram, plain] =
        ["SCRAM-SHA-256", "PLAIN"].map(|mechanism| sasl(mechanism, WRONG_PASSWORD));
    let other_ca = tls("other-ca.pem");
    let other_client = mtls("other-client");
    let no_client = tls("ca.pem");
    let cases: [WrongWay<'_>; 6] = [
        (
            "wrong password, SCRAM",
            Listener::Sasl,
            &scram,
            "authentication",
        ),
        (
            "wrong password, PLAIN",
            Listener::Sasl,
            &plain,
            "authentication",
        ),
        (
            "an authority we don't trust",
            Listener::Tls,
            &texts(&other_ca),
            "certificate",
        ),
        (
            "an authority the broker does not trust",
            Listener::Mtls,
            &texts(&other_client),
            "certificate",
        ),
        (
            "no client certificate",
            Listener::Mtls,
            &texts(&no_client),
            "certificate",
        ),
        ("no TLS at all", Listener::Tls, &[], "kafka"),
    ];
    for (what, listener, properties, word) in cases {
        is_told_so(what, &with(&made, listener, properties), word);
    }
}

fn is_told_so(what: &str, folder: &Folder, word: &str) {
    let said = does_not_serve(folder);
    println!("{what}: {}", said.lines().next_back().unwrap_or_default());
    assert_says(&said, &[word]);
    let command = folder.run(&["topics", "check"]).failed();
    assert_says(&command, &[word]);
    for secret in [PASSWORD, WRONG_PASSWORD] {
        assert!(
            !(said.clone() + &command).contains(secret),
            "{what}: {said}{command}"
        );
    }
}

/// Grants or takes away a right of the user `tally`.
fn acl(change: &str, kind: &str, operation: &str, topic: &str) {
    broker().cli(&[
        "AclCommand",
        change,
        "--force",
        &format!("--{kind}-principal"),
        "User:tally",
        "--operation",
        operation,
        "--topic",
        topic,
    ]);
}

/// Protects the operator whose user lacks a right: at the start it is said which.
#[test]
fn what_is_not_granted_is_named() {
    // Not the prefix that the user may do everything with.
    let folder = through(Listener::Sasl, &sasl("PLAIN", PASSWORD));
    let name = format!("other-{}", prefix(&folder));
    let folder = folder.with("TALLY__KAFKA__TOPIC_PREFIX", &name);
    let said = folder.run(&["topics", "create"]).failed();
    assert_says(&said, &["ACL", &name]);
    let as_anyone = with(
        &folder,
        Listener::Plain,
        &[("security.protocol", "PLAINTEXT")],
    );
    let _ = as_anyone.run(&["topics", "create"]).ok();
    let said = does_not_serve(&folder);
    assert_says(&said, &[&name]);
    assert!(!said.contains(PASSWORD), "{said}");
}

/// Protects the operator from a riddle: a topic whose configuration we may not see has a name for
/// what is missing, and is not one with a wrong configuration.
#[test]
fn a_configuration_that_we_may_not_see_is_not_a_wrong_one() {
    let folder = through(Listener::Sasl, &sasl("SCRAM-SHA-256", PASSWORD));
    let _ = folder.run(&["topics", "create"]).ok();
    acl(
        "--add",
        "deny",
        "DescribeConfigs",
        &topic(&folder, "interactions"),
    );
    let said = wait::until("a refusal", || {
        let ran = folder.run(&["topics", "check"]);
        (!ran.status.success()).then(|| ran.failed())
    });
    assert_says(&said, &["DescribeConfigs", "ACL"]);
    assert!(!said.contains("retention"), "{said}");
}

/// Protects a stop from a group that we may not use: librdkafka would wait for its coordinator for
/// most of a minute.
#[test]
fn a_group_that_is_not_granted_holds_up_no_stop() {
    let folder = through(Listener::Sasl, &sasl("SCRAM-SHA-256", PASSWORD))
        .with("TALLY__KAFKA__GROUP_ID", "not-granted");
    let _ = folder.run(&["topics", "create"]).ok();
    let server = folder.start();
    wait::until("a 200", || {
        let answer = server.interact("quest", 42, "view");
        (answer.status == 200).then_some(())
    });
    let began = Instant::now();
    server.stop();
    let took = began.elapsed();
    assert!(took < Duration::from_secs(20), "it took {took:?}");
}

/// Protects the meaning of a 200 when the right to write is taken away: what the broker refuses is
/// a 503 and counts nothing, and when the right is back so is the service.
#[test]
fn a_right_taken_away_while_serving_is_a_503() {
    let folder = through(Listener::Sasl, &sasl("SCRAM-SHA-256", PASSWORD));
    let _ = folder.run(&["topics", "create"]).ok();
    let server = folder.start();
    let view = interaction_request("quest", 42, "view");
    assert_eq!(view.send(server.api()).status, 200);
    let name = topic(&folder, "interactions");
    acl("--add", "deny", "Write", &name);
    // Brokers learn of it a moment later.
    let mut taken = 1;
    let refused = wait::until("a refusal", || {
        let answer = view.send(server.api());
        taken += u64::from(answer.status == 200);
        (answer.status != 200).then_some(answer)
    });
    assert_unavailable(&refused);
    acl("--remove", "deny", "Write", &name);
    let answer = wait::until("a 200", || {
        let answer = view.send(server.api());
        (answer.status == 200).then(|| answer.ok())
    });
    assert_eq!(answer["counters"]["views"], taken + 1, "{answer}");
    assert!(!server.output().contains(PASSWORD), "{}", server.output());
}
