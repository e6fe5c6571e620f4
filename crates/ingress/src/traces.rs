//! Spans: what a request's way is made of, for whoever collects traces. Nothing here knows how
//! they get there.
//!
//! A span can't hold anything that a client sent: names and words are our own, the rest is numbers.

use std::sync::Arc;

/// Which requests are traced, and who is told. Clones tell the same.
#[derive(Clone)]
pub struct Traces {
    /// Of the requests that belong to no trace yet, the part that begins one: 0 to 1.
    pub ratio: f64,
    /// Who is told.
    pub sink: Arc<dyn SpanSink>,
}

/// Takes finished spans.
pub trait SpanSink: Send + Sync {
    /// Takes the spans of one request. It never waits, and drops what it has no room for.
    fn take(&self, spans: Vec<Span>);
}

/// A finished piece of work, as OpenTelemetry has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The trace that it belongs to.
    pub trace_id: [u8; 16],
    /// Its own id.
    pub span_id: [u8; 8],
    /// The id of what it is part of.
    pub parent_id: Option<[u8; 8]>,
    /// What it did.
    pub name: &'static str,
    /// Its part among others.
    pub kind: SpanKind,
    /// When it began, in nanoseconds since 1970.
    pub start: u64,
    /// When it ended, in nanoseconds since 1970.
    pub end: u64,
    /// Why it failed, where it did.
    pub error: Option<&'static str>,
    /// What there is to say of it, by name.
    pub attributes: Vec<(&'static str, SpanValue)>,
}

/// The part of a span among others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// Answers a request.
    Server,
    /// Hands something on.
    Producer,
    /// Works on what was handed on.
    Consumer,
}

/// What a span says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanValue {
    /// A word of ours.
    Word(&'static str),
    /// A number.
    Number(u64),
}
