//! One load thread: a single-threaded runtime with its share of the connections.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use tally_domain::Resource;
use tokio::sync::{mpsc, watch};

use super::BenchError;
use super::connection::{Connection, Lost};
use super::figures::{Figures, Live};
use super::ledger::{Ledger, Line, Lines};
use super::mix::{Interaction, Workload};
use super::schedule::{Parking, Schedule, Window};
use super::wire::{Answer, Head, Parts, says_fate_unknown};

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
const LEDGER_FLUSH_INTERVAL: Duration = Duration::from_millis(100);

/// What all threads of a run share.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) address: SocketAddr,
    pub(super) parts: Parts,
    /// Names by user; `None` where unknown.
    pub(super) users: Vec<Option<String>>,
    pub(super) resources: Vec<Resource>,
    pub(super) zipf: f64,
    pub(super) seed: u64,
    /// Makes the keys of this run differ from those of any other.
    pub(super) run: u64,
    pub(super) threads: u64,
    pub(super) connections: u64,
    pub(super) rate: Option<f64>,
    pub(super) requests: Option<u64>,
    pub(super) idempotency_keys: bool,
    pub(super) retries: u32,
    pub(super) tolerate_disconnects: bool,
    pub(super) timeout: Duration,
    pub(super) ledger: Option<Ledger>,
    pub(super) live: Vec<Live>,
    pub(super) stop: AtomicBool,
}

/// Where a run stands, told by the conductor.
#[derive(Debug, Clone, Copy)]
pub(super) enum Phase {
    /// Connections are being made.
    Connecting,
    /// Interactions are sent.
    Running(Window),
    /// Nothing new is sent; what is under way is waited for.
    Stopping,
}

/// Runs one thread from its first connection to its last answer. Says `true` on `ready` when it
/// has its connections, then waits for [`Phase::Running`]; says `false` when it fails.
///
/// # Errors
/// Where the runtime can't be made, or the first connections.
pub(super) fn work(
    plan: Arc<Plan>,
    thread: u64,
    phase: watch::Receiver<Phase>,
    ready: &mpsc::Sender<bool>,
) -> Result<Figures, BenchError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .map_err(BenchError::System)?;
    let figures = runtime.block_on(work_async(plan, thread, phase, ready));
    if figures.is_err() {
        // Nobody listens any more where this fails.
        let _ = ready.try_send(false);
    }
    figures
}

async fn work_async(
    plan: Arc<Plan>,
    index: u64,
    mut phase: watch::Receiver<Phase>,
    ready: &mpsc::Sender<bool>,
) -> Result<Figures, BenchError> {
    let share =
        plan.connections / plan.threads + u64::from(index < plan.connections % plan.threads);
    let mut connections = Vec::new();
    for _ in 0..share {
        let mut connection = Connection::new(plan.address, plan.timeout);
        if let Err(source) = connection.connect().await
            && !plan.tolerate_disconnects
        {
            let address = plan.address;
            return Err(BenchError::Connect { address, source });
        }
        connections.push(connection);
    }
    // Nobody listens any more where this fails.
    let _ = ready.try_send(true);
    let window = loop {
        match *phase.borrow_and_update() {
            Phase::Running(window) => break window,
            Phase::Stopping => return Figures::new().map_err(BenchError::Histogram),
            Phase::Connecting => {}
        }
        if phase.changed().await.is_err() {
            return Figures::new().map_err(BenchError::Histogram);
        }
    };
    let thread = Rc::new(Thread {
        schedule: Schedule::new(Arc::clone(&plan), index, window).map_err(BenchError::System)?,
        workload: RefCell::new(Workload::new(
            plan.seed,
            index,
            plan.users.len(),
            plan.resources.len(),
            plan.zipf,
        )),
        figures: RefCell::new(Figures::new().map_err(BenchError::Histogram)?),
        lines: Lines::default(),
        sequence: RefCell::new(0),
        index,
        phase,
        plan,
    });
    tokio::time::sleep_until(window.start.into()).await;
    let drivers: Vec<_> = connections
        .into_iter()
        .map(|connection| tokio::task::spawn_local(drive(Rc::clone(&thread), connection)))
        .collect();
    let flusher = tokio::task::spawn_local(flush_now_and_then(Rc::clone(&thread)));
    let paced = thread.schedule.pace(stopping(&thread.phase)).await;
    for driver in drivers {
        if driver.await.is_err() {
            thread
                .figures
                .borrow_mut()
                .note("a connection's task panicked");
        }
    }
    flusher.abort();
    if let Some(ledger) = &thread.plan.ledger {
        thread.lines.flush(ledger);
    }
    paced.map_err(BenchError::System)?;
    let mut figures = thread
        .figures
        .replace(Figures::new().map_err(BenchError::Histogram)?);
    figures.not_sent += thread.schedule.missed();
    Ok(figures)
}

