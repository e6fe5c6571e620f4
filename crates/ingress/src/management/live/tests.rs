//! Who may watch, how many, and that the numbers are made for those who do and for nobody else.

use actix_web::App;
use actix_web::body::{BoxBody, MessageBody as _};
use actix_web::http::StatusCode;
use actix_web::http::header::WWW_AUTHENTICATE;
use actix_web::test::{TestRequest, call_service, init_service};
use futures_util::future::poll_fn;
use prometheus::Registry;
use tally_domain::UserId;

use super::*;
use crate::auth::{Authenticator, Grant, KeysFile};
use crate::wait::until;

const HERE: &str = "127.0.0.1:8081";

/// An answer whose body is read piece by piece.
struct Answer {
    head: HttpResponse<()>,
    body: BoxBody,
}

impl Answer {
    fn status(&self) -> StatusCode {
        self.head.status()
    }

    fn headers(&self) -> &HeaderMap {
        self.head.headers()
    }
}

async fn ask(management: &Arc<Management>, request: TestRequest) -> Answer {
    let guard = Guard::new(HERE.parse().unwrap(), vec!["ops.example".to_owned()]);
    let app = App::new()
        .app_data(web::Data::from(Arc::clone(management)))
        .configure(|config| routes(config, &guard));
    let app = init_service(app).await;
    let answer = call_service(&app, request.to_request()).await;
    let (_, answer) = answer.map_into_boxed_body().into_parts();
    let (head, body) = answer.into_parts();
    Answer { head, body }
}

fn management() -> Arc<Management> {
    Management::new(Registry::new(), Duration::from_secs(10)).unwrap()
}

fn from(peer: &str, path: &str) -> TestRequest {
    let request = TestRequest::get().uri(path).insert_header(("host", HERE));
    request.peer_addr(peer.parse().unwrap())
}

/// The next piece of an answer's body; `None` at its end.
async fn next(answer: &mut Answer) -> Option<String> {
    let body = &mut answer.body;
    let piece = poll_fn(|context| std::pin::Pin::new(&mut *body).poll_next(context)).await;
    piece.map(|piece| String::from_utf8(piece.unwrap().to_vec()).unwrap())
}

fn running(management: &Management) -> (usize, bool) {
    let hub = management.live.hub.lock();
    (hub.viewers, hub.running)
}

/// Protects the server from work for nobody, and its stop from whoever watches: the numbers are made while
/// somebody watches, one after the other, and a stop ends it.
#[actix_web::test]
async fn numbers_are_made_while_somebody_watches() {
    let management = management();
    assert_eq!(running(&management), (0, false));
    let mut answer = ask(&management, from("127.0.0.1:5000", "/live")).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let kind = answer.headers().get(CONTENT_TYPE).unwrap();
    assert_eq!(kind, "text/event-stream");
    assert_eq!(next(&mut answer).await.unwrap(), "retry: 2000\n\n");
    for _ in 0..2 {
        let event = next(&mut answer).await.unwrap();
        let data = event.strip_prefix("data: ").unwrap();
        let shown: serde_json::Value = serde_json::from_str(data.trim_end()).unwrap();
        assert_eq!(shown["reasons"][0]["code"], "starting", "{shown}");
    }
    assert_eq!(running(&management), (1, true));
    drop(answer);
    until("the thread's end", || running(&management) == (0, false));

    let mut again = ask(&management, from("127.0.0.1:5000", "/live")).await;
    assert_eq!(next(&mut again).await.unwrap(), "retry: 2000\n\n");
    assert!(next(&mut again).await.unwrap().starts_with("data: "));
    management.drain();
    let mut last = next(&mut again).await;
    if last.as_ref().is_some_and(|last| last.starts_with("data")) {
        last = next(&mut again).await;
    }
    assert_eq!(last.unwrap(), "event: end\ndata: {}\n\n");
    assert_eq!(next(&mut again).await, None);
    until("the thread's end", || running(&management) == (0, false));
    let late = ask(&management, from("127.0.0.1:5000", "/live")).await;
    assert_eq!(late.status(), StatusCode::SERVICE_UNAVAILABLE);
}

/// Protects the server from more watchers than it wants to serve.
#[actix_web::test]
async fn so_many_may_watch_and_no_more() {
    let management = management();
    let mut watching = Vec::new();
    for _ in 0..MAX_VIEWERS {
        let answer = ask(&management, from("127.0.0.1:5000", "/live")).await;
        assert_eq!(answer.status(), StatusCode::OK);
        watching.push(answer);
    }
    let ask_again = || ask(&management, from("127.0.0.1:5000", "/live"));
    let refused = ask_again().await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers().contains_key(RETRY_AFTER));
    watching.pop();
    assert_eq!(ask_again().await.status(), StatusCode::OK);
}

