//! The contract: what a client that does everything right sees.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tally_tests::fold::kafka_partition;
use tally_tests::server::{INTERACT, LOCAL_KEY, interaction_request, resource_path};
use tally_tests::{Folder, Request, Server};

/// The three example bodies of the contract, as its examples send them.
const EXAMPLES: [&str; 3] = [
    r#"{"resource_type":"ai_note","resource_id":15,"interaction_type":"bookmark"}"#,
    r#"{"resource_type":"ai_expert","resource_id":7,"interaction_type":"view"}"#,
    "{\n  \"resource_type\": \"quest\",\n  \"resource_id\": 42,\n  \"interaction_type\": \"like\"\n}",
];

const RESOURCE_TYPES: [&str; 8] = [
    "quest",
    "ai_note",
    "ai_expert",
    "podcast",
    "collection",
    "publication",
    "ai_video",
    "profile",
];
const INTERACTION_TYPES: [&str; 7] = [
    "view",
    "like",
    "unlike",
    "share",
    "bookmark",
    "unbookmark",
    "comment",
];

fn send(server: &Server, path: &str, body: &str) -> Value {
    let request = Request::post(path).bearer(LOCAL_KEY).json(body);
    let answer = request.send(server.api());
    assert_eq!(answer.header("content-type"), Some("application/json"));
    answer.ok()
}

/// The answer without what differs each time, which must be there.
fn without_identity(mut answer: Value) -> Value {
    for name in ["event_id", "position"] {
        let taken = answer
            .as_object_mut()
            .and_then(|fields| fields.remove(name));
        let text = taken.as_ref().and_then(Value::as_str).unwrap_or_default();
        assert!(!text.is_empty(), "no {name}: {answer}");
    }
    answer
}

fn counters(views: u64, likes: u64, bookmarks: u64) -> Value {
    json!({"views": views, "likes": likes, "shares": 0, "bookmarks": bookmarks, "comments": 0})
}

#[test]
fn the_examples_move_counters_and_toggles_and_again_they_do_not_count_twice() {
    let server = Folder::new().start();
    let expected = |bookmark: &str, views: u64, like: &str| {
        [
            json!({"resource_type": "ai_note", "resource_id": 15, "interaction_type": "bookmark",
                "outcome": bookmark, "visible": true, "counters": counters(0, 0, 1),
                "user": {"liked": false, "bookmarked": true}}),
            json!({"resource_type": "ai_expert", "resource_id": 7, "interaction_type": "view",
                "outcome": "applied", "visible": true, "counters": counters(views, 0, 0),
                "user": {"liked": false, "bookmarked": false}}),
            json!({"resource_type": "quest", "resource_id": 42, "interaction_type": "like",
                "outcome": like, "visible": true, "counters": counters(0, 1, 0),
                "user": {"liked": true, "bookmarked": false}}),
        ]
    };
    let first = EXAMPLES.map(|body| without_identity(send(&server, INTERACT, body)));
    assert_eq!(first, expected("applied", 1, "applied"));
    // Without the slash it is the same endpoint, and no redirect.
    let no_slash = INTERACT.trim_end_matches('/');
    let again = EXAMPLES.map(|body| without_identity(send(&server, no_slash, body)));
    assert_eq!(again, expected("no_change", 2, "no_change"));
}

#[test]
fn every_type_and_interaction_is_taken() {
    let server = Folder::new().with("TALLY__CATALOGUE__MODE", "open").start();
    for (id, kind) in (1_u64..).zip(RESOURCE_TYPES) {
        for interaction in INTERACTION_TYPES {
            let answer = server.interact(kind, id, interaction).ok();
            assert_eq!(
                answer["outcome"], "applied",
                "{kind} {interaction}: {answer}"
            );
            assert_eq!(answer["interaction_type"], interaction);
        }
        let state = server.resource(kind, id).ok();
        let ones = json!({"views": 1, "likes": 0, "shares": 1, "bookmarks": 0, "comments": 1});
        assert_eq!(state["counters"], ones, "{kind}");
    }
}

