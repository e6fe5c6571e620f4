//! Which resources people do most with right now: a bounded summary, beside the state and no part of it.
//!
//! Space-Saving (Metwally, Agrawal, El Abbadi: "Efficient Computation of Frequent and Top-k Elements in
//! Data Streams", 2005): so many counters; a resource that has none takes over the smallest one with
//! its count, and remembers that count as what it may be too much. All counts fade with time, by the same
//! factor, which changes nothing of what the summary promises: a count is never too small, and too large
//! by at most what its counter remembers, which is at most all weight over the number of counters.
//!
//! Of a large batch only every n-th event is looked at, with the weight of n: the cost
//! of a batch is bounded, and next to nothing of what its events cost.

use std::time::{Duration, Instant};

use hashbrown::HashMap;
use parking_lot::Mutex;
use tally_domain::Resource;

/// How many resources are counted at a time.
const COUNTERS: usize = 128;
/// How many events of one batch are looked at, at most.
const LOOKED_AT: usize = 8;
/// In this time a count fades to its half.
const HALF_LIFE: Duration = Duration::from_secs(10);
/// Fading goes by steps.
const STEP: Duration = Duration::from_millis(250);

/// A resource that much is done with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HotResource {
    /// Which.
    pub resource: Resource,
    /// Events a second over the last ten seconds or so; never less than there were, as far as all of
    /// them were looked at.
    pub per_second: f64,
    /// By how much that may be too large, in events a second.
    pub excess: f64,
}

#[derive(Debug, Clone, Copy)]
struct Counter {
    resource: Resource,
    count: f64,
    /// What the counter had of others when it was taken over.
    excess: f64,
}

/// The counters.
struct Summary {
    limit: usize,
    counters: Vec<Counter>,
    places: HashMap<Resource, usize, foldhash::fast::RandomState>,
}

impl Summary {
    fn new(limit: usize) -> Self {
        Self {
            limit,
            counters: Vec::with_capacity(limit),
            places: HashMap::default(),
        }
    }

    fn add(&mut self, resource: Resource, weight: f64) {
        let place = self.places.get(&resource);
        if let Some(counter) = place.and_then(|place| self.counters.get_mut(*place)) {
            counter.count += weight;
            return;
        }
        let new = Counter {
            resource,
            count: weight,
            excess: 0.0,
        };
        if self.counters.len() < self.limit {
            self.places.insert(resource, self.counters.len());
            self.counters.push(new);
            return;
        }
        // All are finite; the plain comparison is several times faster than a total order.
        let (mut place, mut least) = (0, f64::INFINITY);
        for (at, counter) in self.counters.iter().enumerate() {
            if counter.count < least {
                (place, least) = (at, counter.count);
            }
        }
        if let Some(smallest) = self.counters.get_mut(place) {
            self.places.remove(&smallest.resource);
            self.places.insert(resource, place);
            *smallest = Counter {
                count: smallest.count + weight,
                excess: smallest.count,
                ..new
            };
        }
    }

    fn fade(&mut self, factor: f64) {
        for counter in &mut self.counters {
            counter.count *= factor;
            counter.excess *= factor;
        }
    }
}

/// The summary with its clock.
struct Faded {
    summary: Summary,
    at: Instant,
    /// Where in the next large batch to begin to look, so that no place in a batch is looked at more
    /// than another.
    phase: usize,
}

impl Faded {
    fn advance(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.at);
        if since >= STEP {
            self.at = now;
            let half_lives = since.as_secs_f64() / HALF_LIFE.as_secs_f64();
            self.summary.fade((-half_lives).exp2());
        }
    }

    fn add(&mut self, events: &[Resource], now: Instant) {
        self.advance(now);
        let step = events.len().div_ceil(LOOKED_AT).max(1);
        let weight = f64::from(u32::try_from(step).unwrap_or(u32::MAX));
        self.phase = self.phase.wrapping_add(1);
        for resource in events.iter().skip(self.phase % step).step_by(step) {
            self.summary.add(*resource, weight);
        }
    }
}

/// What is done most with, for whoever wants to know. It begins with nothing at each start.
pub(crate) struct Hot(Mutex<Faded>);

impl Default for Hot {
    fn default() -> Self {
        Self(Mutex::new(Faded {
            summary: Summary::new(COUNTERS),
            at: Instant::now(),
            phase: 0,
        }))
    }
}

impl Hot {
    /// Takes the resources of a batch's events.
    pub(crate) fn add(&self, events: &[Resource]) {
        self.0.lock().add(events, Instant::now());
    }

