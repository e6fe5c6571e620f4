//! How an event is written, and how every version ever written is read.
//!
//! An event is one JSON object (see `tests/golden/`). Version 1:
//!
//! ```json
//! {"v":1,"id":"0193a6f0-7b3e-7c4a-9d3e-2f1b5c6d7e8f","at":"2026-11-24T03:50:12.345Z","user":"1",
//!  "resource_type":"ai_note","resource_id":15,"interaction_type":"bookmark","idempotency_key":"k-1"}
//! ```
//!
//! `idempotency_key` is absent when there is none. Unknown fields are ignored, so that a later
//! writer may add what an older reader can do without; what it can't do without needs a new `v`.

use serde::{Deserialize, Serialize};

use crate::dead_letter::DeadLetterReason;
use crate::words::{
    Event, EventTime, IdempotencyKey, InteractionType, Resource, ResourceId, ResourceType, UserId,
};

/// The version [`encode`] writes.
pub const SCHEMA_VERSION: u32 = 1;

/// Why bytes are not an event this build can fold.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not a JSON object with an integer `v`.
    #[error("not an event: {0}")]
    NotAnEvent(#[source] serde_json::Error),
    /// A version this build does not know.
    #[error(
        "schema version {0} is newer than {SCHEMA_VERSION}, the newest this build reads; upgrade, then rebuild"
    )]
    UnknownVersion(u64),
}

impl DecodeError {
    /// The dead letter's reason.
    #[must_use]
    pub fn reason(&self) -> DeadLetterReason {
        match self {
            Self::NotAnEvent(_) => DeadLetterReason::Undecodable,
            Self::UnknownVersion(_) => DeadLetterReason::UnknownVersion,
        }
    }
}

#[derive(Serialize)]
struct Written<'a> {
    v: u32,
    id: uuid::Uuid,
    at: EventTime,
    user: &'a str,
    resource_type: ResourceType,
    resource_id: ResourceId,
    interaction_type: InteractionType,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<&'a str>,
}

#[derive(Deserialize)]
struct Read {
    v: u64,
    id: uuid::Uuid,
    at: EventTime,
    user: UserId,
    resource_type: ResourceType,
    resource_id: ResourceId,
    interaction_type: InteractionType,
    #[serde(default)]
    idempotency_key: Option<IdempotencyKey>,
}

#[derive(Deserialize)]
struct Versioned {
    v: u64,
}

/// The event as bytes, in the newest version.
#[must_use]
pub fn encode(event: &Event) -> Vec<u8> {
    let written = Written {
        v: SCHEMA_VERSION,
        id: event.id,
        at: event.at,
        user: event.user.as_str(),
        resource_type: event.resource.kind,
        resource_id: event.resource.id,
        interaction_type: event.interaction,
        idempotency_key: event.idempotency_key.as_ref().map(IdempotencyKey::as_str),
    };
    let mut bytes = Vec::with_capacity(256);
    let wrote = serde_json::to_writer(&mut bytes, &written);
    debug_assert!(
        wrote.is_ok(),
        "strings and integers always serialise into memory"
    );
    bytes
}

/// The event in `bytes`, lifted from whatever version it was written in.
///
/// # Errors
/// [`DecodeError`]: such a record becomes a dead letter.
pub fn decode(bytes: &[u8]) -> Result<Event, DecodeError> {
    // A derived reader would also take the fields' values in an array.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(not_an_event("not a JSON object"));
    }
    let read = match serde_json::from_slice::<Read>(bytes) {
        Ok(read) if read.v == u64::from(SCHEMA_VERSION) => read,
        Ok(read) => return Err(other_version(read.v)),
        Err(error) => {
            return Err(match serde_json::from_slice::<Versioned>(bytes) {
                Ok(Versioned { v }) if v != u64::from(SCHEMA_VERSION) => other_version(v),
                Ok(_) | Err(_) => DecodeError::NotAnEvent(error),
            });
        }
    };
    Ok(Event {
        id: read.id,
        at: read.at,
        user: read.user,
        resource: Resource {
            kind: read.resource_type,
            id: read.resource_id,
        },
        interaction: read.interaction_type,
        idempotency_key: read.idempotency_key,
    })
}

fn other_version(v: u64) -> DecodeError {
    if v > u64::from(SCHEMA_VERSION) {
        DecodeError::UnknownVersion(v)
    } else {
        not_an_event(format_args!("schema version {v} was never written"))
    }
}

fn not_an_event(why: impl std::fmt::Display) -> DecodeError {
    DecodeError::NotAnEvent(serde::de::Error::custom(why))
}
