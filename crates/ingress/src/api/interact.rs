//! `POST /api/v1/metrics/interact/`: from the authenticated request to the answer.

use actix_web::http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};
use actix_web::{HttpRequest, HttpResponse};
use tally_domain::{IdempotencyKey, Resource, UserId};

use super::body;
use super::error::ApiError;
use super::payload::RequestBody;
use super::request_trace::{RequestTrace, Trace, parent};
use super::service::Worker;
use super::{answer, body::Interaction};

const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Media type, size, parse, key, validate, look up, record: in this order, and the first of them
/// that fails is the answer.
pub(crate) async fn interact(
    worker: &Worker,
    user: UserId,
    request: &HttpRequest,
    request_body: &mut RequestBody,
    traced: Option<&RequestTrace>,
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
    let trace = match traced {
        Some(ours) => {
            ours.asks(resource, Some(interaction_type));
            Trace::Ours(ours)
        }
        None => parent(request.headers()).map_or(Trace::None, Trace::Theirs),
    };
    worker.api.look_up(resource)?;
    let recorded = worker
        .ingest
        .record(user, resource, interaction_type, key, trace)
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
