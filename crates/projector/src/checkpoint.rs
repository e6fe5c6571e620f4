//! Changed values and next offsets, written down as one crash-atomic unit.
//!
//! Of each partition a checkpoint takes, under the partition's lock, the last value of everything
//! that changed and the offset up to which it changed; so each partition's part is as of one
//! position. All parts go through one [redo file](crate::redo). After a crash the state is as of
//! the last checkpoint whose redo file was whole, and the log's tail is folded again from there.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tally_domain::Offset;
use tally_log::storage::Storage;

use crate::error::{StateError, with_causes};
use crate::identity::{DamageMark, Identity};
use crate::redo::{Redo, RedoFile};
use crate::shared::{Shared, Slot};
use crate::store::layout::{self, Place};

/// How long after a failed checkpoint the next try is due, and at most after many.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_AT_MOST: Duration = Duration::from_secs(5);

/// What a checkpoint wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointReport {
    /// How many values.
    pub puts: u64,
    /// How many bytes of keys and values.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
}

/// One checkpoint at a time: what is not written yet, and up to where all is.
struct Progress {
    /// A checkpoint that could not be written: its changes are no longer marked in the state.
    unwritten: Option<Redo>,
    /// The number of the last checkpoint that was begun.
    number: u64,
    next_offsets: Vec<Offset>,
}

pub(crate) struct Checkpointer {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    identity: Identity,
    progress: Mutex<Progress>,
    /// How many puts of it could not be written.
    unwritten: AtomicUsize,
    /// The store failed or a worker died over its work: nothing may be written any more.
    given_up: AtomicBool,
    last: Mutex<Option<Instant>>,
    wanted: Mutex<bool>,
    changed: Condvar,
}

