//! Log, projector and keys file on one disk, and what they say.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use prometheus::Registry;
use tally_domain::{Offset, Position};
use tally_ingress::auth::KeysFile;
use tally_log::embedded::{EmbeddedLog, EmbeddedOptions};
use tally_log::simulation::SimDisk;
use tally_log::{AppendError, AppendRefused, Batch, EventLog, LogMetrics, NewRecord, ReadError};
pub use tally_projector::error::with_causes;
use tally_projector::store::Store;
use tally_projector::{Mailbox, Options, Projector, StateDump, StateError, StoreError};

use super::events::PARTITIONS;
use super::store::SimStore;

/// Longer than anything takes that comes at all.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the log is.
#[must_use]
pub fn log_dir() -> &'static Path {
    Path::new("/data/log")
}

/// Where the state is.
#[must_use]
pub fn state_dir() -> &'static Path {
    Path::new("/data/state")
}

/// Where the keys are.
#[must_use]
pub fn keys_path() -> PathBuf {
    PathBuf::from("/data/keys.json")
}

/// Position and value of every record, partition by partition.
pub type Contents = Vec<(Position, Vec<u8>)>;

/// What becomes of an append, record by record.
pub type Results = Vec<Result<Offset, AppendError>>;

/// Small segments, so that there are many.
#[must_use]
pub fn log_options() -> EmbeddedOptions {
    EmbeddedOptions {
        partitions: PARTITIONS,
        segment_bytes: 4096,
        ..EmbeddedOptions::default()
    }
}

/// Checkpoints only when asked for, and so none for want of memory: a seed is then one history. What
/// an earlier life wrote down is read back from the store.
#[must_use]
pub fn projector_options() -> Options {
    Options {
        workers: 1,
        checkpoint_interval: Duration::from_secs(3_600),
        sled_cache_bytes: 1 << 20,
        ..Options::default()
    }
}

/// What is open on a disk.
pub struct Stack {
    projector: Projector,
    log: Arc<dyn EventLog>,
    registry: Registry,
    cut_bytes: u64,
}

impl Stack {
    /// Opens the log and the state.
    ///
    /// # Errors
    /// The refusal, as a text.
    ///
    /// # Panics
    /// Where metrics can't be made.
    pub fn open(disk: &SimDisk) -> Result<Self, String> {
        let storage = Arc::new(disk.clone());
        let metrics = LogMetrics::unregistered().expect("valid names");
        let opened = EmbeddedLog::open(storage.clone(), log_dir(), "log", log_options(), &metrics);
        let (log, recovery) = opened.map_err(|error| error.to_string())?;
        let log: Arc<dyn EventLog> = Arc::new(log);
        let of_store = disk.clone();
        let open_store = move |dir: &Path| -> Result<Box<dyn Store>, StoreError> {
            Ok(Box::new(SimStore::open(&of_store, dir)?))
        };
        let registry = Registry::new();
        let projector = Projector::open_on(
            Box::new(open_store),
            Arc::clone(&log),
            storage,
            state_dir(),
            projector_options(),
            &registry,
        );
        let projector = projector.map_err(|error| with_causes(&error))?;
        Ok(Self {
            projector,
            log,
            registry,
            cut_bytes: recovery.cut_bytes,
        })
    }

    /// Appends all records as one; `None` where the log takes no more.
    ///
    /// # Panics
    /// Where the log refuses them for another reason.
    pub fn append(&self, records: Vec<NewRecord>) -> Option<Results> {
        let (done, results): (_, Receiver<Results>) = mpsc::channel();
        let done = move |all| done.send(all).unwrap_or_default();
        match self.log.append(records, Box::new(done)) {
            Ok(()) => Some(results.recv_timeout(PATIENCE).expect("it is told")),
            Err(AppendRefused::Closed(_)) => None,
            Err(other) => panic!("{other}"),
        }
    }

    /// Everything in the log, from its very beginning.
    ///
    /// # Errors
    /// As the log says.
    pub fn contents(&self) -> Result<Contents, ReadError> {
        read_all(self.log.as_ref())
    }

    /// The state as of everything in the log; `None` where the fold has stopped.
    ///
    /// # Errors
    /// As the projector says.
    pub fn state(&self) -> Result<StateDump, StateError> {
        self.catch_up()?;
        self.projector.dump()
    }

    /// Waits until everything is folded.
    ///
    /// # Errors
    /// Where the fold has stopped.
    ///
    /// # Panics
    /// Where the log has no head, or too many wait.
    pub fn catch_up(&self) -> Result<(), StateError> {
        for (partition, head) in (0..).zip(self.log.head().expect("a head")) {
            let Some(offset) = head.checked_sub(1) else {
                continue;
            };
            let position = Position { partition, offset };
            let mailbox = Mailbox::direct();
            let applied = self.projector.wait_for_position(position, &mailbox);
            if applied.expect("few wait").blocking_recv().is_err() {
                let failure = self.projector.status().failure;
                return Err(StateError::Failed(failure.unwrap_or_default()));
            }
        }
        Ok(())
    }

    /// Writes the state down.
    ///
    /// # Errors
    /// As the projector says.
    pub fn checkpoint(&self) -> Result<(), StateError> {
        self.projector.checkpoint().map(drop)
    }

    /// How many bytes were cut off the log's end, and told, when it was opened.
    #[must_use]
    pub fn cut_bytes(&self) -> u64 {
        self.cut_bytes
    }

    /// How often a state was set aside and rebuilt since the start.
    #[must_use]
    pub fn rebuilds(&self) -> u64 {
        counted(&self.registry, "tally_projector_rebuilds_total")
    }

    /// The clean end, as far as the disk lets it.
    pub fn close(&self, disk: &SimDisk) {
        // What fails here is looked at by the next start. A fold whose disk is gone tries for ever.
        let caught_up = !disk.has_crashed() && self.catch_up().is_ok();
        if caught_up && self.log.close(PATIENCE).is_ok() && !disk.has_crashed() {
            let _ = self.projector.stop(PATIENCE);
        }
    }
}

/// A counter, summed over its labels.
#[must_use]
pub fn counted(registry: &Registry, name: &str) -> u64 {
    let families = registry.gather();
    let family = families.iter().find(|family| family.name() == name);
    let metrics = family.map_or(&[][..], |family| family.get_metric());
    let sum: f64 = metrics.iter().map(|m| m.get_counter().get_value()).sum();
    sum as u64
}

/// Everything in a log from offset 0, up to its head.
///
/// # Errors
/// As the log says.
///
/// # Panics
/// Where a reader stands still before the head.
pub fn read_all(log: &dyn EventLog) -> Result<Contents, ReadError> {
    let at = |offsets: Vec<Offset>| -> Vec<Position> {
        let pairs = (0..).zip(offsets);
        let position = |(partition, offset)| Position { partition, offset };
        pairs.map(position).collect()
    };
    let ends = at(log.head()?);
    let mut reader = log.reader(&at(vec![0; ends.len()]))?;
    let mut batch = Batch::new();
    let mut all = Vec::new();
    while reader.positions() != ends {
        reader.next(&mut batch, Duration::ZERO)?;
        assert!(!batch.is_empty(), "stands at {:?}", reader.positions());
        all.extend(batch.iter().map(|r| (r.position, r.value.to_vec())));
    }
    all.sort();
    Ok(all)
}

/// The keys file on a disk.
#[must_use]
pub fn keys(disk: &SimDisk) -> KeysFile {
    KeysFile::on(Arc::new(disk.clone()), keys_path())
}