/// Resolves when the conductor says so.
async fn stopping(phase: &watch::Receiver<Phase>) {
    let mut phase = phase.clone();
    // An error means that the conductor is gone, which is a reason to stop too.
    let _ = phase
        .wait_for(|phase| matches!(phase, Phase::Stopping))
        .await;
}

async fn flush_now_and_then(thread: Rc<Thread>) {
    let Some(ledger) = &thread.plan.ledger else {
        return;
    };
    loop {
        tokio::time::sleep(LEDGER_FLUSH_INTERVAL).await;
        thread.lines.flush(ledger);
    }
}

#[derive(Debug)]
struct Thread {
    plan: Arc<Plan>,
    index: u64,
    schedule: Schedule,
    workload: RefCell<Workload>,
    figures: RefCell<Figures>,
    lines: Lines,
    sequence: RefCell<u64>,
    phase: watch::Receiver<Phase>,
}

/// What came of an interaction in the end.
enum End {
    Acknowledged(Head),
    /// Refused, or never sent: it is not in the log.
    NotRecorded,
    /// It may be in the log.
    Unknown,
}

async fn drive(thread: Rc<Thread>, mut connection: Connection) {
    let parking = Rc::new(Parking::default());
    let mut key = String::new();
    while let Some(intended) = thread.schedule.next(&parking).await {
        let interaction = thread.workload.borrow_mut().next();
        key.clear();
        if thread.plan.idempotency_keys {
            let mut sequence = thread.sequence.borrow_mut();
            *sequence += 1;
            // Writing to a string cannot fail.
            let _ = write!(
                key,
                "bench-{:x}-{}-{sequence}",
                thread.plan.run, thread.index
            );
        }
        let key = Some(key.as_str()).filter(|key| !key.is_empty());
        let Interaction {
            user,
            resource,
            kind,
        } = interaction;
        let request = &mut connection.request;
        thread.plan.parts.write(request, user, resource, kind, key);
        match thread.perform(&mut connection, key.is_some()).await {
            Some(End::Acknowledged(head)) => {
                thread.acknowledged(interaction, key, intended, connection.body(&head));
            }
            Some(End::Unknown) => {
                thread.figures.borrow_mut().fate_unknown += 1;
                thread.ledger_line(interaction, key, None);
            }
            Some(End::NotRecorded) => {}
            None => return,
        }
    }
}

