//! What the writer publishes and the readers see.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use tally_domain::Offset;

use super::index::Index;
use super::layout::Mark;
use super::queue::Queue;
use super::segment::SegmentInfo;
use crate::contract::{LogHealth, LogIdentity};
use crate::metrics::OneLog;
use crate::storage::Storage;

/// Shared by the log, its writer thread and its readers.
pub(crate) struct Shared {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) dir: PathBuf,
    pub(crate) name: String,
    pub(crate) identity: LogIdentity,
    pub(crate) metrics: OneLog,
    /// Whether another process writes it: then only the folder tells which segments it has removed.
    pub(crate) foreign: bool,
    pub(crate) queue: Queue,
    pub(crate) state: Mutex<State>,
    /// Held while the oldest segments are removed, so that one goes after the other.
    pub(crate) truncating: Mutex<()>,
    /// Told when `state.synced` moves, and when a reader shall wake.
    pub(crate) moved: Condvar,
}

/// Everything here is true of the disk: it moves only after a sync.
pub(crate) struct State {
    /// All segments by number, the last one being the one that is written.
    pub(crate) segments: Vec<Arc<SegmentInfo>>,
    /// Up to where it may be read.
    pub(crate) synced: Mark,
    pub(crate) heads: Vec<Offset>,
    /// Of the last segment.
    pub(crate) index: Index,
    pub(crate) health: LogHealth,
    /// Bytes of all segments but the last.
    pub(crate) sealed_bytes: u64,
}

impl Shared {
    /// Whether a segment was removed since it was looked up.
    pub(crate) fn is_removed(&self, number: u64) -> bool {
        let state = self.state.lock();
        let first = state.segments.first();
        first.is_some_and(|first| number < first.number)
    }
}

impl State {
    /// The first offset of every partition.
    pub(crate) fn first(&self) -> &[Offset] {
        let first = self.segments.first();
        first.map_or(&self.heads, |first| &first.base)
    }

    /// Bytes of the log, without the length that is only set ahead.
    pub(crate) fn bytes(&self) -> u64 {
        self.sealed_bytes.saturating_add(self.synced.place)
    }
}
