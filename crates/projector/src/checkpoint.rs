//! Changed values and next offsets, written down as one crash-atomic unit.
//!
//! Of each partition a checkpoint takes, under the partition's lock, the last value of everything
//! that changed and the offset up to which it changed; so each partition's part is as of one
//! position. Parts go through a [redo file](crate::redo), as many at a time as it has room for, and
//! those count as a checkpoint of their own. After a crash the state of each partition is as of
//! the last checkpoint whose redo file was whole, and the log's tail is folded again from there.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tally_domain::Offset;
use tally_log::storage::Storage;

use crate::collect::{begun, collect, put};
use crate::error::{StateError, with_causes};
use crate::identity::{Identity, damage_mark};
use crate::redo::{Redo, RedoFile};
use crate::shared::Shared;
use crate::store::layout;

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
    /// How many changed values of it could not be written; 0 where there is none.
    unwritten: AtomicUsize,
    /// The store failed or a worker died over its work: nothing may be written any more.
    given_up: AtomicBool,
    last: Mutex<Option<Instant>>,
    /// How many checkpoints were tried. One that goes well drops values where memory is short.
    rounds: AtomicU64,
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
            rounds: AtomicU64::new(0),
            wanted: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn last(&self) -> Option<Instant> {
        *self.last.lock()
    }

    /// How many checkpoints were tried, whatever came of them.
    pub(crate) fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Acquire)
    }

    /// Up to where the state is written down, by partition.
    pub(crate) fn written(&self) -> Vec<Offset> {
        self.progress.lock().next_offsets.clone()
    }

    /// Whose state it writes.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
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
            "the stored state is damaged; the next start rebuilds it from the log"
        );
        if let Err(error) = damage_mark(self.storage.as_ref(), &self.dir).set(what) {
            tracing::error!(
                error = with_causes(&error),
                "the damage can't be noted for the next start"
            );
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

    /// The same where the store has all that earlier ones took.
    ///
    /// # Errors
    /// Those of `while_held`; [`StateError::Failed`] where something could not be written.
    pub(crate) fn hold_written<T, E: From<StateError>>(
        &self,
        while_held: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        self.hold(|unwritten| {
            if unwritten.is_some() {
                let why = "a checkpoint could not be written".to_owned();
                return Err(StateError::Failed(why).into());
            }
            while_held()
        })
    }

    pub(crate) fn checkpoint(&self, shared: &Shared) -> Result<CheckpointReport, StateError> {
        let started = Instant::now();
        let mut progress = self.progress.lock();
        let _half_done = HalfDone(self);
        self.still_trusted(shared)?;
        let mut report = CheckpointReport {
            puts: 0,
            bytes: 0,
            took: Duration::ZERO,
        };
        let mut place = 0;
        let mut written = Ok(());
        while written.is_ok() && place < shared.slots.len() {
            let next = self.write_some(shared, &mut progress, place, &mut report);
            written = next.map(|next| place = next);
        }
        if written.is_ok() {
            shared.drop_unused();
        }
        // A fold that waits for memory goes on after one that failed, too.
        self.rounds.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_all();
        written?;
        drop(progress);
        report.took = started.elapsed();
        *self.last.lock() = Some(Instant::now());
        shared.metrics.checkpoint.wrote(&report);
        Ok(report)
    }

    /// Writes the changes of the partitions from `place` on, of as many as one redo file has room
    /// for; returns the place of the next. Each partition's part is as of one position, so they need
    /// not come together.
    fn write_some(
        &self,
        shared: &Shared,
        progress: &mut Progress,
        place: usize,
        report: &mut CheckpointReport,
    ) -> Result<usize, StateError> {
        // What could not be written last time comes first: newer values overwrite older ones.
        let unwritten = progress.unwritten.take();
        let again = unwritten.is_some();
        let mut redo = unwritten.unwrap_or_else(|| begun(progress.number + 1));
        let next = collect(&mut redo, shared, &mut progress.next_offsets, place);
        let next = match next {
            Ok(next) => next,
            Err(error) => {
                // What was taken is no longer marked as changed.
                self.give_up();
                return shared.noted(Err(error));
            }
        };
        // A worker that panicked meanwhile gave up before it let go of its partitions' locks: what
        // was collected after it is half done.
        if let Err(error) = self.still_trusted(shared) {
            self.keep_unwritten(progress, &redo);
            return Err(error);
        }
        if redo.puts() == 1 {
            return Ok(next);
        }
        put(&mut redo, layout::IDENTITY, self.identity.to_value()?);
        let ended = layout::number_value(progress.number + 1);
        put(&mut redo, layout::ENDED, ended);
        if again {
            // The end's number once, and last: in the middle it would vouch for what follows.
            redo = redo.last_puts();
        }
        if let Err(error) = self.write(shared, &redo) {
            shared.metrics.checkpoint.errors.inc();
            self.keep_unwritten(progress, &redo);
            return Err(error);
        }
        report.puts += redo.puts();
        report.bytes += redo.byte_len();
        // The store has it, so its number is used up, whether or not the file goes: putting the
        // file again before the next checkpoint is no harm.
        self.unwritten.store(0, Ordering::Relaxed);
        progress.number += 1;
        let removed = RedoFile::new(self.storage.as_ref(), &self.dir).remove();
        if let Err(error) = removed {
            shared.metrics.checkpoint.errors.inc();
            shared.drop_unused();
            return Err(error);
        }
        Ok(next)
    }

    fn still_trusted(&self, shared: &Shared) -> Result<(), StateError> {
        if self.has_given_up() {
            let why = shared.failure().map(|failure| failure.why);
            let why = why.unwrap_or_else(|| "a panic; restart to recover".to_owned());
            return Err(StateError::Failed(why));
        }
        Ok(())
    }

    /// Keeps the last value of each key for the next try, so that many tries that fail take no
    /// more memory than what they would write.
    fn keep_unwritten(&self, progress: &mut Progress, redo: &Redo) {
        let redo = redo.last_puts();
        self.unwritten
            .store(redo.changed().max(1), Ordering::Relaxed);
        progress.unwritten = Some(redo);
    }

    /// Writes the redo file and puts it into the store; the file stays.
    fn write(&self, shared: &Shared, redo: &Redo) -> Result<(), StateError> {
        RedoFile::new(self.storage.as_ref(), &self.dir).write(redo)?;
        if let Err(error) = redo.apply(shared.store.as_ref()) {
            // The redo file stays: the next start opens the store anew and puts it again. This
            // store would perhaps say that it is flushed the next time, and forget all the same.
            self.give_up();
            return shared.noted(Err(error.into()));
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
        // What failed is tried again in time, not at every batch; whoever's it was.
        let failed = checkpointer.unwritten() > 0;
        if failed {
            due = due.min(Instant::now() + retry);
        }
        let many = !failed
            && (shared.changed() >= shared.options.checkpoint_changes || shared.memory_is_short());
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
