//! From a request's headers to a user.
//!
//! The keys are a snapshot that a thread replaces when the file changes; a request takes it
//! without a lock. A damaged file, or one that can't be read, is said loudly and changes nothing:
//! the last good keys hold until it is repaired. A file that was removed has no keys, as at the
//! next start.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use actix_web::http::header::{FORWARDED, HeaderMap, X_FORWARDED_FOR};
use arc_swap::ArcSwap;
use hashbrown::HashMap;
use parking_lot::{Condvar, Mutex};
use prometheus::{IntGauge, Registry};
use subtle::Choice;
use tally_domain::{EventTime, UserId};
use tally_log::metric::Declare;
use tally_log::storage::Stamp;

use super::file::{KeysError, KeysFile, StoredKey};
use super::jwt::{self, Jwt};
use super::key::{self, KeyHash, KeyId};
use super::{AuthError, header};
use crate::metrics::KEY_EXPIRY;
use crate::{clock, supervise};

/// The well-known key of a server on somebody's own machine.
pub const LOCAL_DEV_KEY: &str = "local-dev-key";
/// Whom a request with it comes from.
pub const LOCAL_DEV_USER: &str = "1";

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After how many looks at a file that stays bad it is said again.
const REMIND_AFTER: u32 = 60;

/// Knows whom a request comes from. Follows the file of keys until it is dropped.
pub struct Authenticator {
    shared: Arc<Shared>,
    watcher: Option<JoinHandle<()>>,
    jwt: Option<Jwt>,
}

struct Shared {
    file: KeysFile,
    /// The local key's user, where that key is valid.
    local_dev: Option<UserId>,
    keys: ArcSwap<Keys>,
    /// When the next key expires, where somebody wants to know.
    next_expiry: OnceLock<IntGauge>,
    ended: Mutex<bool>,
    wake: Condvar,
}

type Keys = HashMap<KeyId, Holder, foldhash::fast::RandomState>;

/// What a key that holds stands for.
struct Holder {
    sha256: KeyHash,
    user: UserId,
    admin: bool,
    expires_at: Option<EventTime>,
}

/// Why somebody may not administer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// There is no key that holds. 401.
    #[error(transparent)]
    Key(#[from] AuthError),
    /// It holds, and is none for that. 403.
    #[error("This API key is no admin key.")]
    NotAdmin,
}

impl Authenticator {
    /// Reads the keys and starts to follow their file, which need not be there.
    ///
    /// # Errors
    /// [`KeysError`] where the file is there and can't be read or is damaged: a server that starts
    /// has no good keys to keep.
    pub fn start(keys_file: impl Into<PathBuf>, local_dev_key: bool) -> Result<Self, KeysError> {
        Self::looking_every(LOOK_EVERY, keys_file, local_dev_key)
    }

    fn looking_every(
        pause: Duration,
        keys_file: impl Into<PathBuf>,
        local_dev_key: bool,
    ) -> Result<Self, KeysError> {
        let (shared, mut watch) = Shared::open(KeysFile::new(keys_file), local_dev_key)?;
        let shared = Arc::new(shared);
        let watched = Arc::clone(&shared);
        let watcher = std::thread::Builder::new()
            .name("tally-keys".to_owned())
            .spawn(move || {
                supervise::begin_again_after_panic("tally-keys", || {
                    watched.follow(&mut watch, pause)
                });
            })
            .map_err(KeysError::Thread)?;
        Ok(Self {
            shared,
            watcher: Some(watcher),
            jwt: None,
        })
    }

    /// The same, which takes tokens as well.
    #[must_use]
    pub fn with_tokens(mut self, jwt: Jwt) -> Self {
        self.jwt = Some(jwt);
        self
    }

    /// Registers when the next key expires, and keeps it up to date.
    ///
    /// # Errors
    /// Where a metric of that name is registered already.
    pub fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        let gauge = Declare::with(registry).gauge(&KEY_EXPIRY)?;
        let gauge = self.shared.next_expiry.get_or_init(|| gauge);
        self.shared.show_expiry(gauge);
        Ok(())
    }

    /// Whom a request with these headers comes from. Where that is a token with a key that is not
    /// known yet, it waits a bounded time for the keys to be read again, and looks once more.
    ///
    /// # Errors
    /// As [`authenticate`](Self::authenticate).
    pub async fn authenticate_patiently(&self, headers: &HeaderMap) -> Result<UserId, AuthError> {
        let user = self.authenticate(headers);
        if let (Err(AuthError::Token(error)), Some(jwt)) = (&user, &self.jwt)
            && error.may_pass()
        {
            // Rare, and larger than the rest: it need not make every request large.
            Box::pin(jwt.looked()).await;
            return self.authenticate(headers);
        }
        user
    }

    /// Whom a request with these headers comes from, at once.
    ///
    /// # Errors
    /// [`AuthError`]; unknown keys, revoked ones and wrong secrets are not told apart, and take
    /// the same time.
    pub fn authenticate(&self, headers: &HeaderMap) -> Result<UserId, AuthError> {
        let credential = header::credential(headers)?;
        // The text is known to everybody: no secret is compared here.
        if credential == LOCAL_DEV_KEY.as_bytes() {
            let forwarded =
                headers.contains_key(FORWARDED) || headers.contains_key(X_FORWARDED_FOR);
            let user = self.shared.local_dev.as_ref().filter(|_| !forwarded);
            return user.cloned().ok_or(AuthError::UnknownKey);
        }
        if let Some(jwt) = self.jwt.as_ref().filter(|_| jwt::is_token(credential)) {
            return Ok(jwt.user(credential)?);
        }
        self.holder(credential, |holder| holder.user.clone())
    }

    /// Whether a request with these headers may administer.
    ///
    /// # Errors
    /// [`AdminError`]. A token and the local key are unknown keys here.
    pub fn admin(&self, headers: &HeaderMap) -> Result<(), AdminError> {
        let credential = header::credential(headers)?;
        let admin = self.holder(credential, |holder| holder.admin)?;
        if admin {
            Ok(())
        } else {
            Err(AdminError::NotAdmin)
        }
    }

    /// What is kept of the API key that a credential is.
    fn holder<T>(
        &self,
        credential: &[u8],
        show: impl FnOnce(&Holder) -> T,
    ) -> Result<T, AuthError> {
        let (id, secret) = key::split(credential).ok_or(AuthError::UnknownKey)?;
        let keys = self.shared.keys.load();
        let holder = keys.get(&id);
        let kept = holder.map_or(&KeyHash::NONE, |holder| &holder.sha256);
        let right = KeyHash::of(secret).ct_eq(kept) & Choice::from(u8::from(holder.is_some()));
        match holder {
            // Only who has the key is told that it was one.
            Some(holder) if right.into() => match holder.expires_at {
                Some(end) if end <= clock::now() => Err(AuthError::KeyExpired),
                Some(_) | None => Ok(show(holder)),
            },
            Some(_) | None => Err(AuthError::UnknownKey),
        }
    }
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator")
            .field("keys_file", &self.shared.file.path())
            .finish_non_exhaustive()
    }
}

