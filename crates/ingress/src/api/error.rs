//! Every answer that is no success: one enum, and its two forms on the wire.
//!
//! By default the form is that of Django REST framework, which clients of this API's family read
//! and match on; with `Accept: application/problem+json` the same facts come as RFC 9457 has them.

use std::borrow::Cow;

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{
    ACCEPT, ACCEPT_ENCODING, ALLOW, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::body::{FieldErrors, Invalid, Kind};
use super::json::JsonError;
use crate::auth::jwt::error::NO_KEYS;
use crate::auth::{AuthError, JwtError};

/// How long a client should wait before it tries again what was refused for now, in seconds.
const RETRY_AFTER_SECONDS: &str = "1";

/// Why a request is not answered with success.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ApiError {
    /// Who asks is not known.
    #[error("not authenticated: {0}")]
    Auth(AuthError),
    /// The body is not JSON.
    #[error("the body is not JSON: {0}")]
    Parse(#[from] JsonError),
    /// The body is JSON, but no interaction.
    #[error("the body is no interaction: {0:?}")]
    Invalid(Invalid),
    /// The idempotency key can't be one.
    #[error("the idempotency key is invalid")]
    BadIdempotencyKey,
    /// The position to wait for is none that can come.
    #[error("the position can't be waited for: {0}")]
    BadPosition(&'static str),
    /// No such route, or no such resource.
    #[error("not found")]
    NotFound,
    /// The route has no such method.
    #[error("method {method} is not allowed")]
    MethodNotAllowed {
        /// As sent.
        method: String,
        /// What is, for the `Allow` header.
        allow: &'static str,
    },
    /// The body is not declared as JSON.
    #[error("media type {0:?} is not supported")]
    UnsupportedMediaType(String),
    /// The body is encoded.
    #[error("content encoding {0:?} is not supported")]
    UnsupportedEncoding(String),
    /// A page may not ask what its browser asked about.
    #[error("CORS preflight refused: {0}")]
    Preflight(String),
    /// The body did not come in time.
    #[error("the body did not come in time")]
    Timeout,
    /// The body did not come whole.
    #[error("the body broke off: {0}")]
    BrokenBody(String),
    /// The body is over the limit.
    #[error("the body is larger than {limit} bytes")]
    TooLarge {
        /// In bytes.
        limit: usize,
    },
    /// The idempotency key was used with another interaction.
    #[error("the idempotency key was used with another interaction")]
    KeyReused,
    /// It can't be done now, and nothing was done.
    #[error("unavailable: {0}")]
    Unavailable(&'static str),
    /// Nobody knows whether the event is in the log.
    #[error("the event's fate is unknown")]
    FateUnknown,
    /// A fault of ours. The cause goes to the log with the request's id, never to the client.
    #[error("internal error: {0}")]
    Internal(String),
}

/// What both forms are made of.
struct Facts<'a> {
    status: StatusCode,
    code: &'static str,
    /// Whether the code stands in the default form too.
    shown_code: bool,
    detail: Cow<'a, str>,
    errors: Option<Errors<'a>>,
}

enum Errors<'a> {
    Fields(&'a FieldErrors),
    /// `non_field_errors`
    Whole(Cow<'static, str>),
}

impl Serialize for Errors<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            Self::Whole(what) => map.serialize_entry("non_field_errors", &[what])?,
            Self::Fields(fields) => {
                let all = [
                    ("resource_type", &fields.resource_type),
                    ("resource_id", &fields.resource_id),
                    ("interaction_type", &fields.interaction_type),
                ];
                for (name, error) in all {
                    if let Some(error) = error {
                        map.serialize_entry(name, &[error])?;
                    }
                }
            }
        }
        map.end()
    }
}

#[derive(Serialize)]
struct Detail<'a> {
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
}

#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<&'a Errors<'a>>,
}

impl ApiError {
    /// The answer, in the form that the request's `Accept` asks for.
    pub(crate) fn answer(&self, request: &HeaderMap) -> HttpResponse {
        let facts = self.facts();
        let mut response = HttpResponse::build(facts.status);
        match self {
            Self::Auth(_) => {
                let scheme = HeaderValue::from_static("Bearer realm=\"api\"");
                response.insert_header((WWW_AUTHENTICATE, scheme));
            }
            Self::MethodNotAllowed { allow, .. } => {
                response.insert_header((ALLOW, HeaderValue::from_static(allow)));
            }
            Self::UnsupportedEncoding(_) => {
                response.insert_header((ACCEPT_ENCODING, HeaderValue::from_static("identity")));
            }
            Self::Unavailable(_) | Self::FateUnknown => {
                let seconds = HeaderValue::from_static(RETRY_AFTER_SECONDS);
                response.insert_header((RETRY_AFTER, seconds));
            }
            Self::Timeout | Self::BrokenBody(_) => {
                response.force_close();
            }
            Self::Parse(_)
            | Self::Invalid(_)
            | Self::BadIdempotencyKey
            | Self::BadPosition(_)
            | Self::NotFound
            | Self::UnsupportedMediaType(_)
            | Self::Preflight(_)
            | Self::TooLarge { .. }
            | Self::KeyReused
            | Self::Internal(_) => {}
        }
        let (kind, body) = if wants_problem(request) {
            ("application/problem+json", facts.problem())
        } else {
            ("application/json", facts.plain())
        };
        response
            .insert_header((CONTENT_TYPE, HeaderValue::from_static(kind)))
            .body(body)
    }

