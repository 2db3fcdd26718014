//! The worker's own randomness: where searches for addresses, blocks and ports start (RFC 6056, RFC 6888
//! REQ-15). Seeded by the caller, so that a simulation repeats itself.

use crate::shard::mix64;

/// The splitmix64 generator.
#[derive(Debug, Clone)]
pub(super) struct Random {
    state: u64,
}

impl Random {
    pub(super) const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    pub(super) const fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix64(self.state)
    }

    /// A number below `bound` (0 when the bound is 0), by multiplication: its bias is below 2^-32.
    pub(super) const fn below(&mut self, bound: u32) -> u32 {
        (((self.next() >> 32) * bound as u64) >> 32) as u32
    }

    /// As [`Self::below`], for port counts.
    #[expect(clippy::cast_possible_truncation, reason = "below a 16-bit bound")]
    pub(super) const fn below_u16(&mut self, bound: u16) -> u16 {
        self.below(bound as u32) as u16
    }
}
