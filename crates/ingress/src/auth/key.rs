//! A key's text, its id, its hash.
//!
//! ```text
//!  tally_k7m2x9q4w1ab_9x0d4m…
//!  ‾‾‾‾‾ ‾‾‾‾‾‾‾‾‾‾‾‾ ‾‾‾‾‾‾‾
//!    │         │         └ 52 characters: 260 random bits
//!    │         └ 12 characters: 60 random bits; no secret, shown in lists
//!    └ so that a leaked key is recognised for what it is
//! ```
//!
//! Digits, small letters and `_` only: a double click takes all of it, and no shell or URL minds.
//!
//! Only the SHA-256 of the secret's text is kept. So many random bits need no slow hash: nobody
//! can try them all.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};

/// How every key begins.
pub(super) const PREFIX: &str = "tally_";
const ID_CHARS: usize = 12;
/// With its padding one block of SHA-256.
const SECRET_CHARS: usize = 52;
/// 32 characters, none of which is taken for another.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Why text is no key id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key id is {ID_CHARS} digits and small letters, as `tally keys list` shows it")]
pub struct NoKeyId;

/// Which key: what lists show and revoking takes. No secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId([u8; ID_CHARS]);

impl KeyId {
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let id: [u8; ID_CHARS] = bytes.try_into().ok()?;
        let known = id.iter().all(|char| ALPHABET.contains(char));
        known.then_some(Self(id))
    }

    fn as_str(&self) -> &str {
        // All characters of the alphabet are ASCII.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl FromStr for KeyId {
    type Err = NoKeyId;
    fn from_str(text: &str) -> Result<Self, NoKeyId> {
        Self::from_bytes(text.as_bytes()).ok_or(NoKeyId)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A key as its owner sends it. It exists when it is made and in its owner's hands; `Debug` does
/// not show it, and it has no `Display`.
pub struct ApiKey(String);

impl ApiKey {
    /// A new key from the system's randomness.
    ///
    /// # Errors
    /// Where the system has none.
    pub(super) fn generate() -> Result<(KeyId, KeyHash, Self), getrandom::Error> {
        let id = KeyId(random_chars()?);
        let secret = random_chars::<SECRET_CHARS>()?;
        let hash = KeyHash::of(&secret);
        let mut key = format!("{PREFIX}{id}_");
        key.extend(secret.iter().copied().map(char::from));
        Ok((id, hash, Self(key)))
    }

    /// The whole text, to be shown once.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

fn random_chars<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut chars = [0; N];
    getrandom::fill(&mut chars)?;
    for char in &mut chars {
        // 32 divides 256: all are equally likely.
        let place = usize::from(*char) % ALPHABET.len();
        *char = ALPHABET.get(place).copied().unwrap_or_default();
    }
    Ok(chars)
}

/// Id and secret of what has a key's shape.
pub(super) fn split(credential: &[u8]) -> Option<(KeyId, &[u8])> {
    let rest = credential.strip_prefix(PREFIX.as_bytes())?;
    let (id, rest) = rest.split_at_checked(ID_CHARS)?;
    let secret = rest.strip_prefix(b"_")?;
    // The length is no secret, and the hash of anything longer would only cost time.
    (secret.len() == SECRET_CHARS).then_some((KeyId::from_bytes(id)?, secret))
}

/// The id in a whole key, for whoever has the key at hand and not its id.
///
/// # Errors
/// [`NoKeyId`]; it does not repeat the text, which may have a secret in it.
pub fn id_of(text: &str) -> Result<KeyId, NoKeyId> {
    match split(text.as_bytes()) {
        Some((id, _)) => Ok(id),
        None => text.parse(),
    }
}

/// The SHA-256 of a secret, in JSON 64 hexadecimal digits. `Debug` does not show it.
#[derive(Clone, Copy)]
pub(super) struct KeyHash([u8; 32]);

impl KeyHash {
    /// What no secret hashes to, as far as anybody can tell.
    pub(super) const NONE: Self = Self([0; 32]);

    pub(super) fn of(secret: &[u8]) -> Self {
        Self(Sha256::digest(secret).into())
    }

    /// Compares all bytes, whatever they are.
    pub(super) fn ct_eq(&self, other: &Self) -> Choice {
        self.0.ct_eq(&other.0)
    }

    fn from_hex(text: &[u8]) -> Option<Self> {
        let digit = |char: u8| {
            char::from(char)
                .to_digit(16)
                .and_then(|d| u8::try_from(d).ok())
        };
        let (pairs, rest) = text.as_chunks::<2>();
        let mut hash = [0; 32];
        if pairs.len() != hash.len() || !rest.is_empty() {
            return None;
        }
        for (byte, [high, low]) in hash.iter_mut().zip(pairs) {
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Some(Self(hash))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(…)")
    }
}

impl Serialize for KeyHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Hex<'a>(&'a [u8]);
        impl fmt::Display for Hex<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
        serializer.collect_str(&Hex(&self.0))
    }
}

