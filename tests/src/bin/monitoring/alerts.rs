//! Each alert made to fire by its real condition, and to clear again.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::Instant;

use tally_tests::deploy;

use crate::cases::{CASES, Case};
use crate::scene::Row;

/// A case, and its rows where it came out as it must.
type Done = (&'static str, Option<Vec<Row>>);

/// Runs the cases of these names, or all; whether each came out as it must, and, where all were
/// run, whether no alert was left out.
pub(crate) fn run(names: &[String], jobs: usize) -> bool {
    if let Some(unknown) = names
        .iter()
        .find(|name| CASES.iter().all(|(case, _)| case != name))
    {
        eprintln!("no case {unknown}; --list names them");
        return false;
    }
    let wanted = |case: &&Case| names.is_empty() || names.iter().any(|name| name == case.0);
    let left: Mutex<Vec<&Case>> = Mutex::new(CASES.iter().filter(wanted).rev().collect());
    let done: Mutex<Vec<Done>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let next = left.lock().expect("no panic here").pop();
                    let Some((name, case)) = next else { break };
                    let rows = run_one(name, *case);
                    done.lock().expect("no panic here").push((name, rows));
                }
            });
        }
    });
    let done = done.into_inner().expect("no panic here");
    print_table(&done);
    let failed = done.iter().filter(|(_, rows)| rows.is_none()).count();
    println!("{} cases, {failed} failed", done.len());
    let tried: BTreeSet<&str> = done
        .iter()
        .flat_map(|(_, rows)| rows.iter().flatten().map(|row| row.alert))
        .collect();
    let mut well = failed == 0;
    for alert in shipped_alerts() {
        if names.is_empty() && !tried.contains(alert.as_str()) {
            println!("{alert} was never made to fire");
            well = false;
        }
    }
    well
}

/// The rows of one case; `None` where it failed, which was then said on standard error.
fn run_one(name: &str, case: fn() -> Vec<Row>) -> Option<Vec<Row>> {
    let started = Instant::now();
    eprintln!("{name}: begins");
    let rows = catch_unwind(AssertUnwindSafe(case)).ok();
    let verdict = if rows.is_some() { "ok" } else { "FAILED" };
    eprintln!(
        "{name}: {verdict} ({:.1} s)",
        started.elapsed().as_secs_f64()
    );
    rows
}

fn shipped_alerts() -> Vec<String> {
    let name = |line: &str| line.trim().strip_prefix("- alert: ").map(str::to_owned);
    let rules = deploy::rules();
    rules
        .iter()
        .flat_map(|(_, text)| text.lines().filter_map(name))
        .collect()
}

fn print_table(done: &[Done]) {
    println!(
        "| alert | durations ÷ | what was done | fires after | what it says | what ended it | clears after |"
    );
    println!("|---|---:|---|---:|---|---|---:|");
    for (name, rows) in done {
        let Some(rows) = rows else {
            println!("| FAILED: {name} | | | | | | |");
            continue;
        };
        for row in rows {
            println!(
                "| {} | {} | {} | {:.1} s | {} | {} | {:.1} s |",
                row.alert,
                row.factor,
                row.cause,
                row.fired.as_secs_f64(),
                row.said,
                row.cure,
                row.cleared.as_secs_f64()
            );
        }
    }
}
