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
    catch_up(projector, stop)?;
    Ok(projector.dump()?)
}

/// The state in a few numbers, everything included that the log holds now.
///
/// # Errors
/// [`InspectError::Behind`] where the fold has stopped.
pub fn summary(
    projector: &Projector,
    stop: &dyn Fn() -> bool,
) -> Result<StateSummary, InspectError> {
    catch_up(projector, stop)?;
    Ok(projector.summary()?)
}

/// Waits until the state includes everything the log holds now.
///
/// # Errors
/// [`InspectError::Behind`] where the fold has stopped.
pub fn catch_up(projector: &Projector, stop: &dyn Fn() -> bool) -> Result<(), InspectError> {
    let head = projector.log().head()?;
    loop {
        let status = projector.status();
        let mut both = status.partitions.iter().zip(&head);
        if both.all(|(partition, head)| partition.next_offset >= *head) {
            return Ok(());
        }
        if let Some(why) = status.failure {
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