impl<'de> Deserialize<'de> for KeyHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        // The text is not repeated: somebody may have put the secret itself there.
        let hash = Self::from_hex(text.as_bytes());
        hash.ok_or_else(|| serde::de::Error::custom("sha256 is 64 hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects keys in use: a key that was made splits into what was stored of it.
    #[test]
    fn a_key_is_its_id_and_a_secret_whose_hash_is_kept() {
        let (id, hash, key) = ApiKey::generate().unwrap();
        let text = key.expose();
        assert_eq!(text.len(), PREFIX.len() + ID_CHARS + 1 + SECRET_CHARS);
        let (found, secret) = split(text.as_bytes()).unwrap();
        assert_eq!(found, id);
        assert!(bool::from(KeyHash::of(secret).ct_eq(&hash)));
        let known = |char: u8| ALPHABET.contains(&char);
        assert!(secret.iter().copied().all(known), "{text}");
        assert!(!bool::from(KeyHash::NONE.ct_eq(&hash)));
        assert_eq!(id_of(text), Ok(id));
        assert_eq!(id_of(&id.to_string()), Ok(id));

        let (other, _, other_key) = ApiKey::generate().unwrap();
        assert_ne!(id, other);
        assert_ne!(
            text.rsplit('_').next(),
            other_key.expose().rsplit('_').next()
        );
    }

    /// Protects the file's meaning: the hash of a known secret, as any other tool computes it.
    #[test]
    fn the_hash_is_plain_sha_256_in_hex() {
        let hash = KeyHash::of(b"abc");
        let hex = r#""ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad""#;
        assert_eq!(serde_json::to_string(&hash).unwrap(), hex);
        let read: KeyHash = serde_json::from_str(hex).unwrap();
        assert!(bool::from(read.ct_eq(&hash)));
        for wrong in [
            "",
            "ba78",
            &hex.replace("ba", "bg"),
            &hex.replace("ad\"", "ad0\""),
        ] {
            assert!(serde_json::from_str::<KeyHash>(&format!("{wrong:?}")).is_err());
        }
    }

    /// Protects the look-up from texts that only look like a key.
    #[test]
    fn other_shapes_are_no_keys() {
        let secret = "s".repeat(SECRET_CHARS);
        assert!(split(format!("tally_000000000000_{secret}").as_bytes()).is_some());
        for text in [
            String::new(),
            "local-dev-key".to_owned(),
            "tally_".to_owned(),
            format!("Tally_000000000000_{secret}"),
            format!("tally_00000000000_{secret}"),
            format!("tally_0000000000000_{secret}"),
            format!("tally_00000000000O_{secret}"),
            format!("tally_000000000000_{secret}s"),
            format!("tally_000000000000_{}", "s".repeat(SECRET_CHARS - 1)),
            format!("tally_00000000000é{secret}"),
        ] {
            assert!(split(text.as_bytes()).is_none(), "{text}");
            assert_eq!(id_of(&text), Err(NoKeyId), "{text}");
        }
    }

    /// Protects log lines and error texts: nothing of a key but its id can be printed by mistake.
    #[test]
    fn secrets_are_not_in_debug() {
        let (id, hash, key) = ApiKey::generate().unwrap();
        assert_eq!(format!("{key:?} {hash:?}"), "ApiKey(…) KeyHash(…)");
        assert_eq!(format!("{id:?}"), format!("KeyId({id})"));
    }
}
