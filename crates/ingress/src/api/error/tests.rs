//! Each row of the error table, byte for byte, in both forms.

use actix_web::body::{MessageBody, to_bytes};
use actix_web::http::header::HeaderName;

use super::super::body;
use super::*;

fn headers(accept: Option<&str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(accept) = accept {
        headers.insert(ACCEPT, HeaderValue::from_str(accept).unwrap());
    }
    headers
}

fn header<B: MessageBody>(answer: &HttpResponse<B>, name: HeaderName) -> Option<&str> {
    answer
        .headers()
        .get(name)
        .map(|value| value.to_str().unwrap())
}

async fn text(answer: HttpResponse) -> String {
    let bytes = to_bytes(answer.into_body()).await.unwrap_or_default();
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn of_body(text: &str) -> ApiError {
    match body::parse(text.as_bytes()) {
        Ok(document) => ApiError::Invalid(document.validate().unwrap_err()),
        Err(error) => error.into(),
    }
}

/// A row of the contract's error table: the error, its status, its body, and a header it has.
type Row = (
    ApiError,
    u16,
    &'static str,
    Option<(HeaderName, &'static str)>,
);

fn rows() -> Vec<Row> {
    [
        rows_of_401(),
        rows_of_bodies(),
        rows_of_requests(),
        rows_of_5xx(),
    ]
    .concat()
}

fn rows_of_401() -> Vec<Row> {
    let rows = [
        (
            AuthError::NotProvided,
            r#"{"detail":"Authentication credentials were not provided."}"#,
        ),
        (
            AuthError::Malformed,
            r#"{"detail":"Authorization header must contain two space-delimited values","code":"bad_authorization_header"}"#,
        ),
        (
            AuthError::UnknownKey,
            r#"{"detail":"Invalid API key.","code":"authentication_failed"}"#,
        ),
        (
            AuthError::Token(JwtError::Signature),
            r#"{"detail":"Given token not valid for any token type","code":"token_not_valid"}"#,
        ),
        (
            AuthError::Token(JwtError::Expired),
            r#"{"detail":"Token is expired","code":"token_expired"}"#,
        ),
        (
            AuthError::Token(JwtError::NoUser),
            r#"{"detail":"Token contained no recognizable user identification","code":"token_not_valid"}"#,
        ),
    ];
    let header = Some((WWW_AUTHENTICATE, "Bearer realm=\"api\""));
    rows.map(|(error, body)| (ApiError::Auth(error), 401, body, header.clone()))
        .to_vec()
}

fn rows_of_bodies() -> Vec<Row> {
    let rows = [
        (
            "{",
            r#"{"detail":"JSON parse error - Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"}"#,
        ),
        (
            "",
            r#"{"resource_type":["This field is required."],"resource_id":["This field is required."],"interaction_type":["This field is required."]}"#,
        ),
        ("null", r#"{"non_field_errors":["No data provided"]}"#),
        (
            "[]",
            r#"{"non_field_errors":["Invalid data. Expected a dictionary, but got list."]}"#,
        ),
        (
            r#"{"interaction_type":"é\"","resource_id":null,"resource_type":"quest"}"#,
            r#"{"resource_id":["This field may not be null."],"interaction_type":["\"é\"\" is not a valid choice."]}"#,
        ),
        (
            r#"{"interaction_type":true,"resource_id":"42","resource_type":5}"#,
            r#"{"resource_type":["\"5\" is not a valid choice."],"resource_id":["A valid integer is required."],"interaction_type":["\"True\" is not a valid choice."]}"#,
        ),
    ];
    rows.map(|(sent, body)| (of_body(sent), 400, body, None))
        .to_vec()
}

fn rows_of_requests() -> Vec<Row> {
    let method = "GET".to_owned();
    let allow = "POST, OPTIONS";
    let media = |kind: &str| ApiError::UnsupportedMediaType(kind.to_owned());
    let rows = [
        (ApiError::NotFound, 404, r#"{"detail":"Not found."}"#),
        (
            media("text/plain"),
            415,
            r#"{"detail":"Unsupported media type \"text/plain\" in request."}"#,
        ),
        (
            media(""),
            415,
            r#"{"detail":"Unsupported media type \"\" in request."}"#,
        ),
        (
            ApiError::UnsupportedEncoding("gzip".to_owned()),
            415,
            r#"{"detail":"Unsupported content encoding \"gzip\" in request."}"#,
        ),
        (
            ApiError::TooLarge { limit: 65_536 },
            413,
            r#"{"detail":"Request body exceeded the limit of 65536 bytes."}"#,
        ),
        (
            ApiError::BadIdempotencyKey,
            400,
            r#"{"detail":"Idempotency-Key must be 1 to 255 printable ASCII characters, once.","code":"bad_idempotency_key"}"#,
        ),
        (
            ApiError::BadPosition("why"),
            400,
            r#"{"detail":"why","code":"bad_position"}"#,
        ),
        (
            ApiError::KeyReused,
            422,
            r#"{"detail":"Idempotency-Key was already used with another interaction.","code":"idempotency_key_reused"}"#,
        ),
        (
            ApiError::Timeout,
            408,
            r#"{"detail":"Request was not received in time."}"#,
        ),
        (
            ApiError::BrokenBody("secret".to_owned()),
            400,
            r#"{"detail":"Request body could not be read."}"#,
        ),
    ];
    let mut rows = rows
        .map(|(error, status, body)| (error, status, body, None))
        .to_vec();
    rows.push((
        ApiError::MethodNotAllowed { method, allow },
        405,
        r#"{"detail":"Method \"GET\" not allowed."}"#,
        Some((ALLOW, allow)),
    ));
    rows
}

fn rows_of_5xx() -> Vec<Row> {
    let retry = Some((RETRY_AFTER, "1"));
    vec![
        (
            ApiError::Unavailable("what"),
            503,
            r#"{"detail":"what","code":"unavailable"}"#,
            retry.clone(),
        ),
        (
            ApiError::FateUnknown,
            503,
            r#"{"detail":"The interaction may or may not have been recorded; retry with the same Idempotency-Key.","code":"fate_unknown"}"#,
            retry,
        ),
        (
            ApiError::Internal("secret".to_owned()),
            500,
            r#"{"detail":"Internal server error.","code":"internal"}"#,
            None,
        ),
    ]
}

/// Protects clients that match on these texts, byte for byte, and nothing of ours from leaking.
#[actix_web::test]
async fn every_row_of_the_contract_is_what_it_says() {
    for (error, status, body, extra) in rows() {
        for accept in [
            None,
            Some("*/*"),
            Some("text/html"),
            Some("application/problem+json;q=0"),
        ] {
            let answer = error.answer(&headers(accept));
            assert_eq!(answer.status().as_u16(), status, "{error}");
            assert_eq!(
                header(&answer, CONTENT_TYPE),
                Some("application/json"),
                "{error}"
            );
            if let Some((name, value)) = &extra {
                assert_eq!(header(&answer, name.clone()), Some(*value), "{error}");
            }
            let closes = matches!(error, ApiError::Timeout | ApiError::BrokenBody(_));
            assert_eq!(
                answer.head().upgrade() || !answer.head().keep_alive(),
                closes,
                "{error}"
            );
            assert_eq!(text(answer).await, body);
        }
    }
}

/// Protects clients that ask for RFC 9457: the same facts, and a code for each.
#[actix_web::test]
async fn every_row_has_its_form_as_a_problem() {
    for (error, status, plain, extra) in rows() {
        let asked = headers(Some("text/html, Application/Problem+JSON; q=0.5"));
        let answer = error.answer(&asked);
        let kind = header(&answer, CONTENT_TYPE);
        assert_eq!(kind, Some("application/problem+json"), "{error}");
        if let Some((name, value)) = &extra {
            assert_eq!(header(&answer, name.clone()), Some(*value), "{error}");
        }
        let text = text(answer).await;
        let problem: serde_json::Value = serde_json::from_str(&text).unwrap();
        let plain: serde_json::Value = serde_json::from_str(plain).unwrap();
        let code = problem["code"].as_str().unwrap();
        assert!(!code.is_empty(), "{text}");
        assert_eq!(problem["type"], format!("about:blank#{code}"));
        assert_eq!(problem["status"], status);
        assert!(
            problem["title"]
                .as_str()
                .is_some_and(|title| !title.is_empty()),
            "{text}"
        );
        match plain.get("detail") {
            Some(detail) => assert_eq!(problem["detail"], *detail),
            None => assert_eq!(problem["errors"], plain, "{text}"),
        }
        if let Some(shown) = plain.get("code") {
            assert_eq!(problem["code"], *shown);
        }
    }
    let broken = of_body("{").answer(&headers(Some("application/problem+json")));
    let start = r#"{"type":"about:blank#parse_error","title":"Bad Request","status":400,"detail":"JSON parse error - "#;
    let text = text(broken).await;
    assert!(text.starts_with(start), "{text}");
}
