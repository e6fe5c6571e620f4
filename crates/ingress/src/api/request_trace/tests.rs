//! Which requests are traced, and what becomes of those that go wrong.

use actix_web::http::header::{HeaderName, HeaderValue};
use parking_lot::Mutex;
use tally_domain::{Counters, DeadLetterReason, Position, Toggles, Verdict};
use tally_log::AppendRefused;

use super::*;
use crate::traces::SpanSink;

const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const NOT_SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

#[derive(Default)]
struct Kept(Mutex<Vec<Span>>);

impl SpanSink for Kept {
    fn take(&self, spans: Vec<Span>) {
        self.0.lock().extend(spans);
    }
}

fn tracer(ratio: f64) -> (Tracer, Arc<Kept>) {
    let kept = Arc::new(Kept::default());
    let sink = Arc::clone(&kept);
    (Tracer::new(Some(Traces { ratio, sink })), kept)
}

fn headers(traceparent: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let value = HeaderValue::from_str(traceparent).unwrap();
    headers.append(HeaderName::from_static(TRACEPARENT), value);
    headers
}

fn verdict(offset: u64) -> Verdict {
    Verdict {
        outcome: Outcome::Applied,
        position: Position {
            partition: 3,
            offset,
        },
        counters: Counters::default(),
        toggles: Toggles::default(),
    }
}

/// Protects traces that clients began, and records from headers that are none.
#[test]
fn a_trace_is_taken_where_it_is_one() {
    let sent = |values: &[&str]| {
        let mut headers = HeaderMap::new();
        for value in values {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            headers.append(HeaderName::from_static(TRACEPARENT), value);
        }
        parent(&headers).map(|trace| trace.to_string())
    };
    assert_eq!(sent(&[GOOD]).as_deref(), Some(GOOD));
    for ignored in [
        &[][..],
        &["nonsense"],
        &["00-4bf9"],
        &[GOOD, GOOD],
        &["\u{e4}"],
        &["ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"],
    ] {
        assert_eq!(sent(ignored), None, "{ignored:?}");
    }
}

/// Protects whoever began a trace: what they decided holds, whatever our own ratio is. And the cost:
/// of requests without a trace only the part that was asked for is traced.
#[test]
fn a_parent_decides_and_else_the_ratio_does() {
    let now = Instant::now();
    for ratio in [0., 0.25, 1.] {
        let (tracer, _) = tracer(ratio);
        let trace = tracer.begin(&headers(GOOD), now).unwrap();
        assert_eq!(trace.id(), &GOOD[3..35]);
        assert_eq!(trace.parent, Some(0x00f0_67aa_0ba9_02b7_u64.to_be_bytes()));
        assert!(tracer.begin(&headers(NOT_SAMPLED), now).is_none());
        let none = HeaderMap::new();
        let begun = (0..10_000).filter(|_| tracer.begin(&none, now).is_some());
        let part = f64::from(u32::try_from(begun.count()).unwrap()) / 10_000.;
        assert!((part - ratio).abs() < 0.03, "{part} of {ratio}");
    }
    let off = Tracer::new(None);
    assert!(off.begin(&headers(GOOD), now).is_none());
}

/// Protects traces from each other: no two have an id in common, and neither have their spans.
#[test]
fn ids_are_new_each_time() {
    let (tracer, _) = tracer(1.);
    let mut ids = Vec::new();
    for _ in 0..100 {
        let trace = tracer.begin(&HeaderMap::new(), Instant::now()).unwrap();
        assert_eq!(trace.of_record().parent_id(), trace.append);
        assert_eq!(trace.of_record().trace_id(), trace.trace_id);
        ids.push(trace.id());
        ids.extend([trace.server, trace.append, trace.fold].map(|id| format!("{id:?}")));
    }
    let many = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), many);
}

/// The names and errors of the spans of an interaction that came to this.
fn spans(
    said: Option<Result<Offset, AppendError>>,
    fate: Option<&EventFate>,
    status: StatusCode,
) -> Vec<(&'static str, Option<&'static str>)> {
    let (tracer, kept) = tracer(1.);
    let started = Instant::now();
    let trace = tracer.begin(&headers(GOOD), started).unwrap();
    let ack = Arc::new(Ack::default());
    trace.appends(3, &ack, 0);
    if let Some(said) = said {
        ack.says(vec![said]);
    }
    if let Some(fate) = fate {
        trace.settles(fate);
    }
    tracer.finish(&trace, (Route::Interact, &Method::POST, status), "7");
    let spans = kept.0.lock();
    for span in &*spans {
        assert_eq!(span.trace_id, trace.trace_id);
        assert!(span.start <= span.end, "{span:?}");
        let server = spans.first().unwrap();
        assert!(server.start <= span.start && span.end <= server.end);
    }
    let parents = spans.iter().map(|span| span.parent_id).collect::<Vec<_>>();
    let wanted = [trace.parent, Some(trace.server), Some(trace.append)];
    assert_eq!(parents, wanted[..parents.len()]);
    spans.iter().map(|span| (span.name, span.error)).collect()
}

/// Protects whoever looks for the cause of a failure: the span that failed says so, and a span that
/// never began is not made up.
#[test]
fn each_span_says_how_it_ended() {
    const POST: &str = "POST /api/v1/metrics/interact/";
    let ok = StatusCode::OK;
    let away = StatusCode::SERVICE_UNAVAILABLE;
    let folded = EventFate::Folded(verdict(7));
    let letter = EventFate::DeadLetter(DeadLetterReason::Undecodable);
    let refused = EventFate::Refused(AppendRefused::Closed("as the test wants it".to_owned()));
    let full = AppendError::DiskFull("as the test wants it".to_owned());
    let failed = EventFate::Failed(full.clone());
    let server_error = Some("server_error");
    // The fold may be there before the log's own word is.
    for said in [None, Some(Ok(7))] {
        assert_eq!(
            spans(said.clone(), Some(&folded), ok),
            [(POST, None), ("append", None), ("fold", None)]
        );
        assert_eq!(
            spans(said, Some(&letter), away),
            [
                (POST, server_error),
                ("append", None),
                ("fold", Some("dead_letter"))
            ]
        );
    }
    assert_eq!(
        spans(Some(Ok(7)), None, ok),
        [(POST, None), ("append", None)],
        "it was answered before it was folded"
    );
    for (said, fate, why) in [
        (None, None, "fate_unknown"),
        (None, Some(&refused), "refused"),
        (None, Some(&failed), "disk_full"),
        (Some(Err(full)), None, "disk_full"),
    ] {
        assert_eq!(
            spans(said, fate, away),
            [(POST, server_error), ("append", Some(why))]
        );
    }
}

/// Protects against a flood of log lines: who asks says what is traced, so that what fails is not said
/// for each request.
#[test]
fn lines_about_traced_requests_are_kept_apart() {
    let (tracer, _) = tracer(1.);
    let now = Instant::now();
    assert!(tracer.may_say(now));
    assert!(!tracer.may_say(now + BETWEEN_LINES / 2));
    assert!(tracer.may_say(now + BETWEEN_LINES));
}

/// Protects collector and threads from whoever sends a header with each request: past a bound traces of others are
/// handed on and no more.
#[test]
fn not_every_trace_of_others_is_added_to() {
    let (tracer, _) = tracer(0.0);
    let start = Instant::now();
    let added = |at: Instant| {
        let begun = (0..500).map(|_| tracer.begin(&headers(GOOD), at));
        begun.flatten().count()
    };
    assert_eq!(added(start), 100);
    assert_eq!(added(start), 0);
    assert_eq!(added(start + Duration::from_secs(2)), 100);
}
