//! A log in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tally_domain::{Event, LogId, Offset, Partition, Position, Record};
use tally_log::{
    AppendDone, AppendError, AppendRefused, Batch, EventLog, LogHealth, LogIdentity, LogReader,
    NewRecord, ReadError,
};

pub(crate) const PARTITIONS: u32 = 4;

/// When the log takes every record, in milliseconds since 1970, until [`MemoryLog::set_now`].
pub(crate) const NOW: u64 = 1_764_000_000_000;

#[derive(Clone)]
struct Stored {
    offset: Offset,
    append_time_millis: u64,
    key: Vec<u8>,
    value: Vec<u8>,
}

/// Clones are the same log.
#[derive(Clone)]
pub(crate) struct MemoryLog {
    pub(crate) identity: LogIdentity,
    shared: Arc<(Mutex<Inner>, Condvar)>,
}

struct Inner {
    records: Vec<Vec<Stored>>,
    first: Vec<Offset>,
    head: Vec<Offset>,
    woken: u64,
    held: bool,
    fault: Option<ReadError>,
    headless: bool,
    faults_met: u64,
    /// Partitions that can't be read on, and whether readers give them up.
    cut: BTreeMap<Partition, bool>,
    /// How far readers said they are.
    applied: Vec<Offset>,
    appends: Appends,
    now: u64,
}

/// What comes of appends.
#[derive(Clone, Default)]
pub(crate) enum Appends {
    #[default]
    Taken,
    Refused(AppendRefused),
    /// Every second record fails, those are in the log where that is unknown.
    Failing(AppendError),
    /// Those of this partition fail.
    FailingIn(Partition),
    /// A record with a larger value is refused alone, or with all of its append.
    UpTo {
        bytes: usize,
        alone: bool,
    },
}

fn place(partition: Partition) -> usize {
    usize::try_from(partition).unwrap()
}

impl MemoryLog {
    pub(crate) fn new() -> Self {
        Self::with(LogId::now_v7(), PARTITIONS)
    }

    pub(crate) fn with(id: LogId, partitions: u32) -> Self {
        let many = place(partitions);
        let inner = Inner {
            records: vec![Vec::new(); many],
            first: vec![0; many],
            head: vec![0; many],
            woken: 0,
            held: false,
            fault: None,
            headless: false,
            faults_met: 0,
            cut: BTreeMap::new(),
            applied: vec![0; many],
            appends: Appends::Taken,
            now: NOW,
        };
        Self {
            identity: LogIdentity { id, partitions },
            shared: Arc::new((Mutex::new(inner), Condvar::new())),
        }
    }

    /// Adds an event to its partition and returns its position.
    pub(crate) fn add(&self, event: &Event) -> Position {
        self.add_all(std::slice::from_ref(event)).pop().unwrap()
    }

    /// Adds events that readers see at once: those of one partition come in one batch.
    pub(crate) fn add_all(&self, events: &[Event]) -> Vec<Position> {
        let mut inner = self.shared.0.lock();
        let positions = events.iter().map(|event| {
            let partition = event.resource.partition(self.identity.partitions);
            let (key, value) = (event.resource.key(), tally_domain::encode(event));
            inner.add(partition, key.as_bytes(), &value)
        });
        let positions = positions.collect();
        self.shared.1.notify_all();
        positions
    }

    pub(crate) fn add_raw(&self, partition: Partition, key: &[u8], value: &[u8]) -> Position {
        let position = self.shared.0.lock().add(partition, key, value);
        self.shared.1.notify_all();
        position
    }

    /// Offsets that no record has, as Kafka's transaction markers leave them.
    pub(crate) fn skip(&self, partition: Partition, how_many: u64) {
        self.shared.0.lock().head[place(partition)] += how_many;
        self.shared.1.notify_all();
    }

