//! A log in memory for the tests of this crate, with faults on demand.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tally_domain::{LogId, Offset, Position};
use tally_log::{
    AppendDone, AppendError, AppendRefused, Batch, EventLog, LogHealth, LogIdentity, LogReader,
    NewRecord, ReadError, TraceParent,
};

/// What an append comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    Taken,
    Refused(AppendRefused),
    Failed(AppendError),
    /// Taken, and nobody is told.
    Silent,
    /// Taken, and told that nobody knows.
    Unknown,
    /// The log itself fails.
    Panics,
}

/// Clones are the same log.
#[derive(Clone)]
pub(crate) struct MemoryLog {
    identity: LogIdentity,
    shared: Arc<(Mutex<Inner>, Condvar)>,
}

struct Inner {
    partitions: Vec<Kept>,
    appends: u64,
    woken: u64,
    fate: Fate,
    unreadable: Option<ReadError>,
    /// Readers give up what they read.
    cut: Option<ReadError>,
    health: LogHealth,
    /// How often the head was asked for, and whether the answer waits.
    heads_asked: u64,
    heads_held: bool,
    /// Instead of the time at which a record is read.
    append_time_millis: Option<u64>,
}

#[derive(Default)]
struct Kept {
    records: Vec<(Offset, Vec<u8>, Vec<u8>)>,
    traces: Vec<Option<TraceParent>>,
    first: Offset,
    head: Offset,
}

impl MemoryLog {
    pub(crate) fn new(partitions: u32) -> Self {
        let id = LogId::now_v7();
        let inner = Inner {
            partitions: (0..partitions).map(|_| Kept::default()).collect(),
            appends: 0,
            woken: 0,
            fate: Fate::Taken,
            unreadable: None,
            cut: None,
            health: LogHealth::Ok,
            heads_asked: 0,
            heads_held: false,
            append_time_millis: None,
        };
        Self {
            identity: LogIdentity { id, partitions },
            shared: Arc::new((Mutex::new(inner), Condvar::new())),
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let (inner, changed) = &*self.shared;
        let made = change(&mut inner.lock());
        changed.notify_all();
        made
    }

    /// Adds a record as another writer would, and returns its offset.
    pub(crate) fn add(&self, partition: u32, key: &[u8], value: &[u8]) -> Offset {
        self.change(|inner| inner.partitions[partition as usize].push(key, value))
    }

    /// Offsets that no record has, as Kafka's transaction markers leave them.
    pub(crate) fn skip(&self, partition: u32, how_many: u64) {
        self.change(|inner| inner.partitions[partition as usize].head += how_many);
    }

    /// Removes everything that is in it.
    pub(crate) fn truncate_to_head(&self) {
        self.change(|inner| {
            for kept in &mut inner.partitions {
                kept.records.clear();
                kept.first = kept.head;
            }
        });
    }

    /// What the next appends come to.
    pub(crate) fn set_fate(&self, fate: Fate) {
        self.change(|inner| inner.fate = fate);
    }

    /// Whether readers can read.
    pub(crate) fn set_unreadable(&self, why: Option<ReadError>) {
        self.change(|inner| inner.unreadable = why);
    }

    /// Readers give their partitions up from now on, for this.
    pub(crate) fn cut(&self, why: ReadError) {
        self.change(|inner| inner.cut = Some(why));
    }

    /// What it says of itself.
    pub(crate) fn set_health(&self, health: LogHealth) {
        self.change(|inner| inner.health = health);
    }

    /// Whether whoever asks for the head waits for the answer.
    pub(crate) fn hold_heads(&self, held: bool) {
        self.change(|inner| inner.heads_held = held);
    }

    /// How often the head was asked for.
    pub(crate) fn heads_asked(&self) -> u64 {
        self.shared.0.lock().heads_asked
    }

    /// The traces of what was appended to a partition, in order.
    pub(crate) fn traces(&self, partition: u32) -> Vec<Option<TraceParent>> {
        self.shared.0.lock().partitions[partition as usize]
            .traces
            .clone()
    }

    /// What readers are told of when records were appended.
    pub(crate) fn set_append_time(&self, millis: u64) {
        self.change(|inner| inner.append_time_millis = Some(millis));
    }

    /// How many appends were taken.
    pub(crate) fn appends(&self) -> u64 {
        self.shared.0.lock().appends
    }

    /// The values of a partition's records, in order.
    pub(crate) fn values(&self, partition: u32) -> Vec<String> {
        let inner = self.shared.0.lock();
        let records = inner.partitions[partition as usize].records.iter();
        records
            .map(|(_, _, value)| String::from_utf8_lossy(value).into_owned())
            .collect()
    }

    /// How many handles on the log there are.
    pub(crate) fn handles(&self) -> usize {
        Arc::strong_count(&self.shared)
    }

    pub(crate) fn arc(&self) -> Arc<dyn EventLog> {
        Arc::new(self.clone())
    }
}

impl Kept {
    fn push(&mut self, key: &[u8], value: &[u8]) -> Offset {
        let offset = self.head;
        self.records.push((offset, key.to_vec(), value.to_vec()));
        self.head += 1;
        offset
    }
}

impl EventLog for MemoryLog {
    fn identity(&self) -> LogIdentity {
        self.identity
    }

