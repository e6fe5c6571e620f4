//! Damages files of the log, the redo file, sled and the keys file, one at a time, and counts what
//! came of it.
//!
//! ```sh
//! cargo run --release -p tally-tests --bin damages -- --cases 100000
//! ```
//!
//! The last line has the verdict; the exit code is 1 where a wrong answer was given out as true.

use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use clap::Parser;
use tally_tests::simulation::damages::{self, Counts};

/// Damages files at random and sees that it is found.
#[derive(Debug, Parser)]
#[command(name = "damages")]
struct Args {
    /// How many damages
    #[arg(long, default_value_t = 100_000)]
    cases: u64,
    /// The first one's seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Threads, each with cases of its own
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=64))]
    threads: u64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    // sled panics on some of what it finds, which is caught.
    std::panic::set_hook(Box::new(|_| {}));
    let started = Instant::now();
    let each = args.cases.div_ceil(args.threads);
    let counts = thread::scope(|scope| {
        let threads: Vec<_> = (0..args.threads)
            .map(|number| {
                let seed = args.seed + (number << 40);
                scope.spawn(move || damages::run(seed, each))
            })
            .collect();
        let mut counts = Counts::default();
        for thread in threads {
            counts.merge(thread.join().expect("a run"));
        }
        counts
    });
    for bad in &counts.bad {
        println!("{bad}");
    }
    println!(
        "seed {}, {} threads, {:.1} s",
        args.seed,
        args.threads,
        started.elapsed().as_secs_f64()
    );
    println!("{counts}");
    if counts.is_right() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
