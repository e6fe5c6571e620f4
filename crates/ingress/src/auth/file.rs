//! The file of keys: hashes, users, times.
//!
//! ```json
//! {"v":2,"check":"9c56cc51b374c3ba189210d5b6d4bf57790d351c96c47c02190ecf1e430635ab","keys":[
//! {"id":"k7m2x9q4w1ab","user":"42","sha256":"ba78…15ad","created_at":"2026-11-24T03:50:12.345Z"},
//! {"id":"p0c5t8z3e6hj","user":"1","sha256":"9f86…0a08","created_at":"…","revoked_at":"…"}
//! ]}
//! ```
//!
//! One JSON document rather than a line per key: a file that was cut off, at the end of a line
//! even, is then no document, and nobody takes it for one with fewer keys or fewer revocations.
//! It is written with a key per line all the same, so that a damage can be named by its line and
//! `diff` shows one key. `check` is the SHA-256 of the keys, so that a changed letter of a user's name
//! or of a hash is found too. Version 1, which has none, is read and becomes a later one with the next
//! change. Version 3 has `admin` and `expires_at`, and is written where a key has one of them: an older
//! build refuses it then, rather than take a key for one that holds for ever. Fields that are not known
//! are refused, not ignored: they may be limits on what a key may do.
//!
//! A change takes the lock `<file>.lock`, reads the file, writes `<file>.new`, syncs it, renames it
//! over the file and syncs the folder. A reader sees the file before or after, never between, and
//! two changes at once don't lose each other. Reading takes no lock and needs no right to write.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tally_domain::{EventTime, UserId};
use tally_log::storage::{Lock, RealStorage, Stamp, Storage};

use super::key::{ApiKey, KeyHash, KeyId};
use crate::clock::now;

mod error;

pub use error::KeysError;
use error::write_error;

/// The newest version of the file; it has keys with a [`Grant`] of their own.
const VERSION: u64 = 3;
/// The one before, which is written where no key has one.
const PLAIN: u64 = 2;
/// The first, without a check, which is read too.
const UNCHECKED: u64 = 1;
/// The most keys that hold at a time.
pub const MAX_KEYS: usize = 100_000;
/// How many revoked keys are kept for the record; the oldest go first.
const MAX_REVOKED: usize = 1_000;
/// More than the most keys of the longest users take, in bytes.
const MAX_BYTES: u64 = 128 << 20;
/// How long a change waits for another one to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a key may do beside being its user, and until when it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Grant {
    /// Whether it administers, on the management listener.
    pub admin: bool,
    /// From when on it does not hold any more; `None`: it holds until it is revoked.
    pub expires_at: Option<EventTime>,
}

/// What may be shown of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyInfo {
    /// Which key.
    pub id: KeyId,
    /// Whom a request with it comes from.
    pub user: UserId,
    /// Whether it administers, on the management listener.
    pub admin: bool,
    /// When it was made.
    pub created_at: EventTime,
    /// From when on it does not hold any more, where it has an end.
    pub expires_at: Option<EventTime>,
    /// Since when it does not hold any more.
    pub revoked_at: Option<EventTime>,
}

/// A new key, with the text that is not kept anywhere.
#[derive(Debug)]
pub struct CreatedKey {
    /// What is kept of it.
    pub info: KeyInfo,
    /// What its owner sends.
    pub key: ApiKey,
}

/// One key as it stands in the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoredKey {
    pub(super) id: KeyId,
    pub(super) user: UserId,
    pub(super) sha256: KeyHash,
    pub(super) created_at: EventTime,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) admin: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expires_at: Option<EventTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) revoked_at: Option<EventTime>,
}

impl StoredKey {
    fn info(&self) -> KeyInfo {
        KeyInfo {
            id: self.id,
            user: self.user.clone(),
            admin: self.admin,
            created_at: self.created_at,
            expires_at: self.expires_at,
            revoked_at: self.revoked_at,
        }
    }
}

/// The file of keys.
pub struct KeysFile {
    path: PathBuf,
    storage: Arc<dyn Storage>,
}

