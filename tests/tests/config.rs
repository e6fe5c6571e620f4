//! What an operator sets, and what an operator does while the server runs.

use std::fs;

use serde_json::json;
use tally_tests::server::{INTERACT, LOCAL_KEY, interaction_request, resource_path};
use tally_tests::{Folder, Request, Response, Server, wait};

#[test]
fn an_unknown_or_impossible_setting_is_refused_by_name() {
    let cases = [
        (
            "TALLY__API__LISTN",
            "127.0.0.1:0",
            ["api.listn", "api.listen"],
        ),
        ("TALLY__NONSENSE", "1", ["nonsense", "data_dir"]),
        (
            "TALLY__NONSENSE__KEY",
            "1",
            ["nonsense", "TALLY__NONSENSE__KEY"],
        ),
        ("TALLY__LOG__PARTITIONS", "0", ["log.partitions", "1"]),
        ("TALLY__LOG__PARTITIONS", "many", ["log.partitions", "many"]),
        ("TALLY__LOG__KIND", "paper", ["log.kind", "embedded"]),
        (
            "TALLY__LOG__KIND",
            "kafka",
            ["kafka.bootstrap_servers", "log.kind"],
        ),
        (
            "TALLY__KAFKA__PROPERTIES__ENABLE__IDEMPOTENCE",
            "false",
            ["kafka.properties.\"enable.idempotence\"", "exactly once"],
        ),
        (
            "TALLY__CATALOGUE__MODE",
            "closed",
            ["catalogue.mode", "registered"],
        ),
        ("TALLY__API__LISTEN", "nowhere", ["api.listen", "nowhere"]),
        (
            "TALLY__PROJECTOR__WAIT_LIMIT",
            "soon",
            ["projector.wait_limit", "soon"],
        ),
        ("TALLY__AUTH__JWT__ISSUER", "x", ["auth.jwt.issuer", "keys"]),
    ];
    for (name, value, words) in cases {
        let folder = Folder::new().with(name, value);
        for command in [["serve"].as_slice(), &["keys", "list"], &["state", "info"]] {
            let output = folder.run(command).failed();
            for word in words {
                assert!(
                    output.contains(word),
                    "{name}={value}: no {word} in: {output}"
                );
            }
        }
        assert!(
            !folder.data_dir().exists(),
            "{name}={value} was refused too late"
        );
    }

    let folder = Folder::new();
    let file = folder.root().join("tally.toml");
    fs::write(&file, "[api]\nlisten = \"127.0.0.1:0\"\nport = 8080\n").expect("a file");
    let file = file.display().to_string();
    let output = folder.run(&["serve", "--config", &file]).failed();
    for word in ["api.port", "tally.toml", "api.listen"] {
        assert!(output.contains(word), "no {word} in: {output}");
    }
    let output = folder.run(&["serve", "--config", "absent.toml"]).failed();
    assert!(output.contains("absent.toml"), "{output}");
}

fn create_key(folder: &Folder, user: &str) -> String {
    let output = folder.run(&["keys", "create", "--user", user]).ok();
    let words = output.split(|c: char| c.is_whitespace() || c == '"');
    let key = words.max_by_key(|word| word.len()).unwrap_or_default();
    assert!(key.len() >= 20, "no key in: {output}");
    key.to_owned()
}

fn like(server: &Server, key: &str) -> Response {
    let body = r#"{"resource_type":"quest","resource_id":42,"interaction_type":"like"}"#;
    Request::post(INTERACT)
        .bearer(key)
        .json(body)
        .send(server.api())
}

