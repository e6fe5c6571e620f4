//! Where keys come from, and reading them.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::jwks::Unfit;
use super::keys::{self, Key, Keys};
use super::{Algorithm, jwks};

/// The largest file of a secret or a public key, in bytes.
const MAX_FILE: usize = 64 << 10;

/// Gets a key set, within bounds of time and of [`MAX_JWKS`](super::MAX_JWKS) bytes; the error is
/// for people.
pub type Fetch = Box<dyn Fn() -> Result<Vec<u8>, String> + Send>;

/// Where the keys come from. Of one kind: who can choose between kinds can choose the weaker one.
pub enum KeySource {
    /// Secrets, each the content of a file; a token may be signed with any of them.
    Secrets(Vec<PathBuf>),
    /// Public keys, each a PEM file; a token may be signed with any of them.
    PublicKeys(Vec<PathBuf>),
    /// A key set in a file.
    JwksFile(PathBuf),
    /// A key set at an address.
    JwksUrl {
        /// Gets it.
        fetch: Fetch,
        /// How often, where nothing else asks for it.
        refresh: Duration,
        /// The least time between two looks, whoever asks.
        min_refresh: Duration,
        /// How long the keys of the last good look hold while it can't be had.
        keep: Duration,
    },
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeySource").field(&self.setting()).finish()
    }
}