impl KeysFile {
    /// The file at `path`, which need not be there.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::on(Arc::new(RealStorage), path)
    }

    /// The same on another storage than the disk.
    #[must_use]
    pub fn on(storage: Arc<dyn Storage>, path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            storage,
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All keys in the order in which they were made, with those revoked; none where there is no
    /// file.
    ///
    /// # Errors
    /// [`KeysError`] where the file can't be read or is damaged.
    pub fn list(&self) -> Result<Vec<KeyInfo>, KeysError> {
        Ok(self.read()?.iter().map(StoredKey::info).collect())
    }

    /// Makes a key for a user.
    ///
    /// # Errors
    /// [`KeysError`]; the key does not exist then, except where its folder could not be synced.
    pub fn create(&self, user: &UserId) -> Result<CreatedKey, KeysError> {
        self.create_with(user, Grant::default())
    }

    /// Makes a key for a user that may do more, or holds for a time only.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn create_with(&self, user: &UserId, grant: Grant) -> Result<CreatedKey, KeysError> {
        let mut created = self.create_each(std::slice::from_ref(user), grant)?;
        // One user, one key.
        created.pop().ok_or(KeysError::TooMany)
    }

    /// Makes a key for each user, in their order, all in one change.
    ///
    /// # Errors
    /// As [`create`](Self::create); none of them exists then.
    pub fn create_all(&self, users: &[UserId]) -> Result<Vec<CreatedKey>, KeysError> {
        self.create_each(users, Grant::default())
    }

    fn create_each(&self, users: &[UserId], grant: Grant) -> Result<Vec<CreatedKey>, KeysError> {
        self.change(|keys| {
            let holding = keys.iter().filter(|key| key.revoked_at.is_none()).count();
            if holding.saturating_add(users.len()) > MAX_KEYS {
                return Err(KeysError::TooMany);
            }
            let mut ids: HashSet<KeyId> = keys.iter().map(|key| key.id).collect();
            let mut created = Vec::with_capacity(users.len());
            for user in users {
                let (id, sha256, key) = loop {
                    let new = ApiKey::generate().map_err(KeysError::Random)?;
                    if ids.insert(new.0) {
                        break new;
                    }
                };
                let stored = StoredKey {
                    id,
                    user: user.clone(),
                    sha256,
                    created_at: now(),
                    admin: grant.admin,
                    expires_at: grant.expires_at,
                    revoked_at: None,
                };
                created.push(CreatedKey {
                    info: stored.info(),
                    key,
                });
                keys.push(stored);
            }
            Ok(created)
        })
    }

    /// Makes a key hold no more; `false` where it was revoked before.
    ///
    /// # Errors
    /// [`KeysError::Unknown`] where there is no such key, or another [`KeysError`].
    pub fn revoke(&self, id: KeyId) -> Result<bool, KeysError> {
        Ok(self.revoke_all(&[id])? == 1)
    }

    /// Makes keys hold no more, all in one change; how many of them held until now.
    ///
    /// # Errors
    /// As [`revoke`](Self::revoke); none of them is revoked then.
    pub fn revoke_all(&self, ids: &[KeyId]) -> Result<usize, KeysError> {
        self.change(|keys| {
            let mut wanted: HashSet<KeyId> = ids.iter().copied().collect();
            let mut revoked = 0;
            for key in keys {
                if wanted.remove(&key.id) && key.revoked_at.is_none() {
                    key.revoked_at = Some(now());
                    revoked += 1;
                }
            }
            match wanted.into_iter().min() {
                Some(unknown) => Err(KeysError::Unknown(unknown)),
                None => Ok(revoked),
            }
        })
    }

    /// What the file's stamp is now; `None` where there is no file.
    pub(super) fn stamp(&self) -> io::Result<Option<Stamp>> {
        self.storage.stamp(&self.path)
    }

    /// All keys, none where there is no file.
    pub(super) fn read(&self) -> Result<Vec<StoredKey>, KeysError> {
        let refused = |cause| KeysError::Read {
            path: self.path.clone(),
            cause,
        };
        // For reading alone: a server may not be allowed to write its keys.
        let file = match self.storage.open_to_read(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(refused(error)),
        };
        let len = file.size().map_err(refused)?;
        if len > MAX_BYTES {
            return Err(KeysError::TooLarge {
                path: self.path.clone(),
            });
        }
        let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
        file.read_exact_at(&mut bytes, 0).map_err(refused)?;
        self.parse(&bytes)
    }

    pub(super) fn parse(&self, bytes: &[u8]) -> Result<Vec<StoredKey>, KeysError> {
        #[derive(Deserialize)]
        struct Versioned {
            v: u64,
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Document {
            #[serde(rename = "v")]
            _v: u64,
            #[serde(default)]
            check: Option<String>,
            keys: Vec<StoredKey>,
        }
        let path = || self.path.clone();
        let document: Result<Document, _> = match serde_json::from_slice(bytes) {
            Ok(Versioned {
                v: VERSION | PLAIN | UNCHECKED,
            }) => serde_json::from_slice(bytes),
            Ok(Versioned { v: found }) => {
                return Err(KeysError::OtherVersion {
                    path: path(),
                    found,
                });
            }
            Err(error) => Err(error),
        };
        // What serde_json says may quote the file.
        let Document { _v: v, check, keys } = document.map_err(|error| KeysError::Damaged {
            path: path(),
            line: error.line(),
            column: error.column(),
            what: match error.classify() {
                serde_json::error::Category::Eof => "it is empty or cut off",
                serde_json::error::Category::Data => "a field is missing, unknown, or wrong",
                serde_json::error::Category::Syntax | serde_json::error::Category::Io => {
                    "it is not JSON"
                }
            },
        })?;
        let mut ids: Vec<KeyId> = keys.iter().map(|key| key.id).collect();
        ids.sort_unstable();
        let mut twice = ids.iter().zip(ids.iter().skip(1));
        if let Some((id, _)) = twice.find(|(one, next)| one == next) {
            return Err(KeysError::Twice {
                path: path(),
                id: *id,
            });
        }
        // Neither is a version 1 with a check, nor a later one without.
        let wanted = (v != UNCHECKED).then(|| check_of(&keys));
        // Nor does an earlier version know what a later one may say.
        if check == wanted && (v == VERSION || version_of(&keys) < VERSION) {
            Ok(keys)
        } else {
            Err(KeysError::Changed { path: path() })
        }
    }

    /// Changes the keys under the lock; where `change` refuses, nothing is written.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut Vec<StoredKey>) -> Result<T, KeysError>,
    ) -> Result<T, KeysError> {
        // The file that a link leads to, rather than a file in the link's place.
        let resolved = self.storage.resolve(&self.path);
        let path = resolved.unwrap_or_else(|_| self.path.clone());
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            Some(_) | None => Path::new("."),
        };
        let made = self.storage.create_dir_all(folder);
        made.map_err(write_error("made", folder))?;
        let _lock = self.lock(&path)?;
        let mut keys = self.read()?;
        let changed = change(&mut keys)?;
        forget_oldest_revoked(&mut keys);
        self.replace(&path, folder, &keys)?;
        Ok(changed)
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>, KeysError> {
        let lock = with_suffix(path, ".lock");
        let until = Instant::now() + PATIENCE;
        loop {
            let taken = self.storage.lock(&lock);
            if let Some(taken) = taken.map_err(write_error("locked", &lock))? {
                return Ok(taken);
            }
            if Instant::now() >= until {
                return Err(KeysError::Locked {
                    path: self.path.clone(),
                });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn replace(&self, path: &Path, folder: &Path, keys: &[StoredKey]) -> Result<(), KeysError> {
        let new = with_suffix(path, ".new");
        let storage = self.storage.as_ref();
        let bytes = to_bytes(keys).map_err(write_error("written", &new))?;
        let write = || {
            if storage.exists(&new)? {
                // Left by a change that was killed.
                storage.remove(&new)?;
            }
            let file = storage.create(&new)?;
            file.write_all_at(&bytes, 0)?;
            storage.keep_owner(path, &new)?;
            file.sync_data()
        };
        write().map_err(write_error("written", &new))?;
        storage
            .rename(&new, path)
            .map_err(write_error("replaced", path))?;
        storage
            .sync_dir(folder)
            .map_err(write_error("synced", folder))
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn lines_of(keys: &[StoredKey]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for (place, key) in keys.iter().enumerate() {
        bytes.extend_from_slice(if place == 0 { b"\n" } else { b",\n" });
        serde_json::to_writer(&mut bytes, key)?;
    }
    Ok(bytes)
}

/// Of the keys as they are written, however the file is laid out; in hexadecimal digits.
fn check_of(keys: &[StoredKey]) -> String {
    // Strings, times and hashes always serialise into memory.
    let digest = Sha256::digest(lines_of(keys).unwrap_or_default());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The lowest version that can say what these keys are, so that an older build reads what it can.
fn version_of(keys: &[StoredKey]) -> u64 {
    let granted = |key: &StoredKey| key.admin || key.expires_at.is_some();
    if keys.iter().any(granted) {
        VERSION
    } else {
        PLAIN
    }
}

pub(super) fn to_bytes(keys: &[StoredKey]) -> io::Result<Vec<u8>> {
    let (version, check) = (version_of(keys), check_of(keys));
    let mut bytes = format!("{{\"v\":{version},\"check\":\"{check}\",\"keys\":[").into_bytes();
    bytes.extend_from_slice(&lines_of(keys)?);
    bytes.extend_from_slice(b"\n]}\n");
    Ok(bytes)
}

/// Keeps the file bounded: who makes and revokes keys all day has no more of them in the end.
fn forget_oldest_revoked(keys: &mut Vec<StoredKey>) {
    let revoked = keys
        .iter()
        .filter_map(|key| Some((key.revoked_at?, key.id)));
    let mut revoked: Vec<(EventTime, KeyId)> = revoked.collect();
    revoked.sort_unstable();
    revoked.truncate(revoked.len().saturating_sub(MAX_REVOKED));
    let oldest: HashSet<KeyId> = revoked.into_iter().map(|(_, id)| id).collect();
    keys.retain(|key| !oldest.contains(&key.id));
}

#[cfg(test)]
mod tests;
