//! Proof of what is shipped for Prometheus and Grafana, on a real Prometheus that scrapes real
//! servers under load: each query of each dashboard and rule has a value or says why it has none;
//! each alert fires when its condition is made true, and clears when it is mended.
//!
//! Needs Linux, root (to mount a small disk), prometheus, cc, openssl, prlimit, and what
//! `tests/kafka/kafka.sh` needs.

mod alerts;
mod cases;
mod certificate;
mod cost;
mod load;
mod poison;
mod prometheus;
mod queries;
mod scene;
mod show;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Proves dashboards, rules and alerts on a real Prometheus.
#[derive(Debug, Parser)]
#[command(
    name = "monitoring",
    after_help = "Example:\n  cargo run --release -p tally-tests --bin monitoring -- all\n  \
                  cargo run --release -p tally-tests --bin monitoring -- alerts disk fold\n\n\
                  It ends with 1 where something is not as it must be."
)]
struct Args {
    #[command(subcommand)]
    command: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Both of the next two, at the same time
    All {
        /// How many cases run at once
        #[arg(long, default_value_t = 3)]
        jobs: usize,
    },
    /// Each query of each dashboard and each rule: its value, or why there is none
    Queries {
        /// Leaves out what needs a Kafka
        #[arg(long)]
        without_kafka: bool,
    },
    /// Each alert made to fire by its real condition, and to clear again
    Alerts {
        /// The cases to run; all where none is named
        #[arg(value_name = "CASE")]
        cases: Vec<String>,
        /// Names the cases and ends
        #[arg(long)]
        list: bool,
        /// How many run at once
        #[arg(long, default_value_t = 3)]
        jobs: usize,
    },
    /// What a scrape costs under full load
    Cost {
        /// Pairs of runs, with and without a scrape each second
        #[arg(long, default_value_t = 5)]
        rounds: u32,
        /// Seconds of each run
        #[arg(long, default_value_t = 8)]
        seconds: u32,
    },
    #[command(hide = true)]
    Poison { log: PathBuf },
}

fn main() -> ExitCode {
    let well = match Args::parse().command {
        What::All { jobs } => std::thread::scope(|scope| {
            let alerts = scope.spawn(|| alerts::run(&[], jobs));
            let queries = queries::run(true);
            alerts.join().is_ok_and(|well| well) && queries
        }),
        What::Queries { without_kafka } => queries::run(!without_kafka),
        What::Alerts { list: true, .. } => {
            cases::CASES.iter().for_each(|(name, _)| println!("{name}"));
            true
        }
        What::Alerts { cases, jobs, .. } => alerts::run(&cases, jobs),
        What::Cost { rounds, seconds } => cost::run(rounds, seconds),
        What::Poison { log } => {
            poison::append(&log);
            true
        }
    };
    ExitCode::from(u8::from(!well))
}
