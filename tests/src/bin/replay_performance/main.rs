//! Prints how fast a log becomes state, on this machine: events read and decoded a second, events folded a second
//! with checkpoints into sled, and how large the state is on the disk. The events are the mix of `tally bench`.
//!
//! ```sh
//! cargo run --release -p tally-tests --bin replay_performance
//! cargo run --release -p tally-tests --bin replay_performance -- --kafka
//! ```
//!
//! With `--kafka` it starts a real Kafka of one node, and reads from there too, in turn with Kafka's own consumer
//! tool. It says which targets were met, and by how much; a target that is missed is no failure, a fold that is
//! not whole is. Rates of one core are events by seconds of CPU of all threads: other work on the machine, which
//! makes the clock's figures smaller, changes them little.

mod fill;
#[path = "../../../../crates/tally/src/bench/mix.rs"]
mod mix;
mod runs;

use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser;
use tally_log::embedded::{EmbeddedLog, EmbeddedOptions};
use tally_log::kafka::{
    Cluster, KafkaLog, KafkaMetrics, KafkaOptions, Replication, Topic, TopicKind,
};
use tally_log::storage::RealStorage;
use tally_log::{EventLog, LogMetrics};
use tally_tests::binary;
use tally_tests::consumer::{consumer_rates, median};
use tally_tests::kafka::Kafka;
use tally_tests::machine::Machine;

use runs::Figures;

/// Measures replay on this machine.
#[derive(Debug, Parser)]
#[command(name = "replay_performance")]
struct Args {
    /// Events in the log
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    events: u32,
    /// Resources that they are about
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    resources: u32,
    /// Users that they come from
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1..))]
    users: u32,
    /// Exponent of the Zipf distributions of both
    #[arg(long, default_value_t = 0.99)]
    zipf: f64,
    /// Runs of each; all are printed, and the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Threads that fold
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// Changed values that bring a checkpoint, instead of the default
    #[arg(long)]
    changes: Option<usize>,
    /// Read from a Kafka too, which is started
    #[arg(long)]
    kafka: bool,
    /// Where the log and the states are made [default: the temporary folder]
    #[arg(long)]
    dir: Option<PathBuf>,
}

const READ_TARGET: f64 = 2e6;
const FOLD_TARGET: f64 = 1e6;
const DISK_TARGET: f64 = 3.0;
const TOPIC: &str = "tally-replay";
const PARTITIONS: u32 = 16;

/// Says whether a figure is at least what it should be.
fn judge(what: &str, figure: f64, target: f64) {
    let share = 100.0 * figure / target;
    let word = if figure >= target { "met" } else { "MISSED" };
    println!("{word:<7} {what}: {figure:.0} of {target:.0}, {share:.0} %");
}

/// The figures of several runs of the same.
fn rounds(args: &Args, mut run: impl FnMut() -> Figures) -> Figures {
    let all: Vec<Figures> = (0..args.rounds).map(|_| run()).collect();
    let of = |figure: fn(&Figures) -> f64| median(all.iter().map(figure).collect());
    Figures {
        by_clock: of(|figures| figures.by_clock),
        by_cpu: of(|figures| figures.by_cpu),
        disk_ratio: of(|figures| figures.disk_ratio),
    }
}

fn embedded(args: &Args, root: &std::path::Path) {
    let metrics = LogMetrics::unregistered().expect("metrics");
    let options = EmbeddedOptions {
        partitions: PARTITIONS,
        ..EmbeddedOptions::default()
    };
    let (storage, dir) = (Arc::new(RealStorage), root.join("log"));
    let (log, _) = EmbeddedLog::open(storage, &dir, "replay", options, &metrics).expect("a log");
    let log: Arc<dyn EventLog> = Arc::new(log);
    println!("\nthe embedded log: {}", fill::fill(&log, args));
    let read = rounds(args, || runs::read(&log));
    let fold = rounds(args, || runs::fold(&log, root, args));
    println!();
    judge(
        "read and decoded, events a second of one thread",
        read.by_clock,
        READ_TARGET,
    );
    judge(
        "read and decoded, events a second of CPU",
        read.by_cpu,
        READ_TARGET,
    );
    judge(
        "folded and written down, events a second of CPU",
        fold.by_cpu,
        FOLD_TARGET,
    );
    println!(
        "        folded and written down, events a second by the clock: {:.0}",
        fold.by_clock
    );
    let word = if fold.disk_ratio <= DISK_TARGET {
        "met"
    } else {
        "MISSED"
    };
    println!(
        "{word:<7} disk by what the state says: {:.2}, at most {DISK_TARGET}",
        fold.disk_ratio
    );
}

fn topic(servers: &str) -> KafkaLog {
    let options = KafkaOptions {
        bootstrap_servers: servers.to_owned(),
        ..KafkaOptions::default()
    };
    let topic = Topic {
        name: TOPIC.to_owned(),
        kind: TopicKind::Interactions,
        partitions: PARTITIONS,
    };
    let replication = Replication {
        factor: 0,
        min_insync: 0,
    };
    let cluster = Cluster::connect(&options).expect("a broker");
    cluster.create(&topic, replication).expect("a topic");
    let metrics = LogMetrics::unregistered().expect("metrics");
    let kafka = KafkaMetrics::unregistered().expect("metrics");
    let opened = KafkaLog::open(&options, &topic, "replay", &metrics, &kafka);
    opened.expect("the topic").0
}

fn on_kafka(args: &Args, root: &std::path::Path) {
    let kafka = Kafka::start(1);
    let log: Arc<dyn EventLog> = Arc::new(topic(&kafka.bootstrap()));
    println!("\nKafka: {}", fill::fill(&log, args));
    let events = args.events.to_string();
    // Read once so that it is in memory.
    let _ = runs::read_records(&log);
    let (mut ours, mut theirs, mut without_joining) = (vec![], vec![], vec![]);
    for _ in 0..args.rounds {
        ours.push(runs::read_records(&log).by_clock);
        let [whole, fetch] = consumer_rates(&kafka, TOPIC, &events);
        println!("Kafka's consumer tool {whole:.0}/s, without joining its group {fetch:.0}/s");
        theirs.push(whole);
        without_joining.push(fetch);
    }
    let fold = rounds(args, || runs::fold(&log, root, args));
    println!();
    let ours = median(ours);
    judge(
        "read from Kafka, of what its consumer tool reads",
        ours,
        median(theirs),
    );
    judge(
        "the same, of the tool without joining its group",
        ours,
        median(without_joining),
    );
    println!(
        "        read, folded and written down: {:.0} events a second by the clock, {:.0} of CPU",
        fold.by_clock, fold.by_cpu
    );
}

fn main() {
    let args = Args::parse();
    if cfg!(debug_assertions) {
        eprintln!("replay_performance: this is a debug build, and says nothing of speed");
    }
    let parent = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    println!("{}", Machine::look(&binary::target_dir()));
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load        {}", load.trim());
    println!("settings    {args:?}");
    let root = tempfile::Builder::new()
        .prefix("replay-")
        .tempdir_in(parent)
        .expect("a folder");
    embedded(&args, root.path());
    if args.kafka {
        on_kafka(&args, root.path());
    }
}
