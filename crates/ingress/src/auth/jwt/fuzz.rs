//! Whatever is sent as a token, and whatever stands where keys are read: nobody is let in but the
//! user of a token that is signed, for us and now; and nothing public is taken for a secret.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};
use tally_fuzz::{fuzz, way};

use super::jwks::{self, Unfit};
use super::keys::Keys;
use super::testing::{Issuer, base64};
use super::*;

const ALL: [Algorithm; 3] = [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa];
const SECRET: &str = "a secret that the issuer and this server know, and nobody else";
const ISSUER: &str = "https://login";
const AUDIENCE: &str = "tally";
const LEEWAY: u32 = 30;
const HEADER: &str = r#"{"alg":"HS256"}"#;
const CLAIMS: &str = r#"{"sub":"42","exp":4102444800,"iss":"https://login","aud":"tally"}"#;

const OF_TOKENS: &[&str] = &[
    HEADER,
    CLAIMS,
    "\n",
    ".",
    "\"alg\":\"none\"",
    "\"alg\":\"ES256\"",
    "\"kid\":\"1\"",
    "\"crit\":[\"exp\"]",
    "\"sub\":\"1\"",
    "\"sub\":null",
    "\"user_id\":42",
    "\"exp\":4102444800",
    "\"nbf\":",
    "\"iss\":[\"https://login\",\"x\"]",
    "\"aud\":[\"x\",\"tally\"]",
    "\"token_type\":\"refresh\"",
    "null",
];

const OF_KEY_SETS: &[&str] = &[
    "{\"keys\":[",
    "\"kty\":\"oct\"",
    "\"kty\":\"RSA\"",
    "\"kty\":\"EC\",\"crv\":\"P-256\"",
    "\"kty\":\"OKP\",\"crv\":\"Ed25519\"",
    "\"alg\":\"HS256\"",
    "\"alg\":\"Ed25519\"",
    "\"use\":\"enc\"",
    "\"key_ops\":[\"verify\"]",
    "\"e\":\"AQAB\"",
    "-----BEGIN PUBLIC KEY-----\n",
    "-----END PUBLIC KEY-----",
    "-----BEGIN RSA PUBLIC KEY-----\n",
    "\u{feff}",
    SECRET,
];

fn started(algorithm: Algorithm, keys: KeySource) -> Jwt {
    let options = JwtOptions {
        algorithms: vec![algorithm],
        keys,
        issuer: Some(ISSUER.to_owned()),
        audiences: vec![AUDIENCE.to_owned()],
        leeway: Duration::from_secs(LEEWAY.into()),
    };
    Jwt::start(options, &Registry::new()).unwrap()
}

/// The members of a header and of claims that anything hangs on; whatever else is there, at any
/// depth, is nobody's business.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Named {
    alg: Value,
    crit: Value,
    sub: Value,
    user_id: Value,
    exp: Value,
    nbf: Value,
    iss: Value,
    aud: Value,
    token_type: Value,
}

/// Whose a token with this header and these claims may be at the most, where its signature is right.
/// Another reader of them than the one that is tried.
fn whose(header: &[u8], claims: &[u8]) -> Option<String> {
    let header: Named = serde_json::from_slice(header).ok()?;
    let claims: Named = serde_json::from_slice(claims).ok()?;
    // A second more, for the clock goes on, and one for fractions.
    let (now, slack) = (now() as f64, f64::from(LEEWAY) + 2.0);
    let holds = claims.exp.as_f64()? >= now - slack
        && (claims.nbf.is_null() || claims.nbf.as_f64()? <= now + slack);
    let ours = json!(AUDIENCE);
    let for_us = claims.aud == ours || claims.aud.as_array().is_some_and(|all| all.contains(&ours));
    let kind = claims.token_type.as_str().unwrap_or_default();
    let kind_fits =
        claims.token_type.is_null() || kind == "access" || kind.eq_ignore_ascii_case("bearer");
    let valid = header.alg == "HS256"
        && header.crit.is_null()
        && claims.iss == ISSUER
        && (holds && for_us && kind_fits);
    let user = if claims.sub.is_null() {
        claims.user_id
    } else {
        claims.sub
    };
    let user = if user.is_i64() || user.is_u64() {
        user.to_string()
    } else {
        user.as_str()?.to_owned()
    };
    (valid && (1..=128).contains(&user.len())).then_some(user)
}

/// Header and claims of a token whose signature is the issuer's.
fn signed_by(issuer: &Issuer, token: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let token = std::str::from_utf8(token).ok()?;
    let (message, _) = token.rsplit_once('.')?;
    let (header, claims) = message.split_once('.')?;
    let part = |text: &str| {
        use base64::Engine as _;
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text);
        bytes.ok().filter(|bytes| base64(bytes) == text)
    };
    let (header, claims) = (part(header)?, part(claims)?);
    (issuer.raw_bytes(&header, &claims) == token).then_some((header, claims))
}

