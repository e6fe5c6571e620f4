//! The contract's bounds on what is appended, which every log checks alike.

use tally_domain::Partition;

use crate::contract::{AppendRefused, NewRecord};

pub(crate) const MAX_KEY_BYTES: usize = 64 * 1024;
pub(crate) const MAX_VALUE_BYTES: usize = 1024 * 1024;

/// A batch ends before the record that would take it past this, [`RECORD_BYTES`] each included, so
/// that records without a byte are bounded too.
pub(crate) const BATCH_BYTES: usize = 1024 * 1024;
/// What a record counts in a batch besides its key and value.
pub(crate) const RECORD_BYTES: usize = 32;

/// The bytes of all keys and values of an append that may be made.
///
/// # Errors
/// [`AppendRefused::Invalid`] where a record is too large or names a partition that is not there.
pub(crate) fn check(records: &[NewRecord], partitions: u32) -> Result<usize, AppendRefused> {
    let mut bytes = 0_usize;
    for NewRecord {
        partition,
        key,
        value,
        traceparent: _,
    } in records
    {
        let (key, value) = (key.len(), value.len());
        check_one(*partition, key, value, partitions).map_err(AppendRefused::Invalid)?;
        bytes = bytes.saturating_add(key).saturating_add(value);
    }
    Ok(bytes)
}

fn check_one(
    partition: Partition,
    key: usize,
    value: usize,
    partitions: u32,
) -> Result<(), String> {
    if partition >= partitions {
        return Err(format!(
            "there is no partition {partition}, the log has {partitions}"
        ));
    }
    if key > MAX_KEY_BYTES {
        return Err(format!(
            "a key of {key} bytes is over the limit of {MAX_KEY_BYTES}"
        ));
    }
    if value > MAX_VALUE_BYTES {
        return Err(format!(
            "a value of {value} bytes is over the limit of {MAX_VALUE_BYTES}"
        ));
    }
    Ok(())
}
