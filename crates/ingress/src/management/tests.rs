//! The management API of a server that is still opening its log: what probes and people see.

use std::thread::JoinHandle;

use actix_web::body::to_bytes;
use actix_web::http::StatusCode;
use actix_web::test::{TestRequest, call_service, init_service};

use tally_log::storage::RealStorage;
use tally_projector::Options;

use super::*;
use crate::memory_log::MemoryLog;

async fn ask(management: &Arc<Management>, request: TestRequest) -> (StatusCode, String, String) {
    let guard = Guard::new("127.0.0.1:8081".parse().unwrap(), Vec::new());
    let app = App::new()
        .app_data(web::Data::from(Arc::clone(management)))
        .configure(health::routes)
        .service(admin::routes(Arc::clone(&guard)))
        .configure(|config| live::routes(config, &guard))
        .default_service(web::to(not_found));
    let app = init_service(app).await;
    let answer = call_service(&app, request.to_request()).await;
    let content_type = answer.headers().get("content-type");
    let content_type = content_type
        .map_or("", |value| value.to_str().unwrap())
        .to_owned();
    let status = answer.status();
    let body = to_bytes(answer.into_body()).await.ok().unwrap();
    (
        status,
        content_type,
        String::from_utf8(body.to_vec()).unwrap(),
    )
}

fn starting() -> Arc<Management> {
    Management::new(Registry::new(), Duration::from_secs(10)).unwrap()
}

fn get(uri: &str) -> TestRequest {
    TestRequest::get().uri(uri)
}

fn local(uri: &str) -> TestRequest {
    let peer = "127.0.0.1:5000".parse().unwrap();
    get(uri)
        .peer_addr(peer)
        .insert_header(("host", "127.0.0.1:8081"))
}

