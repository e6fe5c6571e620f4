//! A whole installation copied into a folder while it serves, and put back from there, each with a proof.
//!
//! ```text
//! FOLDER/log/…          the log of interactions: its identity and segments
//! FOLDER/catalogue/…    the catalogue's log, as of a moment later: it has every resource of an event
//! FOLDER/keys.json      the API keys, where the installation has the file
//! FOLDER/backup.json    the manifest, written last: a folder without it is no backup
//! ```
//!
//! Both logs are copied up to heads that were noted once, so the copy is the beginning of each as of one
//! moment, however long the copying takes. The state is no part of it: it is a fold of the log, and the
//! first start after a restore makes it again.
//!
//! - [`manifest`]: what the backup holds, with a checksum of each file and of itself
//! - [`take`](fn@take): an installation into a backup
//! - [`restore`](fn@restore): a backup into a data folder, which the marker [`RESTORING`](crate::data_dir::RESTORING)
//!   keeps from being opened until all is proven
//! - [`proof`]: what is copied is checked frame by frame and folded
//! - [`files`]: copied and hashed part by part

mod files;
pub(crate) mod manifest;
mod proof;
mod restore;
mod take;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

use tally_ingress::auth::KeysError;
use tally_ingress::catalogue::CatalogueError;
use tally_log::ReadError;
use tally_log::embedded::OpenError;
use tally_projector::verify::VerifyError;

pub(crate) use proof::Proof;
pub(crate) use restore::{Restored, restore};
pub(crate) use take::{Installation, refuse_used, take};

/// The folder of the log of interactions, in the data folder and in a backup.
pub(crate) const LOG: &str = "log";
/// The folder of the catalogue's log.
pub(crate) const CATALOGUE: &str = "catalogue";
/// The file of API keys.
pub(crate) const KEYS: &str = "keys.json";

/// What a backup or a restore is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// It reads the backup's files; counted in bytes.
    Checking,
    /// It copies; counted in bytes.
    Copying,
    /// It reads every frame of the copy; counted in bytes.
    Reading,
    /// It folds the copy; counted in records.
    Folding,
}

/// Who wants to know how far it is.
pub(crate) trait Watch {
    /// A step begins, which has so much to do.
    fn begins(&mut self, step: Step, total: u64);

    /// So much more is done.
    fn moved(&mut self, by: u64);
}

/// Why there is no backup, or nothing restored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackupError {
    #[error(
        "{path} is not empty (--to): a backup takes a folder of its own; name one that is empty or not there",
        path = path.display()
    )]
    Used { path: PathBuf },
    #[error(
        "{dir} is no backup (--from): it has no {}, as a backup that was cut short has none",
        manifest::FILE,
        dir = dir.display()
    )]
    NoBackup { dir: PathBuf },
    #[error(
        "{file} is of version {found} of a backup; this program reads version {}: use the program that wrote it",
        manifest::VERSION,
        file = file.display()
    )]
    OtherVersion { file: PathBuf, found: u32 },
    #[error(
        "{file} is not as the backup was written: {what}. Nothing of it was restored; use another backup",
        file = file.display()
    )]
    Damaged { file: PathBuf, what: String },
    #[error(
        "there are data in {dir} already ({name}): a restore takes a folder without; name another one with --data-dir (setting data_dir)",
        dir = dir.display()
    )]
    Taken { dir: PathBuf, name: &'static str },
    #[error("{path} can't be {doing}: {cause}", path = path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("the copy in {dir} is no proof of the log: {what}", dir = dir.display())]
    NotProven { dir: PathBuf, what: String },
    #[error("the log can't be read: {0}")]
    Read(#[from] ReadError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("the log can't be folded: {0}")]
    Fold(#[from] VerifyError),
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
    #[error("{file} can't be written: {cause}", file = manifest::FILE)]
    Manifest {
        #[source]
        cause: serde_json::Error,
    },
}

impl BackupError {
    fn io<'a>(doing: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Self + 'a {
        move |cause| Self::Io {
            doing,
            path: path.to_owned(),
            cause,
        }
    }

    fn damaged(file: &Path, what: impl Into<String>) -> Self {
        Self::Damaged {
            file: file.to_owned(),
            what: what.into(),
        }
    }
}
