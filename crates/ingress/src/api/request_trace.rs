//! The trace of one request: whether there is one, and the spans that it ends in.
//!
//! ```text
//! server   head ─────────────────────────────────► answer
//! append          added ────► durable
//! fold                        durable ────► told what came of it
//! ```

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use actix_web::http::header::HeaderMap;
use actix_web::http::{Method, StatusCode};
use tally_domain::{InteractionType, Offset, Outcome, Partition, Resource, ResourceType};
use tally_log::{AppendError, TraceParent};
use tally_projector::EventFate;

use super::batch::Ack;
use super::route::Route;
use crate::traces::{Span, SpanKind, SpanValue, Traces};

const TRACEPARENT: &str = "traceparent";

/// A traced request that takes longer than this is named in a log line.
const SLOW: Duration = Duration::from_secs(1);
/// How many traces of others a thread adds to in a second: anybody may send the header, also who is refused.
const JOINED_A_SECOND: u32 = 100;
/// Such lines of one thread are at least this far apart: clients say what is traced.
const BETWEEN_LINES: Duration = Duration::from_secs(1);

/// The trace that an interaction belongs to.
#[derive(Clone, Copy)]
pub(crate) enum Trace<'a> {
    /// None.
    None,
    /// One of somebody else, which is handed on.
    Theirs(TraceParent),
    /// One that we add to.
    Ours(&'a RequestTrace),
}

/// One thread's choice of what is traced.
pub(crate) struct Tracer {
    traces: Option<Traces>,
    chance: Cell<u64>,
    /// How many traces of others were added to since that moment.
    joined: Cell<(Instant, u32)>,
    last_line: Cell<Option<Instant>>,
}

/// A request that is traced.
pub(crate) struct RequestTrace {
    trace_id: [u8; 16],
    parent: Option<[u8; 8]>,
    server: [u8; 8],
    append: [u8; 8],
    fold: [u8; 8],
    /// The same moment by two clocks.
    began: (u64, Instant),
    asked: Cell<(Option<ResourceType>, Option<InteractionType>)>,
    appended: RefCell<Option<Appended>>,
}

/// An event on its way.
struct Appended {
    begun: Instant,
    partition: Partition,
    ack: Arc<Ack>,
    place: usize,
    fate: Option<(Fate, Instant)>,
}

#[derive(Clone, Copy)]
enum Fate {
    Folded(Outcome, Offset),
    DeadLetter,
    Failed(&'static str),
}

impl Tracer {
    pub(crate) fn new(traces: Option<Traces>) -> Self {
        Self {
            traces,
            // What is sampled need not be hard to guess; ids come from the system.
            chance: Cell::new(getrandom::u64().unwrap_or(1)),
            joined: Cell::new((Instant::now(), 0)),
            last_line: Cell::new(None),
        }
    }

    /// A request's trace, where it has one that is recorded, or begins one.
    pub(crate) fn begin(&self, headers: &HeaderMap, started: Instant) -> Option<Box<RequestTrace>> {
        let traces = self.traces.as_ref()?;
        match parent(headers) {
            Some(parent) if parent.sampled() && self.may_join(started) => {
                RequestTrace::begin(Some(parent), started)
            }
            Some(_) => None,
            None if self.drawn(traces.ratio) => RequestTrace::begin(None, started),
            None => None,
        }
    }

    fn may_join(&self, now: Instant) -> bool {
        let (since, mut joined) = self.joined.get();
        let over = now.saturating_duration_since(since) >= Duration::from_secs(1);
        let since = if over { now } else { since };
        joined = if over { 1 } else { joined.saturating_add(1) };
        self.joined.set((since, joined));
        joined <= JOINED_A_SECOND
    }

    /// SplitMix64, by Steele, Lea and Flood: some nanoseconds for each request that is not traced.
    fn drawn(&self, ratio: f64) -> bool {
        let state = self.chance.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.chance.set(state);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let [a, b, c, d, ..] = (mixed ^ (mixed >> 31)).to_be_bytes();
        f64::from(u32::from_be_bytes([a, b, c, d])) < ratio * (f64::from(u32::MAX) + 1.)
    }

