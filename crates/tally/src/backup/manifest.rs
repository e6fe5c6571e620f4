//! What a backup holds: `backup.json`, whose form `docs/backup.md` describes.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tally_domain::{EventTime, LogId, Offset};
use tally_log::storage::Storage;

use super::{BackupError, CATALOGUE, KEYS, LOG, files};

/// Its name in a backup's folder.
pub(crate) const FILE: &str = "backup.json";
/// The version that this build writes and reads.
pub(crate) const VERSION: u32 = 1;

/// Far more than the files of the largest log take, in bytes.
const MAX_BYTES: u64 = 256 << 20;

/// The manifest of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    version: u32,
    /// The program's version that made it.
    pub(crate) tally: String,
    /// Nothing that was acknowledged before is missing.
    pub(crate) made_at: EventTime,
    /// Of the state that the log of interactions folds to; it names the fold's version.
    pub(crate) digest: String,
    pub(crate) logs: CopiedLogs,
    /// Every file of the backup but this one.
    pub(crate) files: Vec<CopiedFile>,
    /// Of this file with nothing between the quotes here.
    sha256: String,
}

/// Both logs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CopiedLogs {
    pub(crate) interactions: CopiedLog,
    pub(crate) catalogue: CopiedLog,
}

/// Up to where a log was copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CopiedLog {
    pub(crate) id: LogId,
    pub(crate) partitions: u32,
    /// Of each partition.
    pub(crate) next_offsets: Vec<Offset>,
}

/// A file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CopiedFile {
    /// Below the backup's folder, and below the data folder, with `/` between names.
    pub(crate) path: String,
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl CopiedLogs {
    /// With the folder of each.
    pub(crate) fn folders(&self) -> [(&'static str, &CopiedLog); 2] {
        [(LOG, &self.interactions), (CATALOGUE, &self.catalogue)]
    }

    /// How many records the log of interactions has, which begins at 0.
    pub(crate) fn events(&self) -> u64 {
        let each = self.interactions.next_offsets.iter();
        each.fold(0, |sum, offset| sum.saturating_add(*offset))
    }
}

impl Manifest {
    /// The manifest of what was copied now.
    pub(super) fn new(
        made_at: EventTime,
        digest: String,
        logs: CopiedLogs,
        files: Vec<CopiedFile>,
    ) -> Self {
        Self {
            version: VERSION,
            tally: env!("CARGO_PKG_VERSION").to_owned(),
            made_at,
            digest,
            logs,
            files,
            sha256: String::new(),
        }
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        let each = self.files.iter();
        each.fold(0, |sum, file| sum.saturating_add(file.bytes))
    }

    /// Whether the API keys are in it.
    pub(crate) fn has_keys(&self) -> bool {
        self.files.iter().any(|file| file.path == KEYS)
    }

    /// As it stands in the file.
    pub(super) fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        let with = |sha256: String| {
            let manifest = Self {
                sha256,
                ..self.clone()
            };
            let mut bytes = serde_json::to_vec_pretty(&manifest)?;
            bytes.push(b'\n');
            Ok::<_, serde_json::Error>(bytes)
        };
        let check = files::hex(Sha256::digest(with(String::new())?));
        with(check)
    }

    /// What the bytes of a manifest say, all of it as it was written.
    pub(super) fn decode(file: &Path, bytes: &[u8]) -> Result<Self, BackupError> {
        let no_json = |error: serde_json::Error| BackupError::damaged(file, error.to_string());
        let Versioned { version } = serde_json::from_slice(bytes).map_err(no_json)?;
        if version != VERSION {
            return Err(BackupError::OtherVersion {
                file: file.to_owned(),
                found: version,
            });
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(no_json)?;
        // Also what JSON does not mind, as a blank more, is not as it was written.
        if manifest.encode().map_err(no_json)? != bytes {
            return Err(BackupError::damaged(file, "its checksum is wrong"));
        }
        for log in manifest.logs.folders().map(|(_, log)| log) {
            if log.next_offsets.len() as u64 != u64::from(log.partitions) {
                return Err(BackupError::damaged(file, "a log lacks next offsets"));
            }
        }
        let foreign = |file: &&CopiedFile| !is_ours(&file.path);
        match manifest.files.iter().find(foreign) {
            Some(CopiedFile { path, .. }) => Err(BackupError::damaged(
                file,
                format!("it names {path:?}, which is no file of a backup"),
            )),
            None => Ok(manifest),
        }
    }

    /// The manifest of the backup in a folder.
    pub(crate) fn read(storage: &dyn Storage, dir: &Path) -> Result<Self, BackupError> {
        let path = dir.join(FILE);
        let failed = BackupError::io("read", &path);
        let file = match storage.open_to_read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(BackupError::NoBackup {
                    dir: dir.to_owned(),
                });
            }
            other => other.map_err(&failed)?,
        };
        let size = file.size().map_err(&failed)?;
        if size > MAX_BYTES {
            return Err(BackupError::damaged(&path, "it is far too long"));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
        file.read_exact_at(&mut bytes, 0).map_err(&failed)?;
        Self::decode(&path, &bytes)
    }

    /// Writes it into a folder whose other files are synced: from then on that is a backup.
    pub(super) fn write(&self, storage: &dyn Storage, dir: &Path) -> Result<(), BackupError> {
        let path = dir.join(FILE);
        let new = dir.join("backup.json.new");
        let bytes = self
            .encode()
            .map_err(|cause| BackupError::Manifest { cause })?;
        let file = storage
            .create(&new)
            .map_err(BackupError::io("made", &new))?;
        let written = file.write_all_at(&bytes, 0).and_then(|()| file.sync_data());
        written.map_err(BackupError::io("written", &new))?;
        storage
            .rename(&new, &path)
            .and_then(|()| storage.sync_dir(dir))
            .map_err(BackupError::io("written", &path))
    }
}