impl Checkpointer {
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        dir: PathBuf,
        identity: Identity,
        number: u64,
        next_offsets: Vec<Offset>,
    ) -> Self {
        Self {
            storage,
            dir,
            identity,
            progress: Mutex::new(Progress {
                unwritten: None,
                number,
                next_offsets,
            }),
            unwritten: AtomicUsize::new(0),
            given_up: AtomicBool::new(false),
            last: Mutex::default(),
            wanted: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn last(&self) -> Option<Instant> {
        *self.last.lock()
    }

    /// How many values wait that a checkpoint took and could not write.
    pub(crate) fn unwritten(&self) -> usize {
        self.unwritten.load(Ordering::Relaxed)
    }

    /// From now on nothing is written: what is in memory or in the store can't be trusted. What
    /// was written before, and the log, can.
    pub(crate) fn give_up(&self) {
        self.given_up.store(true, Ordering::Release);
    }

    /// Whether there are no more checkpoints.
    pub(crate) fn has_given_up(&self) -> bool {
        self.given_up.load(Ordering::Acquire)
    }

    /// Leaves word that the state is damaged, for the next start.
    pub(crate) fn mark_damaged(&self, what: &str) {
        tracing::error!(
            what,
            "the stored state is damaged; restart to rebuild it from the log"
        );
        if let Err(error) = DamageMark::new(self.storage.as_ref(), &self.dir).set(what) {
            tracing::error!(error = %error, "the damage can't be noted for the next start");
        }
    }

    /// Asks the checkpoint thread to look at once.
    pub(crate) fn wake(&self) {
        *self.wanted.lock() = true;
        self.changed.notify_all();
    }

    /// Waits until a checkpoint ended or the time is over.
    pub(crate) fn pause(&self, at_most: Duration) {
        self.changed.wait_for(&mut self.wanted.lock(), at_most);
    }

    /// Runs `while_held` while no checkpoint is under way, with what an earlier one took and could
    /// not write.
    pub(crate) fn hold<T>(&self, while_held: impl FnOnce(Option<&Redo>) -> T) -> T {
        let progress = self.progress.lock();
        while_held(progress.unwritten.as_ref())
    }

    pub(crate) fn checkpoint(&self, shared: &Shared) -> Result<CheckpointReport, StateError> {
        let started = Instant::now();
        let mut progress = self.progress.lock();
        let _half_done = HalfDone(self);
        self.still_trusted(shared)?;
        // What could not be written last time comes first: newer values overwrite older ones.
        let unwritten = progress.unwritten.take();
        let again = unwritten.is_some();
        let mut redo = unwritten.unwrap_or_else(|| begun(progress.number + 1));
        for ((partition, slot), done) in (0u32..).zip(&shared.slots).zip(&mut progress.next_offsets)
        {
            collect_partition(&mut redo, partition, slot, done);
        }
        // A worker that panicked meanwhile gave up before it let go of its partitions' locks: what
        // was collected after it is half done.
        if let Err(error) = self.still_trusted(shared) {
            self.keep_unwritten(&mut progress, &redo);
            return Err(error);
        }
        let mut report = CheckpointReport {
            puts: 0,
            bytes: 0,
            took: Duration::ZERO,
        };
        if redo.puts() > 1 {
            put(&mut redo, layout::IDENTITY, self.identity.to_value()?);
            put(
                &mut redo,
                layout::ENDED,
                layout::number_value(progress.number + 1),
            );
            if again {
                // The end's number once, and last: in the middle it would vouch for what follows.
                redo = redo.last_puts();
            }
            report.puts = redo.puts();
            report.bytes = redo.byte_len();
            if let Err(error) = self.write(shared, &redo) {
                shared.metrics.checkpoint.errors.inc();
                self.keep_unwritten(&mut progress, &redo);
                return Err(error);
            }
            // The store has it, so its number is used up, whether or not the file goes: putting
            // the file again before the next checkpoint is no harm.
            self.unwritten.store(0, Ordering::Relaxed);
            progress.number += 1;
            let removed = RedoFile::new(self.storage.as_ref(), &self.dir).remove();
            if let Err(error) = removed {
                shared.metrics.checkpoint.errors.inc();
                shared.forget_written();
                return Err(error);
            }
        }
        shared.forget_written();
        drop(progress);
        report.took = started.elapsed();
        *self.last.lock() = Some(Instant::now());
        shared.metrics.checkpoint.wrote(&report);
        self.changed.notify_all();
        Ok(report)
    }

    fn still_trusted(&self, shared: &Shared) -> Result<(), StateError> {
        if self.has_given_up() {
            let why = shared.failure();
            let why = why.unwrap_or_else(|| "a panic; restart to recover".to_owned());
            return Err(StateError::Failed(why));
        }
        Ok(())
    }

    /// Keeps the last value of each key for the next try, so that many tries that fail take no
    /// more memory than what they would write.
    fn keep_unwritten(&self, progress: &mut Progress, redo: &Redo) {
        let redo = redo.last_puts();
        let puts = usize::try_from(redo.puts()).unwrap_or(usize::MAX);
        self.unwritten.store(puts, Ordering::Relaxed);
        progress.unwritten = Some(redo);
    }

    /// Writes the redo file and puts it into the store; the file stays.
    fn write(&self, shared: &Shared, redo: &Redo) -> Result<(), StateError> {
        RedoFile::new(self.storage.as_ref(), &self.dir).write(redo)?;
        if let Err(error) = redo.apply(shared.store.as_ref()) {
            // The redo file stays: the next start opens the store anew and puts it again. This
            // store would perhaps say that it is flushed the next time, and forget all the same.
            self.give_up();
            shared.fail(
                &[],
                format!(
                    "the state store failed: {}; restart to recover",
                    with_causes(&error)
                ),
            );
            return Err(error.into());
        }
        Ok(())
    }
}

/// Ends all checkpoints where a panic goes through it: what that left half done is never written.
/// To be dropped before the locks of what it may leave half done.
pub(crate) struct HalfDone<'a>(pub(crate) &'a Checkpointer);

impl Drop for HalfDone<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.give_up();
        }
    }
}

