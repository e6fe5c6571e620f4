//! A collector of traces: OTLP over HTTP, in JSON, read strictly.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Map, Value};

use crate::wait;

/// A span as it came.
#[derive(Debug, Clone)]
pub struct Span {
    /// Its name.
    pub name: String,
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// 16 hexadecimal digits.
    pub span_id: String,
    /// As [`span_id`](Self::span_id), or empty.
    pub parent_id: String,
    /// As the protocol numbers it.
    pub kind: u64,
    /// When it began and ended, in nanoseconds since 1970.
    pub times: (u64, u64),
    /// By name, as texts.
    pub attributes: Map<String, Value>,
    /// Why it failed.
    pub error: Option<String>,
}

/// What came in one request.
#[derive(Debug, Clone)]
pub struct Posted {
    /// The request's head.
    pub head: String,
    /// The body as it came.
    pub body: String,
}

/// A collector on a port of its own; it ends with the process.
pub struct Collector {
    address: SocketAddr,
    posted: Arc<Mutex<Vec<Posted>>>,
}

impl Default for Collector {
    fn default() -> Self {
        Self::new()
    }
}

impl Collector {
    /// Starts one.
    ///
    /// # Panics
    /// When the system gives no port.
    #[must_use]
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let collector = Self {
            address: listener.local_addr().expect("its address"),
            posted: Arc::default(),
        };
        let posted = Arc::clone(&collector.posted);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, posted) = (stream.expect("a connection"), Arc::clone(&posted));
                std::thread::spawn(move || answer(stream, &posted));
            }
        });
        collector
    }

    /// The address that the setting `tracing.otlp_endpoint` names.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Everything that came so far.
    ///
    /// # Panics
    /// When a thread of the collector panicked.
    #[must_use]
    pub fn posted(&self) -> Vec<Posted> {
        self.posted.lock().expect("what came").clone()
    }

    /// All spans that came so far.
    ///
    /// # Panics
    /// Where something came that the protocol does not have.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        self.posted()
            .iter()
            .flat_map(|one| spans(&one.body))
            .collect()
    }

    /// Waits for so many spans of a trace.
    ///
    /// # Panics
    /// When they do not come.
    #[must_use]
    pub fn wait_for(&self, trace_id: &str, many: usize) -> Vec<Span> {
        wait::until("the spans of a trace", || {
            let spans = self.spans().into_iter();
            let of_trace: Vec<Span> = spans.filter(|span| span.trace_id == trace_id).collect();
            (of_trace.len() >= many).then_some(of_trace)
        })
    }
}

fn answer(mut stream: TcpStream, posted: &Mutex<Vec<Posted>>) {
    let mut reader = BufReader::new(stream.try_clone().expect("a handle"));
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        let head = head.to_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let length = length.and_then(|length| length.trim().parse().ok());
        let mut body = vec![0; length.expect("a Content-Length")];
        reader.read_exact(&mut body).expect("a body");
        let body = String::from_utf8(body).expect("a text");
        posted
            .lock()
            .expect("what came")
            .push(Posted { head, body });
        let answer =
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// The spans of a request's body.
fn spans(body: &str) -> Vec<Span> {
    let body: Value = serde_json::from_str(body).expect("JSON");
    let list = |value: &Value, name: &str| value[name].as_array().expect("a list").clone();
    let mut spans = Vec::new();
    for of_resource in list(&body, "resourceSpans") {
        let resource = attributes(&of_resource["resource"]["attributes"]);
        assert!(resource.contains_key("service.name"), "{of_resource}");
        for of_scope in list(&of_resource, "scopeSpans") {
            spans.extend(list(&of_scope, "spans").iter().map(span));
        }
    }
    spans
}

fn span(value: &Value) -> Span {
    let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let id = |name: &str, digits: usize| {
        let id = text(name);
        let hex = id.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert!(hex && (id.len() == digits || id.is_empty()), "{name} {id}");
        id
    };
    let nanos = |name: &str| text(name).parse().expect("a number as a text");
    Span {
        name: text("name"),
        trace_id: id("traceId", 32),
        span_id: id("spanId", 16),
        parent_id: id("parentSpanId", 16),
        kind: value["kind"].as_u64().expect("a kind"),
        times: (nanos("startTimeUnixNano"), nanos("endTimeUnixNano")),
        attributes: attributes(&value["attributes"]),
        error: (value["status"]["code"] == 2).then(|| {
            let message = value["status"]["message"].as_str();
            message.unwrap_or_default().to_owned()
        }),
    }
}

fn attributes(list: &Value) -> Map<String, Value> {
    let list = list.as_array().expect("a list").iter();
    let pairs = list.map(|pair| {
        let key = pair["key"].as_str().expect("a key").to_owned();
        let value = pair["value"].as_object().expect("a value");
        let (_, value) = value.iter().next().expect("a typed value");
        (key, value.clone())
    });
    pairs.collect()
}