    /// Removes the oldest records of every partition.
    pub(crate) fn truncate_to_head(&self) {
        let mut inner = self.shared.0.lock();
        inner.first = inner.head.clone();
        inner.records.iter_mut().for_each(Vec::clear);
    }

    /// Removes the records of each partition below these offsets.
    pub(crate) fn truncate(&self, below: &[Offset]) {
        let mut inner = self.shared.0.lock();
        inner.first = below.to_vec();
        for (records, below) in inner.records.iter_mut().zip(below) {
            records.retain(|record| record.offset >= *below);
        }
    }

    /// Another log with the same records.
    pub(crate) fn clone_records(&self) -> Self {
        self.older(usize::MAX)
    }

    /// The same log as it was when it held only the first `keep` records of each partition.
    pub(crate) fn older(&self, keep: usize) -> Self {
        let older = Self::with(self.identity.id, self.identity.partitions);
        {
            let ours = self.shared.0.lock();
            let mut theirs = older.shared.0.lock();
            for (place, records) in ours.records.iter().enumerate() {
                let kept = records.iter().take(keep).cloned();
                theirs.records[place] = kept.collect();
                let last = theirs.records[place].last();
                theirs.head[place] = last.map_or(0, |record| record.offset + 1);
            }
        }
        older
    }

    /// Shows readers nothing new until [`release`](Self::release).
    pub(crate) fn hold(&self) {
        self.shared.0.lock().held = true;
    }

    pub(crate) fn release(&self) {
        self.shared.0.lock().held = false;
        self.shared.1.notify_all();
    }

    /// Fails every read from now on, or none.
    pub(crate) fn fail_reads(&self, fault: Option<ReadError>) {
        self.shared.0.lock().fault = fault;
        self.shared.1.notify_all();
    }

    /// Whether it can't be asked where it ends.
    pub(crate) fn set_headless(&self, headless: bool) {
        self.shared.0.lock().headless = headless;
    }

    /// Fails reads of a partition from now on; readers give it up, or stand where they stood.
    pub(crate) fn cut(&self, partition: Partition, given_up: bool) {
        self.shared.0.lock().cut.insert(partition, given_up);
        self.shared.1.notify_all();
    }

    /// How far readers said they are.
    pub(crate) fn applied(&self) -> Vec<Offset> {
        self.shared.0.lock().applied.clone()
    }

    /// When records are taken from now on.
    pub(crate) fn set_now(&self, millis: u64) {
        self.shared.0.lock().now = millis;
    }

    /// What comes of appends from now on.
    pub(crate) fn set_appends(&self, appends: Appends) {
        self.shared.0.lock().appends = appends;
    }

    /// Waits until so many reads more have failed.
    pub(crate) fn await_failed_reads(&self, more: u64) {
        let (inner, changed) = &*self.shared;
        let mut inner = inner.lock();
        let enough = inner.faults_met + more;
        while inner.faults_met < enough {
            let waited = changed.wait_for(&mut inner, super::LIMIT);
            assert!(!waited.timed_out(), "nobody reads");
        }
    }

    /// Calls `visit` with every record there is, by partition and offset.
    pub(crate) fn each(&self, mut visit: impl FnMut(Partition, Record<'_>)) {
        let inner = self.shared.0.lock();
        for (partition, records) in (0..).zip(&inner.records) {
            for stored in records {
                let record = Record {
                    offset: stored.offset,
                    append_time_millis: stored.append_time_millis,
                    key: &stored.key,
                    value: &stored.value,
                };
                visit(partition, record);
            }
        }
    }

    pub(crate) fn arc(&self) -> Arc<dyn EventLog> {
        Arc::new(self.clone())
    }
}

impl Inner {
    fn add(&mut self, partition: Partition, key: &[u8], value: &[u8]) -> Position {
        let offset = self.head[place(partition)];
        self.records[place(partition)].push(Stored {
            offset,
            append_time_millis: self.now,
            key: key.to_vec(),
            value: value.to_vec(),
        });
        self.head[place(partition)] += 1;
        Position { partition, offset }
    }
}

impl EventLog for MemoryLog {
    fn identity(&self) -> LogIdentity {
        self.identity
    }

