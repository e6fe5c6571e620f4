//! `GET /api/v1/metrics/resources/{type}/{id}/`: a resource's state, as of now or of a position.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use tally_domain::{Position, PositionToken, Resource, TokenError, UserId};
use tally_projector::View;
use tokio::time::timeout;

use super::answer;
use super::error::ApiError;
use super::ingest::READ_LIMIT;
use super::service::{Api, Worker};

const MALFORMED: &str = "at_least is not a position that was given out here.";
const OTHER_LOG: &str = "at_least is a position of another log.";
const OTHER_PARTITION: &str = "at_least is a position of another partition than the resource's.";
const PAST_HEAD: &str = "at_least lies past the end of the log.";
const TOO_MANY: &str = "Too many requests are waiting; try again soon.";
const TOO_SLOW: &str = "The state could not be read in time; try again soon.";
const LOG_AWAY: &str = "The log can't be asked; try again soon.";

/// What is said where the state can't be read: it is recovered then.
const STATE_AWAY: &str = "The state can't be read and is being recovered; try again soon.";

/// The state, and whether it includes the position that was asked for.
enum Looked {
    At(View),
    Behind(View),
    PastHead,
}

/// Answers with the newest state; with `?at_least=TOKEN`, waits a bounded time until it includes
/// that position, and says whether it does.
pub(crate) async fn read(
    worker: &Worker,
    user: UserId,
    resource: Option<Resource>,
    request: &HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let api = &worker.api;
    let resource = resource.ok_or(ApiError::NotFound)?;
    let at_least = at_least(request.query_string())
        .map(|token| wanted(api, resource, token))
        .transpose()?;
    api.look_up(resource)?;
    let (view, visible) = match look(api, resource, &user, at_least).await? {
        Looked::At(view) => (view, true),
        Looked::PastHead => return Err(ApiError::BadPosition(PAST_HEAD)),
        Looked::Behind(view) => match at_least {
            None => (view, true),
            Some(position) => wait(worker, resource, &user, position, view).await?,
        },
    };
    let log = api.log.identity().id;
    let position = view
        .position
        .map(|position| PositionToken::new(log, position));
    Ok(answer::state(resource, &view, position, visible))
}

/// The raw value of `at_least`, where it is there. A token needs no escapes.
fn at_least(query: &str) -> Option<&str> {
    query
        .split('&')
        .find_map(|pair| match pair.split_once('=') {
            Some((name, value)) => (name == "at_least").then_some(value),
            None => (pair == "at_least").then_some(""),
        })
}

fn wanted(api: &Api, resource: Resource, token: &str) -> Result<Position, ApiError> {
    let log = api.log.identity();
    let position = token
        .parse::<PositionToken>()
        .and_then(|token| token.position_in(log.id))
        .map_err(|error| {
            ApiError::BadPosition(match error {
                TokenError::Malformed => MALFORMED,
                TokenError::OtherLog => OTHER_LOG,
            })
        })?;
    if position.partition == resource.partition(log.partitions) {
        Ok(position)
    } else {
        Err(ApiError::BadPosition(OTHER_PARTITION))
    }
}

/// Reads the state and, where it does not include the position, asks the log for its head. Both
/// may block, so they are done on a thread where that holds up nobody.
async fn look(
    api: &Arc<Api>,
    resource: Resource,
    user: &UserId,
    at_least: Option<Position>,
) -> Result<Looked, ApiError> {
    let (api, user) = (Arc::clone(api), user.clone());
    let looked = web::block(move || {
        let view = api.projector.read(resource, &user).map_err(|error| {
            tracing::error!(%error, "the state can't be read");
            ApiError::Unavailable(STATE_AWAY)
        })?;
        let Some(wanted) = at_least else {
            return Ok(Looked::At(view));
        };
        if view
            .position
            .is_some_and(|position| position.offset >= wanted.offset)
        {
            return Ok(Looked::At(view));
        }
        let head = api.log.head().map_err(|error| {
            tracing::warn!(%error, "the log can't be asked for its head");
            ApiError::Unavailable(LOG_AWAY)
        })?;
        let place = usize::try_from(wanted.partition).unwrap_or(usize::MAX);
        match head.get(place) {
            Some(head) if wanted.offset < *head => Ok(Looked::Behind(view)),
            Some(_) | None => Ok(Looked::PastHead),
        }
    });
    match timeout(READ_LIMIT, looked).await {
        Ok(Ok(looked)) => looked,
        Ok(Err(error)) => Err(ApiError::Internal(error.to_string())),
        Err(_) => Err(ApiError::Unavailable(TOO_SLOW)),
    }
}

/// Waits until the position is applied or the limit is over; returns the state then.
async fn wait(
    worker: &Worker,
    resource: Resource,
    user: &UserId,
    position: Position,
    before: View,
) -> Result<(View, bool), ApiError> {
    let api = &worker.api;
    if before.stale {
        // While the whole log is folded anew nothing becomes visible soon.
        return Ok((before, false));
    }
    let applied = api
        .projector
        .wait_for_position(position, worker.ingest.mailbox())
        .map_err(|_| ApiError::Unavailable(TOO_MANY))?;
    let waiting = api.projector.waiting();
    match timeout(api.options.wait_limit, applied).await {
        Ok(Ok(())) => waiting.folded(),
        // The limit is over, or the partition is not folded any more.
        Ok(Err(_)) | Err(_) => {
            waiting.timed_out();
            return Ok((before, false));
        }
    }
    match look(api, resource, user, Some(position)).await? {
        Looked::At(view) => Ok((view, true)),
        Looked::Behind(view) => Ok((view, false)),
        Looked::PastHead => Err(ApiError::BadPosition(PAST_HEAD)),
    }
}
