//! Who may call: every kind of key and token there is, the ways in which they can be wrong, and how
//! keys change under a running server.
//!
//! `cargo test -p tally-tests --test identity -- --nocapture table` prints all cases with their
//! status, body and metric.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use tally_tests::metrics::Catalogue;
use tally_tests::server::{INTERACT, LOCAL_KEY, resource_path};
use tally_tests::{Folder, Request, Response, Server, wait};

use cases::{
    Case, INVALID_KEY, NO_KEYS, algorithm_cases, claim_cases, header_cases, key_cases, refused,
    run, shape_cases, user_cases, valid,
};
use key_set::KeySet;
use testing::{Issuer, claims, now};

mod cases;
mod key_set;
#[path = "../../../crates/ingress/src/auth/jwt/testing.rs"]
mod testing;

const SECRET: &[u8] = b"a secret of sixty-four bytes, which is enough for all of HS512..";
fn set_of(issuers: &[(&str, &Issuer)]) -> String {
    let keys: Vec<Value> = issuers.iter().map(|(kid, one)| one.jwk(kid)).collect();
    json!({"keys": keys}).to_string()
}

fn file(folder: &Folder, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.root().join(name);
    fs::write(&path, content).expect("a file");
    path
}

/// A folder whose servers take tokens with secrets.
fn with_secrets(folder: Folder, algorithm: &str, names: &[&str]) -> Folder {
    let paths: Vec<String> = names
        .iter()
        .map(|name| folder.root().join(name).display().to_string())
        .collect();
    folder
        .with("TALLY__AUTH__JWT__ALGORITHMS", algorithm)
        .with("TALLY__AUTH__JWT__SECRET_FILES", paths.join(","))
}

fn with_set(folder: Folder, algorithms: &str, set: &KeySet) -> Folder {
    folder
        .with("TALLY__AUTH__JWT__ALGORITHMS", algorithms)
        .with("TALLY__AUTH__JWT__JWKS_URL", set.url())
        .with("TALLY__AUTH__JWT__JWKS_MIN_REFRESH", "1s")
}

/// A folder whose servers take tokens of these issuers.
fn with_public_keys(issuers: &[Issuer]) -> Folder {
    let folder = Folder::new();
    let files = issuers.iter().map(|one| file(&folder, one.name, one.pem()));
    let files: Vec<String> = files.map(|path| path.display().to_string()).collect();
    folder
        .with("TALLY__AUTH__JWT__ALGORITHMS", "RS256,ES256,EdDSA")
        .with("TALLY__AUTH__JWT__PUBLIC_KEY_FILES", files.join(","))
}

fn request() -> Request {
    Request::get(&resource_path("quest", 42))
}

fn ask(server: &Server, credential: &str) -> Response {
    request().bearer(credential).send(server.api())
}

/// Protects clients that match on bodies, and operators who look at the metric: each way to be
/// wrong has its own reason there, and the same answer as in this API's family. Prints the table.
#[test]
fn the_table_of_all_token_and_key_cases() {
    let mut table = String::from("| case | status | body | metric |\n|---|---|---|---|\n");
    let folder = with_secrets(Folder::new(), "HS256", &["secret"])
        .with("TALLY__AUTH__JWT__ISSUER", "https://login")
        .with("TALLY__AUTH__JWT__AUDIENCES", "tally,tally-dev");
    file(&folder, "secret", SECRET);
    let keys = key_cases(&folder);
    let server = folder.start();
    run(&server, keys, &mut table);
    run(&server, header_cases(), &mut table);
    let issuer = Issuer::secret("HS256", SECRET);
    for cases in [user_cases, claim_cases, shape_cases] {
        run(&server, cases(&issuer), &mut table);
    }
    drop(server);

    for algorithm in ["HS384", "HS512"] {
        let folder = with_secrets(Folder::new(), algorithm, &["secret"]);
        file(&folder, "secret", SECRET);
        let token = Issuer::secret(algorithm, SECRET).token(&claims("1"));
        let name = if algorithm == "HS384" {
            "token, HS384"
        } else {
            "token, HS512"
        };
        run(&folder.start(), vec![valid(name, &token)], &mut table);
    }

    let issuers = [Issuer::rs256(), Issuer::es256(), Issuer::eddsa()];
    let folder = with_public_keys(&issuers);
    let names = ["token, RS256", "token, ES256", "token, EdDSA"];
    let cases = names.iter().zip(&issuers);
    let cases = cases.map(|(name, one)| valid(name, &one.token(&claims("1"))));
    run(&folder.start(), cases.collect(), &mut table);

    let set = KeySet::new();
    let server = with_set(Folder::new(), "RS256,ES256", &set).start();
    let early = Case {
        status: 503,
        ..refused(
            "token, the key set can't be had",
            &issuers[0].token_of("k", &claims("1")),
            NO_KEYS,
            "token_no_keys",
        )
    };
    run(&server, vec![early], &mut table);
    set.serves(&[("k", &issuers[0])]);
    wait::until("the key set", || {
        (server.metrics().sum("tally_jwt_keys", &[]) > 0.0).then_some(())
    });
    Catalogue::of(server.folder()).check(&server.metrics(), &["always", "tokens"]);
    run(&server, algorithm_cases(&issuers[0]), &mut table);

    let off = Folder::new().start();
    let token = Issuer::secret("HS256", SECRET).token(&claims("1"));
    run(
        &off,
        vec![refused(
            "token, none configured",
            &token,
            INVALID_KEY,
            "unknown_key",
        )],
        &mut table,
    );
    println!("{table}");
}

