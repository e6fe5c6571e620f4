//! Everything is bounded, says so, and can be seen.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::TcpStream;

use tally_tests::http::Connection;
use tally_tests::load::Load;
use tally_tests::server::{INTERACT, LOCAL_KEY, interaction_request, resource_path};
use tally_tests::{Folder, Request, wait};

#[test]
fn a_body_that_does_not_come_in_time_is_408() {
    let server = Folder::new()
        .with("TALLY__API__BODY_TIMEOUT", "200ms")
        .start();
    let head = Request::post(INTERACT)
        .bearer(LOCAL_KEY)
        .header("Content-Type", "application/json");
    let whole = head.clone().body("{\"resource_type\":").bytes(server.api());
    let mut half = whole.clone();
    half.truncate(whole.len() - 4);
    let chunked = head
        .header("Transfer-Encoding", "chunked")
        .bytes(server.api());
    let some = [chunked.as_slice(), b"4\r\n{\"re\r\n"].concat();
    for sent in [half, chunked, some] {
        let mut connection = Connection::open(server.api()).expect("it listens");
        connection.write(&sent).expect("it reads");
        let answer = connection.read(false).expect("an answer");
        let expected = r#"{"detail":"Request was not received in time."}"#;
        assert_eq!((answer.status, answer.text().as_str()), (408, expected));
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(answer.header("x-request-id").is_some());
        assert!(
            connection.closed().expect("an end"),
            "the connection is of no more use"
        );
    }
}

/// Whether a 408 is said or not, a client that sends no head holds its connection only so long.
#[test]
fn a_head_that_does_not_come_in_time_ends_the_connection() {
    let server = Folder::new()
        .with("TALLY__API__HEAD_TIMEOUT", "200ms")
        .start();
    for sent in [
        "",
        "POST /api/v1/metrics/interact/ HTTP/1.1\r\nHost: a\r\nX-Slow:",
    ] {
        let mut stream = TcpStream::connect(server.api()).expect("it listens");
        stream
            .set_read_timeout(Some(wait::DEADLINE))
            .expect("a timeout");
        std::io::Write::write_all(&mut stream, sent.as_bytes()).expect("it reads");
        let mut answer = Vec::new();
        stream
            .read_to_end(&mut answer)
            .expect("an end, not a time-out of the test");
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 408 "),
            "{answer}"
        );
    }
}

#[test]
fn what_is_no_http_is_refused_and_others_go_on() {
    let server = Folder::new().start();
    let long_header = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(1 << 20));
    let many_headers = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(10_000));
    let smuggled = "POST /api/v1/metrics/interact/ HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    for sent in [
        "nonsense\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        &long_header,
        &many_headers,
        smuggled,
    ] {
        let mut connection = Connection::open(server.api()).expect("it listens");
        // It may close before it has read all.
        let _ = connection.write(sent.as_bytes());
        if let Ok(answer) = connection.read(false) {
            assert!((400..500).contains(&answer.status), "{}", answer.status);
        }
        assert_eq!(server.interact("quest", 42, "view").status, 200);
    }
}

#[test]
fn past_the_bound_of_waiters_it_is_503_and_nothing_is_recorded() {
    let folder = Folder::new().with("TALLY__PROJECTOR__MAX_WAITERS", 1);
    let server = folder.start();
    let mut acknowledged = 0;
    wait::until("a refusal", || {
        let load = Load::start(server.api(), 32);
        wait::until("answers", || (load.answered() >= 500).then_some(()));
        let told = load.stop();
        acknowledged += told.acknowledged.len();
        let conflicts = told
            .refused
            .iter()
            .filter(|(status, _)| *status == 422)
            .count();
        acknowledged += conflicts;
        let unavailable = told.refused.into_iter().find(|(status, _)| *status != 422);
        unavailable.map(|(status, body)| {
            assert_eq!(status, 503, "{body}");
            assert!(body.contains(r#""code":"unavailable""#), "{body}");
        })
    });
    let records = folder.run(&["log", "cat"]).ok().lines().count();
    assert_eq!(records, acknowledged, "a refused request is not in the log");
    assert_eq!(
        server.interact("quest", 42, "view").status,
        200,
        "it recovers at once"
    );
}

/// A 503 says when to come back.
#[test]
fn a_refusal_for_now_says_when_to_retry() {
    let folder = Folder::new().with("TALLY__PROJECTOR__MAX_WAITERS", 1);
    let server = folder.start();
    let answer = wait::until("a 503", || {
        let send = || interaction_request("quest", 42, "view").send(server.api());
        let answers = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..32).map(|_| scope.spawn(send)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("an answer"))
                .collect::<Vec<_>>()
        });
        answers.into_iter().find(|answer| answer.status == 503)
    });
    let seconds = answer
        .header("retry-after")
        .and_then(|text| text.parse::<u32>().ok());
    assert!(seconds.is_some_and(|seconds| seconds >= 1), "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
}

