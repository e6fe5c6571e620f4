//! The API's description, made from the types below. Names, texts and tags of the interaction
//! endpoint are the public contract's; what we add leaves a client of it working.

use std::collections::BTreeMap;

use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{Content, Header, ObjectBuilder, OpenApi, Ref, RefOr, Response, Schema};
use utoipa::{Modify, OpenApi as _, PartialSchema, ToSchema};

/// The whole description.
pub(crate) fn description() -> OpenApi {
    Description::openapi()
}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "AISquare Studio API", version = "1.0.0", description = "Record what people do with content, and read the updated state at once."),
    paths(interact, resource),
    components(schemas(ErrorDetail, Problem, ResourceState)),
    modifiers(&Bearer, &EveryAnswer),
    security(("bearer" = [])),
)]
struct Description;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, description: &mut OpenApi) {
        let components = description.components.get_or_insert_default();
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        components.add_security_scheme("bearer", scheme);
    }
}

/// What answers have in common, whatever was asked.
struct EveryAnswer;

impl Modify for EveryAnswer {
    fn modify(&self, description: &mut OpenApi) {
        for item in description.paths.paths.values_mut() {
            for operation in [&mut item.get, &mut item.post].into_iter().flatten() {
                for (status, answer) in &mut operation.responses.responses {
                    if let RefOr::T(answer) = answer {
                        common(status, answer);
                    }
                }
            }
        }
    }
}

fn common(status: &str, answer: &mut Response) {
    let mut header = |name: &str, text: &str| {
        let mut header = Header::default();
        header.description = Some(text.to_owned());
        answer.headers.insert(name.to_owned(), header);
    };
    header(
        "X-Request-Id",
        "The client's own, where it sent 1 to 128 visible ASCII characters; else a new one",
    );
    if status == "200" {
        header(
            "Tally-State",
            "`stale` where counters and user are as an earlier version of the service left them, while they are counted anew; else absent",
        );
    }
    if status == "401" {
        header("WWW-Authenticate", "The scheme to use");
    }
    if status.starts_with(['4', '5']) {
        let problem = Ref::from_schema_name("Problem");
        let content = Content::new(Some(problem));
        let kind = "application/problem+json".to_owned();
        answer.content.insert(kind, content);
    }
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "it only describes")]
enum MetricsResourceTypeEnum {
    Quest,
    AiNote,
    AiExpert,
    Podcast,
    Collection,
    Publication,
    AiVideo,
    Profile,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "it only describes")]
enum InteractionTypeEnum {
    View,
    Like,
    Unlike,
    Share,
    Bookmark,
    Unbookmark,
    Comment,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "it only describes")]
enum OutcomeEnum {
    Applied,
    NoChange,
    Duplicate,
    Filtered,
}

/// Any whole number, in any spelling that JSON has.
struct AnyInteger;

impl PartialSchema for AnyInteger {
    fn schema() -> RefOr<Schema> {
        let integer = ObjectBuilder::new().schema_type(utoipa::openapi::Type::Integer);
        Schema::from(integer).into()
    }
}

impl ToSchema for AnyInteger {}

/// As the contract describes its errors.
struct AnyType;

impl PartialSchema for AnyType {
    fn schema() -> RefOr<Schema> {
        let any = ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::SchemaType::AnyValue)
            .description(Some("Any type"));
        Schema::from(any).into()
    }
}

impl ToSchema for AnyType {}

#[derive(ToSchema)]
#[expect(dead_code, reason = "it only describes")]
struct InteractionRequest {
    #[schema(inline = false)]
    resource_type: MetricsResourceTypeEnum,
    #[schema(inline)]
    resource_id: AnyInteger,
    #[schema(inline = false)]
    interaction_type: InteractionTypeEnum,
}

/// The resource's counters.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it only describes")]
struct Counters {
    /// Views ever.
    views: u64,
    /// Users who like it now.
    likes: u64,
    /// Shares ever.
    shares: u64,
    /// Users who have it bookmarked now.
    bookmarks: u64,
    /// Comments ever.
    comments: u64,
}

/// What the caller has set on the resource.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it only describes")]
struct UserState {
    /// The caller likes it.
    liked: bool,
    /// The caller has it bookmarked.
    bookmarked: bool,
}

