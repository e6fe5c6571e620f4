//! What the projector's tests share: a log in memory that can be given gaps, cut and swapped, and
//! short ways to make events.

#![allow(dead_code, reason = "each test target uses its part")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tally_domain::partition::partition_of;
use tally_domain::{
    Event, EventId, EventTime, IdempotencyKey, InteractionType, LogId, Offset, Position, Resource,
    ResourceType, UserId,
};
use tally_log::storage::RealStorage;
use tally_log::{
    AppendDone, AppendError, AppendRefused, Batch, EventLog, LogHealth, LogIdentity, LogReader,
    NewRecord, ReadError,
};
use tally_projector::{OpenError, Options, Projector};

pub const PARTITIONS: u32 = 4;
pub const NOW: u64 = 1_764_000_000_000;

type Records = Vec<Vec<(Offset, Vec<u8>, Vec<u8>)>>;

#[derive(Clone)]
pub struct MemoryLog {
    pub identity: LogIdentity,
    shared: Arc<(Mutex<Inner>, Condvar)>,
}

struct Inner {
    records: Records,
    first: Vec<Offset>,
    head: Vec<Offset>,
    woken: u64,
}

impl MemoryLog {
    pub fn new() -> Self {
        Self::with(LogId::now_v7(), PARTITIONS)
    }

    pub fn with(id: LogId, partitions: u32) -> Self {
        let many = partitions as usize;
        let inner = Inner {
            records: vec![Vec::new(); many],
            first: vec![0; many],
            head: vec![0; many],
            woken: 0,
        };
        let identity = LogIdentity { id, partitions };
        Self { identity, shared: Arc::new((Mutex::new(inner), Condvar::new())) }
    }

    /// Adds an event to its partition and returns its position.
    pub fn add(&self, event: &Event) -> Position {
        let key = event.resource.key();
        let partition = partition_of(key.as_bytes(), self.identity.partitions);
        self.add_raw(partition, key.as_bytes(), &tally_domain::encode(event))
    }

    pub fn add_raw(&self, partition: u32, key: &[u8], value: &[u8]) -> Position {
        let (inner, changed) = &*self.shared;
        let mut inner = inner.lock();
        let offset = inner.head[partition as usize];
        inner.records[partition as usize].push((offset, key.to_vec(), value.to_vec()));
        inner.head[partition as usize] += 1;
        changed.notify_all();
        Position { partition, offset }
    }

    /// Offsets that no record has, as Kafka's transaction markers leave them.
    pub fn skip(&self, partition: u32, how_many: u64) {
        self.shared.0.lock().head[partition as usize] += how_many;
        self.shared.1.notify_all();
    }

    /// Removes the oldest records of every partition.
    pub fn truncate_to_head(&self) {
        let mut inner = self.shared.0.lock();
        inner.first = inner.head.clone();
        inner.records.iter_mut().for_each(Vec::clear);
    }

    /// The same log as it was when it held only the first `keep` records of each partition.
    pub fn older(&self, keep: usize) -> Self {
        let older = Self::with(self.identity.id, self.identity.partitions);
        {
            let ours = self.shared.0.lock();
            let mut theirs = older.shared.0.lock();
            for (place, records) in ours.records.iter().enumerate() {
                theirs.records[place] = records.iter().take(keep).cloned().collect();
                theirs.head[place] = theirs.records[place].len() as u64;
            }
        }
        older
    }

    pub fn arc(&self) -> Arc<dyn EventLog> {
        Arc::new(self.clone())
    }
}

impl EventLog for MemoryLog {
    fn identity(&self) -> LogIdentity {
        self.identity
    }

    fn append(&self, records: Vec<NewRecord>, done: AppendDone) -> Result<(), AppendRefused> {
        let add = |r: NewRecord| Ok(self.add_raw(r.partition, &r.key, &r.value).offset);
        done(records.into_iter().map(add).collect());
        Ok(())
    }

