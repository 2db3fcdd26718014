//! A small generator with a seed: which flow a packet is of must not be predictable, and a run must be repeatable.

use dataplane::shard::mix64;

#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    #[inline]
    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix64(self.0)
    }

    /// A number below `n`.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the quotient is below n")]
    pub(crate) const fn below(&mut self, n: usize) -> usize {
        ((self.next() as u128 * n as u128) >> 64) as usize
    }

    /// A number from `first` to `last`.
    #[expect(clippy::cast_possible_truncation, reason = "the sum is at most last")]
    pub(crate) const fn word(&mut self, first: u16, last: u16) -> u16 {
        first + self.below((last - first) as usize + 1) as u16
    }
}
