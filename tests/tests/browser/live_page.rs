//! The live page in a real browser: on desktop and phone, in light and dark; calm, under load and degraded;
//! from this host and from elsewhere; and what other pages can do to it, which is nothing.
//!
//! Pictures go to the folder `TALLY_PICTURES`, or to `pictures` in the target folder.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};
use tally_tests::binary::target_dir;
use tally_tests::machine::outer_address;
use tally_tests::{Folder, Request, Server, wait};

use crate::devtools::{Browser, Screen};
use crate::serve_page;

const DESKTOP: Screen = Screen {
    name: "desktop",
    width: 1280,
    height: 900,
    phone: false,
    dark: false,
};
const DARK: Screen = Screen {
    name: "dark",
    dark: true,
    ..DESKTOP
};
const PHONE: Screen = Screen {
    name: "phone",
    width: 390,
    height: 844,
    phone: true,
    dark: false,
};

fn text(id: &str) -> String {
    format!("document.getElementById('{id}').textContent")
}

fn page_of(server: &Server) -> String {
    format!("http://{}/", server.management())
}

/// What must be true however it is looked at: nothing is wider than the screen, nothing was asked of anybody
/// else, and nothing went against the page's own policy.
fn look(browser: &mut Browser, url: &str, scene: &str, screen: Screen) {
    let pictures = std::env::var_os("TALLY_PICTURES")
        .map_or_else(|| target_dir().join("pictures"), PathBuf::from);
    std::fs::create_dir_all(&pictures).expect("a folder");
    browser.picture(&pictures.join(format!("live-{scene}-{}.png", screen.name)));
    let wide = browser.value("document.documentElement.scrollWidth");
    assert!(
        wide.as_u64()
            .is_some_and(|wide| wide <= screen.width.into()),
        "{scene}: {wide} wide on {}",
        screen.width
    );
    assert_eq!(browser.value("violations"), json!([]), "{scene}");
    for event in browser.events("Network.requestWillBeSent") {
        let asked = event["request"]["url"].as_str().unwrap_or_default();
        assert!(
            asked.starts_with(url) || asked == "data:,",
            "{scene}: {asked}"
        );
    }
    assert_eq!(
        browser.events("Runtime.exceptionThrown"),
        Vec::<Value>::new(),
        "{scene}"
    );
}

/// Protects whoever looks for the first time: a server at rest is ready, and says so on every screen.
#[test]
fn a_calm_server() {
    let server = Folder::new().start();
    for kind in ["like", "view"] {
        assert_eq!(server.interact("ai_note", 15, kind).status, 200);
    }
    let url = page_of(&server);
    let mut browser = Browser::start(&[]);
    for screen in [DESKTOP, DARK, PHONE] {
        browser.open(&url, screen);
        browser.until(&format!("{} === 'ready'", text("status")));
        browser.until(&format!("{} === '0'", text("accepted")));
        browser.until("document.querySelectorAll('#parts li').length === 16");
        assert_eq!(browser.value(&text("lag-records")), "0 events");
        look(&mut browser, &url, "calm", screen);
    }
}

/// Load on the server, as `tally bench` makes it. Dropped, it ends.
struct Bench(Child);

