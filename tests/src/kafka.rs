//! A real Apache Kafka, started by `tests/kafka/kafka.sh`, and folders whose log is on it.

use std::collections::HashSet;
use std::fs;
use std::io::{Seek as _, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use tempfile::TempDir;

use crate::binary;
use crate::folder::{Folder, Ran};

/// The environment variable that names brokers (`127.0.0.1:19090`) on which every
/// [new folder](Folder::new) has its log: the black-box tests of the embedded log run on Kafka then.
pub const ON_KAFKA: &str = "TALLY_TEST_KAFKA";

/// How long a tool may take, in seconds. A start fetches Kafka's jars where they are not there.
const TOOL_SECONDS: &str = "120";
const START_SECONDS: &str = "600";

/// A cluster of 1 or 3 nodes. Its data is deleted when it is dropped, and also when this process
/// has ended.
pub struct Kafka {
    data: PathBuf,
    port: u16,
    /// The same folder: gone with the cluster, or with this where there was none.
    _root: TempDir,
}

/// How a cluster that was started by [`Kafka::start_secure`] lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listener {
    /// Anyone.
    Plain,
    /// The user `tally` with a password (SCRAM-SHA-256 or PLAIN).
    Sasl,
    /// Anyone, over TLS.
    Tls,
    /// Who shows a certificate.
    Mtls,
}

impl Listener {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Sasl => "sasl",
            Self::Tls => "tls",
            Self::Mtls => "mtls",
        }
    }
}

/// One record of a topic, as `kcat` reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its partition.
    pub partition: u64,
    /// Its offset.
    pub offset: u64,
    /// Its key.
    pub key: String,
    /// Its headers, as `name=value` with commas between them.
    pub headers: String,
    /// Its value.
    pub value: String,
}

impl Record {
    /// Its value as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.value).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// One of its headers.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.split(',');
        headers.find_map(|header| header.strip_prefix(name)?.strip_prefix('='))
    }
}

