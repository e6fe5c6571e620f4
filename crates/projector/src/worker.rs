//! The loop that reads, folds (see `folding`) and completes waiters.
//!
//! A worker folds a fixed set of partitions, and nobody else folds them. It holds a partition's
//! lock for one batch; only reads and the checkpoint ever ask for it meanwhile.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use tally_domain::{Partition, Position};
use tally_log::{Batch, LogReader, ReadError};

use crate::error::{StateError, with_causes};
use crate::folding::Fold;
use crate::loader;
use crate::shared::Shared;

/// How long a read waits for records before the worker looks whether it shall end.
const READ_WAIT: Duration = Duration::from_millis(500);

/// How long a worker waits before it asks a log again that could not be read.
const RETRY_WAIT: Duration = Duration::from_millis(200);

/// Why a worker ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the log can't be read")]
    Read(#[from] ReadError),
    #[error("the state can't be read, restart to recover")]
    State(#[from] StateError),
    #[error("too much changed since the state could be written down last, restart to recover")]
    Full,
}

impl Ended {
    /// Whether another start finds things in order.
    fn restart_helps(&self) -> bool {
        match self {
            // What the log says stays as it is.
            Self::Read(_) => false,
            Self::State(_) | Self::Full => true,
        }
    }
}

/// Runs until the projector stops. Whatever ends it early, a panic too, is said in the status.
pub(crate) fn run(shared: &Shared, mut reader: Box<dyn LogReader>) {
    let partitions: Vec<u32> = reader
        .positions()
        .into_iter()
        .map(|position| position.partition)
        .collect();
    let (why, restart) =
        match std::panic::catch_unwind(AssertUnwindSafe(|| with_loader(shared, reader.as_mut()))) {
            Ok(Ok(())) => return,
            Ok(Err(ended)) => (with_causes(&ended), ended.restart_helps()),
            Err(_) => {
                let why = "a fold worker panicked; the service's log has the cause";
                (why.to_owned(), true)
            }
        };
    shared.fail(&partitions, why, restart);
}

/// Folds, with a thread beside it that reads from the store what the fold needs.
fn with_loader(shared: &Shared, reader: &mut dyn LogReader) -> Result<(), Ended> {
    let ((jobs, to_do), (done, loaded)) = (mpsc::channel(), mpsc::channel());
    let wake = reader.waker();
    std::thread::scope(|scope| {
        let load = move || loader::run(shared, &to_do, &done, wake.as_ref());
        let named = std::thread::Builder::new().name("tally-load".to_owned());
        let spawned = named.spawn_scoped(scope, load);
        spawned.map_err(|error| {
            StateError::Failed(format!(
                "a thread that reads the state can't start: {error}"
            ))
        })?;
        // Ends before the scope does, and with it the jobs, and with those the thread.
        follow(shared, reader, Fold::new(shared, jobs, loaded))
    })
}

fn follow(shared: &Shared, reader: &mut dyn LogReader, mut fold: Fold<'_>) -> Result<(), Ended> {
    let mut batch = Batch::new();
    let mut read = reader.positions();
    let mut at = read.clone();
    while !at.is_empty() && !finished(shared, &at) {
        match reader.next(&mut batch, READ_WAIT) {
            Ok(()) => {
                fold.batch(&batch)?;
                read = reader.positions();
            }
            Err(ReadError::Unavailable(why)) => {
                tracing::warn!(why, "the log can't be read; trying again");
                shared.checkpointer.pause(RETRY_WAIT);
            }
            Err(error @ ReadError::OutOfRange { partition, .. }) => {
                read = without(shared, reader, partition, error)?;
                fold.give_up(partition);
            }
            Err(error @ (ReadError::Damaged { .. } | ReadError::Replaced(_))) => {
                return Err(error.into());
            }
        }
        // What is decided waits for no value of another.
        fold.tell(&read);
        let next = fold.take_loaded(&read)?;
        if next != at {
            shared.log.applied(&next);
            at = next;
        }
        wait_for_checkpoint(shared)?;
    }
    Ok(())
}

/// Where the reader has given the partition up, stops only that one, and returns where the others
/// are.
fn without(
    shared: &Shared,
    reader: &dyn LogReader,
    partition: Partition,
    error: ReadError,
) -> Result<Vec<Position>, Ended> {
    let left = reader.positions();
    if left.iter().any(|position| position.partition == partition) {
        return Err(error.into());
    }
    shared.fail(&[partition], with_causes(&Ended::from(error)), false);
    Ok(left)
}

fn finished(shared: &Shared, positions: &[Position]) -> bool {
    if shared.quit.load(Ordering::Acquire) {
        return true;
    }
    let Some(stop_at) = shared.stop_at.get() else {
        return false;
    };
    positions.iter().all(|position| {
        let place = usize::try_from(position.partition).unwrap_or(usize::MAX);
        stop_at
            .get(place)
            .is_none_or(|offset| position.offset >= *offset)
    })
}

/// Calls for a checkpoint where many values changed or memory is short, and waits where far too many
/// changed or memory is full: it is bounded by that. A checkpoint that failed lets the fold go on,
/// but not past twice the memory. Where there are no more checkpoints, the worker ends.
fn wait_for_checkpoint(shared: &Shared) -> Result<(), Ended> {
    let enough = shared.options.checkpoint_changes;
    if shared.changed() < enough && !shared.memory_is_short() {
        return Ok(());
    }
    let checkpointer = &shared.checkpointer;
    let round = checkpointer.rounds();
    checkpointer.wake();
    let mut asked = round;
    let too_much = || {
        shared.changed() >= enough.saturating_mul(4)
            || shared.memory_is_exceeded()
            // One checkpoint drops what can be dropped; one that failed is tried again in its time.
            || (shared.memory_is_full()
                && checkpointer.rounds() == round
                && checkpointer.unwritten() == 0
                && !checkpointer.has_given_up())
    };
    while too_much() && !shared.quit.load(Ordering::Acquire) {
        if checkpointer.has_given_up() {
            return Err(Ended::Full);
        }
        checkpointer.pause(Duration::from_millis(100));
        // One that went well may not have been enough, where others brought values meanwhile; one that
        // failed comes again in its time.
        let now = checkpointer.rounds();
        if std::mem::replace(&mut asked, now) != now {
            checkpointer.wake();
        }
    }
    Ok(())
}
