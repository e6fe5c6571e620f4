//! Requests of any method, path, headers and body, through the service as a listener calls it: each is
//! answered, in the documented form, and what is refused records nothing.

use actix_web::HttpResponse;
use actix_web::body::to_bytes;
use actix_web::http::Method;
use actix_web::http::header::{
    CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, TRANSFER_ENCODING,
};
use actix_web::test::TestRequest;
use serde_json::Value;
use tally_domain::decode;
use tally_fuzz::{fuzz, way};
use tally_log::storage::RealStorage;
use tally_projector::Options;

use super::*;
use crate::memory_log::MemoryLog;

const WORDS: &[&str] = &[
    "POST /api/v1/metrics/interact/\n",
    "GET /api/v1/metrics/resources/quest/42/",
    "?at_least=",
    "Authorization: Bearer local-dev-key\n",
    "Content-Type: application/json\n",
    "Content-Encoding: gzip\n",
    "Transfer-Encoding: chunked\n",
    "Idempotency-Key: k\n",
    "Accept: application/problem+json\n",
    "X-Request-Id: r\n",
    "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\n",
    "\"resource_type\":",
    "\"resource_id\":",
    "\"interaction_type\":",
    "\"ai_note\"",
    "\"view\"",
    "\"unlike\"",
    "null",
    "true",
    "\\u0000",
    "\\ud800",
    "[[[[[[[[",
    "{\"\":",
    "1e1000",
    "é",
];

/// Protects clients and the log: no answer is a fault of ours or out of the documented form, and the
/// log has an event for each success and for nothing else.
#[test]
fn fuzz_requests() {
    let dir = tempfile::tempdir().unwrap();
    let (log, registry) = (MemoryLog::new(1), Registry::new());
    let state = dir.path().join("state");
    let storage = Arc::new(RealStorage);
    let projector = Projector::open(log.arc(), storage, &state, Options::default(), &registry);
    let api = Arc::new(Api {
        log: log.arc(),
        projector: Arc::new(projector.unwrap()),
        catalogue: Arc::new(Catalogue::open(MemoryLog::new(1).arc()).unwrap()),
        authenticator: Arc::new(Authenticator::start(dir.path().join("keys.json"), true).unwrap()),
        metrics: Metrics::register(&registry).unwrap(),
        docs: Docs::new().unwrap(),
        options: super::tests::options(),
        traces: None,
    });
    let system = actix_web::rt::System::new();
    let worker = system.block_on(async { worker(&api) });
    fuzz("requests", WORDS, |input| {
        let Some((request, method)) = read(input) else {
            return way("no request");
        };
        let before = log.appends();
        let answer = system.block_on(async {
            let answer = serve(Rc::clone(&worker), request.to_srv_request()).await;
            let (_, answer) = answer.into_parts();
            let (answer, body) = answer.into_parts();
            let body = to_bytes(body).await.expect("a body");
            (answer, body)
        });
        let recorded = log.appends() - before;
        let (answer, body) = answer;
        let status = answer.status().as_u16();
        check_form(&answer, &body);
        let success = method == Method::POST && status == 200;
        assert_eq!(recorded, u64::from(success || status == 422), "{status}");
        if recorded == 1 {
            let event = log.values(0).pop().expect("the record");
            let event = decode(event.as_bytes()).expect("an event");
            assert_eq!(event.user.as_str(), "1");
            if success {
                let value: Value = serde_json::from_slice(&body).expect("JSON");
                assert_eq!(value["event_id"], event.id.to_string());
                assert_eq!(value["resource_id"], event.resource.id.get());
                assert_eq!(value["interaction_type"], event.interaction.as_str());
            }
            log.truncate_to_head();
        }
        let said = String::from_utf8_lossy(&body);
        let said = if status < 400 { "" } else { &said };
        way(format!(
            "{method} {} {said}",
            char::from(b'a' + u8::try_from(status % 23).unwrap())
        ))
    });
}

/// What every answer has.
fn check_form(answer: &HttpResponse<()>, body: &[u8]) {
    let status = answer.status().as_u16();
    assert!(
        [200, 204, 308, 400, 401, 404, 405, 413, 415, 422].contains(&status),
        "{status}"
    );
    let header = |name: &HeaderName| answer.headers().get(name).map(HeaderValue::as_bytes);
    let id = header(&HeaderName::from_static("x-request-id")).unwrap_or_default();
    assert!((1..=128).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic));
    if status < 400 {
        return;
    }
    let problem = match header(&CONTENT_TYPE) {
        Some(b"application/json") => false,
        Some(b"application/problem+json") => true,
        other => panic!("{status} is {other:?}"),
    };
    let value: Value = serde_json::from_slice(body).expect("JSON");
    let fields = value.as_object().expect("an object");
    if problem {
        assert_eq!(value["status"], status);
        assert!(value["title"].is_string() && value["code"].is_string());
    }
    assert!(!fields.is_empty() && (!problem || value["detail"].is_string()));
    // What was sent is repeated once, and a character of it may take six.
    assert!(body.len() < 16 << 10, "{} bytes", body.len());
    let marked = |status: u16, name: &str| {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        assert_eq!(answer.status() == status, header(&name).is_some(), "{name}");
    };
    marked(401, "www-authenticate");
    marked(405, "allow");
}

/// Method, a space and path; headers; an empty line; a body, which has the length that it says.
fn read(input: &[u8]) -> Option<(TestRequest, Method)> {
    let end = input.windows(2).position(|two| two == b"\n\n")?;
    let (head, body) = (&input[..end], &input[end + 2..]);
    let mut lines = head.split(|byte| *byte == b'\n');
    let first = lines.next()?;
    let space = first.iter().position(|byte| *byte == b' ')?;
    let method = Method::from_bytes(&first[..space]).ok()?;
    let uri = actix_web::http::Uri::try_from(&first[space + 1..]).ok()?;
    let mut request = TestRequest::default().method(method.clone());
    request = request.uri(&uri.to_string());
    let mut chunked = false;
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let value = line[colon + 1..].trim_ascii();
        let header = HeaderName::from_bytes(&line[..colon])
            .ok()
            .zip(HeaderValue::from_bytes(value).ok());
        let Some((name, value)) = header else {
            continue;
        };
        // The listener lets only one of them through, and only where it is true.
        if name == TRANSFER_ENCODING {
            chunked = true;
        } else if name != CONTENT_LENGTH {
            request = request.append_header((name, value));
        }
    }
    request = if chunked {
        request.append_header((TRANSFER_ENCODING, "chunked"))
    } else if body.is_empty() {
        request
    } else {
        request.append_header((CONTENT_LENGTH, body.len()))
    };
    Some((request.set_payload(body.to_vec()), method))
}