impl Thread {
    /// Sends the connection's request until there is an end; `None` where the server can't be
    /// reached any more and the connection gives up with nothing sent.
    async fn perform(&self, connection: &mut Connection, keyed: bool) -> Option<End> {
        let mut pause = FIRST_PAUSE;
        let mut left = self.plan.retries;
        let mut maybe_recorded = false;
        loop {
            if !self.ensure_connected(connection).await {
                self.figures.borrow_mut().not_sent += u64::from(!maybe_recorded);
                return maybe_recorded.then_some(End::Unknown);
            }
            let mut wait = pause;
            // Whether it is safe to send it again, and whether it counts against the retries.
            let again = match connection.exchange().await {
                Ok(head) if head.status == 200 => return Some(End::Acknowledged(head)),
                Ok(head) => {
                    self.count_status(head.status);
                    let body = connection.body(&head);
                    if !matches!(head.status, 429 | 503) {
                        maybe_recorded |= head.status >= 500;
                        self.note_answer(head.status, body);
                        return Some(end_of(maybe_recorded));
                    }
                    maybe_recorded |= says_fate_unknown(body);
                    if let Some(seconds) = head.retry_after {
                        wait = pause.max(Duration::from_secs(seconds.into()).min(LONGEST_PAUSE));
                    }
                    keyed
                }
                Err(lost) => {
                    let not_sent = matches!(lost, Lost::NotSent(_));
                    maybe_recorded |= !not_sent;
                    self.note_loss(&lost);
                    keyed || not_sent
                }
            };
            if !again || (left == 0 && !self.plan.tolerate_disconnects) {
                return Some(self.give_up(maybe_recorded));
            }
            left = left.saturating_sub(1);
            if self.pause(wait).await {
                return Some(self.give_up(maybe_recorded));
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            self.figures.borrow_mut().retries += 1;
        }
    }

    fn give_up(&self, maybe_recorded: bool) -> End {
        if !maybe_recorded {
            self.figures.borrow_mut().refused += 1;
        }
        end_of(maybe_recorded)
    }

    /// Makes the connection where there is none; `false` where that is given up.
    async fn ensure_connected(&self, connection: &mut Connection) -> bool {
        if connection.is_connected(Instant::now()) {
            return true;
        }
        let mut pause = FIRST_PAUSE;
        let mut left = self.plan.retries;
        loop {
            match connection.connect().await {
                Ok(()) => {
                    self.figures.borrow_mut().reconnects += 1;
                    return true;
                }
                Err(error) => {
                    self.trouble();
                    let mut figures = self.figures.borrow_mut();
                    figures.connection_errors += 1;
                    if left == 0 && !self.plan.tolerate_disconnects {
                        figures.note(&format!("gave up connecting: {error}"));
                        return false;
                    }
                }
            }
            left = left.saturating_sub(1);
            if self.pause(pause).await {
                return false;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Waits; `true` at once when the run is over.
    async fn pause(&self, wait: Duration) -> bool {
        tokio::time::timeout(wait, stopping(&self.phase))
            .await
            .is_ok()
    }

    fn acknowledged(&self, what: Interaction, key: Option<&str>, intended: Instant, body: &[u8]) {
        let now = Instant::now();
        let window = self.schedule.window();
        self.count_status(200);
        self.live(Live::acknowledge);
        {
            let mut figures = self.figures.borrow_mut();
            figures.acknowledged += 1;
            figures.last_answer = Some(now);
            if now >= window.measured_from && window.end.is_none_or(|end| now <= end) {
                figures.acknowledged_in_window += 1;
            }
            if window.measures(intended) {
                figures.record(now.saturating_duration_since(intended));
            }
        }
        if self.plan.ledger.is_none() {
            let hidden = memchr::memmem::find(body, br#""visible":false"#).is_some();
            self.figures.borrow_mut().not_visible += u64::from(hidden);
            return;
        }
        match serde_json::from_slice::<Answer<'_>>(body) {
            Ok(answer) => {
                let mut figures = self.figures.borrow_mut();
                figures.not_visible += u64::from(!answer.visible);
                let outcome = answer.outcome.unwrap_or("none yet");
                match figures.outcomes.get_mut(outcome) {
                    Some(times) => *times += 1,
                    None => {
                        figures.outcomes.insert(outcome.to_owned(), 1);
                    }
                }
                drop(figures);
                self.ledger_line(what, key, Some(&answer));
            }
            Err(_) => self.note_answer(200, body),
        }
    }

    fn ledger_line(&self, what: Interaction, key: Option<&str>, answer: Option<&Answer<'_>>) {
        let Some(ledger) = &self.plan.ledger else {
            return;
        };
        let Some(resource) = self.plan.resources.get(what.resource) else {
            return;
        };
        let line = Line {
            user: self.plan.users.get(what.user).and_then(Option::as_deref),
            resource_type: resource.kind,
            resource_id: resource.id.get(),
            interaction_type: what.kind,
            idempotency_key: key,
            acknowledged: answer.is_some(),
            outcome: answer.and_then(|answer| answer.outcome),
            event_id: answer.map(|answer| answer.event_id),
            position: answer.map(|answer| answer.position),
            visible: answer.map(|answer| answer.visible),
        };
        self.lines.add(ledger, &line);
    }

    fn count_status(&self, status: u16) {
        *self
            .figures
            .borrow_mut()
            .statuses
            .entry(status)
            .or_default() += 1;
        if status != 200 {
            self.trouble();
        }
    }

    fn note_answer(&self, status: u16, body: &[u8]) {
        let body = String::from_utf8_lossy(body.get(..200).unwrap_or(body));
        self.figures.borrow_mut().note(&format!("{status} {body}"));
    }

    fn note_loss(&self, lost: &Lost) {
        self.trouble();
        let mut figures = self.figures.borrow_mut();
        figures.connection_errors += 1;
        if !self.plan.tolerate_disconnects || matches!(lost, Lost::Wire(_)) {
            figures.note(&lost.to_string());
        }
    }

    fn trouble(&self) {
        self.live(Live::trouble);
    }

    fn live(&self, count: impl FnOnce(&Live)) {
        let place = usize::try_from(self.index).ok();
        if let Some(live) = place.and_then(|place| self.plan.live.get(place)) {
            count(live);
        }
    }
}

const fn end_of(maybe_recorded: bool) -> End {
    if maybe_recorded {
        End::Unknown
    } else {
        End::NotRecorded
    }
}
