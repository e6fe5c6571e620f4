//! How long things took, in the same memory however many there are.

use std::time::Duration;

/// Counts by microsecond, up to a second.
pub(crate) struct Histogram {
    micros: Vec<u64>,
    pub(crate) count: u64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self {
            micros: vec![0; 1_000_000],
            count: 0,
        }
    }

    pub(crate) fn add(&mut self, taken: Duration) {
        let place = usize::try_from(taken.as_micros()).unwrap_or(usize::MAX);
        let place = place.min(self.micros.len() - 1);
        if let Some(count) = self.micros.get_mut(place) {
            *count += 1;
        }
        self.count += 1;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (count, more) in self.micros.iter_mut().zip(&other.micros) {
            *count += more;
        }
        self.count += other.count;
    }

    pub(crate) fn millis(&self, quantile: f64) -> f64 {
        let wanted = float(self.count) * quantile;
        let mut sum = 0;
        for (micros, count) in (0_u32..).zip(&self.micros) {
            sum += count;
            if float(sum) >= wanted {
                return f64::from(micros) / 1e3;
            }
        }
        0.
    }
}

/// A count, where it is below 2³².
pub(crate) fn float(count: u64) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}
