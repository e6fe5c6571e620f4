//! One server with its load and its Prometheus, what happens to it, and which alerts say so: the
//! frame of every case.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tally_tests::preload::Control;
use tally_tests::{Folder, Server, wait};

use crate::load::Bench;
use crate::prometheus::{AlertState, Pace, Prometheus};

/// How long an alert may take to come or go: the longest of the shortened windows, and what a busy
/// machine takes on top.
const PATIENCE: Duration = Duration::from_secs(200);
const INTERVAL: Duration = Duration::from_millis(200);

/// What most cases divide durations by: 5 minutes are a second, 6 hours are 72.
pub(crate) const FACTOR: u64 = 300;
/// For what has to happen within such a second.
pub(crate) const SLOWER: u64 = 60;

/// An alert that came and went.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) alert: &'static str,
    pub(crate) factor: u64,
    pub(crate) cause: &'static str,
    pub(crate) fired: Duration,
    pub(crate) said: String,
    pub(crate) cure: &'static str,
    pub(crate) cleared: Duration,
}

/// Something that is done, and when.
pub(crate) struct Moment {
    what: &'static str,
    at: Instant,
}

impl Moment {
    /// Now.
    pub(crate) fn now(what: &'static str) -> Self {
        Self {
            what,
            at: Instant::now(),
        }
    }
}

/// A server under load that is watched.
pub(crate) struct Scene {
    pub(crate) folder: Folder,
    pub(crate) control: Control,
    pub(crate) server: Server,
    _load: Option<Bench>,
    prometheus: Prometheus,
    factor: u64,
    fired: Vec<(&'static str, &'static str, Duration, String)>,
    rows: Vec<Row>,
}

impl Scene {
    /// Starts a server on the folder, a load of `rate` interactions a second, and a Prometheus.
    pub(crate) fn start(folder: Folder, factor: u64, rate: u32) -> Self {
        let (folder, control) = Control::over(folder.with_fixed_ports());
        let server = folder.start();
        let load = (rate > 0).then(|| Bench::start(&folder, &server, rate));
        let targets: [SocketAddr; 1] = [server.management()];
        let pace = Pace {
            factor,
            interval: INTERVAL,
        };
        let scene = Self {
            prometheus: Prometheus::start(&targets, pace),
            folder,
            control,
            server,
            _load: load,
            factor,
            fired: Vec::new(),
            rows: Vec::new(),
        };
        scene.holds("tally_ready == 1");
        scene
    }

    /// Waits until a query has a result.
    pub(crate) fn holds(&self, query: &str) {
        wait::until(query, || {
            let samples = self.prometheus.query(query).ok()?;
            (!samples.is_empty()).then_some(())
        });
    }

    /// None of these alerts fires yet.
    pub(crate) fn quiet(&self, alerts: &[&'static str]) {
        for name in alerts {
            self.wait_for(name, AlertState::Inactive);
        }
    }

    /// Each of these alerts fires because of this.
    pub(crate) fn fires(&mut self, cause: &Moment, alerts: &[&'static str]) {
        let mut left = alerts.to_vec();
        let come = wait::within(PATIENCE, || {
            left.retain(|name| {
                let alert = self.prometheus.alert(name);
                let firing = alert.filter(|alert| alert.state == AlertState::Firing);
                let Some(said) = firing.and_then(|alert| alert.descriptions.first().cloned())
                else {
                    return true;
                };
                assert!(
                    !said.is_empty() && !said.contains("<error"),
                    "{name} says: {said}"
                );
                let after = cause.at.elapsed();
                eprintln!(
                    "  {name}: fires {:.1} s after {}",
                    after.as_secs_f64(),
                    cause.what
                );
                self.fired.push((name, cause.what, after, said));
                false
            });
            left.is_empty().then_some(())
        });
        assert!(come.is_some(), "{left:?} do not fire after {}", cause.what);
    }

    /// Each of these alerts, which fire, clears because of this.
    pub(crate) fn clears(&mut self, cure: &Moment, alerts: &[&'static str]) {
        let mut left = alerts.to_vec();
        let gone = wait::within(PATIENCE, || {
            left.retain(|name| {
                let alert = self.prometheus.alert(name);
                if alert.is_none_or(|alert| alert.state != AlertState::Inactive) {
                    return true;
                }
                let cleared = cure.at.elapsed();
                eprintln!(
                    "  {name}: clears {:.1} s after {}",
                    cleared.as_secs_f64(),
                    cure.what
                );
                let fired = self.fired.iter().find(|(fired, ..)| fired == name);
                let (alert, cause, fired, said) = fired.expect("it fired").clone();
                self.rows.push(Row {
                    alert,
                    factor: self.factor,
                    cause,
                    fired,
                    said,
                    cure: cure.what,
                    cleared,
                });
                false
            });
            left.is_empty().then_some(())
        });
        assert!(gone.is_some(), "{left:?} do not clear after {}", cure.what);
    }

    fn wait_for(&self, name: &str, state: AlertState) {
        let come = wait::within(PATIENCE, || {
            let alert = self.prometheus.alert(name)?;
            (alert.state == state).then_some(())
        });
        assert!(come.is_some(), "{name} is not {state:?}");
    }

    /// Kills the server as a crash would.
    pub(crate) fn kill(&mut self) {
        self.server.kill();
    }

    /// Stops it cleanly.
    pub(crate) fn stop(&mut self) {
        self.server.sigterm();
        let status = self.server.wait_for_end();
        assert!(status.success(), "{status}:\n{}", self.server.output());
    }

    /// Starts the next one, on the same ports.
    pub(crate) fn start_again(&mut self) {
        self.server = self.folder.start();
    }

    /// What a gauge or counter of the server is, over all its series.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        self.server.metrics().sum(name, &[])
    }

    /// The end: what came of it.
    pub(crate) fn end(self) -> Vec<Row> {
        assert_eq!(
            self.fired.len(),
            self.rows.len(),
            "each alert that fired cleared"
        );
        self.rows
    }
}