/// Protects a server with a long replay from being killed by its liveness probe, and from
/// getting requests too early.
#[actix_web::test]
async fn a_starting_server_is_alive_and_not_ready_and_says_why() {
    let management = starting();
    let (status, _, body) = ask(&management, get("/livez")).await;
    assert_eq!(
        (status, body.as_str()),
        (StatusCode::OK, r#"{"status":"alive"}"#)
    );
    management.opening("opening the log");
    let (status, content_type, body) = ask(&management, get("/readyz")).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(content_type, "application/json");
    assert_eq!(
        body,
        r#"{"status":"not_ready","reasons":[{"code":"starting","detail":"opening the log"}]}"#
    );
    management.drain();
    let (_, _, body) = ask(&management, get("/readyz")).await;
    assert!(body.contains(r#"[{"code":"draining","#), "{body}");
}

/// Protects load balancers that probe with HEAD, and those who mistake the method.
#[actix_web::test]
async fn probes_may_ask_with_head_and_nothing_else() {
    let management = starting();
    for (path, status) in [
        ("/livez", StatusCode::OK),
        ("/readyz", StatusCode::SERVICE_UNAVAILABLE),
        ("/metrics", StatusCode::OK),
    ] {
        let head = TestRequest::default()
            .method(actix_web::http::Method::HEAD)
            .uri(path);
        assert_eq!(ask(&management, head).await.0, status, "{path}");
        let post = TestRequest::post().uri(path);
        let refused = ask(&management, post).await.0;
        assert_eq!(refused, StatusCode::METHOD_NOT_ALLOWED, "{path}");
    }
}

/// Protects the format that Prometheus reads, and the gauge that alerts look at.
#[actix_web::test]
async fn metrics_are_prometheus_text_from_the_start() {
    let management = starting();
    let _ = ask(&management, get("/readyz")).await;
    let (status, content_type, body) = ask(&management, get("/metrics")).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(content_type, "text/plain; version=0.0.4; charset=utf-8");
    assert!(
        body.contains("# TYPE tally_ready gauge\ntally_ready 0\n"),
        "{body}"
    );
}

/// Protects administration behind the guard: each route, not only one of them.
#[actix_web::test]
async fn every_admin_route_is_guarded() {
    let management = starting();
    let routes = [
        "/admin/log/cat",
        "/admin/log/info",
        "/admin/log/check",
        "/admin/state/cat",
        "/admin/state/info",
        "/admin/dead-letters",
        "/admin/dead-letters/3/17",
        "/admin/resources",
        "/admin/nothing",
    ];
    for route in routes {
        let stranger = get(route).peer_addr("10.0.0.1:5000".parse().unwrap());
        let refused = ask(&management, stranger.insert_header(("host", "localhost"))).await;
        // The keys are not read yet.
        assert_eq!(refused.0, StatusCode::SERVICE_UNAVAILABLE, "{route}");
        assert!(refused.2.contains("reading the API keys"), "{}", refused.2);
        let page = local(route).insert_header(("origin", "https://evil.example"));
        assert_eq!(
            ask(&management, page).await.0,
            StatusCode::FORBIDDEN,
            "{route}"
        );
        let wanted = if route == "/admin/nothing" {
            StatusCode::NOT_FOUND
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        assert_eq!(ask(&management, local(route)).await.0, wanted, "{route}");
    }
    for route in ["/admin/dead-letters/replay", "/admin/dead-letters/drop"] {
        let page = posted(route, "{}").insert_header(("origin", "https://evil.example"));
        let (status, ..) = ask(&management, page).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{route}");
        let (status, ..) = ask(&management, posted(route, "{}")).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{route}");
    }
}

fn posted(uri: &str, body: &'static str) -> TestRequest {
    local(uri)
        .method(actix_web::http::Method::POST)
        .insert_header(("content-type", "application/json"))
        .set_payload(body)
}

/// Protects whoever mistypes a query or a body: refused with a reason, nothing is done.
#[actix_web::test]
async fn a_wrong_query_or_body_is_a_bad_request() {
    let management = starting();
    for query in ["partition=x", "from=3", "unknown=1", "follow=maybe"] {
        let (status, _, body) = ask(&management, local(&format!("/admin/log/cat?{query}"))).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query}");
        assert!(body.starts_with(r#"{"detail":"#), "{body}");
    }
    for path in [
        "?from=3",
        "?partition=-1",
        "?reason=none",
        "?follow=true",
        "/3/x",
        "/x/3",
    ] {
        let uri = format!("/admin/dead-letters{path}");
        let (status, _, body) = ask(&management, local(&uri)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}");
        assert!(body.starts_with(r#"{"detail":"#), "{body}");
    }
    let bodies = [
        "",
        "{",
        r#"{"action":"drop","resources":[]}"#,
        r#"{"action":"add","resources":[{"resource_type":"x","resource_id":1}]}"#,
        r#"{"action":"add","resources":[{"resource_type":"quest","resource_id":-1}]}"#,
    ];
    for body in bodies {
        let (status, _, _) = ask(&management, posted("/admin/resources", body)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
    }
    for body in [
        "",
        r#"{"offset":3}"#,
        r#"{"rate":0}"#,
        r#"{"limit":-1}"#,
        r#"{"reason":"none"}"#,
        r#"{"all":true}"#,
    ] {
        let (status, _, _) = ask(&management, posted("/admin/dead-letters/drop", body)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
    }
}

/// A server whose logs are in memory.
fn opened() -> (Arc<Management>, MemoryLog, tempfile::TempDir) {
    let management = starting();
    let (log, catalogue_log) = (MemoryLog::new(1), MemoryLog::new(1));
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        sled_cache_bytes: 1 << 20,
        ..Options::default()
    };
    let storage = Arc::new(RealStorage);
    let projector = Projector::open(
        log.arc(),
        storage,
        dir.path(),
        options,
        &management.registry,
    );
    management.opened(Parts {
        log: log.arc(),
        catalogue_log: catalogue_log.arc(),
        projector: Arc::new(projector.unwrap()),
        catalogue: Arc::new(Catalogue::open(catalogue_log.arc()).unwrap()),
    });
    (management, log, dir)
}

/// Eight that want to know at once why it is not ready.
fn eight_ask(management: &Arc<Management>, asked_at: Instant) -> Vec<JoinHandle<Vec<Reason>>> {
    let one = |_| {
        let management = Arc::clone(management);
        std::thread::spawn(move || management.reasons(asked_at))
    };
    (0..8).map(one).collect()
}

/// Protects whoever scrapes from a log that is away: there is an answer at once, it says since when
/// nobody knows, and probes that all wait for the log hold up none of it.
#[actix_web::test]
async fn a_scrape_does_not_wait_for_a_log_that_is_away() {
    let (management, log, _dir) = opened();
    assert_eq!(management.reasons(Instant::now()).len(), 1, "no API yet");
    let (_, _, before) = ask(&management, get("/metrics")).await;
    let lag = r#"tally_projector_lag_records{partition="0"} 0"#;
    assert!(before.contains(lag), "{before}");
    log.hold_heads(true);
    let asked_at = Instant::now();
    let asking = eight_ask(&management, asked_at);
    // It would be held for ever.
    let (status, _, body) = ask(&management, get("/metrics")).await;
    assert_eq!(status, StatusCode::OK);
    let said = "tally_log_head_timestamp_seconds ";
    let since = |body: &str| {
        let line = body.lines().find_map(|line| line.strip_prefix(said));
        line.unwrap().parse::<f64>().unwrap()
    };
    assert!(since(&body) > 1e9, "{body}");
    assert!((since(&body) - since(&before)).abs() < 5.0, "{body}");
    log.hold_heads(false);
    asking.into_iter().for_each(|asked| drop(asked.join()));
}

/// Protects probes from a log that is away: one question is under way at a time, whoever asked
/// meanwhile has its answer, and `/livez` waits for none of it.
#[actix_web::test]
async fn a_log_that_does_not_answer_is_asked_once() {
    let (management, log, _dir) = opened();
    management.serving();
    let before = log.heads_asked();
    log.hold_heads(true);
    let asked_at = Instant::now();
    let asking = eight_ask(&management, asked_at);
    let (status, _, _) = ask(&management, get("/livez")).await;
    assert_eq!(status, StatusCode::OK);
    log.hold_heads(false);
    for asked in asking {
        assert_eq!(asked.join().unwrap(), []);
    }
    assert_eq!(log.heads_asked() - before, 1);
    let (status, _, body) = ask(&management, get("/readyz")).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(log.heads_asked() - before, 2, "a later question is asked");
}
