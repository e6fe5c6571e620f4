//! The file that says which log a folder holds.

use std::io;
use std::path::Path;

use tally_domain::LogId;

use super::layout::FORMAT_VERSION;
use super::options::OpenError;
use super::segment::{Failure, make_file};
use crate::contract::LogIdentity;
use crate::storage::Storage;

pub(crate) const FILE: &str = "identity";

/// Far more than it ever has; a longer file is not one of ours.
const MAX_BYTES: u64 = 4096;

fn encode(identity: LogIdentity) -> String {
    let LogIdentity { id, partitions } = identity;
    let text = format!("tally-log {FORMAT_VERSION}\nid {id}\npartitions {partitions}\n");
    let checksum = crc32c::crc32c(text.as_bytes());
    format!("{text}crc32c {checksum:08x}\n")
}

enum Malformed {
    OtherVersion(u32),
    Other(&'static str),
}

fn decode(text: &str) -> Result<LogIdentity, Malformed> {
    let other = Malformed::Other;
    let mut lines = text.lines();
    let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
    let version = field("tally-log").ok_or(other("it does not start with tally-log"))?;
    let version: u32 = version
        .parse()
        .map_err(|_| other("its version is no number"))?;
    if version != FORMAT_VERSION {
        return Err(Malformed::OtherVersion(version));
    }
    let id = field("id").and_then(|id| LogId::parse_str(id).ok());
    let partitions = field("partitions").and_then(|n| n.parse().ok());
    let (Some(id), Some(partitions)) = (id, partitions) else {
        return Err(other("it does not have the lines that it should"));
    };
    let identity = LogIdentity { id, partitions };
    if encode(identity) != text {
        return Err(other("its checksum is wrong"));
    }
    Ok(identity)
}

/// Reads it; `None` where there is none.
pub(crate) fn read(storage: &dyn Storage, dir: &Path) -> Result<Option<LogIdentity>, OpenError> {
    let path = dir.join(FILE);
    let damaged = |what: &str| OpenError::damaged(&path, 0, what);
    let file = match storage.open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(OpenError::io("opened", &path))?,
    };
    let size = file.size().map_err(OpenError::io("read", &path))?;
    let len = usize::try_from(size.min(MAX_BYTES)).unwrap_or_default();
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0)
        .map_err(OpenError::io("read", &path))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| damaged("it is not text"))?;
    match decode(text) {
        Ok(identity) => Ok(Some(identity)),
        Err(Malformed::OtherVersion(found)) => Err(OpenError::OtherVersion { file: path, found }),
        Err(Malformed::Other(what)) => Err(damaged(what)),
    }
}

/// Makes a new log's identity, durable.
pub(crate) fn create(
    storage: &dyn Storage,
    dir: &Path,
    partitions: u32,
) -> Result<LogIdentity, OpenError> {
    let path = dir.join(FILE);
    let id = LogId::now_v7();
    let identity = LogIdentity { id, partitions };
    let text = encode(identity);
    make_file(storage, &path, text.as_bytes(), text.len() as u64).map_err(
        |failure| match failure {
            Failure::Write(cause) => OpenError::io("written", &path)(cause),
            Failure::Sync(cause) => OpenError::io("synced", &path)(cause),
        },
    )?;
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// State belongs to one log: an identity with a changed character must not pass for another.
    #[test]
    fn every_changed_byte_is_noticed() {
        let identity = LogIdentity {
            id: LogId::now_v7(),
            partitions: 16,
        };
        let text = encode(identity);
        assert_eq!(decode(&text).ok(), Some(identity));
        for place in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[place] ^= 1;
            let changed = String::from_utf8(bytes).unwrap();
            assert!(decode(&changed).is_err(), "byte {place}");
            assert!(decode(&text[..place]).is_err(), "cut at {place}");
        }
    }
}