impl Bench {
    fn start(folder: &Folder) -> Self {
        let args = [
            "bench",
            "-d",
            "120s",
            "-c",
            "32",
            "--resources",
            "200",
            "--zipf",
            "1.2",
        ];
        let mut command = folder.command(&args);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().expect("the binary starts"))
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Protects what the page is for: under load it shows rates, how long answers take, and what is hot, and
/// goes on doing so.
#[test]
fn under_load() {
    let server = Folder::new().start();
    let _bench = Bench::start(server.folder());
    let url = page_of(&server);
    let mut browser = Browser::start(&[]);
    for screen in [DESKTOP, DARK, PHONE] {
        browser.open(&url, screen);
        browser.until(
            "Number(document.getElementById('accepted').textContent.replace(/,/g, '')) > 20",
        );
        browser.until("document.querySelectorAll('#hot tbody tr').length >= 3");
        browser.until(&format!("/ms|µs| s/.test({})", text("p99")));
        // The line has some points.
        browser.until("document.getElementById('line').getAttribute('d').split('L').length >= 6");
        look(&mut browser, &url, "load", screen);
    }
}

/// From now on no file of the server can be written to, as if its disk had failed.
fn break_files(server: &Server) {
    let pid = Pid::from_raw(i32::try_from(server.pid()).expect("a pid")).expect("a pid");
    let none = Rlimit {
        current: Some(1),
        maximum: Some(1),
    };
    prlimit(Some(pid), Resource::Fsize, none).expect("our child's limit");
}

/// Protects the operator whose server is in trouble: the page says what is wrong in words, how far a rebuild
/// is, and what becomes of requests.
#[test]
fn degraded() {
    // A write past the limit is an error then, and not the end.
    let ignoring = ["sh", "-c", r#"trap "" XFSZ; exec "$@""#, "sh"];
    let mut server = Folder::new().through(&ignoring).start();
    assert_eq!(server.interact("ai_note", 15, "like").status, 200);
    let progress = r#"{"step":"folding the log","events":420000,"of":1000000,"rate":180000.0,"remaining_seconds":3.2}"#;
    let told = Request::post("/admin/rebuild").json(progress);
    break_files(&server);
    wait::until("the log's failure", || {
        (server.interact("quest", 42, "like").status == 503).then_some(())
    });
    let why = server.wait_until_not_ready();
    assert!(why.contains("log_failed"), "{why}");
    let url = page_of(&server);
    let mut browser = Browser::start(&[]);
    for screen in [DESKTOP, DARK, PHONE] {
        browser.open(&url, screen);
        browser.until(&format!("{} === 'not ready'", text("status")));
        // It takes its time: the fate of an event is waited for.
        assert_eq!(server.interact("quest", 42, "like").status, 503);
        browser.until(&format!("Number({}) > 0", text("errors")));
        // What a rebuild says holds for a while only.
        assert_eq!(told.send(server.management()).status, 200);
        browser.until(&format!("{} === '42 %'", text("rebuild")));
        let reasons = browser.value(&text("reasons"));
        assert!(
            reasons.as_str().unwrap_or_default().contains("log_failed"),
            "{reasons}"
        );
        look(&mut browser, &url, "degraded", screen);
    }
    server.kill();
    browser.until(&format!("{} === 'no connection'", text("status")));
    let lost = browser.value(&text("lost"));
    assert!(
        lost.as_str().unwrap_or_default().contains("Trying again"),
        "{lost}"
    );
}

/// Protects the numbers from whoever reaches the listener from elsewhere: the page asks for a key, says what
/// is wrong with one, keeps the right one to itself, and shows the numbers then.
#[test]
fn from_elsewhere_it_asks_for_a_key() {
    let folder = Folder::new()
        .with("TALLY__AUTH__LOCAL_DEV_KEY", false)
        .with("TALLY__MANAGEMENT__LISTEN", "0.0.0.0:0");
    let admin = folder
        .run(&["keys", "create", "--user", "ops", "--admin"])
        .ok();
    let plain = folder.run(&["keys", "create", "--user", "42"]).ok();
    let server = folder.start();
    let address = SocketAddr::new(outer_address(), server.management().port());
    let url = format!("http://{address}/");
    let mut browser = Browser::start(&[]);
    let enter = |key: &str| {
        format!(
            "document.getElementById('key').value = '{}'; document.getElementById('key-form').requestSubmit(); true",
            key.trim()
        )
    };
    for screen in [DESKTOP, PHONE] {
        browser.open(&url, screen);
        browser.until(&format!("{} === 'key needed'", text("status")));
        assert_eq!(
            browser.value("document.getElementById('ask').hidden"),
            false
        );
        look(&mut browser, &url, "key", screen);
        for (key, why) in [("wrong", "Invalid API key."), (&plain, "is no admin key")] {
            browser.value(&enter(key));
            browser.until(&format!("{}.includes('{why}')", text("lost")));
        }
        browser.value(&enter(&admin));
        browser.until(&format!("{} === 'ready'", text("status")));
        assert_eq!(browser.value("document.getElementById('ask').hidden"), true);
        let kept = "JSON.stringify([localStorage.length, sessionStorage.length, document.cookie, \
                    location.href.includes('tally_'), document.getElementById('key').value])";
        assert_eq!(browser.value(kept), r#"[0,0,"",false,""]"#);
        look(&mut browser, &url, "elsewhere", screen);
    }
}

/// Tries everything that a page can try on a management listener it has no business with.
fn hostile(management: &str) -> String {
    format!(
        r#"<!doctype html><title>another origin</title><pre id="out">waiting</pre><script>
const at = 'http://{management}';
const body = '{{"action":"retire","resources":[{{"resource_type":"ai_note","resource_id":15}}]}}';
const tries = {{
  live: () => fetch(at + '/live'),
  page: () => fetch(at + '/'),
  log: () => fetch(at + '/admin/log/cat'),
  opaque: () => fetch(at + '/admin/log/cat', {{mode: 'no-cors'}}).then((answer) => answer.type),
  json: () => fetch(at + '/admin/resources', {{method: 'POST', body, headers: {{'Content-Type': 'application/json'}}}}),
  plain: () => fetch(at + '/admin/resources', {{method: 'POST', body, mode: 'no-cors'}}).then((answer) => answer.type),
  events: () => new Promise((_, fail) => {{ new EventSource(at + '/live').onerror = fail; }}),
  frame: () => new Promise((done) => {{
    const frame = document.createElement('iframe');
    frame.src = at + '/';
    frame.onload = () => {{ let text = 'closed'; try {{ text = frame.contentDocument.body.innerText; }} catch (error) {{}} done(text || 'closed'); }};
    document.body.append(frame);
  }}),
}};
(async () => {{
  const found = [];
  for (const [name, go] of Object.entries(tries)) {{
    const answer = await go().catch(() => 'blocked');
    found.push(name + '=' + (typeof answer === 'string' ? answer : 'READ'));
  }}
  document.getElementById('out').textContent = found.join(' ');
}})();
</script>"#
    )
}

/// Protects a server on somebody's own machine from pages they happen to open: none reads its numbers or its
/// log, none changes anything, none shows it in a frame, and a name that was pointed at it gets nothing.
#[test]
fn a_foreign_page_can_neither_read_nor_drive_it() {
    let server = Folder::new().start();
    let management = server.management();
    let foreign = serve_page(hostile(&management.to_string()));
    let mut browser = Browser::start(&["--host-resolver-rules=MAP evil.example 127.0.0.1"]);
    browser.open(&format!("http://{foreign}/"), DESKTOP);
    browser.until(&format!("{} !== 'waiting'", text("out")));
    let found = browser.value(&text("out"));
    let found = found.as_str().expect("text").to_owned();
    for (name, wanted) in [
        ("live", &["blocked"][..]),
        ("page", &["blocked"]),
        ("log", &["blocked"]),
        ("opaque", &["blocked", "opaque"]),
        ("json", &["blocked"]),
        ("plain", &["blocked", "opaque"]),
        ("events", &["blocked"]),
        ("frame", &["closed"]),
    ] {
        let one_of = |word: &&str| {
            found
                .split(' ')
                .any(|said| said == format!("{name}={word}"))
        };
        assert!(wanted.iter().any(one_of), "{name}: {found}");
    }
    let refused = |reason: &str| {
        let label = format!("reason=\"{reason}\"");
        let metrics = server.metrics();
        metrics.sum("tally_auth_admin_refusals_total", &[&label])
    };
    assert!(refused("browser") >= 4.0, "{}", refused("browser"));
    assert_eq!(
        server.interact("ai_note", 15, "like").status,
        200,
        "still there"
    );

    let rebound = format!("http://evil.example:{}", management.port());
    browser.open(&format!("{rebound}/"), DESKTOP);
    browser.until("document.body.innerText.includes('host_not_allowed')");
    let read = "fetch('/live').then((answer) => answer.status)";
    assert_eq!(browser.value(read), 403);
    assert!(refused("host") >= 2.0, "{}", refused("host"));
}