/// Why keys can't be had. No text of it has anything in it that is secret.
#[derive(Debug, thiserror::Error)]
pub enum JwtKeysError {
    /// A file can't be read.
    #[error("setting {setting}: the file {path} can't be read: {cause}", path = path.display())]
    Read {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// A file is not what it should be.
    #[error("setting {setting}: the file {path} {what}", path = path.display())]
    File {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong, after "the file …".
        what: String,
    },
    /// What is at the address can't be had, or is not what it should be.
    #[error("setting auth.jwt.jwks_url: the key set {0}")]
    Url(String),
    /// What is in the file or at the address is a key set, and no key of it can be used.
    #[error("setting {setting}: {what}; put one into it, or see auth.jwt.algorithms")]
    NoKey {
        /// The setting that names it.
        setting: &'static str,
        /// Which set, and what it has no key for.
        what: String,
    },
    /// A metric was registered twice.
    #[error("the metrics of tokens can't be registered")]
    Metrics(#[from] prometheus::Error),
    /// The keys can't be followed.
    #[error("the thread that follows the keys of tokens can't be started: {0}")]
    Thread(#[source] io::Error),
}

/// Tells one content from another without keeping it.
pub(super) type Stamp = [u8; 32];

/// What a look at the source brought.
pub(super) enum Look {
    /// What was there before.
    Same,
    /// Other keys.
    New(Stamp, Arc<Keys>),
}

impl KeySource {
    /// The setting that names it.
    pub(super) const fn setting(&self) -> &'static str {
        match self {
            Self::Secrets(_) => "auth.jwt.secret_files",
            Self::PublicKeys(_) => "auth.jwt.public_key_files",
            Self::JwksFile(_) => "auth.jwt.jwks_file",
            Self::JwksUrl { .. } => "auth.jwt.jwks_url",
        }
    }

    /// The keys, where they are others than at the look that gave `before`.
    pub(super) fn look(
        &self,
        algorithms: &[Algorithm],
        before: Option<Stamp>,
    ) -> Result<Look, JwtKeysError> {
        let contents: Vec<Vec<u8>> = match self {
            Self::Secrets(paths) | Self::PublicKeys(paths) => {
                let all = paths.iter();
                all.map(|path| self.read(path, MAX_FILE))
                    .collect::<Result<_, _>>()?
            }
            Self::JwksFile(path) => vec![self.read(path, jwks::MAX_JWKS)?],
            Self::JwksUrl { fetch, .. } => vec![fetch().map_err(JwtKeysError::Url)?],
        };
        let mut hash = Sha256::new();
        for content in &contents {
            hash.update(content.len().to_le_bytes());
            hash.update(content);
        }
        let stamp = hash.finalize().into();
        if before == Some(stamp) {
            return Ok(Look::Same);
        }
        let keys = self.parse(&contents, algorithms)?;
        Ok(Look::New(stamp, Arc::new(keys)))
    }

    /// The keys that are in what was read, one content for each file.
    pub(super) fn parse(
        &self,
        contents: &[Vec<u8>],
        algorithms: &[Algorithm],
    ) -> Result<Keys, JwtKeysError> {
        let of = |paths: &[PathBuf], parse: &dyn Fn(&[u8]) -> Result<Key, String>| {
            let pairs = paths.iter().zip(contents);
            let keys =
                pairs.map(|(path, content)| parse(content).map_err(|what| self.wrong(path, what)));
            keys.collect::<Result<Vec<Key>, _>>().map(Keys::unnamed)
        };
        let set = contents.first().map(Vec::as_slice).unwrap_or_default();
        match self {
            Self::Secrets(paths) => of(paths, &|content| secret(content, algorithms)),
            Self::PublicKeys(paths) => of(paths, &|content| public_key(content, algorithms)),
            Self::JwksFile(path) => {
                let keys = jwks::parse(set, algorithms).map_err(|unfit| match unfit {
                    Unfit::NoSet(what) => self.wrong(path, what),
                    Unfit::NoKey(what) => {
                        self.no_key(format!("the file {} {what}", path.display()))
                    }
                });
                keys.map(Keys::named)
            }
            Self::JwksUrl { .. } => {
                let keys = jwks::parse(set, algorithms).map_err(|unfit| match unfit {
                    Unfit::NoSet(what) => JwtKeysError::Url(what),
                    Unfit::NoKey(what) => self.no_key(format!("the key set {what}")),
                });
                keys.map(Keys::named)
            }
        }
    }

    fn wrong(&self, path: &Path, what: String) -> JwtKeysError {
        JwtKeysError::File {
            setting: self.setting(),
            path: path.to_owned(),
            what,
        }
    }

    fn no_key(&self, what: String) -> JwtKeysError {
        JwtKeysError::NoKey {
            setting: self.setting(),
            what,
        }
    }

    fn read(&self, path: &Path, limit: usize) -> Result<Vec<u8>, JwtKeysError> {
        let read = || {
            let mut bytes = Vec::new();
            let most = u64::try_from(limit).unwrap_or(u64::MAX);
            File::open(path)?
                .take(most.saturating_add(1))
                .read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes: Vec<u8> = read().map_err(|cause| JwtKeysError::Read {
            setting: self.setting(),
            path: path.to_owned(),
            cause,
        })?;
        if bytes.len() > limit {
            return Err(self.wrong(path, format!("has more than {limit} bytes")));
        }
        Ok(bytes)
    }

    /// Says which secrets everybody on this host can read. Not refused: it is what orchestrators
    /// that mount secrets do by default.
    pub(super) fn warn_of_readable_secrets(&self) {
        let Self::Secrets(paths) = self else {
            return;
        };
        for path in paths {
            let mode = fs::metadata(path).map(|metadata| metadata.permissions().mode());
            if mode.is_ok_and(|mode| mode & 0o004 != 0) {
                tracing::warn!(
                    file = %path.display(),
                    "every user of this host can read this secret and sign tokens with it; see its mode"
                );
            }
        }
    }
}

fn secret(content: &[u8], algorithms: &[Algorithm]) -> Result<Key, String> {
    let [algorithm] = algorithms else {
        return Err("is a secret, and a secret needs exactly one algorithm".to_owned());
    };
    Ok(Key {
        kid: None,
        algorithm: *algorithm,
        decoding: keys::secret(content, *algorithm)?,
    })
}

fn public_key(content: &[u8], algorithms: &[Algorithm]) -> Result<Key, String> {
    let (algorithm, decoding) = keys::pem(content)?;
    if !algorithms.contains(&algorithm) {
        return Err(format!(
            "has a key for {algorithm}, which auth.jwt.algorithms does not name"
        ));
    }
    Ok(Key {
        kid: None,
        algorithm,
        decoding,
    })
}
