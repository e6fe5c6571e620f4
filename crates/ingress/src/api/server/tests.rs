//! The public API as a whole: limits, request ids, what every answer has in common.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread::JoinHandle;

use serde_json::Value;
use tally_domain::{PositionToken, Resource, ResourceType};
use tally_log::ReadError;
use tally_log::storage::RealStorage;
use tally_projector::Options;
use tempfile::TempDir;

use super::*;
use crate::memory_log::MemoryLog;

/// Longer than any test may take.
const LONG: Duration = Duration::from_secs(60);
const INTERACT: &str = "/api/v1/metrics/interact/";
const QUEST: &str = "/api/v1/metrics/resources/quest/42/";
const VIEW: &str = r#"{"resource_type":"quest","resource_id":42,"interaction_type":"view"}"#;

pub(super) fn options() -> ApiOptions {
    ApiOptions {
        workers: 1,
        max_connections: 64,
        max_body: 1_024,
        head_timeout: LONG,
        body_timeout: LONG,
        keep_alive: LONG,
        stop_limit: Duration::from_secs(5),
        cors_origins: Vec::new(),
        wait_limit: LONG,
        catalogue_mode: CatalogueMode::Open,
    }
}

/// A running API over a log in memory.
struct Running {
    address: SocketAddr,
    log: MemoryLog,
    api: Option<ApiServer>,
    thread: Option<JoinHandle<()>>,
    _dir: TempDir,
}

