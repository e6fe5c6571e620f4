//! How far the fold is behind the log, in records and in seconds.
//!
//! Both are counted from the log's own head, which somebody asks for now and then
//! ([`Projector::head_seen`](crate::Projector::head_seen)). Whenever the head has moved, the moment is
//! marked: from then on, whatever is below it and not folded waits. So nothing has to be done for an event,
//! and a fold that stands still or has ended looks like what it is: the oldest mark above it grows older.
//!
//! - Few marks are kept. Where there are more, the closest neighbours become one, which has the earlier
//!   moment: what is shown is then somewhat more than it is, never less.
//! - Nobody saw what was there at the start come. Until that is folded, the oldest record is taken to be as
//!   old as the one folded last, which came before it.
//! - Where the log gives no head, nobody knows what has come since it gave the last: the seconds are then at
//!   least the time since, and the records are not known.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tally_domain::Offset;

/// How many marks a partition has at most.
const MARKS: usize = 64;

/// For how long a head is taken to be the head still. It is asked for twice a second.
pub(crate) const HOLDS: Duration = Duration::from_secs(2);

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Lag {
    partitions: Vec<Behind>,
    /// When the log was last asked for its head and gave it.
    said: Option<Instant>,
}

/// One partition.
#[derive(Debug)]
struct Behind {
    next: Offset,
    head: Offset,
    /// What is below came before anybody looked, and was looked for from `since` on.
    unseen: Offset,
    since: Instant,
    marks: VecDeque<Mark>,
}

/// All below was in the log at that moment.
#[derive(Debug, Clone, Copy)]
struct Mark {
    below: Offset,
    at: Instant,
}

/// What there is to show of a partition.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Shown {
    pub(crate) head: Offset,
    pub(crate) next: Offset,
    /// `None` where nobody knows.
    pub(crate) records: Option<u64>,
    pub(crate) time: Duration,
}

impl Lag {
    /// The log said where its head is when it was asked at that moment.
    pub(crate) fn head(&mut self, heads: &[Offset], asked_at: Instant) {
        let new = heads.iter().skip(self.partitions.len());
        let new: Vec<Behind> = new
            .map(|head| Behind {
                next: 0,
                head: *head,
                unseen: *head,
                since: asked_at,
                marks: VecDeque::new(),
            })
            .collect();
        self.partitions.extend(new);
        for (behind, head) in self.partitions.iter_mut().zip(heads) {
            behind.see(*head, asked_at);
        }
        // Two may ask at a time.
        self.said = self.said.max(Some(asked_at));
    }

    /// Up to where each partition is folded.
    pub(crate) fn folded(&mut self, next: impl IntoIterator<Item = Offset>, now: Instant) {
        for (behind, next) in self.partitions.iter_mut().zip(next) {
            behind.folded(next, now);
        }
    }

    /// When the log said last where its head is.
    pub(crate) fn said(&self) -> Option<Instant> {
        self.said
    }

    /// What there is to show, by partition: `ages` are those of the records folded last, where there were
    /// any.
    pub(crate) fn show(
        &self,
        now: Instant,
        ages: impl Iterator<Item = Option<Duration>>,
    ) -> Vec<Shown> {
        let silent = self
            .said
            .map_or(Duration::ZERO, |said| now.saturating_duration_since(said));
        let known = silent < HOLDS;
        let ages = ages.chain(std::iter::repeat(None));
        let shown = self.partitions.iter().zip(ages).map(|(behind, age)| Shown {
            head: behind.head,
            next: behind.next,
            records: known.then(|| behind.head.saturating_sub(behind.next)),
            time: if known {
                behind.time(now, age)
            } else {
                behind.time(now, age).max(silent)
            },
        });
        shown.collect()
    }
}

impl Behind {
    fn see(&mut self, head: Offset, at: Instant) {
        if head <= self.head {
            return;
        }
        self.head = head;
        self.marks.push_back(Mark { below: head, at });
        if self.marks.len() > MARKS {
            self.thin_out();
        }
    }

    /// Makes one of the two neighbours that are the closest: what that makes too old is the least.
    fn thin_out(&mut self) {
        let spans = self.marks.iter().zip(self.marks.iter().skip(2));
        let spans = spans.map(|(mark, after)| after.at.saturating_duration_since(mark.at));
        let closest = spans.enumerate().min_by_key(|(_, span)| *span);
        let Some((place, _)) = closest else {
            return;
        };
        if let Some(gone) = self.marks.remove(place + 1)
            && let Some(mark) = self.marks.get_mut(place)
        {
            mark.below = gone.below;
        }
    }

