//! How far long work is: a bar on a terminal, else a line now and then; on standard error.

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::failure::{Failure, with_causes};
use crate::output;

/// Between two lines of progress where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Shows one step after the other.
pub(crate) struct Progress {
    bar: ProgressBar,
    terminal: bool,
    step: String,
    began: Instant,
    said: Instant,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self {
            bar: ProgressBar::hidden(),
            terminal: io::stderr().is_terminal(),
            step: String::new(),
            began: Instant::now(),
            said: Instant::now(),
        }
    }

    /// A step begins, which has so much to do.
    pub(crate) fn begins(&mut self, step: &str, total: u64) {
        self.bar.finish_and_clear();
        step.clone_into(&mut self.step);
        (self.began, self.said) = (Instant::now(), Instant::now());
        if self.terminal {
            let style = "{msg} {bar:40} {human_pos} of {human_len} ({per_sec}, {eta})";
            let style = ProgressStyle::with_template(style);
            self.bar = ProgressBar::new(total)
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
                .with_message(self.step.clone());
            self.bar.enable_steady_tick(Duration::from_millis(200));
        } else {
            self.bar = ProgressBar::hidden();
            self.bar.set_length(total);
            output::note(&self.position());
        }
    }

    /// So much more is done.
    pub(crate) fn moved(&mut self, by: u64) {
        self.bar.inc(by);
        self.tell();
    }

    fn tell(&mut self) {
        if !self.terminal && self.said.elapsed() >= LINE_EVERY {
            output::note(&self.position());
            self.said = Instant::now();
        }
    }

    /// Says something in between.
    pub(crate) fn note(&self, text: &str) {
        self.bar.suspend(|| output::note(text));
    }

    /// The end of all steps.
    pub(crate) fn ends(&self) {
        self.bar.finish_and_clear();
    }

    /// The end, where something went wrong: the bar stays where it was.
    pub(crate) fn abandon(&self) {
        self.bar.abandon();
    }

    /// The same, and what to say of it.
    pub(crate) fn failed(&self, error: impl std::error::Error) -> Failure {
        self.abandon();
        Failure::run(with_causes(&error))
    }

    fn position(&self) -> String {
        let (at, of) = (self.bar.position(), self.bar.length().unwrap_or_default());
        let seconds = self.began.elapsed().as_secs();
        let rate = at.checked_div(seconds).filter(|rate| *rate > 0);
        let left = rate.map(|rate| of.saturating_sub(at) / rate);
        match (rate, left) {
            (Some(rate), Some(left)) => {
                format!("{}: {at} of {of} ({rate}/s, {left} s left)", self.step)
            }
            (_, _) => format!("{}: {at} of {of}", self.step),
        }
    }
}