fn start(options: ApiOptions) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let (log, registry) = (MemoryLog::new(4), Registry::new());
    let state = dir.path().join("state");
    let storage = Arc::new(RealStorage);
    let projector = Projector::open(log.arc(), storage, &state, Options::default(), &registry);
    let catalogue = Catalogue::open(MemoryLog::new(1).arc()).unwrap();
    let authenticator = Authenticator::start(dir.path().join("keys.json"), true).unwrap();
    let parts = ApiParts {
        log: log.arc(),
        projector: Arc::new(projector.unwrap()),
        catalogue: Arc::new(catalogue),
        authenticator: Arc::new(authenticator),
        traces: None,
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (started, api) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        actix_web::rt::System::new().block_on(async move {
            let (server, api) = start_api(listener, parts, options, &registry).unwrap();
            started.send(api).unwrap();
            server.await.unwrap();
        });
    });
    Running {
        address,
        log,
        api: Some(api.recv().unwrap()),
        thread: Some(thread),
        _dir: dir,
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(api) = self.api.take() {
            actix_web::rt::System::new().block_on(api.stop());
        }
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

impl Running {
    /// Sends bytes as they are, and reads until the server closes the connection.
    fn raw(&self, bytes: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.write_all(bytes.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap();
        let header = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_lowercase(), value.to_owned())
        };
        Answer {
            status: status.parse().unwrap(),
            headers: lines.map(header).collect(),
            body: body.to_owned(),
        }
    }

    fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let length = body.len();
        self.raw(&format!(
            "{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer local-dev-key\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        ))
    }

    fn post(&self, body: &str) -> Answer {
        self.send("POST", INTERACT, "Content-Type: application/json\r\n", body)
    }

    fn at_least(&self, token: &str) -> Answer {
        self.send("GET", &format!("{QUEST}?x=1&at_least={token}"), "", "")
    }
}

/// Protects the public contract from the listener down to the log and back.
#[test]
fn an_interaction_goes_the_whole_way() {
    let running = start(options());
    let answer = running.post(VIEW);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let (event_id, position) = (&answer.json()["event_id"], &answer.json()["position"]);
    let expected = format!(
        r#"{{"resource_type":"quest","resource_id":42,"interaction_type":"view","outcome":"applied","visible":true,"counters":{{"views":1,"likes":0,"shares":0,"bookmarks":0,"comments":0}},"user":{{"liked":false,"bookmarked":false}},"event_id":{event_id},"position":{position}}}"#
    );
    assert_eq!(answer.body, expected);
    let state = running.at_least(position.as_str().unwrap());
    let expected = format!(
        r#"{{"resource_type":"quest","resource_id":42,"visible":true,"counters":{{"views":1,"likes":0,"shares":0,"bookmarks":0,"comments":0}},"user":{{"liked":false,"bookmarked":false}},"position":{position}}}"#
    );
    assert_eq!(state.body, expected);
}

/// Protects caches and probes: HEAD is GET without the body, where there is a GET.
#[test]
fn head_is_get_without_a_body() {
    let running = start(options());
    for path in [QUEST, "/openapi.json", "/docs/"] {
        let get = running.send("GET", path, "", "");
        let head = running.send("HEAD", path, "", "");
        assert_eq!((get.status, head.status), (200, 200), "{path}");
        assert_eq!(
            head.header("content-length"),
            get.header("content-length"),
            "{path}"
        );
        assert!(head.body.is_empty() && !get.body.is_empty(), "{path}");
    }
    let head = running.send("HEAD", INTERACT, "", "");
    assert_eq!(
        (head.status, head.header("allow")),
        (405, Some("POST, OPTIONS"))
    );
}

/// Protects browsers and tools that ask what may be asked, before they have credentials.
#[test]
fn options_need_no_credentials() {
    let running = start(options());
    let ask = |path: &str| {
        running.raw(&format!(
            "OPTIONS {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        ))
    };
    for (path, allow) in [(INTERACT, "POST, OPTIONS"), (QUEST, "GET, HEAD, OPTIONS")] {
        for path in [path, path.trim_end_matches('/')] {
            let answer = ask(path);
            assert_eq!(
                (answer.status, answer.header("allow")),
                (204, Some(allow)),
                "{path}"
            );
            assert!(answer.body.is_empty() && answer.header("x-request-id").is_some());
        }
    }
    assert_eq!(ask("/nowhere").status, 404);
}

/// Protects connections and memory from bodies that never end: the answer comes, and then the end
/// of the connection, whatever the client goes on to send.
#[test]
fn a_body_that_is_not_read_ends_the_connection() {
    let running = start(ApiOptions {
        body_timeout: Duration::from_millis(50),
        ..options()
    });
    let head =
        "HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n";
    let key = "Authorization: Bearer local-dev-key\r\n";
    let large = format!("800\r\n{}\r\n", " ".repeat(0x800));
    let cases = [
        (format!("POST /nowhere {head}\r\n4\r\n{{\"re\r\n"), 404),
        (format!("POST {INTERACT} {head}\r\n4\r\n{{\"re\r\n"), 401),
        (
            format!("PUT {INTERACT} {head}{key}\r\n4\r\n{{\"re\r\n"),
            405,
        ),
        (format!("POST {INTERACT} {head}{key}\r\n{large}"), 413),
        (
            format!("POST {INTERACT} {head}{key}\r\n4\r\n{{\"re\r\n"),
            408,
        ),
        (format!("POST {INTERACT} {head}{key}\r\n"), 408),
    ];
    // Each of them waits for its connection to be closed.
    std::thread::scope(|scope| {
        for (sent, status) in &cases {
            let running = &running;
            scope.spawn(move || {
                let answer = running.raw(sent);
                assert_eq!(answer.status, *status, "{sent}");
                assert_eq!(answer.header("connection"), Some("close"), "{sent}");
                assert!(answer.json()["detail"].is_string());
            });
        }
    });
}

/// Protects readers from a state older than they asked for without being told, and from waiting
/// for what can't come.
#[test]
fn a_read_waits_for_its_position_and_says_whether_it_has_it() {
    let running = start(ApiOptions {
        wait_limit: Duration::from_millis(50),
        ..options()
    });
    let first = running.post(VIEW).json();
    running.log.set_unreadable(Some(ReadError::Unavailable(
        "as the test wants it".to_owned(),
    )));
    let late = running.post(VIEW).json();
    assert_eq!(
        (&late["visible"], &late["outcome"]),
        (&Value::Bool(false), &Value::Null)
    );
    let token = late["position"].as_str().unwrap();
    let behind = running.at_least(token);
    assert_eq!(
        (behind.status, &behind.json()["visible"]),
        (200, &Value::Bool(false))
    );
    assert_eq!(
        behind.json()["position"],
        first["position"],
        "as of which position it is"
    );
    running.log.set_unreadable(None);
    let there = std::iter::repeat_with(|| running.at_least(token).json());
    let there = there
        .take(200)
        .find(|state| state["visible"] == true)
        .unwrap();
    assert_eq!(
        (&there["counters"]["views"], &there["position"]),
        (&2.into(), &late["position"])
    );

    let log = running.log.arc().identity().id;
    let home = Resource::new(ResourceType::Quest, 42).unwrap().partition(4);
    let token = |log, partition, offset| {
        let position = tally_domain::Position { partition, offset };
        PositionToken::new(log, position).to_string()
    };
    let refused = [
        (token(log, home, 2), "past the end"),
        (token(log, home, u64::MAX), "past the end"),
        (token(log, (home + 1) % 4, 0), "another partition"),
        (token(tally_domain::LogId::now_v7(), home, 0), "another log"),
        ("x".to_owned(), "not a position"),
        (String::new(), "not a position"),
    ];
    for (token, why) in refused {
        let answer = running.at_least(&token);
        assert_eq!(answer.status, 400, "{token}");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(why), "{detail}");
    }
}

/// Protects pages of the origins that were named, and others' data from other pages.
#[test]
fn preflights_are_answered_as_the_policy_says() {
    let page = "https://app.example.com";
    let running = start(ApiOptions {
        cors_origins: vec![page.to_owned()],
        ..options()
    });
    let ask = |origin: &str| {
        let headers = format!(
            "Origin: {origin}\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization,idempotency-key\r\n"
        );
        running.send("OPTIONS", INTERACT, &headers, "")
    };
    let allowed = ask(page);
    assert_eq!(allowed.status, 200);
    assert_eq!(allowed.header("access-control-allow-origin"), Some(page));
    assert!(allowed.header("x-request-id").is_some());
    let refused = ask("https://evil.example.com");
    assert_eq!(
        (
            refused.status,
            refused.header("access-control-allow-origin")
        ),
        (400, None)
    );
    assert!(refused.json()["detail"].is_string() && refused.header("x-request-id").is_some());
    let plain = running.send("OPTIONS", INTERACT, "", "");
    assert_eq!(
        (plain.status, plain.header("allow")),
        (204, Some("POST, OPTIONS"))
    );
}
