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

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tally_domain::{LogId, Partition};
use tally_log::storage::Storage;

use crate::aside::set_aside;
use crate::error::StateError;
use crate::identity::STATE_FILES;
pub use file::Header;
pub use name::SnapshotName;
pub use objects::{ObjectError, Objects};

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

impl SnapshotError {
    fn spool<'a>(path: &'a Path, doing: &'static str) -> impl Fn(io::Error) -> Self + 'a {
        move |cause| Self::Spool {
            path: path.display().to_string(),
            doing,
            cause,
        }
    }
}

/// Where a log's snapshots are kept.
#[derive(Clone)]
pub struct Snapshots {
    objects: Arc<dyn Objects>,
    keep: usize,
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
        let keep = keep.max(1);
        Self { objects, keep }
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

    /// Removes all but the newest of each partition, which are known to be whole.
    fn prune(&self, log: LogId) -> Result<(), SnapshotError> {
        for names in self.list(log)?.into_values() {
            for name in names.iter().skip(self.keep) {
                self.objects.delete(&name.to_string())?;
            }
        }
        Ok(())
    }

    /// Fetches a snapshot into the spool, and checks it.
    fn fetch(&self, name: &SnapshotName, dir: &Path) -> Result<Fetched, SnapshotError> {
        let file = SpoolFile::new(dir, name.partition)?;
        let text = name.to_string();
        self.objects.get(&text, &file.0)?;
        let header = file::check(&file.0, &text)?;
        if header.name() != *name {
            return Err(SnapshotError::Damaged {
                name: text,
                what: "it is another snapshot than its name says".to_owned(),
            });
        }
        Ok(Fetched {
            name: *name,
            header,
            file,
        })
    }
}

/// A snapshot in the spool that is whole.
struct Fetched {
    name: SnapshotName,
    header: Header,
    file: SpoolFile,
}

/// The file in which a snapshot is on its way. Dropped, it goes.
struct SpoolFile(PathBuf);

impl SpoolFile {
    fn new(dir: &Path, partition: Partition) -> Result<Self, SnapshotError> {
        let dir = dir.join(SPOOL);
        std::fs::create_dir_all(&dir).map_err(SnapshotError::spool(&dir, "made"))?;
        Ok(Self(
            dir.join(format!("{partition}.{}", std::process::id())),
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

/// Sets a state aside that nobody has open, so that the next opening begins from the snapshots; where
/// it is then.
///
/// # Errors
/// [`StateError::Redo`].
pub fn set_state_aside(storage: &dyn Storage, dir: &Path) -> Result<PathBuf, StateError> {
    set_aside(storage, dir, &STATE_FILES)
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
