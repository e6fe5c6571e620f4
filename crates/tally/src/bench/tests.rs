//! Runs against a scripted server: what the ledger and the figures say when answers are odd.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use clap::Parser;
use serde_json::Value;

use super::target::{self, Address};
use super::*;

const ACCEPTED: &str = r#"{"outcome":"applied","visible":true,"event_id":"e","position":"p"}"#;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    bench: BenchArgs,
}

/// What the server does with a request.
#[derive(Clone, Copy)]
enum Reply {
    Answer(u16, &'static str),
    /// Closes the connection with the request read and nothing said.
    HangUp,
    /// Closes it in the middle of the answer.
    HalfAnswer,
}

/// A server that replies to the nth request as `script` says, and keeps what it was sent.
struct Scripted {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    fn start(script: fn(usize) -> Reply) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let kept = Arc::clone(&kept);
                std::thread::spawn(move || serve(stream.unwrap(), script, &kept));
            }
        });
        Self { address, requests }
    }

    fn keys(&self) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        let key = |request: &String| {
            let line = request
                .lines()
                .find_map(|line| line.strip_prefix("Idempotency-Key: "));
            line.unwrap_or("none").to_owned()
        };
        requests.iter().map(key).collect()
    }

    /// Runs the bench on it with one user, and returns its report and the ledger's lines.
    fn bench(&self, options: &[&str]) -> (report::Report, Vec<Value>) {
        let folder = tempfile::tempdir().unwrap();
        let ledger = folder.path().join("ledger");
        let report = self.bench_into(options, &ledger);
        let text = std::fs::read_to_string(&ledger).unwrap();
        let lines = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        (report, lines)
    }

    fn bench_into(&self, options: &[&str], ledger: &Path) -> report::Report {
        let fixed = [
            "bench",
            "-c",
            "1",
            "--threads",
            "1",
            "--resource",
            "quest:42",
            "--ledger",
        ];
        let words = fixed.iter().map(std::ffi::OsStr::new);
        let words = words.chain([ledger.as_os_str()]);
        let words = words.chain(options.iter().map(std::ffi::OsStr::new));
        let args = Cli::try_parse_from(words).unwrap().bench;
        let users = [User {
            name: Some("anna".into()),
            credential: "k".into(),
        }];
        let address = Address {
            socket: self.address,
            host: self.address.to_string(),
        };
        let ledger = args
            .ledger
            .as_deref()
            .map(|path| Ledger::open(path).unwrap());
        let resources = target::resources(&args).unwrap();
        let plan = plan(&args, &address, &users, resources, ledger).unwrap();
        conduct::conduct(&args, &Arc::new(plan), None, &address).unwrap()
    }
}

fn serve(mut stream: TcpStream, script: fn(usize) -> Reply, kept: &Mutex<Vec<String>>) {
    let mut buffer = [0_u8; 4096];
    let mut read = 0;
    loop {
        match stream.read(&mut buffer[read..]) {
            Ok(0) | Err(_) => return,
            Ok(bytes) => read += bytes,
        }
        // The load never sends two requests at once, and its bodies end in a brace.
        if buffer[read - 1] != b'}' {
            continue;
        }
        let request = String::from_utf8_lossy(&buffer[..read]).into_owned();
        read = 0;
        let place = {
            let mut kept = kept.lock().unwrap();
            kept.push(request);
            kept.len() - 1
        };
        let (status, body, cut) = match script(place) {
            Reply::Answer(status, body) => (status, body, 0),
            Reply::HangUp => return,
            Reply::HalfAnswer => (200, ACCEPTED, 10),
        };
        let length = body.len();
        let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{body}");
        let whole = answer.len();
        stream.write_all(&answer.as_bytes()[..whole - cut]).unwrap();
        if cut > 0 {
            return;
        }
    }
}

