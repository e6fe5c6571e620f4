//! What a token says: its header before its signature is looked at, its claims after.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use tally_domain::UserId;

use super::JwtError;
use crate::auth::key;

/// The longest token, in bytes.
pub const MAX_TOKEN: usize = 16 << 10;

/// Whether a credential has the shape of a token: ASCII with two dots, and not as a key begins.
pub(in crate::auth) fn is_token(credential: &[u8]) -> bool {
    let dots = credential.iter().filter(|byte| **byte == b'.').count();
    dots == 2 && credential.is_ascii() && !credential.starts_with(key::PREFIX.as_bytes())
}

/// What of a header says how to check the rest. Nobody has vouched for it.
#[derive(Debug, Deserialize)]
pub(super) struct Header {
    pub(super) alg: String,
    #[serde(default)]
    pub(super) kid: Option<String>,
    #[serde(default)]
    crit: Option<IgnoredAny>,
}

impl Header {
    /// The header of a token.
    pub(super) fn of(token: &[u8]) -> Result<Self, JwtError> {
        let encoded = token.split(|byte| *byte == b'.').next().unwrap_or_default();
        let header = URL_SAFE_NO_PAD.decode(encoded).ok();
        let header = header.and_then(|json| serde_json::from_slice::<Self>(&json).ok());
        let header = header.ok_or(JwtError::Malformed)?;
        // RFC 7515, 4.1.11: whoever does not understand what must be understood refuses.
        if header.crit.is_some() {
            return Err(JwtError::Critical);
        }
        Ok(header)
    }
}

/// The claims that are looked at. Those that the library checks are here as well, so that one that
/// is there twice is refused.
#[derive(Deserialize)]
pub(super) struct Claims {
    #[serde(default)]
    sub: Option<Value>,
    #[serde(default)]
    user_id: Option<Value>,
    #[serde(default)]
    token_type: Option<Value>,
    #[serde(default)]
    aud: Option<Value>,
    #[serde(default)]
    exp: Option<Value>,
    #[serde(default, rename = "nbf")]
    _nbf: Option<IgnoredAny>,
    #[serde(default)]
    iss: Option<Value>,
}

impl Claims {
    /// When it is over, in seconds since 1970, where that is a whole number.
    pub(super) fn end(&self) -> Option<u64> {
        self.exp.as_ref()?.as_u64()
    }

    /// Whose the token is, where it is one to call an API with. `for_us`: whether its audience was
    /// compared with ours; where we have none, a token that has one is not for us.
    pub(super) fn user(&self, for_us: bool) -> Result<UserId, JwtError> {
        if self.aud.is_some() && !for_us {
            return Err(JwtError::Audience);
        }
        // The library takes a list of which one fits. It is one name (RFC 7519, 4.1.1).
        if self.iss.as_ref().is_some_and(|issuer| !issuer.is_string()) {
            return Err(JwtError::Issuer);
        }
        // Servers of this API's family sign tokens to get others with ("refresh") with the same
        // key. OAuth calls those that are for an API "Bearer".
        let usable = self.token_type.as_ref().is_none_or(|kind| {
            let kind = kind.as_str().unwrap_or_default();
            kind == "access" || kind.eq_ignore_ascii_case("bearer")
        });
        if !usable {
            return Err(JwtError::Type);
        }
        let user = match self.sub.as_ref().or(self.user_id.as_ref()) {
            Some(Value::String(user)) => UserId::new(user.as_str()).ok(),
            // Exact ones only: what has a fraction or an exponent has several texts.
            Some(Value::Number(user)) if user.is_u64() || user.is_i64() => {
                UserId::new(user.to_string()).ok()
            }
            Some(
                Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::Array(_)
                | Value::Object(_),
            )
            | None => None,
        };
        user.ok_or(JwtError::NoUser)
    }
}
