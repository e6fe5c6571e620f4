//! How large things may get, and why a log can't be opened.

use std::io;
use std::path::{Path, PathBuf};

use super::layout::{FORMAT_VERSION, GROUP_HEADER, header_bytes};

pub(crate) const MAX_PARTITIONS: u32 = 4096;
const MIN_SEGMENT_BYTES: u64 = 4 * 1024;
/// Places in a segment stay below 2^32 even where the last group goes past the end.
const MAX_SEGMENT_BYTES: u64 = 2 * 1024 * 1024 * 1024;
const MIN_GROUP_BYTES: usize = 64 * 1024;
const MAX_GROUP_BYTES: usize = 256 * 1024 * 1024;

/// Sizes and bounds of an embedded log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddedOptions {
    /// How many partitions a log gets that is not there yet, 1 to 4096. A log that is there must
    /// have as many.
    pub partitions: u32,
    /// A segment's length in bytes, set ahead of the writer: 4 KiB to 2 GiB. May change from
    /// start to start.
    pub segment_bytes: u64,
    /// At most how many bytes one write and sync take together, and so one append: 64 KiB to
    /// 256 MiB.
    pub max_group_bytes: usize,
    /// At most how many bytes of appends may wait to be written and synced.
    pub max_queue_bytes: usize,
    /// At most how many records may.
    pub max_queue_records: usize,
    /// How many bytes a second of sealed segments are read in the background, to find damage; 0:
    /// none.
    pub check_rate: u64,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        Self {
            partitions: 16,
            segment_bytes: 128 * 1024 * 1024,
            max_group_bytes: 8 * 1024 * 1024,
            max_queue_bytes: 64 * 1024 * 1024,
            max_queue_records: 262_144,
            check_rate: 0,
        }
    }
}

impl EmbeddedOptions {
    pub(crate) fn check(&self) -> Result<(), OpenError> {
        let wrong = |option, valid: String| Err(OpenError::BadOption { option, valid });
        if !(1..=MAX_PARTITIONS).contains(&self.partitions) {
            return wrong("partitions", format!("1 to {MAX_PARTITIONS}"));
        }
        let least = MIN_SEGMENT_BYTES.max(2 * header_bytes(self.partitions));
        if !(least..=MAX_SEGMENT_BYTES).contains(&self.segment_bytes) {
            return wrong(
                "segment_bytes",
                format!(
                    "{least} to {MAX_SEGMENT_BYTES} with {} partitions",
                    self.partitions
                ),
            );
        }
        if !(MIN_GROUP_BYTES..=MAX_GROUP_BYTES).contains(&self.max_group_bytes) {
            return wrong(
                "max_group_bytes",
                format!("{MIN_GROUP_BYTES} to {MAX_GROUP_BYTES}"),
            );
        }
        if self.max_queue_bytes == 0 {
            return wrong("max_queue_bytes", "at least 1".to_owned());
        }
        if self.max_queue_records == 0 {
            return wrong("max_queue_records", "at least 1".to_owned());
        }
        Ok(())
    }

    /// At most how many bytes of records one append may have.
    pub(crate) fn max_append_bytes(&self) -> usize {
        self.max_group_bytes.saturating_sub(GROUP_HEADER + 8)
    }
}

/// Why a log can't be opened. Nothing was changed in its folder.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it, or another part of this one.
    #[error(
        "the log in {dir} is open in another process; stop that one, or use another data_dir",
        dir = dir.display()
    )]
    Locked {
        /// The log's folder.
        dir: PathBuf,
    },
    /// An option is out of bounds.
    #[error("the log's option {option} is out of bounds; valid: {valid}")]
    BadOption {
        /// Its name in [`EmbeddedOptions`].
        option: &'static str,
        /// What would do.
        valid: String,
    },
    /// The log has another number of partitions.
    #[error(
        "the log in {dir} has {actual} partitions, not {wanted}: the number is fixed when a log is created. Set log.partitions to {actual}, or use another data_dir",
        dir = dir.display()
    )]
    PartitionsDiffer {
        /// The log's folder.
        dir: PathBuf,
        /// What the options say.
        wanted: u32,
        /// What the log has.
        actual: u32,
    },
    /// Written by another version of this program.
    #[error(
        "{file} has version {found} of the log's format; this program reads version {FORMAT_VERSION}: use the program that wrote it",
        file = file.display()
    )]
    OtherVersion {
        /// The file.
        file: PathBuf,
        /// Its version.
        found: u32,
    },
    /// What was acknowledged is not there as it was written.
    #[error(
        "the log is damaged: {damage}. Nothing was changed. Restore the file from a backup; see `tally log check` for all that is wrong"
    )]
    Damaged {
        /// Where and what.
        damage: Damage,
    },
    /// A file operation failed.
    #[error("{path} can't be {doing}: {cause}", path = path.display())]
    Io {
        /// opened, read, …
        doing: &'static str,
        /// What could not.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
}

impl OpenError {
    pub(crate) fn io<'a>(doing: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Self + 'a {
        move |cause| Self::Io {
            doing,
            path: path.to_owned(),
            cause,
        }
    }

    pub(crate) fn damaged(file: &Path, byte: u64, what: impl Into<String>) -> Self {
        Self::Damaged {
            damage: Damage {
                file: file.to_owned(),
                byte,
                what: what.into(),
            },
        }
    }
}

/// A place in a log that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}, byte {byte}: {what}", file = file.display())]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// Where in it.
    pub byte: u64,
    /// What is wrong there.
    pub what: String,
}
