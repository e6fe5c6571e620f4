//! Clients that mean harm, or might: requests that two servers would read differently, bodies that hide
//! another request, clients that are slow, many, or never read.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tally_tests::http::Connection;
use tally_tests::server::{INTERACT, LOCAL_KEY, interaction_request, resource_path};
use tally_tests::{Folder, Request, Response, Server, wait};

const VIEW: &str = r#"{"resource_type":"quest","resource_id":42,"interaction_type":"view"}"#;
/// What a dribbling client waits between two bytes, by waiting for an answer that long.
const DRIBBLE: Duration = Duration::from_millis(20);

/// A server whose connections end soon where nothing more comes.
fn server() -> Server {
    Folder::new().with("TALLY__API__KEEP_ALIVE", "1s").start()
}

/// The start of an interaction of user `1`, up to and with `headers`; each line ends in a line end.
fn post(headers: &str) -> String {
    format!(
        "POST {INTERACT} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {LOCAL_KEY}\r\nContent-Type: application/json\r\n{headers}\r\n"
    )
}

/// A whole request, recognised in its answer, after which the connection ends.
fn hidden() -> String {
    let path = resource_path("quest", 42);
    format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {LOCAL_KEY}\r\nX-Request-Id: hidden\r\nConnection: close\r\n\r\n"
    )
}

fn chunked(body: &str) -> String {
    format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
}

/// Sends all, and reads answers until the server ends the connection.
fn exchange(server: &Server, sent: &str) -> Vec<Response> {
    let mut connection = Connection::open(server.api()).expect("it listens");
    // It may close before it has read all.
    let _ = connection.write(sent.as_bytes());
    let mut answers = Vec::new();
    loop {
        match connection.read(false) {
            Ok(answer) => answers.push(answer),
            Err(error) => {
                let waited = [ErrorKind::WouldBlock, ErrorKind::TimedOut];
                assert!(!waited.contains(&error.kind()), "no end after: {sent:?}");
                return answers;
            }
        }
    }
}

fn statuses(answers: &[Response]) -> Vec<u16> {
    answers.iter().map(|answer| answer.status).collect()
}

fn shows_hidden(answers: &[Response]) -> bool {
    let id = |answer: &Response| answer.header("x-request-id") == Some("hidden");
    answers.iter().any(id)
}

/// Lengths and encodings that two servers may read differently, each before the same body.
fn framed_twice() -> Vec<String> {
    let (length, whole) = (VIEW.len(), chunked(VIEW));
    let lengths = [
        format!("{length}\r\nTransfer-Encoding: chunked"),
        format!("{length}\r\nContent-Length: {length}"),
        format!("0\r\nContent-Length: {length}"),
        format!("{length}, {length}"),
        format!("+{length}"),
        "-1".to_owned(),
        "0x44".to_owned(),
        "6 8".to_owned(),
        "6\u{b}8".to_owned(),
        String::new(),
        "99999999999999999999999".to_owned(),
        format!("{length}\r\n 0"),
        format!("{length}\0"),
    ];
    let mut cases: Vec<_> = lengths
        .iter()
        .map(|length| post(&format!("Content-Length: {length}\r\n")) + VIEW)
        .collect();
    let encodings = [
        "xchunked",
        "chunked, identity",
        "identity, chunked",
        "identity",
        "chunked, chunked",
        "chunked;q=1",
        "\"chunked\"",
        "\u{b}chunked",
        "chunked\0",
        "gzip, chunked",
        "chunked\r\nTransfer-Encoding: identity",
        "chunked\r\nTransfer-Encoding: chunked",
        "chunked\r\nContent-Length: 4",
        "\r\n chunked",
    ];
    let encoded = |encoding| post(&format!("Transfer-Encoding: {encoding}\r\n")) + &whole;
    cases.extend(encodings.map(encoded));
    cases
}

