//! The segment that is written, and what a failure on the way to the disk means for a group.

use std::io;
use std::sync::Arc;

use tally_domain::{LogId, Offset};

use super::index::Index;
use super::layout::{Footer, Mark, Seed};
use super::segment::{self, Failure};
use crate::contract::AppendError;
use crate::storage::File;

pub(crate) struct Active {
    file: Arc<dyn File>,
    seed: Seed,
    /// Its number, and where the next group goes: all before is synced.
    at: Mark,
    records: u64,
    groups: u64,
}

/// Why a group is not durable.
pub(crate) struct Failed {
    pub(crate) error: AppendError,
    /// Nothing can be written any more.
    pub(crate) poison: bool,
}

impl Failed {
    pub(crate) fn before_writing(failure: Failure) -> Self {
        match failure {
            Failure::Write(error) => Self {
                error: not_written(&error),
                poison: false,
            },
            Failure::Sync(error) => Self {
                error: AppendError::NotWritten(format!("the sync of a segment failed: {error}")),
                poison: true,
            },
        }
    }

    pub(crate) fn unknown(why: String) -> Self {
        Self {
            error: AppendError::FateUnknown(why),
            poison: true,
        }
    }
}

fn not_written(error: &io::Error) -> AppendError {
    let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
    if full.contains(&error.kind()) {
        AppendError::DiskFull(error.to_string())
    } else {
        AppendError::NotWritten(error.to_string())
    }
}

impl Active {
    /// A segment with nothing but a header, behind which `at` is.
    pub(crate) fn new(log: LogId, file: Arc<dyn File>, at: Mark) -> Self {
        Self {
            file,
            seed: Seed::new(log, at.segment),
            at,
            records: 0,
            groups: 0,
        }
    }

    pub(crate) fn at(&self) -> Mark {
        self.at
    }

    pub(crate) fn seed(&self) -> Seed {
        self.seed
    }

    /// Whether a group of this size has to go into another one. The first group always fits.
    pub(crate) fn is_full(&self, group_bytes: u64, segment_bytes: u64) -> bool {
        self.groups > 0 && self.at.place.saturating_add(group_bytes) > segment_bytes
    }

    /// Writes and syncs a group. Where only the write failed, it is as if it had not been tried.
    pub(crate) fn write(
        &mut self,
        group: &[u8],
        records: u64,
        segment_bytes: u64,
    ) -> Result<(), Failed> {
        if let Err(error) = self.file.write_all_at(group, self.at.place) {
            return Err(self.undo(segment_bytes, &error));
        }
        if let Err(error) = self.file.sync_data() {
            return Err(Failed::unknown(format!("the sync failed: {error}")));
        }
        self.at.place += group.len() as u64;
        self.records += records;
        self.groups += 1;
        Ok(())
    }

    /// Cuts off what a failed write left, durably: it may be all of the group but its padding, and
    /// who is told that it was not written must not find it there after a power cut. Where that fails
    /// too, part of the group may stay in the file, even all of it, and nobody can promise anything.
    fn undo(&self, segment_bytes: u64, error: &io::Error) -> Failed {
        let place = self.at.place;
        let undone = self.file.set_len(place);
        if let Err(again) = undone.and_then(|()| self.file.sync_data()) {
            return Failed::unknown(format!("{error}, and it could not be undone: {again}"));
        }
        // Only for speed: the writer gets along without the length set ahead.
        if let Err(error) = self.file.set_len(segment_bytes.max(place)) {
            tracing::debug!(%error, "the length could not be set ahead");
        }
        Failed {
            error: not_written(error),
            poison: false,
        }
    }

    /// Looks whether it can be written, with zeros, which are no group.
    pub(crate) fn probe(&self, bytes: usize) -> io::Result<()> {
        self.file.write_all_at(&vec![0; bytes], self.at.place)
    }

    /// Writes the footer behind the last group. Returns how many bytes it has.
    pub(crate) fn seal(
        &self,
        last_append_time_millis: u64,
        ends: Vec<Offset>,
        index: Index,
    ) -> Result<u64, Failure> {
        let footer = Footer {
            records: self.records,
            groups: self.groups,
            last_append_time_millis,
            ends,
            index,
        };
        let place = self.at.place;
        let size = segment::seal(self.file.as_ref(), self.seed, place, &footer)?;
        Ok(size - place)
    }
}
