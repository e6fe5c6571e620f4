//! The state, as of the end of the log.

use std::io::Write;
use std::time::Duration;

use serde::Serialize;
use tally_domain::{
    Counters, Digest, FOLD_VERSION, LogId, Offset, Resource, ResourceId, ResourceType,
};
use tally_log::EventLog;
use tally_projector::{Projector, StateDump, StateSummary};

use super::{InspectError, write_line};

/// A copy of the state that includes everything the log holds now.
///
/// # Errors
/// [`InspectError::Behind`] where the fold has stopped.
pub fn dump(projector: &Projector, stop: &dyn Fn() -> bool) -> Result<StateDump, InspectError> {
    loop {
        let head = catch_up(projector, stop)?;
        let dump = projector.dump()?;
        // It may have been opened again in between, and be behind once more.
        if includes(&dump.positions, &head) {
            return Ok(dump);
        }
    }
}

/// The state in a few numbers, everything included that the log holds now.
///
/// # Errors
/// [`InspectError::Behind`] where the fold has stopped.
pub fn summary(
    projector: &Projector,
    stop: &dyn Fn() -> bool,
) -> Result<StateSummary, InspectError> {
    loop {
        let head = catch_up(projector, stop)?;
        let summary = projector.summary()?;
        if includes(&summary.positions, &head) {
            return Ok(summary);
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

#[derive(Serialize)]
struct CountersLine {
    resource_type: ResourceType,
    resource_id: ResourceId,
    counters: Counters,
}

#[derive(Serialize)]
struct TogglesLine<'a> {
    user: &'a str,
    resource_type: ResourceType,
    resource_id: ResourceId,
    liked: bool,
    bookmarked: bool,
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
        for (Resource { kind, id }, user, set) in &dump.toggles {
            let line = TogglesLine {
                user: user.as_str(),
                resource_type: *kind,
                resource_id: *id,
                liked: set.liked,
                bookmarked: set.bookmarked,
            };
            write_line(out, &line)?;
        }
    } else {
        for (Resource { kind, id }, counters) in &dump.counters {
            let (resource_type, resource_id) = (*kind, *id);
            write_line(
                out,
                &CountersLine {
                    resource_type,
                    resource_id,
                    counters: *counters,
                },
            )?;
        }
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