impl Kafka {
    /// Starts a cluster of 1 or 3 nodes.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start(nodes: u32) -> Self {
        Self::start_with(nodes, &[])
    }

    /// Starts one node that also has the listeners of the script's secure mode.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start_secure(password: &str) -> Self {
        Self::start_with(1, &[("KAFKA_SECURE", "1"), ("KAFKA_PASSWORD", password)])
    }

    /// One node that the tests of a program share. They leave it as it is, and keep to topics of
    /// their own.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Kafka> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(1))
    }

    fn start_with(nodes: u32, env: &[(&str, &str)]) -> Self {
        let root = TempDir::with_prefix("tally-kafka-").expect("a temporary folder");
        let kafka = Self {
            data: root.path().to_owned(),
            port: free_ports(nodes),
            _root: root,
        };
        let mut command = kafka.script(START_SECONDS, &["start", &nodes.to_string()]);
        command
            .envs(env.iter().copied())
            .env("KAFKA_UNTIL", std::process::id().to_string());
        // Its nodes outlive it: they must not hold a pipe that somebody reads to its end.
        let _ = finish(command, "").ok();
        kafka
    }

    fn script(&self, seconds: &str, args: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command
            .arg(seconds)
            .arg(script())
            .args(args)
            .env("KAFKA_DATA", &self.data)
            .env("KAFKA_PORT", self.port.to_string());
        command
    }

    fn run(&self, args: &[&str]) -> String {
        finish(self.script(TOOL_SECONDS, args), "").ok()
    }

    /// The bootstrap servers that let anyone in.
    ///
    /// # Panics
    /// When the cluster is gone.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        self.listener(Listener::Plain)
    }

    /// The bootstrap servers of a listener.
    ///
    /// # Panics
    /// When the cluster does not have it.
    #[must_use]
    pub fn listener(&self, listener: Listener) -> String {
        self.run(&["bootstrap", listener.name()]).trim().to_owned()
    }

    /// A file of the secure mode: `ca.pem`, `client.pem`, `client.key`, `other-ca.pem`,
    /// `other-client.pem`, `other-client.key`.
    #[must_use]
    pub fn tls_file(&self, name: &str) -> String {
        self.data.join("tls").join(name).display().to_string()
    }

    /// Kills a node (numbers from 1 on) with -9.
    ///
    /// # Panics
    /// When there is no such node.
    pub fn kill(&self, node: u32) {
        self.run(&["kill", &node.to_string()]);
    }

    /// Ends a node cleanly.
    ///
    /// # Panics
    /// When there is no such node.
    pub fn stop(&self, node: u32) {
        self.run(&["stop", &node.to_string()]);
    }

    /// Starts a node again on its data, and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub fn revive(&self, node: u32) {
        self.run(&["revive", &node.to_string()]);
    }

    /// Starts nodes again at once, for where one alone would wait for the others.
    ///
    /// # Panics
    /// When one does not come up.
    pub fn revive_all(&self, nodes: &[u32]) {
        std::thread::scope(|scope| {
            for node in nodes {
                scope.spawn(|| self.revive(*node));
            }
        });
    }

    /// Stops a node's process where it stands: connections stay open and nothing is answered.
    ///
    /// # Panics
    /// When there is no such node.
    pub fn freeze(&self, node: u32) {
        self.run(&["freeze", &node.to_string()]);
    }

    /// Lets a frozen node go on.
    ///
    /// # Panics
    /// When there is no such node.
    pub fn thaw(&self, node: u32) {
        self.run(&["thaw", &node.to_string()]);
    }

    /// Runs a tool of Kafka's, as in `TopicCommand --list`; its standard output.
    ///
    /// # Panics
    /// When it fails.
    pub fn cli(&self, args: &[&str]) -> String {
        self.cli_with("", args)
    }

    /// As [`cli`](Self::cli), for a tool that is measured: with both of Java's compilers.
    ///
    /// # Panics
    /// When it fails.
    #[must_use]
    pub fn measured_cli(&self, args: &[&str]) -> String {
        let args = [&["cli"], args].concat();
        let mut command = self.script(START_SECONDS, &args);
        command.env("KAFKA_TOOL", "-XX:TieredStopAtLevel=4");
        finish(command, "").ok()
    }

    /// As [`cli`](Self::cli), with something on its standard input.
    ///
    /// # Panics
    /// When it fails.
    pub fn cli_with(&self, input: &str, args: &[&str]) -> String {
        let args = [&["cli"], args].concat();
        finish(self.script(TOOL_SECONDS, &args), input).ok()
    }

    /// Sends records, key and value, by a Java program with Kafka's own partitioner; the partition
    /// of each.
    ///
    /// # Panics
    /// When it fails.
    #[must_use]
    pub fn java_send(&self, topic: &str, records: &[(String, String)]) -> Vec<u64> {
        let args = ["send", &self.bootstrap(), topic];
        let sent = keyed_producer(&args, &lines(records));
        let partition = |line: &str| line.split('\t').nth(1)?.parse().ok();
        let partitions: Vec<u64> = sent.lines().filter_map(partition).collect();
        assert_eq!(partitions.len(), records.len(), "{sent}");
        partitions
    }

    /// Sends records, key and value, by `kafka-console-producer`.
    ///
    /// # Panics
    /// When it fails.
    pub fn console_send(&self, topic: &str, records: &[(String, String)]) {
        let properties = ["parse.key=true", "key.separator=\t"];
        let mut args = vec!["ConsoleProducer", "--topic", topic];
        for property in properties {
            args.extend(["--reader-property", property]);
        }
        self.cli_with(&lines(records), &args);
    }

    /// Sends one record to a partition by `kcat`.
    ///
    /// # Panics
    /// When it fails.
    pub fn send_to(&self, topic: &str, partition: u64, key: &str, value: &str) {
        let partition = partition.to_string();
        let args = [
            "-P", "-t", topic, "-p", &partition, "-k", key, "-X", "acks=all",
        ];
        let _ = finish(self.kcat(&args), value).ok();
    }

    /// All records of a topic, as `kcat` reads them, by partition and offset. Keys, headers and
    /// values must have neither tabs nor line breaks.
    ///
    /// # Panics
    /// When it fails.
    #[must_use]
    pub fn records(&self, topic: &str) -> Vec<Record> {
        let format = "%p\t%o\t%k\t%h\t%s\n";
        let args = [
            "-C",
            "-e",
            "-q",
            "-o",
            "beginning",
            "-t",
            topic,
            "-f",
            format,
        ];
        let read = finish(self.kcat(&args), "").ok();
        let record = |line: &str| {
            let parts: Vec<&str> = line.splitn(5, '\t').collect();
            let [partition, offset, key, headers, value] = parts[..] else {
                panic!("no record: {line}");
            };
            Record {
                partition: partition.parse().expect("a partition"),
                offset: offset.parse().expect("an offset"),
                key: key.to_owned(),
                headers: headers.to_owned(),
                value: value.to_owned(),
            }
        };
        let mut records: Vec<Record> = read.lines().map(record).collect();
        records.sort_by_key(|record| (record.partition, record.offset));
        records
    }

    fn kcat(&self, args: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args([TOOL_SECONDS, "kcat", "-b", &self.bootstrap()]);
        command.args(args);
        command
    }

    /// A folder whose log is on this cluster, in topics of its own, which are made.
    ///
    /// # Panics
    /// When they can't be made.
    #[must_use]
    pub fn folder(&self) -> Folder {
        with_own_topics(Folder::local(), &self.bootstrap())
    }

    /// As [`folder`](Self::folder), and its topics are not there yet.
    ///
    /// # Panics
    /// When the cluster is gone.
    #[must_use]
    pub fn folder_without_topics(&self) -> Folder {
        on_kafka(Folder::local(), &self.bootstrap())
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in 1..=3 {
                let said = self.data.join(node.to_string()).join("out");
                if let Ok(said) = fs::read_to_string(said) {
                    let lines: Vec<&str> = said.lines().rev().take(20).collect();
                    let lines: Vec<&str> = lines.into_iter().rev().collect();
                    eprintln!("--- Kafka's node {node} said:\n{}", lines.join("\n"));
                }
            }
        }
        let _ = finish(self.script(TOOL_SECONDS, &["down"]), "");
    }
}

