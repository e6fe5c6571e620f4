//! Prints what the log on Kafka does beside a bare rdkafka producer and beside Kafka's own consumer,
//! and how fast its records become state.
//!
//! ```sh
//! cargo run --release -p tally-tests --bin kafka_performance
//! ```
//!
//! It starts a real Kafka of one node (`tests/kafka/kafka.sh`), builds the examples that measure, and
//! runs them in turn; what they are compared with runs beside them in the same rounds, on the same
//! broker. Only loopback traffic; every run is bounded.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Parser;
use tally_tests::binary;
use tally_tests::consumer::{consumer_rates, median};
use tally_tests::kafka::Kafka;
use tally_tests::machine::Machine;

/// Measures the log on Kafka on this machine.
#[derive(Debug, Parser)]
#[command(name = "kafka_performance")]
struct Args {
    /// Runs of each; the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds measured in each run of appends
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    seconds: u32,
    /// Events to read
    #[arg(long, default_value_t = 5_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    events: u32,
    /// Waiters of appends, with commas between them
    #[arg(long, default_value = "64,512,4096")]
    waiters: String,
}

const TOPIC: &str = "tally-read-rate";
/// Past what any example should take.
const LIMIT_SECONDS: &str = "3600";

fn example(package: &str, name: &str) -> PathBuf {
    let run = escargot::CargoBuild::new()
        .manifest_path(binary::workspace().join("Cargo.toml"))
        .package(package)
        .example(name)
        .target_dir(binary::target_dir())
        .release()
        .run();
    let run = run.unwrap_or_else(|error| panic!("cargo build --example {name}: {error}"));
    run.path().to_owned()
}

fn command(example: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.arg(LIMIT_SECONDS).arg(example).args(args);
    command
}

/// Runs an example whose lines are printed as they come.
fn show(example: &Path, args: &[&str]) {
    let status = command(example, args).status().expect("`timeout`");
    assert!(status.success(), "{} failed: {status}", example.display());
}

/// Runs an example to its end; what it printed.
fn said(example: &Path, args: &[&str]) -> String {
    let mut command = command(example, args);
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.expect("`timeout`");
    let status = output.status;
    assert!(status.success(), "{} failed: {status}", example.display());
    String::from_utf8(output.stdout).expect("text")
}

/// The numbers before each `records/s` of a line.
fn rates(line: &str) -> Vec<f64> {
    let words: Vec<&str> = line.split([' ', ';', ',', '\n']).collect();
    let pairs = words.windows(2).filter(|pair| pair[1] == "records/s");
    pairs.filter_map(|pair| pair[0].parse().ok()).collect()
}

fn read(kafka: &Kafka, example: &Path, args: &Args) {
    println!("\nreading {} records", args.events);
    let (servers, events) = (kafka.bootstrap(), args.events.to_string());
    // Filled, and read once so that it is in memory.
    let _ = said(example, &[&servers, TOPIC, &events, "1"]);
    let (mut ours, mut theirs) = ([vec![], vec![]], [vec![], vec![]]);
    for round in 1..=args.rounds {
        let line = said(example, &[&servers, TOPIC, &events, "1"]);
        print!("{round} {line}");
        let [whole, fetch] = consumer_rates(kafka, TOPIC, &events);
        println!(
            "{round} Kafka's   {whole:.0} records/s; without joining the group {fetch:.0} records/s"
        );
        for (all, rate) in ours.iter_mut().zip(rates(&line)) {
            all.push(rate);
        }
        for (all, rate) in theirs.iter_mut().zip([whole, fetch]) {
            all.push(rate);
        }
    }
    let what = ["the whole", "once it reads"];
    for ((what, ours), theirs) in what.iter().zip(ours).zip(theirs) {
        let (ours, theirs) = (median(ours), median(theirs));
        println!(
            "median, {what}: ours {ours:.0} records/s, Kafka's {theirs:.0} records/s: {:.0} %",
            100. * ours / theirs
        );
    }
}

fn main() {
    let args = Args::parse();
    if cfg!(debug_assertions) {
        eprintln!("kafka_performance: this is a debug build; examples are built for release");
    }
    let append = example("tally-log", "kafka_append_rate");
    let reading = example("tally-log", "kafka_read_rate");
    let follow = example("tally-projector", "kafka_follow_rate");
    println!("{}", Machine::look(&std::env::temp_dir()));
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load        {}", load.trim());
    let kafka = Kafka::start(1);
    println!(
        "broker      one node of Apache Kafka on the same cores, its data in the temporary folder\n"
    );
    let (rounds, seconds) = (args.rounds.to_string(), args.seconds.to_string());
    let servers = kafka.bootstrap();
    show(&append, &[&servers, &rounds, &seconds, &args.waiters]);
    read(&kafka, &reading, &args);
    println!("\nreading, decoding and folding {} records", args.events);
    let (events, runs) = (args.events.to_string(), args.rounds.min(3).to_string());
    show(&follow, &[&servers, TOPIC, &events, &runs]);
}
