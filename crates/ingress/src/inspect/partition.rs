//! One partition's state, whole, for whoever compares it with a fold of the log.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};
use tally_domain::{
    Counters, Offset, Partition, Resource, ResourceId, ResourceType, Toggles, UserId,
};
use tally_projector::{Difference, PartitionDump};

use super::{InspectError, write_line};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    partition: Partition,
    next_offset: Offset,
    digest: String,
    keys_digest: String,
    remembered_keys: u64,
    dead_letters: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CountersLine {
    resource_type: ResourceType,
    resource_id: ResourceId,
    counters: Counters,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TogglesLine {
    user: UserId,
    resource_type: ResourceType,
    resource_id: ResourceId,
    liked: bool,
    bookmarked: bool,
}

/// Writes a partition's state: a line with its position and digests, then one for each resource,
/// then one for each user with something set.
///
/// # Errors
/// [`InspectError::Write`].
pub fn partition_cat(dump: &PartitionDump, out: &mut dyn Write) -> Result<(), InspectError> {
    let head = Head {
        partition: dump.partition,
        next_offset: dump.next_offset,
        digest: dump.digest().to_string(),
        keys_digest: dump.keys.to_string(),
        remembered_keys: dump.remembered_keys,
        dead_letters: dump.dead_letters,
    };
    write_line(out, &head)?;
    write_counters(&dump.counters, out)?;
    write_toggles(&dump.toggles, out)?;
    Ok(out.flush()?)
}

/// Writes a line for each resource.
pub(super) fn write_counters(
    counters: &[(Resource, Counters)],
    out: &mut dyn Write,
) -> io::Result<()> {
    for (Resource { kind, id }, counters) in counters {
        let line = CountersLine {
            resource_type: *kind,
            resource_id: *id,
            counters: *counters,
        };
        write_line(out, &line)?;
    }
    Ok(())
}

/// Writes a line for each user with something set.
pub(super) fn write_toggles(
    toggles: &[(Resource, UserId, Toggles)],
    out: &mut dyn Write,
) -> io::Result<()> {
    for (Resource { kind, id }, user, set) in toggles {
        let line = TogglesLine {
            user: user.clone(),
            resource_type: *kind,
            resource_id: *id,
            liked: set.liked,
            bookmarked: set.bookmarked,
        };
        write_line(out, &line)?;
    }
    Ok(())
}

/// Why lines are not a partition's state.
#[derive(Debug, thiserror::Error)]
pub enum PartitionLinesError {
    /// A line is not what it should be.
    #[error("line {line} of a partition's state can't be read: {why}")]
    Line {
        /// Which, from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// What the lines hold is not what the first one says.
    #[error("the lines of partition {0} are not what its digest was made of")]
    Digest(Partition),
}

/// Reads what [`partition_cat`] wrote.
///
/// # Errors
/// [`PartitionLinesError`], also where lines are missing.
pub fn read_partition(lines: &[u8]) -> Result<PartitionDump, PartitionLinesError> {
    let wrong = |line: usize, why: String| PartitionLinesError::Line { line, why };
    let mut lines = lines.split(|byte| *byte == b'\n').enumerate();
    let (_, first) = lines.next().unwrap_or_default();
    let head: Head = serde_json::from_slice(first).map_err(|error| wrong(1, error.to_string()))?;
    let keys = head.keys_digest.parse();
    let mut dump = PartitionDump {
        partition: head.partition,
        next_offset: head.next_offset,
        keys: keys.map_err(|error: tally_domain::NoDigest| wrong(1, error.to_string()))?,
        counters: Vec::new(),
        toggles: Vec::new(),
        dead_letters: head.dead_letters,
        remembered_keys: head.remembered_keys,
    };
    for (number, line) in lines.filter(|(_, line)| !line.is_empty()) {
        if let Ok(line) = serde_json::from_slice::<CountersLine>(line) {
            let (kind, id) = (line.resource_type, line.resource_id);
            dump.counters.push((Resource { kind, id }, line.counters));
            continue;
        }
        let line: TogglesLine = serde_json::from_slice(line)
            .map_err(|error| wrong(number.saturating_add(1), error.to_string()))?;
        let (kind, id) = (line.resource_type, line.resource_id);
        let set = Toggles {
            liked: line.liked,
            bookmarked: line.bookmarked,
        };
        dump.toggles.push((Resource { kind, id }, line.user, set));
    }
    if dump.digest().to_string() == head.digest {
        Ok(dump)
    } else {
        Err(PartitionLinesError::Digest(head.partition))
    }
}

#[derive(Serialize)]
struct Compared<T> {
    stored: T,
    folded: T,
}

#[derive(Serialize)]
struct DifferenceLine<'a, T> {
    partition: Partition,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a UserId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_type: Option<ResourceType>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_id: Option<ResourceId>,
    #[serde(flatten)]
    what: T,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum What {
    Counters(Compared<Option<Counters>>),
    Toggles(Compared<Toggles>),
    RememberedKeys(Compared<u64>),
    DeadLetters(Compared<u64>),
}

/// Writes in what a partition's stored state differs, a line for each:
/// `{"partition":3,"resource_type":"quest","resource_id":42,"counters":{"stored":{…},"folded":{…}}}`.
///
/// # Errors
/// [`InspectError::Write`].
pub fn differences(
    partition: Partition,
    differences: &[Difference],
    out: &mut dyn Write,
) -> Result<(), InspectError> {
    for difference in differences {
        let (user, resource, what) = match difference.clone() {
            Difference::Counters {
                resource,
                stored,
                folded,
            } => (
                None,
                Some(resource),
                What::Counters(Compared { stored, folded }),
            ),
            Difference::Toggles {
                resource,
                ref user,
                stored,
                folded,
            } => {
                let what = What::Toggles(Compared { stored, folded });
                (Some(user.clone()), Some(resource), what)
            }
            Difference::RememberedKeys { stored, folded } => (
                None,
                None,
                What::RememberedKeys(Compared { stored, folded }),
            ),
            Difference::DeadLetters { stored, folded } => {
                (None, None, What::DeadLetters(Compared { stored, folded }))
            }
        };
        let line = DifferenceLine {
            partition,
            user: user.as_ref(),
            resource_type: resource.map(|resource| resource.kind),
            resource_id: resource.map(|resource| resource.id),
            what,
        };
        write_line(out, &line)?;
    }
    Ok(out.flush()?)
}
