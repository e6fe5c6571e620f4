//! How long the oldest append under way has been, for next to nothing at each.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Appends that begin within this are of one age.
const WIDTH: Duration = Duration::from_millis(50);

/// The number of a bucket.
pub(super) type Age = u64;

/// Appends under way, by when they began: buckets, oldest first. There are never more than fit into
/// the time that an append may take, whatever their number.
#[derive(Default)]
pub(super) struct Ages {
    buckets: VecDeque<Bucket>,
    /// The number of the first bucket.
    first: Age,
}

struct Bucket {
    began: Instant,
    /// The client that they were given to, by number.
    client: u64,
    under_way: usize,
}

impl Ages {
    /// An append begins, with this client.
    pub(super) fn begin(&mut self, client: u64, now: Instant) -> Age {
        let fits = |last: &&mut Bucket| {
            last.client == client && now.saturating_duration_since(last.began) < WIDTH
        };
        if let Some(last) = self.buckets.back_mut().filter(fits) {
            last.under_way += 1;
        } else {
            self.buckets.push_back(Bucket {
                began: now,
                client,
                under_way: 1,
            });
        }
        let last = self.buckets.len().saturating_sub(1);
        self.first + u64::try_from(last).unwrap_or(u64::MAX)
    }

    /// An append of that age has ended.
    pub(super) fn end(&mut self, age: Age) {
        let place = usize::try_from(age.saturating_sub(self.first)).unwrap_or(usize::MAX);
        if let Some(bucket) = self.buckets.get_mut(place) {
            bucket.under_way = bucket.under_way.saturating_sub(1);
        }
        while self.buckets.front().is_some_and(|one| one.under_way == 0) {
            self.buckets.pop_front();
            self.first += 1;
        }
    }

    /// Since when the oldest append of this client has been under way.
    pub(super) fn oldest(&self, client: u64) -> Option<Instant> {
        let mut buckets = self.buckets.iter();
        buckets
            .find(|bucket| bucket.client == client && bucket.under_way > 0)
            .map(|bucket| bucket.began)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Begin { client: u64, after_millis: u64 },
        End { which: prop::sample::Index },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let begin = (0..2_u64, 0..200_u64).prop_map(|(client, after_millis)| Step::Begin {
            client,
            after_millis,
        });
        let end = any::<prop::sample::Index>().prop_map(|which| Step::End { which });
        prop::collection::vec(prop_oneof![begin, end], 0..200)
    }

    proptest! {
        /// Protects the deadline: the oldest append is known, to the width of a bucket, in whatever
        /// order they end.
        #[test]
        fn the_oldest_append_is_known(steps in steps()) {
            let mut now = Instant::now();
            let mut ages = Ages::default();
            let mut under_way: Vec<(u64, Instant, Age)> = Vec::new();
            for step in steps {
                match step {
                    Step::Begin { client, after_millis } => {
                        now += Duration::from_millis(after_millis);
                        under_way.push((client, now, ages.begin(client, now)));
                    }
                    Step::End { which } if !under_way.is_empty() => {
                        let (_, _, age) = under_way.remove(which.index(under_way.len()));
                        ages.end(age);
                    }
                    Step::End { .. } => {}
                }
                for client in 0..2 {
                    let of_client = under_way.iter().filter(|one| one.0 == client);
                    let oldest = of_client.map(|one| one.1).min();
                    let known = ages.oldest(client);
                    prop_assert_eq!(oldest.is_some(), known.is_some());
                    if let (Some(oldest), Some(known)) = (oldest, known) {
                        prop_assert!(known <= oldest && oldest - known < WIDTH);
                    }
                }
            }
            for (_, _, age) in under_way {
                ages.end(age);
            }
            prop_assert!(ages.buckets.is_empty());
        }
    }
}
