//! Conducts a run: starts the threads together, measures the window, stops them, sums them up.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

use super::BenchError;
use super::args::BenchArgs;
use super::figures::{Figures, Live};
use super::process;
use super::progress::Progress;
use super::report::{Latency, Report, Server, Settings};
use super::schedule::Window;
use super::target::Address;
use super::worker::{self, Phase, Plan};

/// Between the last connection and the first interaction, so that all threads start together.
const LEAD_TIME: Duration = Duration::from_millis(20);
const SHOW_INTERVAL: Duration = Duration::from_millis(200);

/// Runs the plan to its end.
///
/// # Errors
/// Where the run could not be made, or the ledger not be written.
pub(super) fn conduct(
    args: &BenchArgs,
    plan: &Arc<Plan>,
    server_pid: Option<u32>,
    address: &Address,
) -> Result<Report, BenchError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(BenchError::System)?;
    let (phase, phases) = watch::channel(Phase::Connecting);
    let room = args.connections.saturating_mul(2);
    let (ready, readiness) = mpsc::channel(usize::try_from(room).unwrap_or(usize::MAX));
    let mut threads = Vec::new();
    for index in 0..plan.threads {
        let (plan, phases, ready) = (Arc::clone(plan), phases.clone(), ready.clone());
        let thread = std::thread::Builder::new()
            .name(format!("load-{index}"))
            .spawn(move || worker::work(plan, index, phases, &ready))
            .map_err(BenchError::System)?;
        threads.push(thread);
    }
    drop((ready, phases));
    let course = runtime.block_on(course(args, plan, server_pid, &phase, readiness));
    plan.stop.store(true, Ordering::Relaxed);
    // The threads may all be gone already.
    let _ = phase.send(Phase::Stopping);
    let figures = join(threads);
    if let Some(ledger) = &plan.ledger {
        ledger.close()?;
    }
    let (course, figures) = (course?, figures?);
    Ok(report(args, plan, server_pid, address, &course, &figures))
}

fn join(threads: Vec<JoinHandle<Result<Figures, BenchError>>>) -> Result<Figures, BenchError> {
    let mut sum = Figures::new().map_err(BenchError::Histogram)?;
    let mut failure = None;
    for thread in threads {
        match thread.join().unwrap_or(Err(BenchError::Panicked)) {
            Ok(figures) => sum.add(&figures),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    failure.map_or(Ok(sum), Err)
}

/// What the conductor saw.
struct Course {
    /// `None` where the run never started: a thread has the reason.
    window: Option<Window>,
    interrupted: bool,
    from: Sample,
    to: Sample,
}

/// The state of things at an instant.
#[derive(Clone, Copy)]
struct Sample {
    at: Instant,
    acknowledged: u64,
    own_cpu: Option<Duration>,
    server_cpu: Option<Duration>,
    server_bytes: Option<u64>,
}

impl Sample {
    fn take(plan: &Plan, server_pid: Option<u32>) -> Self {
        Self {
            at: Instant::now(),
            acknowledged: Live::acknowledged(&plan.live),
            own_cpu: process::cpu_time(std::process::id()),
            server_cpu: server_pid.and_then(process::cpu_time),
            server_bytes: server_pid.and_then(process::resident_bytes),
        }
    }
}

async fn course(
    args: &BenchArgs,
    plan: &Plan,
    server_pid: Option<u32>,
    phase: &watch::Sender<Phase>,
    mut readiness: mpsc::Receiver<bool>,
) -> Result<Course, BenchError> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(BenchError::System)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(BenchError::System)?;
    let mut never_started = Course {
        window: None,
        interrupted: false,
        from: Sample::take(plan, server_pid),
        to: Sample::take(plan, server_pid),
    };
    for _ in 0..plan.threads {
        let ready = tokio::select! {
            ready = readiness.recv() => ready.unwrap_or(false),
            () = either(&mut interrupt, &mut terminate) => {
                never_started.interrupted = true;
                false
            }
        };
        if !ready {
            return Ok(never_started);
        }
    }
    let start = Instant::now() + LEAD_TIME;
    let measured_from = start + args.warmup;
    let window = Window {
        start,
        measured_from,
        end: args.measured().map(|measured| measured_from + measured),
    };
    let mut progress = Progress::start(plan, window.end.map(|end| end - start));
    let _ = phase.send(Phase::Running(window));
    let mut from = Sample::take(plan, server_pid);
    let mut sampled = false;
    let mut interrupted = false;
    let mut ticks = tokio::time::interval(SHOW_INTERVAL);
    loop {
        tokio::select! {
            // The threads drop their ends when they are done.
            () = phase.closed() => break,
            () = until(window.end) => break,
            () = either(&mut interrupt, &mut terminate) => {
                interrupted = true;
                break;
            }
            () = until(Some(measured_from)), if !sampled => {
                from = Sample::take(plan, server_pid);
                sampled = true;
            }
            _ = ticks.tick() => progress.show(plan),
        }
    }
    let to = Sample::take(plan, server_pid);
    progress.finish();
    Ok(Course {
        window: Some(window),
        interrupted,
        from,
        to,
    })
}

async fn until(end: Option<Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end.into()).await,
        None => std::future::pending().await,
    }
}

