//! Signals, and the bound on the way down.

use std::io;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// How long after a signal another one means nothing more.
const ECHO: Duration = Duration::from_secs(1);

/// SIGTERM and SIGINT.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes both from now on.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next of either that comes after the first one's echo: whoever stops a group of
    /// processes often signals its leader twice, as `timeout` does.
    pub(super) async fn again(&mut self) -> &'static str {
        let from = Instant::now();
        loop {
            let name = self.next().await;
            if from.elapsed() >= ECHO {
                return name;
            }
        }
    }

    /// The next of either, by name.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// How long a stop may still take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    until: Instant,
}

impl Deadline {
    /// From now.
    pub(super) fn after(limit: Duration) -> Self {
        Self {
            until: Instant::now() + limit,
        }
    }

    /// What is left of it.
    pub(super) fn left(self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }
}
