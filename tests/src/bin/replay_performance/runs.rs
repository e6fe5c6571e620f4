//! One run each: reading, reading and decoding, folding.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tally_domain::{Offset, Position, Toggles};
use tally_log::storage::RealStorage;
use tally_log::{Batch, EventLog};
use tally_projector::{Options, Projector, StateDump};
use tally_tests::wait;

use crate::Args;

const WAIT: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(1_800);
const MILLION: u64 = 1_000_000;

/// What came of one run.
pub(crate) struct Figures {
    /// Events a second by the clock.
    pub(crate) by_clock: f64,
    /// Events a second of CPU, of all threads.
    pub(crate) by_cpu: f64,
    /// Of a fold: the state's bytes on the disk by those of what it says.
    pub(crate) disk_ratio: f64,
}

/// The CPU time of this process, in seconds.
fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(time).map_or(0.0, |time| time.as_secs_f64())
}

fn float(count: u64) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}

fn positions(offsets: Vec<Offset>) -> Vec<Position> {
    let pairs = (0..).zip(offsets);
    pairs
        .map(|(partition, offset)| Position { partition, offset })
        .collect()
}

/// How long each million took.
struct Millions {
    began: Instant,
    cpu: f64,
    last: Instant,
    next: u64,
    rates: Vec<String>,
}

impl Millions {
    fn begin() -> Self {
        let now = Instant::now();
        Self {
            began: now,
            cpu: cpu(),
            last: now,
            next: MILLION,
            rates: Vec::new(),
        }
    }

    fn at(&mut self, events: u64) {
        if events < self.next {
            return;
        }
        let passed = float(events - (self.next - MILLION));
        let rate = passed / self.last.elapsed().as_secs_f64();
        self.rates.push(format!("{:.2}", rate / 1e6));
        self.last = Instant::now();
        // What came on top counts with the next.
        self.next = events + MILLION;
    }

    fn figures(&self, events: u64) -> Figures {
        Figures {
            by_clock: float(events) / self.began.elapsed().as_secs_f64(),
            by_cpu: float(events) / (cpu() - self.cpu),
            disk_ratio: 0.0,
        }
    }

    fn say(&self, what: &str, figures: &Figures) {
        println!(
            "{what:<21} {:.0}/s by the clock, {:.0}/s of CPU; each million: {} M/s",
            figures.by_clock,
            figures.by_cpu,
            self.rates.join(" ")
        );
    }
}

/// Reads all of it on this thread.
fn read_all(log: &Arc<dyn EventLog>, what: &str, mut each: impl FnMut(&Batch)) -> Figures {
    let (first, head) = (positions(log.first().unwrap()), log.head().unwrap());
    let head = positions(head);
    let mut millions = Millions::begin();
    let mut reader = log.reader(&first).expect("a reader");
    let mut batch = Batch::new();
    let mut events = 0;
    while reader.positions() != head {
        reader.next(&mut batch, WAIT).expect("records");
        events += u64::try_from(batch.len()).expect("a count");
        each(&batch);
        millions.at(events);
    }
    let figures = millions.figures(events);
    millions.say(what, &figures);
    figures
}

/// Records alone.
pub(crate) fn read_records(log: &Arc<dyn EventLog>) -> Figures {
    read_all(log, "read", |_| ())
}

/// Records, and what they say.
pub(crate) fn read(log: &Arc<dyn EventLog>) -> Figures {
    read_all(log, "read and decoded", |batch| {
        for record in batch.iter() {
            let event = tally_domain::decode_entry(record.value);
            std::hint::black_box(event.expect("an event"));
        }
    })
}

/// Folds all of it into a state that is new, and writes that down.
pub(crate) fn fold(log: &Arc<dyn EventLog>, root: &Path, args: &Args) -> Figures {
    let dir = root.join("state");
    let default = Options::default();
    let options = Options {
        workers: args.workers,
        checkpoint_changes: args.changes.unwrap_or(default.checkpoint_changes),
        ..default
    };
    let events: u64 = log.head().unwrap().iter().sum();
    let mut millions = Millions::begin();
    let (of_log, storage) = (Arc::clone(log), Arc::new(RealStorage));
    let registry = prometheus::Registry::new();
    let projector = Projector::open(of_log, storage, &dir, options, &registry).expect("a state");
    let caught_up = wait::within(LIMIT, || {
        let status = projector.status();
        assert!(status.failure.is_none(), "{status:?}");
        let next = status.partitions.iter().map(|one| one.next_offset);
        millions.at(next.sum());
        status.caught_up_once.then_some(())
    });
    caught_up.expect("it catches up");
    let applied = millions.figures(events);
    let dump = projector.dump().expect("a copy of the state");
    let copied = millions.began.elapsed();
    projector.stop(LIMIT).expect("a checkpoint");
    let mut figures = millions.figures(events);
    millions.say("folded, written down", &figures);
    drop(projector);
    let (said, disk) = (bytes_said(&dump), bytes_on_disk(&dir));
    figures.disk_ratio = float(disk >> 10) / float(said >> 10);
    println!(
        "{:21} applied at {:.0}/s, copied after {copied:.1?}; {} counters, {} toggles: {} MiB as the store \
         spells them, {} MiB on the disk: {:.2} times",
        "",
        applied.by_clock,
        dump.counters.len(),
        dump.toggles.len(),
        said >> 20,
        disk >> 20,
        figures.disk_ratio
    );
    std::fs::remove_dir_all(&dir).expect("it is ours");
    figures
}

/// The bytes of every value in the shortest form there is of it: what it is about, then what it says. See the
/// head of the projector's `store/values.rs`.
fn bytes_said(dump: &StateDump) -> u64 {
    let varint = |number: u64| u64::from((64 - (number | 1).leading_zeros()).div_ceil(7));
    let about = |id: u64| 1 + varint(id) + 1;
    let counters = dump.counters.iter().map(|(resource, counters)| {
        let counters = [
            counters.views,
            counters.likes,
            counters.shares,
            counters.bookmarks,
            counters.comments,
        ];
        about(resource.id.get()) + counters.into_iter().map(varint).sum::<u64>()
    });
    let set = dump
        .toggles
        .iter()
        .filter(|(_, _, set)| *set != Toggles::NONE);
    let toggles = set.map(|(resource, user, _)| {
        let name = u64::try_from(user.as_str().len()).expect("a short name");
        about(resource.id.get()) + name + 1
    });
    counters.sum::<u64>() + toggles.sum::<u64>()
}

fn bytes_on_disk(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).expect("a folder");
    let of = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            return bytes_on_disk(&path);
        }
        // As `du` counts: a file with holes takes less than its length.
        path.metadata().map_or(0, |file| file.blocks() * 512)
    };
    entries.map(of).sum()
}
