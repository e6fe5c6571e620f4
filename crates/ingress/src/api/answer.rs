//! What a success looks like. Field order is the contract's.

use actix_web::HttpResponse;
use actix_web::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use serde::{Serialize, Serializer};
use tally_domain::{
    Counters, EventId, InteractionType, Outcome, PositionToken, Resource, ResourceId, ResourceType,
    Toggles,
};
use tally_projector::View;

use super::ingest::Recorded;

/// There, as `stale`, where numbers are older than they should be.
const TALLY_STATE: HeaderName = HeaderName::from_static("tally-state");

/// Of an interaction: enough for nearly every answer.
const USUAL_BYTES: usize = 448;

#[derive(Serialize)]
struct Interacted {
    resource_type: ResourceType,
    resource_id: ResourceId,
    interaction_type: InteractionType,
    outcome: Option<Outcome>,
    visible: bool,
    counters: Counters,
    user: Toggles,
    event_id: EventId,
    position: Token,
}

#[derive(Serialize)]
struct State {
    resource_type: ResourceType,
    resource_id: ResourceId,
    visible: bool,
    counters: Counters,
    user: Toggles,
    /// `null` before the partition's first event: there is no position to name.
    position: Option<Token>,
}

/// A position as clients hold it.
struct Token(PositionToken);

impl Serialize for Token {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// The answer to an interaction.
pub(crate) fn interacted(
    resource: Resource,
    interaction_type: InteractionType,
    recorded: &Recorded,
) -> HttpResponse {
    let answer = json(&Interacted {
        resource_type: resource.kind,
        resource_id: resource.id,
        interaction_type,
        outcome: recorded.outcome,
        visible: recorded.outcome.is_some(),
        counters: recorded.counters,
        user: recorded.toggles,
        event_id: recorded.event_id,
        position: Token(recorded.position),
    });
    marked(answer, recorded.stale)
}

/// The answer to a question for a resource's state.
pub(crate) fn state(
    resource: Resource,
    view: &View,
    position: Option<PositionToken>,
    visible: bool,
) -> HttpResponse {
    let answer = json(&State {
        resource_type: resource.kind,
        resource_id: resource.id,
        visible,
        counters: view.counters,
        user: view.toggles,
        position: position.map(Token),
    });
    marked(answer, view.stale)
}

/// Says of numbers that they are as another version of the fold left them.
fn marked(mut answer: HttpResponse, stale: bool) -> HttpResponse {
    if stale {
        let stale = HeaderValue::from_static("stale");
        answer.headers_mut().insert(TALLY_STATE, stale);
    }
    answer
}

fn json(value: &impl Serialize) -> HttpResponse {
    let mut body = Vec::with_capacity(USUAL_BYTES);
    // Into memory, of texts and numbers: nothing of it can fail.
    let wrote = serde_json::to_writer(&mut body, value);
    debug_assert!(wrote.is_ok(), "texts and numbers serialise into memory");
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, HeaderValue::from_static("application/json")))
        .body(body)
}
