//! Pages of other origins, where an operator names them. Off by default, and then not even in the
//! way of a request.

use actix_cors::Cors;
use actix_web::Error;
use actix_web::body::{BoxBody, EitherBody, MessageBody};
use actix_web::dev::ServiceResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::HeaderValue;

use super::error::ApiError;
use super::request_id::X_REQUEST_ID;

/// How long a browser may remember what is allowed, in seconds.
const REMEMBERED_SECONDS: usize = 600;

/// What pages of the given origins may do.
pub(crate) fn policy(origins: &[String]) -> Cors {
    let policy = Cors::default()
        .allowed_methods(["GET", "HEAD", "POST", "OPTIONS"])
        .allowed_headers([
            "accept",
            "authorization",
            "content-type",
            "idempotency-key",
            "traceparent",
            "x-request-id",
        ])
        .expose_headers([
            "allow",
            "retry-after",
            "tally-state",
            "www-authenticate",
            "x-request-id",
        ])
        .max_age(REMEMBERED_SECONDS);
    if origins.iter().any(|origin| origin == "*") {
        return policy.allow_any_origin().send_wildcard();
    }
    origins
        .iter()
        .fold(policy, |policy, origin| policy.allowed_origin(origin))
}

/// Gives the answers that the policy makes by itself, to preflights, what every answer has.
pub(crate) async fn finish<B: MessageBody + 'static>(
    id: HeaderValue,
    answered: impl Future<Output = Result<ServiceResponse<B>, Error>>,
) -> Result<ServiceResponse<EitherBody<B, BoxBody>>, Error> {
    let answer = answered.await?;
    if answer.headers().contains_key(X_REQUEST_ID) {
        return Ok(answer.map_into_left_body());
    }
    let mut answer = if answer.status() == StatusCode::BAD_REQUEST {
        let (request, refused) = answer.into_parts();
        let why = refused.error().map(ToString::to_string).unwrap_or_default();
        let refusal = ApiError::Preflight(why).answer(request.headers());
        ServiceResponse::new(request, refusal).map_into_right_body()
    } else {
        answer.map_into_left_body()
    };
    answer.headers_mut().insert(X_REQUEST_ID, id);
    Ok(answer)
}
