//! What a person sees while the load runs, on standard error.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::figures::Live;
use super::worker::Plan;

const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// A bar on a terminal, a line now and then elsewhere.
#[derive(Debug)]
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    /// Milliseconds or requests.
    by_time: Option<Duration>,
    started: Instant,
    last: (Instant, u64),
    last_line: Instant,
}

impl Progress {
    /// Starts; `whole` is how long the run takes, where that is known.
    pub(super) fn start(plan: &Plan, whole: Option<Duration>) -> Self {
        let length = match (whole, plan.requests) {
            (Some(whole), _) => Some(millis(whole)),
            (None, requests) => requests,
        };
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::no_length();
            if let Some(length) = length {
                bar.set_length(length);
            }
            if let Ok(style) = ProgressStyle::with_template("{bar:32} {percent:>3}%  {msg}") {
                bar.set_style(style);
            }
            bar
        });
        let now = Instant::now();
        Self {
            bar,
            by_time: whole,
            started: now,
            last: (now, 0),
            last_line: now,
        }
    }

    /// Shows where it stands.
    pub(super) fn show(&mut self, plan: &Plan) {
        let now = Instant::now();
        let interval = if self.bar.is_some() {
            Duration::ZERO
        } else {
            LINE_INTERVAL
        };
        if now - self.last_line < interval {
            return;
        }
        let acknowledged = Live::acknowledged(&plan.live);
        let elapsed = (now - self.last.0).as_secs_f64().max(1e-3);
        #[expect(clippy::cast_precision_loss, reason = "a rate for the eye")]
        let rate = (acknowledged - self.last.1) as f64 / elapsed;
        let troubles = match Live::troubles(&plan.live) {
            0 => String::new(),
            troubles => format!(", {troubles} troubles"),
        };
        let message = format!("{acknowledged} acknowledged, {rate:.0}/s{troubles}");
        self.last = (now, acknowledged);
        self.last_line = now;
        match &self.bar {
            Some(bar) => {
                let done = self
                    .by_time
                    .map_or(acknowledged, |_| millis(now - self.started));
                bar.set_position(done);
                bar.set_message(message);
            }
            None => {
                let seconds = (now - self.started).as_secs();
                // Nobody reads it where this fails.
                let _ = writeln!(std::io::stderr(), "{seconds:>4} s: {message}");
            }
        }
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
