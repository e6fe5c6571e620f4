//! Who asks: API keys and JSON Web Tokens, and whom a request comes from.
//!
//! ```text
//!  tally keys create ──► KeysFile ──► keys.json (SHA-256 of secrets) ──watched──► Authenticator
//!                                                                                   │
//!  Authorization: Bearer tally_<id>_<secret> ───────────────────────────────────────┤
//!  Authorization: Bearer <header>.<claims>.<signature> ──► Jwt ◄──watched── its keys ┴─► UserId
//! ```
//!
//! - [`key`]: a key's text, its id, its hash
//! - [`mod@file`]: the file of hashes, changed by the command
//! - [`authenticator`]: from a request's headers to a user; follows the file
//! - `header`: the credential in an `Authorization` header
//! - [`jwt`]: tokens that others sign
//!
//! **Told apart by their shape alone.** The local key is one text; what begins with `tally_` is an
//! API key, and has no dot in it; a token is ASCII with two dots, and begins with the base64 of
//! `{`, so never with `tally_`. Nothing is tried as both. Where tokens are not configured, one is an
//! unknown key.
//!
//! **An admin key** is a key of its user as any other, and on the management listener the only
//! credential ([`Authenticator::admin`]): neither a token nor the local key administers.
//!
//! **Where scopes go.** As `admin`, a key's scopes are a field of its entry in the file with a new
//! version of the file, which an older build refuses rather than take for a key that may do everything;
//! and [`Authenticator::authenticate`] then answers a subject with user and scopes.

pub mod authenticator;
pub mod file;
#[cfg(test)]
mod fuzz;
mod header;
pub mod jwt;
pub mod key;

pub use authenticator::{AdminError, Authenticator, LOCAL_DEV_KEY, LOCAL_DEV_USER};
pub use file::{CreatedKey, Grant, KeyInfo, KeysError, KeysFile, MAX_KEYS};
pub use jwt::{Jwt, JwtError};
pub use key::{ApiKey, KeyId};

/// Why a request is refused, with 401 but for [`JwtError::NoKeys`]. The text is the answer's
/// `detail`.
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
    /// A key that was made for a time, which is over.
    #[error("API key is expired")]
    KeyExpired,
    /// A token that is not valid.
    #[error(transparent)]
    Token(#[from] JwtError),
}

impl AuthError {
    /// The answer's `code`, where it has one.
    #[must_use]
    pub const fn code(self) -> Option<&'static str> {
        match self {
            Self::NotProvided => None,
            Self::Malformed => Some("bad_authorization_header"),
            Self::UnknownKey => Some("authentication_failed"),
            Self::KeyExpired => Some("key_expired"),
            Self::Token(error) => Some(error.code()),
        }
    }

    /// The metric's label.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NotProvided => "not_provided",
            Self::Malformed => "malformed_header",
            Self::UnknownKey => "unknown_key",
            Self::KeyExpired => "key_expired",
            Self::Token(error) => error.reason(),
        }
    }

    /// All there are.
    pub fn all() -> impl Iterator<Item = Self> {
        let tokens = JwtError::ALL.into_iter().map(Self::Token);
        let keys = [
            Self::NotProvided,
            Self::Malformed,
            Self::UnknownKey,
            Self::KeyExpired,
        ];
        keys.into_iter().chain(tokens)
    }
}
