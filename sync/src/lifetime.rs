//! A remaining lifetime in one byte, rounded up.
//!
//! Exact up to 32 s; above, never shorter than the real one and at most 1/16 longer. A copy that lives a little too long costs
//! nothing: only the owner ages entries.

/// Lifetimes in seconds that can be told, by byte: each is a sixteenth longer than the one before.
const TOLD_S: [u32; 256] = {
    let mut told = [0; 256];
    let mut byte = 1;
    while byte < told.len() {
        let before = told[byte - 1];
        told[byte] = before + if before < 16 { 1 } else { before / 16 };
        byte += 1;
    }
    told
};

/// By the bits of a lifetime: the byte of the least lifetime of so many.
const OF_BITS: [u8; 33] = {
    let mut bytes = [0; 33];
    let mut bits = 1;
    while bits < bytes.len() {
        let mut byte = bytes[bits - 1];
        while byte < 255 && TOLD_S[byte as usize] < 1 << (bits - 1) {
            byte += 1;
        }
        bytes[bits] = byte;
        bits += 1;
    }
    bytes
};

/// The byte of a lifetime in seconds.
pub(crate) const fn to_byte(lifetime_s: u32) -> u8 {
    // A doubling is a dozen bytes: where it lies between two powers of two is nearly enough.
    let mut byte = OF_BITS[(u32::BITS - lifetime_s.leading_zeros()) as usize];
    while byte < 255 && TOLD_S[byte as usize] < lifetime_s {
        byte += 1;
    }
    byte
}

/// The lifetime in seconds of a byte.
pub(crate) const fn from_byte(byte: u8) -> u32 {
    TOLD_S[byte as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The longest timeout that can be configured.
    const LONGEST_S: u32 = 30 * 86_400;

    #[test]
    fn r27_a_lifetime_is_never_told_shorter_and_at_most_a_sixteenth_longer() {
        for lifetime_s in 0..=LONGEST_S {
            let told_s = from_byte(to_byte(lifetime_s));
            let longer_s = told_s - lifetime_s;
            assert!(
                longer_s * 16 <= lifetime_s,
                "{lifetime_s} s is told as {told_s} s"
            );
        }
        assert_eq!(to_byte(u32::MAX), 255);
    }

    #[test]
    fn r27_lifetimes_have_these_bytes() {
        for (lifetime_s, byte) in [
            (0, 0),
            (16, 16),
            (32, 32),
            (33, 33),
            (34, 33),
            (240, 69),
            (7_440, 126),
        ] {
            assert_eq!(to_byte(lifetime_s), byte, "{lifetime_s} s");
        }
    }

    #[test]
    fn every_byte_is_the_byte_of_its_lifetime() {
        for byte in 0..=u8::MAX {
            assert_eq!(to_byte(from_byte(byte)), byte);
        }
    }
}
