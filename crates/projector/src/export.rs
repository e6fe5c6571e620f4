//! Copies of dead letters in a log of their own, for others to read: the topic of dead letters on
//! Kafka. The letters themselves are state; the copies are an export of it.
//!
//! A copy has the letter's key and partition, and this value, version 1:
//!
//! ```json
//! {"v":1,"log":"019…","reason":"undecodable","detail":"…","partition":3,"offset":17,
//!  "append_time":"2026-11-24T03:50:12.345Z","key_base64":"…","value_base64":"…"}
//! ```
//!
//! `log` is the id of the log in which the letter stands at `partition` and `offset`. Where the
//! copy would be larger than a log takes, `omitted_bytes` stands there instead of key and value.
//!
//! Each letter is copied at least once, and those of a partition in their order. How far the copies
//! reach is known from the copies alone: a start reads the last one of each partition. So that what
//! lies before the last one is always there too, a partition has one copy on its way at a time. A copy
//! stays when its letter is replayed or dropped; one that is settled before its turn gets none.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};
use tally_domain::{DeadLetter, DeadLetterReason, EventTime, LogId, Offset, Partition, Position};
use tally_log::blocking::{self, AppendResults};
use tally_log::{AppendError, AppendRefused, Batch, EventLog, NewRecord, ReadError};

use crate::dead_letters::{count, page};
use crate::error::{OpenError, StateError, with_causes};
use crate::projector::Projector;
use crate::shared::Shared;

/// The version of a copy that this build writes.
const VERSION: u64 = 1;
/// The most letters in one append, each of another partition.
const AT_ONCE: usize = 16;
/// How far back from the head the last copy is looked for, in offsets: gaps may lie before it.
const LOOK_BACK: [Offset; 3] = [1, 64, 4_096];
/// How long that may take.
const LOOK_LIMIT: Duration = Duration::from_secs(60);
/// The largest key and value that every log takes.
const MAX_KEY: usize = 64 << 10;
const MAX_VALUE: usize = 1 << 20;
/// How long it waits for a new letter, or for the log, before it looks whether it shall end.
const STEP: Duration = Duration::from_millis(500);
/// The pause after a failure, and at most after many.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_AT_MOST: Duration = Duration::from_secs(5);
/// The pause of a partition whose copy failed while others' did not.
const LANE_RETRY: Duration = Duration::from_millis(500);

/// Wakes the thread that copies.
#[derive(Default)]
pub(crate) struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    pub(crate) fn wake(&self) {
        *self.rung.lock() = true;
        self.changed.notify_all();
    }

    /// Waits until it rings, or has rung since the last call.
    fn wait(&self, until: Instant) {
        let mut rung = self.rung.lock();
        if !*rung {
            self.changed.wait_until(&mut rung, until);
        }
        *rung = false;
    }
}

impl Projector {
    /// Copies dead letters to `to` from now on, on a thread of its own that ends with the
    /// projector; what was copied before, by another process too, is not copied again. The fold
    /// never waits for it. To be called once.
    ///
    /// # Errors
    /// [`OpenError::ExportPartitions`]; [`OpenError::Thread`].
    pub fn export_dead_letters(&self, to: Arc<dyn EventLog>) -> Result<(), OpenError> {
        let (export, log) = (to.identity().partitions, self.log().identity().partitions);
        if export != log {
            return Err(OpenError::ExportPartitions { export, log });
        }
        let mut lasting = self.lasting.export.lock();
        *lasting = Some(Arc::clone(&to));
        drop(lasting);
        self.life()?.export(&to)
    }
}

/// Starts the thread that copies.
pub(crate) fn start(shared: &Arc<Shared>, to: &Arc<dyn EventLog>) -> io::Result<JoinHandle<()>> {
    let (shared, to) = (Arc::clone(shared), Arc::clone(to));
    let body = move || {
        let ran = catch_unwind(AssertUnwindSafe(|| Exporter::new(&shared, &*to).run()));
        if ran.is_err() {
            tracing::error!("the thread that copies dead letters panicked: restart to go on");
        }
    };
    let thread = std::thread::Builder::new().name("tally-dead-letters".to_owned());
    thread.spawn(body)
}

