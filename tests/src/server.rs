//! A server on a folder.

use std::net::SocketAddr;
use std::process::ExitStatus;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::folder::{Folder, Started, read};
use crate::http::{Request, Response};
use crate::metrics::Metrics;
use crate::wait;

/// The path of the one endpoint of the contract.
pub const INTERACT: &str = "/api/v1/metrics/interact/";

/// The key of the local default; its user is `1`.
pub const LOCAL_KEY: &str = "local-dev-key";

/// A running server. Dropped, it is killed.
pub struct Server {
    folder: Folder,
    started: Started,
    addresses: Option<(SocketAddr, SocketAddr)>,
}

impl Server {
    /// Starts one on the folder and waits for nothing.
    #[must_use]
    pub fn spawn(folder: &Folder) -> Self {
        Self {
            folder: folder.clone(),
            started: folder.spawn(&["serve"]),
            addresses: None,
        }
    }

    /// Waits until both listeners are bound.
    ///
    /// # Panics
    /// When the server ends before, or takes too long.
    pub fn wait_until_bound(&mut self) {
        wait::until("server.json with this server's pid", || {
            self.fail_if_ended();
            self.is_bound().then_some(())
        });
    }

    /// Whether both listeners are bound.
    ///
    /// # Panics
    /// When `server.json` is not as documented.
    pub fn is_bound(&mut self) -> bool {
        let path = self.folder.data_dir().join("server.json");
        let value = || -> Option<Value> {
            let text = std::fs::read_to_string(&path).ok()?;
            serde_json::from_str(&text).ok()
        };
        // The file of a killed server stays behind.
        if let Some(value) = value().filter(|value| value["pid"] == self.pid()) {
            let address = |name: &str| {
                let text = value[name].as_str();
                text.and_then(|text| text.parse().ok())
                    .unwrap_or_else(|| panic!("server.json has no address {name:?}: {value}"))
            };
            self.addresses = Some((address("api"), address("management")));
        }
        self.addresses.is_some()
    }

    /// How it ended, where it has.
    ///
    /// # Panics
    /// When it is not our child any more.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.started.child.try_wait().expect("a child of ours")
    }

    /// Waits until `/readyz` says 200.
    ///
    /// # Panics
    /// When the server ends before, or takes too long.
    pub fn wait_until_ready(&mut self) {
        self.wait_until_bound();
        self.wait_for_readiness(true);
    }

    /// Waits until `/readyz` says 503, and says why.
    ///
    /// # Panics
    /// When the server ends before, or takes too long.
    #[must_use]
    pub fn wait_until_not_ready(&mut self) -> String {
        self.wait_for_readiness(false)
    }

    fn wait_for_readiness(&mut self, ready: bool) -> String {
        let management = self.management();
        let mut last = String::new();
        let come = wait::within(wait::DEADLINE, || {
            self.fail_if_ended();
            let answer = Request::get("/readyz").try_send(management).ok()?;
            last = answer.text();
            ((answer.status == 200) == ready).then_some(())
        });
        assert!(come.is_some(), "ready={ready} does not come: {last}");
        last
    }

    fn fail_if_ended(&mut self) {
        if let Some(status) = self.ended() {
            panic!("the server ended with {status}:\n{}", self.output());
        }
    }

    /// Waits until no request is under way and nothing comes to the log any more.
    ///
    /// # Panics
    /// When that takes too long.
    pub fn wait_until_quiet(&self) {
        let mut before = None;
        wait::until("the server at rest", || {
            let metrics = self.metrics();
            let under_way = metrics.sum("tally_http_requests_in_flight", &[]);
            let state = self.folder.run(&["state", "cat"]).ok();
            let now = state.lines().next().map(str::to_owned);
            let quiet = under_way == 0. && before == now;
            before = now;
            quiet.then_some(())
        });
    }

    /// The folder it runs on.
    #[must_use]
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The address of the public API.
    ///
    /// # Panics
    /// Before it is bound.
    #[must_use]
    pub fn api(&self) -> SocketAddr {
        self.addresses.expect("wait_until_bound comes first").0
    }

    /// The address of the management API.
    ///
    /// # Panics
    /// Before it is bound.
    #[must_use]
    pub fn management(&self) -> SocketAddr {
        self.addresses.expect("wait_until_bound comes first").1
    }

    /// The process's id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.started.child.id()
    }

    /// All it has written to standard output and standard error so far.
    #[must_use]
    pub fn output(&self) -> String {
        read(&self.started.stdout) + &read(&self.started.stderr)
    }

    /// Sends one interaction of user `1`.
    #[must_use]
    pub fn interact(&self, resource_type: &str, id: u64, interaction: &str) -> Response {
        interaction_request(resource_type, id, interaction).send(self.api())
    }

    /// Asks for a resource's state as user `1`.
    #[must_use]
    pub fn resource(&self, resource_type: &str, id: u64) -> Response {
        Request::get(&resource_path(resource_type, id))
            .bearer(LOCAL_KEY)
            .send(self.api())
    }

    /// Scrapes the metrics.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        Metrics::parse(&Request::get("/metrics").send(self.management()).text())
    }

    /// How many events it has folded since it started.
    #[must_use]
    pub fn events_folded(&self) -> f64 {
        self.metrics().sum("tally_projector_events_total", &[])
    }

    /// Asks whether it is ready.
    #[must_use]
    pub fn ready(&self) -> Response {
        Request::get("/readyz").send(self.management())
    }

    /// Kills it as a crash would: nothing is finished, nothing flushed.
    ///
    /// # Panics
    /// When it is not our child any more.
    pub fn kill9(mut self) {
        self.kill();
    }

    /// The same for who keeps it to look at what it said.
    ///
    /// # Panics
    /// When it is not our child any more.
    pub fn kill(&mut self) {
        self.started.child.kill().expect("a child of ours");
        self.started.child.wait().expect("a child of ours");
    }

    /// Asks it to stop and goes on at once.
    ///
    /// # Panics
    /// When the signal can't be sent.
    pub fn sigterm(&self) {
        let pid = Pid::from_child(&self.started.child);
        kill_process(pid, Signal::TERM).expect("a child of ours");
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end in time.
    #[must_use]
    pub fn wait_for_end(&mut self) -> ExitStatus {
        wait::until("the server's end", || self.ended())
    }

    /// Stops it cleanly.
    ///
    /// # Panics
    /// When it does not end in time with 0.
    pub fn stop(mut self) {
        self.sigterm();
        let status = self.wait_for_end();
        assert!(status.success(), "{status}:\n{}", self.output());
    }

    /// Its resident memory in bytes.
    ///
    /// # Panics
    /// Where the system has no `/proc`.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))
            .expect("/proc has our child");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .expect("a line VmRSS");
        let kib: u64 = line
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .expect("a number of kB");
        kib * 1_024
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already ended is fine.
        let _ = self.started.child.kill();
        let _ = self.started.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the server said:\n{}", self.output());
        }
    }
}

/// The request of one interaction of user `1`.
#[must_use]
pub fn interaction_request(resource_type: &str, id: u64, interaction: &str) -> Request {
    let body = serde_json::json!({
        "resource_type": resource_type, "resource_id": id, "interaction_type": interaction,
    });
    Request::post(INTERACT)
        .bearer(LOCAL_KEY)
        .json(&body.to_string())
}

/// The path of a resource's state.
#[must_use]
pub fn resource_path(resource_type: &str, id: u64) -> String {
    format!("/api/v1/metrics/resources/{resource_type}/{id}/")
}