async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}

fn report(
    args: &BenchArgs,
    plan: &Plan,
    server_pid: Option<u32>,
    address: &Address,
    course: &Course,
    figures: &Figures,
) -> Report {
    let measured = course.window.map_or(Duration::ZERO, |window| {
        let end = match window.end {
            Some(end) if !course.interrupted && course.to.at >= end => end,
            _ => figures.last_answer.unwrap_or(window.measured_from),
        };
        end.saturating_duration_since(window.measured_from)
    });
    let seconds = measured.as_secs_f64();
    let sampled = course.to.acknowledged - course.from.acknowledged;
    let sampled_seconds = course
        .to
        .at
        .saturating_duration_since(course.from.at)
        .as_secs_f64();
    let tolerated =
        args.tolerate_disconnects || (figures.refused == 0 && figures.fate_unknown == 0);
    Report {
        target: format!("http://{}", address.host),
        settings: settings(args, plan),
        measured_seconds: seconds,
        interrupted: course.interrupted,
        acknowledged: figures.acknowledged,
        acknowledged_while_measuring: figures.acknowledged_in_window,
        rate_per_second: ratio(figures.acknowledged_in_window, seconds),
        latency_us: Latency::of(&figures.latencies),
        statuses: figures.statuses.clone(),
        outcomes: figures.outcomes.clone(),
        not_visible: figures.not_visible,
        refused: figures.refused,
        retries: figures.retries,
        connection_errors: figures.connection_errors,
        reconnects: figures.reconnects,
        fate_unknown: figures.fate_unknown,
        not_sent: figures.not_sent,
        generator_cpu_us: spent(course.from.own_cpu, course.to.own_cpu)
            .map(|seconds| micros_each(seconds, sampled)),
        server: server_pid.and_then(|pid| {
            let cpu_seconds = spent(course.from.server_cpu, course.to.server_cpu)?;
            Some(Server {
                pid,
                cpu_seconds,
                cpu_us_per_request: micros_each(cpu_seconds, sampled),
                cores_busy: cpu_seconds / sampled_seconds.max(1e-3),
                resident_bytes: course.to.server_bytes,
            })
        }),
        unexpected: figures.unexpected.clone(),
        as_expected: figures.unexpected.is_empty() && tolerated && figures.acknowledged > 0,
    }
}

fn settings(args: &BenchArgs, plan: &Plan) -> Settings {
    Settings {
        loop_kind: if plan.rate.is_some() {
            "open"
        } else {
            "closed"
        },
        rate: plan.rate,
        connections: args.connections,
        threads: plan.threads,
        users: plan.users.len(),
        resources: plan.resources.len(),
        zipf: plan.zipf,
        seed: plan.seed,
        idempotency_keys: plan.idempotency_keys,
        ledger: plan.ledger.is_some(),
        warmup_seconds: args.warmup.as_secs_f64(),
    }
}

/// CPU seconds between two readings; `None` where the process was away or another.
fn spent(from: Option<Duration>, to: Option<Duration>) -> Option<f64> {
    Some(to?.checked_sub(from?)?.as_secs_f64())
}

#[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 requests")]
fn micros_each(seconds: f64, requests: u64) -> f64 {
    seconds * 1e6 / requests.max(1) as f64
}

#[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 requests")]
fn ratio(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 {
        count as f64 / seconds
    } else {
        0.0
    }
}
