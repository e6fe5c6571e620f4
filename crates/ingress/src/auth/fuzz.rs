//! Whatever stands in an `Authorization` header or in the file of keys: nobody is let in who has no
//! key, and a file is read whole or refused.

use std::fs;

use actix_web::http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use tally_domain::UserId;
use tally_fuzz::{fuzz, way};

use super::authenticator::{Authenticator, LOCAL_DEV_KEY, LOCAL_DEV_USER};
use super::file::{KeysFile, to_bytes};
use super::key::id_of;

const ID: &str = "k7m2x9q4w1ab";
const SECRET: &str = "0123456789abcdefghjkmnpqrstvwxyz0123456789abcdefghjk";
/// SHA-256 of the secret.
const SHA256: &str = "e773a04930891995839828989be814486e8f02cb2f08193efc724aee968d5202";

const WORDS: &[&str] = &[
    "Bearer ",
    "bearer\t",
    "tally_",
    "_",
    ID,
    SECRET,
    LOCAL_DEV_KEY,
    "\"v\":1",
    "\"keys\":[",
    "\"revoked_at\":",
    "\"sha256\":",
    SHA256,
];

/// Protects the door: who is let in has sent a key that is there, whole, and nothing else.
#[test]
fn fuzz_keys() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    let text = format!(
        r#"{{"v":1,"keys":[{{"id":"{ID}","user":"42","sha256":"{SHA256}","created_at":"2026-11-24T03:50:12.345Z"}}]}}"#
    );
    fs::write(&path, text).unwrap();
    let authenticator = Authenticator::start(&path, true).unwrap();
    let key = format!("tally_{ID}_{SECRET}");
    fuzz("keys", WORDS, |sent| {
        let _ = id_of(&String::from_utf8_lossy(sent));
        let Ok(value) = HeaderValue::from_bytes(sent) else {
            return way("no header");
        };
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, value);
        let answer = authenticator.authenticate(&headers);
        let mut words = sent
            .split(u8::is_ascii_whitespace)
            .filter(|word| !word.is_empty());
        let scheme = words.next().unwrap_or_default();
        let whose = match (words.next(), words.next()) {
            (Some(word), None) if word == key.as_bytes() => Some("42"),
            (Some(word), None) if word == LOCAL_DEV_KEY.as_bytes() => Some(LOCAL_DEV_USER),
            _ => None,
        };
        let whose = whose.filter(|_| scheme.eq_ignore_ascii_case(b"bearer"));
        assert_eq!(answer.as_ref().ok().map(UserId::as_str), whose);
        way(format!("{answer:?}"))
    });
}

/// Protects whoever starts a server on a file of keys: it is read whole, or refused in words that
/// hold nothing of it; and what is written of it is read again.
#[test]
fn fuzz_keys_file() {
    let file = KeysFile::new("/nowhere/keys.json");
    fuzz("keys-file", WORDS, |bytes| match file.parse(bytes) {
        Ok(keys) => {
            let written = to_bytes(&keys).unwrap();
            let again = file.parse(&written).expect("what was written is read");
            assert_eq!(to_bytes(&again).unwrap(), written);
            way(format!("{}", keys.len().min(3)))
        }
        Err(error) => {
            let said = error.to_string();
            assert!(said.contains("/nowhere/keys.json"), "{said}");
            assert!(!said.contains(SHA256) && !said.contains(SECRET), "{said}");
            way(said)
        }
    });
}

#[test]
fn the_hash_is_the_secrets() {
    let hash = super::key::KeyHash::of(SECRET.as_bytes());
    assert_eq!(serde_json::to_value(hash).unwrap(), SHA256);
}
