//! Snapshots: a partition's state at one offset, kept elsewhere, so that a state that is lost costs
//! the log's tail and not the log.
//!
//! ```text
//!  store, between two checkpoints ──► spool file ──► objects: a folder, a bucket
//!                                                       │ the newest that is whole
//!  store of an empty state ◄── spool file, checked ◄────┘
//! ```
//!
//! - [`objects`]: where they are kept: a narrow trait
//! - [`name`]: how they are called
//! - [`file`](mod@file): their bytes
//! - `take`: from a state that is used
//! - `cover`: how much of the log they make dispensable
//! - `restore`: into an empty one
//!
//! A snapshot is what the [store](crate::store::layout) has of a partition, so it is of one version of
//! the fold and of the layout, and says which. One of another version is left alone.

mod cover;
pub mod file;
pub mod name;
pub mod objects;
pub(crate) mod restore;
mod take;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tally_domain::{LogId, Offset, Partition};
use tally_log::{EventLog, ReadError};

use crate::error::{OpenError, StateError, with_causes};
use crate::identity::{Identity, check_against};
use crate::metrics::unix_millis;
use crate::store::StoreError;
use crate::store::layout::Place;
pub use file::Header;
pub use name::SnapshotName;
pub use objects::{ObjectError, Objects};
pub use restore::set_state_aside;

/// The folder in the state's where they are on their way.
const SPOOL: &str = "snapshots";

/// Why a snapshot can't be taken or used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// There is no place for them.
    #[error("no place for snapshots is set (setting snapshots.url)")]
    Nowhere,
    /// Where they are kept.
    #[error(transparent)]
    Objects(#[from] ObjectError),
    /// None that could be used.
    #[error("there is no snapshot of this log and this version of the fold that is whole")]
    Missing,
    /// Too little to be used with the log.
    #[error(
        "there is no snapshot of partition {partition} that reaches the log, which begins at {first}"
    )]
    TooOld {
        /// The partition.
        partition: Partition,
        /// Where the log begins.
        first: Offset,
    },
    /// The log that they are held against.
    #[error(transparent)]
    Log(#[from] ReadError),
    /// It does not read back as it was written.
    #[error("snapshot {name} is damaged: {what}")]
    Damaged {
        /// Its name.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// The file on its way.
    #[error("{path} can't be {doing}")]
    Spool {
        /// The file.
        path: String,
        /// written, read…
        doing: &'static str,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The state that it is taken from, or put into.
    #[error(transparent)]
    State(#[from] StateError),
}

impl From<StoreError> for SnapshotError {
    fn from(error: StoreError) -> Self {
        Self::State(error.into())
    }
}

impl SnapshotError {
    fn spool<'a>(path: &'a Path, doing: &'static str) -> impl Fn(io::Error) -> Self + 'a {
        move |cause| Self::Spool {
            path: path.display().to_string(),
            doing,
            cause,
        }
    }
}

/// Where a log's snapshots are kept. Clones are the same.
#[derive(Clone)]
pub struct Snapshots {
    objects: Arc<dyn Objects>,
    keep: usize,
    /// Those that this process has read and found usable.
    proven: Arc<Mutex<BTreeSet<SnapshotName>>>,
}

/// What a snapshot has to be of, to be of use.
struct Wanted<'a> {
    log: &'a dyn EventLog,
    identity: &'a Identity,
    /// The state's folder, for the spool.
    dir: &'a Path,
}

impl fmt::Debug for Snapshots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Snapshots({})", self.objects.place())
    }
}

impl Snapshots {
    /// Snapshots that are kept there, the newest `keep` of each partition; at least 1.
    #[must_use]
    pub fn in_objects(objects: Arc<dyn Objects>, keep: usize) -> Self {
        Self {
            objects,
            keep: keep.max(1),
            proven: Arc::default(),
        }
    }

    /// Where that is, for people.
    #[must_use]
    pub fn place(&self) -> String {
        self.objects.place()
    }