    fn append(&self, records: Vec<NewRecord>, done: AppendDone) -> Result<(), AppendRefused> {
        let fate = self.shared.0.lock().fate.clone();
        match fate {
            Fate::Panics => panic!("as the test wants it"),
            Fate::Refused(refused) => return Err(refused),
            Fate::Failed(error) => done(records.iter().map(|_| Err(error.clone())).collect()),
            Fate::Taken | Fate::Silent | Fate::Unknown => {
                let offsets: Vec<Offset> = self.change(|inner| {
                    inner.appends += 1;
                    let partitions = &mut inner.partitions;
                    let push = |r: NewRecord| {
                        let kept = &mut partitions[r.partition as usize];
                        kept.traces.push(r.traceparent);
                        kept.push(&r.key, &r.value)
                    };
                    records.into_iter().map(push).collect()
                });
                let unknown = || AppendError::FateUnknown("as the test wants it".to_owned());
                if fate == Fate::Taken {
                    done(offsets.into_iter().map(Ok).collect());
                } else if fate == Fate::Unknown {
                    done(offsets.iter().map(|_| Err(unknown())).collect());
                }
            }
        }
        Ok(())
    }

    fn reader(&self, from: &[Position]) -> Result<Box<dyn LogReader>, ReadError> {
        let inner = self.shared.0.lock();
        for Position { partition, offset } in from.iter().copied() {
            let Kept { first, head, .. } = inner.partitions[partition as usize];
            if offset < first || offset > head {
                return Err(ReadError::OutOfRange {
                    partition,
                    wanted: offset,
                    first,
                    head,
                });
            }
        }
        Ok(Box::new(MemoryReader {
            log: self.clone(),
            at: from.to_vec(),
            woken: inner.woken,
        }))
    }

    fn first(&self) -> Result<Vec<Offset>, ReadError> {
        let inner = self.shared.0.lock();
        Ok(inner.partitions.iter().map(|kept| kept.first).collect())
    }

    fn head(&self) -> Result<Vec<Offset>, ReadError> {
        let mut inner = self.shared.0.lock();
        inner.heads_asked += 1;
        self.shared.1.notify_all();
        while inner.heads_held {
            self.shared.1.wait(&mut inner);
        }
        Ok(inner.partitions.iter().map(|kept| kept.head).collect())
    }

    fn stalled_for(&self) -> Option<Duration> {
        None
    }

    fn health(&self) -> LogHealth {
        self.shared.0.lock().health.clone()
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
        let until = Instant::now() + wait;
        let (inner, changed) = &*self.log.shared;
        let mut inner = inner.lock();
        loop {
            if let Some(why) = inner.cut.clone().filter(|_| !self.at.is_empty()) {
                self.at.clear();
                return Err(why);
            }
            if let Some(why) = &inner.unreadable {
                return Err(why.clone());
            }
            let now = || crate::clock::now().as_millis();
            let append_time = inner.append_time_millis.unwrap_or_else(now);
            let mut moved = false;
            for position in &mut self.at {
                let kept = &inner.partitions[position.partition as usize];
                let new = kept.records.iter().filter(|r| r.0 >= position.offset);
                for (offset, key, value) in new {
                    batch.push(position.partition, *offset, append_time, key, value);
                }
                moved |= position.offset < kept.head;
                position.offset = position.offset.max(kept.head);
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
        Box::new(move || log.change(|inner| inner.woken += 1))
    }
}
