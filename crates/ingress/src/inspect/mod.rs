//! Logs and state as text, for people and for proofs: one line of JSON for each thing. The same
//! code runs behind the management API of a running server and in a command that opens the folder
//! itself, so both say the same.
//!
//! - `log`: records, and what a log is
//! - `state`: counters, toggles, and the summary
//! - `partition`: one partition's state, whole, and in what two differ
//! - `dead_letters`: what could not be folded
//! - `settle`: dead letters replayed and dropped
//! - `snapshots`: taken now; the log cut off at its beginning as far as they reach

mod dead_letters;
mod log;
mod partition;
mod settle;
mod snapshots;
mod state;

use std::io::{self, Write};

use serde::Serialize;
use tally_domain::{Partition, Position, Resource, ResourceId, ResourceType};
use tally_log::{AppendError, AppendRefused, ReadError, TruncateError};
use tally_projector::{SnapshotError, StateError, TooManyWaiters};

pub use dead_letters::{DeadLetterList, dead_letter, dead_letters};
pub use log::{LogCat, log_cat, log_check, log_info};
pub use partition::{PartitionLinesError, differences, partition_cat, read_partition};
pub use settle::{Settled, Settling, ToSettle, settle};
pub use snapshots::{TruncatedLine, Truncating, TruncatingLine, take_snapshots, truncate};
pub use state::{catch_up, dump, state_cat, state_info, summary};

/// Why not everything was written.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The log can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The state can't be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// A snapshot can't be taken or read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The log's oldest records can't be removed.
    #[error(transparent)]
    Truncate(#[from] TruncateError),
    /// Nobody takes what is written, or it can't be written.
    #[error("the output can't be written: {0}")]
    Write(#[from] io::Error),
    /// The log has fewer partitions.
    #[error("the log has no partition {partition}; valid are 0 to {last}")]
    NoSuchPartition {
        /// What was asked for.
        partition: Partition,
        /// The highest there is.
        last: Partition,
    },
    /// No dead letter stands there.
    #[error(
        "there is no dead letter at offset {} of partition {}; `tally dead-letters list` prints all there are",
        .0.offset, .0.partition
    )]
    NoDeadLetter(Position),
    /// The fold has stopped, so the state never gets to where the log is.
    #[error("the state does not include the end of the log: {0}")]
    Behind(String),
    /// The log did not take a replay or a drop.
    #[error(
        "the log takes nothing: {0}. What was decided before stands; run it again for the rest"
    )]
    Refused(#[from] AppendRefused),
    /// The log did not acknowledge a replay or a drop.
    #[error("{0}. Run it again: a dead letter that was replayed does not count twice")]
    Append(#[from] AppendError),
    /// Requests leave no room to wait for the fold.
    #[error("{0}: run it again when there is less load")]
    Waiters(#[from] TooManyWaiters),
    /// Asked to stop.
    #[error("stopped before the end: the server is stopping")]
    Stopped,
}

fn write_line(out: &mut (impl Write + ?Sized), value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}

#[derive(Serialize)]
struct ResourceLine {
    resource_type: ResourceType,
    resource_id: ResourceId,
}

/// Writes resources, a line for each.
///
/// # Errors
/// [`InspectError::Write`].
pub fn resources(
    resources: impl IntoIterator<Item = Resource>,
    out: &mut dyn Write,
) -> Result<(), InspectError> {
    for Resource { kind, id } in resources {
        write_line(
            out,
            &ResourceLine {
                resource_type: kind,
                resource_id: id,
            },
        )?;
    }
    Ok(out.flush()?)
}
