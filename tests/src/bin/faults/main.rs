//! What a machine does to a service on its worst days, done to the real binary under load: one line
//! a case says what clients were told, what `/readyz` said, what the service's log said, and what was
//! lost (nothing).
//!
//! Needs Linux, root (to mount a small disk), cc, mount, prlimit and setpriv.

mod disk;
mod process;
mod scene;
mod threads;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use tally_tests::Folder;

use crate::scene::Row;

/// Does to a server what machines do on their worst days, and prints what came of it.
#[derive(Parser)]
#[command(
    after_help = "Example:\n  cargo run --release -p tally-tests --bin faults\n  \
                        cargo run --release -p tally-tests --bin faults -- full-disk failed-sync\n\n\
                        It ends with 1 where a case did not come out as it must."
)]
struct Args {
    /// The cases to run; all where none is named
    #[arg(value_name = "CASE")]
    cases: Vec<String>,
    /// Names the cases and ends
    #[arg(long)]
    list: bool,
}

type Case = (&'static str, fn(Folder) -> Row);

const CASES: [Case; 21] = [
    ("full-disk", disk::full),
    ("failed-sync", disk::failed_sync),
    ("failed-write", disk::failed_write),
    ("stalled-disk", disk::stalled),
    ("read-only-disk", disk::read_only),
    ("no-permission", disk::no_permission),
    ("two-servers", process::two_servers),
    ("no-file-descriptors", process::no_descriptors),
    ("no-memory", process::no_memory),
    ("clock-forward-1h", process::clock_forward),
    ("clock-back-1h", process::clock_back),
    ("sigterm-in-replay", process::stop_in_replay),
    ("sigstop-sigcont", process::stopped_and_continued),
    ("panic-log-writer", threads::writer),
    ("panic-fold-worker", threads::fold),
    ("panic-log-check", threads::patrol),
    ("panic-checkpoint", threads::checkpoint),
    ("panic-keys-watcher", threads::keys),
    ("panic-catalogue", threads::catalogue),
    ("panic-readiness", threads::readiness),
    ("panic-server", threads::server),
];

fn main() -> ExitCode {
    let args = Args::parse();
    if args.list {
        CASES.iter().for_each(|(name, _)| println!("{name}"));
        return ExitCode::SUCCESS;
    }
    if let Some(unknown) = args
        .cases
        .iter()
        .find(|wanted| CASES.iter().all(|(name, _)| name != wanted))
    {
        eprintln!("no case {unknown}; --list names them");
        return ExitCode::from(2);
    }
    let wanted = |name: &str| args.cases.is_empty() || args.cases.iter().any(|case| case == name);
    let rows: Vec<(&str, Option<Row>)> = CASES
        .iter()
        .filter(|(name, _)| wanted(name))
        .map(|(name, case)| (*name, run(name, *case)))
        .collect();
    print_table(&rows);
    let failed = rows.iter().filter(|(_, row)| row.is_none()).count();
    println!("{} cases, {failed} failed", rows.len());
    ExitCode::from(u8::from(failed > 0))
}

/// Runs one case; `None` where it failed, which was then said on standard error.
fn run(name: &str, case: fn(Folder) -> Row) -> Option<Row> {
    let started = Instant::now();
    let row = catch_unwind(AssertUnwindSafe(|| case(Folder::local()))).ok();
    let verdict = if row.is_some() { "ok" } else { "FAILED" };
    eprintln!(
        "{name}: {verdict} ({:.1} s)",
        started.elapsed().as_secs_f64()
    );
    row
}

fn print_table(rows: &[(&str, Option<Row>)]) {
    println!("| case | HTTP answer | /readyz | the log said | acknowledged | lost | doubled |");
    println!("|---|---|---|---|---:|---:|---:|");
    for (name, row) in rows {
        match row {
            None => println!("| {name} | FAILED | | | | | |"),
            Some(row) => {
                let said: String = row.said.replace('|', "/").chars().take(110).collect();
                println!(
                    "| {name} | {} | {} | {said} | {} | {} | {} |",
                    row.answer, row.ready, row.acknowledged, row.lost, row.doubled
                );
            }
        }
    }
}
