//! Spans as the OpenTelemetry protocol writes them in JSON.
//!
//! <https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding>: ids are hexadecimal, 64-bit
//! numbers are texts, enums are numbers, names are in lowerCamelCase.

use serde::{Deserialize, Serialize, Serializer};
use tally_ingress::traces::{Span, SpanKind, SpanValue};

/// What the spans are of.
#[derive(Debug, Clone)]
pub(super) struct Resource {
    /// What the service is called.
    pub(super) service_name: String,
    /// This process, among those of the service.
    pub(super) instance_id: String,
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The body of a request that brings these spans.
///
/// # Errors
/// None that can come of what is written here.
pub(super) fn body(resource: &Resource, spans: &[Span]) -> serde_json::Result<Vec<u8>> {
    let attribute = |key, text| KeyValue {
        key,
        value: AnyValue::StringValue(text),
    };
    serde_json::to_vec(&Request {
        resource_spans: [ResourceSpans {
            resource: Attributes {
                attributes: vec![
                    attribute("service.name", resource.service_name.as_str()),
                    attribute("service.version", VERSION),
                    attribute("service.instance.id", resource.instance_id.as_str()),
                ],
            },
            scope_spans: [ScopeSpans {
                scope: Scope {
                    name: "tally",
                    version: VERSION,
                },
                spans: spans.iter().map(span).collect(),
            }],
        }],
    })
}

/// How many of the spans the collector did not take, as its answer says.
pub(super) fn rejected(answer: &[u8]) -> u64 {
    let answer: Answer = serde_json::from_slice(answer).unwrap_or_default();
    match answer.partial_success.rejected_spans {
        Some(Count::Number(number)) => number,
        Some(Count::Text(text)) => text.parse().unwrap_or(0),
        None => 0,
    }
}

fn span(span: &Span) -> OtlpSpan {
    OtlpSpan {
        trace_id: Hex(u128::from_be_bytes(span.trace_id)),
        span_id: HexSpan(u64::from_be_bytes(span.span_id)),
        parent_span_id: span.parent_id.map(|id| HexSpan(u64::from_be_bytes(id))),
        name: span.name,
        kind: match span.kind {
            SpanKind::Server => 2,
            SpanKind::Producer => 4,
            SpanKind::Consumer => 5,
        },
        start_time_unix_nano: span.start.to_string(),
        end_time_unix_nano: span.end.to_string(),
        attributes: span
            .attributes
            .iter()
            .map(|(key, value)| KeyValue {
                key,
                value: match value {
                    SpanValue::Word(word) => AnyValue::StringValue(word),
                    SpanValue::Number(number) => AnyValue::IntValue(number.to_string()),
                },
            })
            .collect(),
        status: span.error.map(|message| Status { code: 2, message }),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    resource_spans: [ResourceSpans<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceSpans<'a> {
    resource: Attributes<'a>,
    scope_spans: [ScopeSpans; 1],
}

#[derive(Serialize)]
struct Attributes<'a> {
    attributes: Vec<KeyValue<'a>>,
}

#[derive(Serialize)]
struct ScopeSpans {
    scope: Scope,
    spans: Vec<OtlpSpan>,
}

#[derive(Serialize)]
struct Scope {
    name: &'static str,
    version: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OtlpSpan {
    trace_id: Hex,
    span_id: HexSpan,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_span_id: Option<HexSpan>,
    name: &'static str,
    kind: u8,
    start_time_unix_nano: String,
    end_time_unix_nano: String,
    attributes: Vec<KeyValue<'static>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
}

#[derive(Serialize)]
struct Status {
    code: u8,
    message: &'static str,
}

#[derive(Serialize)]
struct KeyValue<'a> {
    key: &'a str,
    value: AnyValue<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum AnyValue<'a> {
    StringValue(&'a str),
    IntValue(String),
}

struct Hex(u128);

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:032x}", self.0))
    }
}

struct HexSpan(u64);

impl Serialize for HexSpan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:016x}", self.0))
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Answer {
    partial_success: PartialSuccess,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PartialSuccess {
    rejected_spans: Option<Count>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Count {
    Number(u64),
    Text(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects collectors from what they can't read: exactly what the protocol says.
    #[test]
    fn spans_are_written_as_the_protocol_says() {
        let resource = Resource {
            service_name: "tally".to_owned(),
            instance_id: "one".to_owned(),
        };
        let root = Span {
            trace_id: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255],
            span_id: [0, 0, 0, 0, 0, 0, 0, 7],
            parent_id: None,
            name: "POST /x",
            kind: SpanKind::Server,
            start: 1_764_466_913_123_456_789,
            end: u64::MAX,
            error: Some("server_error"),
            attributes: vec![
                ("http.response.status_code", SpanValue::Number(503)),
                ("tally.outcome", SpanValue::Word("applied")),
            ],
        };
        let child = Span {
            parent_id: Some(root.span_id),
            kind: SpanKind::Producer,
            error: None,
            attributes: Vec::new(),
            ..root.clone()
        };
        let body = body(&resource, &[root, child]).unwrap();
        let written: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let ids = serde_json::json!({
            "traceId": "000102030405060708090a0b0c0d0eff", "spanId": "0000000000000007",
            "name": "POST /x", "startTimeUnixNano": "1764466913123456789",
            "endTimeUnixNano": "18446744073709551615",
        });
        let with = |more: serde_json::Value| {
            let mut all = ids.clone();
            let (all_map, more) = (all.as_object_mut().unwrap(), more);
            all_map.extend(more.as_object().unwrap().clone());
            all
        };
        let text = |key: &str, value: &str| serde_json::json!({"key": key, "value": {"stringValue": value}});
        let wanted = serde_json::json!({"resourceSpans": [{
            "resource": {"attributes": [
                text("service.name", "tally"), text("service.version", VERSION),
                text("service.instance.id", "one"),
            ]},
            "scopeSpans": [{
                "scope": {"name": "tally", "version": VERSION},
                "spans": [
                    with(serde_json::json!({
                        "kind": 2, "status": {"code": 2, "message": "server_error"},
                        "attributes": [
                            {"key": "http.response.status_code", "value": {"intValue": "503"}},
                            text("tally.outcome", "applied"),
                        ],
                    })),
                    with(serde_json::json!({
                        "kind": 4, "attributes": [], "parentSpanId": "0000000000000007",
                    })),
                ],
            }],
        }]});
        assert_eq!(written, wanted);
    }

    /// Protects the count of what was lost from collectors that write a number either way, and from
    /// answers that are nothing of the kind.
    #[test]
    fn a_partial_success_is_read() {
        for (answer, wanted) in [
            ("", 0),
            ("{}", 0),
            ("<html>", 0),
            (r#"{"partialSuccess":{}}"#, 0),
            (
                r#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"no"}}"#,
                3,
            ),
            (r#"{"partialSuccess":{"rejectedSpans":4}}"#, 4),
            (r#"{"partialSuccess":{"rejectedSpans":"many"}}"#, 0),
        ] {
            assert_eq!(rejected(answer.as_bytes()), wanted, "{answer}");
        }
    }
}
