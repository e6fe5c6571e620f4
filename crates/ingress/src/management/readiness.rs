//! Whether this server should get requests, and if not, why.

use std::time::{Duration, Instant};

use serde::Serialize;
use tally_domain::Offset;
use tally_log::{LogHealth, ReadError};
use tally_projector::Status;

/// Why not, as a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// Not everything is open yet.
    Starting,
    /// What the log held at the start is still being folded.
    Replaying,
    /// The log is ahead of the fold, and nothing is being applied.
    Stalled,
    /// The log takes no appends any more.
    LogFailed,
    /// The disk is full.
    DiskFull,
    /// The brokers are away.
    KafkaUnreachable,
    /// The server is stopping.
    Draining,
}

/// Why not, for programs and for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// As a word.
    pub code: Code,
    /// In a sentence.
    pub detail: String,
}

impl Reason {
    /// A reason.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { code, detail }
    }
}

/// Where a partition was when it was last seen to move, or to have nothing to do.
#[derive(Debug, Clone, Copy)]
struct Seen {
    next_offset: Offset,
    since: Instant,
}

/// Remembers since when each partition has been behind without moving. Being far behind is fine;
/// not moving is not.
#[derive(Debug, Default)]
pub struct StallWatch {
    partitions: Vec<Seen>,
}

impl StallWatch {
    /// Looks at all partitions; returns those that have been behind and still for `limit`, with
    /// how long.
    pub fn look(
        &mut self,
        head: &[Offset],
        next_offsets: &[Offset],
        now: Instant,
        limit: Duration,
    ) -> Vec<(usize, Duration)> {
        let unseen = next_offsets.iter().skip(self.partitions.len());
        self.partitions.extend(unseen.map(|next_offset| Seen {
            next_offset: *next_offset,
            since: now,
        }));
        let mut stalled = Vec::new();
        let pairs = head.iter().zip(next_offsets);
        for (partition, (seen, (head, next_offset))) in
            self.partitions.iter_mut().zip(pairs).enumerate()
        {
            if next_offset >= head || *next_offset != seen.next_offset {
                *seen = Seen {
                    next_offset: *next_offset,
                    since: now,
                };
            } else if now.saturating_duration_since(seen.since) >= limit {
                stalled.push((partition, now.saturating_duration_since(seen.since)));
            }
        }
        stalled
    }
}

/// The log's answer to where its head is.
pub(super) type Head = Result<Vec<Offset>, ReadError>;

/// What log and fold say at one moment.
pub(super) struct Sample {
    pub(super) head: Head,
    /// Why the catalogue sees no more changes, where it does not.
    pub(super) catalogue: Option<String>,
    pub(super) health: LogHealth,
    pub(super) log_stalled_for: Option<Duration>,
    pub(super) status: Status,
}

/// Every reason that a sample gives.
pub(super) fn judge(
    watch: &mut StallWatch,
    sample: &Sample,
    now: Instant,
    limit: Duration,
) -> Vec<Reason> {
    let mut reasons = Vec::new();
    match &sample.health {
        LogHealth::Ok => {}
        LogHealth::Failed(why) => reasons.push(Reason::new(Code::LogFailed, why)),
        LogHealth::DiskFull(why) => reasons.push(Reason::new(Code::DiskFull, why)),
        LogHealth::Unreachable(why) => reasons.push(Reason::new(Code::KafkaUnreachable, why)),
    }
    if let (LogHealth::Ok, Some(stalled)) = (&sample.health, sample.log_stalled_for)
        && stalled >= limit
    {
        let detail = format!(
            "the log has finished no append for {} s although some wait: the disk or the broker hangs",
            stalled.as_secs()
        );
        reasons.push(Reason::new(Code::Stalled, detail));
    }
    if let Some(why) = &sample.catalogue {
        let detail = format!("the catalogue does not see changes any more: {why}");
        reasons.push(Reason::new(Code::LogFailed, detail));
    }
    let next: Vec<Offset> = sample
        .status
        .partitions
        .iter()
        .map(|p| p.next_offset)
        .collect();
    // Answers that say that they are old are answers, and what comes is taken.
    if !sample.status.caught_up_once && !sample.status.stale {
        reasons.push(Reason::new(
            Code::Replaying,
            progress(&sample.status, &next),
        ));
    }
    if let Some(why) = &sample.status.failure {
        let detail = format!("the fold has stopped: {why}");
        reasons.push(Reason::new(Code::Stalled, detail));
        return reasons;
    }
    match &sample.head {
        Ok(head) => {
            let stalled = watch.look(head, &next, now, limit);
            // A replay goes through the log in its own order, so that one partition may wait
            // long for its turn: only all of them standing still is a stall then.
            let moving = !sample.status.caught_up_once
                && now.saturating_duration_since(sample.status.last_progress) < limit;
            if let (Some(longest), false) = (stalled.iter().map(|(_, time)| *time).max(), moving) {
                let names: Vec<String> = stalled.iter().map(|(p, _)| p.to_string()).collect();
                let detail = format!(
                    "the log is ahead of the fold and nothing was applied for {} s in partition {}",
                    longest.as_secs(),
                    names.join(", ")
                );
                reasons.push(Reason::new(Code::Stalled, detail));
            }
        }
        // What ails the log itself says why already.
        Err(_) if sample.health != LogHealth::Ok => {}
        Err(error) => reasons.push(headless(error)),
    }
    reasons
}

