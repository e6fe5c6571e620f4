//! Traces: what a collector is sent of requests, and that none is held up by it.

use std::collections::BTreeSet;
use std::net::TcpListener;

use serde_json::json;
use tally_tests::collector::{Collector, Span};
use tally_tests::server::{LOCAL_KEY, interaction_request, resource_path};
use tally_tests::{Folder, Request, Server, wait};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";
const SECRET: &str = "hunter2-of-the-collector";

/// Attributes that are numbers.
const NUMBERS: [&str; 3] = [
    "http.response.status_code",
    "tally.partition",
    "tally.offset",
];

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{PARENT}-{flags}")
}

/// A folder whose servers trace what comes with a sampled parent, and so much else.
fn traced(endpoint: &str, ratio: &str) -> Folder {
    Folder::new()
        .with("TALLY__TRACING__OTLP_ENDPOINT", endpoint)
        .with("TALLY__TRACING__SAMPLE_RATIO", ratio)
        .with(
            "TALLY__TRACING__HEADERS__AUTHORIZATION",
            format!("Bearer {SECRET}"),
        )
}

fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let mut found = spans.iter().filter(|span| span.name == name);
    let (first, second) = (found.next(), found.next());
    assert!(second.is_none(), "two {name} in {spans:#?}");
    first.unwrap_or_else(|| panic!("no {name} in {spans:#?}"))
}

fn exported(server: &Server) -> f64 {
    server.metrics().sum("tally_traces_exported_total", &[])
}

/// Protects whoever looks for where a request's time went: the caller's trace goes on through request,
/// log and fold, each span within its parent's or after it, and every span says where it was.
#[test]
fn a_requests_trace_goes_on_through_log_and_fold() {
    let collector = Collector::new();
    let server = traced(&collector.endpoint(), "0").start();
    let answer = interaction_request("ai_note", 15, "like")
        .header("traceparent", traceparent("01"))
        .send(server.api());
    assert_eq!(answer.status, 200, "{}", answer.text());
    let spans = collector.wait_for(TRACE, 3);
    assert_eq!(spans.len(), 3, "{spans:#?}");
    let request = named(&spans, "POST /api/v1/metrics/interact/");
    let (append, fold) = (named(&spans, "append"), named(&spans, "fold"));
    assert_eq!(
        [&request.parent_id, &append.parent_id, &fold.parent_id],
        [PARENT, &request.span_id, &append.span_id]
    );
    assert_eq!([request.kind, append.kind, fold.kind], [2, 4, 5]);
    let (times, inner, last) = (request.times, append.times, fold.times);
    assert!(
        times.0 <= inner.0 && inner.0 < inner.1 && inner.1 <= last.0 && last.0 <= last.1,
        "{spans:#?}"
    );
    assert!(last.1 <= times.1, "{spans:#?}");
    let (outcome, place) = (json!("applied"), json!("0"));
    assert_eq!(
        json!(request.attributes),
        json!({
            "http.request.method": "POST", "http.route": "/api/v1/metrics/interact/",
            "http.response.status_code": "200", "tally.resource_type": "ai_note",
            "tally.interaction_type": "like", "tally.outcome": outcome,
        })
    );
    let partition = append.attributes["tally.partition"].clone();
    assert_eq!(
        json!(append.attributes),
        json!({"tally.partition": partition, "tally.offset": place})
    );
    assert_eq!(
        json!(fold.attributes),
        json!({"tally.partition": partition, "tally.offset": place, "tally.outcome": outcome})
    );
    assert!(spans.iter().all(|span| span.error.is_none()), "{spans:#?}");

    let read = Request::get(&resource_path("ai_note", 15))
        .bearer(LOCAL_KEY)
        .header("traceparent", traceparent("01"))
        .send(server.api());
    assert_eq!(read.status, 200);
    let spans = collector.wait_for(TRACE, 4);
    let read = named(&spans, "GET /api/v1/metrics/resources/{type}/{id}/");
    assert_eq!(read.parent_id, PARENT);
    wait::until("all spans to be counted", || {
        (exported(&server) == 4.).then_some(())
    });
}

/// Protects callers who decided against a trace, and whoever pays for the collector; and that a stop sends
/// what still waits.
#[test]
fn what_is_not_sampled_is_not_sent_and_a_stop_sends_the_rest() {
    let collector = Collector::new();
    let server = traced(&collector.endpoint(), "0").start();
    for _ in 0..50 {
        let none = interaction_request("quest", 42, "view").send(server.api());
        let not = interaction_request("quest", 42, "view")
            .header("traceparent", traceparent("00"))
            .send(server.api());
        assert_eq!((none.status, not.status), (200, 200));
    }
    let last = TRACE.replace('4', "5");
    let answer = interaction_request("quest", 42, "view")
        .header("traceparent", format!("00-{last}-{PARENT}-01"))
        .send(server.api());
    assert_eq!(answer.status, 200);
    server.stop();
    let spans = collector.spans();
    assert_eq!(spans.len(), 3, "{spans:#?}");
    assert!(spans.iter().all(|span| span.trace_id == last), "{spans:#?}");
}

