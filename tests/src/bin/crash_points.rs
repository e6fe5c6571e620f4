//! Crashes the whole stack, on a disk that forgets what was not synced, again and again.
//!
//! ```sh
//! cargo run --release -p tally-tests --bin crash_points -- --points 1000000
//! ```
//!
//! The last line has the verdict; the exit code is 1 where anything was wrong. `--without log-sync`
//! and the like leave out a sync, and must be found out.

use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use tally_tests::simulation::crash_points::{self, Totals, Without, grouped};

/// Crashes log, state and keys at random points of random histories.
#[derive(Debug, Parser)]
#[command(name = "crash_points")]
struct Args {
    /// How many crashes
    #[arg(long, default_value_t = 1_000_000)]
    points: u64,
    /// The first history's seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Threads, each with histories of its own
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=64))]
    threads: u64,
    /// Leave out these syncs, and stop at what comes of it
    #[arg(long)]
    without: Option<LeftOut>,
    /// Print what the service says meanwhile: with --seed, --points 1 and --threads 1, of one history
    #[arg(long)]
    verbose: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LeftOut {
    #[value(name = "log-sync")]
    Log,
    #[value(name = "redo-sync")]
    Redo,
    #[value(name = "store-flush")]
    Store,
    #[value(name = "keys-sync")]
    Keys,
    #[value(name = "name-sync")]
    Names,
}

impl From<LeftOut> for Without {
    fn from(left_out: LeftOut) -> Self {
        match left_out {
            LeftOut::Log => Self::LogSync,
            LeftOut::Redo => Self::RedoSync,
            LeftOut::Store => Self::StoreFlush,
            LeftOut::Keys => Self::KeysSync,
            LeftOut::Names => Self::NameSync,
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.verbose {
        tracing_subscriber::fmt().init();
    }
    let started = Instant::now();
    let without = args.without.map(Without::from);
    let each = args.points.div_ceil(args.threads);
    let totals = thread::scope(|scope| {
        let threads: Vec<_> = (0..args.threads)
            .map(|number| {
                // Seeds of threads never meet.
                let seed = args.seed + (number << 40);
                scope.spawn(move || crash_points::run(seed, each, without, true))
            })
            .collect();
        let mut totals = Totals::default();
        for thread in threads {
            totals.merge(thread.join().expect("a run"));
        }
        totals
    });
    for (seed, wrong) in &totals.shown {
        println!("seed {seed}: {wrong:?}");
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "seed {}, {} threads, {seconds:.1} s, {} crash points a second",
        args.seed,
        args.threads,
        grouped((totals.points as f64 / seconds) as u64)
    );
    println!("{totals}");
    if totals.is_right() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
