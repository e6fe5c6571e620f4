//! Which interaction comes next: the mix, and who does it to what.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Zipf};
use tally_domain::InteractionType;

/// Shares of 100, as people use content: mostly they look.
pub(super) const MIX: [(InteractionType, u8); 7] = [
    (InteractionType::View, 70),
    (InteractionType::Like, 10),
    (InteractionType::Unlike, 3),
    (InteractionType::Share, 5),
    (InteractionType::Bookmark, 6),
    (InteractionType::Unbookmark, 2),
    (InteractionType::Comment, 4),
];

/// One interaction to send, as places in the lists of users and resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Interaction {
    pub(super) user: usize,
    pub(super) resource: usize,
    pub(super) kind: InteractionType,
}

/// An endless, reproducible row of interactions.
#[derive(Debug)]
pub(super) struct Workload {
    rng: Xoshiro256PlusPlus,
    users: Ranks,
    resources: Ranks,
}

impl Workload {
    /// The row of one thread; `users` and `resources` are how many there are (at least one is
    /// assumed), the first being the most popular.
    pub(super) fn new(seed: u64, thread: u64, users: usize, resources: usize, zipf: f64) -> Self {
        Self {
            rng: Xoshiro256PlusPlus::seed_from_u64(
                seed ^ thread.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            ),
            users: Ranks::new(users, zipf),
            resources: Ranks::new(resources, zipf),
        }
    }

    /// The next one.
    pub(super) fn next(&mut self) -> Interaction {
        Interaction {
            user: self.users.sample(&mut self.rng),
            resource: self.resources.sample(&mut self.rng),
            kind: kind(self.rng.random_range(0..100)),
        }
    }
}

/// Zipf-distributed places in a list of `count`.
#[derive(Debug)]
struct Ranks {
    count: usize,
    zipf: Option<Zipf<f64>>,
}

impl Ranks {
    fn new(count: usize, exponent: f64) -> Self {
        #[expect(
            clippy::cast_precision_loss,
            reason = "lists are far shorter than 2^52"
        )]
        let ranks = count as f64;
        Self {
            count,
            zipf: Zipf::new(ranks, exponent).ok(),
        }
    }

    fn sample(&self, rng: &mut Xoshiro256PlusPlus) -> usize {
        let Some(zipf) = &self.zipf else { return 0 };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank is a whole number from 1 to count"
        )]
        let rank = zipf.sample(rng) as usize;
        rank.clamp(1, self.count.max(1)) - 1
    }
}

/// The kind at a place in 0..100.
fn kind(place: u8) -> InteractionType {
    let mut left = place;
    for (kind, share) in MIX {
        if left < share {
            return kind;
        }
        left -= share;
    }
    InteractionType::View
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects the published mix: every kind has exactly its share, and the shares make 100.
    #[test]
    fn the_mix_has_its_shares() {
        assert_eq!(
            MIX.iter().map(|(_, share)| u32::from(*share)).sum::<u32>(),
            100
        );
        for (wanted, share) in MIX {
            let places = (0..100).filter(|place| kind(*place) == wanted).count();
            assert_eq!(places, usize::from(share), "{wanted}");
        }
    }

    /// Protects repeatability: the seed decides everything, and threads differ.
    #[test]
    fn the_seed_decides_the_row() {
        let row = |seed, thread| {
            let mut workload = Workload::new(seed, thread, 50, 60, 0.99);
            (0..200).map(|_| workload.next()).collect::<Vec<_>>()
        };
        assert_eq!(row(1, 0), row(1, 0));
        assert_ne!(row(1, 0), row(2, 0));
        assert_ne!(row(1, 0), row(1, 1));
    }

    /// Protects the lists' bounds and the popularity: the first is drawn most often, and with
    /// exponent 0 every place comes up.
    #[test]
    fn popular_places_come_first_and_none_is_out_of_bounds() {
        let count = |zipf| {
            let mut workload = Workload::new(7, 0, 1, 20, zipf);
            let mut drawn = vec![0_u32; 20];
            for _ in 0..20_000 {
                let next = workload.next();
                assert_eq!(next.user, 0);
                drawn[next.resource] += 1;
            }
            drawn
        };
        let skewed = count(0.99);
        assert!(skewed[0] > 3 * skewed[9], "{skewed:?}");
        let alike = count(0.0);
        assert!(
            alike.iter().all(|drawn| (700..1_300).contains(drawn)),
            "{alike:?}"
        );
    }
}
