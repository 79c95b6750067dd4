//! Owns the core's drawing of ids, from a seed it is given: the core itself asks nobody.
//! Must never be used for secrets.

/// SplitMix64 (Steele, Lea, Flood 2014): every seed gives a full-period stream.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number that is not zero, because zero stands for "none" in the formats.
    pub(crate) const fn draw(&mut self) -> u64 {
        loop {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^= z >> 31;
            if z != 0 {
                return z;
            }
        }
    }
}
