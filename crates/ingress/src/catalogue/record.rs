//! One change to the catalogue as a record of its log.

use serde::{Deserialize, Serialize};
use tally_domain::{EventTime, Resource, ResourceId, ResourceType};
use tally_log::NewRecord;

use super::PARTITION;

/// The version of a record that this build writes.
const VERSION: u64 = 1;

/// What a record does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Action {
    Add,
    Retire,
}

/// A record's value.
#[derive(Serialize, Deserialize)]
struct Change {
    v: u64,
    at: EventTime,
    action: Action,
    resource_type: ResourceType,
    resource_id: ResourceId,
}

/// A change as a record.
pub(super) fn record(action: Action, resource: Resource, at: EventTime) -> NewRecord {
    let change = Change {
        v: VERSION,
        at,
        action,
        resource_type: resource.kind,
        resource_id: resource.id,
    };
    let mut value = Vec::with_capacity(128);
    let wrote = serde_json::to_writer(&mut value, &change);
    debug_assert!(
        wrote.is_ok(),
        "strings and integers always serialise into memory"
    );
    NewRecord {
        partition: PARTITION,
        key: resource.key().as_bytes().to_vec(),
        value,
        traceparent: None,
    }
}

/// What a record does with which resource, or why that can't be said.
pub(super) fn decode(value: &[u8]) -> Result<(Action, Resource), String> {
    #[derive(Deserialize)]
    struct Versioned {
        v: u64,
    }
    let other = |v| format!("version {v} is not known to this build, which reads {VERSION}");
    // A derived reader would also take the fields' values in an array.
    if value.trim_ascii_start().first() != Some(&b'{') {
        return Err("not a JSON object".to_owned());
    }
    let change = match serde_json::from_slice::<Change>(value) {
        Ok(change) if change.v == VERSION => change,
        Ok(change) => return Err(other(change.v)),
        Err(error) => {
            return Err(match serde_json::from_slice::<Versioned>(value) {
                Ok(Versioned { v }) if v != VERSION => other(v),
                Ok(_) | Err(_) => error.to_string(),
            });
        }
    };
    let resource = Resource {
        kind: change.resource_type,
        id: change.resource_id,
    };
    Ok((change.action, resource))
}