/// The same of chunks, and of what stands around them.
fn garbled() -> Vec<String> {
    let (length, whole) = (VIEW.len(), chunked(VIEW));
    let in_chunks = post("Transfer-Encoding: chunked\r\n");
    let bodies = [
        format!("{length:x}\n{VIEW}\n0\n\n"),
        format!("{length:x};a\nb\r\n{VIEW}\r\n0\r\n\r\n"),
        format!("{length:x}\r\n{VIEW}xx0\r\n\r\n"),
        format!("0x{length:x}\r\n{VIEW}\r\n0\r\n\r\n"),
        format!("-1\r\n{VIEW}\r\n0\r\n\r\n"),
        format!("fffffffffffffff{length:x}\r\n{VIEW}\r\n0\r\n\r\n"),
        format!(" {length:x}\r\n{VIEW}\r\n0\r\n\r\n"),
    ];
    let mut cases: Vec<_> = bodies
        .into_iter()
        .map(|body| in_chunks.clone() + &body)
        .collect();
    let by_length = |more: &str| post(&format!("{more}Content-Length: {length}\r\n")) + VIEW;
    cases.extend([
        by_length("X: a\r\n b\r\n"),
        by_length("X: a\rY: b\r\n"),
        by_length("X: a\0b\r\n"),
        by_length("X\0: b\r\n"),
        by_length("X : b\r\n"),
        by_length("Host: b\r\n"),
        by_length("no colon\r\n"),
        post(&format!("Content-Length : {length}\r\n")) + VIEW,
        post("Transfer-Encoding : chunked\r\n") + &whole,
        (in_chunks.clone() + &whole).replacen("HTTP/1.1", "HTTP/1.0", 1),
        by_length("").replacen("Host: a\r\n", "", 1),
        by_length("").replacen("/ HTTP/1.1", "\u{1}/ HTTP/1.1", 1),
        by_length("").replacen("/ HTTP/1.1", "/ HTTP/1.1 HTTP/1.1", 1),
        by_length("").replacen("POST /", "POST\t/", 1),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
    ]);
    cases
}

/// Protects whoever shares a connection through a proxy: where two servers may disagree about where a
/// request ends, this one answers once, with a refusal, and looks at nothing behind it.
#[test]
fn a_request_that_can_be_read_in_two_ways_is_refused_with_all_behind_it() {
    let server = server();
    for case in framed_twice().into_iter().chain(garbled()) {
        let answers = exchange(&server, &(case.clone() + &hidden()));
        assert!(!shows_hidden(&answers), "{case:?}: {answers:?}");
        let refused = matches!(statuses(&answers)[..], [] | [400 | 413]);
        assert!(refused, "{case:?}: {:?}", statuses(&answers));
    }
    let state = server.resource("quest", 42).ok();
    assert_eq!(state["counters"]["views"], 0, "nothing of it is recorded");
    let said = server.output();
    assert!(!said.contains("ERROR"), "clients fill the log: {said}");
}

/// Protects clients that are right: odd, but one way to read it.
#[test]
fn a_request_that_is_only_odd_is_answered_and_so_is_the_next() {
    let server = server();
    let length = VIEW.len();
    let in_chunks = post("Transfer-Encoding: chunked\r\n");
    let cases = [
        post(&format!("Content-Length:\t {length}  \r\n")) + VIEW,
        post(&format!("Content-Length: 000{length}\r\n")) + VIEW,
        post("Transfer-Encoding: CHUNKED\r\n") + &chunked(VIEW),
        format!("{in_chunks}{length:X};name=value\r\n{VIEW}\r\n000\r\n\r\n"),
        format!("{in_chunks}{length:x}\r\n{VIEW}\r\n0\r\nX-Trailer: y\r\n\r\n"),
        format!(
            "\r\n\r\n{}{VIEW}",
            post(&format!("Content-Length: {length}\r\n"))
        ),
        post(&format!("Content-Length: {length}\r\n")).replacen(
            "POST /",
            "POST http://elsewhere.example/",
            1,
        ) + VIEW,
    ];
    for (number, case) in (1..).zip(&cases) {
        let answers = exchange(&server, &(case.clone() + &hidden()));
        assert_eq!(statuses(&answers), [200, 200], "{case:?}");
        assert!(shows_hidden(&answers));
        assert_eq!(answers[1].json()["counters"]["views"], number, "{case:?}");
    }
}

/// Protects users from each other: what stands in a body is a body, also where nobody reads it, and a
/// credential behind one lets nobody in.
#[test]
fn a_request_in_a_body_is_never_answered() {
    let server = server();
    let inner = hidden();
    let length = inner.len();
    let nobody = |headers: &str| {
        let head = post(headers);
        head.replacen(&format!("Authorization: Bearer {LOCAL_KEY}\r\n"), "", 1)
    };
    let by_length = format!("Content-Length: {length}\r\n");
    let in_chunks = "Transfer-Encoding: chunked\r\n";
    let upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\n";
    let cases = [
        (post(&by_length) + &inner, 400),
        (post(in_chunks) + &chunked(&inner), 400),
        (nobody(&by_length) + &inner, 401),
        (nobody(in_chunks) + &chunked(&inner), 401),
        (
            post(&by_length).replacen("interact", "nowhere", 1) + &inner,
            404,
        ),
        (post(&by_length).replacen("POST", "PUT", 1) + &inner, 405),
        (post("Content-Length: 70000\r\n") + &inner.repeat(200), 413),
        (
            post(upgrade).replacen(INTERACT, "/nowhere", 1) + &inner,
            404,
        ),
        (
            format!("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n{inner}"),
            404,
        ),
    ];
    for (case, status) in cases {
        let answers = exchange(&server, &case);
        assert_eq!(statuses(&answers), [status], "{case:.120}");
        assert!(!shows_hidden(&answers), "{case:.120}");
    }
    let trailer = format!("Authorization: Bearer {LOCAL_KEY}\r\n");
    let trailing =
        nobody(in_chunks) + &chunked(VIEW).replacen("0\r\n\r\n", &format!("0\r\n{trailer}\r\n"), 1);
    let answers = exchange(&server, &(trailing + &hidden()));
    assert_eq!(statuses(&answers)[0], 401, "a trailer is no credential");
    assert_eq!(server.resource("quest", 42).ok()["counters"]["views"], 0);
}