/// Runs `tests/kafka/KeyedProducer.java`; its standard output.
///
/// # Panics
/// When it fails.
#[must_use]
pub fn keyed_producer(args: &[&str], input: &str) -> String {
    let mut command = Command::new("timeout");
    command.arg(START_SECONDS).arg(script()).arg("java");
    command.arg(binary::workspace().join("tests/kafka/KeyedProducer.java"));
    command.args(args);
    finish(command, input).ok()
}

/// The topic of a folder that is on Kafka: `interactions`, `resources` or `dead-letters`.
///
/// # Panics
/// When it is not on Kafka.
#[must_use]
pub fn topic(folder: &Folder, kind: &str) -> String {
    format!("{}.{kind}", prefix(folder))
}

/// The setting `kafka.topic_prefix` of a folder that is on Kafka.
///
/// # Panics
/// When it is not on Kafka.
#[must_use]
pub fn prefix(folder: &Folder) -> &str {
    let prefix = folder.setting("TALLY__KAFKA__TOPIC_PREFIX");
    prefix.expect("a folder on Kafka")
}

/// The folder with its log on Kafka, in topics of its own, which are made.
///
/// # Panics
/// When they can't be made.
pub(crate) fn with_own_topics(folder: Folder, servers: &str) -> Folder {
    let folder = on_kafka(folder, servers);
    let _ = folder.run(&["topics", "create"]).ok();
    folder
}

fn on_kafka(folder: Folder, servers: &str) -> Folder {
    static FOLDERS: AtomicU32 = AtomicU32::new(0);
    let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
    let prefix = format!("tally-test-{}-{number}", std::process::id());
    folder
        .with("TALLY__LOG__KIND", "kafka")
        .with("TALLY__KAFKA__BOOTSTRAP_SERVERS", servers)
        .with("TALLY__KAFKA__TOPIC_PREFIX", prefix)
}

fn script() -> PathBuf {
    binary::workspace().join("tests/kafka/kafka.sh")
}

fn lines(records: &[(String, String)]) -> String {
    let line = |(key, value): &(String, String)| format!("{key}\t{value}\n");
    records.iter().map(line).collect()
}

/// Runs a command to its end. What it is given and what it says goes through files: a process that
/// it leaves behind holds nothing up.
fn finish(mut command: Command, input: &str) -> Ran {
    let mut files = [(); 3].map(|()| tempfile::tempfile().expect("a temporary file"));
    files[0].write_all(input.as_bytes()).expect("a file");
    files[0].rewind().expect("a file");
    let [stdin, stdout, stderr] = [0, 1, 2].map(|at: usize| {
        let file = files[at].try_clone().expect("the same file");
        Stdio::from(file)
    });
    let status = command.stdin(stdin).stdout(stdout).stderr(stderr).status();
    let status = status.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut said = |at: usize| {
        files[at].rewind().expect("a file");
        std::io::read_to_string(&files[at]).expect("an output in UTF-8")
    };
    Ran {
        status,
        stdout: said(1),
        stderr: said(2),
    }
}

/// A `KAFKA_PORT` whose nodes find all their ports free. They lie below those that the system gives
/// to whoever asks for any.
fn free_ports(nodes: u32) -> u16 {
    const FIRST: u32 = 20_000;
    const SPAN: u32 = 12_000;
    static TRIED: AtomicU32 = AtomicU32::new(0);
    let mut seen = HashSet::new();
    loop {
        let tried = TRIED.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (std::process::id() * 130 + tried * 40) % SPAN;
        assert!(seen.insert(port), "there is no block of free ports");
        let free = |port: u32| {
            let port = u16::try_from(port).expect("below 32768");
            TcpListener::bind(("127.0.0.1", port)).is_ok()
        };
        let mut all =
            (1..=nodes).flat_map(|node| (0..5).map(move |place| port + 10 * node + place));
        if all.all(free) {
            return u16::try_from(port).expect("below 32768");
        }
    }
}
