//! Every answer a client alone can cause by a wrong request, byte for byte. Clients match on these
//! strings, so a changed comma is a broken promise.

use std::net::SocketAddr;

use tally_tests::http::Connection;
use tally_tests::server::{INTERACT, LOCAL_KEY, interaction_request, resource_path};
use tally_tests::{Folder, Request, Response};

const NOT_PROVIDED: &str = r#"{"detail":"Authentication credentials were not provided."}"#;
const TWO_WORDS: &str = r#"{"detail":"Authorization header must contain two space-delimited values","code":"bad_authorization_header"}"#;
const INVALID_KEY: &str = r#"{"detail":"Invalid API key.","code":"authentication_failed"}"#;
const NOT_FOUND: &str = r#"{"detail":"Not found."}"#;
const BAD_KEY: &str = r#"{"detail":"Idempotency-Key must be 1 to 255 printable ASCII characters, once.","code":"bad_idempotency_key"}"#;
const KEY_REUSED: &str = r#"{"detail":"Idempotency-Key was already used with another interaction.","code":"idempotency_key_reused"}"#;
const TOO_LARGE: &str = r#"{"detail":"Request body exceeded the limit of 65536 bytes."}"#;
const ALL_REQUIRED: &str = r#"{"resource_type":["This field is required."],"resource_id":["This field is required."],"interaction_type":["This field is required."]}"#;
const PARSE_ERROR: &str = r#"{"detail":"JSON parse error - "#;
const LIKE: &str = r#"{"resource_type":"quest","resource_id":42,"interaction_type":"like"}"#;

/// Sends, and compares status, body and the headers every error has.
fn expect(request: &Request, to: SocketAddr, status: u16, body: &str) -> Response {
    let answer = request.send(to);
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (status, body),
        "{request:?}"
    );
    assert_eq!(
        answer.header("content-type"),
        Some("application/json"),
        "{request:?}"
    );
    let id = answer.header("x-request-id").unwrap_or_default();
    assert!(!id.is_empty(), "no X-Request-Id: {request:?}");
    answer
}

fn post(body: &str) -> Request {
    Request::post(INTERACT).bearer(LOCAL_KEY).json(body)
}

/// A body over the default limit that is no JSON either.
fn too_large() -> String {
    "x".repeat(65_537)
}