    fn facts(&self) -> Facts<'_> {
        match self {
            Self::Auth(error) => auth_facts(*error),
            Self::Parse(error) => {
                let detail = format!("JSON parse error - {error}");
                Facts::new(StatusCode::BAD_REQUEST, "parse_error", detail)
            }
            Self::Invalid(invalid) => Facts {
                errors: Some(invalid_errors(invalid)),
                ..Facts::new(StatusCode::BAD_REQUEST, "invalid", "Invalid input.")
            },
            Self::BadIdempotencyKey => {
                let detail = "Idempotency-Key must be 1 to 255 printable ASCII characters, once.";
                Facts::coded(StatusCode::BAD_REQUEST, "bad_idempotency_key", detail)
            }
            Self::BadPosition(why) => Facts::coded(StatusCode::BAD_REQUEST, "bad_position", *why),
            Self::NotFound => Facts::new(StatusCode::NOT_FOUND, "not_found", "Not found."),
            Self::MethodNotAllowed { method, .. } => {
                let detail = format!("Method \"{method}\" not allowed.");
                Facts::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
            }
            Self::UnsupportedMediaType(kind) => {
                let detail = format!("Unsupported media type \"{kind}\" in request.");
                let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
                Facts::new(status, "unsupported_media_type", detail)
            }
            Self::UnsupportedEncoding(encoding) => {
                let detail = format!("Unsupported content encoding \"{encoding}\" in request.");
                let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
                Facts::new(status, "unsupported_content_encoding", detail)
            }
            Self::Preflight(why) => Facts::new(StatusCode::BAD_REQUEST, "cors", why),
            Self::Timeout => {
                let detail = "Request was not received in time.";
                Facts::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", detail)
            }
            Self::BrokenBody(_) => {
                let detail = "Request body could not be read.";
                Facts::new(StatusCode::BAD_REQUEST, "bad_request", detail)
            }
            Self::TooLarge { limit } => {
                let detail = format!("Request body exceeded the limit of {limit} bytes.");
                Facts::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", detail)
            }
            Self::KeyReused => Facts::coded(
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency_key_reused",
                "Idempotency-Key was already used with another interaction.",
            ),
            Self::Unavailable(what) => {
                Facts::coded(StatusCode::SERVICE_UNAVAILABLE, "unavailable", *what)
            }
            Self::FateUnknown => Facts::coded(
                StatusCode::SERVICE_UNAVAILABLE,
                "fate_unknown",
                "The interaction may or may not have been recorded; retry with the same Idempotency-Key.",
            ),
            Self::Internal(_) => Facts::coded(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "Internal server error.",
            ),
        }
    }
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        match error {
            // The token may well be valid: its owner is to come again, not to get another one.
            AuthError::Token(JwtError::NoKeys) => Self::Unavailable(NO_KEYS),
            AuthError::NotProvided
            | AuthError::Malformed
            | AuthError::UnknownKey
            | AuthError::KeyExpired
            | AuthError::Token(_) => Self::Auth(error),
        }
    }
}

/// What the error says of itself. That nobody said who they are has a code only where one is asked
/// for.
fn auth_facts(error: AuthError) -> Facts<'static> {
    let (status, detail) = (StatusCode::UNAUTHORIZED, error.to_string());
    match error.code() {
        Some(code) => Facts::coded(status, code, detail),
        None => Facts::new(status, "not_authenticated", detail),
    }
}

fn invalid_errors(invalid: &Invalid) -> Errors<'_> {
    match invalid {
        Invalid::NoData => Errors::Whole("No data provided".into()),
        Invalid::NotAnObject(kind) => Errors::Whole(not_an_object(*kind).into()),
        Invalid::Fields(fields) => Errors::Fields(fields),
    }
}

fn not_an_object(kind: Kind) -> String {
    format!("Invalid data. Expected a dictionary, but got {kind}.")
}

impl<'a> Facts<'a> {
    fn new(status: StatusCode, code: &'static str, detail: impl Into<Cow<'a, str>>) -> Self {
        let detail = detail.into();
        Self {
            status,
            code,
            shown_code: false,
            detail,
            errors: None,
        }
    }

    /// With the code in both forms.
    fn coded(status: StatusCode, code: &'static str, detail: impl Into<Cow<'a, str>>) -> Self {
        Self {
            shown_code: true,
            ..Self::new(status, code, detail)
        }
    }

    fn plain(&self) -> String {
        match &self.errors {
            Some(errors) => json(errors),
            None => json(&Detail {
                detail: &self.detail,
                code: self.shown_code.then_some(self.code),
            }),
        }
    }

    fn problem(&self) -> String {
        json(&Problem {
            r#type: format!("about:blank#{}", self.code),
            title: self.status.canonical_reason().unwrap_or_default(),
            status: self.status.as_u16(),
            detail: &self.detail,
            code: self.code,
            errors: self.errors.as_ref(),
        })
    }
}

fn json(value: &impl Serialize) -> String {
    // Texts and numbers only: nothing of it can fail.
    serde_json::to_string(value).unwrap_or_default()
}

/// Whether the client asks for RFC 9457. An `Accept` that nothing here can meet is as good as none.
fn wants_problem(request: &HeaderMap) -> bool {
    let accepts = |value: &HeaderValue| {
        let ranges = value.to_str().unwrap_or_default().split(',');
        ranges.into_iter().any(|range| {
            let mut parts = range.split(';').map(str::trim);
            let named = parts
                .next()
                .is_some_and(|kind| kind.eq_ignore_ascii_case("application/problem+json"));
            let zero = |part: &str| {
                let weight = part.strip_prefix("q=").or_else(|| part.strip_prefix("Q="));
                weight.is_some_and(|weight| {
                    weight
                        .trim_end_matches('0')
                        .trim_end_matches('.')
                        .is_empty()
                })
            };
            named && !parts.any(zero)
        })
    };
    request.get_all(ACCEPT).any(accepts)
}

#[cfg(test)]
mod tests;
