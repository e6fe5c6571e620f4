//! A fold of the log by itself, and how a state differs from it.
//!
//! The proof reads nothing but the log: no store, no checkpoint, no memory budget, no recovery took
//! part in it. It folds a partition at a time, so it takes the memory of one partition's state.

use std::cmp::Ordering;
use std::time::Duration;

use tally_domain::{
    Counters, Offset, Partition, PartitionState, Position, Resource, Rules, Toggles, UserId,
};
use tally_log::{Batch, EventLog, ReadError};

use crate::dump::PartitionDump;

/// How long a read waits before it is asked whether to stop.
const STEP: Duration = Duration::from_millis(100);

/// Why a partition can't be folded from the log alone.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The log can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Its beginning is gone.
    #[error(
        "partition {partition} of the log begins at {first}: what came before can't be folded again"
    )]
    Truncated {
        /// The partition.
        partition: Partition,
        /// Its first offset.
        first: Offset,
    },
    /// The state is past its end.
    #[error("the state of partition {partition} is at offset {until}, and the log ends at {head}")]
    PastHead {
        /// The partition.
        partition: Partition,
        /// Where the state is.
        until: Offset,
        /// Where the log ends.
        head: Offset,
    },
    /// Asked to stop.
    #[error("stopped before the end")]
    Stopped,
}

/// Folds the records of a partition below `until`, all of them from its beginning. `folded` is told
/// of each batch how many records it had, and whether to go on is its answer.
///
/// # Errors
/// [`VerifyError`].
pub fn fold_partition(
    log: &dyn EventLog,
    partition: Partition,
    until: Offset,
    folded: &mut dyn FnMut(u64) -> bool,
) -> Result<PartitionDump, VerifyError> {
    let partitions = log.identity().partitions;
    let mut state = PartitionState::new(partition, partitions, Rules::CURRENT);
    let place = usize::try_from(partition).unwrap_or(usize::MAX);
    let first = log.first()?.get(place).copied().unwrap_or_default();
    if first > 0 {
        return Err(VerifyError::Truncated { partition, first });
    }
    let head = log.head()?.get(place).copied().unwrap_or_default();
    if until > head {
        return Err(VerifyError::PastHead {
            partition,
            until,
            head,
        });
    }
    let start = Position {
        partition,
        offset: first,
    };
    let mut reader = log.reader(&[start])?;
    let mut batch = Batch::new();
    while reader
        .positions()
        .iter()
        .any(|position| position.offset < until)
    {
        reader.next(&mut batch, STEP)?;
        let mut records = 0;
        let below = |record: &tally_log::BatchRecord<'_>| record.position.offset < until;
        for record in batch.iter().filter(below) {
            state.apply_in_memory(record.record());
            records += 1;
        }
        if !folded(records) {
            return Err(VerifyError::Stopped);
        }
    }
    Ok(PartitionDump {
        // Gaps before it hold nothing.
        next_offset: until,
        ..PartitionDump::of(&state)
    })
}

/// Something that a state has otherwise than the log's fold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// A resource's counters.
    Counters {
        /// The resource.
        resource: Resource,
        /// What the state has, where it has any.
        stored: Option<Counters>,
        /// What the log comes to, where it has events of it.
        folded: Option<Counters>,
    },
    /// A user's toggles on a resource.
    Toggles {
        /// The resource.
        resource: Resource,
        /// The user.
        user: UserId,
        /// What the state has.
        stored: Toggles,
        /// What the log comes to.
        folded: Toggles,
    },
    /// The remembered keys; equal numbers of them may be of other keys.
    RememberedKeys {
        /// How many the state has.
        stored: u64,
        /// How many the log comes to.
        folded: u64,
    },
    /// The number of dead letters.
    DeadLetters {
        /// How many the state has.
        stored: u64,
        /// How many the log comes to.
        folded: u64,
    },
}

/// All in which the stored state of a partition differs from the folded one: resource by resource,
/// then user by user, then of the partition as a whole.
#[must_use]
pub fn differences(stored: &PartitionDump, folded: &PartitionDump) -> Vec<Difference> {
    let mut found = Vec::new();
    side_by_side(
        (&stored.counters, &folded.counters),
        |a, b| a.0.cmp(&b.0),
        |item, stored, folded| {
            let (stored, folded) = (stored.map(|item| item.1), folded.map(|item| item.1));
            if stored != folded {
                found.push(Difference::Counters {
                    resource: item.0,
                    stored,
                    folded,
                });
            }
        },
    );
    side_by_side(
        (&stored.toggles, &folded.toggles),
        |a, b| (a.0, &a.1).cmp(&(b.0, &b.1)),
        |item, stored, folded| {
            let set = |item: Option<&(Resource, UserId, Toggles)>| {
                item.map_or(Toggles::NONE, |(_, _, set)| *set)
            };
            let (stored, folded) = (set(stored), set(folded));
            if stored != folded {
                found.push(Difference::Toggles {
                    resource: item.0,
                    user: item.1.clone(),
                    stored,
                    folded,
                });
            }
        },
    );
    if stored.keys != folded.keys {
        found.push(Difference::RememberedKeys {
            stored: stored.remembered_keys,
            folded: folded.remembered_keys,
        });
    }
    if stored.dead_letters != folded.dead_letters {
        found.push(Difference::DeadLetters {
            stored: stored.dead_letters,
            folded: folded.dead_letters,
        });
    }
    found
}

/// Goes through two sorted lists at once: each item with what either has of it.
fn side_by_side<T>(
    (left, right): (&[T], &[T]),
    order: impl Fn(&T, &T) -> Ordering,
    mut each: impl FnMut(&T, Option<&T>, Option<&T>),
) {
    let (mut left, mut right) = (left.iter().peekable(), right.iter().peekable());
    loop {
        let order = match (left.peek(), right.peek()) {
            (Some(l), Some(r)) => order(l, r),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return,
        };
        let l = if order.is_le() { left.next() } else { None };
        let r = if order.is_ge() { right.next() } else { None };
        if let Some(item) = l.or(r) {
            each(item, l, r);
        }
    }
}
