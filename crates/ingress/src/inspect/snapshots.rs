//! Snapshots of the state, taken now, and the log cut off at its beginning as far as they reach.

use std::io::Write;

use serde::{Deserialize, Serialize};
use tally_domain::{Offset, Partition};
use tally_log::EventLog;
use tally_projector::Projector;

use super::{InspectError, write_line};

/// A snapshot that was taken.
#[derive(Serialize)]
struct TakenLine {
    partition: Partition,
    next_offset: Offset,
    values: u64,
    bytes: u64,
    name: String,
}

/// Takes a snapshot of each partition that has moved since its last, and writes a line for each.
///
/// # Errors
/// [`InspectError::Snapshot`]; [`InspectError::Write`] once all is done.
pub fn take_snapshots(projector: &Projector, out: &mut dyn Write) -> Result<(), InspectError> {
    let mut written = Ok(());
    projector.take_snapshots(&mut |taken| {
        let taken = TakenLine {
            partition: taken.name.partition,
            next_offset: taken.name.next_offset,
            values: taken.values,
            bytes: taken.bytes,
            name: taken.name.to_string(),
        };
        // Whoever reads along may go; the snapshots are taken all the same.
        if written.is_ok() {
            written = write_line(out, &taken).and_then(|()| out.flush());
        }
    })?;
    Ok(written?)
}

/// What a truncation is asked to do.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Truncating {
    /// Only say what it would do.
    pub dry_run: bool,
}

/// A partition, before a truncation.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct TruncatingLine {
    /// The partition.
    pub partition: Partition,
    /// Where the log begins.
    pub first: Offset,
    /// Records below may go: snapshots have them.
    pub below: Offset,
}

/// What a truncation did.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct TruncatedLine {
    /// How many records were removed.
    pub removed_records: u64,
    /// How many bytes, where the log can tell.
    pub removed_bytes: Option<u64>,
}

/// Removes the log's oldest records as far as snapshots that are whole have them and the state is
/// written down. Writes a line for each partition of which any may go, and one for what was removed.
///
/// # Errors
/// [`InspectError::Snapshot`] and [`InspectError::Truncate`].
pub fn truncate(
    projector: &Projector,
    log: &dyn EventLog,
    truncating: Truncating,
    out: &mut dyn Write,
) -> Result<(), InspectError> {
    let below = projector.covered()?;
    let firsts = log.first()?;
    for (partition, (first, below)) in (0..).zip(firsts.iter().zip(&below)) {
        if below > first {
            let (first, below) = (*first, *below);
            write_line(
                out,
                &TruncatingLine {
                    partition,
                    first,
                    below,
                },
            )?;
        }
    }
    out.flush()?;
    if truncating.dry_run {
        return Ok(());
    }
    let truncated = log.truncate(&below)?;
    write_line(
        out,
        &TruncatedLine {
            removed_records: truncated.records,
            removed_bytes: truncated.bytes,
        },
    )?;
    Ok(out.flush()?)
}
