//! What every answer has in common: its form by `Accept`, and its request id.

use tally_tests::server::{INTERACT, LOCAL_KEY, interaction_request};
use tally_tests::{Folder, Request};

const NOT_FOUND: &str = r#"{"detail":"Not found."}"#;
const LIKE: &str = r#"{"resource_type":"quest","resource_id":42,"interaction_type":"like"}"#;

fn post(body: &str) -> Request {
    Request::post(INTERACT).bearer(LOCAL_KEY).json(body)
}

#[test]
fn the_same_facts_come_as_problem_json_where_asked_for() {
    let server = Folder::new().start();
    let problem = |request: Request| {
        let answer = request
            .header("Accept", "application/problem+json")
            .send(server.api());
        let value = answer.json();
        assert_eq!(
            answer.header("content-type"),
            Some("application/problem+json")
        );
        assert_eq!(value["status"], answer.status, "{value}");
        assert!(value["title"].is_string(), "{value}");
        let code = value["code"].as_str().unwrap_or_default();
        assert_eq!(value["type"], format!("about:blank#{code}"), "{value}");
        value
    };
    let value = problem(Request::post(INTERACT).json(LIKE));
    assert_eq!(value["status"], 401);
    assert_eq!(
        value["detail"],
        "Authentication credentials were not provided."
    );
    let value = problem(post(r#"{"resource_type":"foo","resource_id":42}"#));
    assert_eq!(value["status"], 400);
    assert_eq!(
        value["errors"],
        serde_json::json!({
            "resource_type": ["\"foo\" is not a valid choice."],
            "interaction_type": ["This field is required."],
        })
    );
    let value = problem(Request::get("/nowhere"));
    assert_eq!(
        (&value["status"], &value["detail"]),
        (&404.into(), &"Not found.".into())
    );
    let value = problem(post(LIKE).header("Idempotency-Key", ""));
    assert_eq!(value["code"], "bad_idempotency_key");

    for accept in ["text/html", "application/xml", "nonsense", "*/*"] {
        let answer = Request::get("/nowhere")
            .header("Accept", accept)
            .send(server.api());
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (404, NOT_FOUND),
            "{accept}"
        );
        let answer = interaction_request("quest", 42, "view").header("Accept", accept);
        assert_eq!(answer.send(server.api()).status, 200, "{accept}");
    }
}

#[test]
fn every_answer_carries_a_request_id() {
    let server = Folder::new().start();
    let to = server.api();
    let longest = "~".repeat(128);
    let requests = [
        interaction_request("quest", 42, "view"),
        Request::post(INTERACT).json(LIKE),
        Request::get("/nowhere"),
        Request::get(INTERACT).bearer(LOCAL_KEY),
        Request::new("OPTIONS", INTERACT).bearer(LOCAL_KEY),
        post(&"x".repeat(65_537)),
        post("{"),
        Request::get("/openapi.json"),
    ];
    for request in requests {
        let answer = |id: &[u8]| {
            let answer = request.clone().header("X-Request-Id", id).send(to);
            answer.header("x-request-id").map(str::to_owned)
        };
        for id in ["a", "client-7/x:y", longest.as_str()] {
            assert_eq!(answer(id.as_bytes()).as_deref(), Some(id), "{request:?}");
        }
        let too_long = "~".repeat(129);
        let bad: [&[u8]; 4] = [b"", too_long.as_bytes(), b"a b", "ü".as_bytes()];
        let mut given: Vec<String> = bad.iter().filter_map(|id| answer(id)).collect();
        given.extend(request.send(to).header("x-request-id").map(str::to_owned));
        assert_eq!(given.len(), bad.len() + 1, "{request:?}");
        let visible = |id: &String| {
            (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
        };
        assert!(given.iter().all(visible), "{given:?}");
        given.sort();
        given.dedup();
        assert_eq!(given.len(), bad.len() + 1, "not new each time: {given:?}");
    }
}