    fn folded(&mut self, next: Offset, now: Instant) {
        if next < self.next {
            // The state was opened again as of before: nobody remembers when that came.
            self.unseen = self.head;
            self.since = now;
            self.marks.clear();
        }
        self.next = next;
        while self.marks.front().is_some_and(|mark| mark.below <= next) {
            self.marks.pop_front();
        }
    }

    fn time(&self, now: Instant, age_of_last: Option<Duration>) -> Duration {
        if self.next >= self.head {
            return Duration::ZERO;
        }
        let since = |at: Instant| now.saturating_duration_since(at);
        if self.next < self.unseen {
            return since(self.since).max(age_of_last.unwrap_or_default());
        }
        self.marks
            .front()
            .map_or(Duration::ZERO, |mark| since(mark.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn shown(lag: &Lag, now: Instant) -> (Option<u64>, Duration) {
        let one = lag.show(now, std::iter::empty())[0];
        (one.records, one.time)
    }

    /// Protects the alert on freshness: a fold that is blocked or dead shows a lag that grows by itself.
    #[test]
    fn a_fold_that_stands_still_shows_a_lag_that_grows() {
        let start = Instant::now();
        let mut lag = Lag::default();
        lag.head(&[10], start);
        lag.folded([10], start);
        assert_eq!(shown(&lag, start), (Some(0), Duration::ZERO));
        for second in 1..=600_u32 {
            let now = start + SECOND * second;
            lag.head(&[10 + u64::from(second)], now);
            lag.folded([10], now);
            assert_eq!(
                shown(&lag, now),
                (Some(u64::from(second)), SECOND * (second - 1))
            );
        }
        // Half of it is folded: what is shown falls, and is not less than it is.
        let now = start + SECOND * 600;
        lag.folded([310], now);
        let (records, time) = shown(&lag, now);
        assert_eq!(records, Some(300));
        assert!((SECOND * 299..SECOND * 340).contains(&time), "{time:?}");
        lag.folded([610], now);
        assert_eq!(shown(&lag, now), (Some(0), Duration::ZERO));
    }

    /// Protects memory however long the fold stands still.
    #[test]
    fn there_are_few_marks_however_long_it_lasts() {
        let start = Instant::now();
        let mut lag = Lag::default();
        lag.head(&[0], start);
        for n in 1..100_000_u64 {
            lag.head(&[n], start + Duration::from_millis(500 * n));
        }
        assert!(lag.partitions[0].marks.len() <= MARKS);
        let now = start + Duration::from_millis(500 * 100_000);
        lag.head(&[99_999], now);
        assert_eq!(shown(&lag, now).1, Duration::from_millis(500 * 99_999));
    }

    /// Protects whoever looks while the log is away from taking that for a fold that is up to date.
    #[test]
    fn a_log_that_gives_no_head_is_no_lag_of_zero() {
        let start = Instant::now();
        let mut lag = Lag::default();
        lag.head(&[10], start);
        lag.folded([10], start);
        let soon = start + HOLDS / 2;
        assert_eq!(shown(&lag, soon), (Some(0), Duration::ZERO));
        let later = start + SECOND * 30;
        assert_eq!(shown(&lag, later), (None, SECOND * 30));
        lag.head(&[10], later);
        assert_eq!(shown(&lag, later), (Some(0), Duration::ZERO));
    }

    /// Protects against a start that looks up to date although it has hours to fold, and against one that
    /// shows nothing of it because nobody saw the records come.
    #[test]
    fn what_was_there_before_the_start_is_as_old_as_what_was_folded_last() {
        let start = Instant::now();
        let mut lag = Lag::default();
        lag.head(&[100], start);
        lag.folded([50], start);
        let now = start + SECOND * 5;
        lag.head(&[101], now);
        let age = |age: Option<Duration>| lag.show(now, std::iter::once(age))[0].time;
        assert_eq!(age(Some(SECOND * 3_600)), SECOND * 3_600);
        assert_eq!(age(None), SECOND * 5, "nothing was ever folded");
        lag.folded([100], now);
        let fresh = lag.show(now, std::iter::once(Some(SECOND * 3_600)))[0];
        assert_eq!((fresh.records, fresh.time), (Some(1), Duration::ZERO));
    }

    /// Protects the figures where a state comes that is older than the one that was: it is folded again.
    #[test]
    fn a_state_that_is_older_than_before_is_behind() {
        let start = Instant::now();
        let mut lag = Lag::default();
        lag.head(&[100], start);
        lag.folded([100], start);
        lag.folded([0], start);
        let now = start + SECOND;
        lag.head(&[100], now);
        assert_eq!(shown(&lag, now), (Some(100), SECOND));
    }
}