#[test]
fn a_running_server_picks_up_keys_that_come_and_go() {
    let folder = Folder::new();
    let before = create_key(&folder, "made-offline");
    let server = folder.start();
    assert_eq!(like(&server, &before).status, 200);

    let key = create_key(&folder, "someone");
    let first = wait::until("the new key", || {
        let answer = like(&server, &key);
        (answer.status == 200).then(|| answer.ok())
    });
    assert_eq!(first["counters"]["likes"], 2, "another user: {first}");

    let list = folder.run(&["keys", "list"]).ok();
    assert!(
        list.contains("someone") && list.contains("made-offline"),
        "{list}"
    );
    assert!(!list.contains(&key), "a key is shown once: {list}");
    let line = list
        .lines()
        .find(|line| line.contains("someone"))
        .expect("a line");
    let words = line.split(|c: char| c.is_whitespace() || "\",:{}".contains(c));
    // The id is one of the words of the line: revoking by a wrong one is refused.
    let revoked = words
        .filter(|word| !word.is_empty())
        .find(|word| folder.run(&["keys", "revoke", word]).status.success());
    assert!(revoked.is_some(), "no id in: {line}");
    let refused = wait::until("the key's end", || {
        let answer = like(&server, &key);
        (answer.status != 200).then_some(answer)
    });
    assert_eq!(
        refused.text(),
        r#"{"detail":"Invalid API key.","code":"authentication_failed"}"#
    );
    assert_eq!(like(&server, &before).status, 200, "the other key holds");
    let again = folder.run(&["keys", "revoke", "no-such-id"]).failed();
    assert!(again.contains("no-such-id"), "{again}");
}

#[test]
fn no_secret_is_written_anywhere() {
    let folder = Folder::new()
        .with("TALLY__LOGGING__LEVEL", "debug")
        .with("TALLY__LOG__SEGMENT_SIZE", "4 MiB");
    let key = create_key(&folder, "someone");
    let guess = "a-secret-of-another-service-sent-here-by-mistake";
    let server = folder.start();
    assert_eq!(like(&server, &key).status, 200);
    let mut said = String::new();
    let requests = [
        Request::post(INTERACT).bearer(guess),
        Request::post(INTERACT).header("Authorization", format!("Basic {guess}")),
        Request::post(INTERACT).header("Authorization", format!("Bearer {guess} {key}")),
        Request::post(INTERACT).bearer(&key).json("{"),
        Request::get("/nowhere").bearer(&key),
        Request::new("PUT", INTERACT).bearer(&key),
        Request::get(&resource_path("quest", 43)).bearer(&key),
        Request::get(&resource_path("quest", 42)).bearer(&key),
    ];
    for request in requests {
        let answer = request.send(server.api());
        said += &format!("{answer:?}{}", answer.text());
    }
    said += &Request::get("/metrics").send(server.management()).text();
    said += &folder.run(&["keys", "list"]).ok();
    said += &folder.run(&["log", "cat"]).ok();
    said += &folder.run(&["state", "cat", "--toggles"]).ok();
    let output = server.output();
    assert!(!output.is_empty(), "it logs");
    said += &output;
    let mut files = folder.files();
    server.stop();
    files.extend(folder.files());
    assert!(files.len() >= 6, "{}", files.len());
    for secret in [key.as_str(), guess] {
        assert!(
            !said.contains(secret),
            "an answer, a metric or a log line has {secret}"
        );
        for (path, bytes) in &files {
            let found = bytes
                .windows(secret.len())
                .any(|part| part == secret.as_bytes());
            assert!(!found, "{} has {secret}", path.display());
        }
    }
    let local_key = files.iter().find(|(_, bytes)| {
        bytes
            .windows(LOCAL_KEY.len())
            .any(|part| part == LOCAL_KEY.as_bytes())
    });
    assert!(local_key.is_none(), "{:?}", local_key.map(|(path, _)| path));
}

#[test]
fn the_local_key_is_for_this_machine_alone() {
    let folder = Folder::new();
    let key = create_key(&folder, "someone");
    let server = folder.start();
    for header in ["X-Forwarded-For", "Forwarded", "x-forwarded-for"] {
        let through = |key: &str| {
            let body = r#"{"resource_type":"quest","resource_id":42,"interaction_type":"like"}"#;
            let request = Request::post(INTERACT).bearer(key).json(body);
            request.header(header, "for=192.0.2.1").send(server.api())
        };
        let refused = through(LOCAL_KEY);
        assert_eq!(refused.status, 401, "{header}");
        let body = r#"{"detail":"Invalid API key.","code":"authentication_failed"}"#;
        assert_eq!(refused.text(), body);
        assert_eq!(through(&key).status, 200, "{header}");
    }
    server.stop();

    for listener in ["TALLY__API__LISTEN", "TALLY__MANAGEMENT__LISTEN"] {
        let open = folder.clone().with(listener, "0.0.0.0:0");
        let refused = open.run(&["serve"]).failed();
        assert!(refused.contains("auth.local_dev_key"), "{refused}");
        let server = open.with("TALLY__AUTH__LOCAL_DEV_KEY", "false").start();
        assert_eq!(like(&server, LOCAL_KEY).status, 401);
        assert_eq!(like(&server, &key).status, 200);
        server.stop();
    }
}