/// Protects the door from what is sent as a token before anything is known of who sends it. Each
/// input is a token as it stands, and a header and claims (or claims alone) that are signed with the
/// right secret, so that it gets past the signature: in comes the user that they name and nobody
/// else. Signed with what is public of a key, nobody does.
#[test]
fn fuzz_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        vec![path]
    };
    let with_secret = KeySource::Secrets(file("secret", SECRET));
    let with_secret = started(Algorithm::Hs256, with_secret);
    let public = Issuer::es256().pem();
    let with_public = KeySource::PublicKeys(file("key.pem", &public));
    let with_public = started(Algorithm::Es256, with_public);
    let issuer = Issuer::secret("HS256", SECRET.as_bytes());
    let forger = Issuer::secret("HS256", public.as_bytes());
    let good = issuer.raw(HEADER, CLAIMS);
    let user = with_secret.user(good.as_bytes());
    assert_eq!(user.unwrap().as_str(), "42", "the target lets somebody in");
    let enter = |token: &[u8], may: Option<String>| {
        let answer = with_secret.user(token);
        if let Ok(user) = &answer {
            let sent = String::from_utf8_lossy(token);
            assert_eq!(Some(user.as_str()), may.as_deref(), "{sent}");
        }
        // What was found valid is remembered.
        assert_eq!(with_secret.user(token).is_ok(), answer.is_ok());
        assert!(with_public.user(token).is_err());
        format!("{answer:?}")
    };
    fuzz("tokens", OF_TOKENS, |sent| {
        let may = signed_by(&issuer, sent).and_then(|(header, claims)| whose(&header, &claims));
        let raw = enter(sent, may);
        let mut parts = sent.splitn(2, |byte| *byte == b'\n');
        let (header, claims) = match (parts.next(), parts.next()) {
            (Some(header), Some(claims)) => (header, claims),
            (claims, _) => (HEADER.as_bytes(), claims.unwrap_or_default()),
        };
        let signed = enter(
            issuer.raw_bytes(header, claims).as_bytes(),
            whose(header, claims),
        );
        let forged = enter(forger.raw_bytes(header, claims).as_bytes(), None);
        way(format!("{} {raw} {signed} {forged}", is_token(sent)))
    });
}

/// Protects a server from what stands where its keys are: it is read within bounds or refused by the
/// setting's name, in words that hold nothing of it; and no form of a public key, or of a set of
/// them, is ever a secret.
#[test]
fn fuzz_key_sets() {
    let path = || vec![PathBuf::from("/nowhere/keys")];
    let secrets = KeySource::Secrets(path());
    let public_keys = KeySource::PublicKeys(path());
    let read = |source: &KeySource, bytes: &[u8], algorithms: &[Algorithm]| {
        let keys = source.parse(&[bytes.to_vec()], algorithms);
        keys.map_err(|error| {
            let said = error.to_string();
            assert!(said.contains(source.setting()), "{said}");
            assert!(said.contains("/nowhere/keys"), "{said}");
            assert!(!said.contains(SECRET), "{said}");
            said
        })
    };
    fuzz("key-sets", OF_KEY_SETS, |bytes| {
        let secret = read(&secrets, bytes, &[Algorithm::Hs256]);
        let public = read(&public_keys, bytes, &ALL);
        let set = read(
            &KeySource::JwksFile(Path::new("/nowhere/keys").into()),
            bytes,
            &ALL,
        );
        if let Ok(keys) = &set {
            let document: Value = serde_json::from_slice(bytes).expect("a set is JSON");
            looked_at(keys, document["keys"].as_array().expect("its keys"));
        }
        let no_key = matches!(jwks::parse(bytes, &ALL), Err(Unfit::NoKey(_)));
        if set.is_ok() || no_key || public.is_ok() {
            let shown = String::from_utf8_lossy(bytes);
            assert!(secret.is_err(), "public, and taken for a secret: {shown}");
        }
        let said = |read: Result<Keys, String>| match read {
            Ok(keys) => format!("{keys:?}"),
            Err(said) => said,
        };
        way(format!("{} {} {}", said(secret), said(public), said(set)))
    });
}

/// Each key of a set is one of its entries, of the type of its algorithm, and found by its name.
fn looked_at(keys: &Keys, entries: &[Value]) {
    assert!((1..=entries.len().min(64)).contains(&keys.len()));
    for (algorithm, kty) in ALL.into_iter().zip(["RSA", "EC", "OKP"]) {
        for entry in entries {
            let name = entry["kid"].as_str();
            for key in keys.candidates(algorithm, name) {
                let is_it = |entry: &&Value| {
                    entry["kty"] == kty
                        && entry["kid"].as_str() == key.kid.as_deref()
                        && (entry["use"].is_null() || entry["use"] == "sig")
                };
                assert!(entries.iter().any(|entry| is_it(&entry)), "{entry}");
                assert_eq!(key.algorithm, algorithm);
            }
        }
    }
}