/// Protects people and secrets: whatever a client sends, no span names a user, a resource, a path or a key,
/// and the collector's password is in no output. And the number of names: it does not grow with requests.
#[test]
fn spans_hold_nothing_of_clients() {
    let collector = Collector::new();
    let folder = traced(&collector.endpoint(), "1");
    let server = folder.start();
    send_what_is_odd(&server);
    let there = interaction_request("ai_note", 15, "like")
        .header("Idempotency-Key", "k-odd")
        .send(server.api());
    assert_eq!(there.status, 200);
    wait::until("all spans", || (exported(&server) >= 83.).then_some(()));
    let posted = collector.posted();
    let authorization = format!("authorization: bearer {SECRET}\r\n");
    for one in &posted {
        assert!(
            one.head.starts_with("post /v1/traces http/1.1\r\n"),
            "{}",
            one.head
        );
        assert!(
            one.head.contains("content-type: application/json\r\n"),
            "{}",
            one.head
        );
        assert!(one.head.contains(&authorization), "{}", one.head);
        assert!(!one.body.contains(SECRET), "{}", one.body);
    }
    let spans = collector.spans();
    let names: BTreeSet<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    let wanted = [
        "GET /api/v1/metrics/resources/{type}/{id}/",
        "HTTP",
        "POST /api/v1/metrics/interact/",
        "append",
        "fold",
    ];
    assert_eq!(names, BTreeSet::from(wanted));
    let said = spans.iter().flat_map(|span| &span.attributes);
    let words: BTreeSet<&str> = said
        .filter(|(name, _)| !NUMBERS.contains(&name.as_str()))
        .map(|(_, value)| value.as_str().expect("a text"))
        .collect();
    let wanted = [
        "/api/v1/metrics/interact/",
        "/api/v1/metrics/resources/{type}/{id}/",
        "GET",
        "POST",
        "_OTHER",
        "ai_note",
        "applied",
        "like",
    ];
    assert_eq!(words, BTreeSet::from(wanted));
    let shown = folder.run(&["config", "show"]).ok();
    assert!(
        shown.contains("tracing.headers.authorization = \"***\""),
        "{shown}"
    );
    let metrics = Request::get("/metrics").send(server.management()).text();
    for (place, text) in [
        ("config show", shown),
        ("metrics", metrics),
        ("output", server.output()),
    ] {
        assert!(!text.contains(SECRET), "{place}: {text}");
    }
}

/// Requests full of what no span may hold; all are refused.
fn send_what_is_odd(server: &Server) {
    for id in 0..20_u64 {
        let resource = 7_310_000 + id;
        let odd = interaction_request("ai_note", resource, "like")
            .header("Idempotency-Key", format!("k-odd-{id}"))
            .header("X-Request-Id", format!("r-odd-{id}"))
            .header("User-Agent", "odd-agent");
        let missing = odd.send(server.api());
        assert_eq!(missing.status, 404, "{}", missing.text());
        let method = Request::new(&format!("ODD{id}"), "/api/v1/metrics/interact/");
        let answers = [
            method.bearer(LOCAL_KEY).send(server.api()),
            Request::get(&format!("/odd/path/{id}")).send(server.api()),
            Request::get(&resource_path("quest", resource))
                .bearer("odd-key")
                .send(server.api()),
        ];
        assert_eq!(answers.map(|answer| answer.status), [405, 404, 401]);
    }
}

/// Protects requests from a collector that is away, and from one that takes connections and says nothing:
/// all are answered, what is lost is counted, and a stop ends in time.
#[test]
fn a_dead_collector_slows_nobody() {
    // Nobody listens there, and no other test is given it.
    let server = traced("http://127.0.0.1:1", "1").start();
    for _ in 0..100 {
        assert_eq!(server.interact("quest", 42, "view").status, 200);
    }
    wait::until("all spans to be dropped", || {
        let metrics = server.metrics();
        let dropped = metrics.sum("tally_traces_dropped_total", &["reason=\"unreachable\""]);
        (dropped == 300.).then_some(())
    });
    assert!(
        server.output().contains("traces are not taken"),
        "{}",
        server.output()
    );
    server.stop();

    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", silent.local_addr().expect("its address"));
    let server = traced(&endpoint, "1")
        .with("TALLY__SHUTDOWN_LIMIT", "4s")
        .start();
    for _ in 0..100 {
        assert_eq!(server.interact("quest", 42, "view").status, 200);
    }
    server.stop();
}
