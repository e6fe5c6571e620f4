//! The state, as of the end of the log.

use std::io::Write;
use std::time::Duration;

use serde::Serialize;
use tally_domain::{Digest, FOLD_VERSION, LogId, Offset};
use tally_log::EventLog;
use tally_projector::{Projector, StateDump, StateError, StateSummary};

use super::partition::{write_counters, write_toggles};
use super::{InspectError, write_line};

/// A copy of the state that includes everything the log holds now.
///
/// # Errors
/// [`InspectError::Behind`] where the fold has stopped.
pub fn dump(projector: &Projector, stop: &dyn Fn() -> bool) -> Result<StateDump, InspectError> {
    caught_up(projector, stop, Projector::dump, |dump| &dump.positions)
}

/// The state in a few numbers, everything included that the log holds now.
///
/// # Errors
/// [`InspectError::Behind`] where the fold has stopped.
pub fn summary(
    projector: &Projector,
    stop: &dyn Fn() -> bool,
) -> Result<StateSummary, InspectError> {
    caught_up(projector, stop, Projector::summary, |summary| {
        &summary.positions
    })
}

/// What is taken of a state that has caught up. It may have been opened again in between, and be
/// behind once more: then it is taken once more.
fn caught_up<T>(
    projector: &Projector,
    stop: &dyn Fn() -> bool,
    take: impl Fn(&Projector) -> Result<T, StateError>,
    positions: impl Fn(&T) -> &[Offset],
) -> Result<T, InspectError> {
    loop {
        let head = catch_up(projector, stop)?;
        let taken = take(projector)?;
        if includes(positions(&taken), &head) {
            return Ok(taken);
        }
    }
}

fn includes(positions: &[Offset], head: &[Offset]) -> bool {
    let mut both = positions.iter().zip(head);
    positions.len() == head.len() && both.all(|(next, head)| next >= head)
}

/// Waits until the state includes everything the log holds now; the log's head.
///
/// # Errors
/// [`InspectError::Behind`] where the fold has stopped.
pub fn catch_up(
    projector: &Projector,
    stop: &dyn Fn() -> bool,
) -> Result<Vec<Offset>, InspectError> {
    let head = projector.log().head()?;
    loop {
        let status = projector.status();
        let next = status.partitions.iter().map(|one| one.next_offset);
        if includes(&next.collect::<Vec<_>>(), &head) {
            return Ok(head);
        }
        // A state that is being opened again will be there in a moment.
        if let Some(why) = status.failure.filter(|_| !status.reopening) {
            return Err(InspectError::Behind(why));
        }
        if stop() {
            return Err(InspectError::Stopped);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[derive(Serialize)]
struct StateLine<T> {
    state: T,
}

#[derive(Serialize)]
struct StateHead<'a> {
    positions: &'a [Offset],
    digest: Text<Digest>,
}

/// Serialised as it is displayed.
struct Text<T>(T);

impl<T: std::fmt::Display> Serialize for Text<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// Writes the state: a first line with positions and digest, then a line for each resource that
/// has events, or for each user with something set.
///
/// # Errors
/// [`InspectError::Write`].
pub fn state_cat(dump: &StateDump, toggles: bool, out: &mut dyn Write) -> Result<(), InspectError> {
    let head = StateHead {
        positions: &dump.positions,
        digest: Text(dump.digest),
    };
    write_line(out, &StateLine { state: head })?;
    if toggles {
        write_toggles(&dump.toggles, out)?;
    } else {
        write_counters(&dump.counters, out)?;
    }
    Ok(out.flush()?)
}

#[derive(Serialize)]
struct SummaryLine<'a> {
    log: LogId,
    partitions: u32,
    fold_version: u32,
    positions: &'a [Offset],
    digest: Text<Digest>,
    resources: u64,
    toggles: u64,
    remembered_keys: u64,
    dead_letters: u64,
}

/// Writes the state's summary, one line.
///
/// # Errors
/// [`InspectError::Write`].
pub fn state_info(
    log: &dyn EventLog,
    summary: &StateSummary,
    out: &mut dyn Write,
) -> Result<(), InspectError> {
    let identity = log.identity();
    let line = SummaryLine {
        log: identity.id,
        partitions: identity.partitions,
        fold_version: FOLD_VERSION,
        positions: &summary.positions,
        digest: Text(summary.digest),
        resources: summary.resources,
        toggles: summary.toggles,
        remembered_keys: summary.remembered_keys,
        dead_letters: summary.dead_letters,
    };
    write_line(out, &StateLine { state: line })?;
    Ok(out.flush()?)
}
