//! `POST /api/v1/metrics/interact/`: from the authenticated request to the answer.

use actix_web::http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};
use actix_web::{HttpRequest, HttpResponse};
use tally_domain::{IdempotencyKey, Resource, UserId};
use tally_log::TraceParent;

use super::body;
use super::error::ApiError;
use super::payload::RequestBody;
use super::service::Worker;
use super::{answer, body::Interaction};

const IDEMPOTENCY_KEY: &str = "idempotency-key";
const TRACEPARENT: &str = "traceparent";

/// Media type, size, parse, key, validate, look up, record: in this order, and the first of them
/// that fails is the answer.
pub(crate) async fn interact(
    worker: &Worker,
    user: UserId,
    request: &HttpRequest,
    request_body: &mut RequestBody,
) -> Result<HttpResponse, ApiError> {
    if !request_body.is_empty() {
        check_media_type(request.headers())?;
        check_encoding(request.headers())?;
    }
    let options = &worker.api.options;
    let bytes = request_body
        .read(options.max_body, options.body_timeout)
        .await?;
    let document = body::parse(&bytes)?;
    let key = idempotency_key(request.headers())?;
    let Interaction {
        resource_type,
        resource_id,
        interaction_type,
    } = document.validate().map_err(ApiError::Invalid)?;
    let resource = Resource {
        kind: resource_type,
        id: resource_id.ok_or(ApiError::NotFound)?,
    };
    worker.api.look_up(resource)?;
    let recorded = worker
        .ingest
        .record(
            user,
            resource,
            interaction_type,
            key,
            trace(request.headers()),
        )
        .await?;
    Ok(answer::interacted(resource, interaction_type, &recorded))
}

fn check_media_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let sent = headers.get(CONTENT_TYPE);
    let sent = sent.map_or(&b""[..], |value| value.as_bytes());
    let kind = sent.split(|byte| *byte == b';').next().unwrap_or_default();
    if kind.trim_ascii().eq_ignore_ascii_case(b"application/json") {
        return Ok(());
    }
    let sent = String::from_utf8_lossy(sent).into_owned();
    Err(ApiError::UnsupportedMediaType(sent))
}

/// A body is read as it comes: what is encoded would only be a parse error, and what decodes to far
/// more than it has bytes is nothing to let in.
fn check_encoding(headers: &HeaderMap) -> Result<(), ApiError> {
    for sent in headers.get_all(CONTENT_ENCODING) {
        if !sent.as_bytes().eq_ignore_ascii_case(b"identity") {
            let sent = String::from_utf8_lossy(sent.as_bytes()).into_owned();
            return Err(ApiError::UnsupportedEncoding(sent));
        }
    }
    Ok(())
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, ApiError> {
    let mut sent = headers.get_all(IDEMPOTENCY_KEY);
    let Some(first) = sent.next() else {
        return Ok(None);
    };
    let key = first.to_str().map_err(|_| ApiError::BadIdempotencyKey)?;
    match (IdempotencyKey::new(key), sent.next()) {
        (Ok(key), None) => Ok(Some(key)),
        (Ok(_), Some(_)) | (Err(_), _) => Err(ApiError::BadIdempotencyKey),
    }
}

/// The trace that the request belongs to. W3C Trace Context: one that is malformed, or sent twice,
/// is as good as none.
fn trace(headers: &HeaderMap) -> Option<TraceParent> {
    let mut sent = headers.get_all(TRACEPARENT);
    let first = sent.next()?;
    if sent.next().is_some() {
        return None;
    }
    first.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

    /// Protects traces that clients began, and records from headers that are none.
    #[test]
    fn a_trace_is_taken_where_it_is_one() {
        const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let sent = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
                headers.append(HeaderName::from_static(TRACEPARENT), value);
            }
            trace(&headers).map(|trace| trace.to_string())
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
}
