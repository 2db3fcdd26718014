//! Eight 16-bit numbers compared at once. Beside [`crate::prefetch`] the one place outside the DPDK folder that is not safe Rust:
//! what the compiler makes of a loop is three times as long, and every lookup goes through it.

/// Which of `numbers` are `sought`, four in a word, the first in its lowest bits: bit 2 n stands for number n.
#[inline(always)]
#[cfg(target_arch = "x86_64")]
#[expect(
    unsafe_code,
    reason = "the compiler asks for it although every x86_64 has these instructions"
)]
pub(crate) fn equal(numbers: [u64; 2], sought: u16) -> u32 {
    // SAFETY: SSE2 is part of every x86_64.
    unsafe { equal_sse2(numbers, sought) }
}

#[inline]
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse2")]
fn equal_sse2([low, high]: [u64; 2], sought: u16) -> u32 {
    use core::arch::x86_64::{_mm_cmpeq_epi16, _mm_movemask_epi8, _mm_set_epi64x, _mm_set1_epi16};
    let numbers = _mm_set_epi64x(high.cast_signed(), low.cast_signed());
    let equal = _mm_cmpeq_epi16(numbers, _mm_set1_epi16(sought.cast_signed()));
    // A bit per byte, two for each number.
    _mm_movemask_epi8(equal).cast_unsigned() & 0x5555
}

/// Which of `numbers` are `sought`, four in a word, the first in its lowest bits: bit 2 n stands for number n.
#[inline]
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn equal(numbers: [u64; 2], sought: u16) -> u32 {
    one_by_one(numbers, sought)
}

#[cfg(any(test, not(target_arch = "x86_64")))]
fn one_by_one(numbers: [u64; 2], sought: u16) -> u32 {
    let lane = |n: u32| numbers[n as usize / 4] >> (n % 4 * 16) & 0xffff;
    (0..8)
        .filter(|&n| lane(n) == u64::from(sought))
        .map(|n| 1 << (2 * n))
        .sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn all_at_once_is_one_by_one(numbers: [u16; 8], sought: u16, places: u8) {
            let mut words = [0; 2];
            for (n, number) in numbers.into_iter().enumerate() {
                let number = if places >> n & 1 == 1 { sought } else { number };
                words[n / 4] |= u64::from(number) << (n % 4 * 16);
            }
            prop_assert_eq!(equal(words, sought), one_by_one(words, sought));
        }
    }
}