    fn append(&self, records: Vec<NewRecord>, done: AppendDone) -> Result<(), AppendRefused> {
        let appends = self.shared.0.lock().appends.clone();
        let large = |r: &NewRecord| match appends {
            Appends::UpTo { bytes, .. } => r.value.len() > bytes,
            Appends::Taken | Appends::Refused(_) | Appends::Failing(_) | Appends::FailingIn(_) => {
                false
            }
        };
        match &appends {
            Appends::Refused(refused) => return Err(refused.clone()),
            Appends::UpTo { alone: false, .. } if records.iter().any(large) => {
                return Err(AppendRefused::Invalid("too large".to_owned()));
            }
            Appends::Taken | Appends::Failing(_) | Appends::FailingIn(_) | Appends::UpTo { .. } => {
            }
        }
        let mut number = 0;
        let add = |r: NewRecord| {
            number += 1;
            let failing = match &appends {
                Appends::Failing(error) if number % 2 == 0 => Some(error.clone()),
                Appends::Failing(_) | Appends::Taken | Appends::Refused(_) => None,
                Appends::FailingIn(partition) => (r.partition == *partition)
                    .then(|| AppendError::TimedOut("as planned".to_owned())),
                Appends::UpTo { .. } => {
                    large(&r).then(|| AppendError::TooLarge("too large".to_owned()))
                }
            };
            let kept = matches!(failing, None | Some(AppendError::FateUnknown(_)));
            let offset = kept.then(|| self.add_raw(r.partition, &r.key, &r.value).offset);
            failing.map_or_else(|| Ok(offset.unwrap_or_default()), Err)
        };
        done(records.into_iter().map(add).collect());
        Ok(())
    }

    fn reader(&self, from: &[Position]) -> Result<Box<dyn LogReader>, ReadError> {
        let inner = self.shared.0.lock();
        for position in from {
            let (partition, wanted) = (position.partition, position.offset);
            let (first, head) = (inner.first[place(partition)], inner.head[place(partition)]);
            if wanted < first || wanted > head {
                return Err(ReadError::OutOfRange {
                    partition,
                    wanted,
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
        Ok(self.shared.0.lock().first.clone())
    }

    fn head(&self) -> Result<Vec<Offset>, ReadError> {
        let inner = self.shared.0.lock();
        if inner.headless {
            return Err(ReadError::Unavailable("the broker is away".to_owned()));
        }
        Ok(inner.head.clone())
    }

    fn applied(&self, next: &[Position]) {
        let mut inner = self.shared.0.lock();
        for Position { partition, offset } in next {
            inner.applied[place(*partition)] = *offset;
        }
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
            if let Some(fault) = inner.fault.clone() {
                inner.faults_met += 1;
                changed.notify_all();
                return Err(fault);
            }
            let cut = |at: &Position| inner.cut.contains_key(&at.partition);
            if let Some(Position { partition, offset }) = self.at.iter().copied().find(cut) {
                if inner.cut[&partition] {
                    self.at.retain(|at| at.partition != partition);
                }
                return Err(ReadError::OutOfRange {
                    partition,
                    wanted: offset,
                    first: 0,
                    head: 0,
                });
            }
            let mut moved = false;
            for position in self.at.iter_mut().filter(|_| !inner.held) {
                let (partition, from) = (position.partition, position.offset);
                let records = &inner.records[place(partition)];
                let new = records.partition_point(|record| record.offset < from);
                for stored in &records[new..] {
                    let time = stored.append_time_millis;
                    batch.push(partition, stored.offset, time, &stored.key, &stored.value);
                }
                position.offset = from.max(inner.head[place(partition)]);
                moved |= position.offset > from;
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
