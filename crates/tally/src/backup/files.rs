//! Files copied and hashed, a part at a time.

use std::path::Path;

use sha2::{Digest as _, Sha256};
use tally_log::storage::{File, Storage};

use super::{BackupError, Watch};

/// How much is read at once, in bytes.
const PART: usize = 1 << 20;

/// Bytes as hexadecimal digits.
pub(super) fn hex(bytes: impl AsRef<[u8]>) -> String {
    let bytes = bytes.as_ref().iter();
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

/// Does something with a part of a file and its place.
type Each<'a> = &'a mut dyn FnMut(&[u8], u64) -> Result<(), BackupError>;

/// The SHA-256 of the first bytes of a file; each part is handed on with its place.
fn parts(
    (file, path): (&dyn File, &Path),
    bytes: u64,
    watch: &mut dyn Watch,
    each: Each<'_>,
) -> Result<String, BackupError> {
    let mut hash = Sha256::new();
    let mut part = vec![0; PART];
    let mut at = 0;
    while at < bytes {
        let left = usize::try_from(bytes - at).unwrap_or(PART).min(PART);
        let part = part.get_mut(..left).unwrap_or_default();
        file.read_exact_at(part, at)
            .map_err(BackupError::io("read", path))?;
        hash.update(&*part);
        each(part, at)?;
        at += left as u64;
        watch.moved(left as u64);
    }
    Ok(hex(hash.finalize()))
}

/// The SHA-256 of a file of so many bytes.
pub(super) fn hash(
    file: (&dyn File, &Path),
    bytes: u64,
    watch: &mut dyn Watch,
) -> Result<String, BackupError> {
    parts(file, bytes, watch, &mut |_, _| Ok(()))
}

/// Copies the first bytes of a file to a new one, synced, whose name is durable once its folder is
/// synced. Returns the SHA-256 of what was copied.
pub(super) fn copy(
    storage: &dyn Storage,
    from: (&dyn File, &Path),
    bytes: u64,
    to: &Path,
    watch: &mut dyn Watch,
) -> Result<String, BackupError> {
    let copy = storage.create(to).map_err(BackupError::io("made", to))?;
    let hash = parts(from, bytes, watch, &mut |part, at| {
        copy.write_all_at(part, at)
            .map_err(BackupError::io("written", to))
    })?;
    copy.sync_data().map_err(BackupError::io("synced", to))?;
    Ok(hash)
}