impl Drop for Authenticator {
    fn drop(&mut self) {
        *self.shared.ended.lock() = true;
        self.shared.wake.notify_all();
        if let Some(watcher) = self.watcher.take() {
            // A panic was reported when it happened.
            let _ = watcher.join();
        }
    }
}

/// What the watching thread knows of the file.
struct Watch {
    stamp: Result<Option<Stamp>, std::io::ErrorKind>,
    /// How many looks ago the file was last said to be bad; `None` while it is good.
    said: Option<u32>,
}

impl Shared {
    fn open(file: KeysFile, local_dev_key: bool) -> Result<(Self, Watch), KeysError> {
        // Before the file is read: what changes in between is read again, never missed.
        let stamp = file.stamp().map_err(|error| error.kind());
        let keys = holding(file.read()?);
        let local_dev = local_dev_key.then(|| UserId::new(LOCAL_DEV_USER).ok());
        let shared = Self {
            file,
            local_dev: local_dev.flatten(),
            keys: ArcSwap::from_pointee(keys),
            next_expiry: OnceLock::new(),
            ended: Mutex::new(false),
            wake: Condvar::new(),
        };
        Ok((shared, Watch { stamp, said: None }))
    }

    /// Looks again and again until the authenticator is dropped.
    fn follow(&self, watch: &mut Watch, pause: Duration) {
        let mut ended = self.ended.lock();
        while !*ended {
            if self.wake.wait_for(&mut ended, pause).timed_out() {
                self.look(watch);
                // It changes with time too.
                if let Some(gauge) = self.next_expiry.get() {
                    self.show_expiry(gauge);
                }
            }
        }
    }

    /// When the next of the keys that hold expires; one that has is no news any more.
    fn show_expiry(&self, gauge: &IntGauge) {
        let (keys, now) = (self.keys.load(), clock::now());
        let ends = keys.values().filter_map(|holder| holder.expires_at);
        let next = ends.filter(|end| *end > now).min();
        let seconds = next.map_or(0, |end| end.as_millis() / 1_000);
        gauge.set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }

    /// Reads the keys where the file is another than at the last look.
    fn look(&self, watch: &mut Watch) {
        let stamp = self.file.stamp().map_err(|error| error.kind());
        let same = stamp == watch.stamp;
        watch.said = watch.said.map(|looks| looks.saturating_add(1));
        if same && watch.said.is_none_or(|looks| looks < REMIND_AFTER) {
            return;
        }
        let path = self.file.path().display();
        let read = self.file.read();
        // After the file is read: where reading panics, it is read again.
        watch.stamp = stamp;
        match read {
            Ok(_) if watch.stamp == Ok(None) => {
                watch.said = None;
                self.keys.store(Arc::default());
                tracing::warn!(file = %path, "the file of API keys is gone: no key holds");
            }
            Ok(keys) => {
                watch.said = None;
                let keys = holding(keys);
                tracing::info!(file = %path, keys = keys.len(), "API keys read");
                self.keys.store(Arc::new(keys));
            }
            Err(error) => {
                watch.said = Some(0);
                let keys = self.keys.load().len();
                tracing::error!(
                    %error,
                    keys,
                    "the API keys can't be taken up; those read before hold until the file is repaired"
                );
            }
        }
    }
}

/// The keys that are not revoked.
fn holding(keys: Vec<StoredKey>) -> Keys {
    let holding = keys.into_iter().filter(|key| key.revoked_at.is_none());
    let holders = holding.map(|key| {
        let holder = Holder {
            sha256: key.sha256,
            user: key.user,
            admin: key.admin,
            expires_at: key.expires_at,
        };
        (key.id, holder)
    });
    holders.collect()
}

#[cfg(test)]
mod tests;