    /// All snapshots of a log by partition, the newest first.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub fn list(
        &self,
        log: LogId,
    ) -> Result<BTreeMap<Partition, Vec<SnapshotName>>, SnapshotError> {
        let mut all: BTreeMap<Partition, Vec<SnapshotName>> = BTreeMap::new();
        for object in self.objects.list(&format!("{log}/"))? {
            // What else lies there is not ours.
            let Some(name) = SnapshotName::parse(&object) else {
                continue;
            };
            if name.log == log {
                all.entry(name.partition).or_default().push(name);
            }
        }
        for names in all.values_mut() {
            names.sort_unstable_by(|a, b| b.cmp(a));
        }
        Ok(all)
    }

    /// Reads a snapshot to its end and compares every checksum. It is a file in `dir` meanwhile.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`]; where it can't be read.
    pub fn check(&self, name: &SnapshotName, dir: &Path) -> Result<(), SnapshotError> {
        self.fetch(name, dir).map(drop)
    }

    /// Fetches a snapshot that is whole, of this fold, and of the log as it is; says why another is
    /// passed over.
    fn usable(
        &self,
        name: &SnapshotName,
        wanted: &Wanted<'_>,
    ) -> Result<Option<Fetched>, SnapshotError> {
        let identity = wanted.identity;
        if (name.fold_version, name.layout) != (identity.fold_version, identity.layout) {
            return Ok(None);
        }
        let fetched = match self.fetch(name, wanted.dir) {
            Ok(fetched) if fetched.header.identity == *identity => fetched,
            Ok(_) => return Ok(None),
            Err(error @ SnapshotError::Damaged { .. }) => {
                tracing::error!(%error, "a snapshot is passed over");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        match check_against(wanted.log, &[(name.partition, fetched.place)]) {
            Ok(()) => Ok(Some(fetched)),
            Err(OpenError::Read(error)) => Err(error.into()),
            // The log has been cut off past it, or put back to an older time.
            Err(error) => {
                let why = with_causes(&error);
                tracing::error!(%name, why, "a snapshot does not fit the log, and is passed over");
                Ok(None)
            }
        }
    }

    /// Whether a snapshot is usable; one is read once by a process.
    fn is_proven(&self, name: &SnapshotName, wanted: &Wanted<'_>) -> Result<bool, SnapshotError> {
        if self.proven.lock().contains(name) {
            return Ok(true);
        }
        let usable = self.usable(name, wanted)?.is_some();
        if usable {
            self.proven.lock().insert(*name);
        }
        Ok(usable)
    }

    /// Removes what is older than the newest so many of each partition that are usable. What is not
    /// usable and newer stays, for whoever wants to know why.
    fn prune(&self, wanted: &Wanted<'_>) -> Result<(), SnapshotError> {
        for names in self.list(wanted.identity.log)?.into_values() {
            let mut kept = 0;
            for name in names {
                if kept < self.keep {
                    kept += usize::from(self.is_proven(&name, wanted)?);
                } else {
                    self.objects.delete(&name.to_string())?;
                    self.proven.lock().remove(&name);
                }
            }
        }
        Ok(())
    }

    /// Fetches a snapshot into the spool, and checks it.
    fn fetch(&self, name: &SnapshotName, dir: &Path) -> Result<Fetched, SnapshotError> {
        let file = SpoolFile::new(dir, name.partition)?;
        let text = name.to_string();
        self.objects.get(&text, &file.0)?;
        let (header, place) = file::check(&file.0, &text)?;
        if header.name() != *name {
            return Err(SnapshotError::Damaged {
                name: text,
                what: "it is another snapshot than its name says".to_owned(),
            });
        }
        Ok(Fetched {
            name: *name,
            header,
            place,
            file,
        })
    }
}

/// A snapshot in the spool that is whole.
struct Fetched {
    name: SnapshotName,
    header: Header,
    place: Place,
    file: SpoolFile,
}

/// The file in which a snapshot is on its way. Dropped, it goes.
struct SpoolFile(PathBuf);

impl SpoolFile {
    fn new(dir: &Path, partition: Partition) -> Result<Self, SnapshotError> {
        static FILES: AtomicU64 = AtomicU64::new(0);
        let dir = dir.join(SPOOL);
        std::fs::create_dir_all(&dir).map_err(SnapshotError::spool(&dir, "made"))?;
        // Another process may have this one's number, in another container.
        let (process, now) = (std::process::id(), unix_millis());
        let file = FILES.fetch_add(1, Ordering::Relaxed);
        Ok(Self(
            dir.join(format!("{partition}.{process}.{now}.{file}")),
        ))
    }
}

impl Drop for SpoolFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            let path = self.0.display();
            tracing::warn!(%path, %error, "a snapshot's file on its way stays behind");
        }
    }
}

/// Removes what processes that were killed left on its way.
pub(crate) fn clear_spool(dir: &Path) {
    let dir = dir.join(SPOOL);
    if let Err(error) = std::fs::remove_dir_all(&dir)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %dir.display(), %error, "old snapshots on their way stay behind");
    }
}

/// A snapshot that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// How it is called.
    pub name: SnapshotName,
    /// How many bytes it has.
    pub bytes: u64,
    /// How many values.
    pub values: u64,
}