/// Protects a log that is away from being taken for a connection that is: who watches is told that there is
/// nothing new.
#[actix_web::test]
async fn a_silence_is_said() {
    tokio::time::pause();
    let management = management();
    // As if the thread was at its work for long.
    management.live.hub.lock().running = true;
    let mut answer = ask(&management, from("127.0.0.1:5000", "/live")).await;
    let _ = next(&mut answer).await;
    assert_eq!(next(&mut answer).await.unwrap(), ": no numbers yet\n\n");
}

/// Protects the numbers: from elsewhere they are for an admin key alone, and each refusal is an error of the
/// API's shape and is counted; the page without numbers is for whoever names us rightly.
#[actix_web::test]
async fn from_elsewhere_a_key_is_needed() {
    let management = management();
    let folder = tempfile::tempdir().unwrap();
    let file = KeysFile::new(folder.path().join("keys.json"));
    let user = UserId::new("ops").unwrap();
    let plain = file.create(&user).unwrap();
    let grant = Grant {
        admin: true,
        expires_at: None,
    };
    let admin = file.create_with(&user, grant).unwrap();
    let far = |path: &str| from("10.0.0.9:5000", path);
    let early = ask(&management, far("/live")).await;
    assert_eq!(early.status(), StatusCode::SERVICE_UNAVAILABLE);
    let authenticator = Authenticator::start(file.path(), false).unwrap();
    management.knows_keys(Arc::new(authenticator));

    let with = |key: &str| far("/live").insert_header(("authorization", format!("Bearer {key}")));
    let cases = [
        (
            far("/live"),
            StatusCode::UNAUTHORIZED,
            "credentials were not",
        ),
        (
            with("nobody"),
            StatusCode::UNAUTHORIZED,
            "authentication_failed",
        ),
        (with(plain.key.expose()), StatusCode::FORBIDDEN, "not_admin"),
        (
            with(admin.key.expose()).insert_header(("origin", "https://evil.example")),
            StatusCode::FORBIDDEN,
            "browser_not_allowed",
        ),
    ];
    for (request, status, word) in cases {
        let mut refused = ask(&management, request).await;
        assert_eq!(refused.status(), status, "{word}");
        let challenged = refused.headers().contains_key(WWW_AUTHENTICATE);
        assert_eq!(challenged, status == StatusCode::UNAUTHORIZED, "{word}");
        let body = next(&mut refused).await.unwrap();
        assert!(
            body.starts_with("{\"detail\":\"") && body.contains(word),
            "{body}"
        );
    }
    let mut watching = ask(&management, with(admin.key.expose())).await;
    assert_eq!(watching.status(), StatusCode::OK);
    assert!(next(&mut watching).await.is_some());
    // Whoever watches with a key that is revoked sees no more.
    file.revoke(admin.info.id).unwrap();
    let mut seen = 0;
    while next(&mut watching).await.is_some() {
        seen += 1;
        assert!(seen < 30, "it goes on");
    }

    let mut page = ask(&management, far("/")).await;
    assert_eq!(page.status(), StatusCode::OK);
    for header in [
        "content-security-policy",
        "x-frame-options",
        "x-content-type-options",
    ] {
        assert!(page.headers().contains_key(header), "{header}");
    }
    assert!(
        next(&mut page)
            .await
            .unwrap()
            .starts_with("<!doctype html>")
    );
    let rebound = TestRequest::get()
        .uri("/")
        .insert_header(("host", "evil.example"));
    let refused = ask(&management, rebound).await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);

    let families = management.registry.gather();
    let family = families
        .iter()
        .find(|f| f.name() == "tally_auth_admin_refusals_total");
    let counted: std::collections::BTreeMap<_, _> = family
        .unwrap()
        .get_metric()
        .iter()
        .map(|metric| {
            (
                metric.get_label()[0].value(),
                metric.get_counter().get_value(),
            )
        })
        .collect();
    for (reason, wanted) in [
        ("starting", 1.0),
        ("not_provided", 1.0),
        ("unknown_key", 1.0),
        ("not_admin", 1.0),
        ("browser", 1.0),
        ("host", 1.0),
        ("key_expired", 0.0),
    ] {
        assert_eq!(counted.get(reason), Some(&wanted), "{reason}");
    }
}
