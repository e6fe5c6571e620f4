//! The embedded log keeps the contract that every log keeps.

use std::fs;
use std::sync::Arc;

use tally_log::conformance::{PARTITIONS, SMALL_QUEUE_RECORDS, TestLog};
use tally_log::embedded::{EmbeddedLog, EmbeddedOptions};
use tally_log::storage::RealStorage;
use tally_log::{EventLog, LogMetrics};
use tempfile::TempDir;

/// A log in a folder of its own, with segments so small that every test goes over many.
struct InFolder(TempDir);

fn in_folder() -> InFolder {
    InFolder(tempfile::tempdir().unwrap())
}

impl InFolder {
    fn with(&self, options: EmbeddedOptions) -> Arc<dyn EventLog> {
        let storage = Arc::new(RealStorage);
        let metrics = LogMetrics::unregistered().unwrap();
        let (log, _) =
            EmbeddedLog::open(storage, self.0.path(), "test", options, &metrics).unwrap();
        Arc::new(log)
    }
}

impl TestLog for InFolder {
    fn open(&self) -> Arc<dyn EventLog> {
        self.with(EmbeddedOptions {
            partitions: PARTITIONS,
            segment_bytes: 4096,
            ..EmbeddedOptions::default()
        })
    }

    fn open_with_small_queue(&self) -> Arc<dyn EventLog> {
        self.with(EmbeddedOptions {
            partitions: PARTITIONS,
            max_queue_records: SMALL_QUEUE_RECORDS,
            ..EmbeddedOptions::default()
        })
    }

    fn remove_oldest(&self) {
        let oldest = format!("{:020}.log", 1);
        fs::remove_file(self.0.path().join(oldest)).unwrap();
    }
}

tally_log::conformance_suite!(in_folder);
