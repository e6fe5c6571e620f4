//! The rows of the table: what is sent, and what must come.

use std::fmt::Write as _;

use serde_json::{Value, json};
use tally_tests::server::LOCAL_KEY;
use tally_tests::{Folder, Request, Server};

use crate::request;
use crate::testing::{Issuer, base64, claims, now, pem};

const FAILURES: &str = "tally_http_auth_failures_total";

const NOT_PROVIDED: &str = r#"{"detail":"Authentication credentials were not provided."}"#;
const TWO_WORDS: &str = r#"{"detail":"Authorization header must contain two space-delimited values","code":"bad_authorization_header"}"#;
pub(crate) const INVALID_KEY: &str =
    r#"{"detail":"Invalid API key.","code":"authentication_failed"}"#;
const NOT_VALID: &str =
    r#"{"detail":"Given token not valid for any token type","code":"token_not_valid"}"#;
const EXPIRED: &str = r#"{"detail":"Token is expired","code":"token_expired"}"#;
const NO_USER: &str =
    r#"{"detail":"Token contained no recognizable user identification","code":"token_not_valid"}"#;
pub(crate) const NO_KEYS: &str = r#"{"detail":"The keys that tokens are checked with are not known at the moment.","code":"unavailable"}"#;

/// One row of the table: what was sent, and what must come.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) request: Request,
    pub(crate) status: u16,
    pub(crate) body: &'static str,
    pub(crate) reason: &'static str,
}

/// A case in which one is let in.
pub(crate) fn valid(name: &'static str, credential: &str) -> Case {
    Case {
        name,
        request: request().bearer(credential),
        status: 200,
        body: "",
        reason: "",
    }
}

pub(crate) fn refused(
    name: &'static str,
    credential: &str,
    body: &'static str,
    reason: &'static str,
) -> Case {
    Case {
        status: 401,
        body,
        reason,
        ..valid(name, credential)
    }
}