fn listed(folder: &Folder) -> String {
    folder.run(&["resources", "list"]).ok()
}

fn has(list: &str, kind: &str, id: u64) -> bool {
    let id = id.to_string();
    let words = |line: &str| -> Vec<String> {
        let parts = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        parts.map(str::to_owned).collect()
    };
    list.lines()
        .map(words)
        .any(|words| words.iter().any(|w| w == kind) && words.contains(&id))
}

/// The catalogue's commands, which return once the server has what they did.
fn catalogue_commands(folder: &Folder, status: &dyn Fn(&str, u64) -> Option<u16>) {
    let is = |kind: &str, id: u64, there: bool| {
        assert_eq!(
            has(&listed(folder), kind, id),
            there,
            "{kind} {id} in: {}",
            listed(folder)
        );
        if let Some(status) = status(kind, id) {
            assert_eq!(status, if there { 200 } else { 404 }, "{kind} {id}");
        }
    };
    is("quest", 42, true);
    is("podcast", 1, false);
    let _ = folder
        .run(&["resources", "add", "podcast", "1", "2", "3"])
        .ok();
    for id in 1..=3 {
        is("podcast", id, true);
    }
    let _ = folder.run(&["resources", "retire", "podcast", "2"]).ok();
    is("podcast", 2, false);
    is("podcast", 3, true);
    let _ = folder.run(&["resources", "add", "podcast", "2"]).ok();
    is("podcast", 2, true);

    let ndjson = folder.root().join("resources.ndjson");
    let lines = "{\"resource_type\":\"profile\",\"resource_id\":9007199254740993}\n\n{\"resource_type\":\"ai_video\",\"resource_id\":0}\n";
    fs::write(&ndjson, lines).expect("a file");
    let _ = folder
        .run(&["resources", "import", &ndjson.display().to_string()])
        .ok();
    is("profile", 9_007_199_254_740_993, true);
    is("ai_video", 0, true);
    let csv = folder.root().join("resources.csv");
    fs::write(
        &csv,
        "resource_type,resource_id\r\ncollection,5\r\ncollection,6\r\n",
    )
    .expect("a file");
    let _ = folder
        .run(&["resources", "import", &csv.display().to_string()])
        .ok();
    is("collection", 5, true);
    is("collection", 6, true);

    // A file with a mistake names the line, and nothing of it is taken.
    fs::write(
        &csv,
        "resource_type,resource_id\ncollection,7\nnonsense,8\n",
    )
    .expect("a file");
    let refused = folder
        .run(&["resources", "import", &csv.display().to_string()])
        .failed();
    assert!(
        refused.contains("nonsense") && refused.contains('3'),
        "{refused}"
    );
    is("collection", 7, false);
    for wrong in [
        ["add", "nonsense", "1"],
        ["add", "quest", "-1"],
        ["retire", "quest", "x"],
    ] {
        let refused = folder
            .run(&[&["resources"], wrong.as_slice()].concat())
            .failed();
        assert!(
            refused.contains(wrong[1]) || refused.contains(wrong[2]),
            "{refused}"
        );
    }
}

#[test]
fn the_catalogue_is_changed_while_the_server_runs() {
    let folder = Folder::new();
    let server = folder.start();
    catalogue_commands(&folder, &|kind, id| {
        Some(server.interact(kind, id, "view").status)
    });
    let before = listed(&folder);
    server.kill9();
    let server = folder.start();
    assert_eq!(listed(&folder), before);
    assert_eq!(server.interact("podcast", 2, "view").status, 200);
    assert_eq!(server.interact("podcast", 4, "view").status, 404);
}

#[test]
fn the_catalogue_is_changed_while_no_server_runs() {
    let folder = Folder::new();
    // Seeding is the server's.
    folder.start().stop();
    catalogue_commands(&folder, &|_, _| None);
    let server = folder.start();
    assert_eq!(server.interact("podcast", 2, "view").status, 200);
    assert_eq!(server.interact("collection", 7, "view").status, 404);
}

