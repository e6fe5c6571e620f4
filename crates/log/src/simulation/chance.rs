//! Chance that is the same for the same seed.

/// Steele, Lea and Flood's `SplitMix64`: random enough to choose what a crash leaves.
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// The same numbers for the same seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below the bound, which is not 0.
    ///
    /// # Panics
    /// Where it is.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap();
        usize::try_from(self.any() % bound).unwrap()
    }

    /// True once in so many times.
    ///
    /// # Panics
    /// Where that is 0.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}