/// Sends all cases, and adds a row of each to the table.
pub(crate) fn run(server: &Server, cases: Vec<Case>, table: &mut String) {
    for case in cases {
        let before = server.metrics();
        let answer = case.request.send(server.api());
        let after = server.metrics();
        let counted: Vec<String> = after
            .series
            .iter()
            .filter(|(name, value)| {
                let was = before.series.get(*name).copied().unwrap_or_default();
                name.starts_with(FAILURES) && **value > was
            })
            .map(|(name, _)| name.clone())
            .collect();
        let wanted = format!(r#"{FAILURES}{{reason="{}"}}"#, case.reason);
        let wanted = if case.reason.is_empty() {
            vec![]
        } else {
            vec![wanted]
        };
        let (status, text) = (answer.status, answer.text());
        assert_eq!(status, case.status, "{}: {text}", case.name);
        assert_eq!(counted, wanted, "{}", case.name);
        let body = if status == 200 {
            "(the resource)"
        } else {
            &text
        };
        if status != 200 {
            assert_eq!(text, case.body, "{}", case.name);
        }
        let scheme = (status == 401).then_some(r#"Bearer realm="api""#);
        assert_eq!(answer.header("www-authenticate"), scheme, "{}", case.name);
        let metric = counted.first().map_or("", String::as_str);
        let metric = metric.trim_start_matches(FAILURES);
        writeln!(table, "| {} | {status} | {body} | {metric} |", case.name).expect("a row");
    }
}

pub(crate) fn key_cases(folder: &Folder) -> Vec<Case> {
    let create = ["keys", "create", "--user", "7"];
    let output = folder.run(&create).ok();
    let mut words = output.split_whitespace();
    let key = words.find(|word| word.starts_with("tally_"));
    let key = key.expect("a key");
    let last = if key.ends_with('0') { "1" } else { "0" };
    let other = format!("{}{last}", &key[..key.len() - 1]);
    let dots = format!("{key}.b.c");
    let mut cases = vec![valid("API key", key)];
    let rows: [(_, &[u8], _, _); 7] = [
        (
            "API key, other secret",
            other.as_bytes(),
            INVALID_KEY,
            "unknown_key",
        ),
        (
            "API key, unknown",
            b"nobody-has-this-key",
            INVALID_KEY,
            "unknown_key",
        ),
        (
            "API key with dots after it",
            dots.as_bytes(),
            INVALID_KEY,
            "unknown_key",
        ),
        (
            "bytes that are no ASCII",
            b"a.b.\xff",
            INVALID_KEY,
            "unknown_key",
        ),
        ("Bearer and nothing", b"", TWO_WORDS, "malformed_header"),
        (
            "Bearer and two words",
            b"a b",
            TWO_WORDS,
            "malformed_header",
        ),
        ("another scheme", b"", NOT_PROVIDED, "not_provided"),
    ];
    for (name, credential, body, reason) in rows {
        let scheme: &[u8] = if name == "another scheme" {
            b"Basic dXNlcjpwYXNz"
        } else {
            b"Bearer "
        };
        let header = [scheme, credential].concat();
        cases.push(Case {
            request: request().header("Authorization", header),
            ..refused(name, "", body, reason)
        });
    }
    cases
}

pub(crate) fn header_cases() -> Vec<Case> {
    vec![
        valid("local-dev-key, loopback", LOCAL_KEY),
        Case {
            request: request()
                .bearer(LOCAL_KEY)
                .header("X-Forwarded-For", "192.0.2.1"),
            ..refused(
                "local-dev-key through a proxy",
                "",
                INVALID_KEY,
                "unknown_key",
            )
        },
        Case {
            request: request(),
            ..refused("no Authorization", "", NOT_PROVIDED, "not_provided")
        },
    ]
}

/// Tokens that differ from a good one in one claim.
struct Claims<'a> {
    issuer: &'a Issuer,
    good: Value,
}

impl<'a> Claims<'a> {
    fn new(issuer: &'a Issuer) -> Self {
        let good = json!({"sub": "1", "exp": now() + 600, "iss": "https://login", "aud": "tally"});
        Self { issuer, good }
    }

    /// One with another value of a claim; with null, one without it.
    fn but(&self, name: &str, value: Value) -> String {
        let mut claims = self.good.clone();
        claims[name] = value;
        if claims[name].is_null() {
            claims.as_object_mut().expect("claims").remove(name);
        }
        self.issuer.token(&claims)
    }
}

pub(crate) fn claim_cases(issuer: &Issuer) -> Vec<Case> {
    let now = now();
    let claims = Claims::new(issuer);
    let token = |name, value| claims.but(name, value);
    let mut cases = vec![
        valid(
            "token, one of several audiences",
            &token("aud", json!(["x", "tally"])),
        ),
        valid(
            "token, over within the leeway",
            &token("exp", json!(now - 10)),
        ),
        valid(
            "token, token_type access",
            &token("token_type", json!("access")),
        ),
    ];
    let over = token("exp", json!(now - 60));
    cases.push(refused("token, over", &over, EXPIRED, "token_expired"));
    for (name, claim, value, reason) in [
        ("token, no exp", "exp", Value::Null, "token_claims"),
        (
            "token, exp is a text",
            "exp",
            json!("never"),
            "token_claims",
        ),
        (
            "token, nbf to come",
            "nbf",
            json!(now + 300),
            "token_not_yet_valid",
        ),
        ("token, nbf is a text", "nbf", json!("now"), "token_claims"),
        (
            "token, other issuer",
            "iss",
            json!("https://x"),
            "token_issuer",
        ),
        ("token, no issuer", "iss", Value::Null, "token_issuer"),
        (
            "token, other audience",
            "aud",
            json!(["x"]),
            "token_audience",
        ),
        ("token, no audience", "aud", Value::Null, "token_audience"),
        (
            "token, token_type refresh",
            "token_type",
            json!("refresh"),
            "token_type",
        ),
    ] {
        cases.push(refused(name, &token(claim, value), NOT_VALID, reason));
    }
    cases
}

pub(crate) fn user_cases(issuer: &Issuer) -> Vec<Case> {
    let claims = Claims::new(issuer);
    let mut by_id = claims.good.clone();
    by_id["user_id"] = 42.into();
    by_id["sub"] = Value::Null;
    let mut cases = vec![
        valid("token, sub", &issuer.token(&claims.good)),
        valid("token, user_id (a number)", &issuer.token(&by_id)),
    ];
    for (name, sub) in [
        ("token, no sub and no user_id", Value::Null),
        ("token, sub is empty", json!("")),
        ("token, sub of 129 bytes", json!("u".repeat(129))),
        ("token, sub is no text", json!(true)),
    ] {
        cases.push(refused(
            name,
            &claims.but("sub", sub),
            NO_USER,
            "token_no_user",
        ));
    }
    cases
}

pub(crate) fn shape_cases(issuer: &Issuer) -> Vec<Case> {
    let good = Claims::new(issuer).good;
    let critical = format!(r#"{{"alg":"{}","crit":["b64"],"b64":false}}"#, issuer.name);
    let twice = good.to_string().replacen('{', r#"{"sub":"2","#, 1);
    let head = format!(r#"{{"alg":"{}"}}"#, issuer.name);
    let signed = issuer.token(&good);
    let (message, _) = signed.rsplit_once('.').expect("a signature");
    let stranger = Issuer::secret("HS256", &[b'x'; 64]);
    let long = "A".repeat(16_384 - message.len());
    // By whole bytes: what is left is base64.
    let cut = &signed[..signed.len() - 3];
    [
        (
            "token, a claim twice",
            issuer.raw(&head, &twice),
            "token_malformed",
        ),
        (
            "two dots and no token",
            "a.b.c".to_owned(),
            "token_malformed",
        ),
        (
            "token, crit header",
            issuer.raw(&critical, &good.to_string()),
            "token_critical_header",
        ),
        (
            "token, of another secret",
            stranger.token(&good),
            "token_signature",
        ),
        (
            "token, signature taken off",
            format!("{message}."),
            "token_signature",
        ),
        ("token, cut off", cut.to_owned(), "token_signature"),
        (
            "token, of 16,385 bytes",
            format!("{message}.{long}"),
            "token_too_long",
        ),
    ]
    .map(|(name, token, reason)| refused(name, &token, NOT_VALID, reason))
    .into()
}

pub(crate) fn algorithm_cases(issuer: &Issuer) -> Vec<Case> {
    let claims = claims("admin");
    let unsigned = format!(
        "{}.{}.",
        base64(r#"{"alg":"none","kid":"k"}"#),
        base64(claims.to_string())
    );
    let pem = pem("PUBLIC KEY", issuer.public_der());
    assert_eq!(pem, issuer.pem());
    let forged = |secret: &[u8]| Issuer::secret("HS256", secret).token_of("k", &claims);
    let own = Issuer::es256();
    let own_key = json!({"alg": "ES256", "kid": "k", "jwk": own.jwk("k")}).to_string();
    let renamed = issuer.raw(r#"{"alg":"RS512","kid":"k"}"#, &claims.to_string());
    let mut cases = vec![
        valid(
            "token of the set, kid known",
            &issuer.token_of("k", &claims),
        ),
        valid(
            "token of the set, no kid, one key fits",
            &issuer.token(&claims),
        ),
    ];
    let unknown = "token_unknown_key";
    let algorithm = "token_algorithm";
    let other = Issuer::other_rs256().token_of("k", &claims);
    for (name, token, reason) in [
        (
            "token, kid not known",
            issuer.token_of("x", &claims),
            unknown,
        ),
        (
            "token, kid is another algorithm's",
            own.token_of("k", &claims),
            unknown,
        ),
        (
            "token, brings its own key",
            own.raw(&own_key, &claims.to_string()),
            unknown,
        ),
        ("token, alg none", unsigned, algorithm),
        (
            "token, HS256 with the public PEM",
            forged(pem.as_bytes()),
            algorithm,
        ),
        (
            "token, HS256 with the public DER",
            forged(issuer.public_der()),
            algorithm,
        ),
        ("token, RS256 under the name RS512", renamed, algorithm),
        ("token, another RSA key, same kid", other, "token_signature"),
    ] {
        cases.push(refused(name, &token, NOT_VALID, reason));
    }
    cases
}
