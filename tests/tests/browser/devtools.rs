//! A browser that is told what to do while it runs, by Chromium's own protocol for its developer tools,
//! over pipes: for pages that never come to their end.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tally_tests::wait::{self, DEADLINE};
use tempfile::TempDir;

/// Gives the program its pipes where it looks for them.
const WITH_PIPES: &str = r#"exec "$@" 3<&0 4>&1 </dev/null >/dev/null 2>/dev/null"#;

/// A running browser with one page. Dropped, it is killed.
pub(crate) struct Browser {
    child: Child,
    to: ChildStdin,
    said: mpsc::Receiver<Value>,
    /// What was said without being asked.
    events: Vec<Value>,
    next: u64,
    session: Option<String>,
    /// Removed with it.
    _profile: TempDir,
}

/// How a page is looked at.
#[derive(Clone, Copy)]
pub(crate) struct Screen {
    pub(crate) name: &'static str,
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) phone: bool,
    pub(crate) dark: bool,
}

impl Browser {
    /// Starts one with an empty page.
    pub(crate) fn start(more: &[&str]) -> Self {
        let profile = TempDir::with_prefix("tally-profile-").expect("a folder");
        let mut child = Command::new("sh")
            .args(["-c", WITH_PIPES, "sh"])
            .arg(super::program())
            .args(super::FLAGS)
            .args(["--remote-debugging-pipe"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Chromium starts; on Debian: apt-get install chromium");
        let (to, from) = (child.stdin.take(), child.stdout.take());
        let mut from = BufReader::new(from.expect("a pipe"));
        let (say, said) = mpsc::channel();
        std::thread::spawn(move || {
            let mut message = Vec::new();
            while from.read_until(0, &mut message).is_ok_and(|read| read > 1) {
                let text = message.strip_suffix(&[0]).unwrap_or(&message);
                let value = serde_json::from_slice(text).expect("JSON");
                if say.send(value).is_err() {
                    return;
                }
                message.clear();
            }
        });
        let mut browser = Self {
            child,
            to: to.expect("a pipe"),
            said,
            events: Vec::new(),
            next: 0,
            session: None,
            _profile: profile,
        };
        let made = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attach = json!({"targetId": made["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", attach);
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Network", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        let watch = "window.violations = []; addEventListener('securitypolicyviolation', (event) => \
                     violations.push(event.violatedDirective + ' ' + event.blockedURI));";
        let watch = json!({ "source": watch });
        browser.call("Page.addScriptToEvaluateOnNewDocument", watch);
        browser
    }

    /// Calls a method, and waits for what it answers.
    pub(crate) fn call(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let mut message = json!({"id": self.next, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.to.write_all(&bytes).expect("the browser runs");
        loop {
            let said = self.said.recv_timeout(DEADLINE);
            let mut said = said.unwrap_or_else(|error| panic!("{method}: {error}"));
            if said["id"] == json!(self.next) {
                assert!(said.get("error").is_none(), "{method}: {said}");
                return said["result"].take();
            }
            self.events.push(said);
        }
    }

    /// Looks at a page as that screen shows it.
    pub(crate) fn open(&mut self, url: &str, screen: Screen) {
        let size = json!({
            "width": screen.width, "height": screen.height,
            "deviceScaleFactor": if screen.phone { 2 } else { 1 }, "mobile": screen.phone,
        });
        self.call("Emulation.setDeviceMetricsOverride", size);
        let scheme = if screen.dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", media);
        self.events.clear();
        self.call("Page.navigate", json!({ "url": url }));
    }

    /// What an expression is in the page.
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let asked = json!({
            "expression": expression, "returnByValue": true, "awaitPromise": true,
        });
        let mut answer = self.call("Runtime.evaluate", asked);
        answer["result"]["value"].take()
    }

    /// Waits until an expression is true in the page.
    pub(crate) fn until(&mut self, expression: &str) {
        let come = wait::within(DEADLINE, || {
            (self.value(expression) == json!(true)).then_some(())
        });
        if come.is_none() {
            let text = self.value("document.body.innerText");
            panic!("{expression} did not come: {text}");
        }
    }

    /// What one event after the other said, of those of a method.
    pub(crate) fn events(&mut self, method: &str) -> Vec<Value> {
        // What was said until now comes before this answer.
        self.value("0");
        let events = self.events.iter();
        let of = events.filter(|event| event["method"] == method);
        of.map(|event| event["params"].clone()).collect()
    }

    /// A picture of the whole page.
    pub(crate) fn picture(&mut self, path: &Path) {
        let metrics = self.call("Page.getLayoutMetrics", json!({}));
        let size = &metrics["cssContentSize"];
        let whole = json!({
            "captureBeyondViewport": true,
            "clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1},
        });
        let taken = self.call("Page.captureScreenshot", whole);
        let bytes = BASE64_STANDARD.decode(taken["data"].as_str().expect("a picture"));
        std::fs::write(path, bytes.expect("base64")).expect("a file");
        println!("picture: {}", path.display());
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