/// Sends byte after byte until an answer or the end comes; how long that took, and its first bytes.
fn dribble(server: &Server, start: &str) -> (Duration, String) {
    let started = Instant::now();
    let mut stream = TcpStream::connect(server.api()).expect("it listens");
    stream.set_read_timeout(Some(DRIBBLE)).expect("a timeout");
    stream.write_all(start.as_bytes()).expect("it reads");
    let mut answer = [0; 12];
    loop {
        assert!(started.elapsed() < wait::DEADLINE, "it reads for ever");
        match stream.read(&mut answer) {
            Ok(read) => {
                let read = String::from_utf8_lossy(&answer[..read]).into_owned();
                return (started.elapsed(), read);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                // It may have ended just now: the next read says so.
                let _ = stream.write_all(b" ");
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                return (started.elapsed(), String::new());
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Protects connections from clients that always send a little: limits are of the whole head and the
/// whole body, not of the time since the last byte. Others are served meanwhile.
#[test]
fn bytes_that_dribble_in_extend_no_limit() {
    let limit = Duration::from_millis(500);
    let server = Folder::new()
        .with("TALLY__API__HEAD_TIMEOUT", "500ms")
        .with("TALLY__API__BODY_TIMEOUT", "500ms")
        .start();
    let starts = [
        "GET / HTTP/1.1\r\nX-Slow: ".to_owned(),
        post("Content-Length: 60000\r\n"),
        post("Transfer-Encoding: chunked\r\n") + "ea60\r\n",
    ];
    std::thread::scope(|scope| {
        for start in &starts {
            for _ in 0..20 {
                scope.spawn(|| {
                    let (took, answer) = dribble(&server, start);
                    assert!(answer.is_empty() || answer == "HTTP/1.1 408", "{answer}");
                    assert!(took > limit / 2, "{took:?} is too soon");
                    assert!(took < wait::DEADLINE / 2, "{took:?}");
                });
            }
        }
        for _ in 0..50 {
            assert_eq!(server.interact("quest", 42, "view").status, 200);
        }
    });
}

/// Protects pipelining clients: answers come in the order of requests, whatever each of them costs.
#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let server = Folder::new().start();
    let mut sent = Vec::new();
    for number in 0..200 {
        let request = match number % 4 {
            0 => interaction_request("quest", 42, "view"),
            1 => Request::get(&resource_path("quest", 42)).bearer(LOCAL_KEY),
            2 => Request::get("/nowhere"),
            _ => Request::get("/openapi.json"),
        };
        let request = request.header("X-Request-Id", format!("r{number}"));
        sent.extend(request.bytes(server.api()));
    }
    let mut connection = Connection::open(server.api()).expect("it listens");
    connection.write(&sent).expect("it reads");
    for number in 0..200 {
        let answer = connection.read(false).expect("an answer");
        let expected = format!("r{number}");
        assert_eq!(answer.header("x-request-id"), Some(expected.as_str()));
        assert_eq!(answer.status, if number % 4 == 2 { 404 } else { 200 });
    }
    assert_eq!(server.resource("quest", 42).ok()["counters"]["views"], 50);
}

/// Protects memory from clients that ask and never read: the server stops reading them, holds a
/// bounded amount for each, and serves the others. The amount is actix-web's: it makes requests of all
/// that one read buffer of 128 KiB holds before it looks whether anybody takes the answers.
#[test]
fn a_client_that_never_reads_is_held_up_and_costs_little() {
    const CLIENTS: usize = 8;
    const EACH: u64 = 32 << 20;
    let server = Folder::new().start();
    let ask = Request::get("/openapi.json")
        .bytes(server.api())
        .repeat(500);
    let stuff = |_| {
        let mut stream = TcpStream::connect(server.api()).expect("it listens");
        stream
            .set_write_timeout(Some(Duration::from_millis(500)))
            .expect("a timeout");
        // Until the system takes no more of it: then the server does not read any more.
        let bounded = (0..2_000).any(|_| stream.write_all(&ask).is_err());
        assert!(bounded, "it reads on without an end");
        stream
    };
    let mut held: Vec<_> = (0..2).map(stuff).collect();
    let before = server.resident_bytes();
    held.extend(std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CLIENTS)
            .map(|n| scope.spawn(move || stuff(n)))
            .collect();
        let join =
            |thread: std::thread::ScopedJoinHandle<'_, TcpStream>| thread.join().expect("held");
        threads.into_iter().map(join).collect::<Vec<_>>()
    }));
    let each = server.resident_bytes().saturating_sub(before) / CLIENTS as u64;
    println!("{each} bytes for each client that never reads");
    assert!(each < EACH, "{each} bytes each");
    assert_eq!(server.interact("quest", 42, "view").status, 200);
}

