//! The Internet checksum (RFC 1071): whole sums to verify and to build, incremental updates (RFC 1624) to rewrite.
//! Sums are kept in the machine's byte order, which one's complement addition allows (RFC 1071, section 2 (B)), and
//! turned round once at the end.

/// An unfolded one's complement sum. Parts of even length may be added in any order; an odd part must be the last.
#[derive(Debug, Default, Clone, Copy)]
pub struct Sum(u64);

impl Sum {
    /// Nothing added yet.
    pub const ZERO: Self = Self(0);

    /// Adds bytes as they are on the wire.
    #[inline(always)]
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        let (blocks, mut rest) = bytes.as_chunks::<32>();
        if !blocks.is_empty() {
            self = self.plus(wide(blocks));
        }
        if let Some((chunk, after)) = rest.split_first_chunk::<16>() {
            (self, rest) = (self.fixed(chunk), after);
        }
        if let Some((chunk, after)) = rest.split_first_chunk::<8>() {
            (self, rest) = (self.fixed(chunk), after);
        }
        match bytes.last_chunk() {
            Some(last) => self.plus(end_of(*last, rest.len())),
            // Shorter than any header with a checksum.
            None => self.plus(short(rest)),
        }
    }

    /// As [`Self::bytes`] for a length known when compiling, a multiple of 4: no loop is left.
    #[inline]
    #[must_use]
    pub fn fixed<const N: usize>(mut self, bytes: &[u8; N]) -> Self {
        const { assert!(N.is_multiple_of(4)) };
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self = self.plus(u64::from_ne_bytes(*word));
        }
        for quad in rest.as_chunks::<4>().0 {
            self = self.plus(u32::from_ne_bytes(*quad).into());
        }
        self
    }

    /// A carry out of the top comes in at the bottom: all of a sum's bits are worth what they are worth modulo 2^16 - 1.
    #[inline]
    const fn plus(self, word: u64) -> Self {
        let (sum, carry) = self.0.overflowing_add(word);
        Self(sum + carry as u64)
    }

    /// Adds a number of 16 bits.
    #[inline]
    #[must_use]
    pub fn word(self, word: u16) -> Self {
        self.plus(word.to_be().into())
    }

    /// Adds the pseudo header of IPv4 (RFC 9293, section 3.1) or IPv6 (RFC 8200, section 8.1): both addresses in a
    /// row, transport length, protocol.
    #[inline]
    #[must_use]
    pub fn pseudo<const N: usize>(self, addresses: &[u8; N], len: u16, proto: u8) -> Self {
        let words = u64::from(len.to_be()) + u64::from(u16::from(proto).to_be());
        self.fixed(addresses).plus(words)
    }

    /// Whether what was added contains a right checksum.
    #[inline]
    #[must_use]
    pub const fn is_right(self) -> bool {
        // What folds to 0xffff, without folding: a multiple of that other than 0. The product with the inverse is the factor,
        // and beyond all factors for any other number (Granlund and Montgomery, PLDI 1994, section 9).
        self.0.wrapping_mul(FOLDED_INVERSE).wrapping_sub(1) < u64::MAX / FOLDED
    }

    /// The checksum field's value: 0 when what was added contains a right checksum.
    #[inline]
    #[must_use]
    pub fn finish(self) -> u16 {
        !u16::from_be(fold(self.0))
    }

    /// As [`Self::finish`] for a UDP header, where 0 means "no checksum" and is sent as 0xffff (RFC 768).
    #[inline]
    #[must_use]
    pub fn finish_udp(self) -> u16 {
        match self.finish() {
            0 => 0xffff,
            sum => sum,
        }
    }
}

/// The last `count` of eight bytes, fewer than all, as if zeros followed them. One load, and no branch for each count.
#[inline]
fn end_of(bytes: [u8; 8], count: usize) -> u64 {
    let kept = u64::from_le_bytes(bytes) >> 8 >> (8 * (7 - count % 8));
    u64::from_ne_bytes(kept.to_le_bytes())
}

/// Fewer than eight bytes, and zeros behind them.
#[cold]
fn short(bytes: &[u8]) -> u64 {
    let mut padded = [0; 8];
    for (place, byte) in padded.iter_mut().zip(bytes) {
        *place = *byte;
    }
    u64::from_ne_bytes(padded)
}

/// All sums are worth what they are worth modulo this.
const FOLDED: u64 = 0xffff;
/// Modulo 2^64.
const FOLDED_INVERSE: u64 = 0xfffe_fffe_fffe_ffff;
const _: () = assert!(FOLDED.wrapping_mul(FOLDED_INVERSE) == 1);

/// Independent accumulators of 32-bit words: the compiler makes them vector additions.
#[inline]
fn wide(blocks: &[[u8; 32]]) -> u64 {
    let mut lanes = [0u64; 8];
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<4>().0) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    lanes.iter().sum()
}

