//! The management listener as others see it: the numbers of the live page as they come from the real
//! binary, and what is asked of whoever is not on this host.

use std::net::SocketAddr;

use serde_json::Value;
use tally_tests::http::Connection;
use tally_tests::load::Load;
use tally_tests::machine::outer_address;
use tally_tests::{Folder, Request, Response, Server, wait};

/// One event of the stream, without what only keeps it open.
fn next(stream: &mut Connection) -> Option<(String, Value)> {
    loop {
        let chunk = stream.chunk().expect("a chunk");
        if chunk.is_empty() {
            return None;
        }
        let text = String::from_utf8(chunk).expect("text");
        let line = |name: &str| {
            let mut lines = text.lines();
            lines
                .find_map(|line| line.strip_prefix(name))
                .map(str::to_owned)
        };
        if let Some(data) = line("data: ") {
            let kind = line("event: ").unwrap_or_else(|| "message".to_owned());
            return Some((kind, serde_json::from_str(&data).expect("JSON")));
        }
    }
}

fn watch(address: SocketAddr, request: &Request) -> Connection {
    let mut stream = Connection::open(address).expect("it listens");
    stream.write(&request.bytes(address)).expect("it reads");
    let head = stream.head().expect("an answer");
    assert_eq!(head.status, 200);
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
    stream
}

/// Protects the live page's numbers: they are those of the real server under load, one after the other, and
/// the stream ends with the server's clean stop rather than hold it up.
#[test]
fn numbers_come_while_the_server_runs_and_end_with_it() {
    let mut server = Folder::new().start();
    let load = Load::start(server.api(), 4);
    let mut stream = watch(server.management(), &Request::get("/live"));
    let shown = wait::until("numbers of the load", || {
        let (kind, shown) = next(&mut stream).expect("it goes on");
        assert_eq!(kind, "message");
        let accepted = shown["per_second"]["accepted"].as_f64();
        let hot = shown["hot"].as_array().map_or(0, Vec::len);
        (accepted > Some(1.0) && hot == 3).then_some(shown)
    });
    assert_eq!(shown["status"], "ready", "{shown}");
    assert_eq!(shown["partitions"].as_array().map(Vec::len), Some(16));
    for path in [
        "/answers/p50",
        "/answers/p99",
        "/log/sync/p99",
        "/log/bytes",
    ] {
        let value = shown.pointer(path).and_then(Value::as_f64);
        assert!(value > Some(0.0), "{path}: {shown}");
    }
    assert!(shown["version"].is_string(), "{shown}");
    let hot: Vec<_> = shown["hot"].as_array().expect("a list").iter().collect();
    assert!(
        hot.iter()
            .any(|one| one["resource_type"] == "ai_note" && one["resource_id"] == 15)
    );
    let _ = load.stop();

    server.sigterm();
    let last = std::iter::from_fn(|| next(&mut stream)).last();
    assert_eq!(last.map(|(kind, _)| kind).as_deref(), Some("end"));
    assert!(server.wait_for_end().success());
}

fn key(folder: &Folder, more: &[&str]) -> String {
    let args = [&["keys", "create", "--user", "ops"][..], more].concat();
    folder.run(&args).ok().trim().to_owned()
}

fn assert_refused(answer: &Response, status: u16, code: &str) {
    let body = answer.json();
    assert_eq!((answer.status, body["code"].as_str()), (status, Some(code)));
    assert!(body["detail"].is_string(), "{body}");
    let challenge = answer.header("www-authenticate");
    let wanted = (status == 401).then_some("Bearer realm=\"api\"");
    assert_eq!(challenge, wanted);
}

fn refusals(server: &Server, reason: &str) -> f64 {
    let label = format!("reason=\"{reason}\"");
    let metrics = server.metrics();
    metrics.sum("tally_auth_admin_refusals_total", &[&label])
}

