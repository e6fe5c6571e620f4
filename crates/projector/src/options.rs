//! How the projector runs.

use std::time::Duration;

use crate::snapshot::Snapshots;

/// How the projector runs. None of it changes what the fold decides.
#[derive(Debug, Clone)]
pub struct Options {
    /// Threads that fold; each has its own partitions. At least 1.
    pub workers: usize,
    /// The longest time between two checkpoints while something changes.
    pub checkpoint_interval: Duration,
    /// How many changed values bring a checkpoint before its time; at four times as many the
    /// fold waits for it.
    pub checkpoint_changes: usize,
    /// sled's page cache, in bytes; it takes several times as much memory.
    pub sled_cache_bytes: u64,
    /// How many requests may wait for the fold at once.
    pub max_waiters: usize,
    /// The budget for counters, toggles and remembered keys in memory, in bytes. Remembered keys are
    /// never dropped for it: values have what those leave of it, and at least a quarter, on top where
    /// keys take more than the rest. Past seven eighths of their share, values that are written down
    /// and were not used lately are dropped, and read from the store when next needed.
    pub memory: usize,
    /// The pause between two checks of what must be true of every state; never, where it is zero.
    pub check_interval: Duration,
    /// Where the state's snapshots are kept, for one that is empty or can't be used; nowhere, where it is
    /// none, and then the whole log is folded.
    pub snapshots: Option<Snapshots>,
    /// What becomes of a state that another version of the fold wrote.
    pub other_fold: OtherFold,
    /// At most so many events a second are folded beside such a state; as many as can be, where it is none.
    pub renewal_rate: Option<u64>,
}

/// What becomes of a state that another version of the fold wrote, where the log or the snapshots bring it
/// back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtherFold {
    /// It is read for answers, marked as such, while the log is folded anew beside it; see
    /// [`Projector::renew`](crate::Projector::renew). Where its layout can't be read, it is set aside.
    Serve,
    /// It is set aside, and the log folded anew in its place.
    SetAside,
    /// It is refused.
    Refuse,
}

impl Default for Options {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            workers: (cores / 2).max(1),
            checkpoint_interval: Duration::from_secs(5),
            checkpoint_changes: 250_000,
            sled_cache_bytes: 64 << 20,
            max_waiters: 65_536,
            memory: 512 << 20,
            check_interval: Duration::ZERO,
            snapshots: None,
            other_fold: OtherFold::SetAside,
            renewal_rate: None,
        }
    }
}
