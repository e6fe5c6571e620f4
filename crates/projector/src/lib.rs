//! Follows the log, folds it, and keeps the state: in memory for answers, in a store for restarts.
//!
//! Nothing here knows HTTP. In reading order:
//!
//! - [`projector`]: the handle that everything else holds; start here
//! - `life`: the state while its store is open; it can be closed and opened again
//! - `reopen`: the state closed and opened again beneath whoever waits
//! - [`options`]: how it runs
//! - [`worker`]: the loop that reads, folds and completes waiters
//! - `folding`: batches folded, and answers given
//! - `loader`: values that memory lacks, read beside the fold
//! - [`waiters`]: who waits for which event or position, and how they are told
//! - [`checkpoint`]: changed values and next offsets written down as one crash-atomic unit
//! - `collect`: what of the state a checkpoint writes
//! - [`redo`]: the checksummed file that makes it so
//! - [`store`]: the narrow trait behind which sled stands, and what is written there
//! - [`identity`]: whose state this is, and when it must not be used
//! - [`aside`]: where state goes that must not be used
//! - `mark`: a small file that says something by being there
//! - [`swap`]: another state in its place
//! - [`snapshot`]: a partition's state kept elsewhere, and brought back
//! - [`dump`]: a consistent copy of the whole state
//! - `invariants`: what must be true of every state, looked at now and then
//! - [`verify`]: a fold of the log by itself, and how a state differs from it
//! - [`dead_letters`]: what could not be folded, page by page
//! - [`export`]: copies of that in a log of its own, for others
//! - [`metrics`]: what Prometheus sees
//! - `fresh`: what is counted of events that came after the start
//! - `lag`: how far behind the fold is, from the log's own head
//! - `measure`: what is measured, and when
//! - [`waits`]: who waited for the fold, and what came of it

pub mod aside;
pub mod checkpoint;
mod collect;
pub mod dead_letters;
pub mod dump;
pub mod error;
pub mod export;
mod folding;
mod fresh;
pub mod identity;
mod invariants;
mod lag;
mod life;
mod loader;
mod mark;
mod measure;
pub mod metrics;
pub mod options;
pub mod projector;
pub mod redo;
mod remains;
mod reopen;
mod shared;
pub mod snapshot;
pub mod store;
pub mod swap;
pub mod verify;
pub mod waiters;
pub mod waits;
pub mod worker;

pub use checkpoint::CheckpointReport;
pub use dump::{PartitionDump, StateDump, StateSummary};
pub use error::{OpenError, StateError};
pub use metrics::METRICS;
pub use options::Options;
pub use projector::{PartitionStatus, Projector, Status, View};
pub use snapshot::{SnapshotError, SnapshotName, Snapshots};
pub use store::StoreError;
pub use verify::{Difference, VerifyError};
pub use waiters::{EventFate, Mailbox, MailboxTask, TooManyWaiters};
