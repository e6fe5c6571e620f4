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
//!
//! Version 2 is what was decided about a dead letter, `kind` `replay` or `drop`. A replay brings the
//! letter's event along, in its own version, where that belongs in another partition than the letter
//! stands in:
//!
//! ```json
//! {"v":2,"kind":"replay","id":"0193…","at":"…","origin":{"partition":3,"offset":17}}
//! {"v":2,"kind":"replay","id":"0193…","at":"…","origin":{"partition":3,"offset":17},"event":{"v":1,…}}
//! {"v":2,"kind":"drop","id":"0193…","at":"…","origin":{"partition":3,"offset":17}}
//! ```
//!
//! An interaction is still written in version 1: a build that knows no other reads it, and keeps the
//! rest as dead letters of a newer version.

use serde::{Deserialize, Serialize};

use crate::dead_letter::{DeadLetterReason, SettleAction, Settlement};
use crate::partition::{Offset, Partition, Position};
use crate::words::{
    Event, EventId, EventTime, IdempotencyKey, InteractionType, Resource, ResourceId, ResourceType,
    UserId,
};

/// The newest version that this build reads.
pub const SCHEMA_VERSION: u32 = 2;

/// The version in which [`encode`] writes an interaction.
const EVENT_VERSION: u64 = 1;

/// The version in which [`encode_settlement`] writes.
const SETTLEMENT_VERSION: u64 = 2;

/// What a record holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// An interaction.
    Event(Event),
    /// A replay or a drop of a dead letter.
    Settlement(Settlement),
}

impl Entry {
    /// Its identity.
    #[must_use]
    pub fn id(&self) -> EventId {
        match self {
            Self::Event(event) => event.id,
            Self::Settlement(settlement) => settlement.id,
        }
    }
}

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
    v: u64,
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

impl<'a> From<&'a Event> for Written<'a> {
    fn from(event: &'a Event) -> Self {
        Self {
            v: EVENT_VERSION,
            id: event.id,
            at: event.at,
            user: event.user.as_str(),
            resource_type: event.resource.kind,
            resource_id: event.resource.id,
            interaction_type: event.interaction,
            idempotency_key: event.idempotency_key.as_ref().map(IdempotencyKey::as_str),
        }
    }
}

impl From<Read> for Event {
    fn from(read: Read) -> Self {
        Self {
            id: read.id,
            at: read.at,
            user: read.user,
            resource: Resource {
                kind: read.resource_type,
                id: read.resource_id,
            },
            interaction: read.interaction_type,
            idempotency_key: read.idempotency_key,
        }
    }
}

#[derive(Deserialize)]
struct Versioned {
    v: u64,
}

#[derive(Serialize, Deserialize)]
struct Origin {
    partition: Partition,
    offset: Offset,
}

#[derive(Serialize)]
struct WrittenSettlement<'a> {
    v: u64,
    kind: &'a str,
    id: uuid::Uuid,
    at: EventTime,
    origin: Origin,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<Written<'a>>,
}

#[derive(Deserialize)]
struct ReadSettlement {
    kind: String,
    id: uuid::Uuid,
    at: EventTime,
    origin: Origin,
    #[serde(default)]
    event: Option<Read>,
}

/// What tells a newer event in a replay from damage.
#[derive(Deserialize)]
struct Brought {
    event: Versioned,
}

fn to_bytes(written: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    let wrote = serde_json::to_writer(&mut bytes, written);
    debug_assert!(
        wrote.is_ok(),
        "strings and integers always serialise into memory"
    );
    bytes
}

/// The event as bytes, in the newest version of an interaction.
#[must_use]
pub fn encode(event: &Event) -> Vec<u8> {
    to_bytes(&Written::from(event))
}

/// A replay or a drop as bytes.
#[must_use]
pub fn encode_settlement(settlement: &Settlement) -> Vec<u8> {
    let Position { partition, offset } = settlement.origin;
    to_bytes(&WrittenSettlement {
        v: SETTLEMENT_VERSION,
        kind: settlement.action.as_str(),
        id: settlement.id,
        at: settlement.at,
        origin: Origin { partition, offset },
        event: settlement.event.as_deref().map(Written::from),
    })
}

/// The schema version of what this build wrote; an interaction's where it is something else.
#[must_use]
pub fn written_version(bytes: &[u8]) -> u64 {
    if bytes.starts_with(b"{\"v\":2,") {
        SETTLEMENT_VERSION
    } else {
        EVENT_VERSION
    }
}

/// The event in `bytes`, lifted from whatever version it was written in.
///
/// # Errors
/// [`DecodeError`], also where it is a replay or a drop of a dead letter.
pub fn decode(bytes: &[u8]) -> Result<Event, DecodeError> {
    match decode_entry(bytes)? {
        Entry::Event(event) => Ok(event),
        Entry::Settlement(settlement) => {
            let what = settlement.action.as_str();
            Err(not_an_event(format_args!("a {what} of a dead letter")))
        }
    }
}

/// What `bytes` hold, lifted from whatever version it was written in.
///
/// # Errors
/// [`DecodeError`]: such a record becomes a dead letter.
pub fn decode_entry(bytes: &[u8]) -> Result<Entry, DecodeError> {
    // A derived reader would also take the fields' values in an array.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(not_an_event("not a JSON object"));
    }
    let (v, why) = match serde_json::from_slice::<Read>(bytes) {
        Ok(read) if read.v == EVENT_VERSION => return Ok(Entry::Event(read.into())),
        Ok(read) => (read.v, None),
        Err(error) => match serde_json::from_slice::<Versioned>(bytes) {
            Ok(Versioned { v }) => (v, Some(error)),
            Err(_) => return Err(DecodeError::NotAnEvent(error)),
        },
    };
    match (v, why) {
        (SETTLEMENT_VERSION, _) => decode_settlement(bytes).map(Entry::Settlement),
        (EVENT_VERSION, Some(error)) => Err(DecodeError::NotAnEvent(error)),
        (v, _) => Err(other_version(v)),
    }
}

fn decode_settlement(bytes: &[u8]) -> Result<Settlement, DecodeError> {
    let read = serde_json::from_slice::<ReadSettlement>(bytes);
    let read = read.map_err(|error| match serde_json::from_slice::<Brought>(bytes) {
        Ok(Brought { event }) if event.v != EVENT_VERSION => other_version(event.v),
        Ok(_) | Err(_) => DecodeError::NotAnEvent(error),
    })?;
    let action = SettleAction::ALL
        .iter()
        .find(|action| action.as_str() == read.kind);
    let Some(action) = action.copied() else {
        return Err(not_an_event("no kind of version 2"));
    };
    let event = match (action, read.event) {
        (SettleAction::Drop, _) | (SettleAction::Replay, None) => None,
        (SettleAction::Replay, Some(event)) if event.v == EVENT_VERSION => {
            Some(Box::new(Event::from(event)))
        }
        (SettleAction::Replay, Some(event)) => return Err(other_version(event.v)),
    };
    Ok(Settlement {
        id: read.id,
        at: read.at,
        action,
        origin: Position {
            partition: read.origin.partition,
            offset: read.origin.offset,
        },
        event,
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