    /// Tells of a request that was answered. Where that was late or a fault of ours, a log line
    /// names the trace.
    pub(crate) fn finish(
        &self,
        trace: &RequestTrace,
        answered: (Route, &Method, StatusCode),
        request_id: &str,
    ) {
        let Some(traces) = &self.traces else {
            return;
        };
        let now = Instant::now();
        let took = now.saturating_duration_since(trace.began.1);
        let (route, _, status) = answered;
        if (took >= SLOW || status.is_server_error()) && self.may_say(now) {
            tracing::warn!(
                request_id,
                trace_id = trace.id(),
                route = route.template().unwrap_or("none"),
                status = status.as_u16(),
                took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                "a traced request was slow or failed"
            );
        }
        traces.sink.take(trace.spans(answered, now));
    }

    fn may_say(&self, now: Instant) -> bool {
        let last = self.last_line.get();
        let may = last.is_none_or(|last| now.saturating_duration_since(last) >= BETWEEN_LINES);
        if may {
            self.last_line.set(Some(now));
        }
        may
    }
}

impl RequestTrace {
    fn begin(parent: Option<TraceParent>, started: Instant) -> Option<Box<Self>> {
        let (mut trace_id, mut spans) = ([0; 16], [[0; 8]; 3]);
        getrandom::fill(spans.as_flattened_mut()).ok()?;
        match &parent {
            Some(parent) => trace_id = parent.trace_id(),
            None => getrandom::fill(&mut trace_id).ok()?,
        }
        let [server, append, fold] = spans;
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let nanos = u64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX);
        // Boxed: most requests have none, and need no room for it.
        Some(Box::new(Self {
            trace_id,
            parent: parent.map(|parent| parent.parent_id()),
            server,
            append,
            fold,
            began: (nanos, started),
            asked: Cell::default(),
            appended: RefCell::default(),
        }))
    }

