//! HTTP/1.1 as little of it as the load needs: requests put together from prepared parts, and
//! answers with a `Content-Length`.

use std::fmt::Write as _;

use serde::Deserialize;
use tally_domain::{InteractionType, Resource};

const PATH: &str = "/api/v1/metrics/interact/";
const MAX_HEADERS: usize = 64;
/// The largest answer that is read; the server's are a few hundred bytes.
pub(super) const MAX_ANSWER_BYTES: usize = 1 << 20;

/// The parts that requests are made of.
#[derive(Debug)]
pub(super) struct Parts {
    head: Vec<u8>,
    credentials: Vec<Vec<u8>>,
    resources: Vec<Vec<u8>>,
}

impl Parts {
    /// Prepares the parts. `host` is the value of the `Host` header, `credentials` the Bearer
    /// tokens, by user.
    pub(super) fn new<'a>(
        host: &str,
        credentials: impl Iterator<Item = &'a str>,
        resources: &[Resource],
    ) -> Self {
        Self {
            head: format!(
                "POST {PATH} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            )
            .into_bytes(),
            credentials: credentials
                .map(|token| format!("Authorization: Bearer {token}\r\n").into_bytes())
                .collect(),
            resources: resources
                .iter()
                .map(|resource| {
                    format!(
                        r#"{{"resource_type":"{}","resource_id":{},"interaction_type":""#,
                        resource.kind, resource.id
                    )
                    .into_bytes()
                })
                .collect(),
        }
    }

    /// Writes one request over what is in `out`. Places past the lists leave their part out,
    /// which the server then refuses.
    pub(super) fn write(
        &self,
        out: &mut Vec<u8>,
        user: usize,
        resource: usize,
        kind: InteractionType,
        idempotency_key: Option<&str>,
    ) {
        let body = self.resources.get(resource).map_or(&[][..], Vec::as_slice);
        out.clear();
        out.extend_from_slice(&self.head);
        out.extend_from_slice(self.credentials.get(user).map_or(&[][..], Vec::as_slice));
        if let Some(key) = idempotency_key {
            out.extend_from_slice(b"Idempotency-Key: ");
            out.extend_from_slice(key.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        let length = body.len() + kind.as_str().len() + 2;
        let mut digits = compact_str::CompactString::default();
        // Writing to a string cannot fail.
        let _ = write!(digits, "{length}");
        out.extend_from_slice(b"Content-Length: ");
        out.extend_from_slice(digits.as_bytes());
        out.extend_from_slice(b"\r\n\r\n");
        out.extend_from_slice(body);
        out.extend_from_slice(kind.as_str().as_bytes());
        out.extend_from_slice(b"\"}");
    }
}

/// What an answer's head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    /// Bytes of the head.
    pub(super) head_bytes: usize,
    /// Bytes of the body.
    pub(super) body_bytes: usize,
    /// Whether the server closes the connection after this answer.
    pub(super) closes: bool,
    /// `Retry-After` in seconds.
    pub(super) retry_after: Option<u32>,
}

/// Why an answer could not be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum WireError {
    #[error("the answer is not HTTP/1.1: {0}")]
    NotHttp(#[from] httparse::Error),
    #[error("the answer has no Content-Length")]
    NoLength,
    #[error("the answer is larger than {MAX_ANSWER_BYTES} bytes")]
    TooLarge,
}

/// Reads the head, where it is whole.
///
/// # Errors
/// Where it is not HTTP/1.1, has no length, or announces more than [`MAX_ANSWER_BYTES`].
pub(super) fn parse_head(bytes: &[u8]) -> Result<Option<Head>, WireError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head_bytes) = response.parse(bytes)? else {
        return Ok(None);
    };
    let mut body_bytes = None;
    let mut closes = false;
    let mut retry_after = None;
    for header in response.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            body_bytes = number(header.value);
        } else if header.name.eq_ignore_ascii_case("connection") {
            closes = header.value.eq_ignore_ascii_case(b"close");
        } else if header.name.eq_ignore_ascii_case("retry-after") {
            retry_after = number(header.value).and_then(|seconds| u32::try_from(seconds).ok());
        }
    }
    let body_bytes = body_bytes.ok_or(WireError::NoLength)?;
    if body_bytes > MAX_ANSWER_BYTES {
        return Err(WireError::TooLarge);
    }
    Ok(Some(Head {
        status: response.code.unwrap_or(0),
        head_bytes,
        body_bytes,
        closes,
        retry_after,
    }))
}

fn number(value: &[u8]) -> Option<usize> {
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

/// What the ledger keeps of a 200.
#[derive(Debug, Deserialize)]
pub(super) struct Answer<'a> {
    pub(super) outcome: Option<&'a str>,
    pub(super) visible: bool,
    pub(super) event_id: &'a str,
    pub(super) position: &'a str,
}

/// Whether an error body's `code` says that the interaction may have been recorded.
pub(super) fn says_fate_unknown(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Refusal<'a> {
        code: Option<&'a str>,
    }
    serde_json::from_slice::<Refusal<'_>>(body)
        .is_ok_and(|refusal| refusal.code == Some("fate_unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tally_domain::ResourceType;

    /// Protects the request's bytes: the contract's body, the credential, the key, and a length
    /// that is right.
    #[test]
    fn a_request_is_put_together_from_its_parts() {
        let resources = [Resource::new(ResourceType::AiNote, 15).unwrap()];
        let parts = Parts::new("h:1", ["a", "b"].into_iter(), &resources);
        let mut out = b"left over".to_vec();
        parts.write(&mut out, 1, 0, InteractionType::Bookmark, Some("k-1"));
        let body = r#"{"resource_type":"ai_note","resource_id":15,"interaction_type":"bookmark"}"#;
        let expected = format!(
            "POST /api/v1/metrics/interact/ HTTP/1.1\r\nHost: h:1\r\nContent-Type: application/json\r\n\
             Authorization: Bearer b\r\nIdempotency-Key: k-1\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    /// Protects against counting half an answer as one.
    #[test]
    fn a_head_is_read_only_when_whole() {
        let answer = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 12\r\nRetry-After: 2\r\nconnection: close\r\n\r\n";
        for end in 0..answer.len() {
            assert_eq!(parse_head(&answer[..end]), Ok(None), "{end}");
        }
        let head = parse_head(answer).unwrap().unwrap();
        assert_eq!((head.status, head.body_bytes), (503, 12));
        assert_eq!(
            (head.head_bytes, head.closes, head.retry_after),
            (answer.len(), true, Some(2))
        );
        assert_eq!(
            parse_head(b"HTTP/1.1 200 OK\r\n\r\n"),
            Err(WireError::NoLength)
        );
        assert!(parse_head(b"SSH-2.0-x\r\n\r\n").is_err());
    }

    /// Protects the difference between "not recorded" and "maybe recorded".
    #[test]
    fn only_fate_unknown_says_fate_unknown() {
        assert!(says_fate_unknown(
            br#"{"detail":"x","code":"fate_unknown"}"#
        ));
        assert!(!says_fate_unknown(
            br#"{"detail":"fate_unknown","code":"unavailable"}"#
        ));
        assert!(!says_fate_unknown(b"fate_unknown"));
    }
}