/// A redo that begins with the checkpoint's number, so that a store that has lost some of a
/// checkpoint shows another number there than at the end.
fn begun(number: u64) -> Redo {
    let mut redo = Redo::default();
    put(&mut redo, layout::BEGUN, layout::number_value(number));
    redo
}

fn put(redo: &mut Redo, key: &[u8], value: Vec<u8>) {
    redo.put(key, Some(&layout::seal(key, value)));
}

/// Adds a partition's changes since the offset `done`, and moves that on.
fn collect_partition(redo: &mut Redo, partition: u32, slot: &Slot, done: &mut Offset) {
    let mut state = slot.state.lock();
    if state.next_offset() == *done {
        return;
    }
    let changes = state.take_changes();
    slot.changed.store(0, Ordering::Relaxed);
    let next_key = state.keys().next_sequence();
    // A chunk is written whole, so the first one begins before the first new key.
    let first_new = changes
        .keys
        .first()
        .map_or(next_key, |(sequence, _)| *sequence);
    let chunk_start = first_new - first_new % layout::KEYS_PER_CHUNK;
    let key_count = state.rules().key_count;
    let keys: Vec<_> = if changes.keys.is_empty() {
        Vec::new()
    } else {
        state
            .keys()
            .since(chunk_start)
            .map(|(sequence, key)| (sequence, *key))
            .collect()
    };
    drop(state);

    let place = Place {
        next_offset: changes.next_offset,
        last_event: changes.last_event,
        dead_letters: changes.dead_letter_count,
        next_key,
    };
    put(redo, &layout::partition_key(partition), place.to_value());
    for (resource, counters) in &changes.counters {
        let key = layout::counters_key(partition, *resource);
        put(redo, &key, layout::counters_value(counters));
    }
    for (resource, user, toggles) in &changes.toggles {
        let key = layout::toggles_key(partition, *resource, user);
        match toggles.to_bits() {
            0 => redo.put(&key, None),
            bits => put(redo, &key, vec![bits]),
        }
    }
    for chunk in
        keys.chunk_by(|(a, _), (b, _)| a / layout::KEYS_PER_CHUNK == b / layout::KEYS_PER_CHUNK)
    {
        let Some((first, _)) = chunk.first() else {
            continue;
        };
        let mut value = first.to_le_bytes().to_vec();
        chunk
            .iter()
            .for_each(|(_, key)| value.extend_from_slice(&key.to_bytes()));
        put(
            redo,
            &layout::chunk_key(partition, *first, key_count),
            value,
        );
    }
    for letter in &changes.dead_letters {
        let key = layout::dead_letter_key(partition, letter.position.offset);
        put(redo, &key, layout::dead_letter_value(letter));
    }
    *done = changes.next_offset;
}

/// Writes checkpoints in time until the projector stops; the last one is the stopper's.
pub(crate) fn run(shared: &Shared) {
    // While the workers finish a clean stop they may still need checkpoints to go on.
    let over = || shared.stopped();
    let checkpointer = &shared.checkpointer;
    let interval = shared.options.checkpoint_interval;
    let mut due = Instant::now() + interval;
    let mut retry = RETRY_FIRST;
    while !over() {
        {
            let mut wanted = checkpointer.wanted.lock();
            if !*wanted {
                checkpointer.changed.wait_until(&mut wanted, due);
            }
            *wanted = false;
        }
        // What failed is tried again in time, not at every batch.
        let many =
            checkpointer.unwritten() == 0 && shared.changed() >= shared.options.checkpoint_changes;
        if over() || (Instant::now() < due && !many) {
            continue;
        }
        shared.waiters.sweep();
        let wait = match checkpointer.checkpoint(shared) {
            Ok(_) => {
                retry = RETRY_FIRST;
                interval
            }
            Err(error) => {
                let error = with_causes(&error);
                tracing::error!(error, "a checkpoint failed; it is tried again");
                // The fold may be waiting for it.
                let wait = interval.min(retry);
                retry = RETRY_AT_MOST.min(retry * 2);
                wait
            }
        };
        due = Instant::now() + wait;
    }
}