#[derive(ToSchema)]
#[schema(as = metrics_interactCreate_Response_200)]
#[expect(dead_code, reason = "it only describes")]
struct InteractionResponse {
    resource_type: MetricsResourceTypeEnum,
    #[schema(inline)]
    resource_id: AnyInteger,
    interaction_type: InteractionTypeEnum,
    /// What became of it; null where it is recorded, but not counted yet.
    outcome: Option<OutcomeEnum>,
    /// Whether counters and user include this interaction.
    visible: bool,
    counters: Counters,
    user: UserState,
    /// The event's id, a UUID.
    event_id: String,
    /// The event's position, for `at_least`.
    position: String,
}

/// A resource as of its newest event.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it only describes")]
struct ResourceState {
    resource_type: MetricsResourceTypeEnum,
    #[schema(inline)]
    resource_id: AnyInteger,
    /// Whether it includes the position that was asked for.
    visible: bool,
    counters: Counters,
    user: UserState,
    /// The position it is as of; null before the first event.
    position: Option<String>,
}

/// An error that is no field's.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it only describes")]
struct ErrorDetail {
    /// In a sentence.
    detail: String,
    /// As a word.
    code: Option<String>,
}

/// The same facts as RFC 9457 has them, where `Accept` asks for `application/problem+json`.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it only describes")]
struct Problem {
    /// `about:blank#` and the code.
    r#type: String,
    /// The status in words.
    title: String,
    status: u16,
    /// In a sentence.
    detail: String,
    /// As a word.
    code: String,
    /// What is wrong with each field, where it is the fields.
    errors: Option<BTreeMap<String, Vec<String>>>,
}

#[utoipa::path(
    post,
    path = "/api/v1/metrics/interact/",
    operation_id = "interact-create",
    tag = "subpackage_metrics",
    summary = "Log User Interaction",
    description = "Record a user interaction with a resource and get updated state",
    params(
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]([ -~]*[!-~])?$",
            description = "Makes a retry safe: the same key with the same interaction counts once."),
        ("traceparent" = Option<String>, Header,
            description = "The trace the request belongs to (W3C Trace Context, version 00); one that is malformed is ignored."),
    ),
    request_body(content = InteractionRequest, content_type = "application/json"),
    responses(
        (status = 200, description = "Interaction recorded successfully", body = InteractionResponse),
        (status = 400, description = "Invalid request data", body = inline(AnyType)),
        (status = 401, description = "Authentication required", body = inline(AnyType)),
        (status = 404, description = "Resource not found", body = inline(AnyType)),
        (status = 408, description = "The body did not come in time", body = ErrorDetail),
        (status = 413, description = "The body is too large", body = ErrorDetail),
        (status = 415, description = "The body is not declared as JSON, or it is encoded", body = ErrorDetail),
        (status = 422, description = "The Idempotency-Key was used with another interaction", body = ErrorDetail),
        (status = 503, description = "Not recorded, or nobody knows (see code); retry with the same Idempotency-Key", body = ErrorDetail,
            headers(("Retry-After" = u32, description = "In seconds"))),
    ),
)]
#[expect(dead_code, reason = "it only describes")]
fn interact() {}