/// What was retired keeps its counters, and has them when it comes back.
#[test]
fn a_retired_resource_comes_back_with_its_counters() {
    let folder = Folder::new();
    let server = folder.start();
    assert_eq!(server.interact("quest", 42, "like").status, 200);
    let _ = folder.run(&["resources", "retire", "quest", "42"]).ok();
    assert_eq!(server.interact("quest", 42, "like").status, 404);
    assert_eq!(server.resource("quest", 42).status, 404);
    let _ = folder.run(&["resources", "add", "quest", "42"]).ok();
    let state = server.resource("quest", 42).ok();
    assert_eq!(state["counters"]["likes"], 1);
    assert_eq!(state["user"]["liked"], true);
}

#[test]
fn in_open_mode_every_valid_id_exists() {
    let server = Folder::new().with("TALLY__CATALOGUE__MODE", "open").start();
    let view = |id: &str| {
        let body = format!(
            r#"{{"resource_type":"profile","resource_id":{id},"interaction_type":"view"}}"#
        );
        Request::post(INTERACT)
            .bearer(LOCAL_KEY)
            .json(&body)
            .send(server.api())
    };
    for id in [
        "0",
        "-0",
        "1",
        "9223372036854775807",
        "9.223372036854775807e18",
    ] {
        assert_eq!(view(id).status, 200, "{id}");
    }
    for id in ["-1", "9223372036854775808", "1e19", "1e1000"] {
        let answer = view(id);
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (404, r#"{"detail":"Not found."}"#)
        );
    }
    let largest = server.resource("profile", 9_223_372_036_854_775_807).ok();
    assert_eq!(largest["resource_id"], json!(9_223_372_036_854_775_807_u64));
    assert_eq!(
        largest["counters"]["views"], 2,
        "any spelling is the same resource"
    );
}

fn preflight(server: &Server, origin: &str) -> Response {
    Request::new("OPTIONS", INTERACT)
        .header("Origin", origin)
        .header("Access-Control-Request-Method", "POST")
        .header(
            "Access-Control-Request-Headers",
            "authorization,content-type,idempotency-key",
        )
        .send(server.api())
}

fn allow_origin(answer: &Response) -> Option<&str> {
    answer.header("access-control-allow-origin")
}

#[test]
fn cors_is_off_until_an_origin_is_named() {
    let page = "https://app.example.com";
    let simple = |server: &Server, origin: &str| {
        let request = interaction_request("quest", 42, "view").header("Origin", origin);
        request.send(server.api())
    };
    let server = Folder::new().start();
    assert_eq!(allow_origin(&preflight(&server, page)), None);
    let answer = simple(&server, page);
    assert_eq!((answer.status, allow_origin(&answer)), (200, None));

    let server = Folder::new().with("TALLY__API__CORS_ORIGINS", page).start();
    let allowed = preflight(&server, page);
    assert!([200, 204].contains(&allowed.status), "{}", allowed.status);
    assert_eq!(allow_origin(&allowed), Some(page));
    let headers = allowed
        .header("access-control-allow-headers")
        .unwrap_or_default()
        .to_lowercase();
    for name in ["authorization", "content-type", "idempotency-key"] {
        assert!(headers.contains(name), "{headers}");
    }
    let methods = allowed
        .header("access-control-allow-methods")
        .unwrap_or_default();
    assert!(methods.contains("POST"), "{methods}");
    let answer = simple(&server, page);
    assert_eq!((answer.status, allow_origin(&answer)), (200, Some(page)));
    let exposed = answer
        .header("access-control-expose-headers")
        .unwrap_or_default();
    assert!(
        exposed.to_lowercase().contains("x-request-id"),
        "{exposed:?}"
    );
    // An error is readable by the page as well.
    let refused = Request::post(INTERACT)
        .header("Origin", page)
        .send(server.api());
    assert_eq!((refused.status, allow_origin(&refused)), (401, Some(page)));
    assert_eq!(
        allow_origin(&preflight(&server, "https://evil.example.com")),
        None
    );
    assert_eq!(
        allow_origin(&simple(&server, "https://evil.example.com")),
        None
    );

    let refused = Folder::new()
        .with("TALLY__API__CORS_ORIGINS", "app.example.com")
        .run(&["serve"]);
    assert!(refused.failed().contains("api.cors_origins"));
}
