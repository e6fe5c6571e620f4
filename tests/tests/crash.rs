//! Kill -9 under load, again and again, and with millions of events behind it.
//!
//! `cargo test --release -p tally-tests --features crash --test crash -- --nocapture`.
//! Prints what each kill left, and how long a start takes then.
//! `TALLY_CRASH_ROUNDS` sets the number of kills (50), `TALLY_CRASH_SEED` repeats the choices of an
//! earlier run, `TALLY_CRASH_EVENTS` sets how many events the large log has (5,000,000).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tally_tests::fold::{Folded, assert_state_is_fold_of_log, state};
use tally_tests::{Folder, Server, wait};

/// Kills that share a folder. The log is folded whole after each, so it must not grow for ever.
const KILLS_PER_FOLDER: u64 = 10;

fn number_from_env(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} is no number: {text}")),
        Err(_) => default,
    }
}

/// SplitMix64: enough chance for choosing moments.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// `tally bench`, which goes on while its server comes and goes. Dropped, it is killed.
struct Bench {
    child: Child,
    ledger: PathBuf,
    output: PathBuf,
    read: usize,
}

impl Bench {
    fn start(folder: &Folder, seed: u64) -> Self {
        let ledger = folder.root().join("ledger.ndjson");
        let output = folder.root().join("bench.output");
        let file = File::create(&output).expect("a file");
        let seed = seed.to_string();
        let args = [
            "bench",
            "--connections",
            "64",
            "--duration",
            "60m",
            "--users",
            "50",
            "--resources",
            "200",
            "--idempotency-keys",
            "--tolerate-disconnects",
            "--seed",
            &seed,
            "--ledger",
            &ledger.display().to_string(),
        ];
        let child = folder
            .command(&args)
            .stdout(file.try_clone().expect("the same file"))
            .stderr(file)
            .spawn()
            .expect("the bench starts");
        Self {
            child,
            ledger,
            output,
            read: 0,
        }
    }

    fn assert_running(&mut self) {
        if let Some(status) = self.child.try_wait().expect("a child of ours") {
            let said = fs::read_to_string(&self.output).unwrap_or_default();
            panic!("the bench ended with {status}: {said}");
        }
    }

    fn signal(&mut self, signal: Signal) {
        self.assert_running();
        kill_process(Pid::from_child(&self.child), signal).expect("a child of ours");
    }

    /// The whole lines that the ledger got since the last call.
    fn new_lines(&mut self) -> Vec<Value> {
        let text = fs::read_to_string(&self.ledger).unwrap_or_default();
        let end = text.rfind('\n').map_or(0, |at| at + 1);
        let new = &text[self.read.min(end)..end];
        self.read = end;
        let parse = |line| serde_json::from_str(line).expect("a line of JSON");
        new.lines().map(parse).collect()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Everything clients were told so far: event id to the outcome they were given.
type Acknowledged = BTreeMap<String, Value>;

fn take(acknowledged: &mut Acknowledged, lines: Vec<Value>) {
    for line in lines {
        if line["acknowledged"] == true
            && let Some(id) = line["event_id"].as_str()
        {
            let twice = acknowledged.insert(id.to_owned(), line["outcome"].clone());
            assert!(twice.is_none(), "acknowledged twice: {line}");
        }
    }
}

fn assert_exactly_once(acknowledged: &Acknowledged, folded: &Folded) {
    for (id, outcome) in acknowledged {
        let records = folded.records_of_event.get(id).copied().unwrap_or(0);
        assert_eq!(
            records, 1,
            "acknowledged event {id} is {records} times in the log"
        );
        if !outcome.is_null() {
            assert_eq!(
                *outcome, folded.outcomes[id],
                "the client was told otherwise: {id}"
            );
        }
    }
    for (id, records) in &folded.records_of_event {
        assert_eq!(*records, 1, "event {id} is {records} times in the log");
    }
}

/// A folder whose servers all listen on the same free ports, so that the bench finds them again.
fn folder_with_ports() -> Folder {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let [api, management] = listeners.map(|one| one.local_addr().expect("an address"));
    Folder::new()
        .with("TALLY__API__LISTEN", api)
        .with("TALLY__MANAGEMENT__LISTEN", management)
        .with("TALLY__LOG__SEGMENT_SIZE", "4 MiB")
        .with("TALLY__PROJECTOR__CHECKPOINT_INTERVAL", "100ms")
}

fn events_folded(server: &Server) -> f64 {
    server.metrics().sum("tally_projector_events_total", &[])
}

#[test]
fn kill_9_under_load_loses_nothing_and_counts_nothing_twice() {
    let rounds = number_from_env("TALLY_CRASH_ROUNDS", 50);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    let seed = number_from_env("TALLY_CRASH_SEED", now.as_secs());
    println!("{rounds} kills, TALLY_CRASH_SEED={seed}");
    let mut chance = Chance(seed);
    let mut round = 0;
    while round < rounds {
        let kills = KILLS_PER_FOLDER.min(rounds - round);
        crash_one_folder(round, kills, &mut chance);
        round += kills;
    }
}

fn crash_one_folder(first: u64, kills: u64, chance: &mut Chance) {
    let folder = folder_with_ports();
    let mut server = folder.start();
    let mut bench = Bench::start(&folder, chance.below(1_000_000));
    let mut acknowledged = Acknowledged::new();
    for round in first..first + kills {
        let target = 500 + chance.below(6_000);
        let replayed = events_folded(&server);
        wait::until("load", || {
            bench.assert_running();
            let folded = events_folded(&server) - replayed;
            (folded >= f64::from(u32::try_from(target).expect("small"))).then_some(())
        });
        server.kill9();
        bench.signal(Signal::STOP);
        // Now and then the next start is killed as well, wherever it has got to.
        for _ in 0..chance.below(3) {
            let mut half_started = Server::spawn(&folder);
            if chance.below(2) == 0 {
                half_started.wait_until_bound();
            }
            half_started.kill9();
        }
        server = folder.start();
        let replayed = events_folded(&server);
        take(&mut acknowledged, bench.new_lines());
        let folded = assert_state_is_fold_of_log(&folder);
        assert_exactly_once(&acknowledged, &folded);
        println!(
            "kill {:>2}: {:>6} in the log, {:>6} acknowledged, {replayed:>5} replayed",
            round + 1,
            folded.outcomes.len(),
            acknowledged.len(),
        );
        assert!(!acknowledged.is_empty());
        bench.signal(Signal::CONT);
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
    let folded = events_folded(&server);
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
    let filled = events_folded(&server);
    println!("{filled} events in the log");
    assert!(filled >= f64::from(u32::try_from(events).expect("below 2^32")));
    let mut bench = Bench::start(&folder, 1);
    wait::until("load on top", || {
        bench.assert_running();
        (events_folded(&server) >= filled + 20_000.).then_some(())
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