/// Protects everything beyond metrics and health from whoever is not on this host: an admin key that holds
/// opens it, by an address or a listed name, and nothing else does; each refusal is counted.
#[test]
fn from_elsewhere_all_but_metrics_and_health_needs_an_admin_key() {
    let folder = Folder::new()
        .with("TALLY__AUTH__LOCAL_DEV_KEY", false)
        .with("TALLY__MANAGEMENT__LISTEN", "0.0.0.0:0")
        .with("TALLY__MANAGEMENT__HOSTS", "tally.example.com");
    let (admin, plain) = (key(&folder, &["--admin"]), key(&folder, &[]));
    let server = folder.start();
    let port = server.management().port();
    let far = SocketAddr::new(outer_address(), port);

    for path in ["/metrics", "/livez", "/readyz", "/"] {
        assert_eq!(Request::get(path).send(far).status, 200, "{path}");
    }
    for path in [
        "/live",
        "/admin/log/cat",
        "/admin/resources",
        "/admin/nothing",
    ] {
        let get = || Request::get(path);
        let none = get().send(far);
        assert_eq!(none.status, 401, "{path}");
        let detail = "Authentication credentials were not provided.";
        assert_eq!(none.json()["detail"], detail);
        let unknown = get().bearer("nobody").send(far);
        assert_refused(&unknown, 401, "authentication_failed");
        assert_refused(&get().bearer(&plain).send(far), 403, "not_admin");
    }
    let change = r#"{"action":"add","resources":[{"resource_type":"quest","resource_id":99}]}"#;
    let post = || Request::post("/admin/resources").json(change);
    assert_eq!(post().send(far).status, 401);
    let page = post()
        .bearer(&admin)
        .header("Origin", format!("http://{far}"));
    assert_refused(&page.send(far), 403, "browser_not_allowed");
    assert_eq!(post().bearer(&admin).send(far).json()["changed"], 1);
    let list = Request::get("/admin/resources").bearer(&admin).send(far);
    assert!(list.text().contains("99"), "{}", list.text());
    let watched = Request::get("/live").bearer(&admin);
    assert!(next(&mut watch(far, &watched)).is_some());

    // From this host by loopback, as ever: commands on the folder need no key.
    assert!(folder.run(&["resources", "list"]).ok().contains("99"));
    // By name: only by one that was listed, and with a key, from wherever it comes.
    let near = server.management();
    let named = |name: &str| Request::get("/admin/resources").header("Host", name);
    for address in [near, far] {
        let listed = format!("tally.example.com:{port}");
        assert_eq!(named(&listed).send(address).status, 401);
        let with_key = named(&listed).bearer(&admin).send(address);
        assert_eq!(with_key.status, 200);
        let other = named("evil.example").bearer(&admin).send(address);
        assert_refused(&other, 403, "host_not_allowed");
    }
    for (reason, least) in [
        ("not_provided", 7.0),
        ("unknown_key", 4.0),
        ("not_admin", 4.0),
        ("browser", 1.0),
        ("host", 2.0),
    ] {
        assert_eq!(refusals(&server, reason), least, "{reason}");
    }
    let all = format!(
        "{}{}",
        server.output(),
        Request::get("/metrics").send(far).text()
    );
    for secret in [&admin, &plain] {
        let secret = secret.rsplit('_').next().expect("a secret");
        assert!(!all.contains(secret), "a secret got out");
    }
}

/// Protects what `--expires-in` says: the key holds, then it does not, in words of its own; the list and the
/// metric say when.
#[test]
fn a_key_ends_when_it_was_said_to() {
    let folder = Folder::new();
    let lasting = key(&folder, &["--admin", "--expires-in", "90d"]);
    let short = key(&folder, &["--expires-in", "2s"]);
    let server = folder.start();
    let ask = |key: &str| {
        let resource = Request::get("/api/v1/metrics/resources/ai_note/15/");
        resource.bearer(key).send(server.api())
    };
    assert_eq!(ask(&lasting).status, 200, "an admin key is its user's key");
    let ended = wait::until("the key's end", || {
        let answer = ask(&short);
        (answer.status != 200).then_some(answer)
    });
    assert_eq!(ended.status, 401);
    let body = r#"{"detail":"API key is expired","code":"key_expired"}"#;
    assert_eq!(ended.text(), body);
    let failures = |server: &Server| {
        let metrics = server.metrics();
        metrics.sum(
            "tally_http_auth_failures_total",
            &["reason=\"key_expired\""],
        )
    };
    assert!(failures(&server) >= 1.0);
    let keys = folder.run(&["keys", "list", "--json"]).json_lines();
    assert_eq!(keys[0]["admin"], true);
    assert!(keys[0]["expires_at"].is_string() && keys[0]["revoked_at"].is_null());
    assert!(folder.run(&["keys", "list"]).ok().contains("EXPIRES"));
    let day = 86_400.0;
    let seconds = |server: &Server| {
        let metrics = server.metrics();
        metrics.sum("tally_auth_key_expiry_timestamp_seconds", &[])
    };
    let started = server.metrics().sum("process_start_time_seconds", &[]);
    let left = wait::until("the next end", || {
        let left = seconds(&server) - started;
        (left > day).then_some(left)
    });
    assert!((89.0 * day..91.0 * day).contains(&left), "{left}");
}
