//! Removes the oldest segments.
//!
//! A segment holds records of all partitions, and its header says where each of them stands at its
//! beginning. So a segment goes whole, where the one after it begins at or before the offsets that are
//! to stay; the one that is written never goes. Files go from the oldest on: cut short, the log begins
//! somewhat later, and is whole from there. The offsets that come next are in the header of whatever
//! segment stays.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tally_domain::Offset;

use super::segment::SegmentInfo;
use super::shared::{Shared, State};
use crate::contract::{TruncateError, Truncated};

type Segment = Arc<SegmentInfo>;

/// See [`EventLog::truncate`](crate::EventLog::truncate).
pub(crate) fn truncate(shared: &Shared, below: &[Offset]) -> Result<Truncated, TruncateError> {
    // What is the oldest must stay it until its file is gone.
    let _one = shared.truncating.lock();
    let mut truncated = Truncated {
        records: 0,
        bytes: Some(0),
    };
    loop {
        let found = removable(&shared.state.lock(), below);
        let Some((oldest, next)) = found else {
            return Ok(truncated);
        };
        let size = remove(shared, &oldest).map_err(failed(&oldest.path))?;
        let both = oldest.base.iter().zip(&next.base);
        truncated.records += both.map(|(from, to)| to.saturating_sub(*from)).sum::<u64>();
        truncated.bytes = truncated.bytes.map(|bytes| bytes + size);
        tracing::info!(
            log = shared.name,
            path = %oldest.path.display(),
            "a segment is removed: snapshots have what it held"
        );
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> TruncateError {
    move |error| TruncateError::Failed(format!("{}: {error}", path.display()))
}

/// Removes the oldest segment; how many bytes it had. One whose file stays stays.
fn remove(shared: &Shared, oldest: &Segment) -> io::Result<u64> {
    let storage = shared.storage.as_ref();
    let size = storage.open_to_read(&oldest.path)?.size()?;
    // First for readers: from now on nobody is sent there.
    show(&mut shared.state.lock(), shared, |state| {
        state.segments.remove(0);
        state.sealed_bytes = state.sealed_bytes.saturating_sub(size);
    });
    if let Err(error) = storage.remove(&oldest.path) {
        show(&mut shared.state.lock(), shared, |state| {
            state.segments.insert(0, Arc::clone(oldest));
            state.sealed_bytes = state.sealed_bytes.saturating_add(size);
        });
        return Err(error);
    }
    storage.sync_dir(&shared.dir)?;
    Ok(size)
}

fn show(state: &mut State, shared: &Shared, change: impl FnOnce(&mut State)) {
    change(state);
    let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let segments = u64::try_from(state.segments.len()).unwrap_or(u64::MAX);
    shared.metrics.segments.set(gauge(segments));
    shared.metrics.size_bytes.set(gauge(state.bytes()));
}

/// The oldest segment, where all it holds lies below, and the one after it.
fn removable(state: &State, below: &[Offset]) -> Option<(Segment, Segment)> {
    let (oldest, next) = (state.segments.first()?, state.segments.get(1)?);
    let passed = next.base.len() == below.len()
        && next
            .base
            .iter()
            .zip(below)
            .all(|(base, below)| base <= below);
    passed.then(|| (Arc::clone(oldest), Arc::clone(next)))
}
