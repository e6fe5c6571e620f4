//! A real browser: the contract's JavaScript example from a page of another origin, the
//! documentation page, and the live page. Needs Chromium (`TALLY_CHROMIUM`, or `chromium` on the path).
//!
//! `cargo test -p tally-tests --features browser --test browser`.

mod devtools;
mod live_page;

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};

use tally_tests::binary::target_dir;
use tally_tests::{Folder, Server, wait};

/// How Chromium is run, whatever it is asked to do.
const FLAGS: [&str; 10] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1200,1600",
];

fn program() -> OsString {
    std::env::var_os("TALLY_CHROMIUM").unwrap_or_else(|| "chromium".into())
}

/// Runs Chromium without a window on one page, to its end, and returns its standard output.
fn chromium(folder: &Folder, args: &[&str], url: &str) -> String {
    let profile = tempfile::TempDir::with_prefix_in("profile-", folder.root()).expect("a folder");
    let output = folder.root().join("chromium.output");
    let errors = folder.root().join("chromium.errors");
    let mut child = Command::new(program())
        .args(FLAGS)
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(args)
        .arg(url)
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&output).expect("a file"))
        .stderr(std::fs::File::create(&errors).expect("a file"))
        .spawn()
        .expect("Chromium starts; on Debian: apt-get install chromium");

    let status = wait::until("Chromium's end", || {
        child.try_wait().expect("a child of ours")
    });
    let said = std::fs::read_to_string(&errors).unwrap_or_default();
    assert!(status.success(), "{status}: {said}");
    std::fs::read_to_string(&output).expect("its output")
}

/// Serves one page to whoever asks, from an origin of its own.
fn serve_page(html: String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let html = html.clone();
            std::thread::spawn(move || {
                let mut head = BufReader::new(&stream).lines();
                while head
                    .next()
                    .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
                {}
                let length = html.len();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{html}"
                );
                // The browser may have gone.
                let _ = stream.write_all(answer.as_bytes());
            });
        }
    });
    address
}

/// The contract's JavaScript example with a credential, writing what it gets into the page.
fn page_calling(api: SocketAddr) -> String {
    format!(
        r#"<!doctype html><title>another origin</title><pre id="out">waiting</pre><script>
const url = 'http://{api}/api/v1/metrics/interact/';
const options = {{
  method: 'POST',
  headers: {{'Content-Type': 'application/json', 'Authorization': 'Bearer local-dev-key'}},
  body: '{{"resource_type":"ai_note","resource_id":15,"interaction_type":"bookmark"}}'
}};
(async () => {{
  const out = document.getElementById('out');
  try {{
    const response = await fetch(url, options);
    const data = await response.json();
    out.textContent = 'status ' + response.status + ' bookmarks ' + data.counters.bookmarks
      + ' bookmarked ' + data.user.bookmarked + ' id ' + (response.headers.get('x-request-id') !== null);
  }} catch (error) {{
    out.textContent = 'blocked: ' + error.name;
  }}
}})();
</script>
"#
    )
}

/// What the page holds in the end. Virtual time runs on until nothing is under way any more.
fn dom(folder: &Folder, url: &str) -> String {
    chromium(folder, &["--dump-dom", "--virtual-time-budget=20000"], url)
}

fn page_on_another_origin(server: &Server) -> String {
    // The page's address is another port: another origin, as the server has to allow it.
    let page = serve_page(page_calling(server.api()));
    dom(server.folder(), &format!("http://{page}/"))
}

#[test]
fn a_page_of_an_allowed_origin_can_call() {
    let server = Folder::new().with("TALLY__API__CORS_ORIGINS", "*").start();
    let dom = page_on_another_origin(&server);
    assert!(
        dom.contains("status 200 bookmarks 1 bookmarked true id true"),
        "{dom}"
    );
}

#[test]
fn without_cors_the_browser_blocks_the_call() {
    let server = Folder::new().start();
    let dom = page_on_another_origin(&server);
    assert!(dom.contains("blocked: TypeError"), "{dom}");
    let state = server.resource("ai_note", 15).ok();
    assert_eq!(
        state["counters"]["bookmarks"], 0,
        "the preflight kept it from being sent"
    );
}

#[test]
fn a_page_of_an_origin_that_is_not_named_is_blocked() {
    let server = Folder::new()
        .with("TALLY__API__CORS_ORIGINS", "https://app.example.com")
        .start();
    let dom = page_on_another_origin(&server);
    assert!(dom.contains("blocked: TypeError"), "{dom}");
}

#[test]
fn swagger_ui_shows_the_operation() {
    let server = Folder::new().start();
    let url = format!("http://{}/docs/", server.api());
    let dom = dom(server.folder(), &url);
    for shown in [
        "/api/v1/metrics/interact",
        "Log User Interaction",
        "opblock",
    ] {
        assert!(dom.contains(shown), "no {shown} in: {dom}");
    }
    assert!(!dom.contains("Failed to load API definition"), "{dom}");
    let picture = target_dir().join("swagger-ui.png");
    let _ = std::fs::remove_file(&picture);
    let to = format!("--screenshot={}", picture.display());
    let _ = chromium(server.folder(), &[&to, "--virtual-time-budget=20000"], &url);
    assert!(is_picture(&picture), "no picture at {}", picture.display());
    println!("picture: {}", picture.display());
}

fn is_picture(path: &Path) -> bool {
    std::fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"\x89PNG") && bytes.len() > 10_000)
}