/// Raises how many files may be open to what is allowed, and says how many that is.
fn files_allowed() -> u64 {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, all).expect("the hard limit is allowed");
    maximum.unwrap_or(u64::MAX)
}

/// Protects everybody else from ten thousand clients that hold a connection and do nothing.
#[test]
fn ten_thousand_idle_connections_cost_little_and_hold_up_nobody() {
    // Each connection is a file here and one in the server, which inherits the limit.
    let many = files_allowed().saturating_sub(500).min(10_000);
    let many = usize::try_from(many).expect("a number");
    let folder = Folder::new()
        .with("TALLY__API__MAX_CONNECTIONS", 2 * many)
        .with("TALLY__API__HEAD_TIMEOUT", "10m")
        .with("TALLY__API__KEEP_ALIVE", "1h");
    let server = folder.start();
    let view = interaction_request("quest", 42, "view");
    assert_eq!(view.send(server.api()).status, 200);
    let before = server.resident_bytes();
    // Every second one has been of use before; the others never said a word.
    let mut held = Vec::with_capacity(many);
    for number in 0..many {
        let mut connection = Connection::open(server.api()).expect("there is room");
        if number % 2 == 0 {
            assert_eq!(connection.send(&view).expect("an answer").status, 200);
        }
        held.push(connection);
    }
    let each = server.resident_bytes().saturating_sub(before) / many as u64;
    let started = Instant::now();
    for _ in 0..200 {
        assert_eq!(view.send(server.api()).status, 200);
    }
    let took = started.elapsed() / 200;
    println!(
        "{many} idle connections (10,000 wanted), {each} bytes each; a request takes {took:?}"
    );
    assert!(each < 64 << 10, "{each} bytes each");
    assert!(took < Duration::from_secs(1), "{took:?} for a request");
    assert_eq!(server.ready().status, 200);
    // The oldest and the newest still work.
    for at in [0, many - 1] {
        assert_eq!(held[at].send(&view).expect("an answer").status, 200);
    }
}

/// Protects time and memory from JSON that is small to send and large to read.
#[test]
fn extremes_of_json_are_answered_at_once() {
    let server = Folder::new().start();
    let numbered = |count: usize, name: &dyn Fn(usize) -> String| {
        let fields: Vec<_> = (0..count).map(|n| format!("\"{}\":0", name(n))).collect();
        format!("{{{},{}", fields.join(","), VIEW.trim_start_matches('{'))
    };
    let with = |value: &str| format!("{{\"x\":{value},{}", VIEW.trim_start_matches('{'));
    let nested = |depth: usize| with(&("[".repeat(depth) + &"]".repeat(depth)));
    let cases = [
        (numbered(6_000, &|n| format!("n{n}")), 200),
        (
            numbered(4_000, &|n| format!("\\u00{:02x}{n}", 0x41 + n % 26)),
            200,
        ),
        (numbered(1, &|_| "n".repeat(64_000)), 200),
        (with(&"9".repeat(64_000)), 200),
        (with(&format!("1e{}", "9".repeat(64_000))), 200),
        (with(&format!("\"{}\"", "\\u0000".repeat(10_000))), 200),
        (nested(63), 200),
        (nested(64), 400),
        (nested(32_000), 400),
        (with(&"{\"\":".repeat(12_000)), 400),
        (numbered(3_000, &|n| format!("n{}", n % 2_999)), 400),
        (VIEW.replace("42", &"4".repeat(64_000)), 400),
    ];
    for (body, status) in &cases {
        let started = Instant::now();
        let answer = Request::post(INTERACT)
            .bearer(LOCAL_KEY)
            .json(body)
            .send(server.api());
        assert_eq!(answer.status, *status, "{body:.80}: {:.200}", answer.text());
        assert!(answer.body.len() < 1_000, "{body:.80}: a long answer");
        assert!(started.elapsed() < Duration::from_secs(5), "{body:.80}");
    }
}
