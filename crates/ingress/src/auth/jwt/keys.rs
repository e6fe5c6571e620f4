//! Keys that signatures are checked with, each with the one algorithm it is for.

use std::fmt;

use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    RsaPublicKeyComponents,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::DecodingKey;
use serde_json::Value;

use super::Algorithm;
use super::verified::Verified;

/// The bits of an RSA key, as RFC 7518 has them at the least and the library at the most.
const RSA_BITS: std::ops::RangeInclusive<u32> = 2_048..=8_192;
/// Coordinates of P-256 and keys of Ed25519, in bytes.
const COORDINATE: usize = 32;
/// How a PEM block begins.
const PEM: &str = "-----BEGIN ";
/// How a public key in DER begins.
const DER_SEQUENCE: u8 = 0x30;

/// A key, and what it is for.
pub(super) struct Key {
    pub(super) kid: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) decoding: DecodingKey,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

/// All keys that hold at a time.
#[derive(Default)]
pub(super) struct Keys {
    all: Vec<Key>,
    /// Whether tokens say by its `kid` which key they are signed with.
    named: bool,
    /// Tokens that were found valid with these keys.
    pub(super) verified: Verified,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.all).finish()
    }
}

impl Keys {
    /// Keys without names: a token may be signed with any of those of its algorithm.
    pub(super) fn unnamed(all: Vec<Key>) -> Self {
        Self {
            all,
            ..Self::default()
        }
    }

    /// The keys of a set, by their `kid`.
    pub(super) fn named(all: Vec<Key>) -> Self {
        Self {
            all,
            named: true,
            ..Self::default()
        }
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Which keys a token may be signed with. Of a set these are the ones with its `kid` (rarely
    /// more than one); a token without one may be signed with the only key there is for its
    /// algorithm (OpenID Connect Core, 10.1).
    pub(super) fn candidates<'a>(
        &'a self,
        algorithm: Algorithm,
        kid: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Key> {
        let fitting = move |key: &&Key| key.algorithm == algorithm;
        let unclear = self.named && kid.is_none() && self.all.iter().filter(fitting).count() != 1;
        let any = !self.named || kid.is_none();
        let all = if unclear { &[][..] } else { &self.all[..] };
        all.iter()
            .filter(fitting)
            .filter(move |key| any || key.kid.as_deref() == kid)
    }
}

/// A key to check with that is known to be one, or what is wrong with it.
pub(super) type Checked = Result<(Algorithm, DecodingKey), &'static str>;

/// A secret for one of the algorithms with a secret.
pub(super) fn secret(content: &[u8], algorithm: Algorithm) -> Result<DecodingKey, String> {
    // The break that editors and `echo` put at its end.
    let secret = content.strip_suffix(b"\n").unwrap_or(content);
    let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
    let Some(least) = algorithm.min_secret() else {
        return Err(format!("is a secret, and {algorithm} needs a public key"));
    };
    // Whoever knows the public key could sign with it.
    if let Some(what) = public_material(content).or_else(|| public_material(secret)) {
        return Err(format!("is {what} and no secret for {algorithm}"));
    }
    if secret.len() < least {
        return Err(format!(
            "has a secret of {} bytes; {algorithm} needs {least} or more",
            secret.len()
        ));
    }
    Ok(DecodingKey::from_secret(secret))
}

/// What `content` is, where it is a form in which keys are handed round; `None` where it is none.
fn public_material(content: &[u8]) -> Option<&'static str> {
    let holds_pem = content
        .windows(PEM.len())
        .any(|part| part == PEM.as_bytes());
    if holds_pem {
        return Some("a PEM file");
    }
    let json = serde_json::from_slice::<Value>(content).ok();
    if json.is_some_and(|json| json.get("keys").is_some() || json.get("kty").is_some()) {
        return Some("a JSON Web Key or a set of them");
    }
    // DER begins with a sequence. The library takes bare points too, and half of all secrets of
    // that length are one of Ed25519.
    let der = content.first() == Some(&DER_SEQUENCE) && content.len() > COORDINATE;
    let public = der
        && (ParsedPublicKey::new(&ED25519, content).is_ok()
            || ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, content).is_ok()
            || rsa::PublicKey::from_der(content).is_ok());
    public.then_some("a public key")
}

/// The public key in a PEM file.
pub(super) fn pem(content: &[u8]) -> Checked {
    let text = std::str::from_utf8(content).map_err(|_| "is no PEM file")?;
    let mut blocks = text.split(PEM).skip(1);
    let block = blocks.next().ok_or("is no PEM file")?;
    if blocks.next().is_some() {
        return Err("has more than one PEM block; valid is one public key a file");
    }
    let (label, rest) = block.split_once("-----").ok_or("is no PEM file")?;
    if label.ends_with("PRIVATE KEY") {
        return Err("has a private key, which belongs to nobody but the issuer of the tokens");
    }
    if !["PUBLIC KEY", "RSA PUBLIC KEY"].contains(&label) {
        return Err("has no public key; valid are PUBLIC KEY and RSA PUBLIC KEY");
    }
    let end = format!("-----END {label}-----");
    let (body, _) = rest
        .split_once(&end)
        .ok_or("is a PEM file that is cut off")?;
    let body: String = body.split_whitespace().collect();
    let der = STANDARD.decode(body).map_err(|_| "is a damaged PEM file")?;
    if label == "PUBLIC KEY" && ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &der).is_ok() {
        return Ok((Algorithm::Es256, DecodingKey::from_ec_der(&der)));
    }
    if label == "PUBLIC KEY" && ParsedPublicKey::new(&ED25519, &der).is_ok() {
        return Ok((Algorithm::EdDsa, DecodingKey::from_ed_der(&der)));
    }
    let key = rsa::PublicKey::from_der(&der)
        .map_err(|_| "has a public key that is none of RSA, P-256 or Ed25519")?;
    let RsaPublicKeyComponents { n, e } = RsaPublicKeyComponents::<Vec<u8>>::from(&key);
    rsa_components(&n, &e)
}

/// An RSA key of its modulus and exponent, both big-endian.
pub(super) fn rsa_components(n: &[u8], e: &[u8]) -> Checked {
    let zeros = n.iter().take_while(|byte| **byte == 0).count();
    let n = n.get(zeros..).unwrap_or_default();
    // Whole bytes, but for the first one's leading zeros.
    let spare = n.first().map_or(0, |byte| byte.leading_zeros());
    let bits = u32::try_from(n.len() * 8).map_or(0, |bits| bits - spare);
    if !RSA_BITS.contains(&bits) {
        return Err("has an RSA key that is not of 2048 to 8192 bits");
    }
    RsaPublicKeyComponents { n, e }
        .to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256)
        .map_err(|_| "has an RSA key that is none")?;
    Ok((Algorithm::Rs256, DecodingKey::from_rsa_raw_components(n, e)))
}

/// A key of P-256 of its coordinates.
pub(super) fn p256_components(x: &[u8], y: &[u8]) -> Checked {
    if x.len() != COORDINATE || y.len() != COORDINATE {
        return Err("has coordinates that are not of P-256");
    }
    let point = [&[4], x, y].concat();
    ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point)
        .map_err(|_| "has a point that is not on P-256")?;
    Ok((Algorithm::Es256, DecodingKey::from_ec_der(&point)))
}

/// A key of Ed25519.
pub(super) fn ed25519(x: &[u8]) -> Checked {
    if x.len() != COORDINATE || ParsedPublicKey::new(&ED25519, x).is_err() {
        return Err("has no key of Ed25519");
    }
    Ok((Algorithm::EdDsa, DecodingKey::from_ed_der(x)))
}