#[test]
fn toggles_are_per_user_and_never_go_below_zero() {
    let server = Folder::new().start();
    let other = server
        .folder()
        .run(&["keys", "create", "--user", "someone-else"]);
    let other = created_key(&other.ok());
    let by_other = |interaction: &str| {
        let body = json!({"resource_type": "quest", "resource_id": 42,
            "interaction_type": interaction});
        let request = Request::post(INTERACT)
            .bearer(&other)
            .json(&body.to_string());
        tally_tests::wait::until("the new key", || {
            let answer = request.send(server.api());
            (answer.status != 401).then(|| answer.ok())
        })
    };
    let mine = |interaction: &str| server.interact("quest", 42, interaction).ok();
    let seen = |answer: &Value| {
        let likes = answer["counters"]["likes"].as_u64();
        let outcome = answer["outcome"].as_str().map(str::to_owned);
        (
            outcome.unwrap_or_default(),
            likes.unwrap_or(99),
            answer["user"]["liked"] == true,
        )
    };
    let is = |outcome: &str, likes: u64, liked: bool| (outcome.to_owned(), likes, liked);
    assert_eq!(seen(&mine("unlike")), is("no_change", 0, false));
    assert_eq!(seen(&mine("like")), is("applied", 1, true));
    assert_eq!(seen(&by_other("view")), is("applied", 1, false));
    assert_eq!(seen(&by_other("like")), is("applied", 2, true));
    assert_eq!(seen(&mine("unlike")), is("applied", 1, false));
    assert_eq!(seen(&mine("unlike")), is("no_change", 1, false));
    assert_eq!(seen(&by_other("unlike")), is("applied", 0, false));
    assert_eq!(seen(&by_other("unlike")), is("no_change", 0, false));
}

/// The key in the output of `keys create`: its longest word.
fn created_key(output: &str) -> String {
    let words = output.split(|c: char| c.is_whitespace() || c == '"');
    let key = words.max_by_key(|word| word.len()).unwrap_or_default();
    assert!(key.len() >= 20, "no key in: {output}");
    key.to_owned()
}

#[test]
fn an_idempotency_key_makes_a_retry_safe() {
    let server = Folder::new().start();
    let view = |kind: &str, id: u64, key: &str| {
        let request = interaction_request(kind, id, "view").header("Idempotency-Key", key);
        request.send(server.api())
    };
    let first = view("quest", 42, "k").ok();
    let retry = view("quest", 42, "k").ok();
    assert_eq!(first["outcome"], "applied");
    assert_eq!(retry["outcome"], "duplicate");
    assert_eq!(retry["counters"]["views"], 1, "{retry}");
    assert_ne!(
        first["event_id"], retry["event_id"],
        "a retry is an event of its own"
    );
    assert_ne!(first["position"], retry["position"]);
    // The key counts within a resource only.
    assert_eq!(view("ai_note", 15, "k").ok()["outcome"], "applied");
    assert_eq!(view("quest", 42, "K").ok()["outcome"], "applied");
    // A refused request consumes nothing.
    let refused = interaction_request("quest", 42, "nonsense").header("Idempotency-Key", "r");
    assert_eq!(refused.send(server.api()).status, 400);
    assert_eq!(view("quest", 42, "r").ok()["outcome"], "applied");
    // What changed nothing is remembered as well: the like below would apply without its key.
    let like = |interaction: &str, key: Option<&str>| {
        let request = interaction_request("quest", 42, interaction);
        let request = key.iter().fold(request, |request, key| {
            request.header("Idempotency-Key", key)
        });
        request.send(server.api()).ok()["outcome"].clone()
    };
    assert_eq!(like("like", None), "applied");
    assert_eq!(like("like", Some("n")), "no_change");
    assert_eq!(like("unlike", None), "applied");
    assert_eq!(like("like", Some("n")), "duplicate");
    assert_eq!(server.resource("quest", 42).ok()["user"]["liked"], false);
}

#[test]
fn a_resource_reads_as_the_last_answer_said() {
    let server = Folder::new().start();
    let before = server.resource("quest", 42).ok();
    let names: BTreeSet<&str> = before
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect();
    let expected = [
        "counters",
        "position",
        "resource_id",
        "resource_type",
        "user",
        "visible",
    ];
    assert_eq!(names, BTreeSet::from(expected));
    assert_eq!(before["counters"], counters(0, 0, 0));
    assert_eq!(before["user"], json!({"liked": false, "bookmarked": false}));

    let liked = server.interact("quest", 42, "like").ok();
    let path = resource_path("quest", 42);
    let token = liked["position"].as_str().expect("a token");
    for path in [path.as_str(), path.trim_end_matches('/')] {
        for query in [String::new(), format!("?at_least={token}")] {
            let answer = Request::get(&format!("{path}{query}"));
            let answer = answer.bearer(LOCAL_KEY).send(server.api()).ok();
            for name in [
                "resource_type",
                "resource_id",
                "visible",
                "counters",
                "user",
                "position",
            ] {
                assert_eq!(answer[name], liked[name], "{name}");
            }
        }
    }
}

/// A second resource type and id whose key lies in another partition than `quest:42`.
fn elsewhere() -> (&'static str, u64) {
    let home = kafka_partition("quest:42", 16);
    let seeded = [("ai_note", 15), ("ai_expert", 7)];
    let found = seeded
        .into_iter()
        .find(|(kind, id)| kafka_partition(&format!("{kind}:{id}"), 16) != home);
    found.expect("a seeded resource in another partition")
}

