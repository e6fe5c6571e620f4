//! A log up to given offsets, or all of it, read no faster than a given rate: for folding beside somebody
//! who needs the same disk, to exactly one position.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tally_domain::{Offset, Position};

use crate::batch::Batch;
use crate::contract::{
    AppendDone, AppendError, AppendRefused, EventLog, LogHealth, LogIdentity, LogReader, NewRecord,
    OneRecord, ReadError,
};

/// How long a read of the log takes at most, so that one that is woken or over ends.
const STEP: Duration = Duration::from_millis(500);
/// How often something is handed on, at a rate.
const BATCHES_A_SECOND: usize = 4;

/// See the [module](self). Nothing is appended through it, and how far its readers are is told to
/// nobody.
pub struct LimitedLog {
    log: Arc<dyn EventLog>,
    /// At most so many records a second, over all readers.
    rate: Option<u64>,
    /// Whether all of the log is shown, whatever comes.
    all: bool,
    shared: Arc<Shared>,
}

struct Shared {
    until: Mutex<Vec<Offset>>,
    moved: Condvar,
    /// When the next record is due.
    due: Mutex<Instant>,
}

impl LimitedLog {
    /// Shows nothing of the log yet.
    ///
    /// # Errors
    /// [`ReadError`] where the log can't be asked where it begins.
    pub fn new(log: Arc<dyn EventLog>, rate: Option<u64>) -> Result<Self, ReadError> {
        let until = log.first()?;
        Ok(Self::with(log, rate, until, false))
    }

    /// Shows all of the log, at most so many records of it a second.
    #[must_use]
    pub fn paced(log: Arc<dyn EventLog>, rate: u64) -> Self {
        let until = vec![Offset::MAX; usize::try_from(log.identity().partitions).unwrap_or(0)];
        Self::with(log, Some(rate), until, true)
    }

    fn with(log: Arc<dyn EventLog>, rate: Option<u64>, until: Vec<Offset>, all: bool) -> Self {
        let shared = Shared {
            until: Mutex::new(until),
            moved: Condvar::new(),
            due: Mutex::new(Instant::now()),
        };
        Self {
            log,
            rate,
            all,
            shared: Arc::new(shared),
        }
    }

    /// Shows the log below these offsets, which are in it; never less than before.
    pub fn advance(&self, until: &[Offset]) {
        let mut shown = self.shared.until.lock();
        for (shown, until) in shown.iter_mut().zip(until) {
            *shown = (*shown).max(*until);
        }
        drop(shown);
        self.shared.moved.notify_all();
    }
}

impl EventLog for LimitedLog {
    fn identity(&self) -> LogIdentity {
        self.log.identity()
    }

    fn append(&self, _records: Vec<NewRecord>, _done: AppendDone) -> Result<(), AppendRefused> {
        Err(AppendRefused::Closed("it is for reading alone".to_owned()))
    }

    fn reader(&self, from: &[Position]) -> Result<Box<dyn LogReader>, ReadError> {
        let inner = self.log.reader(from)?;
        Ok(Box::new(LimitedReader {
            wake_inner: Arc::new(Mutex::new(inner.waker())),
            inner,
            log: Arc::clone(&self.log),
            shared: Arc::clone(&self.shared),
            rate: self.rate,
            next: from.to_vec(),
            read: Batch::new(),
            taken: 0,
            woken: Arc::default(),
        }))
    }

    fn first(&self) -> Result<Vec<Offset>, ReadError> {
        self.log.first()
    }

    fn head(&self) -> Result<Vec<Offset>, ReadError> {
        if self.all {
            return self.log.head();
        }
        Ok(self.shared.until.lock().clone())
    }

    /// What is asked for by its place is no part of the rate.
    fn records_at(&self, positions: &[Position]) -> Result<Vec<Option<OneRecord>>, ReadError> {
        self.log.records_at(positions)
    }

    fn health(&self) -> LogHealth {
        self.log.health()
    }

    fn stalled_for(&self) -> Option<Duration> {
        None
    }

    fn close(&self, _deadline: Duration) -> Result<(), AppendError> {
        Ok(())
    }
}

type Wake = Box<dyn Fn() + Send + Sync>;

struct LimitedReader {
    log: Arc<dyn EventLog>,
    wake_inner: Arc<Mutex<Wake>>,
    inner: Box<dyn LogReader>,
    shared: Arc<Shared>,
    rate: Option<u64>,
    next: Vec<Position>,
    read: Batch,
    /// How many records of it were handed on, or passed over.
    taken: usize,
    woken: Arc<AtomicBool>,
}

impl LimitedReader {
    fn until(until: &[Offset], position: Position) -> Offset {
        let place = usize::try_from(position.partition).unwrap_or(usize::MAX);
        until.get(place).copied().unwrap_or_default()
    }