#[test]
fn past_the_bound_of_connections_a_client_waits_its_turn() {
    let folder = Folder::new()
        .with("TALLY__API__WORKERS", 1)
        .with("TALLY__API__MAX_CONNECTIONS", 2);
    let server = folder.start();
    let view = interaction_request("quest", 42, "view");
    let mut held: Vec<Connection> = (0..2)
        .map(|_| Connection::open(server.api()).expect("it listens"))
        .collect();
    for connection in &mut held {
        assert_eq!(connection.send(&view).expect("an answer").status, 200);
    }
    // The system takes it; the server does not.
    let mut third = TcpStream::connect(server.api()).expect("it listens");
    std::io::Write::write_all(&mut third, &view.bytes(server.api())).expect("the system reads");
    for _ in 0..50 {
        for connection in &mut held {
            assert_eq!(connection.send(&view).expect("an answer").status, 200);
        }
    }
    third.set_nonblocking(true).expect("a socket");
    let none = third.read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(
        none,
        Err(std::io::ErrorKind::WouldBlock),
        "a third is not served"
    );
    let views = server.ready().status;
    assert_eq!(views, 200, "the management listener is not affected");
    drop(held);
    third.set_nonblocking(false).expect("a socket");
    third
        .set_read_timeout(Some(wait::DEADLINE))
        .expect("a timeout");
    let mut start = [0; 12];
    third.read_exact(&mut start).expect("an answer");
    assert_eq!(&start, b"HTTP/1.1 200");
}

#[test]
fn metrics_have_names_units_and_help_as_prometheus_wants_them() {
    let server = Folder::new().start();
    assert_eq!(server.interact("quest", 42, "view").status, 200);
    let metrics = server.metrics();
    let has = |start: &str| metrics.types.keys().any(|name| name.starts_with(start));
    for part in ["process_", "tally_http_", "tally_log_", "tally_projector_"] {
        assert!(has(part), "nothing of {part}*: {:?}", metrics.types.keys());
    }
    for (name, kind) in &metrics.types {
        assert!(!metrics.help[name].is_empty(), "{name} has no help");
        if name.starts_with("process_") {
            continue;
        }
        assert!(name.starts_with("tally_"), "{name}");
        assert_eq!(
            kind == "counter",
            name.ends_with("_total"),
            "{name} is a {kind}"
        );
        for unit in [
            "_ms",
            "_millis",
            "_milliseconds",
            "_us",
            "_micros",
            "_kb",
            "_mb",
            "_minutes",
            "_percent",
        ] {
            assert!(
                !name.trim_end_matches("_total").ends_with(unit),
                "{name}: base units"
            );
        }
    }
    assert_eq!(
        metrics.sum("tally_projector_events_total", &[r#"outcome="applied""#]),
        1.0
    );
    let content = Request::get("/metrics").send(server.management());
    let kind = content.header("content-type").unwrap_or_default();
    assert!(kind.starts_with("text/plain"), "{kind}");
}

/// Whatever clients send, the number of series stays.
#[test]
fn no_client_can_make_series() {
    let folder = Folder::new().with("TALLY__CATALOGUE__MODE", "open");
    let server = folder.start();
    let provoke = |from: u64| {
        for n in from..from + 20 {
            let to = server.api();
            let _ = server.interact("quest", n, "like").status;
            let _ = server.resource("podcast", n).status;
            let paths = [
                format!("/random/{n}"),
                resource_path("nonsense", n),
                format!("{INTERACT}{n}"),
            ];
            for path in paths {
                let _ = Request::get(&path).send(to).status;
                let _ = Request::new(&format!("M{n}"), &path).send(to).status;
            }
            let key = format!("key-{n}");
            let _ = Request::new(&format!("N{n}"), INTERACT)
                .bearer(&key)
                .send(to)
                .status;
            let _ = Request::post(INTERACT)
                .bearer(LOCAL_KEY)
                .json("{")
                .send(to)
                .status;
            let odd = Request::post(INTERACT)
                .bearer(LOCAL_KEY)
                .header("Content-Type", format!("a/{n}"));
            let _ = odd.body("{}").send(to).status;
            let _ = Request::get(&format!("/random/{n}"))
                .send(server.management())
                .status;
        }
    };
    provoke(1_000_000);
    let before: BTreeSet<String> = server.metrics().series.into_keys().collect();
    provoke(2_000_000);
    let metrics = server.metrics();
    let after: BTreeSet<String> = metrics.series.keys().cloned().collect();
    let new: Vec<_> = after.difference(&before).collect();
    assert!(new.is_empty(), "new series: {new:?}");
    assert!(after.len() < 1_500, "{} series", after.len());
    for (label, values) in metrics.labels() {
        let known = !["resource_id", "id", "user", "key", "path", "ip"].contains(&label.as_str());
        assert!(known, "label {label}");
        let bounded = values.len() <= 64 && values.iter().all(|value| !value.contains("00000"));
        assert!(bounded, "label {label}: {values:?}");
    }
}

#[test]
fn the_management_listener_says_how_it_is() {
    let server = Folder::new().start();
    let live = Request::get("/livez").send(server.management());
    assert_eq!(live.status, 200);
    let ready = server.ready();
    assert_eq!(
        (ready.status, ready.text().as_str()),
        (200, r#"{"status":"ready"}"#)
    );
    assert_eq!(ready.header("content-type"), Some("application/json"));
    assert_eq!(
        Request::get("/nowhere").send(server.management()).status,
        404
    );
    assert_eq!(Request::get("/livez").send(server.api()).status, 404);
}