    fn reader(&self, from: &[Position]) -> Result<Box<dyn LogReader>, ReadError> {
        let inner = self.shared.0.lock();
        for Position { partition, offset } in from {
            let (first, head) = (inner.first[*partition as usize], inner.head[*partition as usize]);
            if *offset < first || *offset > head {
                let (partition, wanted) = (*partition, *offset);
                return Err(ReadError::OutOfRange { partition, wanted, first, head });
            }
        }
        Ok(Box::new(MemoryReader { log: self.clone(), at: from.to_vec(), woken: inner.woken }))
    }

    fn first(&self) -> Result<Vec<Offset>, ReadError> {
        Ok(self.shared.0.lock().first.clone())
    }

    fn head(&self) -> Result<Vec<Offset>, ReadError> {
        Ok(self.shared.0.lock().head.clone())
    }

    fn health(&self) -> LogHealth {
        LogHealth::Ok
    }

    fn close(&self, _: Duration) -> Result<(), AppendError> {
        Ok(())
    }
}

struct MemoryReader {
    log: MemoryLog,
    at: Vec<Position>,
    woken: u64,
}

impl LogReader for MemoryReader {
    fn next(&mut self, batch: &mut Batch, wait: Duration) -> Result<(), ReadError> {
        batch.clear();
        let until = std::time::Instant::now() + wait;
        let (inner, changed) = &*self.log.shared;
        let mut inner = inner.lock();
        loop {
            let mut moved = false;
            for position in &mut self.at {
                let place = position.partition as usize;
                let new = inner.records[place].iter().filter(|r| r.0 >= position.offset);
                for (offset, key, value) in new {
                    batch.push(position.partition, *offset, NOW, key, value);
                }
                moved |= position.offset < inner.head[place];
                position.offset = position.offset.max(inner.head[place]);
            }
            if moved || inner.woken != self.woken {
                self.woken = inner.woken;
                return Ok(());
            }
            if changed.wait_until(&mut inner, until).timed_out() {
                return Ok(());
            }
        }
    }

    fn positions(&self) -> Vec<Position> {
        self.at.clone()
    }

    fn waker(&self) -> Box<dyn Fn() + Send + Sync> {
        let log = self.log.clone();
        Box::new(move || {
            log.shared.0.lock().woken += 1;
            log.shared.1.notify_all();
        })
    }
}

pub fn options() -> Options {
    // Checkpoints only when a test asks: what a crash finds is then the test's choice.
    let checkpoint_interval = Duration::from_secs(3_600);
    Options { workers: 2, checkpoint_interval, sled_cache_bytes: 1 << 20, ..Options::default() }
}

pub fn try_open(log: &MemoryLog, dir: &Path) -> Result<Projector, OpenError> {
    let registry = prometheus::Registry::new();
    Projector::open(log.arc(), Arc::new(RealStorage), dir, options(), &registry)
}

pub fn open(log: &MemoryLog, dir: &Path) -> Projector {
    try_open(log, dir).unwrap()
}

/// Waits until everything that is in the log now is applied.
pub fn catch_up(projector: &Projector) {
    let head = projector.log().head().unwrap();
    let mailbox = tally_projector::Mailbox::direct();
    for (partition, head) in (0..).zip(head) {
        if let Some(offset) = head.checked_sub(1) {
            let applied =
                projector.wait_for_position(Position { partition, offset }, &mailbox).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            let limit = Duration::from_secs(30);
            runtime.unwrap().block_on(async { tokio::time::timeout(limit, applied).await }).unwrap().unwrap();
        }
    }
}

pub fn resource(id: u64) -> Resource {
    Resource::new(ResourceType::AiNote, id).unwrap()
}

pub fn user(name: u64) -> UserId {
    UserId::new(format!("user-{name}")).unwrap()
}

pub fn event(by: u64, id: u64, interaction: InteractionType, key: Option<u64>) -> Event {
    Event {
        id: EventId::now_v7(),
        at: EventTime::from_millis(NOW),
        user: user(by),
        resource: resource(id),
        interaction,
        idempotency_key: key.map(|key| IdempotencyKey::new(format!("key-{key}")).unwrap()),
    }
}
