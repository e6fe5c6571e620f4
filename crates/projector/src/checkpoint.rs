//! Changed values and next offsets, written down as one crash-atomic unit.
//!
//! Of each partition a checkpoint takes, under the partition's lock, the last value of everything
//! that changed and the offset up to which it changed; so each partition's part is as of one
//! position. All parts go through one [redo file](crate::redo). After a crash the state is as of
//! the last checkpoint whose redo file was whole, and the log's tail is folded again from there.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tally_domain::Offset;
use tally_log::storage::Storage;

use crate::error::StateError;
use crate::identity::Identity;
use crate::metrics::unix_seconds;
use crate::redo::{Redo, RedoFile};
use crate::shared::{Shared, Slot};
use crate::store::layout::{self, Place};

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
    next_offsets: Vec<Offset>,
}

pub(crate) struct Checkpointer {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    identity: Identity,
    progress: Mutex<Progress>,
    last: Mutex<Option<Instant>>,
    wanted: Mutex<bool>,
    changed: Condvar,
}

impl Checkpointer {
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        dir: PathBuf,
        identity: Identity,
        next_offsets: Vec<Offset>,
    ) -> Self {
        Self {
            storage,
            dir,
            identity,
            progress: Mutex::new(Progress {
                unwritten: None,
                next_offsets,
            }),
            last: Mutex::default(),
            wanted: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn last(&self) -> Option<Instant> {
        *self.last.lock()
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

    /// Runs `while_held` while no checkpoint is under way.
    pub(crate) fn hold<T>(&self, while_held: impl FnOnce() -> T) -> T {
        let _progress = self.progress.lock();
        while_held()
    }

    pub(crate) fn checkpoint(&self, shared: &Shared) -> Result<CheckpointReport, StateError> {
        let started = Instant::now();
        let mut progress = self.progress.lock();
        // What could not be written last time comes first: newer values overwrite older ones.
        let mut redo = progress.unwritten.take().unwrap_or_default();
        for ((partition, slot), done) in (0u32..).zip(&shared.slots).zip(&mut progress.next_offsets)
        {
            collect_partition(&mut redo, partition, slot, done);
        }
        if redo.puts() > 0 {
            put(&mut redo, layout::IDENTITY, self.identity.to_value()?);
            if let Err(error) = self.write(shared, &redo) {
                shared.metrics.checkpoint.errors.inc();
                progress.unwritten = Some(redo);
                return Err(error);
            }
        }
        drop(progress);
        let report = CheckpointReport {
            puts: redo.puts(),
            bytes: redo.byte_len(),
            took: started.elapsed(),
        };
        *self.last.lock() = Some(Instant::now());
        if report.puts > 0 {
            shared
                .metrics
                .checkpoint
                .seconds
                .observe(report.took.as_secs_f64());
            shared.metrics.checkpoint.puts.inc_by(report.puts);
            shared.metrics.checkpoint.bytes.inc_by(report.bytes);
        }
        shared.metrics.checkpoint.last.set(unix_seconds());
        self.changed.notify_all();
        Ok(report)
    }

    fn write(&self, shared: &Shared, redo: &Redo) -> Result<(), StateError> {
        let file = RedoFile::new(self.storage.as_ref(), &self.dir);
        file.write(redo)?;
        if let Err(error) = redo.apply(shared.store.as_ref()) {
            // The redo file stays: the next start opens the store anew and puts it again.
            shared.fail(
                &[],
                format!("the state store failed: {error}; restart to recover"),
            );
            return Err(error.into());
        }
        file.remove()
    }
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
    let over = || shared.quit.load(Ordering::Acquire) || shared.stop_at.get().is_some();
    let checkpointer = &shared.checkpointer;
    let mut due = Instant::now() + shared.options.checkpoint_interval;
    while !over() {
        {
            let mut wanted = checkpointer.wanted.lock();
            if !*wanted {
                checkpointer.changed.wait_until(&mut wanted, due);
            }
            *wanted = false;
        }
        let many = shared.changed() >= shared.options.checkpoint_changes;
        if over() || (Instant::now() < due && !many) {
            continue;
        }
        shared.waiters.sweep();
        if let Err(error) = checkpointer.checkpoint(shared) {
            tracing::error!(error = %error, "a checkpoint failed; it is tried again");
        }
        due = Instant::now() + shared.options.checkpoint_interval;
    }
}
