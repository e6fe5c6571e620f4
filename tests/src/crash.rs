//! Load that goes on while servers and brokers are killed, and what it was told.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Child;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::fold::Folded;
use crate::folder::Folder;
use crate::server::Server;
use crate::wait;

/// Kills that share a folder. The log is folded whole after each, so it must not grow for ever.
pub const KILLS_PER_FOLDER: u64 = 10;

/// A number from the environment, for whoever wants a longer run.
///
/// # Panics
/// When it is there and no number.
#[must_use]
pub fn number_from_env(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} is no number: {text}")),
        Err(_) => default,
    }
}

/// SplitMix64: enough chance for choosing moments.
pub struct Chance(u64);

impl Chance {
    /// Another one each time, unless `TALLY_CRASH_SEED` repeats the choices of an earlier run. It
    /// prints the seed.
    ///
    /// # Panics
    /// When `TALLY_CRASH_SEED` is no number.
    #[must_use]
    pub fn from_env() -> Self {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970");
        let seed = number_from_env("TALLY_CRASH_SEED", now.as_secs());
        println!("TALLY_CRASH_SEED={seed}");
        Self(seed)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// `tally bench`, which goes on while its server comes and goes. Dropped, it is killed.
pub struct Bench {
    child: Child,
    ledger: PathBuf,
    output: PathBuf,
    read: usize,
}

impl Bench {
    /// Starts it against the server of a folder [with fixed ports](Folder::with_fixed_ports).
    ///
    /// # Panics
    /// When it can't be started.
    #[must_use]
    pub fn start(folder: &Folder, seed: u64) -> Self {
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

    /// That it has not ended.
    ///
    /// # Panics
    /// When it has.
    pub fn assert_running(&mut self) {
        if let Some(status) = self.child.try_wait().expect("a child of ours") {
            let said = fs::read_to_string(&self.output).unwrap_or_default();
            panic!("the bench ended with {status}: {said}");
        }
    }

    /// Waits until the server has folded so many more events.
    ///
    /// # Panics
    /// When that does not come.
    pub fn load(&mut self, server: &Server, events: u64) {
        let enough = server.events_folded() + f64::from(u32::try_from(events).expect("few"));
        wait::until("load", || {
            self.assert_running();
            (server.events_folded() >= enough).then_some(())
        });
    }

    /// Load, then the server is killed with -9 and the load held; now and then the next start is
    /// killed as well, wherever it has got to. Returns the server that is ready again.
    ///
    /// # Panics
    /// When it does not get there.
    #[must_use]
    pub fn kill_server(&mut self, server: Server, chance: &mut Chance) -> Server {
        self.load(&server, 500 + chance.below(6_000));
        let folder = server.folder().clone();
        server.kill9();
        self.hold();
        for _ in 0..chance.below(3) {
            let mut half_started = Server::spawn(&folder);
            if chance.below(2) == 0 {
                half_started.wait_until_bound();
            }
            half_started.kill9();
        }
        folder.start()
    }

    /// Stops the load where it stands.
    ///
    /// # Panics
    /// When it has ended.
    pub fn hold(&mut self) {
        self.signal(Signal::STOP);
    }

    /// Lets the load go on.
    ///
    /// # Panics
    /// When it has ended.
    pub fn go_on(&mut self) {
        self.signal(Signal::CONT);
    }

    fn signal(&mut self, signal: Signal) {
        self.assert_running();
        kill_process(Pid::from_child(&self.child), signal).expect("a child of ours");
    }

    /// The whole lines that the ledger got since the last call.
    ///
    /// # Panics
    /// When one is no JSON.
    pub fn new_lines(&mut self) -> Vec<Value> {
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
#[derive(Debug, Default)]
pub struct Acknowledged(BTreeMap<String, Value>);

impl Acknowledged {
    /// How many interactions were acknowledged.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none was.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds lines of a ledger.
    ///
    /// # Panics
    /// When an event is acknowledged twice.
    pub fn take(&mut self, lines: Vec<Value>) {
        for line in lines {
            if line["acknowledged"] == true
                && let Some(id) = line["event_id"].as_str()
            {
                let twice = self.0.insert(id.to_owned(), line["outcome"].clone());
                assert!(twice.is_none(), "acknowledged twice: {line}");
            }
        }
    }

    /// Each is in the log and came to what its client was told, and no event counts twice. Another
    /// record of an event may be there: its key keeps it from counting.
    ///
    /// # Panics
    /// When it is not so, or none was acknowledged.
    pub fn assert_counted_once(&self, folded: &Folded) {
        assert!(!self.is_empty(), "nothing was acknowledged");
        let missing: Vec<_> = self
            .0
            .keys()
            .filter(|id| !folded.outcomes.contains_key(*id))
            .collect();
        assert!(
            missing.is_empty(),
            "{} acknowledged events are not in the log: {:?}",
            missing.len(),
            missing.iter().take(10).collect::<Vec<_>>()
        );
        for (id, outcome) in self.0.iter().filter(|(_, outcome)| !outcome.is_null()) {
            assert_eq!(
                *outcome, folded.outcomes[id],
                "the client was told otherwise: {id}"
            );
        }
        assert_eq!(folded.counted_again, Vec::<String>::new(), "counted twice");
    }

    /// As [`assert_counted_once`](Self::assert_counted_once), and every event has one record.
    ///
    /// # Panics
    /// When it is not so, or none was acknowledged.
    pub fn assert_in_log_once(&self, folded: &Folded) {
        self.assert_counted_once(folded);
        for (id, records) in &folded.records_of_event {
            assert_eq!(*records, 1, "event {id} is {records} times in the log");
        }
    }
}
