//! Which tokens are taken, which are refused and why, and the attacks that are known.

use std::fs;
use std::path::PathBuf;

use actix_web::http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::testing::{Issuer, claims};
use super::*;
use crate::auth::{AuthError, Authenticator, KeysFile};

mod attacks;
mod keys;

const SECRET: &[u8] = b"a secret of sixty-four bytes, which is enough for all of HS512..";

fn file(folder: &TempDir, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    path
}

fn options(algorithms: &[Algorithm], keys: KeySource) -> JwtOptions {
    JwtOptions {
        algorithms: algorithms.to_vec(),
        keys,
        issuer: None,
        audiences: Vec::new(),
        leeway: Duration::from_secs(30),
    }
}

fn start(options: JwtOptions) -> Jwt {
    Jwt::start(options, &Registry::new()).unwrap()
}

/// Tokens with secrets of one file.
fn with_secret(folder: &TempDir, algorithm: Algorithm) -> (Issuer, Jwt) {
    let path = file(folder, "secret", SECRET);
    let jwt = start(options(&[algorithm], KeySource::Secrets(vec![path])));
    (Issuer::secret(algorithm.name(), SECRET), jwt)
}

fn user(name: &str) -> Result<UserId, JwtError> {
    Ok(UserId::new(name).unwrap())
}

fn ask(jwt: &Jwt, token: &str) -> Result<UserId, JwtError> {
    jwt.user(token.as_bytes())
}

/// Protects every algorithm that is promised, with keys of each kind of file.
#[test]
fn a_token_of_each_algorithm_is_its_user() {
    for algorithm in [Algorithm::Hs256, Algorithm::Hs384, Algorithm::Hs512] {
        let folder = tempfile::tempdir().unwrap();
        let (issuer, jwt) = with_secret(&folder, algorithm);
        assert_eq!(ask(&jwt, &issuer.token(&claims("42"))), user("42"));
        assert_eq!(
            ask(&jwt, &issuer.token_of("any", &claims("42"))),
            user("42")
        );
    }
    let all = [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa];
    let issuers = [Issuer::rs256(), Issuer::es256(), Issuer::eddsa()];
    let folder = tempfile::tempdir().unwrap();
    let pems = issuers.iter().map(|issuer| {
        let name = format!("{}.pem", issuer.name);
        file(&folder, &name, issuer.pem())
    });
    let pems = start(options(&all, KeySource::PublicKeys(pems.collect())));
    let set: Vec<Value> = issuers.iter().map(|one| one.jwk(one.name)).collect();
    let set = file(&folder, "jwks.json", json!({"keys": set}).to_string());
    let set = start(options(&all, KeySource::JwksFile(set)));
    for issuer in &issuers {
        let (name, claims) = (issuer.name, claims("42"));
        assert_eq!(ask(&pems, &issuer.token(&claims)), user("42"), "{name}");
        assert_eq!(ask(&set, &issuer.token(&claims)), user("42"), "{name}");
        assert_eq!(
            ask(&set, &issuer.token_of(name, &claims)),
            user("42"),
            "{name}"
        );
        let other = issuer.token_of("other", &claims);
        assert_eq!(ask(&set, &other), Err(JwtError::UnknownKey), "{name}");
    }
}

/// Protects the words of DESIGN: a user is the token's `sub`, else its `user_id`.
#[test]
fn a_user_is_the_sub_or_else_the_user_id() {
    let folder = tempfile::tempdir().unwrap();
    let (issuer, jwt) = with_secret(&folder, Algorithm::Hs256);
    let longest = "u".repeat(128);
    let cases = [
        (json!({"sub": "a user"}), user("a user")),
        (json!({"sub": "a", "user_id": "b"}), user("a")),
        (json!({"user_id": "b"}), user("b")),
        (json!({"user_id": 42}), user("42")),
        (json!({"sub": 42}), user("42")),
        (json!({"user_id": -7}), user("-7")),
        (json!({"user_id": u64::MAX}), user("18446744073709551615")),
        (json!({"sub": null, "user_id": 42}), user("42")),
        (json!({"sub": longest}), user(&longest)),
        (json!({"sub": "ü"}), user("ü")),
        (json!({}), Err(JwtError::NoUser)),
        (json!({"sub": ""}), Err(JwtError::NoUser)),
        (json!({"sub": "", "user_id": 42}), Err(JwtError::NoUser)),
        (json!({"sub": format!("{longest}u")}), Err(JwtError::NoUser)),
        (json!({"sub": "ü".repeat(65)}), Err(JwtError::NoUser)),
        (json!({"user_id": ["a"]}), Err(JwtError::NoUser)),
        (json!({"user_id": {"a": 1}}), Err(JwtError::NoUser)),
        (json!({"sub": ["a"]}), Err(JwtError::Malformed)),
        (json!({"sub": true}), Err(JwtError::NoUser)),
        (json!({"user_id": 1.5}), Err(JwtError::NoUser)),
        (json!({"user_id": 1e3}), Err(JwtError::NoUser)),
    ];
    for (mut claims, wanted) in cases {
        claims["exp"] = (now() + 60).into();
        assert_eq!(ask(&jwt, &issuer.token(&claims)), wanted, "{claims}");
    }
}