/// Whether a backup can have a file of this path. Whatever else a manifest names is never written.
fn is_ours(path: &str) -> bool {
    let segment = |name: &str| {
        let digits = name.strip_suffix(".log");
        digits
            .is_some_and(|digits| digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit()))
    };
    match path.split_once('/') {
        Some((LOG | CATALOGUE, name)) => name == "identity" || segment(name),
        Some(_) => false,
        None => path == KEYS,
    }
}

/// A path of a manifest below a folder.
pub(super) fn below(dir: &Path, file: &CopiedFile) -> PathBuf {
    dir.join(&file.path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let log = |partitions| CopiedLog {
            id: LogId::now_v7(),
            partitions,
            next_offsets: (0..u64::from(partitions)).collect(),
        };
        let logs = CopiedLogs {
            interactions: log(3),
            catalogue: log(1),
        };
        let file = |path: &str| CopiedFile {
            path: path.to_owned(),
            bytes: 7,
            sha256: "0".repeat(64),
        };
        let files = vec![file("log/identity"), file(KEYS)];
        Manifest::new(EventTime::from_millis(1), "v2:00".to_owned(), logs, files)
    }

    /// Protects the list of what is to be checked from being changed itself.
    #[test]
    fn every_changed_byte_is_noticed() {
        let bytes = manifest().encode().unwrap();
        let decoded = |bytes: &[u8]| Manifest::decode(Path::new(FILE), bytes);
        assert_eq!(decoded(&bytes).unwrap().encode().unwrap(), bytes);
        for place in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[place] ^= 1 << bit;
                assert!(decoded(&changed).is_err(), "byte {place}, bit {bit}");
            }
            assert!(decoded(&bytes[..place]).is_err(), "cut at {place}");
            let longer = [&bytes[..place], b" ", &bytes[place..]].concat();
            assert!(decoded(&longer).is_err(), "a blank at {place}");
        }
    }

    /// Protects everything outside of the data folder: a manifest with a right checksum that names
    /// another file is refused.
    #[test]
    fn no_path_leads_out_of_the_folder() {
        for path in [
            "../x",
            "log/../../x",
            "log/lock",
            "/etc/passwd",
            "log",
            "state/sled/db",
            "log/0000000000000000000a.log",
            "log/00000000000000000001.log/x",
            "",
            "backup.json",
        ] {
            let mut one = manifest();
            one.files[0].path = path.to_owned();
            let bytes = one.encode().unwrap();
            assert!(Manifest::decode(Path::new(FILE), &bytes).is_err(), "{path}");
        }
        assert!(is_ours("catalogue/00000000000000000012.log"));
    }
}
