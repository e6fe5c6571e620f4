//! Who asks: API keys, and whom a request comes from.
//!
//! ```text
//!  tally keys create ──► KeysFile ──► keys.json (SHA-256 of secrets) ──watched──► Authenticator
//!                                                                                   │
//!  Authorization: Bearer tally_<id>_<secret> ───────────────────────────────────────┴─► UserId
//! ```
//!
//! - [`key`]: a key's text, its id, its hash
//! - [`mod@file`]: the file of hashes, changed by the command
//! - [`authenticator`]: from a request's headers to a user; follows the file
//! - `header`: the credential in an `Authorization` header
//!
//! **Where JWTs go.** A credential that is neither the local key nor `tally_…` and has two dots is
//! a JWT: it is decided in a module `jwt` beside [`key`], called at the one place in
//! [`Authenticator::authenticate`] that says so, and its refusals are further variants of
//! [`AuthError`].
//!
//! **Where scopes go.** A key's scopes are a field of its entry in the file with a new version of
//! the file, which an older build refuses rather than take for a key that may do everything; and
//! [`Authenticator::authenticate`] then answers a subject with user and scopes.

pub mod authenticator;
pub mod file;
mod header;
pub mod key;

pub use authenticator::{Authenticator, LOCAL_DEV_KEY, LOCAL_DEV_USER};
pub use file::{CreatedKey, KeyInfo, KeysError, KeysFile, MAX_KEYS};
pub use key::{ApiKey, KeyId};

/// Why a request is refused with 401. The text is the answer's `detail`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No `Authorization` header, or another scheme than Bearer.
    #[error("Authentication credentials were not provided.")]
    NotProvided,
    /// `Bearer` with nothing or more than one word after it, or more than one such header.
    #[error("Authorization header must contain two space-delimited values")]
    Malformed,
    /// No key that holds: unknown, revoked, or no key at all.
    #[error("Invalid API key.")]
    UnknownKey,
}

impl AuthError {
    /// The answer's `code`, where it has one.
    #[must_use]
    pub fn code(self) -> Option<&'static str> {
        match self {
            Self::NotProvided => None,
            Self::Malformed => Some("bad_authorization_header"),
            Self::UnknownKey => Some("authentication_failed"),
        }
    }
}
