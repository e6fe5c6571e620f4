//! How fast a log in memory becomes state on disk: events per second from the first read until all
//! is applied, checkpoints into sled going on meanwhile, and what that takes.
//!
//! `cargo run --release -p tally-projector --example follow_rate [EVENTS [RESOURCES [USERS [WORKERS]]]]`
//!
//! Resources and users are drawn evenly, so almost every event touches values that few others do:
//! harder on the store than real traffic. Every second event has an idempotency key.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tally_domain::{
    Event, EventTime, IdempotencyKey, InteractionType, LogId, Offset, Position, Resource,
    ResourceType, UserId,
};
use tally_log::storage::RealStorage;
use tally_log::{
    AppendDone, AppendError, AppendRefused, Batch, EventLog, LogHealth, LogIdentity, LogReader,
    NewRecord, ReadError,
};
use tally_projector::{Options, Projector};

const PARTITIONS: u32 = 16;
/// 2026-11-24T03:50:12.345Z.
const START_MILLIS: u64 = 1_795_492_212_345;
/// What a read gives at most, in bytes.
const BATCH_BYTES: usize = 1 << 20;

/// By partition: keys and values of its records.
type Records = Vec<Vec<(Vec<u8>, Vec<u8>)>>;

/// Records that are all there from the start.
struct FixedLog {
    identity: LogIdentity,
    records: Arc<Records>,
}

fn offset(length: usize) -> Offset {
    u64::try_from(length).unwrap_or(Offset::MAX)
}

impl EventLog for FixedLog {
    fn identity(&self) -> LogIdentity {
        self.identity
    }

    fn append(&self, _: Vec<NewRecord>, _: AppendDone) -> Result<(), AppendRefused> {
        Err(AppendRefused::Closed("it is fixed".to_owned()))
    }

    fn reader(&self, from: &[Position]) -> Result<Box<dyn LogReader>, ReadError> {
        Ok(Box::new(FixedReader {
            records: Arc::clone(&self.records),
            at: from.to_vec(),
            turn: 0,
        }))
    }

    fn first(&self) -> Result<Vec<Offset>, ReadError> {
        Ok(vec![0; self.records.len()])
    }

    fn head(&self) -> Result<Vec<Offset>, ReadError> {
        Ok(self.records.iter().map(|r| offset(r.len())).collect())
    }

    fn stalled_for(&self) -> Option<Duration> {
        None
    }

    fn health(&self) -> LogHealth {
        LogHealth::Ok
    }

    fn close(&self, _: Duration) -> Result<(), AppendError> {
        Ok(())
    }
}

struct FixedReader {
    records: Arc<Records>,
    at: Vec<Position>,
    turn: usize,
}

impl LogReader for FixedReader {
    fn next(&mut self, batch: &mut Batch, wait: Duration) -> Result<(), ReadError> {
        batch.clear();
        for _ in 0..self.at.len() {
            let turn = self.turn;
            self.turn = (turn + 1) % self.at.len();
            let Some(position) = self.at.get_mut(turn) else {
                break;
            };
            let place = usize::try_from(position.partition).unwrap_or(usize::MAX);
            let from = usize::try_from(position.offset).unwrap_or(usize::MAX);
            let rest = self.records.get(place).and_then(|r| r.get(from..));
            for (key, value) in rest.unwrap_or_default() {
                let (partition, offset) = (position.partition, position.offset);
                batch.push(partition, offset, START_MILLIS, key, value);
                position.offset += 1;
                if batch.byte_len() >= BATCH_BYTES {
                    return Ok(());
                }
            }
        }
        if batch.is_empty() {
            std::thread::sleep(wait.min(Duration::from_millis(1)));
        }
        Ok(())
    }

    fn positions(&self) -> Vec<Position> {
        self.at.clone()
    }

    fn waker(&self) -> Box<dyn Fn() + Send + Sync> {
        Box::new(|| ())
    }
}

/// Steele, Lea and Flood's SplitMix64.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

fn records(events: u64, resources: u64, users: u64) -> Result<Records, Box<dyn Error>> {
    let mut random = SplitMix(42);
    let mut records: Records = (0..PARTITIONS).map(|_| Vec::new()).collect();
    for n in 0..events {
        let interaction = match random.next() % 10 {
            0..4 => InteractionType::View,
            4..7 => InteractionType::Like,
            7 => InteractionType::Unlike,
            8 => InteractionType::Bookmark,
            _ => InteractionType::Share,
        };
        let resource = Resource::new(ResourceType::Quest, random.next() % resources.max(1))?;
        let key = n.is_multiple_of(2).then(|| format!("key-{n:016}"));
        let event = Event {
            id: tally_domain::EventId::now_v7(),
            at: EventTime::from_millis(START_MILLIS),
            user: UserId::new((random.next() % users.max(1)).to_string())?,
            resource,
            interaction,
            idempotency_key: key.map(IdempotencyKey::new).transpose()?,
        };
        let home = usize::try_from(resource.partition(PARTITIONS))?;
        if let Some(records) = records.get_mut(home) {
            let key = resource.key().as_bytes().to_vec();
            records.push((key, tally_domain::encode(&event)));
        }
    }
    Ok(records)
}

/// A field of `/proc/self/status`, in MiB; 0 where there is none.
fn mib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1_024
}

#[expect(
    clippy::print_stdout,
    reason = "printing the measurement is what this program is for"
)]
fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let mut arg = |or: u64| args.next().map_or(Ok(or), |arg| arg.parse());
    let (events, resources, users) = (arg(1_000_000)?, arg(100_000)?, arg(100_000)?);
    let options = Options {
        workers: usize::try_from(arg(1)?)?,
        ..Options::default()
    };
    let log = Arc::new(FixedLog {
        identity: LogIdentity {
            id: LogId::now_v7(),
            partitions: PARTITIONS,
        },
        records: Arc::new(records(events, resources, users)?),
    });
    let before = mib("VmRSS");
    let dir = tempfile::tempdir()?;
    let open = || {
        let (log, registry) = (Arc::clone(&log), prometheus::Registry::new());
        let storage = Arc::new(RealStorage);
        Projector::open(log, storage, dir.path(), options.clone(), &registry)
    };

    let started = Instant::now();
    let projector = open()?;
    while !projector.status().caught_up_once {
        std::thread::sleep(Duration::from_millis(1));
    }
    let applied = started.elapsed();
    projector.stop(Duration::from_secs(600))?;
    let written = started.elapsed();
    let (memory, most) = (projector.status().memory >> 20, mib("VmHWM"));
    drop(projector);
    let reopening = Instant::now();
    let projector = open()?;
    let reopened = reopening.elapsed();
    assert!(projector.status().caught_up_once);

    let rate = |took: Duration| events * 1_000_000 / u64::try_from(took.as_micros()).unwrap_or(1);
    println!(
        "{events} events on {resources} resources by {users} users, {} workers: applied at {}/s, \
         applied and written at {}/s, {memory} MiB of values and keys in memory, {} MiB at most besides the log, \
         reopened in {} ms",
        options.workers,
        rate(applied),
        rate(written),
        most.saturating_sub(before),
        reopened.as_millis(),
    );
    Ok(())
}