#[utoipa::path(
    get,
    path = "/api/v1/metrics/resources/{type}/{id}/",
    operation_id = "resource-retrieve",
    tag = "subpackage_metrics",
    summary = "Read a resource's state",
    description = "Counters of a resource and the caller's toggles, as of now or at least of a position",
    params(
        ("type" = inline(MetricsResourceTypeEnum), Path, description = "The kind of resource"),
        ("id" = u64, Path, description = "The resource's id"),
        ("at_least" = Option<String>, Query, pattern = "^[A-Za-z0-9_-]{34}$",
            description = "A position from an earlier answer: wait until the state includes it"),
    ),
    responses(
        (status = 200, description = "The state", body = ResourceState),
        (status = 400, description = "The position can't be waited for", body = ErrorDetail),
        (status = 401, description = "Authentication required", body = ErrorDetail),
        (status = 404, description = "Resource not found", body = ErrorDetail),
        (status = 503, description = "Can't be answered now; try again after `Retry-After`", body = ErrorDetail,
            headers(("Retry-After" = u32, description = "In seconds"))),
    ),
)]
#[expect(dead_code, reason = "it only describes")]
fn resource() {}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tally_domain::{InteractionType, Outcome, ResourceType};

    use super::*;

    fn written() -> Value {
        serde_json::to_value(description()).unwrap()
    }

    /// Protects generated clients: names, texts and required fields are the contract's.
    #[test]
    fn the_interaction_endpoint_is_described_as_the_contract_has_it() {
        let written = written();
        assert!(written["openapi"].as_str().unwrap().starts_with("3.1."));
        let endpoint = &written["paths"]["/api/v1/metrics/interact/"]["post"];
        assert_eq!(endpoint["operationId"], "interact-create");
        assert_eq!(endpoint["summary"], "Log User Interaction");
        let text = "Record a user interaction with a resource and get updated state";
        assert_eq!(endpoint["description"], text);
        assert_eq!(endpoint["tags"], json!(["subpackage_metrics"]));
        let schema = |content: &Value| content["content"]["application/json"]["schema"].clone();
        let request = schema(&endpoint["requestBody"]);
        assert_eq!(
            request,
            json!({"$ref": "#/components/schemas/InteractionRequest"})
        );
        let answers = &endpoint["responses"];
        let success = "#/components/schemas/metrics_interactCreate_Response_200";
        assert_eq!(schema(&answers["200"]), json!({ "$ref": success }));
        for (status, text) in [
            ("200", "Interaction recorded successfully"),
            ("400", "Invalid request data"),
            ("401", "Authentication required"),
            ("404", "Resource not found"),
        ] {
            assert_eq!(answers[status]["description"], text);
            if status != "200" {
                assert_eq!(schema(&answers[status]), json!({"description": "Any type"}));
            }
        }
        let schemas = &written["components"]["schemas"];
        let request = &schemas["InteractionRequest"];
        assert_eq!(request["type"], "object");
        let fields = json!(["resource_type", "resource_id", "interaction_type"]);
        assert_eq!(request["required"], fields);
        assert_eq!(request["properties"]["resource_id"]["type"], "integer");
        for (field, name) in [
            ("resource_type", "MetricsResourceTypeEnum"),
            ("interaction_type", "InteractionTypeEnum"),
        ] {
            let reference = format!("#/components/schemas/{name}");
            assert_eq!(request["properties"][field], json!({ "$ref": reference }));
        }
        assert_eq!(
            schemas["metrics_interactCreate_Response_200"]["type"],
            "object"
        );
    }

    /// Protects the description from words that the service does not know, and the other way
    /// round.
    #[test]
    fn the_words_are_the_domains() {
        let written = written();
        let words = |name: &str| written["components"]["schemas"][name]["enum"].clone();
        let types: Vec<_> = ResourceType::ALL.iter().map(|word| word.as_str()).collect();
        assert_eq!(words("MetricsResourceTypeEnum"), json!(types));
        let interactions: Vec<_> = InteractionType::ALL
            .iter()
            .map(|word| word.as_str())
            .collect();
        assert_eq!(words("InteractionTypeEnum"), json!(interactions));
        // A conflict is no success: it is a 422.
        let outcomes = Outcome::ALL
            .iter()
            .filter(|word| **word != Outcome::Conflict);
        let outcomes: Vec<_> = outcomes.map(|word| word.as_str()).collect();
        assert_eq!(words("OutcomeEnum"), json!(outcomes));
    }

    /// Protects readers of the description: every reference leads somewhere.
    #[test]
    fn every_reference_leads_somewhere() {
        fn references(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(reference)) = map.get("$ref") {
                        found.push(reference.clone());
                    }
                    map.values().for_each(|value| references(value, found));
                }
                Value::Array(all) => all.iter().for_each(|value| references(value, found)),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            }
        }
        let (written, mut found) = (written(), Vec::new());
        references(&written, &mut found);
        assert!(found.len() > 10);
        for reference in found {
            let place = reference.strip_prefix('#').unwrap();
            assert!(written.pointer(place).is_some(), "{reference}");
        }
    }
}