#[test]
fn a_position_that_can_not_be_waited_for_is_refused_at_once() {
    let server = Folder::new().start();
    let token = |answer: Value| answer["position"].as_str().expect("a token").to_owned();
    let refused = |server: &Server, token: &str, why: &str| {
        let path = format!("{}?at_least={token}", resource_path("quest", 42));
        let answer = Request::get(&path).bearer(LOCAL_KEY).send(server.api());
        assert_eq!(answer.status, 400, "{why}: {}", answer.text());
        assert!(
            answer.json()["detail"].is_string(),
            "{why}: {}",
            answer.text()
        );
    };
    let early = token(server.interact("quest", 42, "view").ok());
    let (kind, id) = elsewhere();
    let other_partition = token(server.interact(kind, id, "view").ok());
    refused(&server, &other_partition, "a token of another partition");
    for malformed in [
        "",
        "x",
        "0",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        &early[1..],
        "%00",
        "%C3%A4",
    ] {
        refused(&server, malformed, "a malformed token");
    }
    let other_log = token(Folder::new().start().interact("quest", 42, "view").ok());
    refused(&server, &other_log, "a token of another log");
}

/// Follows `$ref`.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(place) => {
            let target = document.pointer(place.trim_start_matches('#'));
            resolved(document, target.unwrap_or_else(|| panic!("no {place}")))
        }
        None => value,
    }
}

#[test]
fn the_description_agrees_with_the_contract() {
    let server = Folder::new().start();
    let answer = Request::get("/openapi.json").send(server.api());
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let document = answer.ok();
    let version = document["openapi"].as_str().unwrap_or_default();
    assert!(version.starts_with("3.1."), "{version}");
    let operation = &document["paths"][INTERACT]["post"];
    assert_eq!(operation["operationId"], "interact-create");
    assert_eq!(operation["summary"], "Log User Interaction");
    let description = "Record a user interaction with a resource and get updated state";
    assert_eq!(operation["description"], description);
    for (status, meaning) in [
        ("200", "Interaction recorded successfully"),
        ("400", "Invalid request data"),
        ("401", "Authentication required"),
        ("404", "Resource not found"),
    ] {
        let answer = resolved(&document, &operation["responses"][status]);
        assert_eq!(answer["description"], meaning, "{status}");
        assert!(
            answer["content"]["application/json"]["schema"].is_object(),
            "{status}"
        );
    }
    let body = resolved(&document, &operation["requestBody"]);
    let schema = resolved(&document, &body["content"]["application/json"]["schema"]);
    assert_eq!(schema["type"], "object");
    let names = ["interaction_type", "resource_id", "resource_type"];
    let properties = schema["properties"].as_object().expect("properties");
    assert_eq!(
        properties
            .keys()
            .map(String::as_str)
            .collect::<BTreeSet<_>>(),
        names.into()
    );
    let required: BTreeSet<_> = schema["required"]
        .as_array()
        .expect("required")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(required, names.into());
    let property = |name: &str| resolved(&document, &properties[name]);
    assert_eq!(property("resource_type")["enum"], json!(RESOURCE_TYPES));
    assert_eq!(
        property("interaction_type")["enum"],
        json!(INTERACTION_TYPES)
    );
    assert_eq!(property("resource_id")["type"], "integer");
    assert!(
        document["paths"]["/api/v1/metrics/resources/{type}/{id}/"]["get"].is_object()
            || document["paths"]["/api/v1/metrics/resources/{resource_type}/{resource_id}/"]["get"]
                .is_object()
    );
}

#[test]
fn the_documentation_is_served_whole_from_the_binary() {
    let server = Folder::new().start();
    let mut path = "/docs".to_owned();
    let mut page = Request::get(&path).send(server.api());
    if let Some(to) = page.header("location") {
        path = to.to_owned();
        page = Request::get(&path).send(server.api());
    }
    assert_eq!(page.status, 200, "{path}");
    let html = page.text();
    assert!(html.contains("swagger-ui"), "{html}");
    let base = if path.ends_with('/') {
        path.clone()
    } else {
        "/".to_owned()
    };
    let references = html.split(['"', '\'']).filter(|text| {
        let file = text.rsplit('.').next().unwrap_or_default();
        ["js", "css", "png"].contains(&file)
    });
    let mut seen = 0;
    for reference in references {
        assert!(
            !reference.contains("//"),
            "loaded from elsewhere: {reference}"
        );
        let target = if reference.starts_with('/') {
            reference.to_owned()
        } else {
            format!("{base}{}", reference.trim_start_matches("./"))
        };
        let file = Request::get(&target).send(server.api());
        assert_eq!(file.status, 200, "{target}");
        assert!(!file.body.is_empty(), "{target}");
        seen += 1;
    }
    assert!(seen >= 3, "a style sheet and scripts: {html}");
}