/// Protects the ledger's main promise: a line per acknowledged interaction, with what was sent
/// and what was answered; and that `--requests` sends exactly so many.
#[test]
fn every_acknowledged_interaction_has_a_line() {
    let server = Scripted::start(|_| Reply::Answer(200, ACCEPTED));
    let (report, lines) = server.bench(&["--requests", "20"]);
    assert!(report.as_expected, "{report}");
    assert_eq!((report.acknowledged, lines.len()), (20, 20));
    assert_eq!(report.latency_us.count, 20);
    for (line, request) in lines.iter().zip(server.requests.lock().unwrap().iter()) {
        assert_eq!(line["acknowledged"], true);
        assert_eq!(line["user"], "anna");
        assert_eq!(line["event_id"], "e");
        let kind = line["interaction_type"].as_str().unwrap();
        let body =
            format!(r#"{{"resource_type":"quest","resource_id":42,"interaction_type":"{kind}"}}"#);
        assert!(request.ends_with(&body), "{request}");
    }
}

/// Protects the retry: a connection lost before or in the middle of the answer is tried again
/// under the same key, and is one line in the ledger.
#[test]
fn a_lost_answer_is_asked_for_again_under_the_same_key() {
    let server = Scripted::start(|place| match place {
        0 => Reply::HangUp,
        1 => Reply::HalfAnswer,
        2 => Reply::Answer(503, r#"{"detail":"x","code":"fate_unknown"}"#),
        _ => Reply::Answer(200, ACCEPTED),
    });
    let (report, lines) = server.bench(&[
        "--requests",
        "2",
        "--idempotency-keys",
        "--tolerate-disconnects",
    ]);
    let keys = server.keys();
    assert_eq!(keys.len(), 5, "{keys:?}");
    assert!(keys[..4].iter().all(|key| key == &keys[0]), "{keys:?}");
    assert_ne!(keys[4], keys[0]);
    assert_eq!(
        (report.acknowledged, report.retries, report.fate_unknown),
        (2, 3, 0)
    );
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["idempotency_key"], keys[0].as_str());
}

/// Protects the line between "may be in the log" and "is not": only the former has a line, and
/// none is sent twice without a key.
#[test]
fn without_a_key_a_lost_answer_is_a_line_that_says_so() {
    let server = Scripted::start(|place| match place {
        0 => Reply::HangUp,
        1 => Reply::HalfAnswer,
        2 => Reply::Answer(503, r#"{"detail":"x","code":"fate_unknown"}"#),
        3 => Reply::Answer(503, r#"{"detail":"x","code":"unavailable"}"#),
        4 => Reply::Answer(500, r#"{"detail":"x","code":"internal"}"#),
        5 => Reply::Answer(404, r#"{"detail":"Not found."}"#),
        _ => Reply::Answer(200, ACCEPTED),
    });
    let (report, lines) = server.bench(&["--requests", "7"]);
    let acknowledged: Vec<bool> = lines
        .iter()
        .map(|line| line["acknowledged"].as_bool().unwrap())
        .collect();
    assert_eq!(acknowledged, [false, false, false, false, true]);
    assert_eq!(server.keys(), ["none"; 7]);
    assert_eq!(
        (report.fate_unknown, report.refused, report.acknowledged),
        (4, 1, 1)
    );
    assert!(!report.as_expected);
}

/// Protects the bound on retries: a server that always refuses ends the run as a failure.
#[test]
fn retries_end() {
    let server = Scripted::start(|_| Reply::Answer(503, r#"{"detail":"x","code":"unavailable"}"#));
    let (report, lines) =
        server.bench(&["--requests", "1", "--idempotency-keys", "--retries", "2"]);
    assert_eq!(server.keys().len(), 3);
    assert_eq!((report.refused, report.retries, lines.len()), (1, 2, 0));
    assert!(!report.as_expected);
}

/// Protects the exit code: an answer that should not be makes the run a failure, and is shown.
#[test]
fn an_unexpected_answer_fails_the_run() {
    let server = Scripted::start(|place| match place {
        3 => Reply::Answer(401, r#"{"detail":"Invalid API key."}"#),
        _ => Reply::Answer(200, ACCEPTED),
    });
    let (report, _) = server.bench(&["--requests", "10"]);
    assert!(!report.as_expected);
    let shown: Vec<&String> = report.unexpected.keys().collect();
    assert_eq!(shown, [r#"401 {"detail":"Invalid API key."}"#]);
    assert_eq!(report.statuses.get(&200), Some(&9));
}

/// Protects the open loop: starts that came due are sent, all of them, and no more; and a start
/// is measured from when it was due.
#[test]
fn the_open_loop_sends_what_is_due() {
    let server = Scripted::start(|_| Reply::Answer(200, ACCEPTED));
    let (report, _) = server.bench(&["--rate", "200", "--duration", "500ms"]);
    assert_eq!(report.acknowledged + report.not_sent, 100, "{report}");
    assert!(report.as_expected, "{report}");
}

/// Protects a person who mistypes the address: no server is an error with the address in it.
#[test]
fn no_server_is_said_at_once() {
    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let args = Cli::try_parse_from(["bench", "--threads", "2", "-c", "4"])
        .unwrap()
        .bench;
    let address = Address {
        socket: nobody,
        host: nobody.to_string(),
    };
    let plan = plan(&args, &address, &[], Vec::new(), None).unwrap();
    let error = conduct::conduct(&args, &Arc::new(plan), None, &address).unwrap_err();
    assert!(error.to_string().contains(&nobody.to_string()), "{error}");
}
