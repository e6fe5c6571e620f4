//! A JSON Web Key Set (RFC 7517): the keys in it that we can use.
//!
//! Sets often hold more than one consumer wants: keys to encrypt with, other algorithms, types to
//! come. Those are passed over, as the RFC asks for, and so are secrets (`oct`): a set is public,
//! or may become so.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::Value;

use super::Algorithm;
use super::keys::{self, Key};

/// The most keys of a set that are used.
const MAX_KEYS: usize = 64;
/// The largest set, in bytes.
pub const MAX_JWKS: usize = 256 << 10;

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default, rename = "use")]
    usage: Option<String>,
    #[serde(default)]
    key_ops: Option<Vec<String>>,
    #[serde(default)]
    crv: Option<String>,
    #[serde(default)]
    n: Option<String>,
    #[serde(default)]
    e: Option<String>,
    #[serde(default)]
    x: Option<String>,
    #[serde(default)]
    y: Option<String>,
}

/// Why a set gives no keys, in words that follow "the key set".
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// It is no set, or one past the bounds: it says nothing of the keys that held before.
    NoSet(String),
    /// It is a set, and no key of it can be used: those that held before were taken out of it.
    NoKey(String),
}

/// The keys of a set that are for one of `algorithms`.
///
/// # Errors
/// [`Unfit`].
pub(super) fn parse(bytes: &[u8], algorithms: &[Algorithm]) -> Result<Vec<Key>, Unfit> {
    if bytes.len() > MAX_JWKS {
        return Err(Unfit::NoSet(format!("has more than {MAX_JWKS} bytes")));
    }
    // What serde_json says may quote it.
    let document: Document = serde_json::from_slice(bytes)
        .map_err(|error| Unfit::NoSet(format!("is no key set: see line {}", error.line())))?;
    let entries = document.keys.into_iter();
    let keys: Vec<Key> = entries
        .filter_map(key)
        .filter(|key| algorithms.contains(&key.algorithm))
        .take(MAX_KEYS + 1)
        .collect();
    match keys.len() {
        0 => {
            let names: Vec<&str> = algorithms.iter().map(|one| one.name()).collect();
            Err(Unfit::NoKey(format!("has no key for {}", names.join(", "))))
        }
        1..=MAX_KEYS => Ok(keys),
        _ => Err(Unfit::NoSet(format!("has more than {MAX_KEYS} keys"))),
    }
}