/// Where the log's head can't be asked for although nothing else is wrong with the log.
fn headless(error: &ReadError) -> Reason {
    let code = match error {
        // It may come back by itself: a broker that was away when it was asked.
        ReadError::Unavailable(_) => Code::KafkaUnreachable,
        ReadError::OutOfRange { .. } | ReadError::Damaged { .. } | ReadError::Replaced(_) => {
            Code::LogFailed
        }
    };
    Reason::new(code, format!("the log's head can't be asked for: {error}"))
}

/// How far the log is folded anew, while a state of another fold answers.
pub(super) fn stale(status: &Status) -> Option<String> {
    let next = status.partitions.iter().map(|p| p.next_offset);
    let next: Vec<Offset> = next.collect();
    status.stale.then(|| progress(status, &next))
}

/// How far a replay is: the records it has applied, of those it has to.
fn progress(status: &Status, next: &[Offset]) -> String {
    let (mut done, mut all) = (0u64, 0u64);
    let ends = status.started_at.iter().zip(&status.head_at_start);
    for (next, (start, end)) in next.iter().zip(ends) {
        done += next.min(end).saturating_sub(*start);
        all += end.saturating_sub(*start);
    }
    let percent = done.saturating_mul(100).checked_div(all).unwrap_or(100);
    format!("{done} of {all} records replayed ({percent} %)")
}

#[cfg(test)]
mod tests {
    use tally_projector::PartitionStatus;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn status(next: &[Offset], head_at_start: &[Offset], last_progress: Instant) -> Status {
        let partitions: Vec<PartitionStatus> = (0..)
            .zip(next)
            .map(|(partition, next)| PartitionStatus {
                partition,
                next_offset: *next,
                dead_letters: 0,
            })
            .collect();
        Status {
            caught_up_once: next
                .iter()
                .zip(head_at_start)
                .all(|(next, head)| next >= head),
            partitions,
            last_progress,
            started_at: vec![0; next.len()],
            head_at_start: head_at_start.to_vec(),
            failure: None,
            reopening: false,
            stale: false,
            restart: false,
            waiters: 0,
            last_checkpoint: None,
            changed: 0,
            memory: 0,
        }
    }

    fn sample(head: &[Offset], status: Status) -> Sample {
        Sample {
            head: Ok(head.to_vec()),
            catalogue: None,
            health: LogHealth::Ok,
            log_stalled_for: None,
            status,
        }
    }

    fn codes(reasons: &[Reason]) -> Vec<Code> {
        reasons.iter().map(|reason| reason.code).collect()
    }

    /// Protects promise "never silently stuck": one partition standing still while others move.
    #[test]
    fn a_partition_that_is_behind_and_still_for_the_limit_is_stalled() {
        let start = Instant::now();
        let mut watch = StallWatch::default();
        for second in 0..10u64 {
            let now = start + Duration::from_secs(second);
            let sample = sample(&[100, 5], status(&[10 + second, 4], &[0, 0], now));
            assert_eq!(
                judge(&mut watch, &sample, now, LIMIT),
                [],
                "second {second}"
            );
        }
        let now = start + LIMIT;
        let reasons = judge(
            &mut watch,
            &sample(&[100, 5], status(&[30, 4], &[0, 0], now)),
            now,
            LIMIT,
        );
        assert_eq!(codes(&reasons), [Code::Stalled]);
        assert!(reasons[0].detail.ends_with("partition 1"), "{reasons:?}");
        // It moves again: ready at once.
        let moved = sample(&[100, 6], status(&[30, 5], &[0, 0], now));
        assert_eq!(judge(&mut watch, &moved, now, LIMIT), []);
    }

    /// Protects an idle server from being called stalled by its first event after hours.
    #[test]
    fn an_idle_hour_does_not_count_as_standing_still() {
        let start = Instant::now();
        let mut watch = StallWatch::default();
        let idle = sample(&[5], status(&[5], &[5], start));
        assert_eq!(judge(&mut watch, &idle, start, LIMIT), []);
        let later = start + Duration::from_secs(3_600);
        assert_eq!(judge(&mut watch, &idle, later, LIMIT), []);
        let behind = sample(&[6], status(&[5], &[5], start));
        assert_eq!(judge(&mut watch, &behind, later, LIMIT), []);
        let reasons = judge(&mut watch, &behind, later + LIMIT, LIMIT);
        assert_eq!(codes(&reasons), [Code::Stalled]);
    }

