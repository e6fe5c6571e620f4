//! Prints how much of a bare actix-web handler's rate the service reaches, and what it costs.
//!
//! ```sh
//! cargo run --release -p tally-tests --bin performance
//! ```
//!
//! It builds the command and the bare handler (`crates/tally/examples/bare_actix.rs`), starts
//! them in turn, pinned to cores by `taskset`, and loads each with `tally bench`: the same
//! connections, the same requests, the same mix. Bare and service alternate within a round, so
//! that a machine that slows down slows both. Only loopback traffic; every run is bounded.

mod report;
mod runs;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use serde_json::{Value, json};

use report::Placed;
use runs::{Bench, Placement, Setup, Subject};
use tally_tests::machine::Machine;

/// Measures the service against a bare actix-web handler on this machine.
#[derive(Debug, Parser)]
#[command(name = "performance")]
struct Args {
    /// Runs of each; the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds measured in each run
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    seconds: u32,
    /// Seconds of load before measuring starts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(0..=3_600))]
    warmup: u32,
    /// Connections; may be repeated
    #[arg(long, default_values_t = [256])]
    connections: Vec<u32>,
    /// Interactions a second for the open-loop run of the service; 0 leaves it out
    #[arg(long, default_value_t = 20_000)]
    open_rate: u32,
    /// Only with the server on cores of its own, or only with all on the same
    #[arg(long, value_enum)]
    only: Option<Only>,
    /// Where the data folders go; its file system is what is synced [default: cargo's target folder]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Print one JSON object with everything
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Only {
    Apart,
    Together,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(why) = runs::taskset_works() {
        eprintln!("performance: {why}");
        return ExitCode::FAILURE;
    }
    let setup = Setup::build(args.dir.clone());
    let machine = Machine::look(&setup.dir);
    if !args.json {
        println!("{machine}");
        println!(
            "settings    {} rounds of {} s after {} s of warm-up; embedded log; a fresh data folder for each run",
            args.rounds, args.seconds, args.warmup
        );
    }
    let placements = Placement::of_this_machine();
    if placements.len() == 1 && !args.json {
        println!("            fewer than 4 cores: only with server and generator on the same");
    }
    let mut all = Vec::new();
    for placement in placements {
        if args
            .only
            .is_some_and(|only| (only == Only::Apart) != placement.is_apart())
        {
            continue;
        }
        for connections in &args.connections {
            all.push(measure(&args, &setup, &placement, *connections));
        }
    }
    if args.json {
        let placed: Vec<Value> = all.iter().map(Placed::to_json).collect();
        println!(
            "{}",
            json!({"machine": machine.to_json(), "placements": placed})
        );
    }
    ExitCode::SUCCESS
}

fn measure(args: &Args, setup: &Setup, placement: &Placement, connections: u32) -> Placed {
    let closed = Bench {
        connections,
        seconds: args.seconds,
        warmup: args.warmup,
        rate: None,
    };
    let mut placed = Placed::new(placement, connections);
    if !args.json {
        println!("\n{}", placed.title());
        println!("{}", report::HEADINGS);
    }
    let mut keep = |label: &str, run: runs::Run| {
        if !args.json {
            println!("{}", report::row(label, &run));
        }
        placed.runs.push(run);
    };
    for round in 1..=args.rounds {
        for subject in [Subject::Bare, Subject::Tally] {
            let run = setup.run(subject, placement, &closed);
            keep(&format!("{round} {}", subject.name()), run);
        }
    }
    if args.open_rate > 0 {
        let open = Bench {
            rate: Some(args.open_rate),
            ..closed
        };
        let run = setup.run(Subject::Tally, placement, &open);
        keep(&format!("at {}/s", args.open_rate), run);
    }
    if !args.json {
        println!("{}", placed.summary());
    }
    placed
}