/// Protects against tokens that are over, not yet begun, or have no end.
#[test]
fn a_token_has_an_end_and_holds_until_then_and_from_its_beginning() {
    let folder = tempfile::tempdir().unwrap();
    let (issuer, jwt) = with_secret(&folder, Algorithm::Hs256);
    let now = now();
    let cases = [
        (json!({"exp": now + 60}), user("1")),
        // Clocks differ: 30 s in either direction. A slow test must not fail, so not to the second.
        (json!({"exp": now - 10}), user("1")),
        (json!({"exp": now - 40}), Err(JwtError::Expired)),
        (json!({"exp": 0}), Err(JwtError::Expired)),
        (json!({"exp": now + 60, "nbf": now - 60}), user("1")),
        (json!({"exp": now + 60, "nbf": now + 20}), user("1")),
        (
            json!({"exp": now + 600, "nbf": now + 300}),
            Err(JwtError::NotYetValid),
        ),
        (
            json!({"exp": now - 40, "nbf": now + 300}),
            Err(JwtError::Expired),
        ),
        (json!({}), Err(JwtError::Claims)),
        (json!({"exp": null}), Err(JwtError::Claims)),
        (json!({"exp": "never"}), Err(JwtError::Claims)),
        (
            json!({"exp": (now + 60).to_string()}),
            Err(JwtError::Claims),
        ),
        (json!({"exp": -1}), Err(JwtError::Claims)),
        (json!({"exp": [now + 60]}), Err(JwtError::Malformed)),
        (
            json!({"exp": now + 60, "nbf": "now"}),
            Err(JwtError::Claims),
        ),
    ];
    for (mut claims, wanted) in cases {
        claims["sub"] = "1".into();
        assert_eq!(ask(&jwt, &issuer.token(&claims)), wanted, "{claims}");
    }
}

/// Protects us from tokens that are valid elsewhere: what is configured is required, and a token
/// for somebody is not for us where we have no name.
#[test]
fn issuer_and_audience_are_as_configured() {
    let folder = tempfile::tempdir().unwrap();
    let (issuer, bare) = with_secret(&folder, Algorithm::Hs256);
    let named = start(JwtOptions {
        issuer: Some("https://login.example.com/".to_owned()),
        audiences: vec!["tally".to_owned(), "tally-dev".to_owned()],
        ..options(
            &[Algorithm::Hs256],
            KeySource::Secrets(vec![folder.path().join("secret")]),
        )
    });
    let (ours, right) = (json!("tally"), json!("https://login.example.com/"));
    let cases = [
        (&named, right.clone(), ours.clone(), user("1")),
        (&named, right.clone(), json!(["x", "tally-dev"]), user("1")),
        (&named, Value::Null, ours.clone(), Err(JwtError::Issuer)),
        (
            &named,
            json!("https://login.example.com"),
            ours.clone(),
            Err(JwtError::Issuer),
        ),
        (&named, json!(7), ours.clone(), Err(JwtError::Issuer)),
        (
            &named,
            json!(["https://login.example.com/"]),
            ours.clone(),
            Err(JwtError::Issuer),
        ),
        (&named, right.clone(), Value::Null, Err(JwtError::Audience)),
        (
            &named,
            right.clone(),
            json!("Tally"),
            Err(JwtError::Audience),
        ),
        (&named, right.clone(), json!([]), Err(JwtError::Audience)),
        (&named, right.clone(), json!(["x"]), Err(JwtError::Audience)),
        (&named, right.clone(), json!(7), Err(JwtError::Audience)),
        (&bare, Value::Null, Value::Null, user("1")),
        (&bare, right.clone(), Value::Null, user("1")),
        (&bare, json!(["x"]), Value::Null, Err(JwtError::Issuer)),
        (&bare, Value::Null, ours.clone(), Err(JwtError::Audience)),
        (&bare, Value::Null, json!(["x"]), Err(JwtError::Audience)),
        (&bare, Value::Null, json!(7), Err(JwtError::Audience)),
    ];
    for (jwt, iss, aud, wanted) in cases {
        let mut claims = claims("1");
        for (name, value) in [("iss", iss), ("aud", aud)] {
            if !value.is_null() {
                claims[name] = value;
            }
        }
        assert_eq!(ask(jwt, &issuer.token(&claims)), wanted, "{claims}");
    }
}