    /// Protects the progress an operator watches, and that a replay in the log's own order is no
    /// stall while anything moves.
    #[test]
    fn a_replay_says_how_far_it_is_and_stalls_only_as_a_whole() {
        let start = Instant::now();
        let mut watch = StallWatch::default();
        let early = sample(&[100, 100], status(&[50, 0], &[100, 100], start));
        let reasons = judge(&mut watch, &early, start, LIMIT);
        assert_eq!(codes(&reasons), [Code::Replaying]);
        assert_eq!(reasons[0].detail, "50 of 200 records replayed (25 %)");
        let now = start + LIMIT;
        let moving = sample(&[100, 100], status(&[90, 0], &[100, 100], now));
        assert_eq!(
            codes(&judge(&mut watch, &moving, now, LIMIT)),
            [Code::Replaying]
        );
        let still = sample(&[100, 100], status(&[90, 0], &[100, 100], now));
        let reasons = judge(&mut watch, &still, now + LIMIT, LIMIT);
        assert_eq!(codes(&reasons), [Code::Replaying, Code::Stalled]);
    }

    /// Protects a server whose old state answers while the log is folded anew: it gets requests, says how far
    /// it is, and a fold that stands still is a stall all the same.
    #[test]
    fn a_stale_state_that_answers_is_ready() {
        let start = Instant::now();
        let mut watch = StallWatch::default();
        let mut sample = sample(&[100, 100], status(&[40, 10], &[100, 100], start));
        sample.status.stale = true;
        assert_eq!(judge(&mut watch, &sample, start, LIMIT), []);
        let said = stale(&sample.status);
        assert_eq!(said.as_deref(), Some("50 of 200 records replayed (25 %)"));
        let reasons = judge(&mut watch, &sample, start + LIMIT, LIMIT);
        assert_eq!(codes(&reasons), [Code::Stalled]);
        sample.status.stale = false;
        assert_eq!(stale(&sample.status), None);
    }

    /// Protects against a disk that hangs in a sync: no error is ever said then.
    #[test]
    fn a_log_that_finishes_nothing_is_stalled() {
        let now = Instant::now();
        let mut sample = sample(&[5], status(&[5], &[5], now));
        sample.log_stalled_for = Some(LIMIT / 2);
        assert_eq!(judge(&mut StallWatch::default(), &sample, now, LIMIT), []);
        sample.log_stalled_for = Some(LIMIT);
        let reasons = judge(&mut StallWatch::default(), &sample, now, LIMIT);
        assert_eq!(codes(&reasons), [Code::Stalled]);
    }

    /// Protects the words that probes and runbooks match on.
    #[test]
    fn each_trouble_of_the_log_has_its_code() {
        let now = Instant::now();
        for (health, code) in [
            (LogHealth::Failed("sync".into()), Code::LogFailed),
            (LogHealth::DiskFull("disk".into()), Code::DiskFull),
            (
                LogHealth::Unreachable("away".into()),
                Code::KafkaUnreachable,
            ),
        ] {
            let mut sample = sample(&[5], status(&[5], &[5], now));
            sample.health = health;
            let reasons = judge(&mut StallWatch::default(), &sample, now, LIMIT);
            assert_eq!(codes(&reasons), [code]);
        }
        let mut stopped = sample(&[5], status(&[5], &[5], now));
        stopped.status.failure = Some("the store broke".into());
        let reasons = judge(&mut StallWatch::default(), &stopped, now, LIMIT);
        assert_eq!(codes(&reasons), [Code::Stalled]);
        let mut headless = sample(&[], status(&[5], &[5], now));
        for (error, code) in [
            (
                ReadError::Unavailable("no answer".into()),
                Code::KafkaUnreachable,
            ),
            (
                ReadError::Damaged {
                    place: "here".into(),
                    what: "all".into(),
                },
                Code::LogFailed,
            ),
        ] {
            headless.head = Err(error);
            let reasons = judge(&mut StallWatch::default(), &headless, now, LIMIT);
            assert_eq!(codes(&reasons), [code]);
        }
        // Where the log itself says what ails it, that is the reason.
        headless.health = LogHealth::DiskFull("disk".into());
        let reasons = judge(&mut StallWatch::default(), &headless, now, LIMIT);
        assert_eq!(codes(&reasons), [Code::DiskFull]);
        let mut blind = sample(&[5], status(&[5], &[5], now));
        blind.catalogue = Some("its log was recreated".into());
        let reasons = judge(&mut StallWatch::default(), &blind, now, LIMIT);
        assert_eq!(codes(&reasons), [Code::LogFailed]);
        let words = serde_json::to_string(&[
            Code::Starting,
            Code::Replaying,
            Code::Stalled,
            Code::LogFailed,
            Code::DiskFull,
            Code::KafkaUnreachable,
            Code::Draining,
        ]);
        assert_eq!(
            words.unwrap(),
            r#"["starting","replaying","stalled","log_failed","disk_full","kafka_unreachable","draining"]"#
        );
    }
}