/// Why nothing is copied at the moment.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("the log of dead letters can't be read")]
    Read(#[from] ReadError),
    #[error("the dead letters can't be read")]
    State(#[from] StateError),
    #[error("the log of dead letters takes no copies")]
    Refused(#[from] AppendRefused),
    #[error("a copy is not in the log of dead letters")]
    Append(#[from] AppendError),
    #[error("the projector stops")]
    Stopping,
}

/// One partition's copies.
struct Lane {
    partition: Partition,
    /// The letters below are copied.
    next: Offset,
    /// How many they are.
    copied: u64,
    /// The log finds the next copy too large.
    short: bool,
    /// When the next copy is tried, after one that failed: others need not wait for it.
    again: Option<Instant>,
}

struct Exporter<'a> {
    shared: &'a Shared,
    to: &'a dyn EventLog,
    lanes: Vec<Lane>,
    /// The lane whose turn it is first.
    turn: usize,
    /// So many more copies go by themselves: of those that went together, the log refuses one.
    alone: usize,
    retry: Duration,
}

impl<'a> Exporter<'a> {
    fn new(shared: &'a Shared, to: &'a dyn EventLog) -> Self {
        Self {
            shared,
            to,
            lanes: Vec::new(),
            turn: 0,
            alone: 0,
            retry: RETRY_FIRST,
        }
    }

    fn run(mut self) {
        while !self.over() {
            let worked = if self.lanes.is_empty() {
                self.resume().map(|()| true)
            } else {
                self.round()
            };
            match worked {
                Ok(true) => self.well(),
                Ok(false) => self.shared.export.wait(Instant::now() + STEP),
                Err(Trouble::Stopping) => return,
                Err(trouble) => self.pause(&trouble),
            }
            self.show();
        }
    }

    fn over(&self) -> bool {
        self.shared.stopping()
    }

    fn well(&mut self) {
        if std::mem::replace(&mut self.retry, RETRY_FIRST) != RETRY_FIRST {
            tracing::info!("dead letters are copied again");
        }
    }

    fn pause(&mut self, trouble: &Trouble) {
        if self.retry == RETRY_FIRST {
            let error = with_causes(trouble);
            tracing::warn!(error, "dead letters are not copied; it is tried again");
        }
        let until = Instant::now() + self.retry;
        self.retry = RETRY_AT_MOST.min(self.retry * 2);
        // New letters ring too, and change nothing.
        while !self.over() && Instant::now() < until {
            self.shared.export.wait(until);
        }
    }

    fn letters(&self, lane: &Lane) -> u64 {
        let slot = self.shared.slot(lane.partition);
        slot.map_or(0, |slot| slot.dead_letters_ever.load(Ordering::Acquire))
    }

    fn show(&self) {
        let lanes = self.lanes.iter();
        let left: u64 = lanes
            .map(|lane| self.letters(lane).saturating_sub(lane.copied))
            .sum();
        let gauge = &self.shared.metrics.to_export;
        gauge.set(i64::try_from(left).unwrap_or(i64::MAX));
    }

    /// Finds out how far the copies reach.
    fn resume(&mut self) -> Result<(), Trouble> {
        let mut lanes = Vec::new();
        for (partition, last) in (0..).zip(self.last_copied()?) {
            let next = last.map_or(0, |offset| offset.saturating_add(1));
            let offset = next;
            let left = count(self.shared, Position { partition, offset });
            let (all, left) = self.shared.noted(left)?;
            lanes.push(Lane {
                partition,
                next,
                copied: all.saturating_sub(left),
                short: false,
                again: None,
            });
        }
        self.lanes = lanes;
        Ok(())
    }

    /// By partition, where the letter stands that was copied last.
    fn last_copied(&self) -> Result<Vec<Option<Offset>>, Trouble> {
        let (first, head) = (self.to.first()?, self.to.head()?);
        let mut found = vec![None; head.len()];
        for distance in LOOK_BACK {
            let mut from = Vec::new();
            for (partition, ((first, head), found)) in
                (0..).zip(first.iter().zip(&head).zip(&found))
            {
                let offset = head.saturating_sub(distance).max(*first);
                if found.is_none() && offset < *head {
                    from.push(Position { partition, offset });
                }
            }
            if from.is_empty() {
                return Ok(found);
            }
            self.look(&from, &head, &mut found)?;
        }
        for (partition, found) in found.iter().enumerate() {
            let held = head.get(partition) > first.get(partition);
            if found.is_none() && held {
                tracing::warn!(
                    partition,
                    "the log of dead letters does not end in one of ours: all are copied again"
                );
            }
        }
        Ok(found)
    }

    /// Reads from the given positions to the head, and notes the newest letter of each partition.
    fn look(
        &self,
        from: &[Position],
        head: &[Offset],
        found: &mut [Option<Offset>],
    ) -> Result<(), Trouble> {
        let place = |partition: Partition| usize::try_from(partition).unwrap_or(usize::MAX);
        let below_head = |at: Position| {
            head.get(place(at.partition))
                .is_some_and(|h| at.offset < *h)
        };
        let log = self.shared.log.identity().id;
        let until = Instant::now() + LOOK_LIMIT;
        let mut reader = self.to.reader(from)?;
        let mut batch = Batch::new();
        while reader.positions().into_iter().any(below_head) {
            if self.over() {
                return Err(Trouble::Stopping);
            }
            if Instant::now() >= until {
                let why = "its end did not come in time".to_owned();
                return Err(ReadError::Unavailable(why).into());
            }
            reader.next(&mut batch, STEP)?;
            for record in batch.iter() {
                let partition = record.position.partition;
                let origin = serde_json::from_slice::<Origin>(record.value).ok();
                let ours = origin
                    .filter(|origin| (origin.v, origin.log) == (VERSION, log))
                    .filter(|origin| origin.partition == partition);
                if let (Some(origin), Some(found)) = (ours, found.get_mut(place(partition))) {
                    *found = (*found).max(Some(origin.offset));
                }
            }
        }
        Ok(())
    }

    /// Copies the next letter of some partitions; whether there were any.
    fn round(&mut self) -> Result<bool, Trouble> {
        let letters = self.next_letters()?;
        if letters.is_empty() {
            return Ok(false);
        }
        let log = self.shared.log.identity().id;
        let copies = letters.iter().map(|(place, letter)| {
            let short = self.lanes.get(*place).is_some_and(|lane| lane.short);
            copy(log, letter, short)
        });
        let results = match self.append(copies.collect()) {
            Ok(results) => results,
            Err(Trouble::Refused(AppendRefused::Invalid(why))) => {
                self.too_large(&letters, why)?;
                return Ok(true);
            }
            Err(trouble) => return Err(trouble),
        };
        self.alone = self.alone.saturating_sub(1);
        let (mut copied, mut trouble) = (0, None);
        for ((place, letter), result) in letters.into_iter().zip(results) {
            let Some(lane) = self.lanes.get_mut(place) else {
                continue;
            };
            match result {
                Ok(_) => {
                    lane.next = letter.position.offset.saturating_add(1);
                    lane.copied += 1;
                    lane.short = false;
                    lane.again = None;
                    copied += 1;
                    self.shared.metrics.exported.inc();
                }
                Err(AppendError::TooLarge(_)) if !lane.short => lane.short = true,
                Err(error) => {
                    lane.again = Some(Instant::now() + LANE_RETRY);
                    trouble = Some(error);
                }
            }
        }
        match trouble {
            Some(error) if copied == 0 => Err(error.into()),
            Some(_) | None => Ok(true),
        }
    }

    /// The next letters, each with its lane's place.
    fn next_letters(&mut self) -> Result<Vec<(usize, DeadLetter)>, Trouble> {
        let at_once = if self.alone > 0 { 1 } else { AT_ONCE };
        let many = self.lanes.len().max(1);
        let mut letters = Vec::new();
        let places = (0..many).map(|step| (self.turn + step) % many);
        for place in places.collect::<Vec<_>>() {
            if letters.len() >= at_once {
                self.turn = place;
                break;
            }
            let Some(lane) = self.lanes.get(place) else {
                continue;
            };
            let all = self.letters(lane);
            if all == lane.copied || lane.again.is_some_and(|again| Instant::now() < again) {
                continue;
            }
            let from = Position {
                partition: lane.partition,
                offset: lane.next,
            };
            let letter = page(self.shared, from, 1);
            match self.shared.noted(letter)?.pop() {
                Some(letter) => letters.push((place, letter)),
                // What a start folds again was copied before; what was settled before is not copied.
                None => {
                    if let Some(lane) = self.lanes.get_mut(place) {
                        lane.copied = all;
                    }
                }
            }
        }
        Ok(letters)
    }

    /// One of these is refused for what it is: it goes without its key and value.
    fn too_large(&mut self, letters: &[(usize, DeadLetter)], why: String) -> Result<(), Trouble> {
        let [(place, _)] = letters else {
            self.alone = letters.len();
            return Ok(());
        };
        match self.lanes.get_mut(*place).filter(|lane| !lane.short) {
            Some(lane) => lane.short = true,
            None => return Err(AppendRefused::Invalid(why).into()),
        }
        Ok(())
    }

    /// Appends, and waits for the log's word on each.
    fn append(&self, copies: Vec<NewRecord>) -> Result<AppendResults, Trouble> {
        let answered = blocking::append(self.to, copies)?;
        blocking::results(&answered, STEP, || match self.over() {
            true => Err(Trouble::Stopping),
            false => Ok(()),
        })
    }
}

/// What a copy says of where its letter stands.
#[derive(Deserialize)]
struct Origin {
    v: u64,
    log: LogId,
    partition: Partition,
    offset: Offset,
}

#[derive(Serialize)]
struct Copied<'a> {
    v: u64,
    log: LogId,
    reason: DeadLetterReason,
    detail: &'a str,
    partition: Partition,
    offset: Offset,
    append_time: EventTime,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    omitted_bytes: Option<usize>,
}

/// The copy of a letter; a short one has neither key nor value.
fn copy(log: LogId, letter: &DeadLetter, short: bool) -> NewRecord {
    let Position { partition, offset } = letter.position;
    let bytes = letter.key.len().saturating_add(letter.value.len());
    let short = short || letter.key.len() > MAX_KEY;
    let whole = !short;
    let copied = Copied {
        v: VERSION,
        log,
        reason: letter.reason,
        detail: &letter.detail,
        partition,
        offset,
        append_time: EventTime::from_millis(letter.append_time_millis),
        key_base64: whole.then(|| STANDARD.encode(&letter.key)),
        value_base64: whole.then(|| STANDARD.encode(&letter.value)),
        omitted_bytes: short.then_some(bytes),
    };
    // Texts and numbers always serialise into memory.
    let value = serde_json::to_vec(&copied).unwrap_or_default();
    if whole && value.len() > MAX_VALUE {
        return copy(log, letter, true);
    }
    let key = if whole {
        letter.key.clone()
    } else {
        Vec::new()
    };
    NewRecord {
        partition,
        key,
        value,
        traceparent: None,
    }
}
