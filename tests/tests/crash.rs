//! Kill -9 under load, again and again, and with millions of events behind it.
//!
//! `cargo test --release -p tally-tests --features crash --test crash -- --nocapture`.
//! Prints what each kill left, and how long a start takes then.
//! `TALLY_CRASH_ROUNDS` sets the number of kills (50), `TALLY_CRASH_SEED` repeats the choices of an
//! earlier run, `TALLY_CRASH_EVENTS` sets how many events the large log has (5,000,000).

use std::fs;
use std::time::Instant;

use tally_tests::crash::{Acknowledged, Bench, Chance, KILLS_PER_FOLDER, number_from_env};
use tally_tests::fold::{assert_state_is_fold_of_log, state};
use tally_tests::{Folder, Server, wait};

#[test]
fn kill_9_under_load_loses_nothing_and_counts_nothing_twice() {
    let rounds = number_from_env("TALLY_CRASH_ROUNDS", 50);
    println!("{rounds} kills");
    let mut chance = Chance::from_env();
    let mut round = 0;
    while round < rounds {
        let kills = KILLS_PER_FOLDER.min(rounds - round);
        crash_one_folder(round, kills, &mut chance);
        round += kills;
    }
}

fn crash_one_folder(first: u64, kills: u64, chance: &mut Chance) {
    let folder = Folder::new()
        .with_fixed_ports()
        .with("TALLY__LOG__SEGMENT_SIZE", "4 MiB")
        .with("TALLY__PROJECTOR__CHECKPOINT_INTERVAL", "100ms");
    let mut server = folder.start();
    let mut bench = Bench::start(&folder, chance.below(1_000_000));
    let mut acknowledged = Acknowledged::default();
    for round in first..first + kills {
        server = bench.kill_server(server, chance);
        let replayed = server.events_folded();
        acknowledged.take(bench.new_lines());
        let folded = assert_state_is_fold_of_log(&folder);
        acknowledged.assert_in_log_once(&folded);
        println!(
            "kill {:>2}: {:>6} in the log, {:>6} acknowledged, {replayed:>5} replayed",
            round + 1,
            folded.outcomes.len(),
            acknowledged.len(),
        );
        bench.go_on();
    }
    // The state is also what a rebuild from nothing makes of the log.
    drop(bench);
    server.stop();
    let before = state(&folder);
    fs::remove_dir_all(folder.data_dir().join("state")).expect("the state's folder");
    let server = folder.start();
    assert_eq!(state(&folder), before);
    server.stop();
}

/// Load through the API, to its end.
fn fill(folder: &Folder, events: u64) {
    let events = events.to_string();
    let output = folder
        .command(&["bench", "--requests", &events, "--json"])
        .output()
        .expect("the bench runs");
    assert!(output.status.success(), "{output:?}");
}

/// Starts a server; prints how long it took to be ready, and what it had to fold.
fn timed_start(folder: &Folder, what: &str) -> (Server, f64) {
    let from = Instant::now();
    let server = folder.start();
    let took = from.elapsed();
    let folded = server.events_folded();
    println!(
        "{what}: ready in {:.2} s, {folded} events folded, {} MiB resident",
        took.as_secs_f64(),
        server.resident_bytes() >> 20
    );
    (server, folded)
}

#[test]
fn a_start_after_millions_of_events_folds_only_the_tail() {
    let events = number_from_env("TALLY_CRASH_EVENTS", 5_000_000);
    let folder = Folder::new();
    let server = folder.start();
    fill(&folder, events);
    let filled = server.events_folded();
    println!("{filled} events in the log");
    assert!(filled >= f64::from(u32::try_from(events).expect("below 2^32")));
    let mut bench = Bench::start(&folder, 1);
    wait::until("load on top", || {
        bench.assert_running();
        (server.events_folded() >= filled + 20_000.).then_some(())
    });
    server.kill9();
    drop(bench);

    let (server, tail) = timed_start(&folder, "after kill -9");
    assert!(tail < filled / 2., "{tail} folded of {filled}");
    let before = state(&folder);
    server.stop();
    let (server, tail) = timed_start(&folder, "after a clean stop");
    assert_eq!(tail, 0., "a clean stop leaves nothing to fold");
    assert_eq!(state(&folder), before);
    server.stop();
    // What the tail was folded onto is what the whole log makes.
    fs::remove_dir_all(folder.data_dir().join("state")).expect("the state's folder");
    let (server, all) = timed_start(&folder, "after the state was removed");
    assert!(all >= filled + 20_000., "{all} folded of {filled}");
    assert_eq!(state(&folder), before);
    server.stop();
}