/// In 32 bits. Added to itself turned by half its bits, the upper half is the sum of both halves with the carry brought round.
#[inline]
const fn narrow(sum: u64) -> u32 {
    (sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32
}

#[inline]
const fn fold(sum: u64) -> u16 {
    let sum = narrow(sum);
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

/// The difference a rewrite makes to every checksum that covers the rewritten words: built once, applied to the IP
/// header's and the transport's; a sum in the machine's byte order. HC' = ~(~HC + ~m + m') (RFC 1624, equation 3).
#[derive(Debug, Default, Clone, Copy)]
pub struct Change(Sum);

impl Change {
    /// No difference.
    pub const NONE: Self = Self(Sum::ZERO);

    /// A word of 16 bits became another.
    #[inline]
    #[must_use]
    pub const fn word(self, old: u16, new: u16) -> Self {
        Self(self.0.plus((!old.to_be()) as u64 + new.to_be() as u64))
    }

    /// An IPv4 address became another.
    #[inline]
    #[must_use]
    pub const fn v4(self, old: [u8; 4], new: [u8; 4]) -> Self {
        let words = (!u32::from_ne_bytes(old)) as u64 + u32::from_ne_bytes(new) as u64;
        Self(self.0.plus(words))
    }

    /// Two IPv4 addresses in a row became two others. Kept in 32 bits, so that what is added now can't carry, which the
    /// compiler sees.
    #[inline]
    #[must_use]
    pub const fn v4_pair(self, old: [u8; 8], new: [u8; 8]) -> Self {
        let sum = self
            .0
            .plus(!u64::from_ne_bytes(old))
            .plus(u64::from_ne_bytes(new));
        Self(Sum(narrow(sum.0) as u64))
    }

    /// A TTL, the upper byte of its word, became one less.
    #[inline]
    #[must_use]
    pub const fn ttl(self) -> Self {
        Self(self.0.plus((!0x0100_u16.to_be()) as u64))
    }

    /// An IPv6 address became another.
    #[inline]
    #[must_use]
    pub fn v6(self, old: &[u8; 16], new: &[u8; 16]) -> Self {
        let (old, new) = (old.as_chunks::<4>().0, new.as_chunks::<4>().0);
        old.iter()
            .zip(new)
            .fold(self, |change, (old, new)| change.v4(*old, *new))
    }

    /// The checksum after the change of a packet that had `checksum` before.
    #[inline]
    #[must_use]
    pub const fn apply(self, checksum: u16) -> u16 {
        !u16::from_be(fold(self.0.plus((!checksum.to_be()) as u64).0))
    }

    /// As [`Self::apply`] for UDP: 0 stays 0, for the sender computed none, and a computed 0 becomes 0xffff (RFC 768).
    #[inline(always)]
    #[must_use]
    pub const fn apply_udp(self, checksum: u16) -> u16 {
        if checksum == 0 {
            return 0;
        }
        match self.apply(checksum) {
            0 => 0xffff,
            sum => sum,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 section 4.1, word for word.
    fn slow(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !u16::try_from(sum).unwrap()
    }

    #[test]
    fn example_of_rfc_1071_section_3() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::ZERO.bytes(&bytes).finish(), !0xddf2);
    }

    #[test]
    fn example_of_rfc_1624_section_4() {
        // Checksum 0xdd2f, word 0x5555 becomes 0x3285: the answer is 0x0000, where equation 4 would say 0xffff.
        assert_eq!(Change::NONE.word(0x5555, 0x3285).apply(0xdd2f), 0x0000);
        assert_eq!(
            Change::NONE.word(0x5555, 0x3285).apply_udp(0xdd2f),
            0xffff,
            "RFC 768: 0 means none"
        );
    }

    #[test]
    fn a_udp_checksum_of_zero_stays_zero() {
        assert_eq!(Change::NONE.word(1, 2).apply_udp(0), 0);
    }

    #[test]
    fn the_largest_packet_of_ones_does_not_overflow() {
        assert_eq!(Sum::ZERO.bytes(&[0xff; 65_535]).finish(), slow(&[0xff; 65_535]));
    }

    proptest! {
        #[test]
        fn sums_equal_the_slow_sum(bytes in prop::collection::vec(any::<u8>(), 0..2000), split in 0usize..1000) {
            prop_assert_eq!(Sum::ZERO.bytes(&bytes).finish(), slow(&bytes));
            let split = (split * 2).min(bytes.len() & !1);
            let (a, b) = bytes.split_at(split);
            prop_assert_eq!(Sum::ZERO.bytes(a).bytes(b).finish(), slow(&bytes));
        }

        #[test]
        fn an_update_equals_a_new_sum(mut bytes in prop::collection::vec(any::<u8>(), 40..60), new: [u8; 16]) {
            bytes[0] = 0x45; // As in any real header, some word is not zero.
            let before = slow(&bytes);
            let old: [u8; 16] = bytes[8..24].try_into().unwrap();
            bytes[8..24].copy_from_slice(&new);
            prop_assert_eq!(Change::NONE.v6(&old, &new).apply(before), slow(&bytes));
        }

        #[test]
        fn a_lower_ttl_is_another_word(ttl in 1..=u8::MAX, proto: u8, old: [u8; 4], new: [u8; 4], checksum: u16) {
            let word = |ttl| u16::from_be_bytes([ttl, proto]);
            let change = Change::NONE.v4(old, new);
            prop_assert_eq!(change.ttl().apply(checksum), change.word(word(ttl), word(ttl - 1)).apply(checksum));
        }

        #[test]
        fn two_addresses_at_once_are_two_addresses(old: [u8; 8], new: [u8; 8], word: [u16; 2], checksum: u16) {
            let halves = |pair: [u8; 8]| [[pair[0], pair[1], pair[2], pair[3]], [pair[4], pair[5], pair[6], pair[7]]];
            let ([a, b], [c, d]) = (halves(old), halves(new));
            let two = Change::NONE.v4(a, c).v4(b, d).word(word[0], word[1]);
            let one = Change::NONE.v4_pair(old, new).word(word[0], word[1]);
            prop_assert_eq!(one.apply(checksum), two.apply(checksum));
        }
    }
}