    /// Waits until there is something to show; `false` where the time is up, or it was woken.
    fn wait(&self, deadline: Option<Instant>) -> bool {
        let mut until = self.shared.until.lock();
        loop {
            let more = |next: &Position| next.offset < Self::until(&until, *next);
            if self.next.iter().any(more) {
                return true;
            }
            if self.woken.swap(false, Ordering::AcqRel) {
                return false;
            }
            match deadline {
                Some(deadline) if Instant::now() >= deadline => return false,
                Some(deadline) => {
                    self.shared.moved.wait_until(&mut until, deadline);
                }
                None => self.shared.moved.wait(&mut until),
            }
        }
    }

    /// Takes from what was read what may be shown, and moves on. At a rate it is a part of a second's at
    /// most, so that whoever reads is seen to move.
    fn take(&mut self, batch: &mut Batch) {
        let until = self.shared.until.lock().clone();
        let rate = self
            .rate
            .map(|rate| usize::try_from(rate).unwrap_or(usize::MAX));
        let most = rate.map_or(usize::MAX, |rate| (rate / BATCHES_A_SECOND).max(1));
        for record in self.read.iter().skip(self.taken) {
            if batch.len() >= most {
                return;
            }
            self.taken += 1;
            let Position { partition, offset } = record.position;
            let mut next = self.next.iter_mut();
            let shown = |next: &&mut Position| {
                next.partition == partition
                    && offset >= next.offset
                    && offset < Self::until(&until, **next)
            };
            if let Some(next) = next.find(shown) {
                next.offset = offset.saturating_add(1);
                let time = record.append_time_millis;
                batch.push(partition, offset, time, record.key, record.value);
            }
        }
        for read in self.inner.positions() {
            let of = |next: &&mut Position| next.partition == read.partition;
            if let Some(next) = self.next.iter_mut().find(of) {
                let limit = Self::until(&until, *next);
                next.offset = next.offset.max(read.offset.min(limit));
            }
        }
    }

    /// Reads on. Where the inner reader has passed records that may be shown by now, that is from those on,
    /// and of their partitions alone: what others wait for may be far behind.
    fn read(&mut self, wait: Duration) -> Result<(), ReadError> {
        let until = self.shared.until.lock().clone();
        let wanted = self.next.iter().copied();
        let wanted = wanted.filter(|next| next.offset < Self::until(&until, *next));
        let wanted: Vec<Position> = wanted.collect();
        let read = self.inner.positions();
        let passed = |next: &Position| {
            let mut read = read.iter();
            let read = read.find(|read| read.partition == next.partition);
            read.is_none_or(|read| read.offset > next.offset)
        };
        if wanted.iter().any(passed) {
            self.inner = self.log.reader(&wanted)?;
            *self.wake_inner.lock() = self.inner.waker();
        }
        self.taken = 0;
        self.inner.next(&mut self.read, wait)
    }

    /// Waits as long as so many records take at the rate.
    fn pace(&self, records: usize) {
        let Some(rate) = self.rate else {
            return;
        };
        let records = u64::try_from(records).unwrap_or(u64::MAX);
        let nanos = records.saturating_mul(1_000_000_000) / rate.max(1);
        let mut due = self.shared.due.lock();
        let now = Instant::now();
        // What was not used is not saved up.
        *due = (*due).max(now) + Duration::from_nanos(nanos);
        let pause_ends = *due;
        drop(due);
        let mut until = self.shared.until.lock();
        while Instant::now() < pause_ends && !self.woken.load(Ordering::Acquire) {
            self.shared.moved.wait_until(&mut until, pause_ends);
        }
    }
}

impl LogReader for LimitedReader {
    fn next(&mut self, batch: &mut Batch, wait: Duration) -> Result<(), ReadError> {
        batch.clear();
        let deadline = Instant::now().checked_add(wait);
        while batch.is_empty() {
            if !self.wait(deadline) {
                return Ok(());
            }
            if self.taken >= self.read.len() {
                let left = deadline.map_or(wait, |at| at.saturating_duration_since(Instant::now()));
                self.read(left.min(STEP))?;
            }
            self.take(batch);
            if deadline.is_some_and(|deadline| Instant::now() >= deadline)
                || self.woken.swap(false, Ordering::AcqRel)
            {
                break;
            }
        }
        self.pace(batch.len());
        Ok(())
    }

    fn positions(&self) -> Vec<Position> {
        self.next.clone()
    }

    fn waker(&self) -> Wake {
        let (shared, woken) = (Arc::clone(&self.shared), Arc::clone(&self.woken));
        let wake_inner = Arc::clone(&self.wake_inner);
        Box::new(move || {
            woken.store(true, Ordering::Release);
            (*wake_inner.lock())();
            // A reader that looked before this waits by now.
            drop(shared.until.lock());
            shared.moved.notify_all();
        })
    }
}