/// Protects against tokens that only get others: servers of this API's family sign them with the
/// same key.
#[test]
fn a_refresh_token_is_none_to_call_with() {
    let folder = tempfile::tempdir().unwrap();
    let (issuer, jwt) = with_secret(&folder, Algorithm::Hs256);
    for (kind, wanted) in [
        (json!("access"), user("1")),
        (json!("Bearer"), user("1")),
        (json!("refresh"), Err(JwtError::Type)),
        (json!("sliding"), Err(JwtError::Type)),
        (json!(""), Err(JwtError::Type)),
        (json!(1), Err(JwtError::Type)),
    ] {
        let mut claims = claims("1");
        claims["token_type"] = kind;
        assert_eq!(ask(&jwt, &issuer.token(&claims)), wanted, "{claims}");
    }
}

/// Protects against what is no token, or one of parts that were put together.
#[test]
fn what_is_no_token_is_malformed() {
    let folder = tempfile::tempdir().unwrap();
    let (issuer, jwt) = with_secret(&folder, Algorithm::Hs256);
    let good = r#"{"alg":"HS256"}"#;
    let end = now() + 60;
    let sub = format!(r#"{{"sub":"1","exp":{end}}}"#);
    assert_eq!(ask(&jwt, &issuer.raw(good, &sub)), user("1"));
    let token = issuer.raw(good, &sub);
    let (message, signature) = token.rsplit_once('.').unwrap();
    let deep = format!(r#"{{"sub":"1","exp":{end},"x":{}}}"#, "[".repeat(5_000));
    let malformed = [
        "..".to_owned(),
        "a.b.c".to_owned(),
        issuer.raw("", &sub),
        issuer.raw("null", &sub),
        issuer.raw("[]", &sub),
        issuer.raw("{}", &sub),
        issuer.raw(r#"{"alg":256}"#, &sub),
        issuer.raw(r#"{"alg":"HS256","alg":"HS256"}"#, &sub),
        issuer.raw(r#"{"alg":"HS256","kid":7}"#, &sub),
        issuer.raw(r#"{"alg":"HS256"} x"#, &sub),
        issuer.raw(good, ""),
        issuer.raw(good, "[]"),
        issuer.raw(good, "\"1\""),
        issuer.raw(good, &deep),
        // A name that is there twice: others may have looked at the other one.
        issuer.raw(good, &format!(r#"{{"sub":"1","sub":"2","exp":{end}}}"#)),
        issuer.raw(good, &format!(r#"{{"sub":"1","exp":1,"exp":{end}}}"#)),
        issuer.raw(
            good,
            &format!(r#"{{"sub":"1","aud":"x","aud":"y","exp":{end}}}"#),
        ),
        format!("{token}="),
        format!("{message}.{signature}%"),
        format!("={token}"),
    ];
    for token in malformed {
        assert_eq!(ask(&jwt, &token), Err(JwtError::Malformed), "{token}");
    }
    let long = format!("{message}.{}", "A".repeat(MAX_TOKEN));
    assert_eq!(ask(&jwt, &long), Err(JwtError::TooLong));
    for crit in [r#"["b64"]"#, "[]", "\"x\"", "7"] {
        let header = format!(r#"{{"alg":"HS256","b64":false,"crit":{crit}}}"#);
        let token = issuer.raw(&header, &sub);
        assert_eq!(ask(&jwt, &token), Err(JwtError::Critical), "{crit}");
    }
}

/// Protects what makes requests with tokens cheap, and that only valid ones are remembered.
#[test]
fn a_valid_token_is_remembered_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let (issuer, jwt) = with_secret(&folder, Algorithm::Hs256);
    let remembered = || jwt.follower.keys().verified.len();
    let token = issuer.token(&claims("1"));
    for token in [
        format!("{token}x"),
        issuer.token(&json!({"exp": now() + 60})),
        issuer.token(&json!({"sub": "1", "exp": now() - 60})),
        // Its end is not exact.
        issuer.token(&json!({"sub": "1", "exp": 9e9})),
    ] {
        let _ = ask(&jwt, &token);
        assert_eq!(remembered(), 0, "{token}");
    }
    for _ in 0..3 {
        assert_eq!(ask(&jwt, &token), user("1"));
        assert_eq!(remembered(), 1);
    }
    // As one whose end came since: what is remembered is looked at with the clock.
    let over = now().saturating_sub(1);
    let fingerprint = Fingerprint::of(token.as_bytes());
    let keys = jwt.follower.keys();
    let somebody = UserId::new("somebody else").unwrap();
    keys.verified.insert(fingerprint, somebody, over, over);
    assert_eq!(ask(&jwt, &token), user("1"));
}

/// Protects API keys and tokens from each other: what a credential is taken for is seen from its
/// shape alone.
#[test]
fn keys_and_tokens_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let (issuer, jwt) = with_secret(&folder, Algorithm::Hs256);
    let path = folder.path().join("keys.json");
    let created = KeysFile::new(&path)
        .create(&UserId::new("key").unwrap())
        .unwrap();
    let without = Authenticator::start(&path, true).unwrap();
    let with = Authenticator::start(&path, true).unwrap().with_tokens(jwt);
    let ask = |authenticator: &Authenticator, credential: &[u8]| {
        let mut headers = HeaderMap::new();
        let value = HeaderValue::from_bytes(&[b"Bearer ", credential].concat()).unwrap();
        headers.insert(AUTHORIZATION, value);
        authenticator.authenticate(&headers)
    };
    let is = |name: &str| Ok(UserId::new(name).unwrap());
    let token = issuer.token(&claims("token"));
    let key = created.key.expose();
    let unknown = Err(AuthError::UnknownKey);
    let malformed = Err(AuthError::Token(JwtError::Malformed));
    let key_and_dots = format!("{key}.b.c");
    type Case<'a> = (
        &'a [u8],
        Result<UserId, AuthError>,
        Result<UserId, AuthError>,
    );
    let cases: [Case<'_>; 10] = [
        (token.as_bytes(), is("token"), unknown.clone()),
        (key.as_bytes(), is("key"), is("key")),
        (b"local-dev-key", is("1"), is("1")),
        (b"..", malformed.clone(), unknown.clone()),
        (b"tally.a.b", malformed, unknown.clone()),
        (b"tally_a.b.c", unknown.clone(), unknown.clone()),
        (b"a.b", unknown.clone(), unknown.clone()),
        (b"a.b.c.d", unknown.clone(), unknown.clone()),
        (b"a.b.\xff", unknown.clone(), unknown.clone()),
        (key_and_dots.as_bytes(), unknown.clone(), unknown),
    ];
    for (credential, with_tokens, without_tokens) in cases {
        let sent = String::from_utf8_lossy(credential);
        assert_eq!(ask(&with, credential), with_tokens, "{sent}");
        assert_eq!(ask(&without, credential), without_tokens, "{sent}");
    }
}

/// Protects log lines: nothing that checks tokens shows a secret.
#[test]
fn no_secret_is_in_debug() {
    let folder = tempfile::tempdir().unwrap();
    let (issuer, jwt) = with_secret(&folder, Algorithm::Hs256);
    let token = issuer.token(&claims("somebody"));
    let refused = ask(&jwt, &format!("{token}x"));
    let debug = format!(
        "{jwt:?} {refused:?} {:?} {:?}",
        jwt.follower.keys(),
        jwt.rules
    );
    let secret = String::from_utf8_lossy(SECRET);
    for word in [secret.as_ref(), &format!("{SECRET:?}"), "somebody", &token] {
        assert!(!debug.contains(word), "{debug}");
    }
    assert!(
        debug.contains("HS256") || debug.contains("Hs256"),
        "{debug}"
    );
}