/// Protects the user behind a token: what was done with it is theirs, and the same string from an
/// API key is the same user.
#[test]
fn a_token_s_user_is_the_same_user_as_a_key_s() {
    let folder = with_secrets(Folder::new(), "HS256", &["secret"]);
    file(&folder, "secret", SECRET);
    let server = folder.start();
    let issuer = Issuer::secret("HS256", SECRET);
    let like = json!({"resource_type": "quest", "resource_id": 42, "interaction_type": "like"});
    let post = |credential: &str| {
        let request = Request::post(INTERACT).bearer(credential);
        request.json(&like.to_string()).send(server.api()).ok()
    };
    // The local key's user is 1.
    assert_eq!(post(LOCAL_KEY)["outcome"], "applied");
    assert_eq!(
        post(&issuer.token(&json!({"user_id": 1, "exp": now() + 60})))["outcome"],
        "no_change"
    );
    assert_eq!(post(&issuer.token(&claims("2")))["outcome"], "applied");
    assert_eq!(
        ask(&server, &issuer.token(&claims("2"))).ok()["counters"]["likes"],
        2
    );
    let log = folder.run(&["log", "cat"]).ok();
    assert_eq!(log.matches(r#""user":"1""#).count(), 2, "{log}");
    assert_eq!(log.matches(r#""user":"2""#).count(), 1, "{log}");
}

/// Protects users while secrets change, and operators from a file that is bad for a while.
#[test]
fn secrets_rotate_under_a_running_server() {
    let folder = with_secrets(Folder::new(), "HS256", &["current", "previous"]);
    let [old, new] = [[b'a'; 40], [b'b'; 40]];
    for name in ["current", "previous"] {
        file(&folder, name, old);
    }
    let server = folder.start();
    let [by_old, by_new] =
        [old, new].map(|secret| Issuer::secret("HS256", &secret).token(&claims("1")));
    let holds = |token: &str| ask(&server, token).status == 200;
    assert!(holds(&by_old) && !holds(&by_new));
    file(&folder, "current", new);
    wait::until("the new secret", || holds(&by_new).then_some(()));
    assert!(holds(&by_old), "both are valid at once");
    file(&folder, "previous", "short");
    wait::until("the refusal of the short one", || {
        let failed = server
            .metrics()
            .sum("tally_jwt_key_reads_total", &["failed"]);
        (failed > 0.0).then_some(())
    });
    assert!(holds(&by_old) && holds(&by_new), "the last good ones hold");
    file(&folder, "previous", new);
    wait::until("the old secret's end", || (!holds(&by_old)).then_some(()));
    assert!(holds(&by_new));
    let said = server.output();
    assert!(
        said.contains("auth.jwt.secret_files") && said.contains("32 or more"),
        "{said}"
    );
    for secret in ["aaaaaaaa", "bbbbbbbb", &by_old, &by_new] {
        assert!(!said.contains(secret), "{said}");
    }
}

/// Protects users of an issuer that changes its keys, and the issuer from names that are made up.
#[test]
fn a_key_set_changes_under_a_running_server() {
    let (set, [first, second]) = (KeySet::new(), [Issuer::es256(), Issuer::es256()]);
    set.serves(&[("1", &first)]);
    let server = with_set(Folder::new(), "ES256", &set).start();
    let token = first.token_of("1", &claims("1"));
    assert_eq!(ask(&server, &token).status, 200, "waits for the first set");
    let made_up = |number: usize| first.token_of(&format!("made up {number}"), &claims("1"));
    let (asked, began) = (set.asked(), std::time::Instant::now());
    for number in 0..500 {
        assert_eq!(ask(&server, &made_up(number)).status, 401);
    }
    // One a second, as set; and one at the beginning.
    let most = began.elapsed().as_secs() + 2;
    let asked = u64::try_from(set.asked() - asked).expect("few");
    assert!(asked <= most, "{asked} in {:?}", began.elapsed());

    set.serves(&[("1", &first), ("2", &second)]);
    let new = second.token_of("2", &claims("1"));
    // At most a second, in which nothing is asked.
    wait::until("the new key", || {
        (ask(&server, &new).status == 200).then_some(())
    });
    assert_eq!(ask(&server, &token).status, 200);
    set.is_away();
    let failed = || {
        server
            .metrics()
            .sum("tally_jwt_key_reads_total", &["failed"])
    };
    wait::until("a look that fails", || {
        let _ = ask(&server, &made_up(1_000 + set.asked()));
        (failed() > 0.0).then_some(())
    });
    assert_eq!(ask(&server, &new).status, 200, "the last good keys hold");
    assert_eq!(ask(&server, LOCAL_KEY).status, 200);
    let said = server.output();
    assert!(
        said.contains("auth.jwt.jwks_url") && said.contains("502"),
        "{said}"
    );
    assert!(!said.contains(&token), "{said}");

    // Both keys are taken out: none holds any more, and it is not the tokens' fault.
    set.serves(&[]);
    wait::until("the end of the keys", || {
        let answer = ask(&server, &new);
        (answer.status == 503 && answer.json()["code"] == "unavailable").then_some(())
    });
    assert_eq!(ask(&server, &token).status, 503);
    assert_eq!(ask(&server, LOCAL_KEY).status, 200);
    let said = server.output();
    assert!(said.contains("has no key for ES256"), "{said}");
}

/// What is set, the algorithms, and what the refusal names.
type Unclear<'a> = (&'a [(&'a str, &'a str)], &'a str, [&'a str; 2]);

/// Protects an operator from settings that do not say clearly which tokens are valid.
#[test]
fn a_start_with_unclear_settings_is_refused_by_name() {
    let folder = Folder::new();
    let good = file(&folder, "good", SECRET).display().to_string();
    let short = file(&folder, "short", "too little").display().to_string();
    let pem = file(&folder, "key.pem", Issuer::es256().pem())
        .display()
        .to_string();
    let set = set_of(&[("k", &Issuer::es256())]);
    let set = file(&folder, "jwks.json", set).display().to_string();
    let (good, short, pem, set) = (&*good, &*short, &*pem, &*set);
    let (secret, public, set_at) = ("SECRET_FILES", "PUBLIC_KEY_FILES", "JWKS_FILE");
    let cases: [Unclear<'_>; 13] = [
        (
            &[("ISSUER", "x")],
            "",
            ["auth.jwt.issuer", "auth.jwt.secret_files"],
        ),
        (&[], "HS256", ["auth.jwt.algorithms", "no keys"]),
        (
            &[(secret, good)],
            "",
            ["auth.jwt.algorithms", "it is empty"],
        ),
        (&[(secret, good)], "none", ["auth.jwt.algorithms", "none"]),
        (
            &[(secret, good)],
            "RS256",
            ["auth.jwt.algorithms", "public keys"],
        ),
        (
            &[(secret, good)],
            "HS256,HS512",
            ["auth.jwt.algorithms", "several"],
        ),
        (
            &[(secret, good), (set_at, set)],
            "HS256",
            ["auth.jwt.jwks_file", "auth.jwt.secret_files"],
        ),
        (
            &[(secret, short)],
            "HS256",
            ["auth.jwt.secret_files", "32 or more"],
        ),
        (&[(secret, pem)], "HS256", ["auth.jwt.secret_files", "PEM"]),
        (
            &[(public, pem)],
            "HS256",
            ["auth.jwt.algorithms", "needs a secret"],
        ),
        (
            &[(public, pem)],
            "RS256",
            ["auth.jwt.public_key_files", "ES256"],
        ),
        (
            &[(set_at, set)],
            "RS256",
            ["auth.jwt.jwks_file", "no key for RS256"],
        ),
        (
            &[("JWKS_URL", "ftp://x/")],
            "RS256",
            ["auth.jwt.jwks_url", "http"],
        ),
    ];
    for case in cases {
        refuses(case);
    }
}

fn refuses((settings, algorithms, words): Unclear<'_>) {
    let folder = Folder::local().with("TALLY__AUTH__JWT__ALGORITHMS", algorithms);
    let folder = settings.iter().fold(folder, |folder, (name, value)| {
        folder.with(&format!("TALLY__AUTH__JWT__{name}"), value)
    });
    let said = folder.run(&["serve"]).failed();
    for word in words {
        assert!(said.contains(word), "{settings:?}: no {word} in {said}");
    }
    let secret = said.contains("sixty-four") || said.contains("too little");
    assert!(!secret, "{said}");
}
