//! What can go wrong, by layer.

use std::io;
use std::path::Path;

use tally_domain::{EventId, LogId, Offset, Partition};
use tally_log::ReadError;

use crate::snapshot::SnapshotError;
use crate::store::StoreError;

/// Why the state could not be opened. Each is a refusal that says what to do; none of them leads
/// to a wrong number.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The state was folded from another log.
    #[error(
        "the state belongs to log {state}, but this is log {log}: restore the log it belongs to, or move the state folder away to rebuild it from this log"
    )]
    OtherLog {
        /// The log the state was folded from.
        state: LogId,
        /// The log that was given.
        log: LogId,
    },
    /// The log had another number of partitions when the state was folded.
    #[error(
        "the state was folded from {state} partitions, but the log has {log}: restore the log it belongs to, or move the state folder away to rebuild it from this log"
    )]
    OtherPartitionCount {
        /// The state's number.
        state: u32,
        /// The log's number.
        log: u32,
    },
    /// The log ends before the state does.
    #[error(
        "the state of partition {partition} is at offset {next_offset}, but the log ends at {head}: an older log was restored. Restore the newest log, or move the state folder away to rebuild it from this one"
    )]
    AheadOfLog {
        /// The partition.
        partition: Partition,
        /// The state's next offset.
        next_offset: Offset,
        /// The log's head.
        head: Offset,
    },
    /// The log begins after the state ends: events are missing between them.
    #[error(
        "the state of partition {partition} is at offset {next_offset}, but the log begins at {first}: the events between them are gone. Restore a log that reaches back to {next_offset}, or a newer state"
    )]
    Truncated {
        /// The partition.
        partition: Partition,
        /// The state's next offset.
        next_offset: Offset,
        /// The log's first offset.
        first: Offset,
    },
    /// The record that was applied last is another one now.
    #[error(
        "offset {offset} of partition {partition} held event {state} when it was folded, but holds {log} now: this is another history. Restore the log the state belongs to, or move the state folder away to rebuild it from this one"
    )]
    OtherHistory {
        /// The partition.
        partition: Partition,
        /// The offset of the last event that was folded.
        offset: Offset,
        /// The event that was folded.
        state: EventId,
        /// What stands there now.
        log: String,
    },
    /// Another version of the fold wrote the state, and the log can't bring it back.
    #[error(
        "the state was written by another version of the fold, and can't be rebuilt since partition {partition} of the log begins at {first}. Restore a log that reaches back to 0, or run the version that wrote the state"
    )]
    OtherFold {
        /// A partition that is not whole.
        partition: Partition,
        /// Its first offset.
        first: Offset,
    },
    /// Another version of the fold wrote the state, and it shall not be made anew.
    #[error(
        "the state was written by version {found} of the fold, and this is version {ours}: run the version that wrote it"
    )]
    NotThisFold {
        /// The version that wrote it, or its layout or rules are others.
        found: u32,
        /// The version of this build.
        ours: u32,
    },
    /// The state is damaged, and the log can't bring it back.
    #[error(
        "the state can't be used, and can't be rebuilt since partition {partition} of the log begins at {first}. Restore a log that reaches back to 0, or an undamaged copy of the state"
    )]
    Irreparable {
        /// A partition that is not whole.
        partition: Partition,
        /// Its first offset.
        first: Offset,
        /// What is wrong with the state.
        #[source]
        cause: StateError,
    },
    /// The snapshots can't be read, and the log can't bring the state back.
    #[error(
        "there is no state that can be used, and partition {partition} of the log begins at {first}: the snapshots are needed, and can't be read (settings snapshots)"
    )]
    Snapshots {
        /// A partition that is not whole.
        partition: Partition,
        /// Its first offset.
        first: Offset,
        /// Why they can't.
        #[source]
        cause: SnapshotError,
    },
    /// Somebody else has the state open.
    #[error("the state is in use by another process: stop that first, or wait until it has ended")]
    Held(#[source] StoreError),
    /// The log that dead letters are copied to has another number of partitions.
    #[error(
        "the log of dead letters has {export} partitions, but the log has {log}: create it anew with {log}"
    )]
    ExportPartitions {
        /// The number of the log of dead letters.
        export: u32,
        /// The log's number.
        log: u32,
    },
    /// The log can't be read.
    #[error("the log can't be read to open the state")]
    Read(#[from] ReadError),
    /// The state can't be read or written; it is left as it is.
    #[error("the state can't be opened: see to what the system says of it, and start again")]
    State(#[from] StateError),
    /// A thread can't be started.
    #[error("a projector thread can't be started")]
    Thread(#[source] io::Error),
    /// A metric was registered twice.
    #[error("the projector's metrics can't be registered")]
    Metrics(#[from] prometheus::Error),
}

impl OpenError {
    /// A store that can't be opened, but is not damaged.
    pub(crate) fn store(error: StoreError) -> Self {
        if error.is_held() {
            Self::Held(error)
        } else {
            Self::State(StateError::Store(error))
        }
    }
}

impl OpenError {
    /// Whether another try may find it otherwise: a disk that is full has room again, a log that is away
    /// comes back, whoever has the state open lets go of it. What is refused stays refused.
    #[must_use]
    pub fn passes(&self) -> bool {
        match self {
            Self::State(error) => match error {
                StateError::Store(_)
                | StateError::Redo { .. }
                | StateError::TimedOut(_)
                | StateError::Renewing
                | StateError::Reopening => true,
                StateError::Damaged(_) | StateError::NoSuchPartition(_) | StateError::Failed(_) => {
                    false
                }
            },
            Self::Read(ReadError::Unavailable(_)) | Self::Held(_) | Self::Snapshots { .. } => true,
            Self::Read(
                ReadError::OutOfRange { .. } | ReadError::Damaged { .. } | ReadError::Replaced(_),
            )
            | Self::OtherLog { .. }
            | Self::OtherPartitionCount { .. }
            | Self::AheadOfLog { .. }
            | Self::Truncated { .. }
            | Self::OtherHistory { .. }
            | Self::OtherFold { .. }
            | Self::NotThisFold { .. }
            | Self::Irreparable { .. }
            | Self::ExportPartitions { .. }
            | Self::Thread(_)
            | Self::Metrics(_) => false,
        }
    }
}

/// Why the state can't be read or written down.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The store.
    #[error("the state store failed")]
    Store(#[from] StoreError),
    /// A file or folder of the state beside the store: mostly the redo file.
    #[error("{path} can't be {doing}")]
    Redo {
        /// The file.
        path: String,
        /// written, read, removed…
        doing: &'static str,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// What was written down does not read back as it was written.
    #[error("the stored state is damaged: {0}")]
    Damaged(String),
    /// No such partition in this log.
    #[error("partition {0} is not in the log")]
    NoSuchPartition(Partition),
    /// It is being made anew beside one that another version of the fold wrote.
    #[error(
        "the state is being made anew by this version of the fold: wait until that is done (tally_projector_stale is 0 then)"
    )]
    Renewing,
    /// It is closed, and about to be opened again.
    #[error("the state is being opened again")]
    Reopening,
    /// Not finished within the deadline.
    #[error("{0} did not finish in time; what is missing is replayed at the next start")]
    TimedOut(&'static str),
    /// A worker ended; the state is as of its last batch.
    #[error("the projector has stopped: {0}")]
    Failed(String),
}

impl StateError {
    /// Whether what is stored is damaged, and not only out of reach for now.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            Self::Store(error) => error.damage,
            Self::Damaged(_) => true,
            Self::Redo { .. }
            | Self::TimedOut(_)
            | Self::Renewing
            | Self::Reopening
            | Self::NoSuchPartition(_)
            | Self::Failed(_) => false,
        }
    }

    /// What became of an operation on a file or folder, for `map_err`.
    pub(crate) fn file<'a>(path: &'a Path, doing: &'static str) -> impl Fn(io::Error) -> Self + 'a {
        move |cause| Self::Redo {
            path: path.display().to_string(),
            doing,
            cause,
        }
    }
}

/// An error with what it came from, in one line: for the log, the status and answers.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