/// One entry, where it is a key that we can check a signature with.
fn key(entry: Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(entry).ok()?;
    let to_verify = jwk.usage.as_ref().is_none_or(|usage| usage == "sig")
        && jwk
            .key_ops
            .as_ref()
            .is_none_or(|all| all.iter().any(|one| one == "verify"));
    if !to_verify {
        return None;
    }
    let part = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_ref()?).ok();
    let checked = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("RSA", _) => keys::rsa_components(&part(&jwk.n)?, &part(&jwk.e)?),
        ("EC", Some("P-256")) => keys::p256_components(&part(&jwk.x)?, &part(&jwk.y)?),
        ("OKP", Some("Ed25519")) => keys::ed25519(&part(&jwk.x)?),
        _ => return None,
    };
    let (algorithm, decoding) = checked.ok()?;
    // What it is for is said by its type; where it says it by name too, the two must agree.
    let agreed = jwk.alg.as_ref().is_none_or(|alg| alg == algorithm.name());
    agreed.then_some(Key {
        kid: jwk.kid,
        algorithm,
        decoding,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::Issuer;
    use super::*;

    const ALL: [Algorithm; 3] = [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa];

    fn with(mut jwk: Value, name: &str, value: &Value) -> Value {
        jwk[name] = value.clone();
        jwk
    }

    fn names(set: &Value, algorithms: &[Algorithm]) -> Result<Vec<String>, Unfit> {
        let keys = parse(set.to_string().as_bytes(), algorithms)?;
        Ok(keys.into_iter().filter_map(|key| key.kid).collect())
    }

    /// Protects users whose issuer publishes more than we can use: the rest is passed over.
    #[test]
    fn only_keys_to_check_signatures_with_are_taken_from_a_set() {
        let (rsa, ec, ed) = (Issuer::rs256(), Issuer::es256(), Issuer::eddsa());
        let ignored = [
            json!({"kty": "oct", "kid": "x", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA"}),
            with(rsa.jwk("x"), "use", &json!("enc")),
            with(rsa.jwk("x"), "key_ops", &json!(["encrypt"])),
            with(rsa.jwk("x"), "alg", &json!("RS512")),
            with(rsa.jwk("x"), "alg", &json!("HS256")),
            with(rsa.jwk("x"), "alg", &json!("RSA-OAEP")),
            with(rsa.jwk("x"), "n", &json!("AQAB")),
            with(rsa.jwk("x"), "n", &json!("not base64!")),
            with(rsa.jwk("x"), "kty", &json!("EC")),
            with(rsa.jwk("x"), "kid", &json!(7)),
            with(ec.jwk("x"), "crv", &json!("P-384")),
            with(ec.jwk("x"), "crv", &json!("secp256k1")),
            with(ec.jwk("x"), "kty", &json!("OKP")),
            with(ec.jwk("x"), "alg", &json!("ES384")),
            // EdDSA's name in RFC 9864: no token could have it.
            with(ed.jwk("x"), "alg", &json!("Ed25519")),
            // Not on the curve.
            with(ec.jwk("x"), "x", &ec.jwk("x")["y"]),
            with(ec.jwk("x"), "x", &json!("AQAB")),
            with(ed.jwk("x"), "crv", &json!("X25519")),
            with(ed.jwk("x"), "x", &json!("AQAB")),
            json!({}),
            json!("key"),
            json!(null),
            json!({"kty": "AKP", "alg": "ML-DSA-44", "kid": "x"}),
        ];
        for entry in &ignored {
            let set = json!({"keys": [entry, ed.jwk("ed")]});
            assert_eq!(names(&set, &ALL), Ok(vec!["ed".to_owned()]), "{entry}");
        }
        let set = json!({"keys": [
            with(rsa.jwk("rsa"), "alg", &json!("RS256")),
            with(ec.jwk("ec"), "use", &json!("sig")),
            with(ed.jwk("ed"), "key_ops", &json!(["verify"])),
        ], "more": 1});
        assert_eq!(names(&set, &ALL).unwrap(), ["rsa", "ec", "ed"]);
        assert_eq!(names(&set, &[Algorithm::Es256]).unwrap(), ["ec"]);
        assert!(names(&set, &[Algorithm::Hs256]).is_err());
        let none = names(&json!({"keys": ignored}), &ALL);
        let said = "has no key for RS256, ES256, EdDSA";
        assert_eq!(none, Err(Unfit::NoKey(said.to_owned())));
    }

    /// Protects memory and time from what is no set, or one without end; and keys that hold from
    /// what says nothing of them.
    #[test]
    fn a_set_is_one_and_has_an_end() {
        let no_set = |bytes: &[u8]| matches!(parse(bytes, &ALL), Err(Unfit::NoSet(_)));
        for bad in ["", "[]", "{}", "{\"keys\":{}}", "<html>", "{\"keys\":[]"] {
            assert!(no_set(bad.as_bytes()), "{bad}");
        }
        for empty in ["{\"keys\":[]}", "{\"keys\":[{}]}"] {
            let said = parse(empty.as_bytes(), &ALL).unwrap_err();
            assert!(matches!(said, Unfit::NoKey(_)), "{empty}");
        }
        let ed = Issuer::eddsa();
        let many = |count: usize| json!({"keys": vec![ed.jwk("k"); count]});
        assert_eq!(names(&many(MAX_KEYS), &ALL).unwrap().len(), MAX_KEYS);
        assert!(no_set(many(MAX_KEYS + 1).to_string().as_bytes()));
        assert!(no_set(" ".repeat(MAX_JWKS + 1).as_bytes()));
    }

    /// Protects users of an issuer that names two keys alike, or none: a token is checked with
    /// those it can be of.
    #[test]
    fn a_name_that_is_there_twice_is_both_keys() {
        let issuers = [Issuer::es256(), Issuer::es256(), Issuer::rs256()];
        let [one, two, three] = &issuers;
        let set = json!({"keys": [one.jwk("k"), two.jwk("k"), three.jwk("k"), two.jwk("l")]});
        let keys = keys::Keys::named(parse(set.to_string().as_bytes(), &ALL).unwrap());
        let count = |algorithm, kid| keys.candidates(algorithm, kid).count();
        assert_eq!(count(Algorithm::Es256, Some("k")), 2);
        assert_eq!(count(Algorithm::Es256, Some("l")), 1);
        assert_eq!(count(Algorithm::Rs256, Some("k")), 1);
        assert_eq!(count(Algorithm::EdDsa, Some("k")), 0);
        assert_eq!(count(Algorithm::Es256, Some("K")), 0);
        // Without a name there must be no choice.
        assert_eq!(count(Algorithm::Es256, None), 0);
        assert_eq!(count(Algorithm::Rs256, None), 1);
    }
}
