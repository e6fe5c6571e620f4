//! The ledger: a file of what the server acknowledged, for a later comparison with the log.
//!
//! A line is written only after the whole answer was read, so an `"acknowledged":true` is never
//! wrong. An interaction that was sent and got no answer, or one that says so, is
//! `"acknowledged":false`: it may be in the log or not. One that was refused has no line.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::Serialize;
use tally_domain::{InteractionType, ResourceType};

use super::BenchError;

const FLUSH_BYTES: usize = 64 << 10;

/// One interaction.
#[derive(Debug, Serialize)]
pub(super) struct Line<'a> {
    /// Absent where a credential was given without its user.
    pub(super) user: Option<&'a str>,
    pub(super) resource_type: ResourceType,
    pub(super) resource_id: u64,
    pub(super) interaction_type: InteractionType,
    pub(super) idempotency_key: Option<&'a str>,
    pub(super) acknowledged: bool,
    pub(super) outcome: Option<&'a str>,
    pub(super) event_id: Option<&'a str>,
    pub(super) position: Option<&'a str>,
    pub(super) visible: Option<bool>,
}

/// The file, shared by all threads.
#[derive(Debug)]
pub(super) struct Ledger {
    path: PathBuf,
    file: Mutex<Result<File, std::io::ErrorKind>>,
}

impl Ledger {
    /// Opens the file to append to it, and creates it where there is none.
    ///
    /// # Errors
    /// [`BenchError::Ledger`] where that fails.
    pub(super) fn open(path: &Path) -> Result<Self, BenchError> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .map_err(|source| BenchError::Ledger {
                path: path.to_owned(),
                source,
            })?;
        Ok(Self {
            path: path.to_owned(),
            file: Mutex::new(Ok(file)),
        })
    }

    /// Hands the file's lines to the disk.
    ///
    /// # Errors
    /// [`BenchError::Ledger`] where a line could not be written, now or before.
    pub(super) fn close(&self) -> Result<(), BenchError> {
        let file = self.file.lock();
        let result = match &*file {
            Ok(file) => file.sync_all(),
            Err(kind) => Err(std::io::Error::from(*kind)),
        };
        result.map_err(|source| BenchError::Ledger {
            path: self.path.clone(),
            source,
        })
    }

    fn append(&self, lines: &[u8]) {
        let mut file = self.file.lock();
        if let Ok(open) = &mut *file
            && let Err(error) = open.write_all(lines)
        {
            *file = Err(error.kind());
        }
    }
}

/// One thread's lines on their way to the file. Lines reach it whole.
#[derive(Debug, Default)]
pub(super) struct Lines(RefCell<Vec<u8>>);

impl Lines {
    /// Adds a line; the file gets it soon, or with [`flush`](Self::flush).
    pub(super) fn add(&self, ledger: &Ledger, line: &Line<'_>) {
        let full = {
            let mut lines = self.0.borrow_mut();
            let before = lines.len();
            match serde_json::to_writer(&mut *lines, line) {
                Ok(()) => lines.push(b'\n'),
                // These types always serialise; half a line would spoil the file.
                Err(_) => lines.truncate(before),
            }
            lines.len() >= FLUSH_BYTES
        };
        if full {
            self.flush(ledger);
        }
    }

    /// Hands all lines to the file.
    pub(super) fn flush(&self, ledger: &Ledger) {
        let mut lines = self.0.borrow_mut();
        if !lines.is_empty() {
            ledger.append(&lines);
            lines.clear();
        }
    }
}
