//! Which tokens are meant, and what is refused with which words.

use std::ffi::OsString;

use super::super::Config;
use super::*;

fn load(settings: &[(&str, &str)]) -> Result<Option<JwtSettings>, String> {
    let env = settings.iter().map(|(name, value)| {
        let name = format!("TALLY__AUTH__JWT__{}", name.to_uppercase());
        (OsString::from(name), OsString::from(value))
    });
    let loaded = Config::from_layers(None, env, None);
    let (config, _) = loaded.map_err(|error| error.to_string())?;
    Ok(config.auth.tokens)
}

/// Protects a server that nobody told of tokens: it takes none.
#[test]
fn without_keys_no_token_is_taken() {
    assert!(load(&[]).unwrap().is_none());
    assert!(
        load(&[("leeway", "1min"), ("issuer", "")])
            .unwrap()
            .is_none()
    );
}

/// Protects what an operator set: it arrives as set, and the defaults are the documented ones.
#[test]
fn what_is_set_is_taken() {
    let tokens = load(&[
        ("algorithms", "RS256, EdDSA"),
        ("jwks_url", "https://login.example.com:8443/jwks.json?x=1"),
        ("issuer", "https://login.example.com/"),
        ("audiences", "tally,other"),
        ("leeway", "5"),
    ]);
    let tokens = tokens.unwrap().unwrap();
    assert_eq!(tokens.algorithms, [Algorithm::Rs256, Algorithm::EdDsa]);
    assert_eq!(tokens.issuer.as_deref(), Some("https://login.example.com/"));
    assert_eq!(tokens.audiences, ["tally", "other"]);
    assert_eq!(tokens.leeway, Duration::from_secs(5));
    let keys = JwtKeys::JwksUrl {
        url: "https://login.example.com:8443/jwks.json?x=1".to_owned(),
        refresh: Duration::from_secs(300),
        min_refresh: Duration::from_secs(10),
        keep: Duration::from_secs(86_400),
    };
    assert_eq!(tokens.keys, keys);
    let tokens = load(&[("algorithms", "HS256"), ("secret_files", "/a,/b")]);
    let tokens = tokens.unwrap().unwrap();
    let paths = vec![PathBuf::from("/a"), PathBuf::from("/b")];
    assert_eq!(tokens.keys, JwtKeys::Secrets(paths));
    assert_eq!(tokens.leeway, Duration::from_secs(30));
    assert_eq!((tokens.issuer, tokens.audiences), (None, Vec::new()));
}

/// Protects against settings that leave open which tokens are valid.
#[test]
fn what_is_unclear_is_refused_by_name() {
    for (settings, words) in UNCLEAR {
        let error = load(settings).expect_err("this must be refused");
        for word in words {
            assert!(error.contains(word), "{settings:?}: {word:?} in {error}");
        }
        assert!(!error.contains("hunter2"), "{error}");
    }
}

/// Settings, and what the refusal names.
type Case = (&'static [(&'static str, &'static str)], [&'static str; 2]);

const URL: (&str, &str) = ("jwks_url", "https://x/jwks.json");

const UNCLEAR: &[Case] = &[
    (
        &[("audiences", "x")],
        ["auth.jwt.audiences", "auth.jwt.jwks_url"],
    ),
    (
        &[("algorithms", "HS256")],
        ["auth.jwt.algorithms", "no keys"],
    ),
    (
        &[("secret_files", "/a")],
        ["auth.jwt.algorithms", "it is empty"],
    ),
    (
        &[("secret_files", "/a"), ("algorithms", "none")],
        ["auth.jwt.algorithms", "\"none\""],
    ),
    (
        &[("secret_files", "/a"), ("algorithms", "hs256")],
        ["auth.jwt.algorithms", "HS256"],
    ),
    (
        &[("secret_files", "/a"), ("algorithms", "HS256,HS384")],
        ["auth.jwt.algorithms", "several"],
    ),
    (
        &[("secret_files", "/a"), ("algorithms", "ES256")],
        ["auth.jwt.algorithms", "public keys"],
    ),
    (
        &[
            ("secret_files", "/1,/2,/3,/4,/5,/6,/7,/8,/9"),
            ("algorithms", "HS256"),
        ],
        ["auth.jwt.secret_files", "at most 8"],
    ),
    (
        &[("public_key_files", "/a"), ("algorithms", "HS256")],
        ["auth.jwt.algorithms", "needs a secret"],
    ),
    (
        &[URL, ("algorithms", "RS256,HS256")],
        ["auth.jwt.algorithms", "needs a secret"],
    ),
    (
        &[URL, ("algorithms", "RS256,RS256")],
        ["auth.jwt.algorithms", "twice"],
    ),
    (
        &[URL, ("algorithms", "RS512")],
        ["auth.jwt.algorithms", "RS256"],
    ),
    (
        &[URL, ("secret_files", "/a")],
        ["auth.jwt.jwks_url", "auth.jwt.secret_files"],
    ),
    (
        &[("public_key_files", "/a"), ("jwks_file", "/b")],
        ["auth.jwt.jwks_file", "auth.jwt.public_key_files"],
    ),
    (
        &[URL, ("algorithms", "RS256"), ("leeway", "1.5s")],
        ["auth.jwt.leeway", "whole seconds"],
    ),
    (&[("leeway", "6min")], ["auth.jwt.leeway", "to 5min"]),
    (
        &[URL, ("jwks_min_refresh", "10min")],
        ["auth.jwt.jwks_refresh", "auth.jwt.jwks_min_refresh"],
    ),
    (
        &[URL, ("jwks_keep", "1min")],
        ["auth.jwt.jwks_keep", "auth.jwt.jwks_refresh"],
    ),
    (
        &[("jwks_url", "login.example.com/jwks.json")],
        ["auth.jwt.jwks_url", "https"],
    ),
    (
        &[("jwks_url", "file:///etc/passwd")],
        ["auth.jwt.jwks_url", "https"],
    ),
    (
        &[("jwks_url", "https://u:hunter2@x/")],
        ["auth.jwt.jwks_url", "no user or password"],
    ),
];
