//! JSON Web Tokens (RFC 7519): whose a token is, where it is signed with a key that we were told
//! of, for us, and now.
//!
//! ```text
//!  files, or an address ──followed──► Keys ─┐
//!                                           ▼
//!  token ──► header: alg, kid ──► keys of that alg and kid ──► signature ──► claims ──► UserId
//! ```
//!
//! **The algorithm is ours.** Each key has exactly one algorithm: that of its type, or for a secret
//! the one that is configured. A token's header only chooses among the keys of the algorithm that
//! it names, so a public key is never a secret, and `none` is nobody's.
//!
//! - [`algorithm`]: the algorithms
//! - [`error`]: why a token is refused
//! - `token`: what is in a token
//! - `keys`, `jwks`: keys, and sets of them
//! - `verified`: tokens that were found valid
//! - [`source`]: where keys come from
//! - `follow`: the thread that follows them

pub mod algorithm;
pub mod error;
mod follow;
mod jwks;
mod keys;
pub mod source;
mod token;
mod verified;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::Validation;
use jsonwebtoken::errors::ErrorKind;
use prometheus::Registry;
use tally_domain::UserId;

pub use algorithm::{Algorithm, NoAlgorithm};
pub use error::JwtError;
pub use jwks::MAX_JWKS;
pub use source::{Fetch, JwtKeysError, KeySource};
pub use token::MAX_TOKEN;

use follow::Follower;
use token::{Claims, Header};
use verified::Fingerprint;

pub(super) use token::is_token;

/// Which tokens are valid.
#[derive(Debug)]
pub struct JwtOptions {
    /// How they may be signed: one algorithm with a secret, or some with public keys.
    pub algorithms: Vec<Algorithm>,
    /// Where the keys are.
    pub keys: KeySource,
    /// The only `iss`; `None`: any or none.
    pub issuer: Option<String>,
    /// A token's `aud` must name one of these. Empty: tokens with an `aud` are refused.
    pub audiences: Vec<String>,
    /// By how much the clocks of issuer and server may differ; whole seconds.
    pub leeway: Duration,
}

/// Checks tokens, and follows the keys for it until it is dropped.
pub struct Jwt {
    follower: Follower,
    /// What the library checks, for each algorithm that is configured.
    rules: Vec<(Algorithm, Validation)>,
    for_us: bool,
}

impl std::fmt::Debug for Jwt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let algorithms: Vec<_> = self.rules.iter().map(|(one, _)| one).collect();
        f.debug_struct("Jwt")
            .field("algorithms", &algorithms)
            .finish_non_exhaustive()
    }
}

impl Jwt {
    /// Reads the keys where they are in files, and starts to follow them. Those at an address are
    /// asked for meanwhile: an issuer that is away does not keep the server from starting.
    ///
    /// # Errors
    /// [`JwtKeysError`], which names the setting.
    pub fn start(options: JwtOptions, registry: &Registry) -> Result<Self, JwtKeysError> {
        let (rules, for_us) = (rules(&options), !options.audiences.is_empty());
        let follower = Follower::start(options.keys, options.algorithms, registry)?;
        Ok(Self {
            follower,
            rules,
            for_us,
        })
    }

    /// Whose a token is. Where its key is not known, and the keys may be asked for again, they are.
    ///
    /// # Errors
    /// [`JwtError`]. What stands in a token is looked at only after its signature.
    pub(super) fn user(&self, token: &[u8]) -> Result<UserId, JwtError> {
        if token.len() > MAX_TOKEN {
            return Err(JwtError::TooLong);
        }
        let keys = self.follower.keys();
        let (fingerprint, now) = (Fingerprint::of(token), now());
        if let Some(user) = keys.verified.user(fingerprint, now) {
            return Ok(user);
        }
        let header = Header::of(token)?;
        let named = |rule: &&(Algorithm, Validation)| rule.0.name() == header.alg;
        let rule = self.rules.iter().find(named);
        let (algorithm, rule) = rule.ok_or(JwtError::Algorithm)?;
        let mut refused = JwtError::UnknownKey;
        for key in keys.candidates(*algorithm, header.kid.as_deref()) {
            match jsonwebtoken::decode::<Claims>(token, &key.decoding, rule) {
                Ok(token) => {
                    let user = token.claims.user(self.for_us)?;
                    if let Some(end) = token.claims.end() {
                        let end = end.saturating_add(rule.leeway);
                        keys.verified.insert(fingerprint, user.clone(), end, now);
                    }
                    return Ok(user);
                }
                Err(error) => refused = reason(error.kind()),
            }
            if refused != JwtError::Signature {
                break;
            }
        }
        if refused == JwtError::UnknownKey {
            self.follower.want(header.kid.as_deref());
            if keys.len() == 0 {
                refused = JwtError::NoKeys;
            }
        }
        Err(refused)
    }

    /// Waits, within a bound, for keys that are being asked for.
    pub(super) async fn looked(&self) {
        self.follower.looked().await;
    }
}

/// Seconds since 1970, as tokens count.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}

/// What the library checks. Its defaults are too kind: what is configured is required.
fn rules(options: &JwtOptions) -> Vec<(Algorithm, Validation)> {
    let mut required = vec!["exp"];
    required.extend(options.issuer.as_ref().map(|_| "iss"));
    required.extend(options.audiences.first().map(|_| "aud"));
    let rule = |algorithm: Algorithm| {
        let mut rule = Validation::new(algorithm.library());
        rule.leeway = options.leeway.as_secs();
        rule.validate_nbf = true;
        rule.set_required_spec_claims(&required);
        if let Some(issuer) = &options.issuer {
            rule.set_issuer(&[issuer]);
        }
        if !options.audiences.is_empty() {
            rule.set_audience(&options.audiences);
        }
        rule
    };
    let all = options.algorithms.iter();
    all.map(|algorithm| (*algorithm, rule(*algorithm)))
        .collect()
}

/// What the library's refusal means here.
fn reason(kind: &ErrorKind) -> JwtError {
    if let ErrorKind::MissingRequiredClaim(claim) = kind {
        return match claim.as_str() {
            "iss" => JwtError::Issuer,
            "aud" => JwtError::Audience,
            _ => JwtError::Claims,
        };
    }
    let known = [
        (ErrorKind::ExpiredSignature, JwtError::Expired),
        (ErrorKind::ImmatureSignature, JwtError::NotYetValid),
        (ErrorKind::InvalidIssuer, JwtError::Issuer),
        (ErrorKind::InvalidAudience, JwtError::Audience),
        (ErrorKind::InvalidAlgorithm, JwtError::Algorithm),
        (ErrorKind::InvalidSignature, JwtError::Signature),
    ];
    let known = known.iter().find(|(other, _)| other == kind);
    if let Some((_, reason)) = known {
        *reason
    } else if matches!(kind, ErrorKind::InvalidClaimFormat(_)) {
        JwtError::Claims
    } else {
        // Base64, JSON, UTF-8 and what is to come.
        JwtError::Malformed
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