    /// The trace's id, as it is written.
    pub(crate) fn id(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.trace_id))
    }

    /// What the event's record says, where records have headers.
    pub(crate) fn of_record(&self) -> TraceParent {
        TraceParent::new(self.trace_id, self.append, true)
    }

    /// What was asked for.
    pub(crate) fn asks(&self, resource: Resource, interaction: Option<InteractionType>) {
        self.asked.set((Some(resource.kind), interaction));
    }

    /// The event is handed to the log, whose word will be at a place of `ack`.
    pub(crate) fn appends(&self, partition: Partition, ack: &Arc<Ack>, place: usize) {
        self.appended.replace(Some(Appended {
            begun: Instant::now(),
            partition,
            ack: Arc::clone(ack),
            place,
            fate: None,
        }));
    }

    /// What became of the event is known.
    pub(crate) fn settles(&self, fate: &EventFate) {
        let fate = match fate {
            EventFate::Folded(verdict) => Fate::Folded(verdict.outcome, verdict.position.offset),
            EventFate::DeadLetter(_) | EventFate::Settled(_) => Fate::DeadLetter,
            EventFate::Refused(_) | EventFate::Failed(_) => Fate::Failed(failure(fate)),
        };
        if let Some(appended) = &mut *self.appended.borrow_mut() {
            appended.fate = Some((fate, Instant::now()));
        }
    }

    fn nanos(&self, at: Instant) -> u64 {
        let (nanos, instant) = self.began;
        let since = at.saturating_duration_since(instant).as_nanos();
        nanos.saturating_add(u64::try_from(since).unwrap_or(u64::MAX))
    }

    fn spans(
        &self,
        (route, method, status): (Route, &Method, StatusCode),
        now: Instant,
    ) -> Vec<Span> {
        let (resource_type, interaction) = self.asked.get();
        let mut attributes = vec![
            ("http.request.method", SpanValue::Word(method_word(method))),
            (
                "http.response.status_code",
                SpanValue::Number(status.as_u16().into()),
            ),
        ];
        let mut say = |name, word: Option<&'static str>| {
            attributes.extend(word.map(|word| (name, SpanValue::Word(word))));
        };
        say("http.route", route.template());
        say(
            "tally.resource_type",
            resource_type.map(ResourceType::as_str),
        );
        say(
            "tally.interaction_type",
            interaction.map(InteractionType::as_str),
        );
        let appended = self.appended.borrow();
        let fate = appended.as_ref().and_then(|appended| appended.fate);
        if let Some((Fate::Folded(outcome, _), _)) = fate {
            say("tally.outcome", Some(outcome.as_str()));
        }
        let server = Span {
            trace_id: self.trace_id,
            span_id: self.server,
            parent_id: self.parent,
            name: route.span_name(method),
            kind: SpanKind::Server,
            start: self.began.0,
            end: self.nanos(now),
            error: status.is_server_error().then_some("server_error"),
            attributes,
        };
        let mut spans = vec![server];
        if let Some(appended) = &*appended {
            self.event(appended, now, &mut spans);
        }
        spans
    }

    /// The spans of an event: its way into the log, and from there into the state.
    fn event(&self, appended: &Appended, now: Instant, spans: &mut Vec<Span>) {
        let said = appended.ack.so_far(appended.place);
        let (fate, settled) = match appended.fate {
            Some((fate, at)) => (Some(fate), Some(at)),
            None => (None, None),
        };
        let last = settled.unwrap_or(now);
        // The fold reads what is durable, and may do so before the log's own word comes.
        let durable = said.as_ref().map_or(last, |(_, at)| (*at).min(last));
        let durable = durable.max(appended.begun);
        let (offset, mut error) = match (fate, &said) {
            (Some(Fate::Folded(_, offset)), _) => (Some(offset), None),
            (Some(Fate::Failed(why)), _) => (None, Some(why)),
            (_, Some((Ok(offset), _))) => (Some(*offset), None),
            (Some(Fate::DeadLetter), _) => (None, None),
            (None, Some((Err(fate), _))) => (None, Some(failure(fate))),
            (None, None) => (None, Some("fate_unknown")),
        };
        let mut attributes = vec![(
            "tally.partition",
            SpanValue::Number(appended.partition.into()),
        )];
        attributes.extend(offset.map(|offset| ("tally.offset", SpanValue::Number(offset))));
        let append = Span {
            trace_id: self.trace_id,
            span_id: self.append,
            parent_id: Some(self.server),
            name: "append",
            kind: SpanKind::Producer,
            start: self.nanos(appended.begun),
            end: self.nanos(durable),
            error,
            attributes: attributes.clone(),
        };
        spans.push(append);
        match fate {
            Some(Fate::Folded(outcome, _)) => {
                attributes.push(("tally.outcome", SpanValue::Word(outcome.as_str())));
            }
            Some(Fate::DeadLetter) => error = Some("dead_letter"),
            Some(Fate::Failed(_)) | None => return,
        }
        spans.push(Span {
            trace_id: self.trace_id,
            span_id: self.fold,
            parent_id: Some(self.append),
            name: "fold",
            kind: SpanKind::Consumer,
            start: self.nanos(durable),
            end: self.nanos(last),
            error,
            attributes,
        });
    }
}

/// A method as OpenTelemetry wants it: one that is not known is `_OTHER`.
fn method_word(method: &Method) -> &'static str {
    let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    let mut known = known.into_iter();
    known
        .find(|known| *known == method.as_str())
        .unwrap_or("_OTHER")
}

/// Why an event is not known to be in the log, in a word.
fn failure(fate: &EventFate) -> &'static str {
    match fate {
        EventFate::Refused(_) => "refused",
        EventFate::Failed(AppendError::FateUnknown(_))
        | EventFate::Folded(_)
        | EventFate::DeadLetter(_)
        | EventFate::Settled(_) => "fate_unknown",
        EventFate::Failed(AppendError::DiskFull(_)) => "disk_full",
        EventFate::Failed(AppendError::TimedOut(_)) => "timed_out",
        EventFate::Failed(AppendError::Unauthorized(_)) => "unauthorized",
        EventFate::Failed(AppendError::TooLarge(_)) => "too_large",
        EventFate::Failed(AppendError::NotWritten(_)) => "not_written",
    }
}

/// The trace that a request belongs to. W3C Trace Context: one that is malformed, or sent twice, is
/// as good as none.
pub(crate) fn parent(headers: &HeaderMap) -> Option<TraceParent> {
    let mut sent = headers.get_all(TRACEPARENT);
    let first = sent.next()?;
    if sent.next().is_some() {
        return None;
    }
    first.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