    /// The hottest, at most so many. One that may be there by the others' counts alone is left out.
    pub(crate) fn top(&self, most: usize) -> Vec<HotResource> {
        let mut faded = self.0.lock();
        faded.advance(Instant::now());
        // What comes evenly stands at so many seconds' worth.
        let seconds = HALF_LIFE.as_secs_f64() / std::f64::consts::LN_2;
        let counters = faded.summary.counters.iter();
        let sure = counters.filter(|counter| counter.excess < counter.count / 2.0);
        let mut top: Vec<HotResource> = sure
            .map(|counter| HotResource {
                resource: counter.resource,
                per_second: counter.count / seconds,
                excess: counter.excess / seconds,
            })
            .filter(|hot| hot.per_second >= 0.005)
            .collect();
        drop(faded);
        top.sort_by(|one, other| {
            let by_count = other.per_second.total_cmp(&one.per_second);
            by_count.then(one.resource.cmp(&other.resource))
        });
        top.truncate(most);
        top
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tally_domain::ResourceType;

    use super::*;

    fn resource(id: u64) -> Resource {
        Resource::new(ResourceType::AiNote, id).unwrap()
    }

    proptest! {
        /// Protects what the summary promises, whatever comes in whatever order, against exact counts that
        /// fade alike: no count is too small, or too large by more than it says; that is at most all weight
        /// over the counters; and who has more than that is there.
        #[test]
        fn counts_are_bounded_by_the_exact_ones(
            events in proptest::collection::vec((0u64..40, 1u32..5, any::<bool>()), 1..400),
            limit in 1usize..20,
        ) {
            let mut summary = Summary::new(limit);
            let mut exact = std::collections::BTreeMap::new();
            let mut all = 0.0;
            for (id, weight, fades) in events {
                // Skewed: small ids come more often.
                let id = id * id / 40;
                summary.add(resource(id), f64::from(weight));
                *exact.entry(id).or_insert(0.0) += f64::from(weight);
                all += f64::from(weight);
                if fades {
                    summary.fade(0.75);
                    exact.values_mut().for_each(|count| *count *= 0.75);
                    all *= 0.75;
                }
            }
            let nearly = all * 1e-9;
            prop_assert!(summary.counters.len() <= limit);
            prop_assert_eq!(summary.places.len(), summary.counters.len());
            for (place, counter) in summary.counters.iter().enumerate() {
                prop_assert_eq!(summary.places.get(&counter.resource), Some(&place));
                let truth = exact[&counter.resource.id.get()];
                prop_assert!(counter.count >= truth - nearly);
                prop_assert!(counter.count - counter.excess <= truth + nearly);
                prop_assert!(counter.excess <= all / limit as f64 + nearly);
            }
            for (id, truth) in exact {
                let kept = summary.places.contains_key(&resource(id));
                prop_assert!(kept || truth <= all / limit as f64 + nearly, "{id} is lost");
            }
        }
    }

    /// Protects the rate that people read, and that what was hot once does not stay so.
    #[test]
    fn what_comes_evenly_shows_its_rate_and_fades_when_it_ends() {
        let hot = Hot::default();
        let mut now = Instant::now();
        // 2,000 events a second in batches of 200, a quarter of them of one resource.
        for batch in 0..1_200u64 {
            let events: Vec<Resource> = (0..200)
                .map(|event| match event % 4 {
                    0 => resource(7),
                    _ => resource(1_000 + batch * 200 + event),
                })
                .collect();
            hot.0.lock().add(&events, now);
            now += Duration::from_millis(100);
        }
        let top = hot.top(10);
        assert_eq!(top.len(), 1, "the others are there by chance: {top:?}");
        assert_eq!(top[0].resource, resource(7));
        assert!((450.0..560.0).contains(&top[0].per_second), "{top:?}");
        now += HALF_LIFE * 20;
        hot.0.lock().advance(now);
        assert_eq!(hot.top(10), []);
    }

    /// Protects the fold from what a large batch would cost here.
    #[test]
    fn of_a_large_batch_only_a_part_is_looked_at() {
        let hot = Hot::default();
        let many: Vec<Resource> = (0..10_000).map(resource).collect();
        hot.add(&many);
        let faded = hot.0.lock();
        assert!(faded.summary.counters.len() <= LOOKED_AT);
        let all: f64 = faded.summary.counters.iter().map(|c| c.count).sum();
        assert!((9_000.0..=10_100.0).contains(&all), "{all}");
    }
}