#[test]
fn wrong_credentials_are_401_with_the_scheme_to_use() {
    let server = Folder::new().start();
    let bare = Request::post(INTERACT).json(LIKE);
    let with = |value: &[u8]| bare.clone().header("Authorization", value);
    let cases = [
        (bare.clone(), NOT_PROVIDED),
        (with(b"Basic dXNlcjpwYXNz"), NOT_PROVIDED),
        (with(b"Token local-dev-key"), NOT_PROVIDED),
        (with(b"Bearer"), TWO_WORDS),
        (with(b"Bearer local-dev-key again"), TWO_WORDS),
        (with(b"Bearer nobody-has-this-key"), INVALID_KEY),
        (with(b"Bearer local-dev-ke"), INVALID_KEY),
        (with(b"Bearer Local-Dev-Key"), INVALID_KEY),
        (with("Bearer schlüssel".as_bytes()), INVALID_KEY),
        (with(b"Bearer \xff\xfe"), INVALID_KEY),
    ];
    for (request, body) in cases {
        let get = request.clone().as_get(&resource_path("quest", 42));
        for request in [request, get] {
            let answer = expect(&request, server.api(), 401, body);
            assert_eq!(
                answer.header("www-authenticate"),
                Some(r#"Bearer realm="api""#)
            );
        }
    }
    for scheme in ["bearer", "BEARER", "BeArEr"] {
        let request = with(format!("{scheme} {LOCAL_KEY}").as_bytes());
        assert_eq!(request.send(server.api()).status, 200, "{scheme}");
    }
}

#[test]
fn what_is_no_json_is_a_parse_error_that_says_where() {
    let server = Folder::new().start();
    let deep = format!(r#"{{"x":{}1{}}}"#, "[".repeat(1_000), "]".repeat(1_000));
    let bodies: [&[u8]; 15] = [
        b"nonsense",
        b"{",
        br#"{"resource_type":"quest","resource_id":42,"interaction_type":"li"#,
        br#"{"resource_type":"quest","resource_id":42,"interaction_type":"like"} and more"#,
        br#"{"resource_type":"quest","resource_id":42,"interaction_type":"like"}{}"#,
        br#"{"resource_type":"quest","resource_id":42,"interaction_type":"like",}"#,
        b"{'resource_type':'quest'}",
        b"\xff\xfe",
        b"{\"resource_type\":\"qu\xffest\",\"resource_id\":42,\"interaction_type\":\"like\"}",
        br#"{"resource_type":"quest","resource_id":NaN,"interaction_type":"like"}"#,
        br#"{"resource_type":"quest","resource_id":042,"interaction_type":"like"}"#,
        br#"{"resource_type":"quest","resource_type":"quest","resource_id":42,"interaction_type":"like"}"#,
        br#"{"x":1,"resource_type":"quest","resource_id":42,"interaction_type":"like","x":1}"#,
        b"   ",
        deep.as_bytes(),
    ];
    for body in bodies {
        let request = Request::post(INTERACT)
            .bearer(LOCAL_KEY)
            .header("Content-Type", "application/json")
            .body(body);
        let answer = request.send(server.api());
        let text = answer.text();
        let sent = String::from_utf8_lossy(body);
        assert_eq!(answer.status, 400, "{sent}: {text}");
        assert!(text.starts_with(PARSE_ERROR), "{sent}: {text}");
        assert!(text.contains("line 1 column"), "{sent}: {text}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.json().as_object().map(serde_json::Map::len), Some(1));
    }
}

#[test]
fn what_is_no_object_is_told_what_it_is() {
    let server = Folder::new().start();
    let not_a_dictionary = |got: &str| {
        format!(r#"{{"non_field_errors":["Invalid data. Expected a dictionary, but got {got}."]}}"#)
    };
    let cases = [
        ("", ALL_REQUIRED.to_owned()),
        ("{}", ALL_REQUIRED.to_owned()),
        (r#"{"other":1}"#, ALL_REQUIRED.to_owned()),
        (
            "null",
            r#"{"non_field_errors":["No data provided"]}"#.to_owned(),
        ),
        ("[]", not_a_dictionary("list")),
        (r#"[{"resource_type":"quest"}]"#, not_a_dictionary("list")),
        (r#""quest""#, not_a_dictionary("str")),
        ("42", not_a_dictionary("int")),
        ("-1", not_a_dictionary("int")),
        ("4.5", not_a_dictionary("float")),
        ("1e3", not_a_dictionary("float")),
        ("true", not_a_dictionary("bool")),
        ("false", not_a_dictionary("bool")),
    ];
    for (body, expected) in cases {
        expect(&post(body), server.api(), 400, &expected);
    }
    let nothing_at_all = Request::post(INTERACT).bearer(LOCAL_KEY);
    expect(&nothing_at_all, server.api(), 400, ALL_REQUIRED);
}

#[test]
fn all_wrong_fields_come_in_one_answer() {
    let server = Folder::new().start();
    let choice = |sent: &str| format!(r#"["\"{sent}\" is not a valid choice."]"#);
    let integer = r#"["A valid integer is required."]"#;
    let null = r#"["This field may not be null."]"#;
    let required = r#"["This field is required."]"#;

    // What is sent as a choice, and how the answer repeats it.
    let choices = [
        (r#""foo""#, choice("foo")),
        (r#""""#, choice("")),
        (r#""Quest""#, choice("Quest")),
        (r#"" quest""#, choice(" quest")),
        (r#""é\u00e9 \"q\" \\""#, choice(r#"éé \"q\" \\"#)),
        ("5", choice("5")),
        ("-5", choice("-5")),
        ("true", choice("True")),
        ("false", choice("False")),
        ("[]", choice("[]")),
        (r#"["quest"]"#, choice("[]")),
        ("{}", choice("{}")),
        (r#"{"a":"quest"}"#, choice("{}")),
        ("null", null.to_owned()),
    ];
    for (sent, answer) in &choices {
        let body =
            format!(r#"{{"interaction_type":{sent},"resource_id":"42","resource_type":{sent}}}"#);
        let expected = format!(
            r#"{{"resource_type":{answer},"resource_id":{integer},"interaction_type":{answer}}}"#
        );
        expect(&post(&body), server.api(), 400, &expected);
    }

    let digits = format!("1{}", "0".repeat(1_000));
    let ids = [
        (r#""42""#, integer),
        (r#""""#, integer),
        ("true", integer),
        ("[42]", integer),
        (r#"{"a":1}"#, integer),
        ("42.5", integer),
        ("425e-1", integer),
        ("1e1001", integer),
        ("1e-1001", integer),
        ("1e99999999999999999999", integer),
        (digits.as_str(), integer),
        ("null", null),
    ];
    for (sent, answer) in ids {
        let body = format!(
            r#"{{"resource_type":"quest","resource_id":{sent},"interaction_type":"like"}}"#
        );
        let expected = format!(r#"{{"resource_id":{answer}}}"#);
        expect(&post(&body), server.api(), 400, &expected);
    }

    let expected = format!(
        r#"{{"resource_type":{},"resource_id":{integer},"interaction_type":{required}}}"#,
        choice("foo")
    );
    let body = r#"{"resource_type":"foo","resource_id":"x","more":[1]}"#;
    expect(&post(body), server.api(), 400, &expected);
}

#[test]
fn any_whole_number_is_looked_up_in_any_spelling() {
    let server = Folder::new().start();
    let like = |id: &str| {
        post(&format!(
            r#"{{"resource_type":"quest","resource_id":{id},"interaction_type":"like"}}"#
        ))
    };
    for id in [
        "42", "42.0", "42.000", "4.2e1", "4.2E+1", "420e-1", "0.42e2",
    ] {
        let answer = like(id).send(server.api());
        assert_eq!(answer.ok()["resource_id"], 42, "{id}");
    }
    let thousand_digits = "9".repeat(1_000);
    let elsewhere = [
        "43",
        "-3",
        "-42",
        "0",
        "-0",
        "1e30",
        "1e1000",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551658",
        "1000000000000000000000000000000",
        &thousand_digits,
    ];
    for id in elsewhere {
        expect(&like(id), server.api(), 404, NOT_FOUND);
    }
}

#[test]
fn routes_methods_and_media_types() {
    let server = Folder::new().start();
    let to = server.api();
    let nowhere = [
        "/",
        "/api",
        "/api/v1/metrics/",
        "/api/v1/metrics/interact/more",
        "/api/v1/metrics/interactions/",
        "/api/v1/metrics/interact//",
        "/metrics",
        "/readyz",
        "/admin/",
        "/api/v1/metrics/resources/quest/",
        "/%ff",
    ];
    for path in nowhere {
        for method in ["GET", "POST", "PUT"] {
            expect(&Request::new(method, path), to, 404, NOT_FOUND);
        }
    }
    for (kind, id) in [
        ("quest", "43"),
        ("nonsense", "42"),
        ("quest", "x"),
        ("Quest", "42"),
    ] {
        let path = format!("/api/v1/metrics/resources/{kind}/{id}/");
        expect(&Request::get(&path).bearer(LOCAL_KEY), to, 404, NOT_FOUND);
    }

    for path in [INTERACT, INTERACT.trim_end_matches('/')] {
        for method in ["GET", "PUT", "PATCH", "DELETE", "TRACE", "BREW"] {
            let body = format!(r#"{{"detail":"Method \"{method}\" not allowed."}}"#);
            let request = Request::new(method, path).bearer(LOCAL_KEY);
            let answer = expect(&request, to, 405, &body);
            assert_eq!(answer.header("allow"), Some("POST, OPTIONS"));
        }
        let options = Request::new("OPTIONS", path).bearer(LOCAL_KEY).send(to);
        assert_eq!((options.status, options.text().as_str()), (204, ""));
        assert_eq!(options.header("allow"), Some("POST, OPTIONS"));
    }

    let media = |kind: &str| {
        let request = Request::post(INTERACT).bearer(LOCAL_KEY);
        request.header("Content-Type", kind).body(LIKE)
    };
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonx",
    ] {
        let body = format!(r#"{{"detail":"Unsupported media type \"{kind}\" in request."}}"#);
        expect(&media(kind), to, 415, &body);
    }
    let absent = Request::post(INTERACT).bearer(LOCAL_KEY).body(LIKE);
    let body = r#"{"detail":"Unsupported media type \"\" in request."}"#;
    expect(&absent, to, 415, body);
    for kind in [
        "application/json; charset=utf-8",
        "application/json;charset=latin-1",
        "Application/JSON",
    ] {
        assert_eq!(media(kind).send(to).status, 200, "{kind}");
    }
}

/// A body is read as it comes. One that says it is encoded is not taken for a broken one, and is
/// never decoded: a few bytes of it may stand for gigabytes.
#[test]
fn an_encoded_body_is_415_and_says_what_is_taken() {
    let server = Folder::new().start();
    let to = server.api();
    let with = |encoding: &str| post(LIKE).header("Content-Encoding", encoding);
    for encoding in ["gzip", "br", "zstd", "deflate", "gzip, identity", "x"] {
        let body =
            format!(r#"{{"detail":"Unsupported content encoding \"{encoding}\" in request."}}"#);
        let answer = expect(&with(encoding), to, 415, &body);
        assert_eq!(answer.header("accept-encoding"), Some("identity"));
    }
    let twice = with("identity").header("Content-Encoding", "gzip");
    assert_eq!(twice.send(to).status, 415);
    // A body that really is: 20 bytes of gzip, which would be `{}`.
    let gzip = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xab\xae\x05\0\x43\xbf\xa6\xa3\x02\0\0\0";
    assert_eq!(with("gzip").body(gzip).send(to).status, 415);
    assert_eq!(server.resource("quest", 42).ok()["counters"]["likes"], 0);
    for encoding in ["identity", "Identity"] {
        assert_eq!(with(encoding).send(to).status, 200, "{encoding}");
    }
}

#[test]
fn a_body_over_the_limit_is_413_however_it_is_sent() {
    let server = Folder::new().start();
    let to = server.api();
    expect(&post(&too_large()), to, 413, TOO_LARGE);

    let padded = format!("{LIKE}{}", " ".repeat(65_536 - LIKE.len()));
    assert_eq!(post(&padded).send(to).status, 200, "exactly the limit");
    expect(&post(&format!("{padded} ")), to, 413, TOO_LARGE);

    let chunked = Request::post(INTERACT)
        .bearer(LOCAL_KEY)
        .header("Content-Type", "application/json")
        .header("Transfer-Encoding", "chunked");
    let mut connection = Connection::open(to).expect("the server listens");
    let chunk = format!("8000\r\n{}\r\n", " ".repeat(0x8000));
    let sent = [
        chunked.bytes(to),
        chunk.repeat(3).into_bytes(),
        b"0\r\n\r\n".to_vec(),
    ]
    .concat();
    connection.write(&sent).expect("the server reads");
    let answer = connection.read(false).expect("an answer");
    assert_eq!((answer.status, answer.text().as_str()), (413, TOO_LARGE));
}

#[test]
fn a_bad_idempotency_key_is_400() {
    let server = Folder::new().start();
    let with = |key: &[u8]| post(LIKE).header("Idempotency-Key", key);
    let long = "k".repeat(256);
    let bad: [&[u8]; 5] = [b"", long.as_bytes(), b"a\tb", "ключ".as_bytes(), b"\xff"];
    for key in bad {
        expect(&with(key), server.api(), 400, BAD_KEY);
    }
    let twice = with(b"a").header("Idempotency-Key", "a");
    expect(&twice, server.api(), 400, BAD_KEY);
    let twice = with(b"a").header("idempotency-key", "b");
    expect(&twice, server.api(), 400, BAD_KEY);
    let longest = "k".repeat(255);
    assert_eq!(with(longest.as_bytes()).send(server.api()).status, 200);
    assert_eq!(with(b"a b ~!").send(server.api()).status, 200);
}

#[test]
fn a_key_used_with_another_interaction_is_422() {
    let server = Folder::new().start();
    let with_key = |interaction| {
        interaction_request("quest", 42, interaction).header("Idempotency-Key", "one")
    };
    assert_eq!(
        with_key("like").send(server.api()).ok()["outcome"],
        "applied"
    );
    expect(&with_key("view"), server.api(), 422, KEY_REUSED);
    let state = server.resource("quest", 42).ok();
    assert_eq!(state["counters"]["views"], 0, "a conflict changes nothing");
    assert_eq!(state["user"]["liked"], true);
}

/// Each request is wrong in every way from its own row on; the answer names the first.
#[test]
fn the_first_thing_wrong_is_what_is_answered() {
    let server = Folder::new().start();
    let to = server.api();
    let bad_key = |request: Request| request.header("Idempotency-Key", "");
    let large_text = |method: &str, path: &str| {
        let request = Request::new(method, path).header("Content-Type", "text/plain");
        bad_key(request).body(too_large())
    };
    expect(&large_text("PUT", "/nowhere"), to, 404, NOT_FOUND);
    expect(&large_text("PUT", INTERACT), to, 401, NOT_PROVIDED);
    let known = large_text("PUT", INTERACT).bearer(LOCAL_KEY);
    expect(
        &known,
        to,
        405,
        r#"{"detail":"Method \"PUT\" not allowed."}"#,
    );
    let known = large_text("POST", INTERACT).bearer(LOCAL_KEY);
    let unsupported = r#"{"detail":"Unsupported media type \"text/plain\" in request."}"#;
    expect(&known, to, 415, unsupported);
    expect(&bad_key(post(&too_large())), to, 413, TOO_LARGE);
    let answer = bad_key(post("{")).send(to);
    assert!(answer.text().starts_with(PARSE_ERROR), "{}", answer.text());
    expect(&bad_key(post("{}")), to, 400, BAD_KEY);
    let fields = r#"{"resource_type":"quest","resource_id":43,"interaction_type":"x"}"#;
    let choice = r#"{"interaction_type":["\"x\" is not a valid choice."]}"#;
    expect(&post(fields), to, 400, choice);
    expect(
        &interaction_request("quest", 43, "like"),
        to,
        404,
        NOT_FOUND,
    );
}
