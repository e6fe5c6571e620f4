//! What the modules share: a server that must not serve, and reading Kafka's tools.

use tally_tests::http::Response;
use tally_tests::server::interaction_request;
use tally_tests::{Folder, Request, Server, wait};

/// Starts a server that must refuse to start; what it says.
pub(crate) fn refuses_to_serve(folder: &Folder) -> String {
    folder.run(&["serve"]).failed()
}

/// Starts a server that can't do its work; it ends, or it is not ready and takes nothing. All it
/// said, `/readyz` included.
pub(crate) fn does_not_serve(folder: &Folder) -> String {
    let mut server = Server::spawn(folder);
    wait::until("an end, or a reason not to be ready", || {
        if let Some(ended) = server.ended() {
            assert!(!ended.success(), "it ended well: {}", server.output());
            return Some(server.output());
        }
        if !server.is_bound() {
            return None;
        }
        let ready = Request::get("/readyz").try_send(server.management()).ok()?;
        // Until it has tried, it says that it starts.
        (ready.status == 503 && !ready.text().contains("\"starting\"")).then(|| {
            let request = interaction_request("quest", 42, "view");
            if let Ok(answer) = request.try_send(server.api()) {
                assert_unavailable(&answer);
            }
            format!("{}{}", server.output(), ready.text())
        })
    })
}

/// A 503 that says when to come again, and whether the fate of the interaction is known.
pub(crate) fn assert_unavailable(answer: &Response) {
    assert_eq!(answer.status, 503, "{}", answer.text());
    let after = answer.header("retry-after").unwrap_or_default();
    assert!(after.parse::<u32>().is_ok(), "Retry-After: {after}");
    let body = answer.json();
    let code = body["code"].as_str().unwrap_or_default();
    assert!(["unavailable", "fate_unknown"].contains(&code), "{body}");
    assert!(body["detail"].is_string(), "{body}");
}

/// That a text has every one of these words, whatever their case.
pub(crate) fn assert_says(said: &str, words: &[&str]) {
    let lower = said.to_lowercase();
    for word in words {
        assert!(lower.contains(&word.to_lowercase()), "no {word} in: {said}");
    }
}
